//! Everything that is said about every program of some folders, one line of JSON each, so that two builds
//! can be compared: `answers OUT FOLDER...`. A folder of `.jsonl` files is read as a corpus, any other as a
//! source tree. Times are left out and bounds on time are set far away, so that equal builds write equal
//! bytes. What took long is told on standard error.

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use casemate_model::job::Language;
use casemate_screen::report::{Scanned, jsonl_line};
use casemate_screen::{ScreenConfig, Source, screen, trial};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(out) = args.next() else {
        eprintln!("usage: answers OUT FOLDER...");
        return ExitCode::from(2);
    };
    match write(&out, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("answers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(out: &Path, folders: impl Iterator<Item = PathBuf>) -> Result<(), std::io::Error> {
    let mut out = BufWriter::new(File::create(out)?);
    for folder in folders {
        let mut took: Vec<(u64, String)> = Vec::new();
        let (mut bytes, mut whole) = (0, 0);
        for (name, code) in programs(&folder)? {
            let config = ScreenConfig {
                deadline: Duration::from_secs(60),
                max_bytes: 16 * 1024 * 1024,
                max_findings: 10_000,
                ..ScreenConfig::default()
            };
            let source = Source {
                bytes: &code,
                language: Language::Python,
                name: &name,
            };
            let mut screening = screen(&source, &config);
            bytes += code.len();
            whole += screening.took_us;
            took.push((screening.took_us, name.clone()));
            screening.took_us = 0;
            let scanned = Scanned {
                path: &name,
                screening: &screening,
            };
            writeln!(out, "{}", jsonl_line(&scanned))?;
        }
        took.sort_unstable_by(|a, b| b.cmp(a));
        eprintln!(
            "{}: {} programs, {} bytes, {} ms",
            folder.display(),
            took.len(),
            bytes,
            whole / 1000
        );
        for (us, name) in took.iter().take(12) {
            eprintln!("  {:>8} us {name}", us);
        }
    }
    out.flush()
}

fn programs(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, std::io::Error> {
    if let Ok(rows) = trial::read(folder) {
        let named = rows
            .into_iter()
            .map(|row| (format!("{}/{}", row.set, row.id), row.code.into_bytes()));
        return Ok(named.collect());
    }
    let mut programs = Vec::new();
    collect(folder, &mut programs)?;
    programs.sort_unstable();
    Ok(programs)
}

fn collect(folder: &Path, programs: &mut Vec<(String, Vec<u8>)>) -> Result<(), std::io::Error> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            collect(&path, programs)?;
        } else if kind.is_file() && path.extension().is_some_and(|ending| ending == "py") {
            programs.push((path.display().to_string(), fs::read(&path)?));
        }
    }
    Ok(())
}
