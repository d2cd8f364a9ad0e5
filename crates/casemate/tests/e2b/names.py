"""Runs a command for which a domain and every name below it are this machine: names.py DOMAIN COMMAND ...

It answers for them as a name server, and the command, in mounts of its own, has it as the only one.
"""

import os
import random
import socket
import subprocess
import sys
import tempfile
import threading

_QUERY, _ANSWER = 12, b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01"
_OF_ADDRESSES = b"\x00\x01\x00\x01"


def _listen():
    for _ in range(100):
        address = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.53"
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            server.bind((address, 53))
            return server, address
        except OSError:
            server.close()
    raise SystemExit("no address for a name server is free")


def _serve(server, domain):
    while True:
        query, client = server.recvfrom(512)
        labels, at = [], _QUERY
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace").lower())
            at += 1 + query[at]
        question, kind = query[_QUERY : at + 5], query[at + 1 : at + 5]
        ours = ".".join(labels) == domain or ".".join(labels).endswith("." + domain)
        answers = 1 if ours and kind == _OF_ADDRESSES else 0
        # An answer of its own; for other names, that there are none.
        flags = b"\x85\x80" if ours else b"\x85\x83"
        counts = b"\x00\x01" + bytes([0, answers]) + b"\x00\x00\x00\x00"
        server.sendto(query[:2] + flags + counts + question + _ANSWER * answers, client)


def main():
    domain, command = sys.argv[1], sys.argv[2:]
    server, address = _listen()
    threading.Thread(target=_serve, args=(server, domain.split(":")[0]), daemon=True).start()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as resolver:
        resolver.write(f"nameserver {address}\noptions timeout:2 attempts:5\n")
        resolver.flush()
        os.chmod(resolver.name, 0o644)
        within = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        sys.exit(subprocess.call(["unshare", "--mount", "sh", "-c", within, resolver.name, *command]))


main()
