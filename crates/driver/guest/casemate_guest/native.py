"""The driver where processes, threads and native code are real: one interpreter for one run.

The job lies in a read-only file; messages go out by a descriptor that was there at the start. Nothing here
is a wall: what is refused is refused by the kernel, and this says so in words.
"""

import errno
import os
import sys
from _thread import allocate_lock

from . import channel as channels
from . import errors, observe, runner
from .late import AfterImport, Figures, load
from .plain import PlainShell

JOB = "/run/casemate/job.json"
FONTS = "/opt/casemate/matplotlib"
CHANNEL = 3
# Bytes of one packet; a message is as many as it needs.
PART = 64 * 1024
_MORE, _LAST, _READY, _GO = b"\0", b"\1", b"\2", b"\6"
_AF_UNIX = 1
_EAI_FAIL = -4

# Taken before any user code runs, so that a program that patches `os` does not cut its own reports off.
_write, _fstat, _exit = os.write, os.fstat, os._exit


class Packets:
    """Writes messages to the host as packets. A program that closes or replaces the descriptor is not followed."""

    def __init__(self, fd):
        self._fd, self._lock = fd, allocate_lock()
        os.set_inheritable(fd, False)
        self._what = self._which()

    def _which(self):
        state = _fstat(self._fd)
        return state.st_dev, state.st_ino

    def ready(self):
        """Tell that the interpreter stands and the program is next. The host takes this once."""
        _write(self._fd, _READY)

    def __call__(self, data):
        with self._lock:
            try:
                if self._which() != self._what:
                    return
                for start in range(0, len(data), PART):
                    last = start + PART >= len(data)
                    _write(self._fd, (_LAST if last else _MORE) + data[start : start + PART])
            except OSError:
                # Nobody is listening any more, or the program closed it: there is nobody to tell.
                pass

    def forked(self):
        """In a child the lock may be held by a thread that is not there."""
        self._lock = allocate_lock()


class NativeChannel(channels.Channel):
    """A channel on which children of the program show and report, and only the program itself ends."""

    in_child = False

    def error(self, name, value, traceback, line):
        """The error that ended the program, and the limit it was, where only the program can tell."""
        if self.in_child:
            return
        if value.startswith(f"[Errno {errno.EMFILE}]"):
            self._message({"kind": "felt", "limit": "open_files"})
        super().error(name, value, traceback, line)

    def end(self, exit_code):
        """The last message of a run."""
        if not self.in_child:
            super().end(exit_code)


def _on_socket(args):
    family = int(args[1])
    # -1 asks a descriptor that is there already what it is.
    if family not in (_AF_UNIX, -1):
        raise observe.network_denied(f"socket of family {family}")


def _on_resolve(args):
    import socket

    where = args[0]
    where = observe.address(*where[:2]) if isinstance(where, tuple) else observe.address(where, None)
    if len(args) > 1 and not isinstance(args[0], tuple):
        where = observe.address(args[0], args[1])
    observe.event("network", where)
    raise socket.gaierror(_EAI_FAIL, f"{observe.NO_NETWORK} ({where})")


def _on_thread(args):
    observe.event("thread", getattr(args[0], "__qualname__", "start") if args else "start")


_PLACES = ("/data/", "/work/", "/tmp/", "/dev/shm/")
_SYSTEM = ("/usr/", "/opt/casemate/", "/dev/")


def _on_open(args):
    observe._on_open(args)
    path, _, flags = args
    if not isinstance(path, (str, bytes)):
        return
    path = os.path.abspath(os.fsdecode(path))
    # What a library reads of the system is not the program's doing.
    if path.startswith(_SYSTEM) or not (path.startswith(_PLACES) or observe._asked_by_program()):
        return
    reads = flags is None or flags & os.O_ACCMODE == os.O_RDONLY
    observe.event("file_read" if reads else "file_write", path)


def _on_native(args):
    # Without a name it is the interpreter itself, which numpy asks for.
    if args[0] is not None:
        observe.event("native_code", str(args[0]))


_HANDLERS = {
    "open": _on_open,
    "ctypes.dlopen": _on_native,
    "socket.__new__": _on_socket,
    "socket.getaddrinfo": _on_resolve,
    "socket.gethostbyname": _on_resolve,
    "socket.gethostbyaddr": _on_resolve,
    "socket.getnameinfo": _on_resolve,
    "_thread.start_new_thread": _on_thread,
    "_thread.start_joinable_thread": _on_thread,
}


def end_threads():
    """Wait for the program's threads, as the interpreter does before its exit functions."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()


def prepare(figures):
    """Make the shell, with what hands figures over."""
    # A program finds modules beside itself, as it would if it were a file there.
    sys.path.insert(0, runner.WORK)
    # What was printed before a limit ended the run must have left the interpreter.
    sys.stdout.reconfigure(line_buffering=True)
    sys.stderr.reconfigure(line_buffering=True)
    made = PlainShell(lambda module: load("native_shell").make(module))
    # A program that asks for IPython finds its shell.
    sys.meta_path.insert(0, AfterImport("IPython", lambda _: made.whole()))
    runner.prepare(made, figures, end_threads)
    observe.install(_HANDLERS)
    return made


def fonts():
    """The folder in which set-up left the list of fonts, if it did."""
    return FONTS if os.path.isdir(FONTS) else None


def main(wait=None):
    """Run the one job there is, after `wait` if given, and end the process."""
    prepare(Figures(fonts()))
    run(wait)


def run(wait=None):
    """The same where everything is prepared."""
    packets = Packets(CHANNEL)
    file = os.open(JOB, os.O_RDONLY | os.O_CLOEXEC)
    job = channels.read_job(file)
    os.close(file)
    out = NativeChannel(packets, job.get("max_result_bytes") or channels.DEFAULT_RESULT_BYTES)

    def forked():
        out.in_child = True
        packets.forked()

    os.register_at_fork(after_in_child=forked)
    packets.ready()
    if wait is not None:
        wait()
    try:
        status = runner.run(job, out)
    except BaseException as error:
        # Ours or for want of memory; either way the host is told.
        out.error(*errors.describe(error, job.get("name")))
        status = 1
    out.end(status)
    _exit(status)


def wait_for_word():
    """Wait until the host, which looks at this process meanwhile, says that the program may begin."""
    if os.read(CHANNEL, 1) != _GO:
        # The host is gone, or found a wall missing: nothing runs.
        _exit(125)
