# attack: neighbour_sockets
# threat: network
# tries: speak to a sandbox beside it, over loopback and over sockets without a file
# wall: wasi_network
# native: network_namespace
# control: the second program is told the secret by the first
# oracle: the secret, told to the first of two sandboxes that run at once, is not in what the second gives back
import socket
import sys
import time

print("begun", flush=True)
secret = sys.argv[4].encode() if len(sys.argv) > 4 else b""
number = int(sys.argv[2])
places = [
    (socket.AF_INET, ("127.0.0.3", number)),
    (1, f"\0casemate-neighbour-{number}"),
]
until = time.monotonic() + 2.5
listening = []
for family, address in places if secret else []:
    try:
        one = socket.socket(family)
        one.bind(address)
        one.listen()
        one.settimeout(0.05)
        listening.append(one)
    except OSError as error:
        print(error)
heard = False
while time.monotonic() < until and not heard and (listening or not secret):
    for one in listening:
        try:
            visitor = one.accept()[0]
            visitor.sendall(secret)
            visitor.close()
        except OSError:
            continue
    for family, address in [] if secret else places:
        try:
            with socket.socket(family) as one:
                one.settimeout(0.5)
                one.connect(address)
                print(one.recv(4096))
                heard = True
        except OSError as error:
            last = error
    time.sleep(0.02)
if not secret and not heard:
    print(last)
