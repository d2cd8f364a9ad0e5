"""The native driver in a container that another program made: the channel comes as standard input.

A runtime passes the three standard streams on, and passing any other on is a matter of its version. The
program begins when the host says so: until then the host looks at the walls around this very process.
"""

import _ctypes
import os
import sys

from . import native, wire

STDIN = "/run/casemate/stdin"
_PR_SET_DUMPABLE = 4
# What the host hears where the libraries are loaded, and what it says where this was restored.
_READY, _GO_ON = b"\2", b"\7"
_WORD_MOST = 4096
_PICTURE = "/tmp/warm.png"


def main():
    """Put the streams where they belong, and be the native driver."""
    _place_channel()
    _take_stdin(STDIN)
    native.main(native.wait_for_word)


def save():
    """Load the libraries and wait to be kept as files; then go on as the native driver of another container.

    What is open now is opened again there by its name, so nothing of a run's is.
    """
    _place_channel()
    _take_stdin(os.devnull)
    from . import warm, zygote

    def use():
        warm.use(_PICTURE)
        os.unlink(_PICTURE)

    zygote.load(use)
    os.write(native.CHANNEL, _READY + wire.encode(_mapped()))
    word = os.read(native.CHANNEL, _WORD_MOST)
    if word[:1] != _GO_ON:
        # Nobody goes on from here: this one was only to be kept.
        os._exit(125)
    _limit(wire.decode(word[1:]))
    _take_stdin(STDIN)
    zygote.renew()
    native.run(native.wait_for_word)


def _place_channel():
    os.dup2(0, native.CHANNEL, inheritable=False)
    # Other processes of the same user do not look into this one, and what `/proc` shows of it is not its own.
    # The package around this, which is shorter to write, takes milliseconds to load.
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")
    if _ctypes.call_function(prctl, (_PR_SET_DUMPABLE, 0, 0, 0, 0)) != 0:
        raise OSError("prctl PR_SET_DUMPABLE was refused")


def _take_stdin(path):
    given = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(given, 0)
    os.close(given)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)


def _mapped():
    """The files that are mapped into memory: the interpreter's, and those of its libraries."""
    import ctypes

    class _Object(ctypes.Structure):
        """The beginning of the C library's `struct dl_phdr_info`."""

        _fields_ = (("address", ctypes.c_size_t), ("name", ctypes.c_char_p))

    names = [os.path.realpath(sys.executable)]

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Object), ctypes.c_size_t, ctypes.c_void_p)
    def see(loaded, _size, _data):
        names.append(os.fsdecode(loaded.contents.name or b""))
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(see, None)
    # The kernel's own object has a name and no file, and the interpreter's name is empty there.
    return [name for name in names if name.startswith("/")]


def _limit(limits):
    """Set limits for this process and its children that none of them can raise again."""
    import resource

    for name, most in limits.items():
        which, both = getattr(resource, f"RLIMIT_{name}"), (most, most)
        resource.setrlimit(which, both)
        if resource.getrlimit(which) != both:
            raise OSError(f"the limit {name} was not taken")
