# attack: kernel_program
# threat: escape
# tries: load a program or a table of its own into the kernel, by bpf
# wall: wasm
# native: separate_kernel | seccomp
# control: a table of the kernel's is open
# oracle: the host's kernel shows neither among the descriptors of the sandbox's processes
import ctypes
import os
import struct
import time

print("begun", flush=True)
libc = ctypes.CDLL(None, use_errno=True)
# Whatever is called may be the last thing a process does: each try is a child's.
if os.fork():
    status = os.wait()[1]
    raise SystemExit(os.waitstatus_to_exitcode(status) and 1)
# BPF_MAP_CREATE: an array of one entry.
attributes = ctypes.create_string_buffer(struct.pack("=5I", 2, 4, 4, 1, 0), 128)
table = libc.syscall(321, 0, attributes, 128)
if table < 0:
    error = ctypes.get_errno()
    if error in (1, 38):
        print("impossible: the kernel refuses bpf to this user", flush=True)
    os._exit(1)
time.sleep(0.7)
os._exit(0)
