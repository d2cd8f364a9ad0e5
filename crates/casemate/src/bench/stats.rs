//! Samples of one measurement.

use std::time::{Duration, Instant};

use serde::Serialize;

/// What was measured, in the measurement's unit, in the order it was measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

/// Samples in four numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Stats {
    /// How many there were.
    pub(crate) n: usize,
    /// The middle one, or the mean of the two in the middle.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// Nine in ten are at most this (nearest rank).
    pub(crate) p90: f64,
}

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn push_ms(&mut self, duration: Duration) {
        self.push(duration.as_secs_f64() * 1e3);
    }

    /// Times `act` in milliseconds and gives its result.
    pub(crate) fn time_ms<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = act();
        self.push_ms(begun.elapsed());
        result
    }

    /// None when nothing was measured.
    pub(crate) fn stats(&self) -> Option<Stats> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let at = |index: usize| sorted.get(index).copied();
        Some(Stats {
            n,
            median: f64::midpoint(at(n.checked_sub(1)? / 2)?, at(n / 2)?),
            min: at(0)?,
            p90: at((n * 9).div_ceil(10) - 1)?,
        })
    }
}

/// Whether a measurement that is to be made `runs` times in `rounds` rounds is made in this one, so that
/// slow peers are spread evenly among the fast.
pub(crate) fn due(round: usize, runs: usize, rounds: usize) -> bool {
    let before = |round: usize| round * runs.min(rounds) / rounds.max(1);
    before(round + 1) > before(round)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(values: &[f64]) -> Option<Stats> {
        Samples(values.to_vec()).stats()
    }

    #[test]
    fn medians_and_ranks() {
        assert_eq!(stats(&[]), None);
        assert_eq!(
            stats(&[7.0]),
            Some(Stats {
                n: 1,
                median: 7.0,
                min: 7.0,
                p90: 7.0
            })
        );
        assert_eq!(
            stats(&[4.0, 1.0]),
            Some(Stats {
                n: 2,
                median: 2.5,
                min: 1.0,
                p90: 4.0
            })
        );
        let ten: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(
            stats(&ten),
            Some(Stats {
                n: 10,
                median: 5.5,
                min: 1.0,
                p90: 9.0
            })
        );
        let eleven: Vec<f64> = (1..=11).map(f64::from).collect();
        assert_eq!(
            stats(&eleven),
            Some(Stats {
                n: 11,
                median: 6.0,
                min: 1.0,
                p90: 10.0
            })
        );
    }

    #[test]
    fn slow_measurements_are_spread_over_the_rounds() {
        let rounds = |runs, rounds| {
            (0..rounds)
                .filter(|round| due(*round, runs, rounds))
                .collect::<Vec<_>>()
        };
        assert_eq!(rounds(5, 30), [5, 11, 17, 23, 29]);
        assert_eq!(rounds(30, 30).len(), 30);
        assert_eq!(rounds(99, 30).len(), 30);
        assert_eq!(rounds(0, 30).len(), 0);
        assert_eq!(rounds(1, 1), [0]);
    }
}
