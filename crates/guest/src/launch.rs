//! Starting a program as a user: this program once more, which becomes it.
//!
//! What needs to happen between fork and exec happens in a process of its own with one thread, so that none
//! of it is unsafe. A failure is told over a pipe that closes by itself when the program begins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use casemate_linux::{Child, Spawn, take_fd};
use rustix::fs::{Gid, Uid};

use crate::users::User;

/// Where the program finds a channel of its own, if it has one.
pub(crate) const CHANNEL: RawFd = 3;
/// Where a failure is told.
const STATUS: RawFd = 4;
/// Bytes of a failure.
const STATUS_MAX: u64 = 4096;

/// What the second process is to become.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    cwd: PathBuf,
    terminal: bool,
    argv: Vec<OsString>,
}

/// A program to start.
pub(crate) struct Program<'a> {
    pub(crate) user: &'a User,
    pub(crate) cwd: &'a Path,
    pub(crate) argv: &'a [String],
    pub(crate) env: &'a BTreeMap<String, String>,
    /// Standard input, output and error.
    pub(crate) streams: [&'a OwnedFd; 3],
    /// Whether the streams are a terminal that it is to own.
    pub(crate) terminal: bool,
    /// What it finds under the number [`CHANNEL`].
    pub(crate) channel: Option<&'a OwnedFd>,
}

impl Program<'_> {
    /// Starts it. Blocks until it runs or has failed to.
    pub(crate) fn start(&self) -> Result<Child, String> {
        let (mut told, telling) = io::pipe().map_err(|error| format!("pipe: {error}"))?;
        let mut spawn = Spawn::this_program()
            .arg(Launch::WORD)
            .arg(self.user.uid.to_string())
            .arg(self.user.gid.to_string())
            .arg(numbers(&self.user.groups))
            .arg(self.cwd)
            .arg(if self.terminal { "terminal" } else { "plain" });
        for arg in self.argv {
            spawn = spawn.arg(arg);
        }
        for (key, value) in self.env {
            spawn = spawn.env(key, value);
        }
        for (stream, number) in self.streams.iter().zip(0..) {
            spawn = spawn.fd(stream, number);
        }
        if let Some(channel) = self.channel {
            spawn = spawn.fd(channel, CHANNEL);
        }
        let child = spawn
            .fd(&telling, STATUS)
            .spawn()
            .map_err(|error| error.to_string())?;
        drop(telling);
        let mut why = String::new();
        told.by_ref()
            .take(STATUS_MAX)
            .read_to_string(&mut why)
            .map_err(|error| format!("starting: {error}"))?;
        if why.is_empty() { Ok(child) } else { Err(why) }
    }
}

fn numbers(numbers: &[u32]) -> String {
    let texts: Vec<String> = numbers.iter().map(u32::to_string).collect();
    texts.join(",")
}

impl Launch {
    /// The first argument that makes this program another.
    pub(crate) const WORD: &'static str = "launch";

    pub(crate) fn parse(args: Vec<OsString>) -> Result<Self, String> {
        let bad = || "launch: it is started by the agent itself".to_owned();
        let mut args = args.into_iter().skip(1);
        let mut text = || args.next().and_then(|arg| arg.into_string().ok());
        let uid = text().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        let gid = text().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        let groups = text().ok_or_else(bad)?;
        let groups = groups.split(',').filter(|text| !text.is_empty());
        let groups: Result<Vec<u32>, _> = groups.map(str::parse).collect();
        let cwd = args.next().ok_or_else(bad)?;
        let terminal = args.next().ok_or_else(bad)? == "terminal";
        let argv: Vec<OsString> = args.collect();
        if argv.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            uid,
            gid,
            groups: groups.map_err(|_| bad())?,
            cwd: cwd.into(),
            terminal,
            argv,
        })
    }

    /// Becomes the program, or tells why not.
    pub(crate) fn run(&self) -> Result<(), String> {
        let status = take_fd(STATUS).map_err(|error| format!("launch: {error}"))?;
        // It must not outlive the moment at which the program begins.
        rustix::io::fcntl_setfd(&status, rustix::io::FdFlags::CLOEXEC)
            .map_err(|error| format!("launch: {error}"))?;
        let why = self.become_it();
        File::from(status)
            .write_all(why.as_bytes())
            .map_err(|error| format!("launch: {error}"))?;
        Err(why)
    }

    /// Why it could not be done: when it can, this does not come back.
    fn become_it(&self) -> String {
        if let Err(why) = self.prepare() {
            return why;
        }
        let Some((program, args)) = self.argv.split_first() else {
            return "there is no program".to_owned();
        };
        #[allow(
            clippy::disallowed_methods,
            reason = "it starts nothing: this process becomes the program"
        )]
        let error = std::process::Command::new(program).args(args).exec();
        format!("{}: {}", program.to_string_lossy(), plain(&error))
    }

    fn prepare(&self) -> Result<(), String> {
        if self.terminal {
            // The streams are the terminal, and this process leads a session that has none.
            rustix::process::ioctl_tiocsctty(io::stdin().as_fd())
                .map_err(|error| format!("TIOCSCTTY: {error}"))?;
        }
        self.change_user()
            .map_err(|error| format!("becoming user {}: {error}", self.uid))?;
        rustix::process::chdir(&self.cwd)
            .map_err(|error| format!("cwd '{}': {error}", self.cwd.display()))
    }

    /// Only root can become somebody else; anybody can stay who they are.
    fn change_user(&self) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        if !rustix::process::geteuid().is_root() {
            let same = rustix::process::geteuid() == uid;
            return same.then_some(()).ok_or(rustix::io::Errno::PERM);
        }
        let groups: Vec<Gid> = std::iter::once(gid)
            .chain(self.groups.iter().copied().map(Gid::from_raw))
            .collect();
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
    }
}

/// The kernel's words, without the number that Rust adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or(&text)
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_read_as_it_is_written() {
        let args = ["launch", "1", "2", "3,4", "/x y", "terminal", "ls", "-l"];
        let launch = Launch::parse(args.iter().map(OsString::from).collect()).unwrap();
        let expected = Launch {
            uid: 1,
            gid: 2,
            groups: vec![3, 4],
            cwd: "/x y".into(),
            terminal: true,
            argv: vec!["ls".into(), "-l".into()],
        };
        assert_eq!(launch, expected);
        for cut in 1..args.len() - 1 {
            let args = args[..cut].iter().map(OsString::from).collect();
            assert!(Launch::parse(args).is_err(), "{cut}");
        }
    }
}
