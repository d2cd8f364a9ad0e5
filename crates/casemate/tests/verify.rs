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

#[test]
fn a_receipt_says_what_ran_on_what_and_stands_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("own");
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("sum.py"), "open('/tmp/total.txt', 'w').write(str(sum(int(n) for n in open('/data/n.txt'))))\nprint('done')\n").unwrap();
    fs::write(at("n.txt"), "1\n2\n").unwrap();
    fs::write(at("other.txt"), "1\n2\n3\n").unwrap();
    let (receipt, out) = (at("receipt.json"), at("out"));
    let run = with_data(
        &data,
        &[
            "run",
            "--quiet",
            "--receipt",
            &receipt,
            "--data",
            &at("n.txt"),
            "--out",
            &out,
            &at("sum.py"),
        ],
    );
    assert_eq!(code(&run), 0, "{}", stderr(&run));
    let total = at("out/total.txt");
    assert_eq!(fs::read_to_string(&total).unwrap(), "3");

    let files = [at("sum.py"), at("n.txt"), total];
    let mut args = vec!["verify", &receipt];
    files
        .iter()
        .for_each(|file| args.extend(["--has", file.as_str()]));
    let verified = with_data(&data, &args);
    let said = stdout(&verified);
    assert_eq!(code(&verified), 0, "{said}{}", stderr(&verified));
    for words in [
        "signed by the key that was expected, and whole",
        "the program ended normally",
        "the program\n",
        "the input /data/n.txt",
        "the file that it left, /tmp/total.txt",
        "did not",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    args.push("--json");
    let told: Value = serde_json::from_slice(&with_data(&data, &args).stdout).unwrap();
    assert_eq!(told["verified"], true);
    assert_eq!(told["receipt"]["schema"], "casemate.receipt/1");
    assert!(told["receipt"]["usage"]["cpu_us"].as_u64().unwrap() > 0);
    let walls = told["receipt"]["walls"]["walls"].as_array().unwrap();
    let processor = ["speculation", "core_scheduling"];
    let stands = |wall: &Value| {
        let name = wall["name"].as_str().unwrap();
        wall["missing"].is_null() || processor.contains(&name)
    };
    assert!(walls.len() > 10 && walls.iter().all(stands));

    // Another file is said to be none of the run's.
    let other = with_data(&data, &["verify", &receipt, "--has", &at("other.txt")]);
    assert_eq!(code(&other), 1);
    assert!(stdout(&other).contains("NOT IN IT"), "{}", stdout(&other));
    // Another's key, and any change of what was signed.
    let stranger = dir.path().join("stranger");
    let none = with_data(&stranger, &["verify", &receipt]);
    assert_eq!(code(&none), 1);
    assert!(stdout(&none).contains("NOT VERIFIED"));
    let mut envelope: Value = serde_json::from_slice(&fs::read(&receipt).unwrap()).unwrap();
    let payload = envelope["payload"].as_str().unwrap();
    let bytes = base64_decoded(payload);
    let text = String::from_utf8(bytes).unwrap();
    let better = text.replacen("\"exit_code\":0", "\"exit_code\":1", 1);
    assert_ne!(text, better);
    envelope["payload"] = base64_of(better.as_bytes()).into();
    fs::write(at("changed.json"), envelope.to_string()).unwrap();
    let changed = with_data(&data, &["verify", &at("changed.json")]);
    assert_eq!(code(&changed), 1);
    assert!(
        stdout(&changed).contains("changed after it was signed"),
        "{}",
        stdout(&changed)
    );
    // It is no result of an attack, whatever it says it is.
    envelope["payloadType"] = "application/vnd.casemate.attack-result+json".into();
    fs::write(at("changed.json"), envelope.to_string()).unwrap();
    assert_eq!(
        code(&with_data(&data, &["verify", &at("changed.json")])),
        125
    );
}

#[test]
fn a_program_that_was_refused_has_a_receipt_of_that() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("own");
    let receipt = dir.path().join("receipt.json");
    let receipt = receipt.to_str().unwrap();
    let shadow = "print(open('/etc/shadow').read())";
    let run = with_data(&data, &["run", "--receipt", receipt, "-c", shadow]);
    assert_eq!(code(&run), 126);
    let verified = with_data(&data, &["verify", receipt]);
    let said = stdout(&verified);
    assert_eq!(code(&verified), 0, "{said}");
    assert!(
        said.contains("none: nothing ran") && said.contains("refused by screening"),
        "{said}"
    );
    // Where the key is not to be trusted nothing is run.
    let key = data.join("signing.key");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&key, open).unwrap();
    let run = with_data(&data, &["run", "--receipt", receipt, "-c", "print('ran')"]);
    assert_eq!(code(&run), 125, "{}", stderr(&run));
    assert_eq!(stdout(&run), "");
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn base64_decoded(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}
