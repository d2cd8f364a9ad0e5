"""IPython's display machinery with our channel at its end."""

import base64
import binascii

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher

from .channel import MAX_TEXT, clip, to_json


def to_bytes(mime, data):
    """One representation as bytes: text as UTF-8, JSON serialised, pictures out of their base64."""
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    if not isinstance(data, str):
        return to_json(data)
    if mime == "text/plain":
        data = clip(data, MAX_TEXT)
    if (mime.startswith("image/") and mime != "image/svg+xml") or mime == "application/pdf":
        return base64.b64decode(data)
    return data.encode("utf-8", "replace")


def send_bundle(channel, origin, data, metadata):
    """Send `{mime: data}`, plain text first; a representation that is not what its type says is left out."""
    mimes = []
    for mime in sorted(data, key=lambda mime: mime != "text/plain"):
        try:
            mimes.append((mime, to_bytes(mime, data[mime])))
        except (TypeError, ValueError, RecursionError, binascii.Error):
            continue
    if mimes:
        channel.display(origin, mimes, metadata)


class Hook(DisplayHook):
    """Shows the value of the last expression."""

    def __call__(self, result=None):
        shell = self.shell
        if result is None or shell.last_is_quiet:
            return
        data, metadata = self.compute_format_data(result)
        if shell.keeps_results:
            shell.user_ns["_"] = result
        self.fill_exec_result(result)
        if data:
            shell.send_bundle("expression", data, metadata)


class Publisher(DisplayPublisher):
    """Shows what `display()` is given."""

    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **kwargs):
        self.shell.send_bundle("display", data, metadata)

    def clear_output(self, wait=False):
        """Results that were sent stay sent."""


def _table_bundle(frame, html):
    from . import tables

    bundle = {"text/plain": repr(frame), tables.MIME: tables.describe(frame)}
    if html is not None:
        bundle["text/html"] = html
    return bundle


def _figure_bundle(figure):
    from . import figures

    return figures.bundle(figure)


def _frame_bundle(frame):
    return _table_bundle(frame, frame._repr_html_())


def _series_bundle(series):
    return _table_bundle(series, series.to_frame()._repr_html_())


def register(formatter):
    """Teach IPython's formatter our representations of figures and tables."""
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

    bundles = formatter.mimebundle_formatter
    bundles.for_type(Figure, _figure_bundle)
    bundles.for_type(DataFrame, _frame_bundle)
    bundles.for_type(Series, _series_bundle)


def register_by_name(formatter):
    """The same without loading what a program may never use."""
    bundles = formatter.mimebundle_formatter
    bundles.for_type_by_name("matplotlib.figure", "Figure", _figure_bundle)
    for module in ("pandas", "pandas.core.frame"):
        bundles.for_type_by_name(module, "DataFrame", _frame_bundle)
    for module in ("pandas", "pandas.core.series"):
        bundles.for_type_by_name(module, "Series", _series_bundle)
