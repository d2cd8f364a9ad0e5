"""A data frame as typed columns and a preview, in JSON that any reader can take."""

import datetime
import math

import numpy
import pandas

MIME = "application/vnd.casemate.table+json"
MAX_ROWS = 50
MAX_COLUMNS = 200
MAX_CELL = 200

# The kind letter of a numpy dtype, in words.
_KINDS = {
    "b": "boolean",
    "i": "integer",
    "u": "integer",
    "f": "number",
    "c": "complex",
    "M": "datetime",
    "m": "duration",
    "U": "string",
    "S": "bytes",
    "T": "string",
}


def describe(frame):
    """Columns, row count and at most `MAX_ROWS` rows of a DataFrame or Series."""
    if isinstance(frame, pandas.Series):
        frame = frame.to_frame(name=frame.name if frame.name is not None else "value")
    head = frame.iloc[:MAX_ROWS, :MAX_COLUMNS]
    columns = [*_index_columns(head.index), *_data_columns(head)]
    return {
        "columns": [description for description, _ in columns],
        "column_count": len(columns) + max(0, frame.shape[1] - MAX_COLUMNS),
        "row_count": len(frame),
        "preview_rows": [list(row) for row in zip(*(cells for _, cells in columns))],
    }


def _index_columns(index):
    """The levels of an index as columns, unless it only counts the rows."""
    if isinstance(index, pandas.RangeIndex) and index.name is None:
        return
    for number in range(index.nlevels):
        values = index.get_level_values(number)
        name = values.name if values.name is not None else ("index" if index.nlevels == 1 else f"level_{number}")
        yield {**_description(name, values), "index": True}, _cells(values)


def _data_columns(frame):
    for position in range(frame.shape[1]):
        values = frame.iloc[:, position]
        yield _description(frame.columns[position], values), _cells(values)


def _description(name, values):
    if isinstance(name, tuple):
        name = " / ".join(str(part) for part in name if part != "")
    return {"name": _text(name), "dtype": str(values.dtype), "type": _type(values)}


def _type(values):
    dtype = values.dtype
    if isinstance(dtype, pandas.CategoricalDtype):
        return "category"
    if isinstance(dtype, pandas.PeriodDtype):
        return "period"
    if isinstance(dtype, pandas.StringDtype):
        return "string"
    if dtype.kind != "O":
        return _KINDS.get(dtype.kind, "other")
    return _KINDS_OF_OBJECTS.get(pandas.api.types.infer_dtype(values, skipna=True), "object")


_KINDS_OF_OBJECTS = {
    "string": "string",
    "boolean": "boolean",
    "integer": "integer",
    "floating": "number",
    "mixed-integer-float": "number",
    "decimal": "number",
    "datetime": "datetime",
    "date": "datetime",
    "timedelta": "duration",
}


def _cells(values):
    return [cell(value) for value in values.tolist()]


def cell(value):
    """One value as JSON: missing is null, times are ISO 8601, what JSON cannot say is short text."""
    if value is None or value is pandas.NaT or value is pandas.NA:
        return None
    if isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Larger integers lose digits in readers that hold numbers as doubles.
        return value if abs(value) <= 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else (None if math.isnan(value) else str(value))
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    return _text(value)


def _text(value):
    text = str(value)
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 3] + "..."
