//! The attacks for real: every one is stopped by the wall its file names, and every control succeeds.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{casemate, code, repository, run, stderr, stdout};

/// The walls of each attack in WebAssembly and natively, read here from the files themselves; there may be
/// none.
fn walls() -> BTreeMap<String, (Option<String>, Option<String>)> {
    fs::read_dir(repository("attacks"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let source = fs::read_to_string(&path).unwrap();
            let line = |key: &str| {
                let mut lines = source.lines();
                lines.find_map(|line| line.strip_prefix(key).map(str::to_owned))
            };
            let wall = line("# wall: ").unwrap();
            let native = line("# native: ").unwrap_or_else(|| wall.clone());
            let promised = |walls: String| (!walls.starts_with("- ")).then_some(walls);
            let name = path.file_stem().unwrap().to_str().unwrap();
            (name.to_owned(), (promised(wall), promised(native)))
        })
        .collect()
}

fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(output)))
}

/// Whether the programs had a kernel of their own.
fn is_gvisor(run: &Value) -> bool {
    ["gvisor", "gvisor-restored", "docker-runsc"]
        .map(Value::from)
        .contains(&run["backend"])
}

/// What a kernel may be built without, or not give to root. Without root much more is not to be had.
fn may_be_impossible(attack: &str) -> bool {
    !rustix::process::geteuid().is_root()
        || [
            "kernel_crypto",
            "vsock",
            "old_abi",
            "io_uring",
            "userfaultfd",
            "keyring",
            "perf_events",
        ]
        .contains(&attack)
}

#[test]
fn every_attack_is_stopped_by_its_wall_and_every_control_succeeds() {
    let (data, page) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let html = page.path().join("matrix.html");
    let output = casemate()
        .args(["attack", "--json", "--html"])
        .arg(&html)
        .env("CASEMATE_DATA", data.path().join("own"))
        .output()
        .unwrap();
    let report = json(&output);
    assert_eq!(report["schema"], "casemate.attack/2");
    let walls = walls();
    let rows = report["attacks"].as_array().unwrap();
    assert_eq!(rows.len(), walls.len());
    assert!(rows.len() >= 60, "{} attacks", rows.len());
    let as_it_should = |row: &Value, run: &Value| {
        let (wasm, native) = &walls[row["attack"].as_str().unwrap()];
        let wall = match run["backend"].as_str().unwrap() {
            "wasm" => wasm.as_ref(),
            _ => native.as_ref(),
        };
        match wall {
            Some(walls) => {
                let one_of = |wall: &str| walls.split(" | ").any(|known| known == wall);
                run["verdict"] == "stopped" && run["wall"].as_str().is_some_and(one_of)
            }
            None => run["verdict"] == "not_promised" && run["wall"].is_null(),
        }
    };
    let control_is_right = |row: &Value| match row["control"]["verdict"].as_str() {
        Some("succeeded") => true,
        Some("impossible") => may_be_impossible(row["attack"].as_str().unwrap()),
        _ => false,
    };
    let failures: Vec<String> = rows
        .iter()
        .filter(|row| {
            let runs = row["sandboxes"].as_array().unwrap();
            runs.is_empty()
                || !runs.iter().all(|run| as_it_should(row, run))
                || !control_is_right(row)
        })
        .map(|row| serde_json::to_string_pretty(row).unwrap())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(report["processes_left"], serde_json::json!([]));
    assert_eq!(report["summary"]["passed"], true);
    assert_eq!(code(&output), 0);
    a_channel_is_measured_everywhere(rows);
    let page = fs::read_to_string(html).unwrap();
    assert!(
        rows.iter()
            .all(|row| page.contains(row["attack"].as_str().unwrap()))
    );
    results_are_signed_and_count(&data.path().join("own"), rows);
    // What a limit stopped says which, how much was allowed and how much was seen.
    let runs = rows
        .iter()
        .flat_map(|row| row["sandboxes"].as_array().unwrap());
    let by_limit = |run: &&Value| {
        let wall = run["wall"].as_str();
        wall.is_some_and(|wall| wall.starts_with("limit_"))
    };
    for run in runs.filter(by_limit) {
        let ending = &run["ending"];
        if is_gvisor(run) && run["wall"] == "limit_tasks" {
            // gVisor's own kernel counts them and tells the program alone.
            assert_eq!(ending["status"], "exited", "{run}");
            continue;
        }
        assert_eq!(ending["status"], "over", "{run}");
        assert!(
            ending["seen"].as_u64() >= ending["allowed"].as_u64(),
            "{run}"
        );
    }
}

