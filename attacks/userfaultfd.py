# attack: userfaultfd
# threat: escape
# tries: handle page faults itself, which makes races inside the kernel easy to win
# wall: wasm
# native: separate_kernel | seccomp
# control: a descriptor for page faults is open
# oracle: the host's kernel shows none among the descriptors of the sandbox's processes
import ctypes
import os
import time

print("begun", flush=True)
libc = ctypes.CDLL(None, use_errno=True)
# Faults of the kernel's as well, then only those of the program's own.
for flags in (0, 1):
    faults = libc.syscall(323, flags)
    if faults >= 0:
        break
else:
    error = ctypes.get_errno()
    if error in (1, 38):
        print("impossible: the kernel refuses userfaultfd to this user")
    raise OSError(error, os.strerror(error))
time.sleep(0.7)
