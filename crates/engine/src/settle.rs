//! The verdict on a run: one pure function, never patched later.

use casemate_backend::plan::Plan;
use casemate_model::event::{Event, What};
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::job::RunId;
use casemate_model::limit::{LimitKind, Limits};
use casemate_model::outcome::{Ending, Exit, Outcome, Placement, Summary, Trace, Usage};
use casemate_model::receipt::Receipt;
use casemate_model::result::ProgramError;
use casemate_model::screening::Screening;

/// Limits the guest feels as an error of its own and may handle: they end a run only when the program
/// ended on them.
const FELT: [LimitKind; 5] = [
    LimitKind::Memory,
    LimitKind::DiskBytes,
    LimitKind::DiskFiles,
    LimitKind::OpenFiles,
    LimitKind::Tasks,
];

/// Limits on what is handed back: a program that ended well and left more has gone over them.
const HANDED_BACK: [LimitKind; 2] = [LimitKind::ArtifactCount, LimitKind::ArtifactBytes];

/// What is known of a run when it is judged.
#[derive(Debug)]
pub struct Settled {
    pub(crate) id: RunId,
    pub(crate) screening: Screening,
    pub(crate) placement: Placement,
    pub(crate) receipt: Receipt,
}

/// Judges a run.
pub fn settle(plan: &Plan, settled: Settled, trace: Trace) -> Outcome {
    let ending = ending(&settled.id, &trace, &settled.receipt.granted());
    let hint = hint(&ending, &trace, &settled.receipt);
    Outcome {
        id: settled.id,
        ending,
        hint,
        stdout: trace.stdout,
        stderr: trace.stderr,
        results: trace.results,
        error: trace.error,
        artifacts: trace.artifacts,
        usage: trace.usage,
        screening: settled.screening,
        placement: Some(settled.placement),
        asked: plan.asked.clone(),
        receipt: Some(settled.receipt),
        limits: plan.limits.clone(),
        events: trace.events,
        summary: trace.summary,
        alerts: trace.alerts,
    }
}

fn ending(id: &RunId, trace: &Trace, granted: &Guarantees) -> Ending {
    match &trace.exit {
        Exit::Code(0) => reached(trace, &HANDED_BACK).unwrap_or(Ending::Exited { code: 0 }),
        Exit::Code(code) => ended_on(trace, granted).unwrap_or(Ending::Exited { code: *code }),
        Exit::Signal(signal) => Ending::Signalled { signal: *signal },
        Exit::Limit {
            limit,
            allowed,
            seen,
        } => Ending::Over {
            limit: *limit,
            allowed: *allowed,
            seen: *seen,
        },
        Exit::Wall { wall, reason } => Ending::Denied {
            wall: wall.clone(),
            reason: reason.clone(),
        },
        Exit::Cancelled => Ending::Cancelled,
        Exit::Fault(reason) => Ending::Faulted {
            id: id.to_string(),
            reason: reason.clone(),
        },
    }
}

/// The limit or the denial that a failed program ended on, if that is what it failed of.
fn ended_on(trace: &Trace, granted: &Guarantees) -> Option<Ending> {
    reached(trace, &FELT).or_else(|| {
        let error = trace.error.as_ref().filter(|error| is_denial(error))?;
        trace
            .events
            .iter()
            .rev()
            .find_map(|event| denial(event, error, granted))
    })
}

/// The last of these limits that was reached.
fn reached(trace: &Trace, limits: &[LimitKind]) -> Option<Ending> {
    trace
        .events
        .iter()
        .rev()
        .find_map(|event| match event.what {
            What::LimitReached {
                limit,
                allowed,
                seen,
            } if limits.contains(&limit) => Some(Ending::Over {
                limit,
                allowed,
                seen,
            }),
            _ => None,
        })
}

/// Errors that a refused call turns into.
fn is_denial(error: &ProgramError) -> bool {
    let name = error.name.rsplit('.').next().unwrap_or_default();
    [
        "OSError",
        "PermissionError",
        "URLError",
        "gaierror",
        "RuntimeError",
        "UnsupportedOperation",
    ]
    .contains(&name)
        || name.starts_with("Connection")
}

