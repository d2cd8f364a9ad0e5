//! A jail that an agent lives in: the walls of a run, and no end of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use casemate_backend::contract::{Cancel, CreateError, Fault};
use casemate_backend::plan::Plan;
use casemate_backend::session::{Held, Session, Sessions};
use casemate_driver::handover::START;
use casemate_driver::listen::{Lasts, Lines, Processes, Running};
use casemate_driver::lowered::Watched;
use casemate_driver::packages::Opened;
use casemate_driver::system::System;
use casemate_driver::walls::{self as shared, Counting};
use casemate_images::Systems;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::file::{CopyTo, copy_tree, room};
use casemate_linux::handoff::{self, PORT};
use casemate_linux::lockdown::Identity;
use casemate_linux::lockdown::wall::SECCOMP;
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::outcome::Exit;
use casemate_model::receipt::Receipt;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Signal as KernelSignal, pidfd_send_signal};

use crate::lower::lower_session;
use crate::shown::Shown;
use crate::spare::Spare;
use crate::{probe, walls};

/// How long the agent may take to take a connection.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Jails with an agent in them.
pub struct JailSessions {
    systems: Systems,
    program: PathBuf,
    agent: Opened,
}

impl JailSessions {
    /// Over the systems it can show, with `program` as the program of a jail's first process and the folder that
    /// has the agent and nothing else in it.
    ///
    /// # Errors
    /// When the folder is not there, or others than its owner can write to it.
    pub fn new(
        systems: impl Into<Systems>,
        program: impl Into<PathBuf>,
        agent: &Path,
    ) -> Result<Self, String> {
        Ok(Self {
            systems: systems.into(),
            program: program.into(),
            agent: Opened::open(agent, true)?,
        })
    }
}

impl Sessions for JailSessions {
    fn name(&self) -> &'static str {
        probe::NAME
    }

    fn open(
        &self,
        plan: &Plan,
        warm: bool,
        files: Option<&OwnedFd>,
    ) -> Result<(Box<dyn Session>, Receipt), CreateError> {
        let system = self.systems.of(&plan.guest.image);
        let system = system.map_err(|(why, fix)| CreateError::Unusable { why, fix })?;
        let lowered = lower_session(plan, &system, &self.agent.path, warm);
        let lowered = lowered.map_err(CreateError::Plan)?;
        let shown = Shown::of(&system).and_then(|shown| shown.with_agent(&self.agent));
        let shown = shown.map_err(|error| CreateError::Fault(format!("the system: {error}")))?;
        let spare = Spare::make(&self.program, &shown);
        let mut spare =
            spare.map_err(|error| CreateError::Fault(format!("starting the jail: {error}")))?;
        let mut steps = spare.limit(&lowered);
        let armed = spare.arm(&lowered);
        let (built, handed) = armed.map_err(|error| CreateError::Fault(spare.failed(&error)))?;
        steps.extend(built);
        steps.push(walls::fresh_layout("a session's own"));
        if let Some(files) = files {
            let filled = fill(files, &handed.scratch, spare.number(), &lowered.watched);
            filled.map_err(|error| CreateError::Fault(format!("copying its files: {error}")))?;
        }
        let mut walls = shared::all(walls::WALLS, Counting::Host, &lowered.watched, &steps);
        // Its filter lets sockets of the internet be made: that they lead nowhere is the namespace's doing alone.
        let filter = walls.iter_mut().filter(|wall| wall.name == SECCOMP);
        filter.for_each(|wall| wall.guarantees = without_network(&wall.guarantees));
        let receipt = Receipt {
            backend: probe::NAME.to_owned(),
            guest: system.described.clone(),
            walls,
        };
        let Spare {
            mut processes,
            lines,
            cgroup,
            ..
        } = spare;
        processes.init = Some(handed.init);
        let session = Stands {
            processes,
            lines,
            scratch: handed.scratch,
            cgroup: cgroup.ok().map(Arc::new),
            watched: lowered.watched,
            system,
        };
        let session = session.begin();
        let session =
            session.map_err(|error| CreateError::Fault(format!("starting the agent: {error}")))?;
        Ok((Box::new(session), receipt))
    }
}

