"""What the program tries, seen from inside: an audit hook and a watched environment.

This is evidence of intent, told by the guest; the host has its own. The hook stays in the interpreter for
good, so it is one dictionary look-up for the events nobody asked about.
"""

import errno
import os
import posixpath
import sys
from _collections_abc import Mapping

from .errors import is_library

NO_NETWORK = "no network in this sandbox; give the program its data as an input file instead"
NO_PROCESS = "no processes in this sandbox; do it in Python itself (pathlib, shutil, zipfile, ...) instead"
NO_NATIVE = "no native libraries in this sandbox; use numpy, scipy or the standard library instead"
NO_THREAD = "can't start new thread: no background threads in this sandbox; call the function directly, or use asyncio"

_emit = None
_seen_names = set()

# Set when a file is opened for writing, so that a run that wrote nothing need not look for open files.
wrote = False


def start(emit):
    """Begin a run: `emit(what, detail)` gets its events."""
    global _emit, wrote
    _seen_names.clear()
    _emit, wrote = emit, False


def stop():
    """End a run: nothing is reported until the next `start`."""
    global _emit
    _emit = None


def event(what, detail):
    """Report one event of the run, if there is a run."""
    if _emit is not None:
        _emit(what, detail)


def network_denied(detail):
    """Report a network attempt and return the error to raise."""
    event("network", detail)
    return PermissionError(errno.EPERM, f"{NO_NETWORK} ({detail})")


def process_denied(detail):
    """Report an attempt to start or signal a process and return the error to raise."""
    event("process", detail)
    return PermissionError(errno.EPERM, f"{NO_PROCESS} ({detail})")


def native_denied(detail):
    """Report an attempt to load native code and return the error to raise."""
    event("native_code", detail)
    return PermissionError(errno.EPERM, f"{NO_NATIVE} ({detail})")


def address(host, port):
    """`host:port` for an event, whatever the program passed."""
    host = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    return host if port in (None, "") else f"{host}:{port}"


def address_of_url(url):
    """`host:port` of a URL that would leave the machine, or None for `file:` and `data:`."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
    except (TypeError, ValueError, AttributeError):
        return None
    standard = {"http": 80, "https": 443, "ftp": 21, "ftps": 990, "ws": 80, "wss": 443}.get(parts.scheme)
    return None if standard is None else address(parts.hostname or "", port or standard)


def _on_open(args):
    global wrote
    path, mode, _ = args
    if path == "":
        # WASI takes the empty path for the working folder, where every other system says this.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "")
    if mode is not None and not (mode[0] == "r" and "+" not in mode):
        wrote = True


def _on_url(args):
    where = address_of_url(args[0])
    if where is not None:
        event("network", where)


def _on_connect(args):
    event("network", address(args[1], args[2] if len(args) > 2 else None))


def _on_raw_socket(args):
    if _emit is not None:
        raise network_denied("_socket.socket")


def _on_thread(args):
    if _emit is not None:
        event("thread", getattr(args[0], "__qualname__", "start"))
        raise RuntimeError(NO_THREAD)


def _on_process(args):
    event("process", str(args[0]) if args else "")


def _on_native(args):
    event("native_code", str(args[0]))


_HANDLERS = {
    "open": _on_open,
    "urllib.Request": _on_url,
    "http.client.connect": _on_connect,
    "ftplib.connect": _on_connect,
    "imaplib.open": _on_connect,
    "poplib.connect": _on_connect,
    "smtplib.connect": _on_connect,
    "telnetlib.Telnet.open": _on_connect,
    "socket.__new__": _on_raw_socket,
    "_thread.start_new_thread": _on_thread,
    "_thread.start_joinable_thread": _on_thread,
    "subprocess.Popen": _on_process,
    "os.system": _on_process,
    "os.exec": _on_process,
    "os.fork": _on_process,
    "os.forkpty": _on_process,
    "os.posix_spawn": _on_process,
    "os.spawn": _on_process,
    "os.kill": _on_process,
    "pty.spawn": _on_process,
    "ctypes.dlopen": _on_native,
}


def _hook(name, args, _get=_HANDLERS.get):
    handler = _get(name)
    if handler is not None:
        handler(args)


# Frames of these files stand between a program and the environment; they are looked through.
_LOOKED_THROUGH = {
    __file__,
    os.getenv.__code__.co_filename,
    posixpath.expandvars.__code__.co_filename,
    Mapping.get.__code__.co_filename,
}


def _asked_by_program():
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename in _LOOKED_THROUGH:
        frame = frame.f_back
    return frame is not None and not is_library(frame.f_code.co_filename)


def _note(what, name):
    if _emit is None or (what, name) in _seen_names or (what, "*") in _seen_names or not _asked_by_program():
        return
    _seen_names.add((what, name))
    event(what, name if isinstance(name, str) else os.fsdecode(name) if isinstance(name, bytes) else repr(name))


class WatchedEnviron(os._Environ):
    """The environment, reporting each name the program itself reads or writes (`*`: it listed all of them)."""

    def __getitem__(self, key):
        _note("env_read", key)
        return super().__getitem__(key)

    def __setitem__(self, key, value):
        _note("env_write", key)
        super().__setitem__(key, value)

    def __delitem__(self, key):
        _note("env_write", key)
        super().__delitem__(key)

    def __iter__(self):
        _note("env_read", "*")
        return super().__iter__()

    def __repr__(self):
        _note("env_read", "*")
        return super().__repr__()


def install(handlers=()):
    """Start watching, with other `handlers` for some of the audit events.

    An audit hook cannot be taken away again, so this is for the guest only.
    """
    _HANDLERS.update(handlers)
    os.environ.__class__ = WatchedEnviron
    if hasattr(os, "environb"):
        os.environb.__class__ = WatchedEnviron
    sys.addaudithook(_hook)
