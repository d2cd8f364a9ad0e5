//! The measurements as a table and as JSON: `casemate.bench/1`, described in docs/bench.md.

use std::fmt::Write as _;

use serde::Serialize;

use super::layers::Layer;
use super::stats::Stats;

/// The schema's name; the number changes when a field goes or changes its meaning.
pub(crate) const SCHEMA: &str = "casemate.bench/1";

/// One side of a measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cell {
    /// It was measured.
    Measured(Stats),
    /// It was not, and why.
    Absent(String),
}

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// The median is at most this.
    AtMost(f64),
    /// The median is at least this.
    AtLeast(f64),
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Measure {
    /// What was measured.
    pub(crate) what: &'static str,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// Here.
    pub(crate) ours: Cell,
    /// In a native Python process.
    pub(crate) native: Cell,
    /// In the guest's own runner.
    pub(crate) runner: Cell,
    /// What is promised for ours.
    pub(crate) target: Target,
    /// Whether the promise is kept; absent when it was not measured.
    pub(crate) met: Option<bool>,
}

/// The machine, and how busy it was.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Processors this process may use.
    pub(crate) cpus: usize,
    /// The processor by its own name.
    pub(crate) cpu: String,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The load of the last minute before the first measurement.
    pub(crate) load_before: f64,
    /// The same after the last.
    pub(crate) load_after: f64,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    pub(crate) version: &'static str,
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    pub(crate) measures: Vec<Measure>,
    /// The parts of a warm hello.
    pub(crate) layers: Vec<Layer>,
    pub(crate) notes: Vec<String>,
}

impl Target {
    /// Whether what was measured keeps it; nothing where nothing was measured.
    pub(crate) fn is_met(self, ours: &Cell) -> Option<bool> {
        let Cell::Measured(stats) = ours else {
            return None;
        };
        Some(match self {
            Self::AtMost(most) => stats.median <= most,
            Self::AtLeast(least) => stats.median >= least,
        })
    }

    /// The same in a few characters.
    pub(crate) fn text(self, unit: &str) -> String {
        let text = match self {
            Self::AtMost(most) => format!("<= {most} {unit}"),
            Self::AtLeast(least) => format!(">= {least} {unit}"),
        };
        text.trim_end().to_owned()
    }
}

impl Measure {
    /// A line with its verdict.
    pub(crate) fn new(
        what: &'static str,
        unit: &'static str,
        target: Target,
        cells: [Cell; 3],
    ) -> Self {
        let [ours, native, runner] = cells;
        let met = target.is_met(&ours);
        Self {
            what,
            unit,
            ours,
            native,
            runner,
            target,
            met,
        }
    }
}

impl Machine {
    /// This machine now.
    pub(crate) fn now() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = load();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
            kernel: casemate_linux::proc::kernel_facts().release,
            load_before: load,
            load_after: load,
        }
    }

    /// The same in a line.
    pub(crate) fn facts(&self) -> String {
        format!(
            "{} x {}, Linux {}, load {:.2} before, {:.2} after",
            self.cpus, self.cpu, self.kernel, self.load_before, self.load_after
        )
    }

    /// Whether something else was using the processors when the measuring began.
    pub(crate) fn was_busy(&self) -> bool {
        self.load_before > 0.5 * self.cpus as f64
    }
}

/// The load average of the last minute; 0 where the kernel does not tell.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or_default()
}

/// A number with three significant digits or so.
pub(crate) fn number(value: f64) -> String {
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.digits$}")
}

pub(crate) fn cell(cell: &Cell, unit: &str, rounds: usize) -> String {
    match cell {
        Cell::Absent(_) => "-".to_owned(),
        Cell::Measured(stats) => {
            let runs = if stats.n == rounds {
                String::new()
            } else {
                format!(", n={}", stats.n)
            };
            let unit = if unit.is_empty() {
                String::new()
            } else {
                format!(" {unit}")
            };
            format!(
                "{}{unit} ({}..{}{runs})",
                number(stats.median),
                number(stats.min),
                number(stats.p90)
            )
        }
    }
}

