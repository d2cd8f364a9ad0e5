//! What is said of a program whose language is not analysed.

use casemate_model::guarantee::Guarantee;
use casemate_model::job::Language;
use casemate_model::screening::Verdict;
use casemate_screen::{ScreenConfig, Source, screen};

fn verdict(bytes: &[u8]) -> (Verdict, Vec<String>) {
    let source = Source {
        bytes,
        language: Language::JavaScript,
        name: "a.js",
    };
    let screening = screen(&source, &ScreenConfig::default());
    let rules = screening
        .findings
        .iter()
        .map(|finding| finding.rule.clone());
    (screening.verdict, rules.collect())
}

#[test]
fn javascript_is_said_not_to_be_analysed_and_is_never_called_clean() {
    let (verdict, rules) = verdict(b"require('child_process').execSync('id')");
    let Verdict::Confine(walls) = verdict else {
        panic!("{verdict:?}");
    };
    for wall in [
        Guarantee::HostFilesHidden,
        Guarantee::NetworkAbsent,
        Guarantee::SyscallsFiltered,
    ] {
        assert!(walls.contains(wall), "{wall}");
    }
    assert_eq!(rules, ["not-analysed"]);
}

#[test]
fn its_bytes_are_looked_at_as_those_of_any_program() {
    for bytes in [
        &b"a\0b"[..],
        b"\xff\xfe",
        "let a = '\u{202e}x'".as_bytes(),
        &[b'x'; 2 << 20],
    ] {
        assert_eq!(verdict(bytes).0, Verdict::Refuse);
    }
}
