# attack: kernel_settings
# threat: escape
# tries: change settings of the kernel through /proc/sys, and have another /proc if there is none
# wall: wasi_files
# native: proc | root
# control: the setting is changed, in a network of the control's own
# oracle: no process of the sandbox, and not the host, is in a network with the changed setting
import os
import tempfile
import time

print("begun", flush=True)
places = ["/proc"]
try:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # A user and a network of its own; in a sandbox also mounts and processes, for another /proc.
    if "CASEMATE_ARENA" in os.environ:
        if libc.unshare(0x10000000 | 0x40000000):
            print("impossible: user namespaces are not allowed here")
    else:
        libc.unshare(0x10000000 | 0x40000000 | 0x20000)
        another = os.path.join(tempfile.gettempdir(), "proc")
        os.mkdir(another)
        print(libc.mount(b"proc", another.encode(), b"proc", 0, None))
        places.append(another)
except (OSError, AttributeError) as error:
    print(error)
failure = None
for place in places:
    try:
        with open(os.path.join(place, "sys/net/ipv4/ip_default_ttl"), "w") as setting:
            setting.write("77")
    except OSError as error:
        print(error)
        failure = error
if failure:
    raise failure
time.sleep(0.7)
