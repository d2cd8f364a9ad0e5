"""Fonts that are read once."""

import os
import subprocess
import sys
import tempfile
import unittest

from .support import needs_libraries

# In a process of its own: what is installed stays.
_PROGRAM = """
import io, os, sys
import matplotlib.pyplot as plt
from matplotlib import font_manager
opened = io.open
def draw():
    fig, ax = plt.subplots(); ax.plot([1, 3, 2], label="é λ 0.5"); ax.set_title("T", fontweight="bold"); ax.legend()
    for form in ("png", "svg", "pdf"):
        sink = io.BytesIO(); fig.savefig(sink, format=form, metadata={"Date": None} if form == "svg" else None)
        yield sink.getvalue()
def fonts():
    return [link for link in (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if
            os.path.lexists(f"/proc/self/fd/{fd}")) if link.endswith(".ttf")]
plt.rcParams["svg.hashsalt"] = "x"
plain = list(draw())
assert fonts(), "matplotlib keeps fonts open"
font_manager._get_font.cache_clear()
name = font_manager.get_font(font_manager.findfont("DejaVu Sans")).fname
font_manager._get_font.cache_clear()
from casemate_guest import fonts as ours
ours.install()
read = list(draw())
assert not fonts(), fonts()
assert font_manager.get_font(font_manager.findfont("DejaVu Sans")).fname == name
assert font_manager._get_font.cache_info().hits, "a font is loaded once"
assert io.open is opened
assert plain[0] == read[0] and plain[1] == read[1] and len(plain[2]) == len(read[2]), [len(one) for one in plain + read]
try:
    font_manager.get_font("/none.ttf")
except OSError as error:
    assert "/none.ttf" in str(error), error
else:
    raise AssertionError("a font that is not there")
assert io.open is opened
"""


@needs_libraries
class Fonts(unittest.TestCase):
    def test_figures_are_the_same_and_no_file_stays_open(self):
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, "MPLBACKEND": "agg", "MPLCONFIGDIR": folder, "SOURCE_DATE_EPOCH": "0"}
            ran = subprocess.run([sys.executable, "-c", _PROGRAM], env=env, capture_output=True, text=True, check=False)
        self.assertEqual(ran.returncode, 0, ran.stderr)
