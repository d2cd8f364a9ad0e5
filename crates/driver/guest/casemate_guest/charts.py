"""A matplotlib figure as data: what it plots, not how it looks.

The shape is the one the `e2b-charts` format made common: a `type`, a `title`, `elements`, and for charts
with axes their labels, units, ticks and scales. A figure with several charts is a `superchart`.
"""

import math
import re

import numpy
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.category import StrCategoryConverter
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.patches import Wedge

MIME = "application/vnd.casemate.chart+json"
MAX_POINTS = 2_000
MAX_ELEMENTS = 200
MAX_TICKS = 100
MAX_AXES = 32

_UNIT = re.compile(r"[(\[]([^()\[\]]+)[)\]]\s*$")
_BOXES = "_casemate_boxes"


def install():
    """Keep the statistics of box plots, which the drawn artists no longer tell apart from lines."""
    original = Axes.bxp

    def bxp(self, bxpstats, *args, **kwargs):
        bxpstats = list(bxpstats)
        drawn = original(self, bxpstats, *args, **kwargs)
        lines = {id(line) for part in ("whiskers", "caps", "medians", "means", "fliers") for line in drawn[part]}
        boxes = {id(box) for box in drawn["boxes"]}
        setattr(self, _BOXES, [*getattr(self, _BOXES, ()), (bxpstats, lines | boxes)])
        return drawn

    bxp.__doc__, bxp.__wrapped__ = original.__doc__, original
    Axes.bxp = bxp


def describe(figure):
    """The figure's chart, or `{"type": "unknown", ...}` when it plots nothing this format has a word for."""
    charts = [chart for axes in _plot_axes(figure) for chart in _charts(axes)]
    title = figure.get_suptitle() or None
    if not charts:
        titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
        return {"type": "unknown", "title": title or (titles[0] if titles else None), "elements": []}
    if len(charts) == 1:
        charts[0]["title"] = charts[0]["title"] or title
        return charts[0]
    return {"type": "superchart", "title": title or charts[0]["title"], "elements": charts}


def _plot_axes(figure):
    axes = [a for a in figure.axes if a.get_visible() and a.get_label() != "<colorbar>"]
    return axes[:MAX_AXES]


def _charts(axes):
    """The charts of one axes: a bar chart with a line over it is two of them."""
    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    if wedges:
        return [{"type": "pie", "title": _title(axes), "elements": _slices(wedges)}]
    found = [
        ("box_and_whisker", _boxes(axes)),
        ("bar", _bars(axes)),
        ("scatter", _scatters(axes)),
        ("line", _lines(axes)),
    ]
    frame = None
    charts = []
    for kind, elements in found:
        if elements:
            frame = frame or _frame(axes)
            points = kind in ("scatter", "line")
            keys = frame if points else {key: frame[key] for key in ("x_label", "y_label", "x_unit", "y_unit")}
            charts.append({"type": kind, "title": _title(axes), **keys, "elements": elements})
    return charts


def _title(axes):
    return axes.get_title() or axes.get_title("left") or axes.get_title("right") or None


def _frame(axes):
    frame = {}
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        label = axis.get_label_text() or None
        unit = _UNIT.search(label) if label else None
        ticks, labels = _ticks(axes, axis)
        frame |= {
            f"{name}_label": label,
            f"{name}_unit": unit[1].strip() if unit else None,
            f"{name}_ticks": ticks,
            f"{name}_tick_labels": labels,
            f"{name}_scale": _scale(axes, axis),
        }
    return frame


def _ticks(axes, axis):
    low, high = sorted(axis.get_view_interval())
    locations = axis.get_majorticklocs()
    labels = axis.get_major_formatter().format_ticks(locations)
    inside = [(at, text) for at, text in zip(locations, labels) if low <= at <= high][:MAX_TICKS]
    return [_at(axes, axis, at) for at, _ in inside], [str(text) for _, text in inside]


def _scale(axes, axis):
    if _is_time(axes, axis):
        return "datetime"
    if isinstance(axis.get_converter(), StrCategoryConverter):
        return "categorical"
    return axis.get_scale()


def _is_time(axes, axis):
    return isinstance(axis.get_converter(), _TIME_CONVERTERS) or _frequency(axes, axis) is not None


_TIME_CONVERTERS = (dates.DateConverter, dates.ConciseDateConverter, dates._SwitchableDateConverter)


def _frequency(axes, axis):
    """The period frequency of an axis on which pandas plots a time series as ordinals."""
    return getattr(axes, "freq", None) if axis is axes.xaxis else None


def _at(axes, axis, value):
    """A coordinate on an axis in the words of the data: a number, an ISO time, a category."""
    if isinstance(value, str):
        return value
    if hasattr(value, "to_timestamp"):
        value = value.to_timestamp()
    if hasattr(value, "isoformat"):
        return _iso(value)
    if isinstance(value, numpy.datetime64):
        return str(value.astype("datetime64[ms]"))
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)[:200]
    if not math.isfinite(number):
        return None
    if _is_time(axes, axis):
        return _time(_frequency(axes, axis), number)
    if isinstance(axis.get_converter(), StrCategoryConverter) and axis.units is not None:
        names = {place: name for name, place in axis.units._mapping.items()}
        return names.get(number, number)
    return number


