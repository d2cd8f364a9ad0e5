# attack: dns_exfiltration
# threat: network
# tries: hide a secret in the name of a DNS query, which many sandboxes let pass
# wall: wasi_network
# native: network_namespace
# control: the datagram with the name arrives on loopback
# oracle: the datagram socket of the host received nothing
import socket
import sys

print("begun", flush=True)
port = int(sys.argv[2])
name = b"\x06stolen\x07example\x00"
query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + b"\x00\x01\x00\x01"
try:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(query, ("127.0.0.1", port))
except OSError as error:
    print(error)
# A numeric name: nothing of it leaves a machine that has no sandbox.
print(socket.getaddrinfo("127.0.0.1", port))
