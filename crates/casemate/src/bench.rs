//! `casemate bench`: speed beside the peers, and real programs beside a native Python.

mod compare;
mod corpus;
mod guest;
mod layers;
mod memory;
mod native;
mod process;
mod programs;
mod report;
mod rival;
mod screen;
mod serve;
mod speed;
mod stats;

use std::path::{Path, PathBuf};

use anyhow::Context;
use casemate_backend::contract::Cancel;

use crate::cli::BenchCommand;
use crate::run::NotFound;

/// Measures and prints.
pub(crate) fn command(command: BenchCommand) -> anyhow::Result<i32> {
    let cancel = Cancel::new();
    let raise = cancel.clone();
    casemate_linux::term::on_interrupt(move |_| raise.cancel()).context("watching for Ctrl-C")?;
    match command {
        BenchCommand::Run {
            runs,
            python,
            runner,
            json,
        } => {
            let peers = speed::Peers {
                python: python.as_deref().map(executable).transpose()?,
                runner: runner.as_deref().map(executable).transpose()?,
            };
            speed::command(runs, &peers, json, &cancel)
        }
        BenchCommand::Native { runs, json } => native::command(runs, json, &cancel),
        BenchCommand::Serve {
            runs,
            python,
            e2b,
            soak,
            json,
        } => {
            let options = serve::Options {
                rounds: runs,
                python: python.as_deref().map(executable).transpose()?,
                e2b: e2b.as_deref().map(executable).transpose()?,
                soak,
            };
            serve::command(&options, json, &cancel)
        }
        BenchCommand::Screen {
            dir,
            peers,
            tree,
            json,
        } => screen::command(&screen::Options { dir, peers, tree }, json, &cancel),
        BenchCommand::Corpus {
            dir,
            python,
            sample,
            json,
        } => {
            let options = compare::Options {
                dir,
                python: executable(&python)?,
                sample,
            };
            compare::command(&options, json, &cancel)
        }
    }
}

/// A program by path, or by name on `PATH`. A link is not followed: a virtual environment's Python is one.
fn executable(name: &Path) -> anyhow::Result<PathBuf> {
    let missing = || NotFound::new(format!("the program {} does not exist", name.display()));
    if name.components().count() > 1 {
        let path = std::path::absolute(name)?;
        return if path.is_file() {
            Ok(path)
        } else {
            Err(missing().into())
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    Ok(found.ok_or_else(missing)?)
}

/// How often each is measured: often enough to end, and not never.
fn check_rounds(rounds: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        (1..=10_000).contains(&rounds),
        "-n {rounds}: give between 1 and 10000 runs"
    );
    Ok(())
}

/// The error of a measurement that Ctrl-C ended.
fn stop_if_cancelled(cancel: &Cancel) -> anyhow::Result<()> {
    anyhow::ensure!(
        !cancel.is_cancelled(),
        "stopped; nothing is reported from a part of a measurement"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_path_and_by_name() {
        assert!(executable(Path::new("sh")).unwrap().is_absolute());
        assert!(executable(Path::new("/bin/sh")).unwrap().is_absolute());
        for missing in ["no-such-program-anywhere", "/bin/no-such-program", "/bin/"] {
            let error = executable(Path::new(missing)).unwrap_err();
            assert!(
                error.is::<NotFound>() && error.to_string().contains("does not exist"),
                "{error}"
            );
        }
    }
}
