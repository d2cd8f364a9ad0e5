"""Errors: honest lines, the program's file, nobody else's frames."""

import unittest

from .support import Run, needs_libraries


@needs_libraries
class Errors(unittest.TestCase):
    def test_frames_lines_and_source(self):
        run = Run("def f():\n    return 1 / 0\n\nf()\n")
        self.assertEqual((run.status, run.error.name, run.error.value), (1, "ZeroDivisionError", "division by zero"))
        self.assertEqual(run.error.line, 2)
        lines = run.error.traceback.splitlines()
        self.assertEqual(lines[0], "Traceback (most recent call last):")
        self.assertEqual(lines[1], '  File "program.py", line 4, in <module>')
        self.assertIn('  File "program.py", line 2, in f', lines)
        self.assertIn("    return 1 / 0", lines)
        self.assertEqual(run.stderr, run.error.traceback)

    def test_nothing_of_ours(self):
        run = Run("import pandas as pd\npd.DataFrame({'a': [1]})['b']")
        self.assertEqual((run.error.name, run.error.line), ("KeyError", 2))
        for word in ("casemate_guest", "IPython", "runpy", "pyx", "site-packages"):
            self.assertNotIn(word, run.error.traceback)
        self.assertIn("inside pandas]", run.error.traceback)

    def test_syntax_errors_before_anything_runs(self):
        run = Run("print('ran')\nx = (\n")
        self.assertEqual((run.stdout, run.status, run.error.name, run.error.line), ("", 1, "SyntaxError", 2))
        run = Run("print('ran')\nreturn 5\n")
        self.assertEqual((run.stdout, run.error.name, run.error.line), ("", "SyntaxError", 2))
        self.assertIn("    return 5\n", run.error.traceback)
        run = Run("if True:\nprint(1)\n")
        self.assertEqual((run.error.name, run.error.line), ("IndentationError", 2))

    def test_chained_causes_are_kept(self):
        run = Run("try:\n    int('x')\nexcept ValueError as e:\n    raise RuntimeError('wrapped') from e\n")
        self.assertIn("ValueError: invalid literal", run.error.traceback)
        self.assertIn("direct cause", run.error.traceback)
        self.assertEqual(run.error.line, 4)

    def test_groups_and_notes(self):
        run = Run("e = ValueError('inner'); e.add_note('a hint')\nraise ExceptionGroup('many', [e])")
        self.assertIn("a hint", run.error.traceback)
        self.assertEqual(run.error.name, "ExceptionGroup")

    def test_errors_that_cannot_be_shown(self):
        run = Run("class E(Exception):\n    def __str__(self): raise TypeError\nraise E()")
        self.assertEqual((run.status, run.error.name), (1, "E"))
        run = Run("raise ValueError('\\ud800' + 'x' * 100_000)")
        self.assertLess(len(run.error.value), 9_000)
        self.assertTrue(run.error.value.startswith("?xxx"))

    def test_exit_statuses(self):
        for code, status in {
            "import sys; sys.exit()": 0,
            "import sys; sys.exit(3)": 3,
            "import sys; sys.exit(-1)": 255,
            "import sys; sys.exit('bad')": 1,
            "exit(4)": 4,
            "raise KeyboardInterrupt": 130,
            "1 / 0": 1,
        }.items():
            with self.subTest(code):
                self.assertEqual(Run(code).status, status)
        run = Run("import sys; sys.exit('bad')")
        self.assertEqual((run.stderr, run.of("error")), ("bad\n", []))

    def test_deep_recursion(self):
        run = Run("def f(): f()\nf()")
        self.assertEqual((run.error.name, run.status), ("RecursionError", 1))
        self.assertLess(len(run.error.traceback), 4_000)

    def test_own_excepthook_is_called(self):
        run = Run("import sys\nsys.excepthook = lambda *a: print('mine', a[0].__name__)\n1/0")
        import sys

        sys.excepthook = sys.__excepthook__
        self.assertEqual((run.stdout, run.stderr), ("mine ZeroDivisionError\n", ""))


if __name__ == "__main__":
    unittest.main()


class WithoutTheLibrary(unittest.TestCase):
    def test_a_program_that_left_nothing_to_load_with_is_told_its_own_frames(self):
        from casemate_guest import errors, plain

        code = "def f():\n    raise OSError(24, 'no more')\nf()\n"
        plain.remember_source("p.py", code)
        try:
            exec(compile(code, "p.py", "exec"), {})
        except OSError as error:
            found, before = error, errors.load
        errors.load = None
        try:
            name, value, text, line = errors.describe(found, "p.py")
        finally:
            errors.load = before
        self.assertEqual((name, value, line), ("OSError", "[Errno 24] no more", 2))
        self.assertEqual(
            text,
            'Traceback (most recent call last):\n  File "p.py", line 3, in <module>\n    f()\n'
            '  File "p.py", line 2, in f\n    raise OSError(24, \'no more\')\nOSError: [Errno 24] no more\n',
        )


class Json(unittest.TestCase):
    def test_what_is_read_and_written_is_what_the_package_makes_of_it(self):
        import json

        from casemate_guest import wire

        values = [None, True, -1, 1e300, 0.1, "", 'é"\\\u2028\x00\n😀', [], {}, {"a": [1, {"b": None}], "": "x" * 70000}]
        for value in [*values, values]:
            data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
            self.assertEqual(wire.encode(value), data)
            self.assertEqual(wire.decode(data), value)
            self.assertEqual(wire.decode(json.dumps(value).encode()), value)
        self.assertEqual(wire.encode("\ud800"), b'"?"')

    def test_what_is_not_json_is_an_error(self):
        from casemate_guest import wire

        for data in (b"", b"{", b"[1] 2", b"nul", b'"\xff"', b" 1"):
            with self.assertRaises(ValueError):
                wire.decode(data)
        held = []
        held.append(held)
        for value in (float("nan"), float("inf"), held):
            with self.assertRaises(ValueError):
                wire.encode(value)
        with self.assertRaises(TypeError):
            wire.encode({"a": b"bytes"})
