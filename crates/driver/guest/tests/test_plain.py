"""What is shown without IPython is what IPython would show."""

import unittest

from casemate_guest.plain import _in_one_line

from .support import needs_libraries


class Wide(int):
    """A number with a text of its own."""

    def __repr__(self):
        return "wide"


class ShownWithoutIPython(unittest.TestCase):
    @needs_libraries
    def test_the_text_is_that_of_ipython(self):
        from IPython.core.formatters import PlainTextFormatter

        ipython = PlainTextFormatter()
        values = (0, True, -1.5, 1e300, float("nan"), 2j, "a'b\n\tü", b"\0x", [], (), {}, (1,), [1, "a", False])
        values += ({"a": 1, 2: "b"}, ["x" * 10] * 5, "y" * 70, [1.0, 2.5], {"k": "v" * 60}, 2**190)
        for value in values:
            with self.subTest(value=value):
                self.assertEqual(_in_one_line(value), ipython(value))

    def test_others_are_left_to_ipython(self):
        values = (Wide(1), [Wide(1)], {1, 2}, [[1]], {"a": []}, "z" * 80, list(range(80)), ["x" * 30] * 3, 2**300, object())
        for value in values:
            with self.subTest(value=value):
                self.assertIsNone(_in_one_line(value))
