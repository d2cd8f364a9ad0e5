# attack: raw_sockets
# threat: network
# tries: read everybody's packets and write forged ones
# wall: wasi_network
# native: separate_kernel | seccomp
# control: a packet socket and a raw socket are open, in a network of the control's own
# oracle: the host's kernel shows neither among the descriptors of the sandbox's processes
import os
import socket
import time

print("begun", flush=True)
if "CASEMATE_ARENA" in os.environ:
    import ctypes

    # A user and a network of its own.
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000 | 0x40000000):
        print("impossible: user namespaces are not allowed here")
kept = []
for family, protocol, address in ((17, 0x300, ("lo", 0)), (2, 1, ("127.0.0.1", 0)), (2, 255, ("127.0.0.1", 0))):
    try:
        kept.append(socket.socket(family, 3, protocol))
        kept[-1].bind(address)
    except OSError as error:
        print(error)
time.sleep(0.7)
