//! SARIF logs against the schema of SARIF 2.1.0. `CASEMATE_SARIF` names a folder that npm installed
//! `@microsoft/jest-sarif` into, as `./dev test` does.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that reports, and runs the validator"
)]

use std::path::PathBuf;
use std::process::Command;

use casemate_model::job::Language;
use casemate_model::screening::Screening;
use casemate_screen::report::{Scanned, sarif};
use casemate_screen::{ScreenConfig, Source, screen};
use serde_json::Value;

fn screened(code: &[u8]) -> Screening {
    let source = Source {
        bytes: code,
        language: Language::Python,
        name: "a.py",
    };
    screen(&source, &ScreenConfig::default())
}

/// Names that are awkward in a URI, and programs that are awkward to read.
const AWKWARD: &[(&str, &[u8])] = &[
    ("a b.py", b"eval(x)\n"),
    ("dir with \"quotes\"/a#b?c%d.py", b"import os\nos.system('id')\n"),
    ("\u{e9}t\u{e9}/\u{6771}\u{4eac}.py", "x = '\u{1f600}'; eval(x)\n".as_bytes()),
    ("C:\\windows\\a.py", b"exec(y)"),
    ("//host/a.py", b"exec(y)"),
    ("a:b.py", b"exec(y)"),
    ("\u{1b}[31m.py\n", b"open('/etc/shadow\x1b[2J')"),
    ("", b"exec(y)"),
    ("bytes.py", b"\xff\xfe\x00"),
    ("nul.py", b"a\0b"),
    ("empty.py", b""),
    ("broken.py", b"def f(:\n  x = = 1\n"),
    ("crlf.py", b"eval(x)\r\n\r\n\teval(y)\r"),
    ("deep.py", b"((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((("),
];

fn logs() -> Vec<String> {
    let awkward: Vec<(&str, Screening)> = AWKWARD
        .iter()
        .map(|(name, code)| (*name, screened(code)))
        .collect();
    let log = |files: &[(&str, Screening)]| {
        let scanned: Vec<_> = files
            .iter()
            .map(|(path, screening)| Scanned { path, screening })
            .collect();
        sarif(&scanned)
    };
    let mut logs = vec![
        log(&awkward),
        log(&[]),
        log(&[("clean.py", screened(b"x = 1\n"))]),
    ];
    logs.extend(awkward.chunks(1).map(log));
    if let Some(folder) = std::env::var_os("CASEMATE_CORPORA") {
        let path = PathBuf::from(folder).join("bandit_examples.jsonl");
        let rows = std::fs::read_to_string(path).unwrap();
        let files: Vec<(String, Screening)> = rows
            .lines()
            .map(|line| {
                let row: Value = serde_json::from_str(line).unwrap();
                let code = row["code"].as_str().unwrap();
                (
                    row["id"].as_str().unwrap().to_owned(),
                    screened(code.as_bytes()),
                )
            })
            .collect();
        let files: Vec<(&str, Screening)> = files
            .iter()
            .map(|(name, screening)| (name.as_str(), screening.clone()))
            .collect();
        logs.push(log(&files));
    }
    logs
}

#[test]
fn logs_are_valid_sarif() {
    let Some(prefix) = std::env::var_os("CASEMATE_SARIF") else {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(
            !ci,
            "CASEMATE_SARIF is not set; ./dev test installs the validator and sets it"
        );
        println!("SKIPPED: CASEMATE_SARIF is not set, so no log was validated; ./dev test sets it");
        return;
    };
    let folder = std::env::temp_dir().join(format!("casemate-sarif-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut paths = Vec::new();
    for (index, log) in logs().iter().enumerate() {
        let path = folder.join(format!("{index}.sarif"));
        std::fs::write(&path, log).unwrap();
        paths.push(path);
    }
    // A log that is wrong must be told apart, or the validator validates nothing.
    let wrong = folder.join("wrong.sarif");
    std::fs::write(&wrong, r#"{"version": "2.1.0", "runs": [{"results": []}]}"#).unwrap();
    let validate = |paths: &[PathBuf]| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sarif/validate.js");
        Command::new("node")
            .arg(script)
            .arg(&prefix)
            .args(paths)
            .output()
            .unwrap()
    };
    let said = validate(&paths);
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    assert!(
        !validate(&[wrong]).status.success(),
        "a log without a tool passed"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

/// What the schema does not say: a URI reference has no authority, no scheme and no raw characters, and
/// regions count from one.
#[test]
fn places_can_be_followed() {
    for log in logs() {
        let log: Value = serde_json::from_str(&log).unwrap();
        for result in log["runs"][0]["results"].as_array().unwrap() {
            let place = &result["locations"][0]["physicalLocation"];
            let uri = place["artifactLocation"]["uri"].as_str().unwrap();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/%".contains(&byte);
            assert!(uri.bytes().all(plain) && !uri.starts_with("//"), "{uri}");
            let region = &place["region"];
            let from_one = |key: &str| region[key].as_u64().is_none_or(|count| count >= 1);
            assert!(from_one("startLine") && from_one("startColumn"), "{region}");
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(
                log["runs"][0]["tool"]["driver"]["rules"][index]["id"],
                result["ruleId"]
            );
        }
    }
}
