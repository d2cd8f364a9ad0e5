//! A process that forks the first processes of jails: what each of them would do before it differs from the others is
//! done once.

#![allow(
    unsafe_code,
    reason = "fork is unsafe because of other threads, of which there are none here"
)]

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, getppid};

use crate::lockdown;
use crate::step::failed;
use crate::sys;

/// What is known of the process that makes others.
#[derive(Debug)]
pub struct Maker {
    parent: Option<Pid>,
}

/// One of the two that a process has become.
#[derive(Debug)]
pub enum Made {
    /// The one that was there: a descriptor of the other, which is its sibling.
    Maker(OwnedFd),
    /// The other.
    New(New),
}

/// That this process was just made.
#[derive(Debug)]
pub struct New {
    parent: Option<Pid>,
}

impl Maker {
    /// The process that calls this, which dies with its parent.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self { parent: getppid() }
    }

    /// Makes a process whose parent is this one's: it is that one's to wait for, and dies with it.
    ///
    /// # Errors
    /// When there is more than one thread, or the kernel refuses.
    pub fn fork(&self) -> Result<Made, String> {
        lockdown::single_thread()?;
        // SAFETY: the process has one thread, as was just read from the kernel. The new one raises no signal and takes no
        // lock that knows its holder before `fork_init` makes process 1 of a jail, and then only waits.
        match unsafe { sys::fork_beside() }.map_err(|e| failed("clone3", e))? {
            Some(pidfd) => Ok(Made::Maker(pidfd)),
            None => Ok(Made::New(New {
                parent: self.parent,
            })),
        }
    }
}

impl New {
    /// Comes into a session of its own and these control groups, and dies with its parent from now on.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn begin(self, groups: &[OwnedFd]) -> Result<(), String> {
        rustix::process::setsid().map_err(|e| failed("setsid", e))?;
        for group in groups {
            let wrote = rustix::io::write(group.as_fd(), b"0");
            wrote.map_err(|e| failed("writing cgroup.procs", e))?;
        }
        lockdown::die_with(self.parent).map(drop)
    }
}
