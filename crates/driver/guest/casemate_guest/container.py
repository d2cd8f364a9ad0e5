"""The native driver in a container that another program made: the channel comes as standard input.

A runtime passes the three standard streams on, and passing any other on is a matter of its version. The
program begins when the host says so: until then the host looks at the walls around this very process.
"""

import ctypes
import os
import sys

from . import native

STDIN = "/run/casemate/stdin"
_PR_SET_DUMPABLE = 4


def main():
    """Put the streams where they belong, and be the native driver."""
    os.dup2(0, native.CHANNEL, inheritable=False)
    given = os.open(STDIN, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(given, 0)
    os.close(given)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
    # Other processes of the same user do not look into this one, and what `/proc` shows of it is not its own.
    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError("prctl PR_SET_DUMPABLE was refused")
    native.main(native.wait_for_word)
