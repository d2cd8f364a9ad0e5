# attack: io_uring
# threat: escape
# tries: make system calls through a ring in memory, where no filter sees them
# wall: wasm
# native: separate_kernel | seccomp
# control: a ring is open
# oracle: the host's kernel shows no ring among the descriptors of the sandbox's processes
import ctypes
import os
import time

print("begun", flush=True)
libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(425, 4, ctypes.create_string_buffer(120))
if ring < 0:
    error = ctypes.get_errno()
    if error in (1, 38):
        print("impossible: the kernel refuses io_uring to everybody")
    raise OSError(error, os.strerror(error))
time.sleep(0.7)
