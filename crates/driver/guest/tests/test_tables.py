"""Data frames as typed columns and a preview."""

import unittest

from .support import Run, needs_libraries

MIME = "application/vnd.casemate.table+json"


def table(code):
    (shown,) = Run("import pandas as pd, numpy as np, datetime\n" + code).displays
    return shown.json(MIME)


@needs_libraries
class Tables(unittest.TestCase):
    def test_types_and_missing_values(self):
        found = table(
            "pd.DataFrame({'i': [1, 2], 'f': [1.5, np.nan], 's': ['x', None], 'b': [True, False],\n"
            "  't': pd.to_datetime(['2024-01-02 03:04', None]), 'd': pd.to_timedelta([1, 2], unit='h'),\n"
            "  'c': pd.Categorical(['u', 'v']), 'n': pd.array([1, None], dtype='Int64'), 'inf': [np.inf, -np.inf],\n"
            "  'o': [datetime.date(2024, 1, 2), None], 'm': [[1, 2], {'k': 1}]})"
        )
        types = {column["name"]: column["type"] for column in found["columns"]}
        self.assertEqual(
            types,
            {
                "i": "integer",
                "f": "number",
                "s": "string",
                "b": "boolean",
                "t": "datetime",
                "d": "duration",
                "c": "category",
                "n": "integer",
                "inf": "number",
                "o": "datetime",
                "m": "object",
            },
        )
        first, second = found["preview_rows"]
        self.assertEqual(first[:5], [1, 1.5, "x", True, "2024-01-02T03:04:00"])
        self.assertEqual(second[:5], [2, None, None, False, None])
        self.assertEqual((second[7], first[8], second[8], first[9]), (None, "inf", "-inf", "2024-01-02"))
        self.assertEqual(first[10], "[1, 2]")

    def test_preview_is_bounded_and_counts_are_whole(self):
        found = table("pd.DataFrame({f'c{i}': np.arange(1000) for i in range(300)})")
        self.assertEqual((found["row_count"], found["column_count"]), (1000, 300))
        self.assertEqual((len(found["preview_rows"]), len(found["columns"])), (50, 200))
        self.assertEqual(len(found["preview_rows"][0]), 200)
        found = table("pd.DataFrame({'s': ['x' * 10_000]})")
        self.assertEqual(len(found["preview_rows"][0][0]), 200)

    def test_a_meaningful_index_is_a_column(self):
        found = table("pd.DataFrame({'g': ['a', 'b'], 'n': [1, 2]}).groupby('g').sum()")
        self.assertEqual([(c["name"], c.get("index", False)) for c in found["columns"]], [("g", True), ("n", False)])
        self.assertEqual(found["preview_rows"], [["a", 1], ["b", 2]])

    def test_levels_on_both_sides(self):
        found = table("pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([('a', 'x'), ('a', 'y')]))")
        self.assertEqual([column["name"] for column in found["columns"]], ["a / x", "a / y"])

    def test_series_has_html_and_text(self):
        (shown,) = Run("import pandas as pd\npd.Series([1, 2], name='n')").displays
        self.assertEqual(list(shown.blobs)[0], "text/plain")
        self.assertIn(b"<table", shown.blobs["text/html"])
        self.assertEqual(shown.json(MIME)["columns"][0]["name"], "n")

    def test_empty_and_duplicate_columns(self):
        self.assertEqual(table("pd.DataFrame()")["row_count"], 0)
        found = table("pd.DataFrame([[1, 2]], columns=['a', 'a'])")
        self.assertEqual(found["preview_rows"], [[1, 2]])


if __name__ == "__main__":
    unittest.main()
