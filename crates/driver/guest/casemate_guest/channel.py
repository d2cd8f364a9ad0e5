"""The one descriptor between guest and host, and the bounded messages that cross it.

A message is one `write`: a JSON header line, then the blobs the header announces, in order.
The host checks every bound again; the bounds here keep an honest program from tripping over them.
"""

import os

from .wire import decode
from .wire import encode as to_json

# Taken before any user code runs, so that a program that patches `os` does not cut its own reports off.
_open, _read, _write, _close = os.open, os.read, os.write, os.close
_RDWR = os.O_RDWR

DEVICE = "/dev/casemate"
MAX_EVENTS = 200
MAX_DISPLAYS = 200
MAX_DETAIL = 300
MAX_TEXT = 256 * 1024
MAX_METADATA = 4 * 1024
DEFAULT_RESULT_BYTES = 8 * 1024 * 1024


def clip(text, limit):
    """`text` cut to `limit` characters, saying how many were left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... [{len(text) - limit} characters left out]"


def read_job(fd):
    """The whole job: the device gives its bytes and then an empty read."""
    parts = []
    while part := _read(fd, 1 << 20):
        parts.append(part)
    return decode(b"".join(parts))


class Channel:
    """Sends messages to the host through `write`, a function from bytes to nothing."""

    def __init__(self, write, max_result_bytes=DEFAULT_RESULT_BYTES):
        self._send = write
        self._left = max_result_bytes
        self._displays = 0
        self._events = set()

    def display(self, origin, mimes, metadata=None):
        """One result as `(mime, bytes)` pairs; what exceeds the run's budget is named in the metadata instead."""
        self._displays += 1
        if self._displays > MAX_DISPLAYS:
            return
        kept, dropped = [], []
        for mime, data in mimes:
            if len(data) <= self._left:
                self._left -= len(data)
                kept.append((mime, data))
            else:
                dropped.append([mime, len(data)])
        metadata = _bounded_metadata(metadata)
        if dropped:
            metadata["dropped"] = dropped
        header = {
            "kind": "display",
            "origin": origin,
            "mimes": [[mime, len(data)] for mime, data in kept],
            "metadata": metadata,
        }
        self._send(b"".join([to_json(header), b"\n", *(data for _, data in kept)]))

    def error(self, name, value, traceback, line):
        """The error that ended the program."""
        self._message({"kind": "error", "name": name, "value": value, "traceback": traceback, "line": line})

    def event(self, what, detail):
        """Something the program tried, once per `(what, detail)` and at most `MAX_EVENTS` times."""
        key = (what, clip(detail, MAX_DETAIL))
        if key in self._events or len(self._events) >= MAX_EVENTS:
            return
        self._events.add(key)
        self._message({"kind": "event", "what": what, "detail": key[1]})

    def end(self, exit_code):
        """The last message of a run."""
        self._message({"kind": "end", "exit_code": exit_code})

    def _message(self, header):
        self._send(to_json(header) + b"\n")


def device_writer(fd):
    """A writer to `fd` that opens the device again if the program closed every descriptor it could find."""

    def write(data):
        nonlocal fd
        try:
            _write(fd, data)
        except OSError:
            fd = _open(DEVICE, _RDWR)
            _write(fd, data)

    return write


def open_device():
    """A descriptor on the host's device."""
    return _open(DEVICE, _RDWR)


def _bounded_metadata(metadata):
    if not metadata:
        return {}
    try:
        if len(to_json(metadata)) <= MAX_METADATA:
            return dict(metadata)
    except (TypeError, ValueError, RecursionError):
        # Not JSON: metadata is a hint to a front end, so it is left out and the result kept.
        pass
    return {}
