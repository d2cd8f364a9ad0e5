#!/usr/bin/python3 -IB
"""Stands between a client and a Docker daemon, and leaves a wall out of what a container is asked for.

`daemon.py SOCKET REAL LINE COMMAND ...` runs the command with a daemon at SOCKET that is the one at REAL, except that LINE, of
Python over `body`, has changed every request for a container.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading

own, real, line, *command = sys.argv[1:]


def head_of(stream):
    """The head of the first request, and what came after it."""
    read = b""
    while b"\r\n\r\n" not in read:
        more = stream.recv(65536)
        if not more:
            return None, read
        read += more
    head, _, rest = read.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def changed(head, rest, stream):
    """A request for a container, with its body changed."""
    length = int(re.search(r"(?im)^content-length: *(\d+)", head)[1])
    while len(rest) < length:
        rest += stream.recv(65536)
    body = json.loads(rest)
    exec(line, {"body": body, "host": body["HostConfig"]})
    rest = json.dumps(body).encode()
    return re.sub(r"(?im)^content-length: *\d+", f"Content-Length: {len(rest)}", head), rest


def pump(source, target):
    try:
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(client):
    with client, socket.socket(socket.AF_UNIX) as daemon:
        daemon.connect(real)
        head, rest = head_of(client)
        if head is None:
            return
        if re.match(r"POST \S*/containers/create", head):
            head, rest = changed(head, rest, client)
        # One request a connection, so that none is passed on unseen; a stream has it to itself anyway.
        if not re.search(r"(?im)^upgrade:", head):
            head = re.sub(r"(?im)^connection:.*\r\n", "", head) + "\r\nConnection: close"
        daemon.sendall(head.encode("latin-1") + b"\r\n\r\n" + rest)
        back = threading.Thread(target=pump, args=(daemon, client), daemon=True)
        back.start()
        pump(client, daemon)
        back.join()


def main():
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(own)
        door.listen(64)

        def accept():
            while True:
                threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        ended = subprocess.run(command, env={**os.environ, "DOCKER_HOST": f"unix://{own}"})
        os._exit(ended.returncode)


main()
