//! The attacks for real: every one is stopped by the wall its file names, and every control succeeds.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use support::{casemate, code, repository, run, stderr, stdout};

/// The wall of each attack, read here from the files themselves.
fn walls() -> BTreeMap<String, String> {
    fs::read_dir(repository("attacks"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let source = fs::read_to_string(&path).unwrap();
            let wall = source
                .lines()
                .find_map(|line| line.strip_prefix("# wall: "));
            let name = path.file_stem().unwrap().to_str().unwrap();
            (name.to_owned(), wall.unwrap().to_owned())
        })
        .collect()
}

fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(output)))
}

#[test]
fn every_attack_is_stopped_by_its_wall_and_every_control_succeeds() {
    let output = run(&["attack", "--json"]);
    let report = json(&output);
    assert_eq!(report["schema"], "casemate.attack/1");
    let walls = walls();
    let rows = report["attacks"].as_array().unwrap();
    assert_eq!(rows.len(), walls.len());
    let failures: Vec<String> = rows
        .iter()
        .filter(|row| {
            row["sandbox"]["verdict"] != "stopped"
                || row["control"]["verdict"] != "succeeded"
                || row["wall"] != walls[row["attack"].as_str().unwrap()].as_str()
                || row["sandbox"]["backend"] != "wasm"
        })
        .map(|row| serde_json::to_string_pretty(row).unwrap())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(report["processes_left"], serde_json::json!([]));
    assert_eq!(report["summary"]["passed"], true);
    assert_eq!(code(&output), 0);
    // What a limit stopped says which, how much was allowed and how much was seen.
    for row in rows
        .iter()
        .filter(|row| row["wall"].as_str().unwrap().starts_with("limit_"))
    {
        let ending = &row["sandbox"]["ending"];
        assert_eq!(ending["status"], "over", "{row}");
        assert!(
            ending["seen"].as_u64() >= ending["allowed"].as_u64(),
            "{row}"
        );
    }
}

#[test]
fn the_table_says_which_wall_and_nothing_of_the_secrets() {
    let output = run(&["attack", "password"]);
    let text = stdout(&output);
    assert_eq!(code(&output), 0, "{text}{}", stderr(&output));
    assert!(text.contains("password_file"), "{text}");
    assert!(text.contains("stopped: wasi_files"), "{text}");
    assert!(text.contains("1 of 1 attacks stopped"), "{text}");
    assert!(!text.contains("canary-") && !text.contains("$6$"), "{text}");
}

#[test]
fn without_a_native_python_the_controls_are_not_run_and_that_is_no_success() {
    let output = casemate()
        .args(["attack", "--json", "password"])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let report = json(&output);
    let row = &report["attacks"][0];
    assert_eq!(row["sandbox"]["verdict"], "stopped");
    assert_eq!(row["control"]["verdict"], "not_run");
    let why = report["python"]["missing"].as_str().unwrap();
    assert!(why.contains("install Python"), "{why}");
    assert_eq!(report["summary"]["passed"], false);
    assert_eq!(code(&output), 1);
}

#[test]
fn a_name_that_no_attack_has_is_not_found() {
    let output = run(&["attack", "no-such-attack"]);
    assert_eq!(code(&output), 127);
    assert!(
        stderr(&output).contains("remove_everything"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_secret_in_the_hosts_environment_stays_there() {
    let output = casemate()
        .args(["attack", "--json", "environment"])
        .env("CASEMATE_TEST_TOKEN", "token-0123456789abcdef")
        .output()
        .unwrap();
    assert_eq!(json(&output)["attacks"][0]["sandbox"]["verdict"], "stopped");
    assert!(!stdout(&output).contains("token-0123456789abcdef"));
}
