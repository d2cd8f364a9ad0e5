# attack: steal_descriptor
# threat: escape
# tries: take an open file out of another process, by pidfd_getfd
# wall: wasm
# native: pid_namespace
# control: the secret is read from a file that another process holds open
# oracle: the secret, open in a process of the host, is not in what comes back
import ctypes
import os
import sys

print("begun", flush=True)
libc = ctypes.CDLL(None, use_errno=True)
process = libc.syscall(434, int(sys.argv[3]), 0)
for number in range(3, 16):
    taken = libc.syscall(438, process, number, 0)
    error = ctypes.get_errno()
    if taken >= 0 and os.path.isfile(f"/proc/self/fd/{taken}"):
        print(os.pread(taken, 4096, 0))
    elif error in (1, 38):
        print("impossible: the kernel lets nobody into a stranger")
