//! A worker from start to end: spawned, locked down, loaded, sealed, and then asked to misbehave.
//!
//! This program starts itself. `worker` in the first argument makes it the worker, which does
//! one thing for every line it reads from its channel; otherwise it runs the checks below.

#![allow(
    unsafe_code,
    reason = "the worker maps and runs machine code, as a compiled module is run"
)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and this prints what a test harness would"
)]

mod guest;
mod host;

use std::panic::catch_unwind;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("worker") => guest::worker(),
        Some("look") => guest::look(),
        Some("parent") => guest::parent(),
        Some("crowded") => guest::crowded(),
        Some("interrupted") => host::interrupted(),
        Some("owner") => guest::owner(),
        Some("unprivileged") => guest::unprivileged(),
        Some("--list") => ExitCode::SUCCESS,
        filter => run(filter.filter(|word| !word.starts_with('-'))),
    }
}

fn run(filter: Option<&str>) -> ExitCode {
    let mut failed = 0;
    let wanted = |check: &&host::Check| filter.is_none_or(|f| check.0.contains(f));
    for (name, check) in host::CHECKS.iter().filter(wanted) {
        match catch_unwind(check) {
            Ok(Ok(())) => println!("test {name} ... ok"),
            // A skip where everything should be there is a failure.
            Ok(Err(why)) if host::must_not_skip() => {
                println!("test {name} ... FAILED, it may not be skipped here: {why}");
                failed += 1;
            }
            Ok(Err(why)) => println!("test {name} ... skipped: {why}"),
            Err(_) => {
                println!("test {name} ... FAILED");
                failed += 1;
            }
        }
    }
    ExitCode::from(u8::from(failed > 0))
}
