//! JSON Lines: one object a file.

use casemate_model::screening::Screening;
use serde::Serialize;

use super::Scanned;

/// The name and version of the form of a line.
pub const SCHEMA: &str = "casemate.scan/1";

#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    path: &'a str,
    #[serde(flatten)]
    screening: &'a Screening,
}

/// One line of JSON, without its line end.
pub fn jsonl_line(scanned: &Scanned<'_>) -> String {
    let line = Line {
        schema: SCHEMA,
        path: scanned.path,
        screening: scanned.screening,
    };
    serde_json::to_string(&line).unwrap_or_else(|error| {
        // Nothing in a screening can fail to serialise; if it did, the line must not read as clean.
        let failed = serde_json::json!({
            "schema": SCHEMA, "path": scanned.path, "verdict": "refuse", "error": error.to_string(),
        });
        failed.to_string()
    })
}

/// All lines, each ended.
pub fn jsonl(scanned: &[Scanned<'_>]) -> String {
    scanned.iter().map(|one| jsonl_line(one) + "\n").collect()
}
