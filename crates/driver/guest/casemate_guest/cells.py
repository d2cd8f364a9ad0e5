"""Cells of one interpreter: what contexts of every kind share, and the one that is served where nothing waits.

In WebAssembly each cell is a call of its own, and between two of them no instruction of the guest's runs. Its host
keeps the time, the counts and the files.
"""

import os
import signal
import sys

from . import channel as channels
from . import display, errors, observe, runner, shell

COLUMNS = "e2b/data"
# Cells of a data frame that is told as columns and values; a larger one is shown as a table only.
MAX_CELLS = 200_000

_begun = False
# What hears an interrupt while a cell runs. Between two cells, and in what is ours, nothing does.
_hears = signal.default_int_handler


def environment(changes):
    """Set variables and return what undoes it."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)

    def undo():
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    return undo


def frame_bundle(frame):
    """A data frame's representations, and its columns and values besides."""
    bundle = display._frame_bundle(frame)
    if frame.size <= MAX_CELLS:
        bundle[COLUMNS] = _columns(frame)
    return bundle


def _columns(frame):
    """`{column: [values]}`, times in ISO 8601, what JSON cannot say as text."""
    from . import tables

    def value(cell):
        return cell if isinstance(cell, str) else tables.cell(cell)

    columns = {}
    for position in range(frame.shape[1]):
        columns[str(frame.columns[position])] = [value(cell) for cell in frame.iloc[:, position].tolist()]
    return columns


def show_pictures(module):
    """`image.show()` and `image.save()` of the program show the picture: there is no window to show it in."""
    save = module.Image.save

    def save_and_show(self, fp, format=None, **params):
        save(self, fp, format, **params)
        if not errors.is_library(sys._getframe(1).f_code.co_filename):
            shell.show(self)

    save_and_show.__doc__, save_and_show.__wrapped__ = save.__doc__, save
    module.Image.save = save_and_show
    module.Image.show = lambda self, title=None: shell.show(self)


def execute(made, figures, code, name, out):
    """Run one cell in the shell and tell what it shows and the error it ends on."""
    figures.bind(lambda mimes: out.display("figure", mimes))
    made.channel, made.keeps_results = out, True
    try:
        error = made.execute(code, name)
        if error is not None:
            out.error(*errors.describe(error, name))
        figures.flush_at_end()
    finally:
        made.channel = None


def main():
    """Run the one cell that the host's device holds. What cells before it left is there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fd = channels.open_device()
    try:
        job = channels.read_job(fd)
        out = channels.Channel(channels.device_writer(fd), job["max_result_bytes"])
        _serve(job, out)
    finally:
        try:
            channels._close(fd)
        except OSError:
            # The program closed it.
            pass


def _serve(job, out):
    undo = None
    # Nobody takes events of a session; being there, they have threads and sockets refused in words.
    observe.start(_unheard)
    try:
        _begin(job)
        undo = environment(job["own_env"])
        _interruptible(execute, runner._shell, runner._figures, job["code"], job["name"], out)
    except BaseException as error:
        # Ours or for want of memory; either way the host is told.
        out.error(*errors.describe(error, job["name"]))
    finally:
        observe.stop()
        if undo is not None:
            undo()
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            shell.flush(stream)
    out.end(0)


def _interruptible(act, *what):
    """Act so that an interrupt is heard, as the program wants it to be."""
    global _hears
    try:
        signal.signal(signal.SIGINT, _hears)
        act(*what)
    finally:
        _hears = signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unheard(what, detail):
    """Nobody takes it."""


def _begin(job):
    """What only the first cell finds undone."""
    global _begun
    if _begun:
        return
    _begun = True
    runner._reseed()
    runner._enter_main("", "", True)
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    sys.path.insert(0, "")
    sys.argv = [""]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    from pandas import DataFrame

    runner._shell.display_formatter.mimebundle_formatter.for_type(DataFrame, frame_bundle)
    pictures = sys.modules.get("PIL.Image")
    if pictures is not None:
        show_pictures(pictures)
