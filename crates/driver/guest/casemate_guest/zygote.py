"""An interpreter that is forked into jails: what programs need is loaded, and nothing runs in it but what is ours.

The host asks for a child by a message with descriptors. The child makes the system calls that the host wrote
down, which put it under the walls of a jail, and is then the native driver with its one job. This process
only waits for its children and tells the host how they ended. Nothing of a program's ever comes back here.
"""

import array
import contextlib
import ctypes
import importlib
import json
import os
import select
import socket
import sys

from . import late, native, runner, warm

CONTROL = 3
_REQUEST_MAX = 64 * 1024
_MOST_DESCRIPTORS = 32
# What the host hears: on the control channel once, then on the line that came with each request.
_READY, _FAILED, _BORN, _ENDED = b"\2", b"\x0d", b"\x14", b"\x0c"
# The line and process 1 of the jail among the descriptors of a request; the first calls count from behind the line.
_LINE, _PASSED = 0, 1
_INIT = _PASSED + 0
# The child's channel among the descriptors of its second list.
_MESSAGES = 0
_HUGE, _MADV_COLLAPSE = 2 << 20, 25
_PAGE, _MADV_POPULATE_WRITE = os.sysconf("SC_PAGE_SIZE"), 23
# Of the kernel's word for a page: it is there, it is no file's, and it is in no other process's memory.
_PRESENT, _FILE, _EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56
# What a run that needs the libraries is likely to do at least.
_LIKELY = """
import io
import pandas as pd
table = pd.read_csv(io.StringIO("day,city,n,x\\n" + "2024-01-01,a,1,1.5\\n2024-01-02,b,2,\\n" * 500))
print(table.describe())
"""
# Where this lies in the root that was made for it, and how large the folder is that it may write to.
_PACKAGES, _SCRATCH_MOST = "/opt/casemate/site-packages/", 64 << 20
_NEW_PROCESS_TABLE = 0x20000000
# Behind every descriptor there can be.
_ALL = 2**31 - 1


