//! Workers from the host's side: starting them, giving them a run, believing little of what they say.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Offer, Sandbox, Signal,
};
use casemate_backend::plan::Plan;
use casemate_linux::cgroup::{Cgroup, CgroupLimits};
use casemate_linux::{Child, Exit as ProcessExit, Limit, Spawn};
use casemate_model::job::TenantId;
use casemate_model::limit::LimitKind;
use casemate_model::outcome::{Exit, Usage};
use casemate_model::receipt::{Receipt, Wall};

use crate::listen::{Ended, Frames, Heard, Run};
use crate::lower::{Lowered, lower};
use crate::setup::Store;
use crate::walls;
use crate::wire::{Kind, WireEnd, WireExit, WireLimits, WireWall, send, send_json, send_split};
use crate::{probe, worker};

/// How long a worker may take from its start to being ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// What a worker needs beside the guest's own memory: the engine, the mapped module, stacks.
const WORKER_OVERHEAD: u64 = 768 << 20;
/// Idle workers kept for one tenant.
const IDLE_PER_TENANT: usize = 4;
/// How long a worker takes after a run until its next instance stands.
const MAKES_NEXT_WITHIN: Duration = Duration::from_millis(5);
/// Runs after which a worker makes room for a fresh one.
const RUNS_MAX: u32 = 1000;

/// The WASM backend.
pub struct WasmBackend {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    program: PathBuf,
    idle: Mutex<Vec<Worker>>,
}

/// One worker process.
struct Worker {
    child: Child,
    channel: Frames,
    /// Its walls, as reported once; those of a run are reported with the run.
    walls: Vec<Wall>,
    cgroup: Option<Cgroup>,
    /// Whom it has served. A fresh worker has served nobody.
    tenant: Option<TenantId>,
    runs: u32,
    /// Since when it waits for work, once it does.
    waits_since: Option<Instant>,
}

/// A worker with an instance that waits for the word to start.
struct WasmSandbox {
    worker: Worker,
    limits: WireLimits,
    shared: Arc<Shared>,
}

