"""Answers system calls, for itself and everything it becomes: deny.py NUMBER[:ARGUMENT][=ERROR],... COMMAND ...

A kernel without a call, or one whose administrator forbids it, answers in the same way. The error is EPERM where none is
named; with 0 the call seems to have been made.
"""

import ctypes
import os
import struct
import sys

LOAD, EQUAL, ANSWER = 0x20, 0x15, 0x06
ALLOW, ERROR, EPERM = 0x7FFF0000, 0x00050000, 1


def step(code, value, yes=0, no=0):
    return struct.pack("=HBBI", code, yes, no, value)


program = [step(LOAD, 0)]
for call in sys.argv[1].split(","):
    call, _, error = call.partition("=")
    number, _, argument = call.partition(":")
    answer = ERROR | int(error or EPERM)
    if argument:
        program += [
            step(EQUAL, int(number), 0, 4),
            step(LOAD, 16),
            step(EQUAL, int(argument), 0, 1),
            step(ANSWER, answer),
            step(LOAD, 0),
        ]
    else:
        program += [step(EQUAL, int(number), 0, 1), step(ANSWER, answer)]
program.append(step(ANSWER, ALLOW))
code = ctypes.create_string_buffer(b"".join(program))
filters = ctypes.create_string_buffer(struct.pack("=H6xQ", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.syscall(317, 1, 0, filters):
    sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[2], sys.argv[2:])
