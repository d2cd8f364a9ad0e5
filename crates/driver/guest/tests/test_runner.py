"""Programs as programs: what they see, what they show, what they leave."""

import contextlib
import io
import json
import os
import tempfile
import unittest
from unittest import mock

from .support import Run, needs_libraries


@needs_libraries
class Programs(unittest.TestCase):
    def test_main_is_what_python_makes_it(self):
        run = Run(
            "import sys, pickle, inspect, dataclasses\n"
            "@dataclasses.dataclass\nclass P:\n    x: int = 1\n"
            "def f():\n    return 41 + 1\n"
            "if __name__ == '__main__':\n"
            "    print(sys.argv, __file__, pickle.loads(pickle.dumps(P(3))))\n"
            "    print(inspect.getsource(f), inspect.getsource(P), sorted(n for n in globals() if n[0] != '_'))\n",
            argv=["program.py", "a", "b"],
        )
        self.assertEqual(run.stderr, "")
        self.assertIn("['program.py', 'a', 'b'] /work/program.py P(x=3)", run.stdout)
        self.assertIn("return 41 + 1", run.stdout)
        self.assertIn("x: int = 1", run.stdout)
        self.assertIn("['P', 'dataclasses', 'f', 'inspect', 'pickle', 'sys']", run.stdout)

    def test_last_expression_and_semicolon(self):
        (shown,) = Run("1\n2 + 3").displays
        self.assertEqual((shown.origin, shown.blobs["text/plain"]), ("expression", b"5"))
        self.assertEqual(Run("2 + 3;").displays, [])
        self.assertEqual(Run("2 + 3;  # quiet").displays, [])
        self.assertEqual(len(Run("'a;b'").displays), 1)
        self.assertEqual(Run("x = 5").displays, [])
        self.assertEqual(Run("").status, 0)

    def test_rich_displays(self):
        run = Run(
            "from IPython.display import *\n"
            "display(HTML('<b>x</b>')); display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))\n"
            "display(JSON({'a': 1})); display(Image(data=b'\\x89PNG\\r\\n\\x1a\\nrest')); display(Latex('$x$'))\n"
            "class R:\n    def _repr_html_(self): return '<i>r</i>'\nR()"
        )
        kinds = [list(message.blobs)[-1] for message in run.displays]
        self.assertEqual(
            kinds, ["text/html", "image/svg+xml", "application/json", "image/png", "text/latex", "text/html"]
        )
        self.assertEqual(run.displays[3].blobs["image/png"], b"\x89PNG\r\n\x1a\nrest")
        self.assertEqual(run.displays[2].json("application/json"), {"a": 1})

    def test_results_are_bounded(self):
        run = Run("from IPython.display import HTML\ndisplay(HTML('x' * 5000))", max_result_bytes=1000)
        (shown,) = run.displays
        self.assertNotIn("text/html", shown.blobs)
        self.assertEqual(shown.metadata["dropped"], [["text/html", 5000]])
        self.assertEqual(len(Run("for i in range(1000): display(i)").displays), 200)

    def test_display_that_is_not_what_it_says(self):
        run = Run("display({'image/png': 'not base64!', 'text/plain': 'kept', 'x/y': object()}, raw=True)")
        self.assertEqual(run.displays[0].blobs, {"text/plain": b"kept"})
        self.assertEqual(run.status, 0)

    def test_failing_representation_is_shown_and_survived(self):
        run = Run("class R:\n    def _repr_html_(self): return 1 / 0\n    def __repr__(self): return 'R'\nR()")
        self.assertEqual((run.status, run.displays[0].blobs), (0, {"text/plain": b"R"}))
        self.assertIn("ZeroDivisionError", run.stderr)

    def test_await_and_asyncio(self):
        run = Run("import asyncio\nawait asyncio.sleep(0)\nasync def f(): return 7\nawait f()")
        self.assertEqual(run.displays[0].blobs["text/plain"], b"7")
        self.assertEqual(Run("import asyncio\nasync def f(): return 7\nprint(asyncio.run(f()))").stdout, "7\n")
        run = Run("import asyncio\nawait asyncio.sleep(0)\n1 / 0")
        self.assertEqual((run.error.name, run.error.line, run.status), ("ZeroDivisionError", 3, 1))

    def test_ipython_syntax(self):
        self.assertIn("4\n", Run("%matplotlib inline\nx = 4\nprint(x)").stdout)
        run = Run("x = 1\n!ls -l")
        self.assertEqual((run.error.name, run.error.line), ("PermissionError", 2))
        self.assertEqual([(e.what, e.detail) for e in run.of("event")], [("process", "!ls -l")])
        self.assertEqual(Run("%%bash\nls").of("event")[0].what, "process")

    def test_files_left_open_are_written(self):
        path = os.path.join(tempfile.mkdtemp(), "left.txt")
        Run(f"f = open({path!r}, 'w')\nf.write('kept')")
        with open(path) as file:
            self.assertEqual(file.read(), "kept")
        Run(f"import gzip\ng = gzip.open({path!r}, 'wb')\ng.write(b'zipped')")
        import gzip

        with gzip.open(path) as file:
            self.assertEqual(file.read(), b"zipped")

    def test_exit_functions_run_once_and_after_errors(self):
        run = Run("import atexit\natexit.register(print, 'bye')\n1 / 0")
        self.assertEqual((run.stdout, run.status), ("bye\n", 1))
        self.assertEqual(Run("pass").stdout, "")
        for _ in range(2):
            folder = Run("import tempfile\nd = tempfile.TemporaryDirectory()\nprint(d.name)").stdout.strip()
            self.assertFalse(os.path.exists(folder))
        self.assertEqual(Run("class D:\n    def __del__(self): print('gone')\nd = D()").stdout, "gone\n")

    def test_runs_share_no_randomness_and_no_names(self):
        code = "import random, numpy as np, tempfile\nprint(random.random(), np.random.rand(), tempfile.mktemp())"
        self.assertEqual(len({Run(code).stdout for _ in range(3)}), 3)
        Run("leak = 1")
        self.assertEqual(Run("leak").error.name, "NameError")

    def test_cells_keep_their_names(self):
        Run("kept = 5", cell=True)
        self.assertEqual(Run("kept + 1", cell=True).displays[0].blobs["text/plain"], b"6")
        self.assertEqual(Run("_ * 2", cell=True).displays[0].blobs["text/plain"], b"12")
        self.assertEqual(
            Run("import asyncio\nloop = asyncio.get_running_loop()\nawait asyncio.sleep(0)", cell=True).status, 0
        )
        self.assertTrue(
            Run("await asyncio.sleep(0)\nprint(loop is asyncio.get_running_loop())", cell=True).stdout == "True\n"
        )
        Run("pass")

    def test_environment_of_the_job(self):
        self.assertEqual(Run("import os\nprint(os.environ['K'])", env={"K": "v"}).stdout, "v\n")
        del os.environ["K"]

    def test_warnings_name_the_line(self):
        run = Run("import warnings\n\nwarnings.warn('careful')")
        self.assertIn("program.py:3: UserWarning: careful\n  warnings.warn('careful')", run.stderr)


