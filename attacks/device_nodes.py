# attack: device_nodes
# threat: escape
# tries: make and open the devices of the machine: its memory, its disks, its log
# wall: wasi_files
# native: separate_kernel | seccomp
# control: a node of the kernel's log is made in the arena, and opened
# oracle: the host's kernel shows no device but the harmless ones among the descriptors of the sandbox's processes
import os
import stat
import tempfile
import time

print("begun", flush=True)
here = tempfile.gettempdir()
nodes = {"kmsg": (stat.S_IFCHR, 1, 11)}
paths = []
if "CASEMATE_ARENA" not in os.environ:
    nodes |= {"mem": (stat.S_IFCHR, 1, 1), "sda": (stat.S_IFBLK, 8, 0), "vda": (stat.S_IFBLK, 254, 0)}
    paths += ["/dev/kmsg", "/dev/mem", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/sda", "/dev/vda", "/dev/loop-control"]
for name, (kind, major, minor) in nodes.items():
    try:
        os.mknod(os.path.join(here, name), kind | 0o600, os.makedev(major, minor))
        paths.append(os.path.join(here, name))
    except (OSError, AttributeError) as error:
        print(error)
        if isinstance(error, PermissionError):
            print("impossible: only root may make devices")
kept = []
for path in paths:
    try:
        kept.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        print(error)
if not kept:
    raise SystemExit(1)
time.sleep(0.7)
