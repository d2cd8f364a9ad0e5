# attack: trace_process
# threat: escape
# tries: attach to another process as a debugger and read its memory
# wall: wasm
# native: pid_namespace
# control: the secret is read from the stack of another process
# oracle: the secret, an argument of a process of the host, is not in what comes back
import ctypes
import os
import re
import struct
import sys

print("begun", flush=True)
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
victim = int(sys.argv[3])
if libc.ptrace(16, victim, None, None):
    error = ctypes.get_errno()
    if error == 1:
        print("impossible: the kernel lets nobody trace a stranger")
    raise OSError(error, os.strerror(error))
os.waitpid(victim, 0x40000000)
registers = ctypes.create_string_buffer(27 * 8)
libc.ptrace(12, victim, None, ctypes.addressof(registers))
at = struct.unpack_from("=Q", registers, 19 * 8)[0] & ~7
stack = bytearray()
ctypes.set_errno(0)
while len(stack) < 1 << 20:
    word = libc.ptrace(2, victim, at + len(stack), None)
    if word == -1 and ctypes.get_errno():
        break
    stack += struct.pack("=q", word)
libc.ptrace(17, victim, None, None)
print(re.findall(rb"canary-[0-9a-f]+", stack))
