//! Running the real binary.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The binary under test.
#[expect(
    clippy::disallowed_methods,
    reason = "the program under test is started as a user would"
)]
pub(crate) fn casemate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_casemate"))
}

/// The same, with interrupts as they are at a terminal.
#[expect(
    clippy::disallowed_methods,
    reason = "the program under test is started as a user would"
)]
pub(crate) fn with_interrupts() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_casemate")]);
    command
}

/// Runs it with arguments and empty standard input.
pub(crate) fn run(args: &[&str]) -> Output {
    casemate()
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

/// Runs it with bytes on standard input.
pub(crate) fn run_with_stdin(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = casemate()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(stdin)
        .expect("the binary reads");
    child.wait_with_output().expect("the binary ends")
}

/// Runs a program and gives its outcome as JSON.
pub(crate) fn outcome(args: &[&str]) -> Value {
    let mut all = vec!["run", "--json"];
    all.extend(args);
    let output = run(&all);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{args:?}: {error}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// The exit code.
pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

/// Standard output as text.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// An environment of Python's that `./dev test` installed under this name with the hashes of these requirements.
pub(crate) fn installed(name: &str, requirements: &[u8]) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let folder = cache.join("casemate").join(name);
    let is = std::fs::read(folder.join("requirements.txt")).ok()?;
    (is == requirements).then_some(folder)
}
