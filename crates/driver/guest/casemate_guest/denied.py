"""Stand-ins for what this interpreter cannot do, so that an attempt fails at once, in words, and is seen.

Without them a program would meet an AttributeError or an errno from deep inside a library. None of them
is a wall: there is nothing behind the names they fill.
"""

import os
import socket
import subprocess
import sys
import types

from . import observe
from .observe import address, address_of_url, native_denied, network_denied, process_denied

_EAI_FAIL = -4


class DeniedSocket(socket.socket):
    """A socket that can be made and set up, and that fails where it would touch a network."""

    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        # The base initialiser is not called: it would ask the operating system for a descriptor.
        self._io_refs, self._closed, self._timeout = 0, False, None

    def _deny(self, verb, where=None):
        host, port = (where[0], where[1]) if isinstance(where, tuple) and len(where) > 1 else (where, None)
        raise network_denied(address(host, port) if where is not None else verb)

    def connect(self, where):
        self._deny("connect", where)

    def connect_ex(self, where):
        self._deny("connect", where)

    def bind(self, where):
        self._deny("bind", where)

    def sendto(self, data, *args):
        self._deny("sendto", args[-1] if args else None)

    def listen(self, *args):
        self._deny("listen")

    def accept(self):
        self._deny("accept")

    def send(self, *args):
        self._deny("send")

    def sendall(self, *args):
        self._deny("send")

    def recv(self, *args):
        self._deny("recv")

    def recvfrom(self, *args):
        self._deny("recv")

    def settimeout(self, seconds):
        self._timeout = seconds

    def gettimeout(self):
        return self._timeout

    def setblocking(self, flag):
        self._timeout = None if flag else 0.0

    def setsockopt(self, *args):
        """Options of a socket that never connects have no effect."""

    def fileno(self):
        return -1

    def close(self):
        self._closed = True

    def detach(self):
        self._closed = True
        return -1

    def __repr__(self):
        return "<socket: no network in this sandbox>"


def _unresolved(host, port=None, *args, **kwargs):
    where = address(host, port)
    observe.event("network", where)
    raise socket.gaierror(_EAI_FAIL, f"{observe.NO_NETWORK} ({where})")


def _deny_network():
    socket.socket = socket.SocketType = DeniedSocket
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
        setattr(socket, name, _unresolved)

    def create_connection(where, *args, **kwargs):
        raise network_denied(address(*where[:2]))

    def create_server(where, *args, **kwargs):
        raise network_denied(address(*where[:2]))

    def socketpair(*args, **kwargs):
        raise network_denied("socketpair")

    socket.create_connection, socket.create_server, socket.socketpair = create_connection, create_server, socketpair
    _deny_urls()


def _deny_urls():
    """`urlopen` of a URL that would leave the machine; without `ssl`, https would be "unknown url type"."""
    import http.client
    import urllib.error
    import urllib.request

    original = urllib.request.OpenerDirector.open

    def open(self, fullurl, *args, **kwargs):
        where = address_of_url(getattr(fullurl, "full_url", fullurl))
        if where is not None:
            raise urllib.error.URLError(network_denied(where))
        return original(self, fullurl, *args, **kwargs)

    urllib.request.OpenerDirector.open = open
    if not hasattr(http.client, "HTTPSConnection"):
        http.client.HTTPSConnection = _https_connection(http.client)
        # `build_opener` names this class once the one above exists.
        urllib.request.HTTPSHandler = type("HTTPSHandler", (urllib.request.AbstractHTTPHandler,), {})


def _https_connection(client):
    class HTTPSConnection(client.HTTPConnection):
        """Fails where it would connect, like its plain sister."""

        default_port = client.HTTPS_PORT

        def __init__(self, host, port=None, **options):
            super().__init__(host, port)

    return HTTPSConnection


def _command(args):
    return args if isinstance(args, str) else " ".join(os.fsdecode(part) for part in args) if args else ""


def _deny_processes():
    def popen_init(self, args, *rest, **options):
        # `Popen.__del__` asks for these of a process that never started.
        self._child_created, self.returncode, self.pid = False, None, None
        try:
            command = _command([args] if isinstance(args, os.PathLike) else args)
        except TypeError:
            command = repr(args)
        raise process_denied(command)

    subprocess.Popen.__init__ = popen_init
    for name in _PROCESS_FUNCTIONS:
        setattr(os, name, _denier(process_denied, f"os.{name}"))
    sys.modules["pty"] = pty = types.ModuleType("pty", "Pseudo-terminals need processes, which do not exist here.")
    for name in ("spawn", "fork", "openpty"):
        setattr(pty, name, _denier(process_denied, f"pty.{name}"))
    _deny_multiprocessing()


_PROCESS_FUNCTIONS = (
    "system",
    "fork",
    "forkpty",
    "execv",
    "execve",
    "execvp",
    "execvpe",
    "execl",
    "execle",
    "execlp",
    "execlpe",
    "spawnv",
    "spawnve",
    "spawnvp",
    "spawnvpe",
    "spawnl",
    "spawnle",
    "spawnlp",
    "spawnlpe",
    "posix_spawn",
    "posix_spawnp",
    "kill",
    "killpg",
)


def _denier(error, name, method=False):
    def denied(*args, **kwargs):
        shown = ", ".join(repr(arg) for arg in args[method:4])
        raise error(f"{name}({shown})")

    denied.__name__ = denied.__qualname__ = name.partition(".")[2]
    return denied


def _deny_multiprocessing():
    import multiprocessing
    from concurrent.futures import process as futures
    from multiprocessing import context, process

    process.BaseProcess.start = _denier(process_denied, "multiprocessing.Process.start", method=True)
    for name in ("Pool", "Manager", "Queue", "SimpleQueue", "JoinableQueue", "Pipe"):
        setattr(context.BaseContext, name, _denier(process_denied, f"multiprocessing.{name}", method=True))
        # The package's own function is a method that was bound before this ran.
        setattr(multiprocessing, name, getattr(context._default_context, name))
    futures.ProcessPoolExecutor.__init__ = _denier(process_denied, "ProcessPoolExecutor", method=True)


def _deny_native():
    import ctypes

    def load(self, name=None, *args, **kwargs):
        raise native_denied(f"ctypes.{type(self).__name__}({name!r})")

    for name in ("CDLL", "PyDLL"):
        loader = getattr(ctypes, name, None)
        if isinstance(loader, type):
            loader.__init__ = load
            # Defaults of the original, which mocks with a `spec` look for.
            loader._name, loader._handle = "<uninitialized>", 0


_ABSENT = {
    "aiohttp": "network",
    "boto3": "network",
    "ftputil": "network",
    "httplib2": "network",
    "httpx": "network",
    "paramiko": "network",
    "pycurl": "network",
    "requests": "network",
    "urllib3": "network",
    "websocket": "network",
    "websockets": "network",
    "docker": "process",
    "pexpect": "process",
    "sh": "process",
    "cffi": "native_code",
    "numba": "native_code",
}
_ADVICE = {"network": observe.NO_NETWORK, "process": observe.NO_PROCESS, "native_code": observe.NO_NATIVE}


class AbsentFinder:
    """Last on the import path: says why a well-known module is not there."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        what = _ABSENT.get(name)
        if what is None:
            return None
        observe.event(what, f"import {name}")
        error = ModuleNotFoundError(f"No module named {name!r}", name=name)
        error.add_note(f"{name} is not installed here: {_ADVICE[what]}.")
        raise error


def install():
    """Put every stand-in in place. Called once, in the guest, before the snapshot."""
    _deny_network()
    _deny_processes()
    _deny_native()
    sys.meta_path.append(AbsentFinder)
