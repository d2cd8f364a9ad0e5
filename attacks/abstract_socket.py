# attack: abstract_socket
# threat: escape
# tries: speak to a service of the host at a socket that has no file, and so no file permissions
# wall: wasi_network
# native: network_namespace
# control: the service is reached
# oracle: the host's service saw no connection
import socket
import sys

print("begun", flush=True)
with socket.socket(1, 1) as service:
    service.connect("\0casemate-attack-" + sys.argv[2])
    service.sendall(b"start a task as root")
    print(service.recv(4096))
