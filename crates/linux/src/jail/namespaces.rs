//! Leaving the host's name spaces, and the first process of a new process table.

#![allow(
    unsafe_code,
    reason = "unshare and fork are unsafe because of other threads, of which there are none here"
)]

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, wait, waitpid};
use rustix::thread::UnshareFlags;

use super::wall;
use crate::lockdown::{self, Identity, wall as base};
use crate::step::{Step, failed};
use crate::sys;

const KINDS: [(&str, UnshareFlags); 6] = [
    (base::NETWORK_NAMESPACE, UnshareFlags::NEWNET),
    (base::IPC_NAMESPACE, UnshareFlags::NEWIPC),
    (base::UTS_NAMESPACE, UnshareFlags::NEWUTS),
    (wall::CGROUP_NAMESPACE, UnshareFlags::NEWCGROUP),
    (base::MOUNT_NAMESPACE, UnshareFlags::NEWNS),
    (wall::PID_NAMESPACE, UnshareFlags::NEWPID),
];
/// The host name inside.
pub(super) const HOST_NAME: &str = "casemate";

/// Unshares each name space on its own, so that each is reported on its own.
pub(super) fn leave(steps: &mut Vec<Step>) {
    leave_these(&KINDS, steps);
}

/// The same for a process whose children are to be in process tables of other processes.
pub(super) fn leave_but_processes(steps: &mut Vec<Step>) {
    let kinds = KINDS.map(|kind| (kind.1 != UnshareFlags::NEWPID).then_some(kind));
    let kinds: Vec<_> = kinds.into_iter().flatten().collect();
    leave_these(&kinds, steps);
}

fn leave_these(kinds: &[(&'static str, UnshareFlags)], steps: &mut Vec<Step>) {
    if !rustix::process::geteuid().is_root() {
        steps.push(Step::run(
            base::USER_NAMESPACE,
            "one user, mapped to itself",
            user_namespace,
        ));
    }
    for &(wall, flag) in kinds {
        steps.push(Step::run(wall, "a namespace of its own", || {
            unshare(flag)?;
            if flag == UnshareFlags::NEWUTS {
                rustix::system::sethostname(HOST_NAME.as_bytes())
                    .map_err(|e| failed("sethostname", e))?;
            }
            Ok("unshared".to_owned())
        }));
    }
}

pub(crate) fn unshare(flag: UnshareFlags) -> Result<(), String> {
    // SAFETY: the function is unsafe because CLONE_FILES would split the descriptor table that
    // other threads rely on. `flag` is one of the constants of this file, never CLONE_FILES.
    let done = unsafe { rustix::thread::unshare_unsafe(flag) };
    done.map_err(|e| failed("unshare", e))
}

/// An unprivileged process may make the others only from inside a user namespace. The map is written
/// by the process itself, which may map its own number and nothing else.
fn user_namespace() -> Result<String, String> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    unshare(UnshareFlags::NEWUSER)?;
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| failed(file, e))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{0} {0} 1", uid.as_raw()))?;
    write("gid_map", format!("{0} {0} 1", gid.as_raw()))?;
    Ok(format!("user {}, group {}", uid.as_raw(), gid.as_raw()))
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Forked {
    /// The one that was there, outside the new process table.
    Outside(Init),
    /// Process 1 of the new process table.
    Init(Parent),
}

/// Process 1, as its parent sees it.
#[derive(Debug)]
pub struct Init {
    pid: Pid,
    /// Open for as long as this process lives, so that process 1 can tell.
    alive: PipeWriter,
}

/// The waiting parent, as process 1 sees it.
#[derive(Debug)]
pub struct Parent {
    alive: PipeReader,
}

impl Init {
    /// Gives up everything the waiting does not need, tells process 1, and waits for its end: its exit
    /// code, or 128 and the signal.
    ///
    /// # Errors
    /// The first thing that could not be given up; process 1 then does not go on.
    pub fn wait(self, identity: Identity) -> Result<i32, String> {
        let parent = rustix::process::getppid();
        let mut steps = Vec::new();
        lockdown::drop_identity(identity, &mut steps);
        steps.into_iter().try_for_each(|step| step.got.map(drop))?;
        // Changing the user clears both of the next, so they come after it.
        self.wait_for(parent)
    }

    /// The same for a process 1 that stays root: of another user, this process could not take it along
    /// when it is killed, because the signal is sent in its name.
    ///
    /// # Errors
    /// As [`Init::wait`].
    pub fn wait_as_root(self) -> Result<i32, String> {
        self.wait_for(rustix::process::getppid())
    }

    fn wait_for(mut self, parent: Option<Pid>) -> Result<i32, String> {
        lockdown::die_with(parent)?;
        lockdown::not_dumpable()?;
        lockdown::close_all_but(&[self.alive.as_raw_fd()])?;
        self.alive
            .write_all(b"c")
            .map_err(|e| failed("telling process 1", e))?;
        loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    let signal = status.terminating_signal().map(|signal| 128 + signal);
                    return Ok(status.exit_status().or(signal).unwrap_or(1));
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(failed("waitpid", error)),
            }
        }
    }
}

