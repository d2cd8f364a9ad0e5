//! The measurements for real, in one round: every line of ours is measured, with no peer to measure beside.

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
