//! A running child and how it ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::sys;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It called `exit` with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Whether seccomp killed it (`SIGSYS`).
    #[must_use]
    pub const fn is_forbidden_call(self) -> bool {
        matches!(self, Self::Signal(libc::SIGSYS))
    }
}

/// What a reaped process used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time in user code.
    pub user: Duration,
    /// Processor time in the kernel on its behalf.
    pub system: Duration,
    /// The kernel's `ru_maxrss`, in bytes. It starts at the peak of the process that spawned the
    /// child, so it is an upper bound; `proc::peak_resident` or a cgroup tell the child's own.
    pub max_resident_bytes: u64,
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// What it used, its own reaped children included.
    pub usage: Usage,
}

/// A child process held by its pidfd. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: OwnedFd,
    finished: Option<Finished>,
}

impl Child {
    pub(crate) const fn new(pid: u32, pidfd: OwnedFd) -> Self {
        Self {
            pid,
            pidfd,
            finished: None,
        }
    }

    /// A child of this process that another one forked for it, of which this is a descriptor and its number here.
    ///
    /// # Errors
    /// When it is no child of this process.
    pub fn adopt(pid: u32, pidfd: OwnedFd) -> io::Result<Self> {
        if sys::is_child(pidfd.as_fd()) {
            Ok(Self::new(pid, pidfd))
        } else {
            Err(io::Error::other(
                "a process that was made for this one is no child of it",
            ))
        }
    }

    /// The process id. It names this child until it has been waited for.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// The descriptor of the process: it becomes readable when the process ends.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends `SIGKILL`. A child that has already ended is not an error.
    ///
    /// # Errors
    /// The kernel's refusal, for example when the child changed to a user we may not signal.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal, such as `SIGTERM`.
    ///
    /// # Errors
    /// As [`Child::kill`], and an unknown signal number.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        pidfd_send_signal(&self.pidfd, signal).map_err(Into::into)
    }

    /// Waits until the child ends. Later calls return the same answer.
    ///
    /// # Errors
    /// Only when somebody else has reaped the child.
    pub fn wait(&mut self) -> io::Result<Finished> {
        loop {
            if let Some(finished) = self.reap(true)? {
                return Ok(finished);
            }
        }
    }

    /// The end of the child, if it has ended.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn try_wait(&mut self) -> io::Result<Option<Finished>> {
        self.reap(false)
    }

    /// Waits at most this long; `None` when the child still runs.
    ///
    /// # Errors
    /// As [`Child::wait`], and the kernel's refusal to poll.
    pub fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<Finished>> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if let Some(finished) = self.reap(false)? {
                return Ok(Some(finished));
            }
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(
                &mut [PollFd::new(&self.pidfd, PollFlags::IN)],
                left.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The processor time used so far by all threads of the running child. Needs no privilege,
    /// and nothing the child does can falsify it.
    ///
    /// # Errors
    /// When the child has been reaped.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        if let Some(finished) = self.finished {
            return Ok(finished.usage.user + finished.usage.system);
        }
        let pid = i32::try_from(self.pid).map_err(io::Error::other)?;
        sys::process_cpu_time(pid)
    }

    fn reap(&mut self, block: bool) -> io::Result<Option<Finished>> {
        if self.finished.is_none() {
            self.finished = sys::wait_pidfd(self.pidfd.as_fd(), block)?.map(finished);
        }
        Ok(self.finished)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.finished.is_some() {
            return;
        }
        // A child we cannot kill would make the wait hang for ever: then it is better left to
        // its parent-death signal than to block the caller.
        if self.kill().is_ok() {
            self.wait().ok();
        }
    }
}

fn finished(waited: sys::Waited) -> Finished {
    let exit = if waited.code == libc::CLD_EXITED {
        Exit::Code(waited.status)
    } else {
        Exit::Signal(waited.status)
    };
    Finished {
        exit,
        usage: Usage {
            user: duration(waited.usage.ru_utime),
            system: duration(waited.usage.ru_stime),
            max_resident_bytes: u64::try_from(waited.usage.ru_maxrss)
                .unwrap_or_default()
                .saturating_mul(1024),
        },
    }
}

fn duration(time: libc::timeval) -> Duration {
    let secs = u64::try_from(time.tv_sec).unwrap_or_default();
    let micros = u64::try_from(time.tv_usec).unwrap_or_default();
    Duration::from_secs(secs).saturating_add(Duration::from_micros(micros))
}
