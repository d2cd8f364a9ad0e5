//! `casemate verify`, and what `casemate run` makes of results that are not to be relied on, on the real binary.
//! (What counts and what does not is tested case by case where results are read.)

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::{casemate, code, stderr, stdout};

fn with_data(data: &Path, args: &[&str]) -> Output {
    casemate()
        .args(args)
        .env("CASEMATE_DATA", data)
        .output()
        .unwrap()
}

#[test]
fn what_is_no_result_is_said_so_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("own");
    let file = dir.path().join("result.json");
    let output = with_data(&data, &["verify", file.to_str().unwrap()]);
    assert_eq!(code(&output), 127, "{}", stderr(&output));
    for text in ["", "{}", "not json", "\u{1b}[2J"] {
        fs::write(&file, text).unwrap();
        let output = with_data(&data, &["verify", file.to_str().unwrap()]);
        assert_eq!(code(&output), 125, "{text:?}");
        let said = stderr(&output);
        assert!(
            said.contains("no signed document") && !said.contains('\u{1b}'),
            "{said}"
        );
    }
    let huge = fs::File::create(&file).unwrap();
    huge.set_len(1 << 30).unwrap();
    let output = with_data(&data, &["verify", file.to_str().unwrap()]);
    assert_eq!(code(&output), 125);
    assert!(stderr(&output).contains("larger"), "{}", stderr(&output));
    let output = with_data(&data, &["verify", dir.path().to_str().unwrap()]);
    assert_eq!(code(&output), 125);
}

#[test]
fn a_forged_result_does_not_count_and_the_run_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("own");
    // A whole-looking document whose signature is somebody's guess.
    let result = serde_json::json!({
        "schema": "casemate.attack-result/1", "backend": "wasm", "made_at": "2026-11-25T10:00:00Z", "casemate": "0.1.0",
        "program_sha256": "", "public_key": "", "depends_on": {},
        "attacks": [{ "attack": "netlink", "verdict": "stopped", "wall": "wasi_network", "control": "succeeded" }],
    });
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let envelope = serde_json::json!({
        "payloadType": "application/vnd.casemate.attack-result+json",
        "payload": base64.encode(result.to_string()),
        "signatures": [{ "keyid": "0", "sig": base64.encode([7; 64]) }],
    });
    fs::create_dir_all(data.join("attacks")).unwrap();
    let file = data.join("attacks/wasm.json");
    fs::write(&file, envelope.to_string()).unwrap();
    let output = with_data(&data, &["verify", "--json", file.to_str().unwrap()]);
    let verified: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (code(&output), &verified["verified"]),
        (1, &Value::Bool(false))
    );
    let output = with_data(
        &data,
        &["verify", "--key", &"0".repeat(63), file.to_str().unwrap()],
    );
    assert!(
        stderr(&output).contains("64 hexadecimal"),
        "{}",
        stderr(&output)
    );
    let output = with_data(
        &data,
        &["run", "--json", "--backend", "wasm", "-c", "print(1)"],
    );
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    let reasons = outcome["placement"]["reasons"].to_string();
    assert_eq!(code(&output), 0, "{reasons}");
    assert!(reasons.contains("does not count"), "{reasons}");
    // Where it is asked for, that is not enough.
    let output = with_data(&data, &["run", "--attacked", "-c", "print(1)"]);
    assert_eq!(code(&output), 126, "{}", stdout(&output));
    let said = stderr(&output);
    assert!(said.contains("casemate attack --backend wasm"), "{said}");
}
