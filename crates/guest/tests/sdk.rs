//! The official Python SDK, unchanged, against a real agent.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::path::{Path, PathBuf};

use support::{Agent, As, python};

/// A Python with the SDK, which `./dev test` makes.
fn sdk() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache");
    let path = cache
        .unwrap_or_else(home)
        .join("casemate/sdk/python/bin/python");
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is missing",
        path.display()
    );
    eprintln!(
        "skipped: {} is missing; ./dev test makes it",
        path.display()
    );
    None
}

#[test]
fn the_sdk_works_unchanged() {
    let (Some(sdk), Some(python)) = (sdk(), python()) else {
        return;
    };
    let agent = Agent::start(As::Us, &["--python", python.to_str().unwrap()]);
    #[allow(clippy::disallowed_methods, reason = "the SDK is a program of its own")]
    let done = std::process::Command::new(sdk)
        .args(["-W", "ignore::ResourceWarning"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/drive.py"))
        .arg(agent.socket())
        .arg(&agent.home)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    eprintln!("{said}");
}
