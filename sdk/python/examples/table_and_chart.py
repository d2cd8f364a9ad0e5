"""A CSV in, a table and a chart out, and both saved: `python table_and_chart.py [FOLDER]`."""

import sys
from pathlib import Path

from casemate import Casemate, Limits

CODE = """
import matplotlib.pyplot as plt
import pandas as pd

orders = pd.read_csv("/data/orders.csv", parse_dates=["month"])
table = orders.pivot(index="month", columns="region", values="revenue")
table.plot(title="Revenue by region")
plt.savefig("/tmp/revenue.png")
table.to_csv("/tmp/revenue.csv")
orders.groupby("region")["revenue"].sum().to_frame()
"""

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")

with Casemate() as casemate:
    orders = Path(__file__).parent / "orders.csv"
    outcome = casemate.run(CODE, files=[orders], limits=Limits(wall_time_ms=20_000)).check()
    print(outcome)
    for row in outcome.tables[0].rows:
        print("row:", *row)
    for path in casemate.save(outcome, folder):
        print("saved", path.relative_to(folder.resolve()), path.stat().st_size, "bytes")

    standing = [wall for wall in outcome.walls if not wall.missing]
    receipt = casemate.receipt(outcome)
    print(f"{outcome.backend}: {len(standing)} of {len(outcome.walls)} walls, policy {receipt.policy}")
