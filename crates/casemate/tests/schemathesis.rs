//! The server attacked by its own description: schemathesis makes requests of every kind that the description
//! allows and many that it does not, and holds every answer against it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use served::{command, start};

#[test]
fn every_answer_is_one_that_the_description_has() {
    let wanted = include_bytes!("schemathesis/requirements.txt");
    let Some(environment) = support::installed("schemathesis", wanted) else {
        let why = "schemathesis is not installed; `./dev test` does it";
        assert!(
            std::env::var_os("CI").is_none(),
            "with CI set this is not skipped: {why}"
        );
        eprintln!("skipped: {why}");
        return;
    };
    let server = start(&["--policy", "strict"]);
    let folder = tempfile::tempdir().unwrap();
    let key = server.key(&[]);
    let output = command(environment.join("bin/schemathesis"))
        .current_dir(folder.path())
        .args([
            "run",
            "--checks",
            "all",
            "--seed",
            "1",
            "--max-examples",
            "60",
        ])
        // A schema of JSON cannot say that no path comes twice, or that a file has one content of three kinds:
        // so what it lets through may still be refused, with one of the statuses that the description has.
        .args(["--exclude-checks", "positive_data_acceptance"])
        // Not the phase that guesses which answers lead to which requests: it guesses what is not so.
        .args(["--phases", "examples,coverage,fuzzing"])
        .args([
            "--no-color",
            "--warnings",
            "off",
            "--generation-database",
            "none",
        ])
        .arg("--header")
        .arg(format!("X-API-Key:{key}"))
        .arg(format!("http://{}/openapi.json", server.address))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(server.get("/healthz").status, 200);
}
