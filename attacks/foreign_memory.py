# attack: foreign_memory
# threat: escape
# tries: read another process's memory, by its file and by process_vm_readv
# wall: wasm
# native: pid_namespace
# control: the secret is read from the stack of another process
# oracle: the secret, an argument of a process of the host, is not in what comes back
import ctypes
import re
import sys

print("begun", flush=True)
victim = int(sys.argv[3])


class Piece(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def stacks():
    # Where a stack stands by default is the next best thing to knowing it.
    try:
        with open(f"/proc/{victim}/maps") as maps:
            for line in maps:
                if "[stack]" in line:
                    yield tuple(int(part, 16) for part in line.split()[0].split("-"))
    except OSError as error:
        print(error)
        yield 0x7FFF00000000, 0x7FFF00021000


for start, end in stacks():
    found = ctypes.create_string_buffer(end - start)
    try:
        with open(f"/proc/{victim}/mem", "rb", buffering=0) as memory:
            memory.seek(start)
            print(re.findall(rb"canary-[0-9a-f]+", memory.read(end - start)))
    except OSError as error:
        print(error)
    libc = ctypes.CDLL(None, use_errno=True)
    here = Piece(ctypes.addressof(found), end - start)
    there = Piece(start, end - start)
    print(libc.syscall(310, victim, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
    print(re.findall(rb"canary-[0-9a-f]+", found.raw))
