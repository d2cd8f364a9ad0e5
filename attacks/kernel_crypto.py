# attack: kernel_crypto
# threat: escape
# tries: open the kernel's crypto socket, a door to parts of the kernel that nobody needs and that had holes
# wall: wasi_network
# native: separate_kernel | seccomp
# control: a socket of the family AF_ALG is open
# oracle: the host's kernel shows no such socket among the descriptors of the sandbox's processes
import socket
import time

print("begun", flush=True)
try:
    crypto = socket.socket(38, 5, 0)
except OSError as error:
    if error.errno == 97:
        print("impossible: this kernel has no AF_ALG")
    raise
crypto.bind(("hash", "sha256"))
time.sleep(0.7)