/// The rate of the covert channel is a number in every backend, whatever it is on a busy machine.
fn a_channel_is_measured_everywhere(rows: &[Value]) {
    let row = rows
        .iter()
        .find(|row| row["attack"] == "cache_channel")
        .unwrap();
    for run in row["sandboxes"].as_array().unwrap() {
        assert_eq!(run["channel"]["bits_sent"], 64, "{run}");
        assert!(run["channel"]["bits_per_second"].is_f64(), "{run}");
    }
}

/// One a backend; `verify` takes it, and a run says that its backend was attacked.
fn results_are_signed_and_count(data: &Path, rows: &[Value]) {
    let backends = rows[0]["sandboxes"].as_array().unwrap();
    for backend in backends.iter().map(|run| run["backend"].as_str().unwrap()) {
        let file = data.join(format!("attacks/{backend}.json"));
        let output = casemate()
            .args(["verify", "--json"])
            .arg(&file)
            .env("CASEMATE_DATA", data)
            .output()
            .unwrap();
        let verified = json(&output);
        assert_eq!(code(&output), 0, "{verified}");
        assert_eq!(verified["verified"], true);
        assert_eq!(verified["changed_since"], serde_json::json!([]));
        assert_eq!(verified["result"]["backend"], backend);
    }
    let mut places = vec!["auto"];
    // It has two starts, and both were attacked.
    places.extend(
        rows[0]["sandboxes"]
            .as_array()
            .unwrap()
            .iter()
            .find_map(|run| (run["backend"] == "gvisor").then_some("gvisor")),
    );
    for backend in places {
        let policy = if backend == "auto" {
            "data-analysis"
        } else {
            "native"
        };
        let output = casemate()
            .args(["run", "--json", "--attacked", "--backend", backend])
            .args(["--policy", policy, "-c", "print(1)"])
            .env("CASEMATE_DATA", data)
            .output()
            .unwrap();
        let outcome = json(&output);
        assert_eq!(code(&output), 0, "{outcome}");
        let reasons = outcome["placement"]["reasons"].to_string();
        assert!(
            reasons.contains("attacked on this machine on "),
            "{reasons}"
        );
    }
}

#[test]
fn the_table_says_which_wall_and_nothing_of_the_secrets() {
    let output = run(&["attack", "--backend", "wasm", "password"]);
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
    assert_eq!(row["sandboxes"][0]["verdict"], "stopped");
    assert_eq!(row["control"]["verdict"], "not_run");
    let why = report["python"]["missing"].as_str().unwrap();
    assert!(why.contains("install Python"), "{why}");
    assert_eq!(report["summary"]["passed"], false);
    assert_eq!(code(&output), 1);
}

#[test]
fn a_backend_that_cannot_be_used_is_said_so() {
    let output = run(&["attack", "--backend", "moat", "password"]);
    assert_eq!(code(&output), 125);
    let said = stderr(&output);
    assert!(said.contains("wasm") && said.contains("doctor"), "{said}");
    let output = run(&["attack", "--backend", "wasm", "password"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
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
    assert_eq!(
        json(&output)["attacks"][0]["sandboxes"][0]["verdict"],
        "stopped"
    );
    assert!(!stdout(&output).contains("token-0123456789abcdef"));
}
