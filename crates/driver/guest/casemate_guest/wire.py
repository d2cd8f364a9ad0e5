"""JSON by the interpreter's own C code, without the package around it: loading that takes as long as an interpreter.

What is read was written by the host, in one line and without a space; what is written is read by strict parsers.
"""

import _json

# Taken before any user code runs, so that a program that patches `_json` does not cut its own reports off.
_make_encoder, _text = _json.make_encoder, _json.encode_basestring


class _Scanning:
    """What the scanner asks of a decoder."""

    strict = True
    parse_float, parse_int, parse_constant = float, int, float

    def __getattr__(self, name):
        # Every hook there is, or may be in later versions.
        return None


_scan = _json.make_scanner(_Scanning())


def decode(data):
    """The value of JSON as bytes."""
    text = data.decode()
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        end = -1
    if end != len(text):
        raise ValueError("what came is not one value in JSON")
    return value


def _refuse(value):
    raise TypeError(f"a {type(value).__name__} is not a value of JSON")


def encode(value):
    """A value as UTF-8 JSON; a lone surrogate becomes `?`, because no strict parser accepts one."""
    # As the package does it: whoever holds itself is found by what is being written, and no float is outside of JSON.
    write = _make_encoder({}, _refuse, _text, None, ":", ",", False, False, False)
    return "".join(write(value, 0)).encode("utf-8", "replace")
