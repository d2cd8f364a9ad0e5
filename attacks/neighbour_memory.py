# attack: neighbour_memory
# threat: escape
# tries: pass a secret to a sandbox beside it through memory, queues and files that both might share
# wall: wasm
# native: ipc_namespace
# control: the second program finds what the first one left in a shared segment
# oracle: the secret, told to the first of two sandboxes that run at once, is not in what the second gives back
import os
import sys
import time

print("begun", flush=True)
secret = sys.argv[4].encode() if len(sys.argv) > 4 else b""
number = int(sys.argv[2])
alone = "CASEMATE_ARENA" in os.environ
folders = [] if alone else ["/dev/shm", "/tmp", "/work", "/var/tmp", "/run", "/run/lock"]
until = time.monotonic() + 2.5


def files(step):
    for folder in folders:
        try:
            step(f"{folder}/neighbour-{number}")
        except OSError:
            continue


def write(path):
    with open(path, "wb") as file:
        file.write(secret)


def show(path):
    with open(path, "rb") as file:
        print(file.read())


files(write if secret else show)
import ctypes  # noqa: E402 - files first: this ends the program where there is no native code

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
segment = -1
while time.monotonic() < until:
    files(write if secret else show)
    # By a number that both know; whoever made it takes it away again.
    segment = libc.shmget(0x43000000 + number, 4096, 0o666 | (0o1000 if secret else 0))
    if segment >= 0:
        memory = libc.shmat(segment, None, 0)
        if memory not in (None, 2**64 - 1):
            if secret:
                ctypes.memmove(memory, secret, len(secret))
            else:
                print(ctypes.string_at(memory, 64))
                break
    time.sleep(0.05)
if secret and segment >= 0:
    libc.shmctl(segment, 0, None)
