//! The table for people and `casemate.attack/1` for programs.

use serde_json::{Value, json};

use super::control::{Control, Python};
use super::header::Header;
use super::oracle::Held;
use super::sandbox::Run;
use crate::text::line;

/// The schema's name; the number changes when a field goes or changes its meaning.
const SCHEMA: &str = "casemate.attack/1";

/// One attack's row.
#[derive(Debug)]
pub(crate) struct Row {
    /// What its file says.
    pub(crate) header: Header,
    /// In the sandbox.
    pub(crate) run: Run,
    /// With none.
    pub(crate) control: Control,
}

impl Row {
    /// Whether it was stopped by its wall.
    pub(crate) fn stopped(&self) -> bool {
        matches!(self.run.held, Held::Stopped { .. })
    }

    /// Whether its control shows that it is an attack.
    pub(crate) fn proven(&self) -> bool {
        matches!(self.control, Control::Succeeded { .. })
    }
}

/// The table's head.
pub(crate) fn head() -> String {
    row_of(
        "ATTACK",
        "THREAT",
        "TRIES TO",
        "IN THE SANDBOX",
        "WITH NO SANDBOX",
    )
}

/// One line, and one more for each thing that is not as it must be.
pub(crate) fn row(row: &Row) -> String {
    let header = &row.header;
    let (held, trouble) = match &row.run.held {
        Held::Stopped { by } => (format!("stopped: {} ({by})", header.wall), None),
        Held::GotThrough { harm } => ("GOT THROUGH".to_owned(), Some(harm)),
        Held::Unproven { why } => ("NOT BY ITS WALL".to_owned(), Some(why)),
        Held::NotRun { why } => ("DID NOT RUN".to_owned(), Some(why)),
    };
    let (control, failure) = match &row.control {
        Control::Succeeded { .. } => ("succeeded", None),
        Control::Failed { why } => ("FAILED", Some(why)),
        Control::NotRun { .. } => ("not run", None),
    };
    let mut text = row_of(
        &header.attack,
        &header.threat.to_string(),
        &line(&header.tries, 44),
        &line(&held, 54),
        control,
    );
    for (place, why) in [("in the sandbox", trouble), ("control", failure)] {
        if let Some(why) = why {
            text.push_str(&format!("    {place}: {}\n", line(why, 400)));
        }
    }
    text
}

fn row_of(attack: &str, threat: &str, tries: &str, held: &str, control: &str) -> String {
    format!("{attack:<22} {threat:<13} {tries:<45} {held:<55} {control}\n")
}

/// The last lines.
pub(crate) fn summary(rows: &[Row], python: &Result<Python, String>, left: &[u32]) -> String {
    let stopped = rows.iter().filter(|row| row.stopped()).count();
    let proven = rows.iter().filter(|row| row.proven()).count();
    let all = rows.len();
    let mut text = format!("\n{stopped} of {all} attacks stopped by their wall; ");
    match python {
        Ok(python) => text.push_str(&format!(
            "{proven} of {all} controls succeeded with Python {}\n",
            line(&python.version, 20)
        )),
        Err(why) => text.push_str(&format!("controls not run: {}\n", line(why, 200))),
    }
    if !left.is_empty() {
        text.push_str(&format!("processes were left behind: {left:?}\n"));
    }
    text
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
            "controls_succeeded": rows.iter().filter(|row| row.proven()).count(),
            "passed": passed,
        },
    })
}

fn row_json(row: &Row) -> Value {
    let (verdict, detail) = match &row.run.held {
        Held::Stopped { by } => ("stopped", by),
        Held::GotThrough { harm } => ("got_through", harm),
        Held::Unproven { why } => ("unproven", why),
        Held::NotRun { why } => ("not_run", why),
    };
    let (control, seen) = match &row.control {
        Control::Succeeded { harm } => ("succeeded", harm),
        Control::Failed { why } => ("failed", why),
        Control::NotRun { why } => ("not_run", why),
    };
    json!({
        "attack": row.header.attack,
        "threat": row.header.threat,
        "tries": row.header.tries,
        "wall": row.header.wall,
        "oracle": row.header.oracle,
        "sandbox": {
            "verdict": verdict,
            "detail": line(detail, 1000),
            "backend": row.run.backend,
            "ending": row.run.ending,
            "elapsed_ms": u64::try_from(row.run.wall.as_millis()).unwrap_or(u64::MAX),
        },
        "control": { "verdict": control, "detail": line(seen, 1000) },
    })
}
