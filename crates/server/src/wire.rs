//! The outcome as JSON, `casemate.outcome/1`, and its end in words, as the command line and the server say them.

use casemate_model::outcome::{Ending, Outcome};
use casemate_model::result::base64;
use serde_json::{Value, json};

use crate::text::line;

/// The schema's name; the number changes when a field goes or changes its meaning.
pub const SCHEMA: &str = "casemate.outcome/1";

/// Where the contents of an outcome are, besides in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Places<'a> {
    /// The field's name, such as `saved_to`.
    pub field: &'static str,
    /// The place of each displayed result's picture, where it has one.
    pub pictures: &'a [Option<std::path::PathBuf>],
    /// The place of each artifact; one without has its content in the JSON.
    pub artifacts: &'a [Option<std::path::PathBuf>],
}

/// The whole outcome. Files are by content, or by place.
pub fn outcome(outcome: &Outcome, places: Places<'_>) -> Value {
    json!({
        "schema": SCHEMA,
        "run": outcome.id,
        "ending": ending(outcome),
        "exit_code": outcome.ending.exit_code(),
        "stdout": String::from_utf8_lossy(&outcome.stdout),
        "stderr": String::from_utf8_lossy(&outcome.stderr),
        "results": results(outcome, places),
        "error": outcome.error,
        "artifacts": artifacts(outcome, places),
        "usage": outcome.usage,
        "limits": outcome.limits,
        "screening": outcome.screening,
        "placement": outcome.placement,
        "asked": outcome.asked,
        "receipt": outcome.receipt,
        "summary": outcome.summary,
        "alerts": outcome.alerts,
    })
}

/// The schema of receipts.
pub const RECEIPT: &str = "casemate.receipt/1";
/// What a signed receipt is, as its envelope says it.
pub const RECEIPT_TYPE: &str = "application/vnd.casemate.receipt+json";

/// The schema of receipts of sandboxes that live on.
pub const SANDBOX_RECEIPT: &str = "casemate.sandbox-receipt/1";
/// What a signed one is, as its envelope says it.
pub const SANDBOX_RECEIPT_TYPE: &str = "application/vnd.casemate.sandbox-receipt+json";

/// What a signed head of an audit is, as its envelope says it.
pub const AUDIT_HEAD_TYPE: &str = "application/vnd.casemate.audit-head+json";
/// The schema of such heads.
pub const AUDIT_HEAD: &str = "casemate.audit-head/1";

/// What was run, for a receipt.
#[derive(Debug, Clone, Copy)]
pub struct Ran<'a> {
    /// `policy` by name, `program` with its SHA-256, and `inputs` with theirs.
    pub about: &'a Value,
    /// When it was taken in, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it had ended.
    pub ended_ms: i64,
}

/// What is known of a run, in short: what was run on what, under which policy, which walls were asked for and which
/// stood, what was used and denied, how it ended and what it left, by hashes. From the outcome's JSON.
pub fn receipt(ran: Ran<'_>, outcome: &Value) -> Value {
    let text_hash = |name: &str| {
        let text = outcome[name].as_str().unwrap_or_default();
        casemate_engine::sha256_hex(text.as_bytes())
    };
    let artifacts = outcome["artifacts"].as_array().into_iter().flatten();
    // Their hashes are here, and their contents elsewhere.
    let artifacts = artifacts.map(|artifact| {
        json!({
            "path": artifact["path"],
            "size_bytes": artifact["size_bytes"],
            "sha256": artifact["sha256"],
        })
    });
    let artifacts: Vec<Value> = artifacts.collect();
    json!({
        "schema": RECEIPT,
        "casemate": env!("CARGO_PKG_VERSION"),
        "run": outcome["run"],
        "created_ms": ran.created_ms,
        "ended_ms": ran.ended_ms,
        "policy": ran.about["policy"],
        "program": ran.about["program"],
        "inputs": ran.about["inputs"],
        "verdict": outcome["screening"]["verdict"],
        "placement": outcome["placement"],
        "asked": outcome["asked"],
        "walls": outcome["receipt"],
        "limits": outcome["limits"],
        "usage": outcome["usage"],
        "denials": outcome["summary"]["denials"],
        "ending": outcome["ending"],
        "exit_code": outcome["exit_code"],
        "stdout_sha256": text_hash("stdout"),
        "stderr_sha256": text_hash("stderr"),
        "artifacts": artifacts,
    })
}

