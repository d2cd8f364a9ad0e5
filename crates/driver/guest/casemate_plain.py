"""Another language's program in a container that another program made.

The channel comes as standard input, as it does for the driver; the program begins when the host says so, as a
child of this process. Nothing of IPython is loaded.
"""

import ctypes
import json
import os

JOB = "/run/casemate/job.json"
STDIN = "/run/casemate/stdin"
_PR_SET_DUMPABLE = 4
_READY, _GO = b"\2", b"\6"


def main():
    """Wait for the word, start the program, and end as it ends."""
    with open(JOB, "rb") as file:
        job = json.load(file)
    channel = os.dup(0)
    given = os.open(STDIN, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(given, 0)
    os.close(given)
    # Other processes of the same user do not look into this one, and what `/proc` shows of it is not its own.
    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError("prctl PR_SET_DUMPABLE was refused")
    os.write(channel, _READY)
    if os.read(channel, 1) != _GO:
        # The host is gone, or found a wall missing: nothing runs.
        os._exit(125)
    os.close(channel)
    command = job["command"]
    env = {**os.environ, **job["env"]}
    # With the signals of a program that was started from a shell.
    child = os.posix_spawn(command[0], command, env, setsigdef=range(1, 32))
    os._exit(_status(child))


def _status(child):
    """The child's status as a shell tells it; whatever else is left behind is waited for on the way."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
