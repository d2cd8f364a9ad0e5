"""The native driver as a context: one interpreter that runs what it is sent, cell after cell, and keeps its state.

The agent beside it sends requests and takes messages over one channel; what is printed goes to the standard
streams. Nothing here is a wall, and nothing is refused: what the sandbox does not allow, the kernel does not allow.
"""

import json
import os
import sys
import threading

from IPython.core.interactiveshell import InteractiveShell

from . import channel as channels
from . import cells, display, errors, native, native_shell, runner, shell
from .late import AfterImport, Figures

# How long half a line may wait to be seen, in seconds.
FLUSH_EVERY = 0.1

_read, _exit = os.read, os._exit
_MORE = b"\0"[0]


class Channel(native.NativeChannel):
    """What one cell sends. It ends the cell, not the interpreter."""


class SessionShell(native_shell.NativeShell):
    """The guest's shell, cell after cell."""

    def init_magics(self):
        """All of IPython's magics."""
        InteractiveShell.init_magics(self)

    def system(self, cmd):
        """`!command`, after what was printed before it."""
        shell.flush(sys.stdout)
        shell.flush(sys.stderr)
        InteractiveShell.system_raw(self, cmd)

    system_piped = system_raw = system


class Flusher:
    """Shows what is printed without the end of its line while a cell runs."""

    def __init__(self):
        self._running = threading.Event()
        self._idle = threading.Event()

    def start(self):
        """Begin; once."""
        threading.Thread(target=self._run, name="casemate-flusher", daemon=True).start()

    def cell(self, runs):
        """A cell begins, or has ended."""
        (self._running.set if runs else self._running.clear)()

    def _run(self):
        while self._running.wait():
            self._idle.wait(FLUSH_EVERY)
            shell.flush(sys.stdout)
            shell.flush(sys.stderr)


def _request(fd):
    """The next request, or None when there will be no more."""
    parts = []
    while part := _read(fd, native.PART + 1):
        parts.append(part[1:])
        if part[0] != _MORE:
            return json.loads(b"".join(parts))
    return None


class Session:
    """The interpreter's state between cells."""

    def __init__(self, packets):
        self._packets = packets
        self._channel = None
        self._forked = False
        self._flusher = Flusher()
        self._figures = Figures(native.FONTS if os.path.isdir(native.FONTS) else None)
        self._shell = shell.create(SessionShell, _register)
        # `__main__` is made once, and every cell finds what the others left there.
        runner.prepare(self._shell, self._figures)
        runner._enter_main("", "", True)
        sys.path.insert(0, "")
        sys.argv = [""]
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
        sys.meta_path.insert(0, AfterImport("PIL.Image", cells.show_pictures))
        os.register_at_fork(after_in_child=self._in_child)
        self._flusher.start()

    def _in_child(self):
        self._forked = True
        self._packets.forked()
        if self._channel is not None:
            self._channel.in_child = True

    def run(self, request):
        """Run one cell and tell how it went."""
        out = self._channel = Channel(self._packets, request.get("max_result_bytes") or channels.DEFAULT_RESULT_BYTES)
        undo = cells.environment(request.get("env") or {})
        self._flusher.cell(True)
        try:
            cells.execute(self._shell, self._figures, request["code"], request["name"], out)
        except BaseException as error:
            # Interrupted at the last moment, or ours: either way it is told.
            out.error(*errors.describe(error, request["name"]))
        finally:
            self._flusher.cell(False)
            undo()
            for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
                shell.flush(stream)
        if self._forked:
            # A child that came to the end of the cell that made it.
            _exit(0)
        out.end(0)


def _register(formatter):
    """Our representations, and data frames as columns and values besides."""
    display.register_by_name(formatter)
    bundles = formatter.mimebundle_formatter
    for module in ("pandas", "pandas.core.frame"):
        bundles.for_type_by_name(module, "DataFrame", cells.frame_bundle)


def main():
    """Serve cells until the agent closes the channel."""
    packets = native.Packets(native.CHANNEL)
    session = Session(packets)
    packets.ready()
    while True:
        try:
            request = _request(native.CHANNEL)
            if request is None:
                break
            session.run(request)
        except KeyboardInterrupt:
            # Between two cells there is nothing to interrupt.
            continue
        except OSError:
            # A cell closed the channel: nothing can be heard or told any more.
            break
    _exit(0)
