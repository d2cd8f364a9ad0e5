//! A sandbox that an agent lives in: the walls of a run, and no end of its own. What every backend with native
//! Python has of it once the walls stand.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use casemate_backend::contract::{Cancel, Fault};
use casemate_backend::session::{Held, Session, in_words};
use casemate_linux::cgroup::Cgroup;
use casemate_linux::file::{CopyTo, copy_tree, room};
use casemate_linux::handoff::{self, PORT};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Signal as KernelSignal, pidfd_send_signal};

use crate::listen::{Lasts, Lines, Processes, Running};
use crate::lowered::Watched;
use crate::system::System;

/// How long the agent may take to take a connection.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// A sandbox whose walls stand, and in which nothing of the guest's runs.
///
/// The fields are dropped in their order: first the processes, then what they were in.
#[derive(Debug)]
pub struct Standing {
    /// Its processes.
    pub processes: Processes,
    /// Its channels.
    pub lines: Lines,
    /// The top of its scratch.
    pub scratch: OwnedFd,
    /// Its control group.
    pub cgroup: Option<Cgroup>,
    /// Its limits.
    pub watched: Watched,
    /// What it shows, whose files are there for as long as this is.
    pub system: System,
}

/// Puts copies of files into a fresh scratch, as this user and group.
///
/// # Errors
/// When they cannot be read or written, or are more than the scratch may have.
pub fn fill(
    files: &OwnedFd,
    scratch: &OwnedFd,
    owner: (u32, u32),
    watched: &Watched,
) -> io::Result<()> {
    let into = CopyTo {
        owner,
        bytes: watched.disk_bytes,
        files: watched.disk_files,
    };
    copy_tree(files, scratch, &into).map(drop)
}

impl Standing {
    /// Looks after it from now on, until it ends: the word to start its agent was given. With `stands` it need not
    /// be waited for.
    ///
    /// # Errors
    /// When there is no process 1, no more descriptors or no more threads.
    pub fn live(self, stands: bool) -> io::Result<Box<dyn Session>> {
        let handoff = self.lines.messages.as_fd().try_clone_to_owned()?;
        // An agent that takes nothing, or is frozen, does not hold its callers up for ever.
        set_socket_timeout(&handoff, Timeout::Send, Some(TAKEN_WITHIN))?;
        let init = self.processes.init.as_ref();
        let init = init.ok_or_else(|| io::Error::other("there is no process 1"))?;
        let init = init.try_clone()?;
        let scratch = self.scratch.try_clone()?;
        let Self {
            processes,
            lines,
            scratch: own,
            cgroup,
            watched,
            system,
        } = self;
        let most = CopyTo {
            // On a disk of the host's they are this process's own.
            owner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            bytes: watched.disk_bytes,
            files: watched.disk_files,
        };
        let cgroup = cgroup.map(Arc::new);
        let lasting = Lasting {
            processes,
            lines,
            scratch: own,
            cgroup: cgroup.clone(),
            watched,
            system,
            stands,
        };
        let ended = Arc::new(Mutex::new(None));
        let cancel = Cancel::new();
        let (told, raised) = (Arc::clone(&ended), cancel.clone());
        let thread = std::thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || {
                let how = lasting.last(&raised);
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
            })?;
        Ok(Box::new(Live {
            handoff,
            init,
            scratch,
            most,
            cgroup,
            ended,
            cancel,
            thread: Some(thread),
        }))
    }
}

/// What the thread has that looks after one. Its fields are dropped in their order, as those of [`Standing`].
struct Lasting {
    processes: Processes,
    lines: Lines,
    scratch: OwnedFd,
    cgroup: Option<Arc<Cgroup>>,
    watched: Watched,
    system: System,
    stands: bool,
}

impl Lasting {
    /// Looks after it until it ends, and says how it did.
    fn last(mut self, cancel: &Cancel) -> String {
        let running = Running {
            lines: &mut self.lines,
            processes: &mut self.processes,
            watched: &self.watched,
            cgroup: self.cgroup.as_deref(),
            scratch: &self.scratch,
            stands: self.stands,
            lasts: Lasts::Session,
        };
        let how = match running.finish(&mut |_| {}, cancel) {
            Ok(finish) => in_words(&finish.exit),
            Err(fault) => fault.to_string(),
        };
        drop(self.system);
        how
    }
}

/// A sandbox with its agent. Dropping it ends everything in it.
struct Live {
    /// Where connections are passed to the agent.
    handoff: OwnedFd,
    /// Process 1.
    init: OwnedFd,
    scratch: OwnedFd,
    /// What a copy of its files may be.
    most: CopyTo,
    cgroup: Option<Arc<Cgroup>>,
    ended: Arc<Mutex<Option<String>>>,
    cancel: Cancel,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    fn group(&self) -> Result<&Cgroup, Fault> {
        let group = self.cgroup.as_deref();
        group.ok_or_else(|| Fault("there is no control group to stop it in".to_owned()))
    }
}

impl Session for Live {
    fn connect(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        handoff::send(&self.handoff, theirs)?;
        Ok(ours.into())
    }

    fn connect_to(&self, port: u16) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        let [high, low] = port.to_be_bytes();
        handoff::send_with(&self.handoff, &[PORT, high, low], &[theirs.as_fd()])?;
        Ok(ours.into())
    }

    fn files(&self) -> io::Result<OwnedFd> {
        self.scratch.try_clone()
    }

    fn save(&self, to: &Path) -> Result<u64, Fault> {
        let saved =
            std::fs::File::open(to).and_then(|to| copy_tree(&self.scratch, &to, &self.most));
        saved
            .map(|copied| copied.bytes)
            .map_err(|error| Fault(format!("copying its files: {error}")))
    }

    fn pause(&self) -> Result<(), Fault> {
        let frozen = self.group()?.freeze();
        frozen.map_err(|error| Fault(format!("stopping it: {error}")))
    }

    fn resume(&self) -> Result<(), Fault> {
        let thawed = self.group()?.thaw();
        thawed.map_err(|error| Fault(format!("letting it go on: {error}")))
    }

    fn held(&self) -> Held {
        // What cannot be read is 0: these are numbers for people, and limits are watched elsewhere.
        let number = |read: fn(&Cgroup) -> io::Result<u64>| {
            let group = self.cgroup.as_deref();
            group.and_then(|group| read(group).ok()).unwrap_or_default()
        };
        let memory_bytes = number(Cgroup::memory_usage);
        let held = number(Cgroup::memory_held);
        Held {
            cpu_us: number(|group| {
                group
                    .cpu_usage()
                    .map(|used| u64::try_from(used.as_micros()).unwrap_or(u64::MAX))
            }),
            memory_bytes,
            cache_bytes: memory_bytes.saturating_sub(held),
            disk_bytes: room(&self.scratch).unwrap_or_default().used_bytes,
        }
    }

    fn end(&self) {
        self.cancel.cancel();
        // Its thread does all of this too, at its next look: here it is only sooner. What is frozen dies when it
        // goes on.
        pidfd_send_signal(&self.init, KernelSignal::KILL).ok();
        if let Some(group) = &self.cgroup {
            group.thaw().ok();
        }
    }

    fn ended(&self) -> Option<String> {
        let ended = self.ended.lock();
        ended.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