pub(crate) fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "NOT MET",
        None => "not measured",
    }
}

/// Rows with their columns aligned.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The report for people.
pub(crate) fn text(report: &Report) -> String {
    let machine = &report.machine;
    let mut rows = vec![
        [
            "what",
            "casemate: median (min..p90)",
            "native python",
            "guest's own runner",
            "target",
            "",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for measure in &report.measures {
        let show = |side: &Cell| cell(side, measure.unit, report.rounds);
        let target = measure.target.text(measure.unit);
        let sides = [&measure.ours, &measure.native, &measure.runner].map(show);
        let mut row = vec![measure.what.to_owned()];
        row.extend(sides);
        row.extend([target, verdict(measure.met).to_owned()]);
        rows.push(row);
    }
    let mut text = aligned(&rows);
    let layers: Vec<Vec<String>> = report
        .layers
        .iter()
        .map(|layer| {
            vec![
                format!("  {}", layer.layer),
                cell(&Cell::Measured(layer.stats), layer.unit, report.rounds),
            ]
        })
        .collect();
    let facts = machine.facts();
    let written = write!(
        text,
        "\nwhere a warm hello's time goes\n{}\n{facts}\n",
        aligned(&layers)
    );
    debug_assert!(written.is_ok(), "a String takes what is written to it");
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(median: f64) -> Cell {
        Cell::Measured(Stats {
            n: 30,
            median,
            min: 1.0,
            p90: 12.34,
        })
    }

    fn absent() -> Cell {
        Cell::Absent("no such program".into())
    }

    #[test]
    fn a_target_is_judged_by_the_median_and_never_when_nothing_was_measured() {
        let table = [
            (Target::AtMost(3.0), measured(3.0), Some(true)),
            (Target::AtMost(3.0), measured(3.001), Some(false)),
            (Target::AtLeast(450.0), measured(450.0), Some(true)),
            (Target::AtLeast(450.0), measured(449.0), Some(false)),
            (Target::AtLeast(450.0), absent(), None),
        ];
        for (target, ours, met) in table {
            let measure = Measure::new("x", "ms", target, [ours, absent(), absent()]);
            assert_eq!(measure.met, met, "{measure:?}");
        }
    }

    #[test]
    fn the_table_says_what_was_missed_and_how_many_runs_a_slow_peer_had() {
        let slow = Cell::Measured(Stats {
            n: 5,
            median: 2312.0,
            min: 2200.0,
            p90: 2400.0,
        });
        let report = Report {
            schema: SCHEMA,
            version: "0",
            machine: Machine {
                cpus: 2,
                cpu: "c".into(),
                kernel: "6".into(),
                load_before: 1.5,
                load_after: 2.0,
            },
            rounds: 30,
            measures: vec![Measure::new(
                "hello",
                "ms",
                Target::AtMost(3.0),
                [measured(4.5), absent(), slow],
            )],
            layers: vec![Layer {
                layer: "run",
                unit: "ms",
                stats: Stats {
                    n: 30,
                    median: 2.0,
                    min: 1.0,
                    p90: 3.0,
                },
            }],
            notes: vec!["native python: no such program".into()],
        };
        assert!(report.machine.was_busy());
        let text = text(&report);
        let row: Vec<&str> = text
            .lines()
            .nth(1)
            .unwrap()
            .split("  ")
            .filter(|cell| !cell.is_empty())
            .map(str::trim)
            .collect();
        assert_eq!(row[..3], ["hello", "4.50 ms (1.00..12.3)", "-"]);
        assert!(
            text.contains("2312 ms (2200..2400, n=5)  <= 3 ms  NOT MET"),
            "{text}"
        );
        assert!(text.contains("  run  2.00 ms (1.00..3.00)\n"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["measures"][0]["target"]["at_most"], 3.0);
        assert_eq!(json["measures"][0]["runner"]["measured"]["n"], 5);
        assert_eq!(json["measures"][0]["native"]["absent"], "no such program");
    }
}
