//! The measurements for real, in one round: every line of ours is measured.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use serde_json::Value;
use support::{code, run, stderr};

#[test]
fn one_round_measures_every_line_of_ours() {
    let output = run(&["bench", "run", "-n", "1", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "casemate.bench/1");
    let measures = report["measures"].as_array().unwrap();
    assert_eq!(measures.len(), 6);
    for measure in measures {
        let root_only = measure["unit"] == "MiB" && !rustix::process::geteuid().is_root();
        let median = &measure["ours"]["measured"]["median"];
        assert!(
            root_only || median.as_f64().is_some_and(|v| v > 0.0),
            "{measure}"
        );
        assert!(measure["native"]["absent"].is_string(), "{measure}");
    }
}

#[test]
fn one_round_measures_the_jail_and_runc_beside_what_is_here() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root has zygotes");
        return;
    }
    let output = run(&["bench", "native", "-n", "1", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "casemate.bench.native/1");
    let measures = report["measures"].as_array().unwrap();
    assert_eq!(measures.len(), 8);
    let positive = |cell: &Value| {
        cell["measured"]["median"]
            .as_f64()
            .is_some_and(|ms| ms > 0.0)
    };
    let in_ci = std::env::var_os("CI").is_some();
    for measure in measures {
        let what = measure["what"].as_str().unwrap();
        let container = what.contains("runc") || what.contains("gVisor");
        assert!(
            positive(&measure["ours"]) || container && !in_ci,
            "{measure}"
        );
    }
    if in_ci {
        // Each peer that the tests install has one line at least in which it really ran.
        for peer in ["python3", "bwrap", "runsc do", "docker run", "runc run"] {
            let ran = measures.iter().any(|measure| {
                let peers = measure["peers"].as_array().unwrap();
                peers
                    .iter()
                    .any(|cell| cell[0] == peer && positive(&cell[1]))
            });
            assert!(ran, "{peer}: {}", report["notes"]);
        }
    }
}

#[test]
fn the_server_answers_its_clients_and_streams_are_whole() {
    let output = run(&["bench", "serve", "-n", "2", "--soak", "2s", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "casemate.bench.serve/1");
    let measures = report["measures"].as_array().unwrap();
    assert_eq!(measures.len(), 5);
    let ours = |what: usize| &measures[what]["ours"]["measured"]["median"];
    for what in 0..3 {
        assert!(
            ours(what).as_f64().is_some_and(|median| median > 0.0),
            "{report}"
        );
    }
    assert_eq!(ours(3), 200.0, "{report}");
    let why = &measures[4]["ours"]["absent"];
    assert!(why.as_str().unwrap().contains("--e2b"), "{report}");
    let soak = &report["soak"];
    assert!(soak["answered"].as_u64().unwrap() > 0, "{soak}");
    assert_eq!((&soak["failed"], &soak["refused"]), (&0.into(), &0.into()));
    assert!(soak["memory_mib"][0].as_f64().unwrap() > 0.0, "{soak}");
    assert!(soak["descriptors"][0].as_f64().unwrap() > 0.0, "{soak}");
    assert_eq!(code(&run(&["bench", "serve", "-n", "0"])), 125);
}