@needs_libraries
class Device(unittest.TestCase):
    def run_main(self, job):
        """Run `main` against a plain file: reading it to its end gives the job, writing appends the messages."""
        from casemate_guest import channel, main

        Run("pass")
        data = json.dumps(job).encode()
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            with mock.patch.object(channel, "DEVICE", file.name), contextlib.redirect_stdout(io.StringIO()) as stdout:
                main()
            with open(file.name, "rb") as messages:
                return stdout.getvalue(), messages.read()[len(data) :]

    def test_a_job_through_the_device(self):
        stdout, messages = self.run_main({"code": "print('é')\n'\ud83d\ude00'", "name": "a.py", "argv": ["a.py"]})
        self.assertEqual(stdout, "é\n")
        header, blob, end = messages.split(b"\n", 1)[0], *messages.split(b"\n", 1)[1].split(b"{", 1)
        self.assertEqual(json.loads(header)["mimes"], [["text/plain", len(blob)]])
        self.assertEqual(blob.decode(), "'\U0001f600'")
        self.assertEqual(json.loads(b"{" + end), {"kind": "end", "exit_code": 0})

    def test_a_job_that_cannot_run_still_ends(self):
        _, messages = self.run_main({"code": "1", "name": "a.py", "env": {"": "x"}})
        error, end = (json.loads(line) for line in messages.splitlines())
        self.assertEqual((error["kind"], end), ("error", {"kind": "end", "exit_code": 1}))