/// Processes, threads and native code are refused only where the receipt says that there are none:
/// elsewhere the event tells of one that was started or loaded.
fn denial(event: &Event, error: &ProgramError, granted: &Guarantees) -> Option<Ending> {
    let absent = |guarantee| granted.contains(guarantee);
    let (wall, what) = match &event.what {
        What::Denied {
            wall, call, detail, ..
        } => (wall.as_str(), format!("{call} {detail}")),
        What::Network { detail } => ("no network", detail.clone()),
        What::Process { detail } if absent(Guarantee::ProcessesAbsent) => {
            ("no processes", detail.clone())
        }
        What::Thread { detail } if absent(Guarantee::ProcessesAbsent) => {
            ("no threads", detail.clone())
        }
        What::NativeCode { detail } if absent(Guarantee::NativeCodeAbsent) => {
            ("no native code", detail.clone())
        }
        _ => return None,
    };
    let said = format!("{}: {}", error.name, error.value);
    let what = what.trim();
    let reason = if said.contains(what) {
        said
    } else {
        format!("{said} ({what})")
    };
    Some(Ending::Denied {
        wall: wall.to_owned(),
        reason,
    })
}

fn hint(ending: &Ending, trace: &Trace, receipt: &Receipt) -> Option<String> {
    match ending {
        Ending::Over { limit, .. } => Some(format!(
            "{}; or raise the limit with {}",
            limit.advice(),
            limit.flag()
        )),
        Ending::Denied { wall, .. } => Some(denial_hint(wall).to_owned()),
        Ending::Signalled { .. } => {
            Some("the process that held the program died; nothing of it is left".to_owned())
        }
        Ending::Faulted { .. } => {
            Some("this is our fault, not the program's; run it again".to_owned())
        }
        Ending::Exited { code } if *code != 0 => error_hint(trace.error.as_ref()?, receipt),
        _ => None,
    }
}

fn denial_hint(wall: &str) -> &'static str {
    match wall {
        "no network" | "no sockets" => {
            "there is no network here: hand the data in with --data and read it from /data"
        }
        "no processes" => "there are no processes here: use Python instead of a command",
        "no threads" => "there are no threads here: do the work in a loop",
        "no native code" => "no native code can be loaded here: use the packages that are built in",
        "read-only files" => "inputs are read-only: write to /tmp or the working folder instead",
        "wasm" => {
            "the program crashed the interpreter; very deep recursion or a bug in a native part does that"
        }
        _ => "the wall's name and the event log (--events FILE) say what was refused",
    }
}

fn error_hint(error: &ProgramError, receipt: &Receipt) -> Option<String> {
    match error.name.as_str() {
        "ModuleNotFoundError" if !receipt.granted().contains(Guarantee::NativeCodeAbsent) => Some(format!(
            "that module is not in this guest ({}), and nothing can be installed while a program runs",
            receipt.guest
        )),
        "ModuleNotFoundError" => Some(
            "that module is not in this guest; pandas, numpy, scipy, scikit-learn, statsmodels, matplotlib, seaborn and \
             openpyxl are"
                .to_owned(),
        ),
        "FileNotFoundError" => Some("inputs given with --data are in /data and, by name, in the working folder".to_owned()),
        "ValueError" if error.value.starts_with("array is too big") => {
            Some("this guest is 32-bit: one array can hold at most 2 GiB; work in parts".to_owned())
        }
        _ => None,
    }
}

