"""What a reader is told of an error, by the library for it, which is loaded with the first error."""

import os
import traceback

from .errors import OURS, is_library

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
            if not frame.filename.startswith((OURS, "<frozen importlib")):
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


def report(error):
    """The text of an exception and of what led to it, without what is ours and the libraries' own."""
    found = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    _trim(found, set())
    return "".join(found.format())
