//! `casemate.attack/2` for programs, and what the rows add up to.

use serde_json::{Value, json};

use super::control::{Control, Python};
use super::header::{Header, Promise};
use super::oracle::Held;
use super::sandbox::Run;
use crate::text::line;

/// The schema's name; the number changes when a field goes or changes its meaning.
pub(crate) const SCHEMA: &str = "casemate.attack/2";

/// One attack's row.
#[derive(Debug)]
pub(crate) struct Row {
    /// What its file says.
    pub(crate) header: Header,
    /// In each backend, in the order of the table's columns.
    pub(crate) runs: Vec<Run>,
    /// With none.
    pub(crate) control: Control,
}

impl Row {
    /// Whether every backend that promises to stopped it by its wall.
    pub(crate) fn stopped(&self) -> bool {
        self.runs.iter().all(|run| run.held.is_as_promised())
    }

    /// Whether no backend promises to stop it.
    pub(crate) fn promised_nowhere(&self) -> bool {
        let open = |run: &Run| matches!(run.held, Held::NotPromised { .. });
        !self.runs.is_empty() && self.runs.iter().all(open)
    }

    /// Whether its control shows that it is an attack, or that it can be none on this machine.
    pub(crate) fn proven(&self) -> bool {
        self.succeeded() || matches!(self.control, Control::Impossible { .. })
    }

    /// Whether its control did the harm.
    pub(crate) fn succeeded(&self) -> bool {
        matches!(self.control, Control::Succeeded { .. })
    }
}

/// How a backend fared over all rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Stopped by the wall that was named.
    pub(crate) stopped: usize,
    /// All that a stop is promised for.
    pub(crate) promised: usize,
    /// Without a promise.
    pub(crate) not_promised: usize,
}

impl Tally {
    /// Over these runs.
    pub(crate) fn of<'a>(runs: impl Iterator<Item = &'a Run>) -> Self {
        runs.fold(Self::default(), |sum, run| match run.held {
            Held::NotPromised { .. } => Self {
                not_promised: sum.not_promised + 1,
                ..sum
            },
            _ => Self {
                stopped: sum.stopped + usize::from(run.held.is_as_promised()),
                promised: sum.promised + 1,
                ..sum
            },
        })
    }
}

/// The whole as JSON.
pub(crate) fn as_json(
    rows: &[Row],
    python: &Result<Python, String>,
    left: &[u32],
    passed: bool,
) -> Value {
    json!({
        "schema": SCHEMA,
        "python": match python {
            Ok(python) => json!({ "path": python.path, "version": python.version }),
            Err(why) => json!({ "missing": why }),
        },
        "attacks": rows.iter().map(row_json).collect::<Vec<_>>(),
        "processes_left": left,
        "summary": {
            "attacks": rows.len(),
            "stopped": rows.iter().filter(|row| row.stopped()).count(),
            "controls_succeeded": rows.iter().filter(|row| row.succeeded()).count(),
            "controls_impossible": rows.iter().filter(|row| row.proven() && !row.succeeded()).count(),
            "passed": passed,
        },
    })
}

/// A verdict as one word, and what there is to say about it.
pub(crate) fn verdict(held: &Held) -> (&'static str, &str) {
    match held {
        Held::Stopped { by } => ("stopped", by),
        Held::GotThrough { harm } => ("got_through", harm),
        Held::Unproven { why } => ("unproven", why),
        Held::NotRun { why } => ("not_run", why),
        Held::NotPromised { why } => ("not_promised", why),
    }
}

/// A control's verdict as one word, and what there is to say about it.
pub(crate) fn control_verdict(control: &Control) -> (&'static str, &str) {
    match control {
        Control::Succeeded { harm } => ("succeeded", harm),
        Control::Impossible { why } => ("impossible", why),
        Control::Failed { why } => ("failed", why),
        Control::NotRun { why } => ("not_run", why),
    }
}

fn run_json(run: &Run) -> Value {
    let (verdict, detail) = verdict(&run.held);
    let mut value = json!({
        "backend": run.backend,
        "wall": run.wall,
        "verdict": verdict,
        "detail": line(detail, 1000),
        "ending": run.ending,
        "elapsed_ms": u64::try_from(run.took.as_millis()).unwrap_or(u64::MAX),
    });
    if let (Some(channel), Some(fields)) = (run.channel, value.as_object_mut()) {
        fields.insert(
            "channel".to_owned(),
            json!({
                "bits_sent": channel.bits_sent,
                "bits_right": channel.bits_right,
                "bits_per_second": channel.rate(),
            }),
        );
    }
    value
}

fn walls(promise: &Promise) -> Value {
    match promise {
        Promise::Walls(walls) => json!(walls),
        Promise::NotPromised(_) => json!([]),
    }
}

fn row_json(row: &Row) -> Value {
    let (control, seen) = control_verdict(&row.control);
    json!({
        "attack": row.header.attack,
        "threat": row.header.threat,
        "tries": row.header.tries,
        "oracle": row.header.oracle,
        "walls": { "wasm": walls(&row.header.wall), "native": walls(&row.header.native) },
        "sandboxes": row.runs.iter().map(run_json).collect::<Vec<_>>(),
        "control": { "verdict": control, "detail": line(seen, 1000) },
    })
}