impl WasmBackend {
    /// The backend over a cache, with `program` as the worker's program: this one, unless a test says
    /// otherwise.
    pub fn new(store: Store, program: impl Into<PathBuf>) -> Self {
        let shared = Shared {
            store,
            program: program.into(),
            idle: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Starts workers in advance, so that `count` fresh ones wait.
    ///
    /// # Errors
    /// Those of starting one.
    pub fn prefork(&self, count: usize) -> Result<(), CreateError> {
        let fresh = self
            .shared
            .idle()
            .iter()
            .filter(|worker| worker.tenant.is_none())
            .count();
        for _ in fresh..count {
            let mut worker = self.shared.start()?;
            worker.waits_since = Some(Instant::now());
            self.shared.idle().push(worker);
        }
        Ok(())
    }

    /// Process ids of the idle workers, for measurements.
    pub fn idle_pids(&self) -> Vec<u32> {
        self.shared
            .idle()
            .iter()
            .map(|worker| worker.child.pid())
            .collect()
    }
}

impl Backend for WasmBackend {
    fn name(&self) -> &'static str {
        probe::NAME
    }

    fn probe(&self) -> Offer {
        probe::offer(&self.shared.store)
    }

    fn rests_on(&self) -> Vec<(String, String)> {
        vec![
            ("guest".to_owned(), self.shared.store.key().to_owned()),
            ("engine".to_owned(), probe::guest()),
        ]
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        plan.guest.only_python().map_err(CreateError::Plan)?;
        let lowered = lower(plan).map_err(CreateError::Plan)?;
        let mut worker = self.shared.take(&plan.tenant)?;
        worker.tenant = Some(plan.tenant.clone());
        let walls = match worker.arm(&lowered) {
            Ok(walls) => walls,
            // One that waited may have died since. Nothing has run, so a fresh one may try.
            Err(_) if worker.waits_since.is_some() => {
                worker = self.shared.start()?;
                worker.tenant = Some(plan.tenant.clone());
                worker.arm(&lowered).map_err(|error| worker.died(&error))?
            }
            Err(error) => return Err(worker.died(&error)),
        };
        let receipt = Receipt {
            backend: probe::NAME.to_owned(),
            guest: probe::guest(),
            walls,
        };
        let shared = self.shared.clone();
        Ok((
            Box::new(WasmSandbox {
                worker,
                limits: lowered.job.limits,
                shared,
            }),
            receipt,
        ))
    }
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker that has served this tenant, or one that has served nobody.
    ///
    /// After a run a worker makes its next instance, so the one that waits longest is taken; where even
    /// that one is still at it, a fresh one serves sooner.
    fn take(&self, tenant: &TenantId) -> Result<Worker, CreateError> {
        let mut idle = self.idle();
        let own = |worker: &Worker| worker.tenant.as_ref() == Some(tenant);
        let oldest = idle
            .iter()
            .enumerate()
            .filter(|(_, worker)| own(worker))
            .min_by_key(|(_, worker)| worker.waits_since);
        let ready = |worker: &Worker| {
            worker
                .waits_since
                .is_some_and(|since| since.elapsed() > MAKES_NEXT_WITHIN)
        };
        let fresh = || idle.iter().position(|worker| worker.tenant.is_none());
        let chosen = match oldest {
            Some((index, worker)) if ready(worker) => Some(index),
            Some((index, _)) => fresh().or(Some(index)),
            None => fresh(),
        };
        match chosen {
            Some(index) => Ok(idle.swap_remove(index)),
            None => {
                drop(idle);
                self.start()
            }
        }
    }

    /// Keeps a worker for its tenant's next run.
    fn give_back(&self, mut worker: Worker) {
        worker.runs += 1;
        worker.waits_since = Some(Instant::now());
        let mut idle = self.idle();
        let same = idle
            .iter()
            .filter(|other| other.tenant == worker.tenant)
            .count();
        if worker.runs < RUNS_MAX && same < IDLE_PER_TENANT {
            idle.push(worker);
        }
    }

    fn start(&self) -> Result<Worker, CreateError> {
        static RECLAIM: std::sync::Once = std::sync::Once::new();
        // Groups of processes that crashed. One that stays costs nothing and is tried again next time.
        RECLAIM.call_once(|| drop(casemate_linux::cgroup::reclaim_stale()));
        let unusable = |why: String| CreateError::Unusable {
            why,
            fix: "run `casemate setup`".to_owned(),
        };
        let files = self
            .store
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
        let (cgroup, steps) = match Cgroup::create("wasm", &limits) {
            Ok(cgroup) => {
                let steps = cgroup.steps().to_vec();
                (Some(cgroup), steps)
            }
            Err(missing) => (None, missing.steps),
        };
        let mut spawn = Spawn::new(&self.program)
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
    fn arm(&mut self, lowered: &Lowered<'_>) -> io::Result<Vec<Wall>> {
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
    fn died(&mut self, error: &io::Error) -> CreateError {
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

impl Sandbox for WasmSandbox {
    fn run(
        self: Box<Self>,
        _plan: &Plan,
        sink: &mut dyn FnMut(Signal),
        cancel: &Cancel,
    ) -> Result<Finish, Fault> {
        let Self {
            mut worker,
            limits,
            shared,
        } = *self;
        let fault = |error: io::Error| Fault(format!("talking to the WASM worker: {error}"));
        send(&mut &worker.channel.stream, Kind::Start, &[]).map_err(fault)?;
        let mut run = Run::new(&limits, sink);
        let heard = run.listen(&mut worker.channel, cancel);
        let exit = match heard {
            Ok(Ended::Reported(end)) => {
                let exit = run.judge(&end.end);
                run.usage = usage(&end);
                if matches!(end.end, WireExit::Returned { .. } | WireExit::Exited { .. }) {
                    shared.give_back(worker);
                }
                exit
            }
            // From here on the worker is dropped, and with it killed.
            Ok(Ended::Cancelled) => Exit::Cancelled,
            Ok(Ended::Late { allowed, seen }) => Exit::Limit {
                limit: LimitKind::WallTime,
                allowed,
                seen,
            },
            Ok(Ended::Closed) => killed(&mut worker, &limits),
            Err(lie) => Exit::Wall {
                wall: "worker channel".to_owned(),
                reason: lie.to_string(),
            },
        };
        Ok(Finish {
            exit,
            usage: run.usage,
            artifacts: run.tally.take_artifacts(),
        })
    }
}

/// A worker that was gone before it reported: something outside ended it.
fn killed(worker: &mut Worker, limits: &WireLimits) -> Exit {
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

fn usage(end: &WireEnd) -> Usage {
    Usage {
        wall_us: end.wall_us,
        cpu_us: end.cpu_us,
        memory_peak_bytes: end.memory_peak_bytes,
        disk_peak_bytes: end.disk_peak_bytes,
        disk_peak_files: end.disk_peak_files,
        open_files_peak: end.open_files_peak,
        stdout_bytes: end.stdout_bytes,
        stderr_bytes: end.stderr_bytes,
    }
}
