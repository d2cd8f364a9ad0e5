//! How often a run is measured for the curve of what it used.

use std::time::Duration;

/// Between two measurements of a young run. One that ends sooner is not measured in between at all.
const CLOSEST: Duration = Duration::from_millis(20);
/// Of an older run: one measurement for each such part of its age.
const PARTS: u32 = 64;

/// When the next measurement is due. A run of an hour is measured some six hundred times, and one of a second fifty
/// times.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    next: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { next: CLOSEST }
    }
}

impl Pace {
    /// Whether a run of this age is to be measured now; then the next measurement is due later.
    pub fn is_due(&mut self, age: Duration) -> bool {
        if age < self.next {
            return false;
        }
        self.next = age.saturating_add(CLOSEST.max(age / PARTS));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measurements of a run that is looked at every two milliseconds until this age.
    fn measured(age: Duration) -> usize {
        let mut pace = Pace::default();
        let looks = age.as_millis() / 2;
        (0..=looks)
            .filter(|look| pace.is_due(Duration::from_millis(2) * u32::try_from(*look).unwrap()))
            .count()
    }

    #[test]
    fn young_runs_are_measured_often_and_old_ones_not_without_end() {
        assert_eq!(measured(Duration::from_millis(18)), 0);
        assert_eq!(measured(Duration::from_millis(20)), 1);
        assert!((40..=50).contains(&measured(Duration::from_secs(1))));
        assert!(measured(Duration::from_secs(3600)) < 650);
    }

    #[test]
    fn one_that_was_not_looked_at_for_long_is_measured_once() {
        let mut pace = Pace::default();
        assert!(pace.is_due(Duration::from_secs(100)));
        assert!(!pace.is_due(Duration::from_secs(100)));
        assert!(!pace.is_due(Duration::from_millis(101_500)));
        assert!(pace.is_due(Duration::from_millis(101_600)));
    }
}
