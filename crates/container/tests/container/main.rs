//! Real containers, with this program as their keeper.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "the list of tests is what it prints")]

mod hosts;
mod restored;
mod sessions;
mod support;
mod walls;

use std::ffi::OsStr;

use casemate_backend::contract::Backend;
use casemate_backend::suite;
use casemate_container::{docker, keeper};

fn main() {
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    for (argument, main) in [
        (keeper::ARGUMENT, keeper::main as fn() -> _),
        (docker::keeper::ARGUMENT, docker::keeper::main),
    ] {
        if first.as_deref() == Some(OsStr::new(argument)) {
            std::process::exit(support::keeper(main));
        }
    }
    let first = first.and_then(|arg| arg.into_string().ok());
    if first.as_deref() == Some(support::HOST) {
        return support::be_a_host(args.next());
    }
    if first.as_deref() == Some(support::SESSION) {
        return support::be_a_host_of_a_session(args);
    }
    let suite: &[support::Test] = &[("passes_the_suite", passes_the_suite)];
    let lasting = [sessions::TESTS, hosts::TESTS].concat();
    support::run(&[suite, walls::TESTS].concat(), &lasting, first);
}

fn passes_the_suite(backend: &dyn Backend) {
    let failures = suite::failures(backend, &support::lacking());
    assert!(
        failures.is_empty(),
        "{} of {} failed:\n{}",
        failures.len(),
        suite::count(),
        failures.join("\n")
    );
}
