"""Errors as a reader of the program wants them: its own frames, its own lines, nothing of ours."""

import os
import sys

from .channel import clip
from .late import load
from .plain import remembered_line

MAX_VALUE = 8 * 1024
MAX_TRACEBACK = 64 * 1024

OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIBRARY = (
    os.path.dirname(os.path.dirname(OURS)) + os.sep,
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
    try:
        value = str(error)
    except Exception:
        value = "<the exception has no text: its str() failed>"
    try:
        text = load("stacks").report(error)
    except Exception:
        # A program that left no descriptor or memory to load more with, or took apart what would be loaded.
        text = _short(error, value)
    return type(error).__name__, clip(value, MAX_VALUE), clip(text, MAX_TRACEBACK), _line_of(error, filename)


def _short(error, value):
    lines, tb = ["Traceback (most recent call last):\n"], error.__traceback__
    while tb is not None:
        code = tb.tb_frame.f_code
        if not is_library(code.co_filename):
            lines.append(f'  File "{code.co_filename}", line {tb.tb_lineno}, in {code.co_name}\n')
            if text := remembered_line(code.co_filename, tb.tb_lineno):
                lines.append(f"    {text}\n")
        tb = tb.tb_next
    return "".join([*lines, f"{type(error).__name__}: {value}\n"])
