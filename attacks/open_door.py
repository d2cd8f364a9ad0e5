# attack: open_door
# threat: network
# tries: wait for a connection from outside, as a back door or a server of its own
# wall: wasi_network
# native: network_namespace
# control: a connection from outside is answered
# oracle: the host, which knocks every few milliseconds, is not answered
import socket
import sys
import time

print("begun", flush=True)
door = socket.socket()
for address in ("127.0.0.2", "0.0.0.0"):
    try:
        door.bind((address, int(sys.argv[2])))
        break
    except OSError as error:
        print(error)
door.listen()
door.settimeout(1)
try:
    visitor = door.accept()[0]
    visitor.sendall(b"door")
    visitor.close()
    time.sleep(0.1)
except OSError as error:
    print(error)
