"""IPython's interactive shell, without a terminal, a history or colours, running programs as programs."""

import ast
import asyncio
import atexit
import builtins
import inspect
import os
import sys

from IPython.core.compilerop import CachingCompiler
from IPython.core.display_functions import display as show
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from . import display, errors
from .observe import process_denied
from .plain import UNREADABLE, ends_quietly, flush, remember_source, with_line

_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class Compiler(CachingCompiler):
    """Names code after the program's file, and does not parse what was parsed already."""

    name = "program.py"
    parsed = (None, None)

    def __init__(self):
        super().__init__()
        self.reset_compiler_flags()

    def reset_compiler_flags(self):
        """No flags: a program is whole, where a line typed at a prompt may go on."""
        self.flags = 0

    def cache(self, transformed_code, number=0, raw_code=None):
        """Register the source for tracebacks under the program's name."""
        remember_source(self.name, raw_code or transformed_code)
        return self.name

    def ast_parse(self, source, filename="<unknown>", symbol="exec"):
        """The tree of `source`, from the parse that decided how to read it if there was one."""
        parsed, self.parsed = self.parsed, (None, None)
        return parsed[1] if parsed[0] is source else super().ast_parse(source, filename, symbol)


class Shell(InteractiveShell):
    """The guest's shell. One exists; it is made before the snapshot."""

    compiler_class = Type(Compiler)
    displayhook_class = Type(display.Hook)
    display_pub_class = Type(display.Publisher)
    last_is_quiet = False
    keeps_results = False
    channel = None
    _program = None
    _runner = None

    def init_virtualenv(self):
        """There is no virtual environment in the guest."""

    def init_completer(self):
        """Nobody types here."""

    def init_logstart(self):
        """Nothing is logged to files."""

    def init_magics(self):
        """All of IPython's magics; those that would start another program say so at once."""
        super().init_magics()
        magics = self.magics_manager.magics
        for name in _INSTALLERS:
            magics["line"][name] = _denied_magic(f"%{name}")
        for name in _SCRIPTS:
            magics["cell"][name] = _denied_magic(f"%%{name}")

    def send_bundle(self, origin, data, metadata):
        """Send one result; what was printed before it goes out first."""
        if self.channel is not None:
            flush(sys.stdout)
            display.send_bundle(self.channel, origin, data, metadata)

    def execute(self, source, name):
        """Run a program and return the exception that ended it, or None."""
        self.compile.name = name
        try:
            source = self._readable(source, name)
        except UNREADABLE as error:
            remember_source(name, source)
            return error
        self._program = source
        if ("await" in source or "async" in source) and self._awaits(source, name):
            result = self._run_in_loop(source)
        else:
            result = _drive(self.run_cell_async(source, transformed_cell=source))
        return with_line(result.error_before_exec, source, name) or result.error_in_exec

    def _readable(self, source, name):
        """The source as plain Python: as it is when it parses, else with IPython's syntax translated."""
        try:
            tree = self.compile.ast_parse(source, filename=name)
        except SyntaxError as error:
            translated = self._translated(source)
            if translated.rstrip() == source.rstrip():
                raise error from None
            source, tree = translated, self.compile.ast_parse(translated, filename=name)
            # `%cd` and its relatives keep the folders they visited here.
            self.user_ns.setdefault("_dh", [os.getcwd()])
        self.compile.parsed = (source, tree)
        self.last_is_quiet = ends_quietly(source, tree)
        return source

    def _translated(self, source):
        try:
            return self.transform_cell(source)
        except SyntaxError:
            return source

    def _awaits(self, source, name):
        try:
            code = compile(source, name, "exec", self.compile.flags | _AWAIT, True)
        except SyntaxError:
            return False
        return bool(code.co_flags & inspect.CO_COROUTINE)

    def _run_in_loop(self, source):
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(self.run_cell_async(source, transformed_cell=source))

    def end_loop(self):
        """Close the event loop that top-level `await` used, if it did."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()

    async def run_ast_nodes(self, nodelist, cell_name, interactivity="last_expr", compiler=compile, result=None):
        """Compile everything before running anything, as `python FILE` does; the last expression is shown."""
        shown = interactivity != "none" and nodelist and isinstance(nodelist[-1], ast.Expr)
        body = nodelist[:-1] if shown else nodelist
        units = []
        try:
            with compiler.extra_flags(_AWAIT):
                if body:
                    units.append(compiler(ast.Module(body, []), cell_name, "exec"))
                if shown:
                    units.append(compiler(ast.Interactive(nodelist[-1:]), cell_name, "single"))
        except UNREADABLE as error:
            result.error_before_exec = error
            return True
        for code in units:
            if await self.run_code(code, result, async_=bool(code.co_flags & inspect.CO_COROUTINE)):
                return True
        return False

    async def run_code(self, code_obj, result=None, *, async_=False):
        """Run one code object in the program's namespace; True when it raised."""
        try:
            if async_:
                await eval(code_obj, self.user_ns)
            else:
                exec(code_obj, self.user_ns)
        except BaseException as error:
            if result is not None:
                result.error_in_exec = error
            if result is None or result.info.raw_cell is not self._program:
                self.showtraceback()
            return True
        return False

    def showtraceback(self, exc_tuple=None, *args, **kwargs):
        """An error inside a representation or a nested cell, as text."""
        error = exc_tuple[1] if exc_tuple else sys.exception()
        if error is not None:
            print(errors.describe(error, self.compile.name)[2], end="", file=sys.stderr)

    showsyntaxerror = showindentationerror = showtraceback

    def enable_matplotlib(self, gui=None):
        """`%matplotlib` in any form: figures are captured already."""
        return "agg", "agg"

    def enable_gui(self, gui=None):
        """There are no windows."""

    def magic(self, line):
        """`get_ipython().magic("matplotlib inline")`, the old way to say `%matplotlib inline`."""
        name, _, rest = line.strip().partition(" ")
        return self.run_line_magic(name.lstrip("%"), rest)

    def system(self, cmd):
        """`!command` and `%sx`."""
        raise process_denied(f"!{cmd}")

    system_piped = system_raw = system

    def getoutput(self, cmd, split=True, depth=0):
        """`x = !command`."""
        raise process_denied(f"!{cmd}")


_INSTALLERS = ("pip", "conda", "mamba", "micromamba", "uv")
_SCRIPTS = ("bash", "sh", "script", "perl", "ruby", "python", "python2", "python3", "pypy", "sx", "system", "!")


def _denied_magic(name):
    def magic(line, cell=""):
        raise process_denied(" ".join([name, line, cell]).strip())

    return magic


def _drive(coroutine):
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("the program waited for an event loop where there is none")


def create(kind=Shell, register=display.register, **around):
    """Make the shell, `around` a module if given. It writes nothing and keeps nothing between programs."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.cache_size = 0
    config.InteractiveShell.autoindent = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.history_load_length = 0
    shell = kind.instance(config=config, **around)
    # It would close the history, and every program ends by running the exit functions.
    atexit.unregister(shell.atexit_operations)
    shell.autoawait = True
    # `exit()` ends a program, and `get_ipython` stays a builtin below: nothing to swap at each run.
    shell.builtin_trap.auto_builtins = {}
    register(shell.display_formatter)
    builtins.get_ipython = shell.get_ipython
    builtins.display = show
    return shell
