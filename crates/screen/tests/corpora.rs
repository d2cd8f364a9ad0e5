//! A look at real programs. The corpora are not part of the project: `CASEMATE_CORPORA` names their
//! folder.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that reports"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use casemate_model::job::Language;
use casemate_screen::{ScreenConfig, Source, screen};
use serde_json::Value;

struct Row {
    id: String,
    code: String,
    screen: String,
    category: String,
}

fn folder() -> Option<PathBuf> {
    std::env::var_os("CASEMATE_CORPORA").map(PathBuf::from)
}

fn rows(folder: &Path) -> Vec<Row> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "jsonl")
    });
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| row[key].as_str().unwrap_or("").to_owned();
            if text("language") == "python" {
                rows.push(Row {
                    id: text("id"),
                    code: text("code"),
                    screen: text("screen"),
                    category: text("category"),
                });
            }
        }
    }
    rows
}

#[test]
fn real_programs_are_told_from_attacks() {
    let Some(folder) = folder() else {
        println!("SKIPPED: CASEMATE_CORPORA is not set, so no real program was looked at");
        return;
    };
    let rows = rows(&folder);
    assert!(
        rows.len() > 500,
        "only {} rows in {}",
        rows.len(),
        folder.display()
    );
    let mut verdicts: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut times = Vec::new();
    let mut slowest = Vec::new();
    for row in &rows {
        let source = Source {
            bytes: row.code.as_bytes(),
            language: Language::Python,
            name: "row.py",
        };
        let started = Instant::now();
        let screening = screen(&source, &ScreenConfig::default());
        times.push(started.elapsed().as_micros());
        slowest.push((started.elapsed().as_micros(), row.code.len(), &row.id));
        let word = screening.verdict.word();
        *verdicts
            .entry(row.screen.clone())
            .or_default()
            .entry(word)
            .or_default() += 1;
        let odd = matches!(
            (row.screen.as_str(), word),
            ("should_flag", "pass" | "confine")
        ) || (row.screen == "must_not_flag" && word != "pass")
            || (row.screen.starts_with("capability") || row.screen == "must_not_require")
                && word == "refuse";
        if odd && std::env::var_os("CASEMATE_CORPORA_VERBOSE").is_some() {
            let rules: Vec<_> = screening
                .findings
                .iter()
                .filter(|finding| finding.action != casemate_model::finding::Action::Pass)
                .map(|finding| format!("{}: {}", finding.rule, finding.message))
                .collect();
            println!(
                "{} {} ({}) {word}: {rules:?}",
                row.screen, row.id, row.category
            );
        }
    }
    times.sort_unstable();
    slowest.sort_unstable();
    for (took, bytes, id) in slowest.iter().rev().step_by(25).take(5) {
        println!("slow: {id}, {bytes} bytes, {took} us");
    }
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{} programs; p50 {} us, p95 {} us, max {} us",
        rows.len(),
        at(50),
        at(95),
        at(100)
    );
    for (asked, words) in &verdicts {
        println!("  {asked:<20} {words:?}");
    }
    let share = |asked: &str, word: &str| {
        let words = &verdicts[asked];
        let all: usize = words.values().sum();
        words.get(word).copied().unwrap_or(0) as f64 / all as f64
    };
    assert!(share("should_flag", "pass") <= 0.05, "attacks pass");
    assert!(
        share("must_not_flag", "refuse") <= 0.005,
        "honest programs are refused"
    );
}

/// Ruff's own fixtures name the rules they trigger, and how often.
#[test]
fn bandits_rules_are_all_there() {
    let Some(folder) = folder() else {
        println!("SKIPPED: CASEMATE_CORPORA is not set, so no fixture was looked at");
        return;
    };
    let fixtures = std::fs::read_to_string(folder.join("ruff_flake8_bandit.jsonl")).unwrap();
    let (mut same, mut other) = (0, Vec::new());
    for line in fixtures.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let code = row["code"].as_str().unwrap();
        let Some(expected) = row["ruff_expect"].as_object() else {
            continue;
        };
        let config = ScreenConfig {
            max_findings: usize::MAX,
            ..ScreenConfig::default()
        };
        let source = Source {
            bytes: code.as_bytes(),
            language: Language::Python,
            name: "a.py",
        };
        let screening = screen(&source, &config);
        // Stub files are another language to ruff, and its preview mode is not switched on here.
        if row["id"].as_str().unwrap().ends_with(".pyi") {
            continue;
        }
        for (rule, count) in expected
            .iter()
            .filter(|(rule, _)| !rule.ends_with("-preview"))
        {
            let seen = screening
                .findings
                .iter()
                .filter(|finding| finding.rule == *rule)
                .count() as u64;
            if Some(seen) == count.as_u64() {
                same += 1;
            } else {
                other.push(format!("{} {rule}: {seen} instead of {count}", row["id"]));
            }
        }
    }
    println!(
        "{same} rules as in the fixtures, {} otherwise: {other:#?}",
        other.len()
    );
    assert!(same > 50 && other.is_empty(), "{other:#?}");
}
