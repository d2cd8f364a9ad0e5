//! The agent inside a Linux sandbox: processes, files and code contexts over one socket.
//!
//! It speaks E2B's envd protocol and the code interpreter's (see `casemate-envd`), so that one program serves
//! our own client, the door for official SDKs, and every kind of sandbox. It is one static binary that needs
//! nothing of the image it runs in; contexts need a Python with IPython there.
//!
//! It is no wall. It runs with the rights of the sandbox and is as trustworthy as the code beside it: the host
//! believes nothing it says. Its own bounds keep one caller from taking it away from the others.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod agent;
mod blocking;
mod config;
mod files;
mod first;
mod interpreter;
mod launch;
mod metrics;
mod process;
mod readiness;
mod routes;
mod serve;
mod users;

use std::ffi::OsString;
use std::process::ExitCode;

use config::{Command, Config};

/// The exit code when it could not do what it was started for.
const FAILED: u8 = 125;

/// Does what the arguments say.
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    let done = match config::parse(args) {
        Ok(Command::Launch(launch)) => launch.run().map(|()| ExitCode::SUCCESS),
        Ok(Command::First(args)) => not_dumpable().and_then(|()| first::run(&args)),
        Ok(Command::Serve(config)) => serve(*config).map(|()| ExitCode::SUCCESS),
        Ok(Command::Say(text)) => say(&text).map(|()| ExitCode::SUCCESS),
        Err(error) => Err(error),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("casemate-guest: {error}");
            ExitCode::from(FAILED)
        }
    }
}

#[allow(
    clippy::print_stdout,
    reason = "help and version go to standard output"
)]
fn say(text: &str) -> Result<(), String> {
    println!("{text}");
    Ok(())
}

/// One thread for everything that waits; files are read and written by a few others.
fn serve(config: Config) -> Result<(), String> {
    // What is made for users is readable, whatever the mask of whoever started this says.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    not_dumpable()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(blocking::THREADS)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .build()
        .map_err(|error| format!("starting: {error}"))?;
    runtime.block_on(serve::run(config))
}

/// What runs in the sandbox may be of the same user: it has no business in this one's memory and descriptors.
fn not_dumpable() -> Result<(), String> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|error| format!("prctl: {error}"))
}
