# attack: machine_identity
# threat: side-channel
# tries: learn which machine this is, by the numbers that name it for ever
# wall: wasi_files
# native: root
# control: one of the machine's numbers is printed
# oracle: neither the machine's id nor its boot's, its name or an address of its interfaces is in what comes back
import glob
import os
import platform
import uuid

print("begun", flush=True)
paths = [
    "/etc/machine-id",
    "/etc/hostname",
    "/var/lib/dbus/machine-id",
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/kernel/hostname",
    "/proc/cmdline",
    "/proc/self/mountinfo",
    "/proc/net/arp",
    "/sys/class/dmi/id/product_uuid",
    "/sys/class/dmi/id/board_serial",
    "/var/lib/cloud/data/instance-id",
    *glob.glob("/sys/class/net/*/address"),
]
for path in paths:
    try:
        with open(path) as file:
            print(path, file.read())
    except OSError as error:
        print(error)
for ask in (platform.node, uuid.getnode, lambda: os.uname().nodename):
    try:
        print(ask())
    except (OSError, AttributeError) as error:
        print(error)
