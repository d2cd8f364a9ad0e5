"""What is loaded used once, for a guest whose memory is the start of many runs.

Rules: no open descriptor, no thread and no random state that runs would share may survive.
"""

import atexit
import contextlib
import gc
import io
import json
import linecache
import logging
import sys
import weakref

from . import channel, runner

_PROGRAM = """
import io, sys
import numpy as np, pandas as pd, matplotlib.pyplot as plt
table = pd.read_csv(io.StringIO("day,city,n,x\\n2024-01-01,a,1,1.5\\n2024-01-02,b,2,\\n"), parse_dates=["day"])
table.describe(); table.groupby("city")["n"].agg(["sum", "mean"]); table.pivot_table(index="city", values="n")
table.sort_values("n").merge(table, on="city").to_csv(io.StringIO()); str(table); table.info(buf=io.StringIO())
table.set_index("day")["n"].resample("ME").sum(); table["city"].str.upper().value_counts(); display(table["n"])
fig, ax = plt.subplots(); ax.plot(table["day"], table["n"], label="n"); ax.bar(table["day"], table["n"])
ax.set_title("t"); ax.set_title("b", loc="left", fontweight="bold"); ax.set_xlabel("x"); ax.set_ylabel("y"); ax.legend(); ax.grid(True); fig.tight_layout()
fig.autofmt_xdate(); plt.savefig(sys.argv[1])
plt.savefig(io.BytesIO(), format="png", bbox_inches="tight"); plt.show()
table.plot(x="day", y="n"); plt.show(); plt.scatter([1, 2], [3, 4]); plt.hist([1, 2, 3]); plt.show()
table
"""


_FAILURES = {"1/0": "ZeroDivisionError", "x = (": "SyntaxError"}


def use(picture):
    """Run one program of each common kind, so that what libraries load late is loaded.

    `picture` is a name for a file, which is the caller's, as is to remove it: this knows no folder.
    """
    _run((_PROGRAM, "1/0", "x = (", "import asyncio\nawait asyncio.sleep(0)"), picture)


def use_small():
    """The same where no library is loaded, nor IPython."""
    _run(("print(end=''); 1", "1/0"), "")


def rehearse(code):
    """Run one program as a run does, in a process that ends then."""
    runner.run(_job(code, ""), channel.Channel(lambda message: None))


def _job(code, argument):
    return {"name": "warm.py", "argv": ["warm.py", argument], "env": {}, "cell": False, "code": code}


def _run(programs, argument):
    sent = []
    out = channel.Channel(sent.append, 1 << 24)
    for code in programs:
        # Some of the programs fail on purpose; their tracebacks are nobody's business.
        with contextlib.redirect_stderr(io.StringIO()):
            runner.run(_job(code, argument), out)
    failures = [json.loads(message.partition(b"\n")[0]) for message in sent if b'"kind":"error"' in message[:16]]
    expected = [name for code, name in _FAILURES.items() if code in programs]
    if [failure["name"] for failure in failures] != expected:
        raise SystemExit(f"the guest's warm-up program failed: {failures}")


def forget(fonts=True):
    """Take back what using it left in memory, and put the rest out of the collector's sight.

    With `fonts` those that are loaded go too: a font keeps its file open, unless `fonts.install` has it in memory.
    """
    if "matplotlib" in sys.modules:
        _forget_figures(fonts)
    atexit._clear()
    weakref.finalize._registry.clear()
    atexit.register(logging.shutdown)
    linecache.clearcache()
    sys.modules["__main__"].__dict__.clear()
    gc.collect()
    gc.freeze()


def _forget_figures(fonts):
    from matplotlib import font_manager, pyplot

    pyplot.close("all")
    if fonts:
        font_manager._get_font.cache_clear()
        font_manager._cached_realpath.cache_clear()
