"""Figures for a program that may never draw: matplotlib is loaded when the program loads it, and ours with it.

In a guest that starts from nothing each time, what is not loaded is time that is not spent.
"""

import sys

# Where a program keeps its own modules.
WORK = "/work"


class AfterImport:
    """First on the import path until `name` is loaded; then calls `then` with the module."""

    def __init__(self, name, then):
        self.name, self.then = name, then

    def find_spec(self, name, path=None, target=None):
        """The spec of the one module this waits for, with the call added to its loading."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = _find(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            self.then(module)

        spec.loader.exec_module = exec_module
        return spec


def _find(name, path, target):
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path, target)
        if spec is not None:
            return spec
    return None


def load(name, elsewhere=(WORK,)):
    """One of our modules and what it needs, which are not looked for where the program keeps its own."""
    before = sys.path
    sys.path = [entry for entry in before if entry not in elsewhere]
    try:
        return __import__(f"{__package__}.{name}", fromlist=[name])
    finally:
        sys.path = before


def keep_cache(matplotlib, cache):
    """The list of fonts was made by set-up: making it takes longer than most programs."""
    if cache is not None:
        matplotlib.get_cachedir = lambda: cache


class Figures:
    """What `figures` is to a run, before it is loaded."""

    def __init__(self, cache):
        self._send = None
        self._loaded = None
        self._cache = cache
        sys.meta_path.insert(0, AfterImport("matplotlib.pyplot", self._arrived))
        sys.meta_path.insert(0, AfterImport("matplotlib", self._keep_cache))

    def bind(self, send):
        """Set the receiver of figures."""
        self._send = send
        if self._loaded is not None:
            self._loaded.bind(send)

    def flush_at_end(self):
        """Send the figures a program left open."""
        if self._loaded is not None:
            self._loaded.flush_at_end()

    def _keep_cache(self, matplotlib):
        keep_cache(matplotlib, self._cache)

    def _arrived(self, pyplot):
        from . import figures

        figures.install()
        figures.bind(self._send)
        self._loaded = figures