def _time(frequency, number):
    if frequency is None:
        return _iso(dates.num2date(number).replace(tzinfo=None))
    from pandas import Period

    return _iso(Period(ordinal=int(number), freq=frequency).to_timestamp())


def _iso(moment):
    text = moment.isoformat()
    return text if "T" in text else f"{text}T00:00:00"


def _points(axes, xs, ys):
    """At most `MAX_POINTS` evenly taken points."""
    count = min(len(xs), len(ys))
    step = -(-count // MAX_POINTS) or 1
    pairs = zip(xs[:count:step], ys[:count:step])
    return [[_at(axes, axes.xaxis, x), _at(axes, axes.yaxis, y)] for x, y in pairs]


def _series(axes, artist, xs, ys):
    label = str(artist.get_label())
    element = {"label": "" if label.startswith("_") else label, "points": _points(axes, xs, ys)}
    if len(xs) > MAX_POINTS:
        element["point_count"] = len(xs)
    return element


def _lines(axes):
    """Plotted lines; reference lines (`axhline`), error bars and the parts of box plots are not data."""
    skipped = {part for _, parts in getattr(axes, _BOXES, ()) for part in parts}
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            data, caps, _ = container
            skipped |= {id(line) for line in caps}
            if data is not None:
                data.set_label(container.get_label() or data.get_label())
    lines = [
        line
        for line in axes.lines
        if id(line) not in skipped and line.get_transform() == axes.transData and len(line.get_xdata(orig=False)) > 0
    ]
    return [_series(axes, line, *_line_data(line)) for line in lines[:MAX_ELEMENTS]]


def _line_data(line):
    """The data as given where it can be indexed, so that dates and categories stay themselves."""
    plain = line.get_xdata(orig=False), line.get_ydata(orig=False)
    given = [numpy.ravel(numpy.asarray(data, dtype=object)) for data in line.get_data(orig=True)]
    return [data if len(data) == len(drawn) else drawn for data, drawn in zip(given, plain)]


def _scatters(axes):
    found = []
    for collection in axes.collections[:MAX_ELEMENTS]:
        if isinstance(collection, PathCollection) and len(collection.get_offsets()):
            offsets = numpy.ma.getdata(collection.get_offsets())
            found.append(_series(axes, collection, offsets[:, 0], offsets[:, 1]))
    return found


def _bars(axes):
    elements = []
    for container in axes.containers:
        if isinstance(container, BarContainer) and len(container.patches):
            elements.extend(_bars_of(axes, container))
    return elements[:MAX_ELEMENTS]


def _bars_of(axes, container):
    upright = container.orientation != "horizontal"
    axis = axes.xaxis if upright else axes.yaxis
    group = str(container.get_label())
    group = "" if group.startswith("_") else group
    spans = [_span(bar, upright) for bar in container.patches]
    names = _bar_names(axes, axis, spans)
    for bar, name in zip(container.patches, names):
        value = float(bar.get_height() if upright else bar.get_width())
        yield {"label": name, "group": group, "value": value if math.isfinite(value) else None}


def _span(bar, upright):
    start, extent = (bar.get_x(), bar.get_width()) if upright else (bar.get_y(), bar.get_height())
    return float(start), float(start + extent)


def _bar_names(axes, axis, spans):
    """The tick label nearest to each bar, or a histogram's bin edges, or the position itself."""
    touching = all(math.isclose(a[1], b[0], rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(spans, spans[1:]))
    if touching and len(spans) > 2 and _scale(axes, axis) not in ("categorical", "datetime"):
        return [f"{start:g} to {end:g}" for start, end in spans]
    locations = axis.get_majorticklocs()
    labels = [str(text) for text in axis.get_major_formatter().format_ticks(locations)]
    names = []
    for start, end in spans:
        middle, width = (start + end) / 2, abs(end - start) or 1.0
        near = min(range(len(locations)), key=lambda i: abs(locations[i] - middle), default=None)
        if near is not None and abs(locations[near] - middle) <= width and labels[near]:
            names.append(labels[near])
        else:
            names.append(str(_at(axes, axis, middle)))
    return names


def _boxes(axes):
    elements = []
    for statistics, _ in getattr(axes, _BOXES, ()):
        for number, box in enumerate(statistics):
            elements.append(
                {
                    "label": str(box.get("label", number + 1)),
                    "min": float(box["whislo"]),
                    "first_quartile": float(box["q1"]),
                    "median": float(box["med"]),
                    "third_quartile": float(box["q3"]),
                    "max": float(box["whishi"]),
                    "outliers": [float(value) for value in list(box.get("fliers", ()))[:MAX_POINTS]],
                }
            )
    return elements[:MAX_ELEMENTS]


def _slices(wedges):
    return [
        {
            "label": "" if str(wedge.get_label()).startswith("_") else str(wedge.get_label()),
            # Wedges are kept in single precision: round the noise away.
            "angle": round(float(wedge.theta2 - wedge.theta1), 3),
            "radius": round(float(wedge.r), 6),
        }
        for wedge in wedges[:MAX_ELEMENTS]
    ]
