//! `casemate mcp` as the official Python client of the Model Context Protocol sees it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where it was installed with the hashes of `tests/mcp/requirements.txt`, as `./dev test` does it.
fn installed() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let folder = cache.join("casemate/mcp");
    let is = std::fs::read(folder.join("requirements.txt")).ok()?;
    (is == include_bytes!("mcp/requirements.txt")).then(|| folder.join("bin/python"))
}

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
    let Some(python) = installed() else {
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
    let output = run(&python, client, &table);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("run_python"), "{said}");
}
