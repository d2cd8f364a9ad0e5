"""Errors as a reader of the program wants them: its own frames, its own lines, nothing of ours."""

import os
import sys
import traceback

from .channel import clip

MAX_VALUE = 8 * 1024
MAX_TRACEBACK = 64 * 1024

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIBRARY = (
    os.path.dirname(os.path.dirname(_OURS)) + os.sep,
    os.path.dirname(os.__file__) + os.sep,
    sys.prefix + os.sep,
    "/usr/local/lib/",
    "<frozen ",
    "<reactor>",
    "<turn ",
    "<__array_function__",
)


def is_library(filename):
    """Whether a frame of this file is the interpreter's or a package's rather than the program's."""
    return filename.startswith(_LIBRARY) or filename.endswith((".pyx", ".pxi", ".pxd"))


# What the interpreter adds to every failed import when it runs without `site`, as it always does here.
_NO_SITE = ". Site initialization is disabled"


class _Stack(traceback.StackSummary):
    """A stack in which a run of library frames is one line."""

    def format_frame_summary(self, frame_summary, **kwargs):
        if frame_summary.filename == "":
            return frame_summary.name
        return super().format_frame_summary(frame_summary, **kwargs)


def _package_of(filename):
    """`pandas` for `/usr/local/lib/python315.zip/pandas/core/frame.pyc`."""
    for root in ("/site-packages/", ".zip/", "/casemate/"):
        _, found, rest = filename.partition(root)
        if found:
            return rest.split("/")[0].split(".")[0]
    return os.path.basename(filename).split(".")[0]


def _marker(frames):
    package = _package_of(frames[-1].filename)
    count = f"{len(frames)} frame{'s' if len(frames) > 1 else ''}"
    return traceback.FrameSummary("", 0, f"  [{count} inside {package}]\n", lookup_line=False)


def _user_stack(frames):
    kept, library = [], []
    for frame in frames:
        if is_library(frame.filename):
            if not frame.filename.startswith((_OURS, "<frozen importlib")):
                library.append(frame)
            continue
        # Library frames before the first of the program's own are the ones that started it.
        if library and kept:
            kept.append(_marker(library))
        library = []
        kept.append(frame)
    if library and kept:
        kept.append(_marker(library))
    return _Stack(kept)


def _trim(report, seen):
    if report is None or id(report) in seen:
        return
    seen.add(id(report))
    if report._str is not None:
        report._str = report._str.partition(_NO_SITE)[0]
    report.stack = _user_stack(report.stack)
    for inner in (report.__cause__, report.__context__, *(report.exceptions or ())):
        _trim(inner, seen)
    for link in ("__cause__", "__context__"):
        inner = getattr(report, link)
        # A library that raises its own error again says nothing new.
        if inner is not None and not inner.stack and str(inner) == str(report):
            setattr(report, link, None)


def _line_of(error, filename):
    """The last line of the program's own file that the error passed through, counted from 1."""
    if isinstance(error, SyntaxError) and error.filename == filename:
        return error.lineno
    line, tb = None, error.__traceback__
    while tb is not None:
        if tb.tb_frame.f_code.co_filename == filename:
            line = tb.tb_lineno
        tb = tb.tb_next
    return line


def describe(error, filename):
    """`(name, value, traceback, line)` of an exception, all bounded."""
    report = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    _trim(report, set())
    text = clip("".join(report.format()), MAX_TRACEBACK)
    try:
        value = str(error)
    except Exception:
        value = "<the exception has no text: its str() failed>"
    return type(error).__name__, clip(value, MAX_VALUE), text, _line_of(error, filename)