/// Why a job did not start.
#[derive(Debug)]
pub struct Refusal {
    /// What refused it: `screening`, `placement`, `plan` or `walls`.
    pub by: &'static str,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The outcome of a job that did not start.
pub fn refuse(
    id: RunId,
    screening: Screening,
    limits: Limits,
    asked: Guarantees,
    (placement, receipt): (Option<Placement>, Option<Receipt>),
    refusal: Refusal,
) -> Outcome {
    Outcome {
        id,
        ending: Ending::Refused {
            by: refusal.by.to_owned(),
            reason: refusal.reason,
        },
        hint: refusal.hint,
        stdout: Vec::new(),
        stderr: Vec::new(),
        results: Vec::new(),
        error: None,
        artifacts: Vec::new(),
        usage: Usage::default(),
        screening,
        placement,
        asked,
        receipt,
        limits,
        events: Vec::new(),
        summary: Summary::default(),
        alerts: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use casemate_model::event::Witness;

    use super::*;

    fn trace(exit: Exit, error: Option<&str>, events: Vec<What>) -> Trace {
        Trace {
            exit,
            usage: Usage::default(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            results: Vec::new(),
            error: error.map(|name| ProgramError {
                name: name.into(),
                value: "v".into(),
                traceback: String::new(),
                line: Some(1),
            }),
            artifacts: Vec::new(),
            events: events
                .into_iter()
                .map(|what| Event {
                    at_us: 0,
                    witness: Witness::Host,
                    what,
                })
                .collect(),
            alerts: Vec::new(),
            summary: Summary::default(),
        }
    }

    fn hit(limit: LimitKind) -> What {
        What::LimitReached {
            limit,
            allowed: 10,
            seen: 11,
        }
    }

    #[test]
    fn the_table_of_endings() {
        let network = || What::Network {
            detail: "example.org:80".into(),
        };
        let table = [
            ("success", Exit::Code(0), None, vec![], "exited"),
            (
                "success after a felt limit",
                Exit::Code(0),
                None,
                vec![hit(LimitKind::Memory)],
                "exited",
            ),
            (
                "failure",
                Exit::Code(1),
                Some("ValueError"),
                vec![],
                "exited",
            ),
            (
                "out of memory",
                Exit::Code(1),
                Some("MemoryError"),
                vec![hit(LimitKind::Memory)],
                "over",
            ),
            (
                "out of memory, unnamed",
                Exit::Code(1),
                None,
                vec![hit(LimitKind::Memory)],
                "over",
            ),
            (
                "disk full",
                Exit::Code(1),
                Some("OSError"),
                vec![hit(LimitKind::DiskBytes)],
                "over",
            ),
            (
                "too many files",
                Exit::Code(1),
                Some("OSError"),
                vec![hit(LimitKind::OpenFiles)],
                "over",
            ),
            (
                "left too much",
                Exit::Code(0),
                None,
                vec![hit(LimitKind::ArtifactCount)],
                "over",
            ),
            (
                "failed, and left too much",
                Exit::Code(1),
                Some("KeyError"),
                vec![hit(LimitKind::ArtifactCount)],
                "exited",
            ),
            (
                "failed of the network",
                Exit::Code(1),
                Some("PermissionError"),
                vec![network()],
                "denied",
            ),
            (
                "tried it and failed of something else",
                Exit::Code(1),
                Some("KeyError"),
                vec![network()],
                "exited",
            ),
            (
                "tried it and went on",
                Exit::Code(0),
                None,
                vec![network()],
                "exited",
            ),
            (
                "timed out",
                Exit::Limit {
                    limit: LimitKind::WallTime,
                    allowed: 1,
                    seen: 2,
                },
                None,
                vec![],
                "over",
            ),
            (
                "killed by a wall",
                Exit::Wall {
                    wall: "seccomp".into(),
                    reason: "x".into(),
                },
                None,
                vec![],
                "denied",
            ),
            ("killed", Exit::Signal(9), None, vec![], "signalled"),
            ("cancelled", Exit::Cancelled, None, vec![], "cancelled"),
            (
                "our fault",
                Exit::Fault("x".into()),
                None,
                vec![],
                "faulted",
            ),
        ];
        for (name, exit, error, events, word) in table {
            let none = [Guarantee::ProcessesAbsent, Guarantee::NativeCodeAbsent];
            let none = none.into_iter().collect();
            let ending = ending(&RunId::from_bits(1), &trace(exit, error, events), &none);
            assert_eq!(
                serde_json::to_value(&ending).unwrap()["status"],
                word,
                "{name}"
            );
        }
    }

    #[test]
    fn every_limit_and_every_denial_has_a_hint() {
        for limit in [
            LimitKind::Memory,
            LimitKind::WallTime,
            LimitKind::OutputBytes,
            LimitKind::ArtifactCount,
        ] {
            let over = Ending::Over {
                limit,
                allowed: 1,
                seen: 2,
            };
            let trace = trace(Exit::Code(1), None, vec![]);
            let hint = hint(&over, &trace, &Receipt::default()).unwrap();
            assert!(hint.contains(limit.flag()), "{hint}");
        }
        for wall in [
            "no network",
            "no processes",
            "read-only files",
            "wasm",
            "seccomp",
        ] {
            let denied = Ending::Denied {
                wall: wall.into(),
                reason: String::new(),
            };
            let trace = trace(Exit::Code(1), None, vec![]);
            assert!(hint(&denied, &trace, &Receipt::default()).is_some());
        }
    }

    #[test]
    fn what_was_started_was_not_refused() {
        let events = || {
            vec![What::Process {
                detail: "ls".into(),
            }]
        };
        let word = |granted: &[Guarantee]| {
            let granted = granted.iter().copied().collect();
            let trace = trace(Exit::Code(1), Some("OSError"), events());
            ending(&RunId::from_bits(1), &trace, &granted)
        };
        assert!(matches!(
            word(&[Guarantee::ProcessesAbsent]),
            Ending::Denied { .. }
        ));
        assert_eq!(word(&[]), Ending::Exited { code: 1 });
    }
}
