//! A worker's process from the host's side: started, armed, and how it ended.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_backend::contract::CreateError;
use casemate_linux::cgroup::{Cgroup, CgroupLimits};
use casemate_linux::{Child, Exit as ProcessExit, Limit, Spawn};
use casemate_model::job::TenantId;
use casemate_model::limit::LimitKind;
use casemate_model::outcome::Exit;
use casemate_model::receipt::Wall;

use crate::listen::{Ended, Frames, Heard};
use crate::lower::Lowered;
use crate::setup::Store;
use crate::wire::{Kind, WireEnd, WireLimits, WireWall, send_json, send_split};
use crate::{walls, worker};

/// How long a worker may take from its start to being ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// What a worker needs beside the guest's own memory: the engine, the mapped module, stacks.
const WORKER_OVERHEAD: u64 = 768 << 20;
/// What a worker is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// Runs, one after the other.
    Run,
    /// One session, in a group that can be frozen.
    Session,
}

/// One worker process.
pub(crate) struct Worker {
    pub(crate) child: Child,
    pub(crate) channel: Frames,
    /// Its walls, as reported once; those of a run are reported with the run.
    pub(crate) walls: Vec<Wall>,
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    /// Whom it has served. A fresh worker has served nobody.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) runs: u32,
    /// Since when it waits for work, once it does.
    pub(crate) waits_since: Option<Instant>,
}

/// Starts a worker that has served nobody.
///
/// # Errors
/// When there is no guest, or it cannot be started or locked down.
pub(crate) fn start(store: &Store, program: &Path, lasts: Lasts) -> Result<Worker, CreateError> {
    static RECLAIM: std::sync::Once = std::sync::Once::new();
    // Groups of processes that crashed. One that stays costs nothing and is tried again next time.
    RECLAIM.call_once(|| drop(casemate_linux::cgroup::reclaim_stale()));
    let unusable = |why: String| CreateError::Unusable {
        why,
        fix: "run `casemate setup`".to_owned(),
    };
    let files = store
        .opened()
        .map_err(|error| unusable(error.to_string()))?;
    let fault = |what: &str, error: io::Error| CreateError::Fault(format!("{what}: {error}"));
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| fault("making a worker's channel", error))?;
    let limits = CgroupLimits {
        memory_bytes: Limit::At(WORKER_OVERHEAD + crate::lower::MEMORY_CEILING),
        pids: Limit::At(16),
        cpu_millicores: Limit::Unlimited,
    };
    let group = match lasts {
        Lasts::Run => Cgroup::create("wasm", &limits),
        Lasts::Session => Cgroup::reserve_freezable("wasm-session").map(|mut group| {
            group.limit(&limits);
            group
        }),
    };
    let (cgroup, steps) = match group {
        Ok(cgroup) => {
            let steps = cgroup.steps().to_vec();
            (Some(Arc::new(cgroup)), steps)
        }
        Err(missing) => (None, missing.steps),
    };
    let mut spawn = Spawn::new(program)
        .arg(worker::ARGUMENT)
        // With an arena of its own for a thread, glibc reads a setting from /proc when it gives
        // memory back, which the filter answers by killing the worker.
        .env("MALLOC_ARENA_MAX", "1")
        .fd(theirs.as_fd(), worker::CHANNEL)
        .fd(files.module.as_fd(), worker::MODULE)
        .fd(files.library.as_fd(), worker::LIBRARY)
        .fd(files.memory.as_fd(), worker::MEMORY);
    if let Some(cgroup) = &cgroup {
        spawn = spawn.cgroup(cgroup);
    }
    let child = spawn
        .spawn()
        .map_err(|error| fault("starting a worker", error))?;
    drop(theirs);
    let channel =
        Frames::new(ours).map_err(|error| fault("preparing a worker's channel", error))?;
    let mut worker = Worker {
        child,
        channel,
        walls: Vec::new(),
        cgroup,
        tenant: None,
        runs: 0,
        waits_since: None,
    };
    let walls = worker
        .expect(Kind::Ready, READY_WITHIN)
        .map_err(|error| worker.died(&error))?;
    worker.walls = steps.iter().map(walls::around).chain(walls).collect();
    Ok(worker)
}