/// How a run ended, in one sentence.
pub fn cause(ending: &Ending) -> String {
    match ending {
        Ending::Exited { code: 0 } => "the program ended normally".to_owned(),
        Ending::Exited { code } => format!("the program ended with exit code {code}"),
        Ending::Signalled { signal } => {
            format!("the process that held the program died of signal {signal}")
        }
        Ending::Over {
            limit,
            allowed,
            seen,
        } => {
            format!(
                "over its {limit}: {} allowed, {} seen",
                limit.show(*allowed),
                limit.show(*seen)
            )
        }
        Ending::Denied { wall, reason } => format!("stopped by a wall, {wall}: {reason}"),
        Ending::Refused { by, reason } => format!("refused by {by}: {reason}"),
        Ending::Cancelled => "cancelled".to_owned(),
        Ending::Faulted { id, reason } => format!("Casemate failed ({id}): {reason}"),
    }
}

/// Why it did not end well, and what to do.
pub fn trouble(outcome: &Outcome) -> String {
    if outcome.ending.is_success() {
        return String::new();
    }
    let mut text = format!("casemate: {}\n", line(&cause(&outcome.ending), 400));
    if let Some(hint) = &outcome.hint {
        text.push_str(&format!("  hint: {}\n", line(hint, 400)));
    }
    if matches!(&outcome.ending, Ending::Refused { by, .. } if by == "screening") {
        for finding in outcome.screening.refusals().take(8) {
            let place = finding
                .place
                .map(|place| format!("line {}: ", place.line))
                .unwrap_or_default();
            text.push_str(&format!(
                "  {place}{} ({})\n",
                line(&finding.message, 200),
                finding.rule
            ));
            if let Some(excerpt) = &finding.excerpt {
                text.push_str(&format!("      | {}\n", line(excerpt, 100)));
            }
            text.push_str(&format!(
                "      why: {}\n      instead: {}\n",
                line(&finding.reason, 200),
                line(&finding.better_way, 200)
            ));
        }
    }
    text
}

/// The ending with its cause in words and what to do.
fn ending(outcome: &Outcome) -> Value {
    let mut value = serde_json::to_value(&outcome.ending).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("cause".to_owned(), json!(cause(&outcome.ending)));
        fields.insert("hint".to_owned(), json!(outcome.hint));
    }
    value
}

fn results(outcome: &Outcome, places: Places<'_>) -> Vec<Value> {
    let place = places
        .pictures
        .iter()
        .map(Option::as_ref)
        .chain(std::iter::repeat(None));
    let with_place = outcome.results.iter().zip(place);
    with_place
        .map(|(result, place)| {
            let mut value = serde_json::to_value(result).unwrap_or_default();
            if let (Some(place), Some(fields)) = (place, value.as_object_mut()) {
                fields.insert(places.field.to_owned(), json!(place));
            }
            value
        })
        .collect()
}

fn artifacts(outcome: &Outcome, places: Places<'_>) -> Vec<Value> {
    let artifacts = outcome.artifacts.iter().enumerate();
    artifacts
        .map(|(index, artifact)| {
            let mut value = json!({
                "path": artifact.path,
                "size_bytes": artifact.bytes.len(),
                "sha256": casemate_engine::sha256_hex(&artifact.bytes),
            });
            let place = places.artifacts.get(index).and_then(Option::as_ref);
            let (name, content) = match place {
                Some(place) => (places.field, json!(place)),
                None => ("base64", json!(base64(&artifact.bytes))),
            };
            value[name] = content;
            value
        })
        .collect()
}
