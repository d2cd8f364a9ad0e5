//! Real jails, with this program as their first process.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "the list of tests is what it prints")]

mod escapes;
mod rootless;
mod support;
mod walls;
mod warm;

use casemate_backend::suite;
use support::{jail, lacking};

const TESTS: &[(&str, fn())] = &[("passes_the_suite", passes_the_suite)];

fn main() {
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    if let Some(code) = first.as_deref().and_then(support::part) {
        std::process::exit(code);
    }
    if first.as_deref() == Some(std::ffi::OsStr::new(rootless::AS_NOBODY)) {
        let conditions = args.next().and_then(|arg| arg.into_string().ok());
        return rootless::as_nobody(&conditions.unwrap_or_default());
    }
    if first.as_deref() == Some(std::ffi::OsStr::new(warm::ENGINE)) {
        return warm::engine();
    }
    let all: Vec<_> = TESTS
        .iter()
        .chain(walls::TESTS)
        .chain(escapes::TESTS)
        .chain(warm::TESTS)
        .chain(rootless::TESTS)
        .copied()
        .collect();
    support::run(&all, first.and_then(|arg| arg.into_string().ok()));
}

fn passes_the_suite() {
    let failures = suite::failures(&jail(), &lacking());
    assert!(
        failures.is_empty(),
        "{} of {} failed:\n{}",
        failures.len(),
        suite::count(),
        failures.join("\n")
    );
}
