//! The programs that are measured: the same text here, in a native Python and in the guest's own runner.

/// The least program.
pub(crate) const HELLO: &str = "print(\"hello\")";

/// A table read and described. Its argument is the CSV file's path.
pub(crate) const READ_CSV: &str = "\
import sys
import pandas as pd

frame = pd.read_csv(sys.argv[1])
print(frame.describe())
";

/// A line chart written as PNG. Its argument is the picture's path.
pub(crate) const CHART: &str = "\
import sys
import matplotlib.pyplot as plt

days = range(1, 366)
for name, step in (('north', 7), ('south', 11)):
    plt.plot(days, [(day * step) % 97 + day / 4 for day in days], label=name)
plt.title('Revenue by day')
plt.xlabel('day')
plt.ylabel('revenue (EUR)')
plt.legend()
plt.grid(True)
plt.savefig(sys.argv[1])
";

/// A session that holds a table and waits to be looked at. Its argument is the CSV file's path.
pub(crate) const LIVE: &str = "\
import sys, time
import pandas as pd

frame = pd.read_csv(sys.argv[1])
summary = frame.describe()
print('live', flush=True)
time.sleep(1)
";

/// What the live session prints once it holds its table.
pub(crate) const LIVE_WORD: &[u8] = b"live";
/// Rows of the table.
pub(crate) const ROWS: u32 = 10_000;
/// What begins every PNG.
pub(crate) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A table of [`ROWS`] rows, the same every time: an id, a day, a name and three numbers.
pub(crate) fn table() -> String {
    const REGIONS: [&str; 5] = ["North", "South", "East", "West", "Overseas"];
    let mut text = String::from("order,day,region,quantity,price,discount\n");
    let mut state = 1u32;
    for row in 0..ROWS {
        // A linear congruential generator: spread is all that is wanted of it.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (quantity, cents, discount) = (state >> 28, (state >> 12) % 50_000, (state >> 8) % 30);
        let region = REGIONS[(state >> 20) as usize % REGIONS.len()];
        let (month, day) = (row / 28 % 12 + 1, row % 28 + 1);
        let price = format!("{}.{:02}", cents / 100, cents % 100);
        text.push_str(&format!(
            "{row},2024-{month:02}-{day:02},{region},{quantity},{price},0.{discount:02}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_has_its_rows_and_no_ragged_one() {
        let table = table();
        assert_eq!(table.lines().count(), ROWS as usize + 1);
        assert!(table.lines().all(|line| line.split(',').count() == 6));
        let regions: BTreeSet<_> = table
            .lines()
            .skip(1)
            .filter_map(|line| line.split(',').nth(2))
            .collect();
        assert_eq!(regions.len(), 5);
        assert_eq!(table, super::table());
    }
}
