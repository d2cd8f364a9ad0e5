"""IPython's shell where processes are real: the shell's commands are there, and nothing is kept between runs."""

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir

from . import display, observe, shell


class _NoProfile(ProfileDir):
    """A profile that is not a folder: nothing is read from one and nothing is kept in one."""

    def check_dirs(self):
        """There is none."""


class NativeShell(shell.Shell):
    """The guest's shell, with the shell's commands."""

    system = system_piped = system_raw = InteractiveShell.system_raw
    getoutput = InteractiveShell.getoutput

    def init_ipython_dir(self, ipython_dir):
        """There is none."""

    def init_profile_dir(self, profile_dir):
        """There is none."""
        self.profile_dir = _NoProfile()

    def init_magics(self):
        """All of IPython's magics; those that would fetch packages say so at once."""
        super(shell.Shell, self).init_magics()
        for name in shell._INSTALLERS:
            self.magics_manager.magics["line"][name] = _no_installer(name)


class LateShell(NativeShell):
    """The same around a program that may be running already."""

    def init_user_ns(self):
        """The names are the program's."""


def _no_installer(name):
    def magic(line, cell=""):
        raise observe.network_denied(f"%{name} {line}".strip())

    return magic


def make(module):
    """The shell around the program's module, with our representations by name."""
    return shell.create(LateShell, display.register_by_name, user_module=module, user_ns=module.__dict__)
