//! Rates over a corpus, and speed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use casemate_model::job::Language;
use serde::Serialize;

use super::{Class, Kind, Row, disguise};
use crate::{ScreenConfig, Source, screen};

/// How many of a group are refused, confined and passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// How many there are.
    pub all: usize,
    /// How many are refused.
    pub refused: usize,
    /// How many are confined.
    pub confined: usize,
}

impl Rate {
    /// Counts one more.
    pub fn add(&mut self, word: &str) {
        self.all += 1;
        self.refused += usize::from(word == "refuse");
        self.confined += usize::from(word == "confine");
    }

    /// The share that is refused, in percent.
    pub fn percent(&self) -> f64 {
        if self.all == 0 {
            0.0
        } else {
            self.refused as f64 * 100.0 / self.all as f64
        }
    }
}

/// Rates by group.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Table {
    /// By class.
    pub classes: BTreeMap<String, Rate>,
    /// By class and set.
    pub sets: BTreeMap<String, Rate>,
    /// Malicious programs after each kind of rewriting.
    pub disguised: BTreeMap<String, Rate>,
    /// Programs that got another verdict than they should: group and id.
    pub wrong: Vec<String>,
}

/// The word of the verdict on a program.
pub fn judge(code: &str) -> &'static str {
    let source = Source {
        bytes: code.as_bytes(),
        language: Language::Python,
        name: "program.py",
    };
    screen(&source, &ScreenConfig::default()).verdict.word()
}

/// Rates over rows, judged by a function from programs to verdicts. `seed` moves the rewriting.
pub fn measure(rows: &[Row], seed: u64, mut judge: impl FnMut(&str) -> &'static str) -> Table {
    let mut table = Table::default();
    for row in rows {
        let word = judge(&row.code);
        let class = row.class.name();
        table.classes.entry(class.to_owned()).or_default().add(word);
        table
            .sets
            .entry(format!("{class}: {}", row.set))
            .or_default()
            .add(word);
        let wrong = match row.class {
            Class::ShouldFlag => word != "refuse",
            _ => word == "refuse",
        };
        if wrong {
            table.wrong.push(format!("{class}: {} is {word}", row.id));
        }
    }
    let malicious = rows.iter().filter(|row| row.class == Class::ShouldFlag);
    for (index, row) in malicious.enumerate() {
        for kind in Kind::ALL {
            let seed = seed.wrapping_add(u64::try_from(index).unwrap_or(0));
            let Some(code) = disguise(&row.code, kind, seed) else {
                continue;
            };
            let word = judge(&code);
            table
                .disguised
                .entry(kind.name().to_owned())
                .or_default()
                .add(word);
            if word != "refuse" {
                table
                    .wrong
                    .push(format!("{}: {} is {word}", kind.name(), row.id));
            }
        }
    }
    table
}

/// How fast programs are screened.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Speed {
    /// Programs.
    pub programs: usize,
    /// The median, in microseconds.
    pub p50_us: u64,
    /// The time that 95 of 100 stay under, in microseconds.
    pub p95_us: u64,
    /// The slowest, in microseconds.
    pub max_us: u64,
    /// Bytes a second over all of them, in millions.
    pub mb_per_s: f64,
}

/// Screens every program once to warm up and once to measure, one after the other.
pub fn speed<'p>(programs: impl Iterator<Item = &'p str> + Clone) -> Option<Speed> {
    let mut times: Vec<Duration> = Vec::new();
    let mut bytes = 0;
    for code in programs.clone().take(200) {
        judge(code);
    }
    for code in programs {
        let started = Instant::now();
        judge(code);
        times.push(started.elapsed());
        bytes += code.len();
    }
    let whole: Duration = times.iter().sum();
    times.sort_unstable();
    let at = |percent: usize| {
        let time = times.get(times.len().checked_sub(1)? * percent / 100)?;
        u64::try_from(time.as_micros()).ok()
    };
    Some(Speed {
        programs: times.len(),
        p50_us: at(50)?,
        p95_us: at(95)?,
        max_us: at(100)?,
        mb_per_s: bytes as f64 / 1e6 / whole.as_secs_f64().max(1e-9),
    })
}
