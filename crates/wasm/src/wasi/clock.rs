//! What the guest knows of time: the run's own clocks, no finer than the policy's granularity.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use casemate_linux::proc::thread_cpu_time;
use casemate_model::limit::LimitKind;

use super::errno::Halt;

/// Monotonic time at the start of a run. It is the same in every run, so that the host's uptime does
/// not show, and larger than anything the snapshot's own start can have seen.
const MONOTONIC_START: Duration = Duration::from_secs(100_000);

/// One run's clocks and deadlines.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    granularity: Duration,
    /// When the guest's own clocks began.
    begun: Instant,
    cpu_begun: Duration,
    /// Since when what is allowed is counted.
    started: Instant,
    cpu_started: Duration,
    wall_allowed: Option<Duration>,
    cpu_allowed: Option<Duration>,
    cpu_millis: u32,
}

impl Clock {
    /// Clocks that start now, on the thread that will run the guest.
    pub(crate) fn start(
        granularity: Duration,
        wall_allowed: Option<Duration>,
        cpu_allowed: Option<Duration>,
        cpu_millis: u32,
    ) -> Self {
        let (started, cpu_started) = (Instant::now(), thread_cpu_time().unwrap_or_default());
        Self {
            granularity: granularity.max(Duration::from_nanos(1)),
            begun: started,
            cpu_begun: cpu_started,
            started,
            cpu_started,
            wall_allowed,
            cpu_allowed,
            cpu_millis,
        }
    }

    /// Counts what is allowed from now on. The guest's own clocks go on.
    pub(crate) fn begin_again(&mut self) {
        self.started = Instant::now();
        self.cpu_started = thread_cpu_time().unwrap_or_default();
    }

    /// Microseconds since the start, for events.
    pub(crate) fn elapsed_us(&self) -> u64 {
        micros(self.started.elapsed())
    }

    /// Processor time since the start, in microseconds.
    pub(crate) fn cpu_us(&self) -> u64 {
        micros(self.cpu())
    }

    fn cpu(&self) -> Duration {
        cpu_since(self.cpu_started)
    }

    /// Time until the wall deadline, or none without one.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.wall_allowed
            .map(|allowed| allowed.saturating_sub(self.started.elapsed()))
    }

    /// Whether a deadline has passed.
    pub(crate) fn check(&self) -> Result<(), Halt> {
        over(
            LimitKind::WallTime,
            self.wall_allowed,
            self.started.elapsed(),
        )?;
        over(LimitKind::CpuTime, self.cpu_allowed, self.cpu())
    }

    /// How long the guest must rest so that it stays within its share of a processor.
    pub(crate) fn rest(&self) -> Option<Duration> {
        if self.cpu_millis >= 1000 {
            return None;
        }
        let due = self.cpu().saturating_mul(1000) / self.cpu_millis.max(1);
        let rest = due.checked_sub(self.started.elapsed())?;
        Some(self.remaining().map_or(rest, |left| rest.min(left)))
    }

    /// Nanoseconds of clock `id`, rounded down to the granularity. None for a clock there is not.
    pub(crate) fn read(&self, id: u32) -> Option<u64> {
        let exact = match id {
            0 => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            1 => MONOTONIC_START + self.begun.elapsed(),
            2 | 3 => cpu_since(self.cpu_begun),
            _ => return None,
        };
        Some(self.round(exact))
    }

    fn round(&self, exact: Duration) -> u64 {
        let grain = self.granularity.as_nanos();
        u64::try_from(exact.as_nanos() / grain * grain).unwrap_or(u64::MAX)
    }

    /// The granularity in nanoseconds.
    pub(crate) fn resolution(&self) -> u64 {
        u64::try_from(self.granularity.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn cpu_since(then: Duration) -> Duration {
    // A clock that cannot be read counts as spent: the guest stops rather than run unmeasured.
    let now = thread_cpu_time().unwrap_or(Duration::MAX);
    now.saturating_sub(then)
}

fn over(limit: LimitKind, allowed: Option<Duration>, seen: Duration) -> Result<(), Halt> {
    match allowed {
        Some(allowed) if seen >= allowed => Err(Halt::Limit {
            limit,
            allowed: millis(allowed),
            seen: millis(seen),
        }),
        _ => Ok(()),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_no_finer_than_the_granularity() {
        let clock = Clock::start(Duration::from_millis(100), None, None, 1000);
        for id in 0..4 {
            assert_eq!(clock.read(id).unwrap() % 100_000_000, 0, "clock {id}");
        }
        assert_eq!(clock.read(4), None);
    }

    #[test]
    fn a_passed_deadline_names_what_was_allowed_and_seen() {
        let clock = Clock::start(Duration::from_millis(1), Some(Duration::ZERO), None, 1000);
        let halt = clock.check().unwrap_err();
        assert!(
            matches!(
                halt,
                Halt::Limit {
                    limit: LimitKind::WallTime,
                    allowed: 0,
                    ..
                }
            ),
            "{halt:?}"
        );
    }

    #[test]
    fn what_is_allowed_is_counted_anew_and_the_guests_clocks_go_on() {
        let mut clock = Clock::start(Duration::from_nanos(1), None, None, 1000);
        std::thread::sleep(Duration::from_millis(20));
        let before = clock.read(1).unwrap();
        clock.begin_again();
        assert!(clock.elapsed_us() < 20_000);
        assert!(clock.read(1).unwrap() >= before);
    }

    #[test]
    fn a_whole_processor_never_rests_and_a_share_does() {
        let whole = Clock::start(Duration::from_millis(1), None, None, 1000);
        assert_eq!(whole.rest(), None);
        let share = Clock::start(Duration::from_millis(1), None, None, 10);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {}
        assert!(share.rest().unwrap() > Duration::from_millis(100));
    }
}
