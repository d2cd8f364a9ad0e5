"""Run once in a fresh guest, before its memory is kept as the snapshot every run starts from.

Rules: no open descriptor, no written file and no random state that a run would share may survive.
"""

import os
import sys

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
    from casemate_guest import denied, figures, missing, observe, runner, shell, threads

    denied.install()
    threads.install()
    missing.install()
    figures.install()
    runner.prepare(shell.create(), figures)
    observe.install()


_WARM_UP = """
import io
import numpy as np, pandas as pd, matplotlib.pyplot as plt
table = pd.read_csv(io.StringIO("day,city,n,x\\n2024-01-01,a,1,1.5\\n2024-01-02,b,2,\\n"), parse_dates=["day"])
table.describe(); table.groupby("city")["n"].agg(["sum", "mean"]); table.pivot_table(index="city", values="n")
table.sort_values("n").merge(table, on="city").to_csv(io.StringIO()); str(table); table.info(buf=io.StringIO())
table.set_index("day")["n"].resample("ME").sum(); table["city"].str.upper().value_counts(); display(table["n"])
fig, ax = plt.subplots(); ax.plot(table["day"], table["n"], label="n"); ax.bar(table["day"], table["n"])
ax.set_title("t"); ax.set_xlabel("x"); ax.set_ylabel("y"); ax.legend(); ax.grid(True); fig.tight_layout()
fig.autofmt_xdate(); plt.savefig("/tmp/warm.png")
plt.savefig(io.BytesIO(), format="png", bbox_inches="tight"); plt.show()
table.plot(x="day", y="n"); plt.show(); plt.scatter([1, 2], [3, 4]); plt.hist([1, 2, 3]); plt.show()
table
"""


def _warm_up():
    """Run one program of each common kind, so that what libraries load late is loaded."""
    import contextlib
    import io
    import json

    from casemate_guest import channel, runner

    sent = []
    out = channel.Channel(sent.append, 1 << 24)
    job = {"code": _WARM_UP, "name": "warm.py", "argv": ["warm.py"], "env": {}, "cell": False}
    for code in (_WARM_UP, "1/0", "x = (", "import asyncio\nawait asyncio.sleep(0)"):
        # Two of the programs fail on purpose; their tracebacks are nobody's business.
        with contextlib.redirect_stderr(io.StringIO()):
            runner.run({**job, "code": code}, out)
    failures = [json.loads(message.partition(b"\n")[0]) for message in sent if b'"kind":"error"' in message[:16]]
    if [failure["name"] for failure in failures] != ["ZeroDivisionError", "SyntaxError"]:
        raise SystemExit(f"the guest's warm-up program failed: {failures}")


def _forget():
    """Take back everything the steps above left behind."""
    import atexit
    import gc
    import linecache
    import logging
    import shutil
    import weakref

    from matplotlib import font_manager, pyplot

    pyplot.close("all")
    # A cached font keeps its file open, and descriptors do not outlive this process.
    for name in ("_get_font", "get_font", "_cached_realpath"):
        clear = getattr(getattr(font_manager, name, None), "cache_clear", None)
        if clear is not None:
            clear()
    atexit._clear()
    weakref.finalize._registry.clear()
    atexit.register(logging.shutdown)
    linecache.clearcache()
    for entry in os.listdir("/tmp"):
        path = os.path.join("/tmp", entry)
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    os.environ.pop("IPYTHONDIR", None)
    sys.modules["__main__"].__dict__.clear()
    gc.collect()
    gc.freeze()


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
_warm_up()
_forget()
