"""One run: take the job, run the program, hand everything back, leave nothing unwritten."""

import _sitebuiltins
import atexit
import builtins
import gc
import io
import os
import sys
import time

from . import channel as channels
from . import errors, observe
from .late import WORK
from .plain import flush, remember_source

INTERRUPTED = 130

_shell = None
_figures = None
_before_exit = None
_exit_functions = (
    _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)"),
    _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)"),
)


def prepare(shell, figures, before_exit=None):
    """Keep what runs will use: the shell, what hands figures over, and what ends before a program does.

    Called once, before the first program.
    """
    global _shell, _figures, _before_exit
    _shell, _figures, _before_exit = shell, figures, before_exit


def main():
    """Run the one job the host's device holds."""
    fd = channels.open_device()
    job = channels.read_job(fd)
    out = channels.Channel(channels.device_writer(fd), job.get("max_result_bytes") or channels.DEFAULT_RESULT_BYTES)
    try:
        status = run(job, out)
    except BaseException as error:
        # Ours or for want of memory; either way the host is told, and told that it is over.
        out.error(*errors.describe(error, job.get("name")))
        status = 1
    out.end(status)


def run(job, out):
    """Run `job`, send everything but the end to `out`, and return the exit status."""
    cell = job.get("cell", False)
    name = job.get("name") or "program.py"
    _reseed()
    os.environ.update(job.get("env", {}))
    sys.argv = list(job.get("argv") or [name])
    _enter_main(name, job["code"], cell)
    _figures.bind(lambda mimes: out.display("figure", mimes))
    _shell.channel, _shell.keeps_results = out, cell
    observe.start(out.event)
    try:
        status = _report(_shell.execute(job["code"], name), name, out)
        _figures.flush_at_end()
        _finish(cell)
    finally:
        observe.stop()
        _shell.channel = None
    return status


def _reseed():
    """A snapshot holds the random state of the moment it was taken; every run needs its own."""
    # What is not loaded yet has no state.
    loaded = sys.modules.get
    if loaded("random") is not None:
        loaded("random").seed()
    numpy = loaded("numpy")
    if numpy is not None:
        # Seeding with no argument gives the same strength through a path twenty-five times as slow.
        numpy.random.seed(numpy.frombuffer(os.urandom(32), numpy.uint32))
    if loaded("tempfile") is not None:
        loaded("tempfile")._name_sequence = None
    if loaded("logging") is not None:
        # Nanoseconds since Python 3.13.
        seconds = isinstance(loaded("logging")._startTime, float)
        loaded("logging")._startTime = time.time() if seconds else time.time_ns()


def _enter_main(name, source, cell):
    """Make `__main__` what `python FILE` makes it; a cell keeps what earlier cells left there."""
    module = _shell.user_module
    namespace = module.__dict__
    namespace.pop("casemate_guest", None)
    if not cell or "__name__" not in namespace:
        namespace.clear()
        namespace.update(
            __name__="__main__",
            __doc__=None,
            __package__=None,
            __loader__=None,
            __spec__=None,
            __builtins__=builtins,
        )
        builtins.exit, builtins.quit = _exit_functions
    if not cell:
        namespace["__file__"] = path = os.path.join(WORK, name)
        if path != name:
            # `inspect.getsource` of a class looks under `__file__`, of a function under the code's name.
            remember_source(path, source)
    sys.modules["__main__"] = module


def _report(error, name, out):
    """Tell of the error that ended the program, and return the exit status."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return _exit_status(error.code)
    kind, value, text, line = errors.describe(error, name)
    out.error(kind, value, text, line)
    hook = sys.excepthook
    try:
        if hook is sys.__excepthook__:
            print(text, end="", file=sys.stderr)
        else:
            hook(type(error), error, error.__traceback__)
    except Exception:
        sys.__stderr__.write(text)
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _exit_status(code):
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _finish(cell):
    """What the interpreter does at exit, which a turn of the reactor does not reach."""
    try:
        if not cell:
            _shell.end_loop()
            if _before_exit is not None:
                _before_exit()
            atexit._run_exitfuncs()
            # Finalizers ran with the exit functions and think that the interpreter is gone.
            weakref = sys.modules.get("weakref")
            if weakref is not None:
                weakref.finalize._shutdown = weakref.finalize._registered_with_atexit = False
            _shell.user_ns.clear()
    except BaseException as error:
        print(f"error while the program was closed: {type(error).__name__}: {error}", file=sys.stderr)
    if observe.wrote:
        _flush_files(collect=not cell)
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        flush(stream)


def _flush_files(collect):
    """Write out files the program left open. Objects of the snapshot are frozen and so not looked at."""
    if collect:
        gc.collect()
    for found in gc.get_objects():
        if isinstance(found, (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)) and not found.closed:
            try:
                found.flush()
            except (OSError, ValueError) as error:
                print(f"a file left open could not be written: {error}", file=sys.stderr)
