# attack: perf_events
# threat: side-channel
# tries: count what the processor and the kernel do, for other programs as well
# wall: wasm
# native: separate_kernel | seccomp
# control: a counter is open
# oracle: the host's kernel shows none among the descriptors of the sandbox's processes
import ctypes
import os
import struct
import time

print("begun", flush=True)
libc = ctypes.CDLL(None, use_errno=True)
# The software counter of processor time, first of everybody's on one processor, then its own.
attributes = ctypes.create_string_buffer(struct.pack("=2IQ", 1, 128, 0), 128)
for pid, processor in ((-1, 0), (0, -1)):
    counter = libc.syscall(298, attributes, pid, processor, -1, 0)
    if counter >= 0:
        break
else:
    error = ctypes.get_errno()
    if error in (1, 13, 38):
        print("impossible: the kernel refuses its counters to this user")
    raise OSError(error, os.strerror(error))
time.sleep(0.7)
