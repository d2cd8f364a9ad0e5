//! Bandit's own examples: where the findings here differ from what Bandit expects, by file, as the list
//! in `tests/bandit-differences.tsv` says. The examples are not part of the project:
//! `CASEMATE_CORPORA` names the folder that has them. docs/bandit.md gives the reasons.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that reports"
)]

use std::collections::BTreeMap;

use casemate_model::finding::{Confidence, Severity};
use casemate_model::job::Language;
use casemate_screen::{ScreenConfig, Source, screen};
use serde_json::Value;

const LISTED: &str = include_str!("bandit-differences.tsv");

/// How many findings there are of low, medium and high.
type Counts = [u64; 3];

fn ours(code: &str) -> (Counts, Counts, String) {
    let config = ScreenConfig {
        max_findings: usize::MAX,
        ..ScreenConfig::default()
    };
    let source = Source {
        bytes: code.as_bytes(),
        language: Language::Python,
        name: "example.py",
    };
    let (mut severities, mut confidences) = ([0; 3], [0; 3]);
    let mut rules: BTreeMap<String, u64> = BTreeMap::new();
    for finding in screen(&source, &config).findings {
        let code = finding.rule.strip_prefix('S').unwrap_or("");
        if code.is_empty() || !code.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        severities[match finding.severity {
            Severity::Low => 0,
            Severity::Medium => 1,
            Severity::High => 2,
        }] += 1;
        confidences[match finding.confidence {
            Confidence::Low => 0,
            Confidence::Medium => 1,
            Confidence::High => 2,
        }] += 1;
        *rules.entry(finding.rule).or_default() += 1;
    }
    let rules: Vec<String> = rules
        .into_iter()
        .map(|(rule, count)| format!("{rule}x{count}"))
        .collect();
    (severities, confidences, rules.join(" "))
}

fn theirs(expected: &Value, what: &str) -> Counts {
    ["LOW", "MEDIUM", "HIGH"].map(|level| expected[what][level].as_u64().unwrap_or(0))
}

/// One line a file: its name, severities expected and found, confidences expected and found, the rules
/// found. Counts are those of low, medium and high.
fn differences(examples: &str) -> (usize, usize, Vec<String>) {
    let (mut files, mut same, mut lines) = (0, 0, Vec::new());
    for line in examples.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        // A file may be expected several times, with other settings; the first are the defaults.
        let Some(expected) = row["bandit_expect"].get(0) else {
            continue;
        };
        files += 1;
        let (severities, confidences, rules) = ours(row["code"].as_str().unwrap());
        let wanted = (theirs(expected, "SEVERITY"), theirs(expected, "CONFIDENCE"));
        if wanted == (severities, confidences) {
            same += 1;
            continue;
        }
        let id = row["id"].as_str().unwrap().trim_start_matches("bandit-ex-");
        let show = |counts: Counts| counts.map(|count| count.to_string()).join("/");
        lines.push(format!(
            "{id}\t{}\t{}\t{}\t{}\t{rules}",
            show(wanted.0),
            show(severities),
            show(wanted.1),
            show(confidences),
        ));
    }
    (files, same, lines)
}

#[test]
fn differences_from_bandit_are_the_listed_ones() {
    let Some(folder) = std::env::var_os("CASEMATE_CORPORA") else {
        println!("SKIPPED: CASEMATE_CORPORA is not set, so Bandit's examples were not looked at");
        return;
    };
    let path = std::path::Path::new(&folder).join("bandit_examples.jsonl");
    let (files, same, lines) = differences(&std::fs::read_to_string(path).unwrap());
    println!("{same} of {files} files exactly as Bandit expects");
    let listed: Vec<&str> = LISTED
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert!(
        lines == listed,
        "tests/bandit-differences.tsv should say:\n{}",
        lines.join("\n")
    );
}

#[test]
fn findings_have_bandits_number_severity_and_confidence() {
    for (code, rule, severity, confidence) in [
        ("assert x", "S101", Severity::Low, Confidence::High),
        ("exec(x)", "S102", Severity::Medium, Confidence::High),
        ("import pickle", "S403", Severity::Low, Confidence::High),
        (
            "x.bind(('0.0.0.0', 1))",
            "S104",
            Severity::Medium,
            Confidence::Medium,
        ),
        (
            "import os\nos.system(x)",
            "S605",
            Severity::High,
            Confidence::High,
        ),
        (
            "import os\nos.system('ls')",
            "S605",
            Severity::Low,
            Confidence::High,
        ),
        (
            "import requests\nrequests.get(x, verify=False, timeout=1)",
            "S501",
            Severity::High,
            Confidence::High,
        ),
    ] {
        let source = Source {
            bytes: code.as_bytes(),
            language: Language::Python,
            name: "a.py",
        };
        let findings = screen(&source, &ScreenConfig::default()).findings;
        let found = findings.iter().find(|finding| finding.rule == rule);
        let found = found.unwrap_or_else(|| panic!("{rule} is missing in {code}"));
        assert_eq!(
            (found.severity, found.confidence),
            (severity, confidence),
            "{code}"
        );
        let number = rule.replace('S', "B");
        assert!(found.reason.starts_with(&number), "{}", found.reason);
    }
}

/// Whoever wrote the program also wrote the comment.
#[test]
fn nosec_is_counted_and_not_obeyed() {
    for comment in [
        "# nosec",
        "# nosec B102",
        "#nosec: B102",
        "# NOSEC",
        "# noqa: S102",
    ] {
        let code = format!("exec(x)  {comment}\n");
        let source = Source {
            bytes: code.as_bytes(),
            language: Language::Python,
            name: "a.py",
        };
        let screening = screen(&source, &ScreenConfig::default());
        assert_eq!(screening.suppressions_ignored, 1, "{comment}");
        assert!(
            screening
                .findings
                .iter()
                .any(|finding| finding.rule == "S102"),
            "{comment}"
        );
    }
}
