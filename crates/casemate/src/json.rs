//! The outcome as JSON: `casemate.outcome/1`, described in docs/outcome.md and pinned by a snapshot.

use casemate_model::outcome::Outcome;
use casemate_model::result::base64;
use serde_json::{Value, json};

use crate::out::Saved;

/// The schema's name; the number changes when a field goes or changes its meaning.
pub(crate) const SCHEMA: &str = "casemate.outcome/1";

/// The whole outcome. Files are by content, or by path where they were saved.
pub(crate) fn outcome(outcome: &Outcome, saved: Option<&Saved>) -> Value {
    json!({
        "schema": SCHEMA,
        "run": outcome.id,
        "ending": ending(outcome),
        "exit_code": outcome.ending.exit_code(),
        "stdout": String::from_utf8_lossy(&outcome.stdout),
        "stderr": String::from_utf8_lossy(&outcome.stderr),
        "results": results(outcome, saved),
        "error": outcome.error,
        "artifacts": artifacts(outcome, saved),
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

/// The ending with its cause in words and what to do.
fn ending(outcome: &Outcome) -> Value {
    let mut value = serde_json::to_value(&outcome.ending).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert(
            "cause".to_owned(),
            json!(crate::show::cause(&outcome.ending)),
        );
        fields.insert("hint".to_owned(), json!(outcome.hint));
    }
    value
}

fn results(outcome: &Outcome, saved: Option<&Saved>) -> Vec<Value> {
    let pictures = saved
        .map(|saved| saved.pictures.as_slice())
        .unwrap_or_default();
    let paths = pictures
        .iter()
        .map(Option::as_ref)
        .chain(std::iter::repeat(None));
    outcome
        .results
        .iter()
        .zip(paths)
        .map(|(result, path)| {
            let mut value = serde_json::to_value(result).unwrap_or_default();
            if let (Some(path), Some(fields)) = (path, value.as_object_mut()) {
                fields.insert("saved_to".to_owned(), json!(path));
            }
            value
        })
        .collect()
}

fn artifacts(outcome: &Outcome, saved: Option<&Saved>) -> Vec<Value> {
    outcome
        .artifacts
        .iter()
        .enumerate()
        .map(|(index, artifact)| {
            let mut value = json!({
                "path": artifact.path,
                "size_bytes": artifact.bytes.len(),
                "sha256": casemate_engine::sha256_hex(&artifact.bytes),
            });
            let path = saved.and_then(|saved| saved.artifacts.get(index)?.as_ref());
            let (name, content) = match path {
                Some(path) => ("saved_to", json!(path)),
                None => ("base64", json!(base64(&artifact.bytes))),
            };
            value[name] = content;
            value
        })
        .collect()
}
