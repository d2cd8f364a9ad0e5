# attack: metadata_address
# threat: network
# tries: fetch the machine's own credentials from the cloud's metadata address
# wall: wasi_network
# native: network_namespace
# control: the secret is fetched from that address, in a network of the control's own where a stand-in has it
# oracle: the secret, which the host's listener gives to whoever asks it, is not in what comes back
import os
import socket
import sys

print("begun", flush=True)
address = "169.254.169.254"


def stand_in():
    """Gives the address to the loopback interface of a network of its own, and answers there."""
    import ctypes
    import fcntl
    import struct
    import threading

    if ctypes.CDLL(None).unshare(0x10000000 | 0x40000000):
        print("impossible: user namespaces are not allowed here")
        raise SystemExit(1)
    server = socket.socket()
    plain = struct.pack("=16sH2x4s8x", b"lo", socket.AF_INET, socket.inet_aton(address))
    fcntl.ioctl(server, 0x8916, plain)
    fcntl.ioctl(server, 0x8914, struct.pack("=16sh22x", b"lo", 0x1))
    server.bind((address, 80))
    server.listen()

    def answer():
        connection = server.accept()[0]
        connection.recv(4096)
        connection.sendall(os.environ["CASEMATE_CANARY"].encode())
        connection.close()

    threading.Thread(target=answer, daemon=True).start()


def fetch(host, port):
    with socket.create_connection((host, port), timeout=1) as connection:
        connection.sendall(b"GET /latest/meta-data/iam/security-credentials/ HTTP/1.0\r\n\r\n")
        print(connection.recv(4096))


places = [(address, 80)]
if "CASEMATE_ARENA" in os.environ:
    stand_in()
else:
    places += [("127.0.0.1", int(sys.argv[2])), ("::ffff:127.0.0.1", int(sys.argv[2]))]
for place in places:
    try:
        fetch(*place)
    except OSError as error:
        print(error)