/// What a wall guarantees but that there is no network.
fn without_network(guarantees: &Guarantees) -> Guarantees {
    let all = guarantees.iter();
    all.filter(|guarantee| *guarantee != Guarantee::NetworkAbsent)
        .collect()
}

/// Puts copies of files into a fresh scratch, as the user of the jail that a process of this number made.
fn fill(files: &OwnedFd, scratch: &OwnedFd, number: u32, watched: &Watched) -> io::Result<()> {
    let owner = match Identity::of_process(number) {
        Identity::Fixed { uid, gid } if rustix::process::geteuid().is_root() => (uid, gid),
        _ => (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        ),
    };
    let into = CopyTo {
        owner,
        bytes: watched.disk_bytes,
        files: watched.disk_files,
    };
    copy_tree(files, scratch, &into).map(drop)
}

/// A jail whose walls stand, and which has no agent yet.
///
/// The fields are dropped in their order: first the processes, then what they were in.
struct Stands {
    processes: Processes,
    lines: Lines,
    scratch: OwnedFd,
    cgroup: Option<Arc<Cgroup>>,
    watched: Watched,
    /// Its files are there for as long as this is.
    system: System,
}

impl Stands {
    fn begin(self) -> io::Result<JailSession> {
        let handoff = self.lines.messages.as_fd().try_clone_to_owned()?;
        // An agent that takes nothing, or is frozen, does not hold its callers up for ever.
        set_socket_timeout(&handoff, Timeout::Send, Some(TAKEN_WITHIN))?;
        let init = self.processes.init.as_ref();
        let init = init.ok_or_else(|| io::Error::other("there is no process 1"))?;
        let init = init.try_clone()?;
        let scratch = self.scratch.try_clone()?;
        let cgroup = self.cgroup.clone();
        let (bytes, files) = (self.watched.disk_bytes, self.watched.disk_files);
        let ended = Arc::new(Mutex::new(None));
        let cancel = Cancel::new();
        self.lines.control.send(START, &[])?;
        let (told, raised) = (Arc::clone(&ended), cancel.clone());
        let thread = std::thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || {
                let how = self.last(&raised);
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
            })?;
        Ok(JailSession {
            handoff,
            init,
            scratch,
            most: CopyTo {
                // On a disk of the host's they are this process's own.
                owner: (
                    rustix::process::geteuid().as_raw(),
                    rustix::process::getegid().as_raw(),
                ),
                bytes,
                files,
            },
            cgroup,
            ended,
            cancel,
            thread: Some(thread),
        })
    }

    /// Looks after it until it ends, and says how it did.
    fn last(mut self, cancel: &Cancel) -> String {
        let running = Running {
            lines: &mut self.lines,
            processes: &mut self.processes,
            watched: &self.watched,
            cgroup: self.cgroup.as_deref(),
            scratch: &self.scratch,
            stands: false,
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

/// How a session ended.
fn in_words(exit: &Exit) -> String {
    match exit {
        Exit::Cancelled => "it was ended".to_owned(),
        Exit::Limit {
            limit,
            allowed,
            seen,
        } => format!("it reached its limit of {limit}: {seen} of {allowed} allowed"),
        Exit::Fault(why) => why.clone(),
        other => format!("its agent ended: {other:?}"),
    }
}

/// A jail with its agent. Dropping it ends everything in it.
struct JailSession {
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

impl JailSession {
    fn group(&self) -> Result<&Cgroup, Fault> {
        let group = self.cgroup.as_deref();
        group.ok_or_else(|| Fault("there is no control group to stop it in".to_owned()))
    }
}

impl Session for JailSession {
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

impl Drop for JailSession {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
