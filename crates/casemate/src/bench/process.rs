//! Foreign programs as child processes: with a deadline, bounded output, and killed with their group.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::path::{Path, PathBuf};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use casemate_backend::contract::Cancel;
use casemate_linux::{Child, Exit, Spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

/// Bytes of a stream that are kept; the rest is read and thrown away.
const KEPT: u64 = 1 << 20;
/// How often a waiting caller looks at the wish to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A program to run and measure.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Its path.
    pub(crate) path: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Its environment, all of it.
    pub(crate) env: Vec<(&'static str, OsString)>,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Done {
    /// The end, or none when the deadline passed.
    pub(crate) exit: Option<Exit>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// From before the start to the end of the process.
    pub(crate) elapsed: Duration,
}

impl Done {
    pub(crate) fn succeeded(&self) -> bool {
        self.exit == Some(Exit::Code(0))
    }

    /// Why it did not succeed, in a line.
    pub(crate) fn why(&self) -> String {
        let said = if self.stderr.trim_ascii().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let said = String::from_utf8_lossy(said);
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
        match (self.exit, last) {
            (None, _) => "it did not end in time".to_owned(),
            (Some(_), Some(line)) => line.chars().take(200).collect(),
            (Some(exit), None) => format!("it ended with {exit:?}"),
        }
    }
}

/// A running program with its output being read.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: PipeReader,
    stderr: JoinHandle<io::Result<Vec<u8>>>,
    begun: Instant,
}

impl Program {
    pub(crate) fn new(path: &Path, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            path: path.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
        }
    }

    #[must_use]
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// The same program started in a folder. `env` changes to it, for a child's folder is not ours to set.
    #[must_use]
    pub(crate) fn inside(self, dir: &Path) -> Self {
        let mut args = vec!["-C".into(), dir.into(), self.path.into()];
        args.extend(self.args);
        Self {
            path: "/usr/bin/env".into(),
            args,
            env: self.env,
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// Those of starting a process.
    pub(crate) fn start(&self) -> io::Result<Running> {
        let (stdout, out) = io::pipe()?;
        let (stderr, err) = io::pipe()?;
        let mut spawn_it = Spawn::new(&self.path).fd(&out, 1).fd(&err, 2);
        for arg in &self.args {
            spawn_it = spawn_it.arg(arg);
        }
        for (name, value) in &self.env {
            spawn_it = spawn_it.env(name, value);
        }
        let begun = Instant::now();
        let child = spawn_it.spawn()?;
        drop((out, err));
        Ok(Running {
            child,
            stdout,
            stderr: spawn(move || keep(stderr)),
            begun,
        })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Those of starting it and of reading from it, and the caller's wish to stop.
    pub(crate) fn run(&self, within: Duration, cancel: &Cancel) -> io::Result<Done> {
        self.start()?.finish(within, cancel)
    }
}

impl Running {
    /// Whether it runs no more. It is not reaped.
    ///
    /// # Errors
    /// Those of looking.
    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        let now = Timespec::default();
        let ended = poll(
            &mut [PollFd::new(&self.child.pidfd(), PollFlags::IN)],
            Some(&now),
        );
        Ok(ended? > 0)
    }

    /// Waits for the end, or kills the process and all it started when the deadline passes first.
    ///
    /// # Errors
    /// Those of reading from it, and the caller's wish to stop.
    pub(crate) fn finish(self, within: Duration, cancel: &Cancel) -> io::Result<Done> {
        let Self {
            mut child,
            stdout,
            stderr,
            begun,
        } = self;
        let stdout = spawn(move || keep(stdout));
        let ended = wait(&child, begun + within, cancel);
        let elapsed = begun.elapsed();
        // The child has not been reaped yet, so the number still names its group and nobody else's.
        kill_group(&child)?;
        let finished = child.wait()?;
        let exit = ended?.then_some(finished.exit);
        Ok(Done {
            exit,
            stdout: joined(stdout)?,
            stderr: joined(stderr)?,
            elapsed,
        })
    }
}

/// Whether the child ended before the deadline. It is not reaped.
fn wait(child: &Child, deadline: Instant, cancel: &Cancel) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if cancel.is_cancelled() {
            return Err(io::Error::other("stopped"));
        }
        let slice = Timespec::try_from(left.min(LOOK_EVERY)).map_err(io::Error::other)?;
        match poll(
            &mut [PollFd::new(&child.pidfd(), PollFlags::IN)],
            Some(&slice),
        ) {
            Ok(1..) => return Ok(true),
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills a child that leads its own group, and everything it started that has not left the group.
fn kill_group(child: &Child) -> io::Result<()> {
    let pid = i32::try_from(child.pid()).ok().and_then(Pid::from_raw);
    match kill_process_group(pid.ok_or(io::ErrorKind::InvalidData)?, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn keep(mut from: PipeReader) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    (&mut from).take(KEPT).read_to_end(&mut kept)?;
    io::copy(&mut from, &mut io::sink())?;
    Ok(kept)
}

fn joined(thread: JoinHandle<io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
    thread
        .join()
        .map_err(|_| io::Error::other("the thread that reads a program's output is gone"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(code: &str) -> Program {
        Program::new(Path::new("/bin/sh"), ["-c", code]).env("PATH", "/usr/bin:/bin")
    }

    fn run(program: &Program, within: Duration) -> Done {
        program.run(within, &Cancel::new()).unwrap()
    }

    #[test]
    fn output_end_and_folder_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let done = run(
            &shell("pwd; echo no such thing >&2; exit 3").inside(dir.path()),
            Duration::from_secs(20),
        );
        assert_eq!(done.exit, Some(Exit::Code(3)));
        assert_eq!(
            String::from_utf8(done.stdout.clone()).unwrap().trim(),
            dir.path().to_str().unwrap()
        );
        assert_eq!(done.why(), "no such thing");
        assert!(run(&shell("true"), Duration::from_secs(20)).succeeded());
    }

    #[test]
    fn a_deadline_kills_the_whole_group() {
        let begun = Instant::now();
        // The grandchild holds the pipe: were it left alive, reading would last as long as it does.
        let done = run(&shell("sleep 60 & sleep 60"), Duration::from_millis(200));
        assert_eq!(done.exit, None);
        assert_eq!(done.why(), "it did not end in time");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_a_finished_program_left_running_is_killed_too() {
        let begun = Instant::now();
        assert!(run(&shell("sleep 60 &"), Duration::from_secs(50)).succeeded());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn output_is_bounded() {
        let done = run(&shell("head -c 3000000 /dev/zero"), Duration::from_secs(20));
        assert!(done.succeeded());
        assert_eq!(done.stdout.len() as u64, KEPT);
    }

    #[test]
    fn a_wish_to_stop_ends_the_wait() {
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(
            shell("sleep 60")
                .run(Duration::from_secs(50), &cancel)
                .is_err()
        );
    }
}
