//! Programs as models and attackers write them, each with the verdict it must get: our own corpus, in
//! `tests/programs`. A file is a group; a program follows a line `=== what it does`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that reports"
)]

use std::collections::BTreeMap;

use casemate_model::finding::Action;
use casemate_model::job::Language;
use casemate_screen::trial::{self, Class, Kind, Rate, Veil};
use casemate_screen::{ScreenConfig, Source, screen};

const HOSTILE: &[(&str, &str)] = &[
    ("files", include_str!("programs/hostile/files.txt")),
    ("processes", include_str!("programs/hostile/processes.txt")),
    ("network", include_str!("programs/hostile/network.txt")),
    ("escapes", include_str!("programs/hostile/escapes.txt")),
    // One path in many spellings; every expression was checked in Python to give it.
    ("spellings", include_str!("programs/hostile/spellings.txt")),
];

const HONEST: &[(&str, &str)] = &[
    ("analysis", include_str!("programs/honest/analysis.txt")),
    ("files", include_str!("programs/honest/files.txt")),
    ("capable", include_str!("programs/honest/capable.txt")),
];

/// The programs of a group: what each does, and its text.
fn programs(group: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    group
        .split("=== ")
        .skip(1)
        .map(|program| program.split_once('\n').unwrap())
}

/// The verdict, and what led to it.
fn judged(code: &str) -> (&'static str, Vec<String>) {
    let source = Source {
        bytes: code.as_bytes(),
        language: Language::Python,
        name: "program.py",
    };
    let screening = screen(&source, &ScreenConfig::default());
    let told = screening
        .findings
        .iter()
        .filter(|finding| finding.action != Action::Pass)
        .map(|finding| format!("{}: {}", finding.rule, finding.message))
        .collect();
    (screening.verdict.word(), told)
}

#[test]
fn hostile_programs_are_refused() {
    let mut wrong = Vec::new();
    let mut all = 0;
    for (group, text) in HOSTILE {
        for (what, code) in programs(text) {
            all += 1;
            let (word, told) = judged(code);
            if word != "refuse" {
                wrong.push(format!("{group}: {what} is {word}: {told:?}"));
            }
        }
    }
    println!("{} of {all} hostile programs are not refused", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn honest_programs_run() {
    let mut wrong = Vec::new();
    let mut all = 0;
    for (group, text) in HONEST {
        for (what, code) in programs(text) {
            all += 1;
            let (word, told) = judged(code);
            if word == "refuse" {
                wrong.push(format!("{group}: {what} is {word}: {told:?}"));
            }
        }
    }
    println!("{} of {all} honest programs are refused", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a program does does not change with how it is written.
#[test]
fn hostile_programs_are_refused_in_disguise() {
    let mut rates: BTreeMap<&str, Rate> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (group, text) in HOSTILE {
        for (seed, (what, code)) in programs(text).enumerate() {
            for kind in Kind::ALL {
                let Some(disguised) = trial::disguise(code, kind, seed as u64) else {
                    continue;
                };
                let (word, _) = judged(&disguised);
                rates.entry(kind.name()).or_default().add(word);
                if word != "refuse" {
                    wrong.push(format!("{}: {group}: {what} is {word}", kind.name()));
                }
            }
        }
    }
    for (kind, rate) in &rates {
        println!(
            "  {kind:<18} {:>5} refused of {:>5}",
            rate.refused, rate.all
        );
    }
    let all: usize = rates.values().map(|rate| rate.all).sum();
    assert!(wrong.len() * 100 <= all * 2, "{wrong:#?}");
}

/// The same under the second set of rewritings, which no rule was written for; with the corpora's
/// attacks too where `CASEMATE_CORPORA` names their folder.
#[test]
fn hostile_programs_are_refused_behind_veils() {
    let mut programs: Vec<(String, String)> = HOSTILE
        .iter()
        .flat_map(|(_, text)| self::programs(text))
        .map(|(what, code)| (what.to_owned(), code.to_owned()))
        .collect();
    if let Some(folder) = std::env::var_os("CASEMATE_CORPORA") {
        let rows = trial::read(folder.as_ref()).unwrap();
        let hostile = rows
            .into_iter()
            .filter(|row| row.class == Class::ShouldFlag);
        programs.extend(hostile.map(|row| (row.id, row.code)));
    }
    let mut rates: BTreeMap<&str, Rate> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (index, (what, code)) in programs.iter().enumerate() {
        for kind in Veil::ALL {
            for round in 0..3 {
                let seed = index as u64 * 3 + round;
                let Some(veiled) = trial::veil(code, kind, seed) else {
                    continue;
                };
                let (word, _) = judged(&veiled);
                rates.entry(kind.name()).or_default().add(word);
                if word != "refuse" {
                    wrong.push(format!("{}: {what} is {word}", kind.name()));
                    if let Some(folder) = std::env::var_os("CASEMATE_WRONG") {
                        let file = format!("{}-{}.py", kind.name(), what).replace([' ', '/'], "_");
                        std::fs::write(std::path::Path::new(&folder).join(file), &veiled).unwrap();
                    }
                }
            }
        }
    }
    for (kind, rate) in &rates {
        println!(
            "  {kind:<18} {:>5} refused of {:>5}",
            rate.refused, rate.all
        );
    }
    let all: usize = rates.values().map(|rate| rate.all).sum();
    assert!(wrong.len() * 100 <= all * 2, "{} of {all}", wrong.len());
}
