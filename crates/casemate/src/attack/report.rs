//! The table for people and `casemate.attack/1` for programs.

use serde_json::{Value, json};

use super::control::{Control, Python};
use super::header::Header;
use super::oracle::Held;
use super::sandbox::{Run, Target};
use crate::text::line;

/// The schema's name; the number changes when a field goes or changes its meaning.
const SCHEMA: &str = "casemate.attack/2";

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
        self.runs
            .iter()
            .all(|run| matches!(run.held, Held::Stopped { .. } | Held::NotPromised { .. }))
    }

    /// Whether its control shows that it is an attack.
    pub(crate) fn proven(&self) -> bool {
        matches!(self.control, Control::Succeeded { .. })
    }
}

/// The table's head: a column a backend.
pub(crate) fn head(targets: &[Target]) -> String {
    let names: Vec<String> = targets
        .iter()
        .map(|target| format!("IN {}", target.backend.to_uppercase()))
        .collect();
    row_of("ATTACK", "THREAT", "TRIES TO", &names, "WITH NO SANDBOX")
}

/// One line, and one more for each thing that is not as it must be.
pub(crate) fn row(row: &Row) -> String {
    let header = &row.header;
    let alone = row.runs.len() == 1;
    let held: Vec<String> = row.runs.iter().map(|run| held(run, alone)).collect();
    let (control, failure) = match &row.control {
        Control::Succeeded { .. } => ("succeeded", None),
        Control::Failed { why } => ("FAILED", Some(why)),
        Control::NotRun { .. } => ("not run", None),
    };
    let threat = header.threat.to_string();
    let mut text = row_of(&header.attack, &threat, &header.tries, &held, control);
    for run in &row.runs {
        if let Held::GotThrough { harm: why } | Held::Unproven { why } | Held::NotRun { why } =
            &run.held
        {
            text.push_str(&format!("    in {}: {}\n", run.backend, line(why, 400)));
        }
    }
    if let Some(why) = failure {
        text.push_str(&format!("    control: {}\n", line(why, 400)));
    }
    text
}

fn held(run: &Run, with_sign: bool) -> String {
    let wall = run.wall.as_deref().unwrap_or("-");
    match &run.held {
        Held::Stopped { by } if with_sign => format!("stopped: {wall} ({by})"),
        Held::Stopped { .. } => format!("stopped: {wall}"),
        Held::GotThrough { .. } => "GOT THROUGH".to_owned(),
        Held::Unproven { .. } => "NOT BY ITS WALL".to_owned(),
        Held::NotRun { .. } => "DID NOT RUN".to_owned(),
        Held::NotPromised { .. } => "not promised".to_owned(),
    }
}

/// One backend has room to say everything; several share it, and many leave none for what is tried.
fn row_of(attack: &str, threat: &str, tries: &str, held: &[String], control: &str) -> String {
    let (tries_width, width) = match held.len() {
        0 | 1 => (46, 55),
        2 => (29, 28),
        _ => (0, 27),
    };
    let cells: String = held
        .iter()
        .map(|held| format!("{:<width$} ", line(held, width - 1)))
        .collect();
    let tries = match tries_width {
        0 => String::new(),
        width => format!("{:<width$}", line(tries, width - 2)),
    };
    format!("{attack:<22} {threat:<13} {tries}{cells}{control}\n")
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

fn run_json(run: &Run) -> Value {
    let (verdict, detail) = match &run.held {
        Held::Stopped { by } => ("stopped", by),
        Held::GotThrough { harm } => ("got_through", harm),
        Held::Unproven { why } => ("unproven", why),
        Held::NotRun { why } => ("not_run", why),
        Held::NotPromised { why } => ("not_promised", why),
    };
    json!({
        "backend": run.backend,
        "wall": run.wall,
        "verdict": verdict,
        "detail": line(detail, 1000),
        "ending": run.ending,
        "elapsed_ms": u64::try_from(run.took.as_millis()).unwrap_or(u64::MAX),
    })
}

fn row_json(row: &Row) -> Value {
    let (control, seen) = match &row.control {
        Control::Succeeded { harm } => ("succeeded", harm),
        Control::Failed { why } => ("failed", why),
        Control::NotRun { why } => ("not_run", why),
    };
    json!({
        "attack": row.header.attack,
        "threat": row.header.threat,
        "tries": row.header.tries,
        "oracle": row.header.oracle,
        "sandboxes": row.runs.iter().map(run_json).collect::<Vec<_>>(),
        "control": { "verdict": control, "detail": line(seen, 1000) },
    })
}
