//! The official Python SDK, unchanged, against a real agent.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use support::{Agent, As, in_cache, python, there};

#[test]
fn the_sdk_works_unchanged() {
    let sdk = there(in_cache("sdk/python/bin/python"));
    let (Some(sdk), Some(python)) = (sdk, python()) else {
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
