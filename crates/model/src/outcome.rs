//! Outcomes: one word for how a run ended, and everything known about it.

use serde::Serialize;

use crate::event::{Alert, Event};
use crate::guarantee::Guarantees;
use crate::job::RunId;
use crate::limit::{LimitKind, Limits};
use crate::receipt::Receipt;
use crate::result::{Artifact, Displayed, ProgramError};
use crate::screening::Screening;

/// How a run ended. "Your code", "the policy" and "we" are different words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Ending {
    /// The program ended by itself.
    Exited {
        /// Its exit code; 0 is success.
        code: i32,
    },
    /// The process that held the program died of a signal.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// The program reached a limit.
    Over {
        /// Which.
        limit: LimitKind,
        /// The ceiling, in the limit's unit (bytes, milliseconds or a count).
        allowed: u64,
        /// What was asked for or seen, in the same unit.
        seen: u64,
    },
    /// A wall refused what the program tried, and the program ended on it.
    Denied {
        /// The wall.
        wall: String,
        /// What was refused.
        reason: String,
    },
    /// The policy refused the program before it ran.
    Refused {
        /// What refused it: `screening`, `walls` or `placement`.
        by: String,
        /// Why.
        reason: String,
    },
    /// The caller stopped it.
    Cancelled,
    /// Casemate failed.
    Faulted {
        /// What to search the log for.
        id: String,
        /// What happened.
        reason: String,
    },
}

impl Ending {
    /// The exit code of `casemate run`, as `docs/cli.md` lists them.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited { code } => *code,
            Self::Signalled { signal } => 128 + signal,
            Self::Over {
                limit: LimitKind::Memory,
                ..
            } => 137,
            Self::Over {
                limit: LimitKind::WallTime | LimitKind::CpuTime,
                ..
            } => 124,
            Self::Over { .. } | Self::Denied { .. } => 1,
            Self::Refused { .. } => 126,
            Self::Cancelled => 130,
            Self::Faulted { .. } => 125,
        }
    }

    /// Whether the program ran to its end and said it succeeded.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited { code: 0 })
    }
}

/// What a run used, measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Elapsed time of the guest, in microseconds.
    pub wall_us: u64,
    /// Processor time of the guest, in microseconds.
    pub cpu_us: u64,
    /// The most memory the guest held above what it started with, in bytes.
    pub memory_peak_bytes: u64,
    /// The most bytes in /tmp and the working folder.
    pub disk_peak_bytes: u64,
    /// The most files and folders in /tmp and the working folder.
    pub disk_peak_files: u64,
    /// The most descriptors open at once.
    pub open_files_peak: u64,
    /// Bytes written to standard output, kept or not.
    pub stdout_bytes: u64,
    /// Bytes written to standard error, kept or not.
    pub stderr_bytes: u64,
}

/// Where a run was placed and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// The backend's name.
    pub backend: String,
    /// Why this one.
    pub reasons: Vec<String>,
}

/// Events in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Paths read, in the order first seen.
    pub files_read: Vec<String>,
    /// Paths written, created, renamed or removed, in the order first seen.
    pub files_written: Vec<String>,
    /// Refused calls, in words.
    pub denials: Vec<String>,
    /// Names of environment variables read.
    pub env_read: Vec<String>,
    /// Events seen.
    pub events: u64,
    /// Events not kept because there were too many.
    pub events_dropped: u64,
}

/// How the raw end of a sandbox looked, before it was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The program's own exit code.
    Code(i32),
    /// The process died of a signal.
    Signal(i32),
    /// A limit stopped it from outside.
    Limit {
        /// Which.
        limit: LimitKind,
        /// The ceiling.
        allowed: u64,
        /// What was seen.
        seen: u64,
    },
    /// A wall killed it.
    Wall {
        /// Which.
        wall: String,
        /// What it saw.
        reason: String,
    },
    /// The caller stopped it.
    Cancelled,
    /// We failed.
    Fault(String),
}

/// Everything observed of one run: the input of the verdict.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The raw end.
    pub exit: Exit,
    /// What was used.
    pub usage: Usage,
    /// Standard output, up to its limit.
    pub stdout: Vec<u8>,
    /// Standard error, up to its limit.
    pub stderr: Vec<u8>,
    /// Displayed results.
    pub results: Vec<Displayed>,
    /// The program's error.
    pub error: Option<ProgramError>,
    /// Files left.
    pub artifacts: Vec<Artifact>,
    /// Events, in order.
    pub events: Vec<Event>,
    /// Alerts.
    pub alerts: Vec<Alert>,
    /// Events in short.
    pub summary: Summary,
}

/// Everything known about a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The run.
    pub id: RunId,
    /// How it ended.
    pub ending: Ending,
    /// What to do about it, where there is something.
    pub hint: Option<String>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Displayed results.
    pub results: Vec<Displayed>,
    /// The program's error.
    pub error: Option<ProgramError>,
    /// Files left.
    pub artifacts: Vec<Artifact>,
    /// What was used.
    pub usage: Usage,
    /// Layers 1 and 2.
    pub screening: Screening,
    /// Where it ran and why.
    pub placement: Option<Placement>,
    /// The walls asked for.
    pub asked: Guarantees,
    /// The walls that stood.
    pub receipt: Option<Receipt>,
    /// The ceilings that held.
    pub limits: Limits,
    /// Events, in order.
    pub events: Vec<Event>,
    /// Events in short.
    pub summary: Summary,
    /// Alerts.
    pub alerts: Vec<Alert>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_contract() {
        let over = |limit| Ending::Over {
            limit,
            allowed: 1,
            seen: 2,
        };
        let table = [
            (Ending::Exited { code: 0 }, 0),
            (Ending::Exited { code: 3 }, 3),
            (Ending::Signalled { signal: 11 }, 139),
            (over(LimitKind::Memory), 137),
            (over(LimitKind::WallTime), 124),
            (over(LimitKind::CpuTime), 124),
            (over(LimitKind::OutputBytes), 1),
            (
                Ending::Denied {
                    wall: "wasi".into(),
                    reason: "no sockets".into(),
                },
                1,
            ),
            (
                Ending::Refused {
                    by: "screening".into(),
                    reason: "x".into(),
                },
                126,
            ),
            (Ending::Cancelled, 130),
            (
                Ending::Faulted {
                    id: "x".into(),
                    reason: "y".into(),
                },
                125,
            ),
        ];
        for (ending, code) in table {
            assert_eq!(ending.exit_code(), code, "{ending:?}");
        }
    }
}
