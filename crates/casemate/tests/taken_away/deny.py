"""Answers system calls with EPERM, for itself and everything it becomes: deny.py NUMBER[:ARGUMENT],... COMMAND ...

A kernel without a call, or one whose administrator forbids it, answers in the same way.
"""

import ctypes
import os
import struct
import sys

LOAD, EQUAL, ANSWER = 0x20, 0x15, 0x06
ALLOW, EPERM = 0x7FFF0000, 0x00050001


def step(code, value, yes=0, no=0):
    return struct.pack("=HBBI", code, yes, no, value)


program = [step(LOAD, 0)]
for call in sys.argv[1].split(","):
    number, _, argument = call.partition(":")
    if argument:
        program += [
            step(EQUAL, int(number), 0, 4),
            step(LOAD, 16),
            step(EQUAL, int(argument), 0, 1),
            step(ANSWER, EPERM),
            step(LOAD, 0),
        ]
    else:
        program += [step(EQUAL, int(number), 0, 1), step(ANSWER, EPERM)]
program.append(step(ANSWER, ALLOW))
code = ctypes.create_string_buffer(b"".join(program))
filters = ctypes.create_string_buffer(struct.pack("=H6xQ", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.syscall(317, 1, 0, filters):
    sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[2], sys.argv[2:])
