# attack: file_watch
# threat: files
# tries: be told of every file that is opened on the machine, by fanotify
# wall: wasm
# native: separate_kernel | seccomp
# control: a descriptor of fanotify is open
# oracle: the host's kernel shows none among the descriptors of the sandbox's processes
import ctypes
import os
import time

print("begun", flush=True)
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.syscall(300, 0, 0)
if watch < 0:
    error = ctypes.get_errno()
    if error in (1, 38):
        print("impossible: the kernel refuses fanotify to this user")
    raise OSError(error, os.strerror(error))
time.sleep(0.7)