class _Program(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


@contextlib.contextmanager
def _scratch():
    """The folder to write to, by descriptor, once it is known to be the one of the zygote's own root."""
    scratch = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        state = os.fstatvfs(scratch)
        if not __file__.startswith(_PACKAGES) or state.f_blocks * state.f_frsize > _SCRATCH_MOST or os.listdir(scratch):
            raise RuntimeError("this is not a zygote's own root")
        yield scratch
    finally:
        os.close(scratch)


def _load_small(modules):
    """Load these modules of Python's own, use the driver, and keep nothing of the use."""
    for name in modules:
        importlib.import_module(name)
    figures = late.Figures(native.fonts())
    _use(native.prepare(figures), figures, warm.use_small)


def load(use):
    """Load the libraries, have them used, and keep nothing of the use."""
    import matplotlib

    late.keep_cache(matplotlib, native.fonts())

    import pandas  # noqa: F401

    from . import figures

    figures.install()
    shell = native.prepare(figures)
    shell.whole()
    _use(shell, figures, use)


def _use(shell, figures, use):
    """Run a warm-up program and keep nothing of it."""
    # The end of a warm-up program is not the end of the interpreter's threads.
    runner.prepare(shell, figures)
    use()
    runner.prepare(shell, figures, native.end_threads)
    # Used once, or every child would set up OpenSSL's generator for itself, which takes milliseconds.
    _stir()
    warm.forget()


def _use_in_scratch():
    with _scratch() as scratch:
        warm.use(f"/proc/self/fd/{scratch}/warm.png")
        os.unlink("warm.png", dir_fd=scratch)


def _stir():
    """Add to the random state of OpenSSL, if it is loaded."""
    if "ssl" in sys.modules:
        sys.modules["ssl"].RAND_add(os.urandom(32), 32.0)


def _use_huge_pages(libc):
    """Put memory that is there together into huge pages: a fork copies, and an end frees, an entry for each page.

    What the kernel cannot put together stays as it is.
    """
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end, plain in _writable():
        if not plain:
            continue
        for page in range(-(-start // _HUGE) * _HUGE, end - _HUGE + 1, _HUGE):
            libc.madvise(page, _HUGE, _MADV_COLLAPSE)


def _writable():
    """The private memory that can be written to: where it begins and ends, and whether it is no file's nor a stack."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            addresses, access, _, _, inode, *name = line.split()
            if access[1] == "w" and access[3] == "p":
                start, end = (int(address, 16) for address in addresses.split("-"))
                found.append((start, end, inode == "0" and name in ([], ["[heap]"])))
    return found


def _pages_of(program):
    """The pages that a run writes to, as addresses and lengths: a child runs a program and looks at its own memory.

    Who waits for a job writes to them first, for each is a copy that the run need not wait for.
    """
    areas = _writable()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            warm.rehearse(program)
            found = _written(areas)
            with open(writer, "wb") as out:
                out.write(found.tobytes())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as given:
        pages = array.array("Q", given.read())
    os.waitpid(pid, 0)
    return pages


def _written(areas):
    found = array.array("Q")
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for start, end, _ in areas:
            pagemap.seek(start // _PAGE * 8)
            words = array.array("Q", pagemap.read((end - start) // _PAGE * 8))
            for index, word in enumerate(words):
                if word & (_PRESENT | _FILE | _EXCLUSIVE) != _PRESENT | _EXCLUSIVE:
                    continue
                address = start + index * _PAGE
                if found and found[-2] + found[-1] == address:
                    found[-1] += _PAGE
                else:
                    found.extend((address, _PAGE))
    return found


def _write_ahead(libc, pages, line):
    """Have these pages copied, until there is a job. A kernel that does not know how leaves it to the run."""
    job = select.poll()
    job.register(line, select.POLLIN)
    for index in range(0, len(pages), 2):
        if index % 64 == 0 and job.poll(0):
            return
        if libc.madvise(pages[index], pages[index + 1], _MADV_POPULATE_WRITE):
            return


def main(modules):
    """Load these modules, or the libraries where there are none; then serve the host until it is gone."""
    host = socket.socket(fileno=CONTROL)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        _load_small(modules) if modules else load(_use_in_scratch)
        _use_huge_pages(libc)
        # Without the libraries there are so few that it takes longer to have them copied ahead.
        pages = array.array("Q") if modules else _pages_of(_LIKELY)
        _check_alone({0, 1, 2, CONTROL, own})
    except BaseException as error:
        host.send(_FAILED + f"{type(error).__name__}: {error}".encode()[:4096])
        os._exit(1)
    host.send(_READY)
    _serve(host, libc, own, pages)


def _check_alone(descriptors):
    """One thread, and no descriptor but these: what a child would inherit of others would be a hole."""
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        raise RuntimeError(f"{len(threads)} threads run")
    # The folder itself is open while it is read.
    opened = {int(name) for name in os.listdir("/proc/self/fd")}
    extra = sorted(fd for fd in opened - descriptors if _is_open(fd))
    if extra:
        raise RuntimeError(f"the descriptors {extra} were left open")


def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _serve(host, libc, own, pages):
    poll = select.poll()
    poll.register(CONTROL, select.POLLIN)
    children = {}
    while True:
        for fd, _ in poll.poll():
            if fd == CONTROL:
                message, fds, _, _ = socket.recv_fds(host, _REQUEST_MAX, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
                if not message:
                    # The host is gone, and with this process every child.
                    os._exit(0)
                child = _fork(host, libc, own, pages, message, fds)
                if child is not None:
                    children[child[0]] = child
                    poll.register(child[0], select.POLLIN)
            else:
                poll.unregister(fd)
                _end(*children.pop(fd))


def _fork(host, libc, own, pages, message, fds):
    """A child for a request: its descriptor, its number and the line on which its end will be told."""
    line = fds[_LINE]
    try:
        if len(os.listdir("/proc/self/task")) != 1:
            raise RuntimeError("the zygote has more than one thread")
        pid = _fork_into(libc, own, fds[_INIT])
        if pid == 0:
            _child(host, libc, pages, message, fds)
        os.write(line, _BORN + str(pid).encode())
        return os.pidfd_open(pid), pid, line
    except Exception as error:
        _tell(line, error)
        os.close(line)
        return None
    finally:
        for fd in fds[_PASSED:]:
            os.close(fd)


def _fork_into(libc, own, init):
    """Fork into the process table of a jail, whose process 1 is `init`."""
    pid = -1
    try:
        if libc.setns(init, _NEW_PROCESS_TABLE):
            raise OSError(ctypes.get_errno(), "setns")
        pid = os.fork()
    finally:
        # Back, so that nothing of that jail is held here.
        if pid != 0 and libc.setns(own, _NEW_PROCESS_TABLE):
            os._exit(1)
    return pid


def _end(pidfd, pid, line):
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    how = {"code": code} if code >= 0 else {"signal": -code}
    try:
        os.write(line, _ENDED + json.dumps({"exit": how}).encode())
    except OSError:
        # Nobody waits for it any more.
        pass
    os.close(line)
    os.close(pidfd)


def _tell(fd, error):
    """Say what failed, if anybody listens there; the end of this process is told either way."""
    try:
        return os.write(fd, _FAILED + f"{type(error).__name__}: {error}".encode()[:4096])
    except OSError:
        return 0


def _child(host, libc, pages, message, fds):
    """In the child: wait in the jail for its job, come under the walls, then be the driver. Never returns."""
    line = fds[_LINE]
    try:
        # Its number is about to be the guest's channel.
        host.detach()
        _close_but(fds)
        if _make_all(libc, message, fds[_PASSED:])["ahead"]:
            _write_ahead(libc, pages, line)
        channel = socket.socket(fileno=line)
        message, fds, _, _ = socket.recv_fds(channel, _REQUEST_MAX, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not message:
            # No job comes, or another child will have it.
            os._exit(0)
        # The calls close it.
        channel.detach()
    except BaseException as error:
        _tell(line, error)
        os._exit(125)
    try:
        _make_all(libc, message, fds)
        renew()
    except BaseException as error:
        # Until the calls have placed it the channel has the number that it came with.
        _tell(fds[_MESSAGES], error) or _tell(native.CHANNEL, error)
        os._exit(125)
    native.run(native.wait_for_word)


def _close_but(fds):
    """Close what is the zygote's and its other children's. That one number stays taken, so that none comes under it."""
    os.dup2(0, CONTROL)
    first = CONTROL + 1
    for fd in sorted(fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, _ALL)


def _make_all(libc, message, fds):
    asked = json.loads(message)
    for call in asked["calls"]:
        _make(libc, call, fds)
    return asked


def _make(libc, call, fds):
    """One system call as data. Another answer than the one it must have ends everything."""
    kept = []
    arguments = [_argument(value, fds, kept) for value in call["arguments"]]
    answer = libc.syscall(ctypes.c_long(call["number"]), *arguments)
    error = ctypes.get_errno() if answer < 0 else 0
    if error != call["error"]:
        raise OSError(error, f"{call['what']}: {os.strerror(error)}")


def _argument(value, fds, kept):
    if isinstance(value, int):
        return ctypes.c_long(value)
    if "passed" in value:
        return ctypes.c_long(fds[value["passed"]])
    data = bytes.fromhex(value.get("bytes") or value.get("program") or "")
    buffer = ctypes.create_string_buffer(data, len(data))
    kept.append(buffer)
    if "program" in value:
        # An instruction is eight bytes.
        program = _Program(len(data) // 8, ctypes.addressof(buffer))
        kept.append(program)
        return ctypes.byref(program)
    return buffer


def renew():
    """Random state that a fork or a copy shares; what the driver renews for every run is renewed by it."""
    _stir()
    modules = sys.modules
    if "multiprocessing.process" in modules:
        process = modules["multiprocessing.process"]
        process.current_process().authkey = os.urandom(32)
    if "uuid" in modules:
        # The number that stands for the machine, where it has no network card.
        modules["uuid"]._node = None