impl Parent {
    /// Waits until the parent has given up what it does not need.
    ///
    /// # Errors
    /// When it has not and is gone.
    pub fn confined(&mut self) -> Result<(), String> {
        let mut byte = [0];
        self.alive
            .read_exact(&mut byte)
            .map_err(|e| failed("the parent of process 1", e))
    }

    /// Whether it is still there. Its number says nothing: from in here it has none.
    pub(crate) fn is_there(&self) -> Result<(), String> {
        let mut polled = [PollFd::new(&self.alive, PollFlags::IN)];
        let now = Timespec::default();
        match poll(&mut polled, Some(&now)) {
            Ok(0) => Ok(()),
            Ok(_) => Err("the parent is already gone".to_owned()),
            Err(error) => Err(failed("poll", error)),
        }
    }
}

/// Makes process 1 of the process table that [`leave`](super::leave) made.
///
/// # Errors
/// When there is more than one thread, the kernel refuses, or the child is not process 1, which
/// means that there is no new process table.
pub fn fork_init() -> Result<Forked, String> {
    lockdown::single_thread()?;
    let (reader, writer) = std::io::pipe().map_err(|e| failed("pipe", e))?;
    // SAFETY: the process has one thread, as was just read from the kernel.
    let pid = unsafe { sys::fork() }.map_err(|e| failed("fork", e))?;
    match pid.and_then(Pid::from_raw) {
        Some(pid) => Ok(Forked::Outside(Init { pid, alive: writer })),
        None if std::process::id() == 1 => Ok(Forked::Init(Parent { alive: reader })),
        None => Err("the child is not process 1".to_owned()),
    }
}

/// Lets the kernel reap whatever ends in here, for a process 1 that waits for nobody.
///
/// # Errors
/// When the kernel refuses.
pub fn leave_children_to_kernel() -> Result<(), String> {
    sys::ignore_children().map_err(|e| failed("sigaction SIGCHLD", e))
}

/// Waits, as process 1 must, for whatever ends, until `main` has.
///
/// # Errors
/// When there is nothing to wait for although `main` has not been seen to end.
pub fn reap_until(main: &crate::Child) -> Result<crate::Exit, String> {
    reap_until_pid(main.pid())
}

/// The same for a process that was left to process 1 by a program that has ended.
///
/// # Errors
/// As [`reap_until`].
pub fn reap_until_pid(main: u32) -> Result<crate::Exit, String> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid().unsigned_abs() == main => {
                let exit = status.exit_status().map(crate::Exit::Code);
                let signal = status.terminating_signal().map(crate::Exit::Signal);
                return exit.or(signal).ok_or("neither ended nor killed".to_owned());
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(failed("wait4", error)),
        }
    }
}
