# attack: netlink
# threat: network
# tries: ask the kernel for the machine's interfaces and routes over netlink
# wall: wasi_network
# native: separate_kernel | seccomp
# control: a netlink socket is open and answers
# oracle: the host's kernel shows no netlink socket among the descriptors of the sandbox's processes
import socket
import struct
import time

print("begun", flush=True)
kernel = socket.socket(16, 3, 0)
kernel.bind((0, 0))
# RTM_GETLINK, as a dump of all.
kernel.send(struct.pack("=IHHIIBxHiII", 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0))
print(len(kernel.recv(65536)))
time.sleep(0.7)
