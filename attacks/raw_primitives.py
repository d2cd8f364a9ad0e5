# attack: raw_primitives
# threat: escape
# tries: get past the stand-ins that answer for sockets and processes, to what lies below them
# wall: wasm
# native: root
# control: a process is started by the lowest function there is
# oracle: no mark of a started process and no connection
import importlib
import os
import socket
import sys

print("begun", flush=True)
arena, port = sys.argv[1], int(sys.argv[2])
mark = os.path.join(arena, "started")


def attempt(step):
    try:
        print(step())
    except (OSError, AttributeError, ImportError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        print(type(error).__name__, error)


def connect_below():
    raw = importlib.import_module("_socket")
    one = raw.socket(raw.AF_INET, raw.SOCK_STREAM)
    one.connect(("127.0.0.1", port))


def connect_base():
    # The class below the stand-in, if there is one.
    for base in socket.socket.__mro__:
        one = base.__new__(base)
        base.__init__(one, 2, 1, 0)
        base.connect(one, ("127.0.0.1", port))


def spawn_below():
    posix = importlib.import_module("posix")
    return posix.posix_spawn("/bin/sh", ["sh", "-c", f": > '{mark}'"], dict(os.environ))


def fork_exec_below():
    return importlib.import_module("_posixsubprocess").fork_exec


def reload_below():
    # A module taken from the interpreter again has none of the stand-ins.
    for name in ("subprocess", "socket", "os"):
        sys.modules.pop(name, None)
    fresh = importlib.import_module("subprocess")
    return fresh.call(["/bin/sh", "-c", f": > '{mark}'"])


def dlopen_below():
    below = importlib.import_module("_ctypes")
    return below.dlopen(None, 0) and "loaded"


def host_call():
    for fd in range(64):
        attempt(lambda: socket.socket(fileno=fd).send(b"x"))


for step in (connect_below, connect_base, spawn_below, fork_exec_below, dlopen_below, host_call, reload_below):
    attempt(step)
try:
    # Wait for what was spawned, so that its mark is there when this ends.
    os.waitpid(-1, 0)
except (OSError, AttributeError) as error:
    print(error)
