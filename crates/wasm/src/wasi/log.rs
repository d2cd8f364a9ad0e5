//! The run's events until they are passed on: bounded, because the guest decides how many there are.

use std::collections::BTreeSet;

use casemate_model::event::{Event, What, Witness};
use casemate_model::limit::LimitKind;

/// Ordinary events kept of one run; the rest is counted.
const KEPT: usize = 15_000;
/// Events of refused and suspicious things kept of one run. They have a bound of their own, so that a
/// guest cannot use the log up with ordinary ones and go on unseen.
const TELLING_KEPT: usize = 5_000;
/// Bytes kept of one text in an event.
const TEXT: usize = 1024;

/// Events of one run.
pub(crate) struct EventLog {
    events: Vec<Event>,
    dropped: u64,
    kept: usize,
    telling_kept: usize,
    limits: BTreeSet<LimitKind>,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self {
            events: Vec::new(),
            dropped: 0,
            kept: 0,
            telling_kept: 0,
            limits: BTreeSet::new(),
        }
    }

    /// Notes one event, or counts it where there are too many.
    pub(crate) fn push(&mut self, at_us: u64, what: What) {
        let (kept, bound) = if is_telling(&what) {
            (&mut self.telling_kept, TELLING_KEPT)
        } else {
            (&mut self.kept, KEPT)
        };
        if *kept >= bound {
            self.dropped += 1;
            return;
        }
        *kept += 1;
        self.add(at_us, what);
    }

    /// Notes a limit the first time it is reached.
    pub(crate) fn limit_once(&mut self, at_us: u64, limit: LimitKind, allowed: u64, seen: u64) {
        if self.limits.insert(limit) {
            // Beyond the bound too: a limit reached decides how the run is judged.
            let what = What::LimitReached {
                limit,
                allowed,
                seen,
            };
            self.add(at_us, what);
        }
    }

    /// Notes one event whatever the bounds say, which is for what the guest has no say in, such as measurements.
    pub(crate) fn add(&mut self, at_us: u64, what: What) {
        self.events.push(Event {
            at_us,
            witness: Witness::Host,
            what,
        });
    }

    /// Events waiting to be passed on.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// The events so far, with the count of those not kept; the log is empty after it.
    pub(crate) fn take(&mut self, at_us: u64) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.events);
        if self.dropped > 0 {
            let count = std::mem::take(&mut self.dropped);
            events.push(Event {
                at_us,
                witness: Witness::Host,
                what: What::Dropped { count },
            });
        }
        events
    }
}

/// Whether an event tells of something refused, missing or reached, rather than of ordinary work.
fn is_telling(what: &What) -> bool {
    !matches!(
        what,
        What::FileOpen { .. }
            | What::FileRead { .. }
            | What::FileWrite { .. }
            | What::FileUnlink { .. }
            | What::DirCreate { .. }
            | What::DirRemove { .. }
            | What::Rename { .. }
            | What::Link { .. }
    )
}

/// A text of the guest's, bounded for an event.
pub(crate) fn clip(text: &str) -> String {
    if text.len() <= TEXT {
        return text.to_owned();
    }
    let end = (0..=TEXT)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_ordinary_events_hides_nothing() {
        let mut log = EventLog::new();
        for _ in 0..KEPT + 5 {
            log.push(
                1,
                What::FileUnlink {
                    path: "/tmp/a".into(),
                },
            );
        }
        log.push(
            2,
            What::Missing {
                path: "/etc/shadow".into(),
            },
        );
        log.limit_once(2, LimitKind::Memory, 1, 2);
        log.limit_once(3, LimitKind::Memory, 1, 3);
        let events = log.take(9);
        assert_eq!(events.len(), KEPT + 3);
        assert_eq!(
            events[KEPT].what,
            What::Missing {
                path: "/etc/shadow".into()
            }
        );
        assert_eq!(events[KEPT + 2].what, What::Dropped { count: 5 });
    }

    #[test]
    fn telling_events_are_bounded_too() {
        let mut log = EventLog::new();
        for _ in 0..TELLING_KEPT + 7 {
            log.push(
                1,
                What::Missing {
                    path: "/etc/shadow".into(),
                },
            );
        }
        let events = log.take(9);
        assert_eq!(events.len(), TELLING_KEPT + 1);
        assert_eq!(events[TELLING_KEPT].what, What::Dropped { count: 7 });
    }

    #[test]
    fn long_texts_are_clipped_at_a_character() {
        let clipped = clip(&"ü".repeat(TEXT));
        assert!(clipped.len() <= TEXT + 4 && clipped.ends_with('…'));
    }
}
