//! The audit's chain: what is changed, taken out or made anew is found, with the server gone.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use std::path::Path;

use serde_json::{Value, json};
use served::start;
use support::{code, run, stderr, stdout};

fn verify(data: &Path, more: &[&str]) -> (i32, String) {
    let mut args = vec!["audit", "verify", "--data-dir", data.to_str().unwrap()];
    args.extend(more);
    let output = run(&args);
    let said = format!("{}{}", stdout(&output), stderr(&output));
    (code(&output), said)
}

/// Changes a database behind its server's back.
fn meddle(data: &Path, statement: &str) {
    let database = data.join("casemate.db");
    let script = format!(
        "import sqlite3; c = sqlite3.connect({database:?}); c.execute({statement:?}); c.commit(); c.close()"
    );
    let output = served::command("python3")
        .args(["-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn what_is_changed_taken_out_or_made_anew_is_found() {
    let mut server = start(&[]);
    for number in 0..4 {
        let code = json!({"code": format!("print({number})")});
        assert_eq!(server.post("/v1/runs", &code).status, 200);
    }
    let entries = server.get("/v1/audit").json();
    let entries = entries["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 8);
    assert!(entries.iter().all(|entry| entry["sha256"].is_string()));
    let head = server.get("/v1/audit/head");
    assert_eq!(head.status, 200);
    let (data, signed) = (
        server.data.path().to_owned(),
        server.data.path().join("head.json"),
    );
    std::fs::write(&signed, &head.body).unwrap();
    let signed = signed.to_str().unwrap().to_owned();
    // While the server runs, too.
    let (good, said) = verify(&data, &["--head", &signed]);
    assert_eq!(good, 0, "{said}");
    assert!(
        said.contains("local: whole, 8 entries from 1 to 8"),
        "{said}"
    );
    assert!(said.contains("is the one that was signed"), "{said}");
    let tail = run(&[
        "audit",
        "tail",
        "-n",
        "2",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    let last: Value = serde_json::from_str(stdout(&tail).lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["action"], &last["seq"]),
        (&json!("run.ended"), &json!(8))
    );
    server.kill();

    let whole = std::fs::read(data.join("casemate.db")).unwrap();
    let wal = std::fs::read(data.join("casemate.db-wal")).ok();
    let restore = || {
        std::fs::write(data.join("casemate.db"), &whole).unwrap();
        std::fs::remove_file(data.join("casemate.db-shm")).ok();
        match &wal {
            Some(wal) => std::fs::write(data.join("casemate.db-wal"), wal).unwrap(),
            None => drop(std::fs::remove_file(data.join("casemate.db-wal"))),
        }
    };
    for (statement, why) in [
        (
            "UPDATE audit SET detail = 'refused' WHERE seq = 4",
            "entry 4 was changed",
        ),
        (
            "UPDATE audit SET at_ms = at_ms - 1 WHERE seq = 1",
            "entry 1 was changed",
        ),
        ("DELETE FROM audit WHERE seq = 3", "entry 3 is missing"),
        ("DELETE FROM audit WHERE seq = 8", "it ends at entry 7"),
        (
            "UPDATE audit SET seq = 9 WHERE seq = 8",
            "it ends at entry 7",
        ),
        ("DELETE FROM audit", "it ends at entry 0"),
        ("UPDATE audit_head SET sha256 = 'x'", "it ends at entry 8"),
    ] {
        restore();
        meddle(&data, statement);
        let (bad, said) = verify(&data, &[]);
        assert_eq!(bad, 1, "{statement}: {said}");
        assert!(
            said.contains("NOT WHOLE") && said.contains(why),
            "{statement}: {said}"
        );
    }
    // Old entries are forgotten from the front: that is no gap.
    restore();
    meddle(&data, "DELETE FROM audit WHERE seq < 4");
    let (good, said) = verify(&data, &["--head", &signed]);
    assert_eq!(good, 0, "{said}");
    assert!(said.contains("5 entries from 4 to 8"), "{said}");
    // A chain that was made anew from nothing is whole by itself, and not what was signed.
    meddle(&data, "DELETE FROM audit");
    meddle(&data, "DELETE FROM audit_head");
    let (bad, said) = verify(&data, &["--head", &signed]);
    assert_eq!(bad, 1, "{said}");
    assert!(said.contains("is another, or gone"), "{said}");
    // Nor does a head count that another key signed.
    restore();
    let (bad, said) = verify(&data, &["--head", &signed, "--key", &"0".repeat(64)]);
    assert_ne!(bad, 0, "{said}");
}
