# attack: keyring
# threat: escape
# tries: keep a key in the kernel, where other sandboxes can find it
# wall: wasm
# native: separate_kernel | seccomp
# control: a key that everybody may see is in the kernel
# oracle: the kernel's list of keys does not show it
import ctypes
import os
import sys
import time

print("begun", flush=True)
libc = ctypes.CDLL(None, use_errno=True)
# A session of its own first: a control touches no keyring but that one.
if libc.syscall(250, 1, None) < 0:
    error = ctypes.get_errno()
    if error == 38:
        print("impossible: this kernel has no keys")
    raise OSError(error, os.strerror(error))
key = libc.syscall(248, b"user", f"stolen-{sys.argv[2]}".encode(), b"stolen", 6, -3)
# Everybody may do everything with it.
print(key, libc.syscall(250, 5, key, 0x3F3F3F3F), os.strerror(ctypes.get_errno()))
if key < 0:
    raise SystemExit(1)
time.sleep(0.7)
