# attack: mount_over
# threat: escape
# tries: become root of a user namespace and mount over what it likes
# wall: wasm
# native: separate_kernel | seccomp
# control: a file system is mounted, in a mount namespace of the control's own
# oracle: no process of the sandbox has a mount that the attack made
import ctypes
import os
import tempfile
import time

print("begun", flush=True)
libc = ctypes.CDLL(None, use_errno=True)
here = os.path.join(tempfile.gettempdir(), "over")
os.mkdir(here)
# Root among its own, with mounts of its own.
if libc.unshare(0x10000000 | 0x20000) and "CASEMATE_ARENA" in os.environ:
    print("impossible: user namespaces are not allowed here")
    raise SystemExit(1)
done = libc.mount(b"stolen", here.encode(), b"tmpfs", 0, None)
print(done, os.strerror(ctypes.get_errno()))
if "CASEMATE_ARENA" not in os.environ:
    libc.umount2(b"/data", 2)
    libc.umount2(b"/proc", 2)
if done:
    raise SystemExit(1)
time.sleep(0.7)
