//! The agent's program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    casemate_guest::main(std::env::args_os().skip(1).collect())
}
