"""The native driver in a container that a daemon holds: process 1, and the program as its child.

A daemon passes three streams on and no descriptor. So process 1 stays, puts what the child says on
its three channels into frames on the one stream, waits for the child's end and says it. It is run as a file
and not as a part of the package, whose imports it would carry beside the program for the whole run.
"""

import _ctypes

# The packages around this and the one above, which are shorter to write with, take milliseconds to load.
import _signal as signal
import fcntl
import os
import resource
import select
import sys

PACKAGES = "/opt/casemate/site-packages"
STDIN = "/run/casemate/stdin"
CHANNEL = 3
PART = 64 * 1024
# Above every number that a descriptor is put on.
_ASIDE = 20
_GO = b"\6"
_OUT, _ERR, _TOLD, _ENDED = 1, 2, 3, 4
_PR_SET_DUMPABLE = 4
_AF_UNIX, _SOCK_SEQPACKET = 1, 5


def main():
    """Be process 1, and in the child the native driver."""
    # Other processes of the same user look into neither, and what `/proc` shows of them is not theirs.
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")
    if _ctypes.call_function(prctl, (_PR_SET_DUMPABLE, 0, 0, 0, 0)) != 0:
        raise OSError("prctl PR_SET_DUMPABLE was refused")
    # A daemon adds the container's name.
    os.environ.pop("HOSTNAME", None)
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    told, told_end = _packets()
    child = os.fork()
    if child == 0:
        for fd in (out, err, told):
            os.close(fd)
        _program(out_end, err_end, told_end)
    for fd in (out_end, err_end, told_end):
        os.close(fd)
    _limit_files()
    try:
        _Pump(child, {out: _OUT, err: _ERR, told: _TOLD}).run()
    finally:
        os._exit(125)


def _limit_files():
    """Take as many descriptors as the plan gives: a runtime needs more to make a container. The host looks."""
    files = int(sys.argv[1])
    if files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _packets():
    import _socket

    ends = [os.dup(end.fileno()) for end in _socket.socketpair(_AF_UNIX, _SOCK_SEQPACKET)]
    for fd in ends:
        os.set_inheritable(fd, False)
    return ends


def _program(out, err, told):
    """Put the streams where they belong, and be the native driver."""
    given = os.open(STDIN, os.O_RDONLY | os.O_CLOEXEC)
    wanted = {0: given, 1: out, 2: err, CHANNEL: told}
    aside = {number: _aside(fd) for number, fd in wanted.items()}
    go = _aside(0)
    # Whatever else is open, below and between.
    os.closerange(0, _ASIDE)
    for number, fd in aside.items():
        os.dup2(fd, number, inheritable=number != CHANNEL)
        os.close(fd)
    _limit_files()
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
    sys.path.append(PACKAGES)
    from casemate_guest import native

    def wait():
        if os.read(go, 1) != _GO:
            # The host is gone, or found a wall missing: nothing runs.
            os._exit(125)
        os.close(go)

    native.main(wait)


def _aside(fd):
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ASIDE)


class _Pump:
    """Process 1: frames out, and the child's end."""

    def __init__(self, child, sources):
        self._child, self._sources = child, sources
        self._ended = None

    def run(self):
        """Pass everything on until the child has ended, say how, and wait to be ended."""
        # Of this process alone: it takes no signal of the program's, and the program has the usual ones.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        for fd in self._sources:
            os.set_blocking(fd, False)
            poll.register(fd, select.POLLIN)
        poll.register(wake, select.POLLIN)
        # Of the host's stream only its end: what it says is for the child.
        poll.register(0, 0)
        # One that ended before there was a handler.
        self._reap()
        while self._ended is None:
            for fd, _ in poll.poll():
                if fd == 0:
                    return
                if fd == wake:
                    _empty(wake)
                    self._reap()
                elif not self._pass_on(fd):
                    poll.unregister(fd)
        self._finish()
        # The host looks once more before it ends this process.
        end = select.poll()
        end.register(0, 0)
        end.poll()

    def _reap(self):
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
                if found[0] == self._child:
                    self._ended = found[1]
        except ChildProcessError:
            # The last one was just waited for.
            pass

    def _pass_on(self, fd):
        """Pass on what is there; whether there can be more."""
        try:
            data = os.read(fd, PART + 1)
        except BlockingIOError:
            return True
        if not data:
            return False
        kind = self._sources[fd]
        if kind == _TOLD:
            _frame(kind, data)
        else:
            for start in range(0, len(data), PART):
                _frame(kind, data[start : start + PART])
        return True

    def _finish(self):
        """Nobody of the program's is left to say more; then what is still there, then the end."""
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        poll = select.poll()
        for fd in self._sources:
            poll.register(fd, select.POLLIN)
        left = set(self._sources)
        while left:
            ready = [fd for fd, what in poll.poll(0)]
            if not ready:
                break
            for fd in ready:
                if not self._pass_on(fd):
                    poll.unregister(fd)
                    left.discard(fd)
        _frame(_ENDED, _end(self._ended))


def _empty(fd):
    try:
        while os.read(fd, 64):
            pass
    except BlockingIOError:
        pass


def _end(status):
    code = os.waitstatus_to_exitcode(status)
    word = f'"code":{code}' if code >= 0 else f'"signal":{-code}'
    return b'{"exit":{%s}}' % word.encode()


def _frame(kind, data):
    left = memoryview(bytes([kind]) + len(data).to_bytes(4, "big") + data)
    while left:
        left = left[os.write(1, left) :]


if __name__ == "__main__":
    main()
