//! The private memory of a session that holds a table.

use std::io::{self, Read, Seek};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use casemate_backend::contract::{Cancel, Signal};

use super::guest::{Ask, Sandboxes, TABLE, succeeded};
use super::process::Program;
use super::programs::{LIVE, LIVE_WORD};

const MIB: f64 = 1_048_576.0;

/// MiB of pages that a process has written and shares with nobody.
fn private_dirty(rollup: &mut (impl Read + Seek)) -> io::Result<f64> {
    let mut text = String::new();
    rollup.rewind()?;
    rollup.read_to_string(&mut text)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"));
    let kilobytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u32>().ok());
    Ok(
        f64::from(kilobytes.ok_or_else(|| io::Error::other("the process has ended"))?) * 1024.0
            / MIB,
    )
}

/// One worker's memory, in MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// What the whole worker process has written.
    pub(crate) worker: f64,
    /// What it had written before the session began: the engine's own.
    pub(crate) idle: f64,
}

/// A live session's memory, looked at from outside while it holds its table. The backend must have
/// exactly one idle worker.
pub(crate) fn session(
    sandboxes: &Sandboxes,
    table: &Arc<[u8]>,
    cancel: &Cancel,
) -> anyhow::Result<Session> {
    let pids = sandboxes.backend.idle_pids();
    let [pid] = pids[..] else {
        anyhow::bail!("expected one idle worker, found {}", pids.len())
    };
    let path = format!("/proc/{pid}/smaps_rollup");
    let mut rollup = std::fs::File::open(&path).with_context(|| {
        format!("{path}: a worker that has locked itself down may be looked into by root alone")
    })?;
    let idle = private_dirty(&mut rollup)?;
    let job = sandboxes.job(Ask {
        code: LIVE,
        args: &[TABLE],
        table: Some(table),
    })?;
    let mut seen = None;
    let mut listen = |signal: &Signal| {
        if matches!(signal, Signal::Stdout(bytes) if bytes.starts_with(LIVE_WORD)) {
            seen = Some(private_dirty(&mut rollup));
        }
    };
    succeeded(&sandboxes.run(job, &mut listen, cancel))?;
    let worker = seen.context("the live session said nothing")??;
    Ok(Session { worker, idle })
}

/// The same for a native process.
pub(crate) fn native(program: &Program, within: Duration, cancel: &Cancel) -> anyhow::Result<f64> {
    let mut running = program.start()?;
    let mut word = vec![0; LIVE_WORD.len()];
    let said = running.stdout.read_exact(&mut word);
    let seen = std::fs::File::open(format!("/proc/{}/smaps_rollup", running.child.pid()))
        .and_then(|mut rollup| private_dirty(&mut rollup));
    let done = running.finish(within, cancel)?;
    ensure!(said.is_ok() && done.succeeded(), "{}", done.why());
    Ok(seen?)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_dirty_line_is_the_one_that_counts() {
        let text =
            "Rss: 900 kB\nPss_Dirty: 7 kB\nPrivate_Clean: 5120 kB\nPrivate_Dirty:      2048 kB\n";
        assert_eq!(private_dirty(&mut Cursor::new(text)).unwrap(), 2.0);
        assert!(private_dirty(&mut Cursor::new("")).is_err());
        assert!(private_dirty(&mut Cursor::new("Private_Dirty: many kB")).is_err());
    }

    #[test]
    fn a_native_process_is_looked_into_while_it_lives() {
        let shell = |code: &str| {
            Program::new(std::path::Path::new("/bin/sh"), ["-c", code]).env("PATH", "/bin:/usr/bin")
        };
        let within = Duration::from_secs(20);
        let mib = native(&shell("echo live; sleep 0.3"), within, &Cancel::new()).unwrap();
        assert!(mib > 0.0 && mib < 50.0, "{mib}");
        assert!(native(&shell("exit 3"), within, &Cancel::new()).is_err());
    }
}
