//! Casemate: run code that nobody trusts, with evidence of the walls that stood around it.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]
#![allow(clippy::print_stdout, reason = "the binary is what prints")]

mod attack;
mod audit;
mod bench;
mod cli;
mod doctor;
mod image;
mod json;
mod key;
mod mcp;
mod only;
mod out;
mod policy;
mod progress;
mod reader;
mod receipt;
mod restored;
mod run;
mod scan;
mod serve;
mod sessions;
mod setup;
mod show;
mod sign;
mod verify;
mod warm;

use std::process::ExitCode;

use casemate_server::text;
use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};

/// Our own failure.
const FAILED: i32 = 125;
/// What was named does not exist.
const NOT_FOUND: i32 = 127;

fn main() -> ExitCode {
    // A worker, the process that analyses a script, the one that unpacks an image, the first process of a jail, what makes those, a zygote and the keeper of a
    // container are this program once more; each must do its own work before anything else happens.
    match std::env::args_os().nth(1) {
        Some(arg) if arg == casemate_wasm::worker::ARGUMENT => {
            return casemate_wasm::worker::main();
        }
        Some(arg) if arg == reader::ARGUMENT => return reader::main(),
        Some(arg) if arg == casemate_images::unpack::ARGUMENT => {
            return casemate_images::unpack::worker::main();
        }
        Some(arg) if arg == casemate_jail::init::ARGUMENT => return casemate_jail::init::main(),
        Some(arg) if arg == casemate_jail::maker::process::ARGUMENT => {
            return casemate_jail::maker::process::main();
        }
        Some(arg) if arg == casemate_jail::zygote::process::ARGUMENT => {
            return casemate_jail::zygote::process::main();
        }
        Some(arg) if arg == casemate_container::docker::keeper::ARGUMENT => {
            return casemate_container::docker::keeper::main();
        }
        Some(arg) if arg == casemate_container::keeper::ARGUMENT => {
            return casemate_container::keeper::main();
        }
        _ => {}
    }
    reader::install();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match dispatch(cli.command) {
        Ok(code) => exit_code(code),
        Err(error) => {
            eprintln!("casemate: {}", text::plain(format!("{error:#}").as_bytes()));
            exit_code(if error.is::<run::NotFound>() {
                NOT_FOUND
            } else {
                FAILED
            })
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<i32> {
    match command {
        Command::Run(args) => run::command(*args),
        Command::Scan(args) => scan::command(&args),
        Command::Setup(args) => setup::command(args),
        Command::Doctor(args) => doctor::command(&args),
        Command::Attack(args) => attack::command(&args),
        Command::Verify(args) => verify::command(&args),
        Command::Serve(args) => serve::command(args),
        Command::Mcp(args) => mcp::command(&args),
        Command::Key(command) => key::command(command),
        Command::Audit(command) => audit::command(command),
        Command::Image(command) => image::command(command),
        Command::Policy(command) => policy::command(command),
        Command::Bench(command) => bench::command(command),
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "casemate",
                &mut std::io::stdout(),
            );
            Ok(0)
        }
        Command::Version => {
            println!("casemate {}", env!("CARGO_PKG_VERSION"));
            Ok(0)
        }
    }
}

/// Help and version are answers; anything else is a usage error, which is ours to explain: 125.
fn usage(error: &clap::Error) -> ExitCode {
    let code = if error.use_stderr() { FAILED } else { 0 };
    // Nothing can be done for a user whose terminal is gone.
    error
        .print()
        .map_or(exit_code(FAILED), |()| exit_code(code))
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
