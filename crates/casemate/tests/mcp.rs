//! `casemate mcp` as the official Python client of the Model Context Protocol sees it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

#[expect(
    clippy::disallowed_methods,
    reason = "a client is started as a user would"
)]
fn run(python: &Path, client: &str, table: &Path) -> Output {
    Command::new(python)
        .arg(client)
        .arg(env!("CARGO_BIN_EXE_casemate"))
        .arg(table)
        .output()
        .unwrap()
}

#[test]
fn the_official_client_runs_reads_and_is_refused() {
    let Some(environment) = support::installed("mcp", include_bytes!("mcp/requirements.txt"))
    else {
        let why = "the client is not installed; `./dev test` does it";
        assert!(
            std::env::var_os("CI").is_none(),
            "with CI set this is not skipped: {why}"
        );
        eprintln!("skipped: {why}");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table.csv");
    std::fs::write(&table, "day,n\n1,2\n2,3\n3,5\n").unwrap();
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/client.py");
    let output = run(&environment.join("bin/python"), client, &table);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("run_python"), "{said}");
}
