"""Run once in a fresh guest, before its memory is kept as the snapshot every run starts from.

Rules: no open descriptor, no written file and no random state that a run would share may survive.
"""

import os
import sys

if sys.platform != "wasi":
    raise SystemExit("this empties /tmp and is for a fresh guest only")

_ENVIRONMENT = {
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "PYTHONTZPATH": "",
    "MPLBACKEND": "agg",
    "MPLCONFIGDIR": "/tmp",
}


def _set_up_interpreter():
    os.environ.clear()
    os.environ.update(_ENVIRONMENT, IPYTHONDIR="/tmp/.ipython")
    os.chdir("/work")
    packages = "/usr/local/lib/casemate"
    if packages not in sys.path:
        sys.path.append(packages)
    # A program finds modules beside itself, as it would if it were a file there.
    sys.path.insert(0, "/work")
    # What was printed before a limit ended the run must have left the interpreter.
    sys.stdout.reconfigure(line_buffering=True)
    sys.stderr.reconfigure(line_buffering=True)


def _create_shell():
    from casemate_guest import denied, figures, fonts, missing, observe, runner, shell, threads

    denied.install()
    threads.install()
    missing.install()
    fonts.install()
    figures.install()
    runner.prepare(shell.create(), figures)
    observe.install()


def _empty_tmp():
    """This guest's /tmp is in memory and its own; no file in it may survive."""
    import shutil

    for entry in os.listdir("/tmp"):
        path = os.path.join("/tmp", entry)
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    os.environ.pop("IPYTHONDIR", None)


_set_up_interpreter()
# Loaded for every run; matplotlib must see the environment above.
import IPython  # noqa: E402, F401
import matplotlib.pyplot  # noqa: E402, F401
import numpy  # noqa: E402, F401
import pandas  # noqa: E402, F401
import tqdm  # noqa: E402

# Its monitor would be a thread.
tqdm.tqdm.monitor_interval = 0

_create_shell()
from casemate_guest import warm  # noqa: E402

warm.use("/tmp/warm.png")
_empty_tmp()
warm.forget(fonts=False)