impl Worker {
    /// Waits for a list of walls.
    fn expect(&mut self, kind: Kind, within: Duration) -> io::Result<Vec<Wall>> {
        let deadline = Instant::now() + within;
        loop {
            match self.channel.next(deadline)? {
                Heard::Frame(got, payload) if got == kind => {
                    let walls: Vec<WireWall> = serde_json::from_slice(&payload)?;
                    return Ok(walls.iter().map(walls::reported).collect());
                }
                Heard::Frame(got, _) => {
                    return Err(io::Error::other(format!("expected {kind:?}, got {got:?}")));
                }
                Heard::Nothing => {}
                Heard::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                Heard::Late => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    /// Hands over a run and hears which walls stand around it.
    pub(crate) fn arm(&mut self, lowered: &Lowered<'_>) -> io::Result<Vec<Wall>> {
        if let Some(cgroup) = &self.cgroup {
            let inputs: u64 = lowered.job.files.iter().map(|file| file.bytes).sum();
            let held = lowered.job.stdin_bytes + lowered.job.job_bytes + inputs;
            let asked = [
                lowered.job.limits.memory_bytes,
                lowered.job.limits.disk_bytes,
                held,
            ];
            cgroup.set_memory(asked.iter().fold(WORKER_OVERHEAD, |sum, part| {
                sum.saturating_add(*part).min(1 << 40)
            }))?;
        }
        let mut to = &self.channel.stream;
        send_json(&mut to, Kind::Job, &lowered.job)?;
        send_split(&mut to, Kind::Data, &lowered.driver)?;
        send_split(&mut to, Kind::Data, lowered.stdin)?;
        for file in &lowered.files {
            send_split(&mut to, Kind::Data, &file.bytes)?;
        }
        let armed = self.expect(Kind::Armed, READY_WITHIN)?;
        let mut all = self.walls.clone();
        all.extend(armed);
        all.extend(walls::WORKER.unmentioned(&all));
        Ok(all)
    }

    /// How it died, where it did: a killed worker says which wall killed it.
    fn end(&mut self) -> Option<ProcessExit> {
        let finished = self.child.wait_timeout(Duration::from_secs(1));
        finished.ok().flatten().map(|finished| finished.exit)
    }

    /// A worker that failed before a run, in words.
    pub(crate) fn died(&mut self, error: &io::Error) -> CreateError {
        let how = match self.end() {
            Some(exit) if exit.is_forbidden_call() => {
                "its seccomp filter killed it while it started; this kernel or C library makes a call the filter \
                 does not know"
                    .to_owned()
            }
            Some(ProcessExit::Signal(signal)) => format!("signal {signal} ended it"),
            Some(ProcessExit::Code(code)) => format!("it ended with code {code}"),
            None => format!("it did not answer ({error})"),
        };
        CreateError::Fault(format!("the WASM worker failed: {how}"))
    }
}

/// What a worker reported at the end; else how it ended instead. It is not to be used again then.
pub(crate) fn reported(
    heard: io::Result<Ended>,
    worker: &mut Worker,
    limits: &WireLimits,
) -> Result<WireEnd, Exit> {
    Err(match heard {
        Ok(Ended::Reported(end)) => return Ok(end),
        Ok(Ended::Cancelled) => Exit::Cancelled,
        Ok(Ended::Late { allowed, seen }) => Exit::Limit {
            limit: LimitKind::WallTime,
            allowed,
            seen,
        },
        Ok(Ended::Closed) => killed(worker, limits),
        Err(lie) => Exit::Wall {
            wall: "worker channel".to_owned(),
            reason: lie.to_string(),
        },
    })
}

/// A worker that was gone before it reported: something outside ended it.
pub(crate) fn killed(worker: &mut Worker, limits: &WireLimits) -> Exit {
    let oom = worker
        .cgroup
        .as_ref()
        .is_some_and(|cgroup| cgroup.oom_kills().is_ok_and(|kills| kills > 0));
    match worker.end() {
        _ if oom => Exit::Limit {
            limit: LimitKind::Memory,
            allowed: limits.memory_bytes,
            seen: worker
                .cgroup
                .as_ref()
                .and_then(|cgroup| cgroup.memory_peak().ok())
                .unwrap_or_default(),
        },
        Some(exit) if exit.is_forbidden_call() => Exit::Wall {
            wall: "seccomp".to_owned(),
            reason: "the worker made a system call that no guest needs".to_owned(),
        },
        Some(ProcessExit::Signal(signal)) => Exit::Signal(signal),
        Some(ProcessExit::Code(code)) => Exit::Fault(format!("the worker ended with code {code}")),
        None => Exit::Fault("the worker closed its channel and went on".to_owned()),
    }
}
