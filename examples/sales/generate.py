"""Writes sales.csv: two years of orders of an invented outdoor-equipment shop.

Run `python3 generate.py` to write it again; the result is the same, byte for byte, on every Python 3.
Only `random.random()` is drawn from the seeded generator: it is the one method whose sequence Python promises.
"""

import csv
import datetime
import math
import pathlib
import random

SEED = 20240115
FIRST_DAY = datetime.date(2023, 1, 1)
DAYS = 731
ORDERS_A_DAY = 17.0

REGIONS = {"North": 0.27, "South": 0.21, "East": 0.18, "West": 0.24, "Islands": 0.10}
CHANNELS = {"Online": 0.52, "Shop": 0.36, "Partner": 0.12}
SEGMENTS = {"Consumer": 0.68, "Club": 0.20, "Business": 0.12}
# product: (category, list price, weight, day of the year of its peak or None)
PRODUCTS = {
    "Trail boots": ("Footwear", 129.0, 11, 120),
    "Road shoes": ("Footwear", 99.0, 10, 110),
    "Winter boots": ("Footwear", 159.0, 6, 345),
    "Rain jacket": ("Clothing", 89.0, 10, 290),
    "Down jacket": ("Clothing", 219.0, 6, 340),
    "Merino shirt": ("Clothing", 59.0, 12, None),
    "Two-person tent": ("Camping", 249.0, 6, 165),
    "Sleeping bag": ("Camping", 139.0, 7, 160),
    "Gas stove": ("Camping", 45.0, 8, 170),
    "Day pack": ("Packs", 79.0, 10, 140),
    "Touring pack": ("Packs", 169.0, 5, 150),
    "Head torch": ("Accessories", 35.0, 11, 320),
    "Water bottle": ("Accessories", 18.0, 14, 180),
}
COLUMNS = [
    "order_id",
    "date",
    "region",
    "product",
    "category",
    "channel",
    "segment",
    "unit_price",
    "quantity",
    "discount",
]


def pick(rng, weights):
    """One key of `weights`, with probability in proportion to its value."""
    target = rng.random() * sum(weights.values())
    for key, weight in weights.items():
        target -= weight
        if target < 0:
            return key
    return key


def season(day, peak):
    """How much more a product sells on this day of the year than on average."""
    if peak is None:
        return 1.0
    return 1.0 + 0.75 * math.cos(2 * math.pi * (day - peak) / 365.25)


def orders_on(rng, number, date):
    """How many orders a day brings: growth over the two years, a weekly rhythm, a busy December, chance."""
    growth = 1.0 + 0.22 * number / 365
    weekday = (0.90, 0.86, 0.90, 0.97, 1.10, 1.30, 0.97)[date.weekday()]
    december = 1.45 if date.month == 12 and date.day <= 23 else 1.0
    chance = 0.75 + 0.5 * rng.random()
    return round(ORDERS_A_DAY * growth * weekday * december * chance)


def order(rng, number, date):
    """One row."""
    day = date.timetuple().tm_yday
    product = pick(rng, {name: weight * season(day, peak) for name, (_, _, weight, peak) in PRODUCTS.items()})
    category, price, _, _ = PRODUCTS[product]
    segment = pick(rng, SEGMENTS)
    region = pick(rng, REGIONS)
    channel = pick(rng, CHANNELS)
    price = round(price * (1.04 if date.year == 2024 else 1.0) * (1.06 if region == "Islands" else 1.0), 2)
    most = {"Consumer": 3, "Club": 6, "Business": 20}[segment]
    quantity = 1 + int(most * rng.random() ** 2.5)
    discount = pick(rng, {0.0: 70, 0.05: 12, 0.10: 10, 0.15: 5, 0.20: 3 if segment == "Consumer" else 9})
    # What real exports look like: now and then a field was never filled in.
    shown_region = "" if rng.random() < 0.012 else region
    shown_segment = "" if rng.random() < 0.02 else segment
    shown_discount = "" if rng.random() < 0.035 else f"{discount:.2f}"
    return [
        f"SO-{number:06d}",
        date.isoformat(),
        shown_region,
        product,
        category,
        channel,
        shown_segment,
        f"{price:.2f}",
        quantity,
        shown_discount,
    ]


def main():
    """Write sales.csv beside this file."""
    rng = random.Random(SEED)
    rows = []
    for number in range(DAYS):
        date = FIRST_DAY + datetime.timedelta(days=number)
        for _ in range(orders_on(rng, number, date)):
            rows.append(order(rng, len(rows) + 1, date))
    path = pathlib.Path(__file__).with_name("sales.csv")
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"{path.name}: {len(rows)} orders, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