@needs_libraries
class Figures(unittest.TestCase):
    def figures(self, code, **job):
        run = Run("import matplotlib.pyplot as plt\n" + code, **job)
        self.assertEqual(run.stderr, "")
        return [message for message in run.displays if "image/png" in message.blobs]

    def test_shown_once_whatever_the_way(self):
        for code in (
            "plt.plot([1]); plt.show()",
            "plt.plot([1]);",
            "fig, ax = plt.subplots(); ax.plot([1]); fig",
            "fig, ax = plt.subplots(); ax.plot([1]); fig.show(); plt.show()",
            "fig, ax = plt.subplots(); display(fig); plt.show()",
            "import matplotlib; matplotlib.use('Agg'); plt.plot([1]); plt.show()",
            "import matplotlib; matplotlib.use('TkAgg'); plt.plot([1]); plt.show()",
        ):
            with self.subTest(code):
                self.assertEqual(len(self.figures(code)), 1)
        self.assertEqual(len(self.figures("plt.plot([1]); plt.show(); plt.plot([2]); plt.show()")), 2)

    def test_a_shown_figure_is_done_but_can_be_read_and_saved(self):
        path = os.path.join(tempfile.mkdtemp(), "after.png")
        run = Run(
            "import matplotlib.pyplot as plt, pandas as pd\n"
            "plt.plot([1, 2]); plt.title('first'); plt.show()\n"
            f"print(plt.gca().get_title()); plt.savefig({path!r})\n"
            "plt.plot([3]); plt.show(); pd.Series([4]).plot(); plt.show()\n"
            "print(len(plt.get_fignums()))"
        )
        self.assertEqual((run.stdout, run.stderr), ("first\n1\n", ""))
        charts = [shown.json("application/vnd.casemate.chart+json") for shown in run.displays]
        self.assertEqual([(c["title"], len(c["elements"])) for c in charts], [("first", 1), (None, 1), (None, 1)])
        self.assertGreater(os.path.getsize(path), 5_000)

    def test_closed_and_blank_figures_are_not_shown(self):
        self.assertEqual(self.figures("plt.plot([1]); plt.close();"), [])
        self.assertEqual(self.figures("plt.figure();"), [])

    def test_saved_picture_is_used_again_until_the_figure_changes(self):
        folder = tempfile.mkdtemp()
        save = f"plt.plot([1, 2]); plt.savefig({folder!r} + '/a.png', dpi=40)\n"
        (shown,) = self.figures(save)
        with open(os.path.join(folder, "a.png"), "rb") as file:
            saved = file.read()
        self.assertEqual(shown.blobs["image/png"], saved)
        (shown,) = self.figures(save + "plt.title('changed')\nplt.show()")
        self.assertNotEqual(shown.blobs["image/png"], saved)
        (shown,) = self.figures(save + f"open({folder!r} + '/a.png', 'w').close()\nplt.show()")
        self.assertTrue(shown.blobs["image/png"].startswith(b"\x89PNG"))

    def test_cut_labels_widen_the_picture(self):
        import struct

        (shown,) = self.figures(
            "plt.plot([1, 2]); plt.xticks([0, 1], ['a very long label indeed'] * 2, rotation=90)\nplt.show()"
        )
        self.assertNotEqual(struct.unpack(">II", shown.blobs["image/png"][16:24]), (640, 480))

    def test_figures_of_a_program_that_fails_are_kept(self):
        run = Run("import matplotlib.pyplot as plt\nplt.plot([1])\n1 / 0")
        self.assertEqual([message.kind for message in run.messages], ["error", "display"])

    def test_many_open_figures_do_not_hold_up_the_end(self):
        run = Run("import matplotlib.pyplot as plt\nplt.subplots(9, 9); plt.plot([1]); plt.figure(); plt.plot([1]);")
        self.assertEqual((run.status, len(run.displays)), (0, 1))
        self.assertIn("1 open figures were not drawn", run.stderr)

    def test_figure_that_cannot_be_drawn(self):
        run = Run("import matplotlib.pyplot as plt\nplt.plot([1]); plt.title('$\\\\nonsense{$');")
        self.assertEqual(run.status, 0)
        self.assertIn("a figure could not be drawn", run.stderr)


if __name__ == "__main__":
    unittest.main()
