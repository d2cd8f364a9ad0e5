//! Layer 6: what was observed of a run, in one small object that is separate from running it.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

pub mod alerts;
mod summary;

use casemate_model::event::{Alert, Event, What, Witness};
use casemate_model::guarantee::Guarantees;
use casemate_model::outcome::{Exit, Trace, Usage};
use casemate_model::result::{Artifact, Displayed, ProgramError};

pub use alerts::{AlertRules, RuleError};

/// Events kept of one run.
const EVENTS_KEPT: usize = 50_000;

/// Collects what a sandbox tells into a trace.
#[derive(Debug)]
pub struct Watch {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    results: Vec<Displayed>,
    error: Option<ProgramError>,
    events: Vec<Event>,
    dropped: u64,
    granted: Guarantees,
}

impl Watch {
    /// A watch over a run in `backend`, behind walls that grant these guarantees, that begins now.
    pub fn start(backend: &str, granted: Guarantees) -> Self {
        let what = What::Started {
            backend: backend.to_owned(),
        };
        Self {
            stdout: Vec::new(),
            stderr: Vec::new(),
            results: Vec::new(),
            error: None,
            events: vec![Event {
                at_us: 0,
                witness: Witness::Host,
                what,
            }],
            dropped: 0,
            granted,
        }
    }

    /// Bytes of standard output.
    pub fn stdout(&mut self, bytes: &[u8]) {
        self.stdout.extend_from_slice(bytes);
    }

    /// Bytes of standard error.
    pub fn stderr(&mut self, bytes: &[u8]) {
        self.stderr.extend_from_slice(bytes);
    }

    /// A displayed result.
    pub fn displayed(&mut self, result: Displayed) {
        self.results.push(result);
    }

    /// The error that ended the program; the last one counts.
    pub fn error(&mut self, error: ProgramError) {
        self.error = Some(error);
    }

    /// An event.
    pub fn event(&mut self, event: Event) {
        if self.events.len() < EVENTS_KEPT {
            self.events.push(event);
        } else {
            self.dropped += 1;
        }
    }

    /// The trace of a run that has ended, with the alerts that its events raise.
    pub fn finish(
        mut self,
        exit: Exit,
        usage: Usage,
        artifacts: Vec<Artifact>,
        rules: &AlertRules,
    ) -> Trace {
        self.note_limit(&exit, usage.wall_us);
        if self.dropped > 0 {
            self.push(
                usage.wall_us,
                What::Dropped {
                    count: self.dropped,
                },
            );
        }
        self.push(usage.wall_us, What::Ended { how: how(&exit) });
        self.events.sort_by_key(|event| event.at_us);
        let alerts: Vec<Alert> = rules.over(&self.events);
        let summary = summary::of(&self.events, &self.granted);
        Trace {
            exit,
            usage,
            stdout: self.stdout,
            stderr: self.stderr,
            results: self.results,
            error: self.error,
            artifacts,
            events: self.events,
            alerts,
            summary,
        }
    }

    /// A limit that the host enforced by itself is an event like those the worker saw.
    fn note_limit(&mut self, exit: &Exit, at_us: u64) {
        let Exit::Limit {
            limit,
            allowed,
            seen,
        } = *exit
        else {
            return;
        };
        let known = |event: &Event| matches!(event.what, What::LimitReached { limit: other, .. } if other == limit);
        if !self.events.iter().any(known) {
            self.push(
                at_us,
                What::LimitReached {
                    limit,
                    allowed,
                    seen,
                },
            );
        }
    }

    fn push(&mut self, at_us: u64, what: What) {
        self.events.push(Event {
            at_us,
            witness: Witness::Host,
            what,
        });
    }
}

fn how(exit: &Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
        Exit::Limit { limit, .. } => format!("over its {limit}"),
        Exit::Wall { wall, .. } => format!("stopped by {wall}"),
        Exit::Cancelled => "cancelled".to_owned(),
        Exit::Fault(_) => "fault".to_owned(),
    }
}

/// Events as JSON Lines.
pub fn events_jsonl(events: &[Event]) -> String {
    jsonl(events)
}

/// Alerts as JSON Lines.
pub fn alerts_jsonl(alerts: &[Alert]) -> String {
    jsonl(alerts)
}

fn jsonl<T: serde::Serialize>(items: &[T]) -> String {
    // Events and alerts are plain data: there is nothing in them that JSON cannot hold.
    items
        .iter()
        .filter_map(|item| serde_json::to_string(item).ok())
        .map(|line| line + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use casemate_model::limit::LimitKind;

    use super::*;

    #[test]
    fn a_limit_the_host_enforced_is_an_event_and_an_alert() {
        let exit = Exit::Limit {
            limit: LimitKind::WallTime,
            allowed: 100,
            seen: 2100,
        };
        let trace = Watch::start("test", Guarantees::none()).finish(
            exit,
            Usage::default(),
            Vec::new(),
            &AlertRules::embedded().unwrap(),
        );
        assert_eq!(trace.alerts.len(), 1);
        assert_eq!(trace.alerts[0].rule, "over-time");
        let lines = events_jsonl(&trace.events);
        assert!(
            lines.contains(
                r#""event":"limit_reached","limit":"wall_time","allowed":100,"seen":2100"#
            ),
            "{lines}"
        );
    }

    #[test]
    fn events_are_bounded_and_the_rest_is_counted() {
        let mut watch = Watch::start("test", Guarantees::none());
        for _ in 0..EVENTS_KEPT + 10 {
            watch.event(Event {
                at_us: 1,
                witness: Witness::Guest,
                what: What::EnvRead { name: "A".into() },
            });
        }
        let trace = watch.finish(
            Exit::Code(0),
            Usage::default(),
            Vec::new(),
            &AlertRules::embedded().unwrap(),
        );
        assert!(trace.events.len() <= EVENTS_KEPT + 2);
        assert_eq!(trace.summary.events_dropped, 11);
    }
}
