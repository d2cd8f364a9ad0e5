"""Figures as results: at `plt.show()`, at `display(figure)`, and at the end of the program."""

import io
import os
import sys
import time

from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import FigureCanvasBase, FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from . import charts
from .channel import to_json
from .errors import is_library

_SAVED = "_casemate_saved"
_SHOWN = "_casemate_shown"
_PNG = b"\x89PNG\r\n\x1a\n"
MAX_FIGURES = 50
# Time for the figures still open when a program ends, and what one pair of axes takes.
END_SECONDS = 4.0
SECONDS_AN_AXES = 0.06

_send = None


class Manager(FigureManagerBase):
    """A manager whose `show` hands the figure to the host instead of warning that there is no window."""

    def __init__(self, canvas, num):
        _close_shown()
        super().__init__(canvas, num)

    @classmethod
    def pyplot_show(cls, *, block=None):
        """Send every open figure; the next thing drawn starts a new one."""
        for figure in _open_figures():
            send(figure)

    def show(self):
        """Send this figure; it stays open, as `Figure.show` leaves it."""
        send(self.canvas.figure)


def install():
    """Route `show` to us and remember what `savefig` drew. Called once, before the snapshot."""
    FigureCanvasAgg.manager_class = Manager
    charts.install()
    original = FigureCanvasBase.print_figure

    def print_figure(self, filename, *args, **kwargs):
        result = original(self, filename, *args, **kwargs)
        _remember(self.figure, filename)
        return result

    print_figure.__doc__, print_figure.__wrapped__ = original.__doc__, original
    FigureCanvasBase.print_figure = print_figure
    _accept_window_backends()
    _start_afresh_after_show()


# What `pyplot` does to the current figure without drawing on it.
_KEEPING = {"savefig", "show", "draw", "close", "gca", "gcf", "sca", "getp", "setp", "get_current_fig_manager", "pause"}


def _start_afresh_after_show():
    """A shown figure is done, as in a notebook, and yet can still be saved or read, as in a script.

    So `plt.show(); plt.savefig(...)` saves what was shown, and `plt.show(); plt.plot(...)` does not draw over it.
    """
    from matplotlib import pyplot

    gcf, gca = pyplot.gcf, pyplot.gca

    def current_figure():
        _leave_shown(sys._getframe(1))
        return gcf()

    def current_axes(**kwargs):
        _leave_shown(sys._getframe(1))
        return gca(**kwargs)

    current_figure.__doc__, current_axes.__doc__ = gcf.__doc__, gca.__doc__
    pyplot.gcf, pyplot.gca = current_figure, current_axes


def _leave_shown(caller):
    """Close shown figures when a `pyplot` function or a library is about to draw."""
    if not Gcf.figs:
        return
    code = caller.f_code
    by_pyplot = caller.f_globals.get("__name__") == "matplotlib.pyplot"
    if code.co_name not in _KEEPING if by_pyplot else is_library(code.co_filename):
        _close_shown()


def _close_shown():
    for manager in list(Gcf.figs.values()):
        figure = manager.canvas.figure
        if getattr(figure, _SHOWN, False) and not figure.stale:
            Gcf.destroy(manager)


def _accept_window_backends():
    """`matplotlib.use("TkAgg")` asks for a window; there is none, and figures are captured all the same."""
    from matplotlib import pyplot

    original = pyplot.switch_backend

    def switch_backend(newbackend):
        try:
            original(newbackend)
        except ImportError:
            original("agg")

    switch_backend.__doc__, switch_backend.__wrapped__ = original.__doc__, original
    pyplot.switch_backend = switch_backend


def bind(send_bundle):
    """Set the receiver of figures: a function from a list of `(mime, bytes)` pairs to nothing."""
    global _send
    _send = send_bundle


def _remember(figure, target):
    """Note where a drawing of this figure lies. Any later change to an artist sets `stale` again."""
    saved = None
    if isinstance(target, (str, os.PathLike)):
        path = os.path.abspath(target)
        if path.lower().endswith(".png"):
            state = os.stat(path)
            saved = (path, state.st_size, state.st_mtime_ns)
    setattr(figure, _SAVED, saved)
    figure.stale = False


def _png(figure):
    saved = getattr(figure, _SAVED, None)
    if saved is not None and not figure.stale:
        data = _saved_bytes(*saved)
        if data is not None:
            return data
    drawn = _draw(figure)
    return _draw(figure, bbox_inches="tight") if _is_cut_off(figure) else drawn


def _draw(figure, **options):
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 3}, **options)
    return drawn.getvalue()


def _is_cut_off(figure):
    """Whether a label lies outside the picture. Asking costs little after a draw; a tight draw costs a second one."""
    try:
        bounds = figure.get_tightbbox()
    except Exception:
        # An artist that cannot say where it is has been drawn all the same.
        return False
    width, height = figure.get_size_inches()
    slack = 0.02
    return bounds.x0 < -slack or bounds.y0 < -slack or bounds.x1 > width + slack or bounds.y1 > height + slack


def _saved_bytes(path, size, modified):
    """The file `savefig` wrote, unless the program has touched it since."""
    try:
        state = os.stat(path)
        if (state.st_size, state.st_mtime_ns) != (size, modified):
            return None
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    return data if data.startswith(_PNG) else None


def bundle(figure):
    """A figure as `{mime: data}`: a line of text, the picture, the data."""
    found = {"text/plain": repr(figure), "image/png": _png(figure), charts.MIME: _chart(figure)}
    setattr(figure, _SHOWN, True)
    figure.stale = False
    return found


def _chart(figure):
    try:
        return to_json(charts.describe(figure))
    except Exception:
        # The picture is the result; an artist this module does not understand must not cost it.
        return to_json({"type": "unknown", "title": None, "elements": []})


def send(figure):
    """Send one figure, unless it is blank or was sent and has not changed since."""
    blank = not (figure.axes or figure.texts or figure.images or figure.lines or figure.patches)
    if blank or (getattr(figure, _SHOWN, False) and not figure.stale):
        return
    _send(
        [
            (mime, data if isinstance(data, bytes) else data.encode("utf-8", "replace"))
            for mime, data in bundle(figure).items()
        ]
    )


def _open_figures():
    managers = sorted(Gcf.figs.values(), key=lambda manager: manager.num)
    return [manager.canvas.figure for manager in managers[:MAX_FIGURES]]


def flush_at_end():
    """Send the figures a program left open, which it did not ask to be drawn.

    So this must not cost it its result: a figure that cannot be drawn, or that would take the drawing past
    `END_SECONDS`, is a line on stderr.
    """
    if not Gcf.figs:
        return
    started, left_out = time.monotonic(), 0
    for figure in _open_figures():
        if time.monotonic() - started + SECONDS_AN_AXES * len(figure.axes) > END_SECONDS:
            left_out += 1
            continue
        try:
            send(figure)
        except Exception as error:
            print(f"a figure could not be drawn: {type(error).__name__}: {error}", file=sys.stderr)
    if left_out:
        print(
            f"{left_out} open figures were not drawn: that takes long; call plt.show() if they matter", file=sys.stderr
        )
    Gcf.destroy_all()
