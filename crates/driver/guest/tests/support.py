"""Runs programs through the guest package in this process, as the guest does after its snapshot."""

import contextlib
import importlib.util
import io
import json
import os
import tempfile
import unittest

MISSING = [name for name in ("pandas", "matplotlib", "IPython") if importlib.util.find_spec(name) is None]
needs_libraries = unittest.skipIf(MISSING, f"not installed: {', '.join(MISSING)}")

_ready = False


def _set_up():
    global _ready
    if _ready:
        return
    _ready = True
    os.environ["MPLBACKEND"] = "agg"
    os.environ["IPYTHONDIR"] = tempfile.mkdtemp(prefix="casemate-guest-test-")
    from casemate_guest import figures, observe, runner, shell

    figures.install()
    runner.prepare(shell.create(), figures)
    # The audit hook would stay in the test process for good. Without it, assume every program writes files.
    start = observe.start

    def start_as_if_writing(emit):
        start(emit)
        observe.wrote = True

    observe.start = start_as_if_writing


class Message:
    """One decoded message: the header as attributes, the blobs by type."""

    def __init__(self, data):
        header, _, rest = data.partition(b"\n")
        self.header = json.loads(header)
        self.blobs = {}
        for mime, size in self.header.get("mimes", ()):
            self.blobs[mime], rest = rest[:size], rest[size:]
        if rest:
            raise AssertionError(f"{len(rest)} bytes the header does not announce")

    def __getattr__(self, name):
        return self.header[name]

    def json(self, mime):
        return json.loads(self.blobs[mime])


class Run:
    """What one program did."""

    def __init__(self, code, **job):
        _set_up()
        from casemate_guest import channel, runner

        sent = []
        out = channel.Channel(sent.append, job.pop("max_result_bytes", 1 << 24))
        stdout, stderr = io.StringIO(), io.StringIO()
        job = {"code": code, "name": "program.py", "argv": ["program.py"], **job}
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            self.status = runner.run(job, out)
        self.stdout, self.stderr = stdout.getvalue(), stderr.getvalue()
        self.messages = [Message(data) for data in sent]

    def of(self, kind):
        return [message for message in self.messages if message.kind == kind]

    @property
    def displays(self):
        return self.of("display")

    @property
    def error(self):
        (error,) = self.of("error")
        return error

    def chart(self):
        """The data of the only figure."""
        (figure,) = [message for message in self.displays if "image/png" in message.blobs]
        return figure.json("application/vnd.casemate.chart+json")
