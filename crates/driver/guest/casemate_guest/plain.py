"""A program as plain Python: what runs it where nothing of IPython's is needed, which is loaded when it is.

Loading IPython takes longer than most programs run. What needs it: a value to be shown, a magic, a top-level
`await`, and a program that asks for it.
"""

import __future__
import _ast
import builtins
import sys

from .late import AfterImport

_AWAIT = _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_ANNOTATIONS = __future__.annotations.compiler_flag
_COROUTINE = 0x80
# What stands for a program that cannot be compiled at all.
UNREADABLE = (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError)


def flush(stream):
    """Flush a stream the program may have closed or replaced with something that is none."""
    try:
        stream.flush()
    except (OSError, ValueError, AttributeError):
        # There is nothing left to write.
        pass


# The programs that are to be found once somebody loads what finds them.
_sources = {}


def remember_source(name, source):
    """Let `linecache`, and so tracebacks, warnings and `inspect`, find the program's lines."""
    entry = (len(source), None, source.splitlines(True), name)
    if "linecache" in sys.modules:
        _hand_over(sys.modules["linecache"], {name: entry})
    else:
        _sources[name] = entry


def remembered_line(name, number):
    """A line of a program that was remembered, counted from 1, or nothing."""
    loaded = getattr(sys.modules.get("linecache"), "cache", _sources)
    lines = (loaded.get(name) or (0, None, [], name))[2]
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def _hand_over(linecache, sources):
    cache = getattr(linecache, "cache", None)
    # The program may have a module of that name.
    if isinstance(cache, dict):
        cache.update(sources)
    _sources.clear()


if "linecache" not in sys.modules:
    sys.meta_path.insert(0, AfterImport("linecache", lambda linecache: _hand_over(linecache, _sources)))


def with_line(error, source, name):
    """A syntax error found in a tree does not carry its line of the source: add it."""
    if isinstance(error, SyntaxError) and error.text is None and error.filename == name and error.lineno:
        lines = source.splitlines()
        if error.lineno <= len(lines):
            error.text = lines[error.lineno - 1]
    return error


def ends_quietly(source, tree):
    """Whether the last expression is followed by a semicolon, which hides its value."""
    if not tree.body or not isinstance(tree.body[-1], _ast.Expr) or ";" not in source:
        return False
    last = tree.body[-1]
    lines = source.splitlines()
    rest = lines[last.end_lineno - 1].encode()[last.end_col_offset :].decode("utf-8", "replace")
    return rest.lstrip().startswith(";")


def _units(tree, name):
    """Everything compiled before anything runs, as `python FILE` does; the last expression on its own."""
    shown = bool(tree.body) and isinstance(tree.body[-1], _ast.Expr)
    body = tree.body[:-1] if shown else tree.body
    units = []
    if body:
        units.append(compile(_ast.Module(body, []), name, "exec", _AWAIT, True))
    if shown:
        future = units[0].co_flags & _ANNOTATIONS if units else 0
        units.append(compile(_ast.Interactive(tree.body[-1:]), name, "single", _AWAIT | future, True))
    return units


# What IPython puts into one line, in characters.
_LINE = 79


def _in_one_line(value):
    """The text that IPython would show for a plain value, without it; None where it may show another."""
    kind, parts = type(value), (value,)
    if kind in (list, tuple, dict):
        if len(value) > _LINE:
            return None
        parts = (*value, *value.values()) if kind is dict else value
    if not all(map(_is_short, parts)):
        return None
    text = repr(value)
    return text if len(text) < _LINE else None


def _is_short(part):
    kind = type(part)
    if kind in (str, bytes):
        return len(part) < _LINE
    return part.bit_length() < 200 if kind is int else kind in (bool, float, complex)


class PlainShell:
    """What `shell.Shell` is to a run. `make` makes the whole shell around the program's module."""

    def __init__(self, make):
        self.user_module = type(sys)("__main__")
        self.user_ns = self.user_module.__dict__
        self.keeps_results = False
        self._make, self._whole, self._making = make, None, False
        self._channel, self._name = None, "program.py"
        builtins.get_ipython, builtins.display = self.whole, self._display

    @property
    def channel(self):
        """Where results go."""
        return self._channel

    @channel.setter
    def channel(self, channel):
        self._channel = channel
        if self._whole is not None:
            self._whole.channel = channel

    def whole(self):
        """IPython's shell, made when it is first needed."""
        if self._whole is None and not self._making:
            self._making = True
            try:
                self._whole = self._make(self.user_module)
            finally:
                self._making = False
            self._whole.channel, self._whole.keeps_results = self._channel, self.keeps_results
            self._whole.compile.name = self._name
        return self._whole

    def execute(self, source, name):
        """Run a program and return the exception that ended it, or None."""
        self._name = name
        if self._whole is not None:
            self._whole.compile.name, self._whole.keeps_results = name, self.keeps_results
        remember_source(name, source)
        try:
            tree = compile(source, name, "exec", _ast.PyCF_ONLY_AST, True)
        except SyntaxError:
            # Perhaps it is IPython's.
            return self.whole().execute(source, name)
        except UNREADABLE as error:
            return error
        try:
            units = _units(tree, name)
        except UNREADABLE as error:
            return with_line(error, source, name)
        if self.keeps_results or any(unit.co_flags & _COROUTINE for unit in units):
            return self.whole().execute(source, name)
        return self._run(units, self._nothing if ends_quietly(source, tree) else self._show)

    def _run(self, units, show):
        before, sys.displayhook = sys.displayhook, show
        try:
            for unit in units:
                exec(unit, self.user_ns)
        except BaseException as error:
            return error
        finally:
            sys.displayhook = before
        return None

    def _nothing(self, value):
        """The value is not to be shown."""

    def _show(self, value):
        if value is None:
            return
        text = None if self._whole is not None else _in_one_line(value)
        if text is not None:
            self._show_text(text)
            return
        try:
            whole = self.whole()
        except (OSError, MemoryError, ImportError):
            # The program left no descriptor or memory to load more with: its text is a result as well.
            self._show_text(repr(value))
            return
        whole.last_is_quiet = False
        whole.displayhook(value)

    def _show_text(self, text):
        flush(sys.stdout)
        self._channel.display("expression", [("text/plain", text.encode("utf-8", "replace"))], {})

    def _display(self, *values, **options):
        """IPython's `display`."""
        self.whole()
        from IPython.display import display

        return display(*values, **options)

    def end_loop(self):
        """Close the event loop that top-level `await` used, if it did."""
        if self._whole is not None:
            self._whole.end_loop()
