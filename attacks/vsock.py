# attack: vsock
# threat: network
# tries: reach the hypervisor and its other guests past every network, over vsock
# wall: wasi_network
# native: separate_kernel | seccomp
# control: a vsock socket listens
# oracle: the host's kernel shows no vsock socket among the descriptors of the sandbox's processes
import socket
import time

print("begun", flush=True)
try:
    host = socket.socket(40, 1)
except OSError as error:
    if error.errno == 97:
        print("impossible: this kernel has no AF_VSOCK")
    raise
# Any address and any free port: by listening alone nothing outside this machine is reached.
host.bind((0xFFFFFFFF, 0xFFFFFFFF))
host.listen(1)
time.sleep(0.7)
