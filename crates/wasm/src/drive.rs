//! Workers from the host's side: keeping them, giving them a run, believing little of what they say.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Offer, Sandbox, Signal,
};
use casemate_backend::plan::Plan;
use casemate_model::job::TenantId;
use casemate_model::outcome::Usage;
use casemate_model::receipt::Receipt;

use crate::listen::Run;
use crate::lower::lower;
use crate::probe;
use crate::process::{self, Lasts, Worker, reported};
use crate::setup::Store;
use crate::wire::{Kind, WireEnd, WireExit, WireLimits, send};

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
    fn start(&self) -> Result<Worker, CreateError> {
        process::start(&self.store, &self.program, Lasts::Run)
    }

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
        let exit = match reported(heard, &mut worker, &limits) {
            Ok(end) => {
                let exit = run.judge(&end.end);
                run.usage = usage(&end);
                if matches!(end.end, WireExit::Returned { .. } | WireExit::Exited { .. }) {
                    shared.give_back(worker);
                }
                exit
            }
            // The worker is dropped, and with it killed.
            Err(exit) => exit,
        };
        Ok(Finish {
            exit,
            usage: run.usage,
            artifacts: run.tally.take_artifacts(),
        })
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
