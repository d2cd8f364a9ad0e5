"""Figures as data, in the shape of the `e2b-charts` format."""

import unittest

from .support import Run, needs_libraries

PLOT = "import matplotlib.pyplot as plt, numpy as np, datetime\n"


def chart(code):
    return Run(PLOT + code + "\nplt.show()").chart()


@needs_libraries
class Charts(unittest.TestCase):
    def test_line_with_dates_and_units(self):
        found = chart(
            "days = [datetime.date(2023, 9, 1) + datetime.timedelta(days=i) for i in range(30)]\n"
            "plt.plot(days, np.arange(30), label='up'); plt.plot(days, -np.arange(30))\n"
            "plt.xlabel('Time (s)'); plt.ylabel('Amplitude [Hz]'); plt.title('Both')"
        )
        self.assertEqual(found["type"], "line")
        self.assertEqual((found["title"], found["x_unit"], found["y_unit"]), ("Both", "s", "Hz"))
        self.assertEqual((found["x_scale"], found["y_scale"]), ("datetime", "linear"))
        self.assertEqual([series["label"] for series in found["elements"]], ["up", ""])
        self.assertEqual(found["elements"][0]["points"][0], ["2023-09-01T00:00:00", 0.0])
        self.assertTrue(all(isinstance(tick, str) for tick in found["x_ticks"]))
        self.assertEqual(len(found["x_ticks"]), len(found["x_tick_labels"]))

    def test_log_scale(self):
        found = chart("plt.plot([1, 2, 3], [10, 100, 1000]); plt.yscale('log'); plt.ylabel('Y (log scale)')")
        self.assertEqual((found["x_scale"], found["y_scale"], found["y_unit"]), ("linear", "log", "log scale"))
        self.assertTrue(all(isinstance(tick, float) for tick in found["x_ticks"] + found["y_ticks"]))

    def test_categories(self):
        found = chart("plt.plot([1, 2, 3], ['A', 'B', 'C'])")
        self.assertEqual((found["x_scale"], found["y_scale"]), ("linear", "categorical"))
        self.assertEqual(found["elements"][0]["points"], [[1.0, "A"], [2.0, "B"], [3.0, "C"]])

    def test_scatter(self):
        found = chart(
            "plt.scatter([1, 2], [3, 4], label='one'); plt.scatter([5, 6, 7], [1, np.nan, 2], label='two')\n"
            "plt.xlabel('A'); plt.ylabel('B')"
        )
        self.assertEqual((found["type"], found["title"], found["x_label"]), ("scatter", None, "A"))
        self.assertEqual(found["elements"][0], {"label": "one", "points": [[1.0, 3.0], [2.0, 4.0]]})
        self.assertEqual(found["elements"][1]["points"][1], [6.0, None])

    def test_bars(self):
        found = chart("plt.bar(['Author A', 'Author B'], [100, 200], label='Books'); plt.ylabel('Sold')")
        self.assertEqual((found["type"], found["y_label"]), ("bar", "Sold"))
        self.assertEqual(
            found["elements"],
            [
                {"label": "Author A", "group": "Books", "value": 100.0},
                {"label": "Author B", "group": "Books", "value": 200.0},
            ],
        )

    def test_horizontal_bars_and_grouped_frame(self):
        found = chart("plt.barh(['x', 'y'], [3, 4])")
        self.assertEqual([(bar["label"], bar["value"]) for bar in found["elements"]], [("x", 3.0), ("y", 4.0)])
        found = chart("import pandas as pd\npd.DataFrame({'u': [1, 2], 'v': [3, 4]}, index=['p', 'q']).plot.bar()")
        self.assertEqual(
            [(bar["group"], bar["label"], bar["value"]) for bar in found["elements"]],
            [("u", "p", 1.0), ("u", "q", 2.0), ("v", "p", 3.0), ("v", "q", 4.0)],
        )

    def test_histogram_bins_are_labels(self):
        found = chart("plt.hist([0, 1, 1, 2, 2, 2, 3, 4], bins=4)")
        self.assertEqual([bar["label"] for bar in found["elements"]], ["0 to 1", "1 to 2", "2 to 3", "3 to 4"])
        self.assertEqual([bar["value"] for bar in found["elements"]], [1.0, 2.0, 3.0, 2.0])

    def test_boxes(self):
        found = chart(
            "data = {'A': [85, 90, 78, 92, 88], 'B': [95, 89, 76, 91, 84, 87], 'C': [75, 82, 88, 79, 86]}\n"
            "fig, ax = plt.subplots(); ax.boxplot(data.values(), tick_labels=data.keys(), patch_artist=True)\n"
            "ax.set_xlabel('Class')"
        )
        self.assertEqual((found["type"], found["x_label"]), ("box_and_whisker", "Class"))
        boxes = found["elements"]
        self.assertEqual([box["label"] for box in boxes], ["A", "B", "C"])
        self.assertEqual([box["outliers"] for box in boxes], [[], [76.0], []])
        self.assertEqual([box["min"] for box in boxes], [78.0, 84.0, 75.0])
        self.assertEqual([box["first_quartile"] for box in boxes], [85.0, 84.75, 79.0])
        self.assertEqual([box["max"] for box in boxes], [92.0, 95.0, 88.0])

    def test_pie(self):
        found = chart("plt.pie([90, 10], labels=['No', 'Yes'], autopct='%1.1f%%'); plt.title('Early?')")
        self.assertEqual((found["type"], found["title"]), ("pie", "Early?"))
        self.assertEqual(
            found["elements"],
            [{"label": "No", "angle": 324.0, "radius": 1.0}, {"label": "Yes", "angle": 36.0, "radius": 1.0}],
        )

    def test_several_axes_are_a_superchart(self):
        found = chart(
            "fig, axes = plt.subplots(1, 2); fig.suptitle('Many')\n"
            "axes[0].plot([1, 2], [3, 4]); axes[0].set_title('Left'); axes[1].scatter([1], [2])"
        )
        self.assertEqual((found["type"], found["title"]), ("superchart", "Many"))
        self.assertEqual([part["type"] for part in found["elements"]], ["line", "scatter"])
        self.assertEqual(found["elements"][0]["title"], "Left")
        self.assertIsNone(found["elements"][0]["x_label"])

    def test_bars_with_a_line_are_both(self):
        found = chart("plt.bar([1, 2, 4], [3, 4, 5]); plt.plot([1, 2, 4], [3, 4, 5]); plt.axhline(2)")
        self.assertEqual([part["type"] for part in found["elements"]], ["bar", "line"])
        self.assertEqual(len(found["elements"][1]["elements"]), 1)

    def test_pandas_periods_are_times(self):
        found = chart(
            "import pandas as pd\n"
            "pd.Series([1, 2, 3], index=pd.date_range('2024-01-01', periods=3, freq='MS'), name='s').plot()"
        )
        self.assertEqual(found["x_scale"], "datetime")
        self.assertEqual([point[0][:7] for point in found["elements"][0]["points"]], ["2024-01", "2024-02", "2024-03"])
        self.assertTrue(all(tick.startswith("2024") or tick.startswith("2023") for tick in found["x_ticks"]))

    def test_long_series_are_thinned_and_say_so(self):
        (series,) = chart("plt.plot(np.arange(50_000))")["elements"]
        self.assertLessEqual(len(series["points"]), 2_000)
        self.assertEqual(series["point_count"], 50_000)

    def test_unknown_artists(self):
        found = chart("fig, ax = plt.subplots(); ax.add_artist(plt.Circle((0, 0), 1)); plt.title('Circles')")
        self.assertEqual(found, {"type": "unknown", "title": "Circles", "elements": []})
        self.assertEqual(chart("plt.imshow(np.eye(3)); plt.colorbar()")["type"], "unknown")


if __name__ == "__main__":
    unittest.main()
