//! SARIF 2.1.0, which code hosts and editors read.

use std::collections::BTreeMap;

use casemate_model::finding::{Action, Confidence, Finding, Severity};
use serde_json::{Value, json};

use super::Scanned;

/// One SARIF log with one run.
pub fn sarif(scanned: &[Scanned<'_>]) -> String {
    let mut rules: BTreeMap<&str, &Finding> = BTreeMap::new();
    for finding in scanned.iter().flat_map(|one| &one.screening.findings) {
        rules.entry(&finding.rule).or_insert(finding);
    }
    let ids: Vec<&str> = rules.keys().copied().collect();
    let results: Vec<Value> = scanned
        .iter()
        .flat_map(|one| {
            one.screening
                .findings
                .iter()
                .map(|finding| result(one.path, finding, &ids))
        })
        .collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "casemate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.values().map(|finding| descriptor(finding)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "artifacts": scanned.iter().map(|one| json!({ "location": { "uri": uri(one.path) } })).collect::<Vec<_>>(),
            "results": results,
        }],
    });
    // `Value` prints without an error; the alternative form keeps it readable.
    format!("{log:#}\n")
}

fn descriptor(finding: &Finding) -> Value {
    json!({
        "id": finding.rule,
        "shortDescription": { "text": finding.rule.replace('-', " ") },
        "fullDescription": { "text": finding.reason },
        "help": { "text": finding.better_way },
        "defaultConfiguration": { "level": level(finding) },
        "properties": { "security-severity": security_severity(finding.severity), "tags": ["security"] },
    })
}

fn result(path: &str, finding: &Finding, ids: &[&str]) -> Value {
    let mut location = json!({ "physicalLocation": { "artifactLocation": { "uri": uri(path) } } });
    if let Some(place) = finding.place {
        let mut region = json!({
            "startLine": place.line,
            "startColumn": place.column,
            "endLine": place.end_line,
            "endColumn": place.end_column,
        });
        if let Some(excerpt) = &finding.excerpt {
            region["snippet"] = json!({ "text": excerpt });
        }
        location["physicalLocation"]["region"] = region;
    }
    json!({
        "ruleId": finding.rule,
        "ruleIndex": ids.iter().position(|id| *id == finding.rule),
        "level": level(finding),
        "message": { "text": format!("{}; {}", finding.message, finding.better_way) },
        "locations": [location],
        "rank": rank(finding.confidence),
        "properties": { "action": finding.action, "layer": finding.layer, "confidence": finding.confidence },
    })
}

fn level(finding: &Finding) -> &'static str {
    match (finding.action, finding.severity) {
        (Action::Refuse, _) => "error",
        (Action::Confine, _) | (Action::Pass, Severity::High | Severity::Medium) => "warning",
        (Action::Pass, Severity::Low) => "note",
    }
}

/// The scale of CVSS, which is what readers of this property sort by.
fn security_severity(severity: Severity) -> &'static str {
    match severity {
        Severity::High => "8.0",
        Severity::Medium => "5.0",
        Severity::Low => "2.0",
    }
}

fn rank(confidence: Confidence) -> f64 {
    match confidence {
        Confidence::High => 90.0,
        Confidence::Medium => 60.0,
        Confidence::Low => 30.0,
    }
}

/// A path as a relative or absolute URI reference: everything but unreserved characters is encoded.
fn uri(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    // Two slashes in front would name a host.
    let path = match path.strip_prefix("//") {
        Some(rest) => format!("/{}", rest.trim_start_matches('/')),
        None => path.to_owned(),
    };
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}
