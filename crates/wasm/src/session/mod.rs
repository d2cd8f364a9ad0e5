//! A worker that lives on: one instance, cell after cell, spoken to by the agent's protocol.
//!
//! There is no agent in a guest that has no system. The protocol is answered here, on the host: cells go to the worker
//! over its channel, and files are asked of it, in whose memory they are. Between two cells no instruction of the guest's
//! runs. What WebAssembly has not (processes, terminals, ports, watches) is answered with the protocol's own error.
//!
//! Walls and receipt are a run's. Memory, files and descriptors are limited over the whole life; time and output for
//! each cell, and nobody counts the time between them. A cell that nobody waits for any more is interrupted, as by a
//! signal, and what cells before it left stays; one that does not end over it loses its interpreter to another one,
//! and the files stay (`patience`). One that reaches a limit of time ends the session, as it ends a run.

mod agent;
mod desk;
mod files;
mod keep;
mod patience;
mod routes;
mod state;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use casemate_backend::contract::{Cancel, CreateError, Fault};
use casemate_backend::plan::Plan;
use casemate_backend::session::{Held, Session, Sessions};
use casemate_envd::server::serve::serve;
use casemate_linux::file::CopyTo;
use casemate_model::receipt::Receipt;
use rustix::process::{Signal as KernelSignal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Semaphore, mpsc};

use crate::lower::lower_session;
use crate::probe;
use crate::process::{self, Lasts};
use crate::setup::Store;
use crate::wire::{Kind, WireLimits, send};
use agent::Agent;
use desk::Desk;
use keep::{Asking, Kept};
use state::State;

/// Cells and questions that wait for one session.
const TASKS_MAX: usize = 64;
/// Connections to one session at the same time.
const CONNECTIONS: usize = 128;
/// How long those who are being answered have to hear the end, when a session ends by itself.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// WASM workers that live on.
pub struct WasmSessions {
    store: Store,
    program: PathBuf,
    /// Where the protocol is answered. Taken when this is dropped.
    runtime: Option<Runtime>,
}

impl WasmSessions {
    /// Over a cache, with `program` as the worker's program, as [`crate::WasmBackend::new`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(store: Store, program: impl Into<PathBuf>) -> Result<Self, String> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("wasm-sessions")
            .enable_all()
            .build()
            .map_err(|error| format!("a thread for sessions: {error}"))?;
        Ok(Self {
            store,
            program: program.into(),
            runtime: Some(runtime),
        })
    }

    fn handle(&self) -> io::Result<Handle> {
        let runtime = self.runtime.as_ref();
        let runtime = runtime.ok_or_else(|| io::Error::other("there are no sessions any more"))?;
        Ok(runtime.handle().clone())
    }
}

impl Drop for WasmSessions {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Whoever drops this may be served by another one, which must not wait.
            runtime.shutdown_background();
        }
    }
}

impl Sessions for WasmSessions {
    fn name(&self) -> &'static str {
        probe::NAME
    }

    /// With `warm` or without: the interpreter is there already.
    fn open(
        &self,
        plan: &Plan,
        _warm: bool,
        files: Option<&OwnedFd>,
    ) -> Result<(Box<dyn Session>, Receipt), CreateError> {
        plan.guest.only_python().map_err(CreateError::Plan)?;
        let lowered = lower_session(plan).map_err(CreateError::Plan)?;
        let mut worker = process::start(&self.store, &self.program, Lasts::Session)?;
        worker.tenant = Some(plan.tenant.clone());
        let walls = worker.arm(&lowered).map_err(|error| worker.died(&error))?;
        let receipt = Receipt {
            backend: probe::NAME.to_owned(),
            guest: probe::guest(),
            walls,
        };
        let fault = |what: &str, error: io::Error| CreateError::Fault(format!("{what}: {error}"));
        let runtime = self
            .handle()
            .map_err(|error| fault("opening a session", error))?;
        // It waits for its first cell: nothing of the guest's runs before that.
        send(&mut &worker.channel.stream, Kind::Start, &[])
            .map_err(|error| fault("starting a session", error))?;
        let session = WasmSession::begin(worker, lowered.job.limits, runtime);
        let session = session.map_err(|error| fault("starting a session", error))?;
        if let Some(files) = files {
            let filled = keep::fill(&session.asking, files);
            filled.map_err(|error| fault("copying its files", error))?;
        }
        Ok((Box::new(session), receipt))
    }
}

/// One session. Dropping it ends its worker.
struct WasmSession {
    asking: Asking,
    router: Router,
    runtime: Handle,
    connections: Arc<Semaphore>,
    state: Arc<State>,
    cancel: Cancel,
    pidfd: OwnedFd,
    /// Copies of its files that were handed out.
    kept: Kept,
    most: CopyTo,
    thread: Option<JoinHandle<()>>,
}

impl WasmSession {
    fn begin(worker: process::Worker, limits: WireLimits, runtime: Handle) -> io::Result<Self> {
        let pidfd = worker.child.pidfd().try_clone_to_owned()?;
        let (cgroup, pid) = (worker.cgroup.clone(), worker.child.pid());
        let state = Arc::new(State::new(cgroup, pid));
        let cancel = Cancel::new();
        let (sender, tasks) = mpsc::channel(TASKS_MAX);
        let most = CopyTo {
            // On a disk of the host's they are this process's own.
            owner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            bytes: limits.disk_bytes,
            files: limits.disk_files,
        };
        let agent = Agent::new(sender.clone(), Arc::clone(&state), &limits)?;
        let watched = watched(&runtime, pidfd.try_clone()?)?;
        let desk = Desk {
            worker,
            limits,
            tasks,
            state: Arc::clone(&state),
            cancel: cancel.clone(),
            runtime: runtime.clone(),
            pidfd: watched,
            count: 0,
            held_back: VecDeque::new(),
        };
        let (ended, after) = (Arc::clone(&state), runtime.clone());
        let thread = std::thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || {
                ended.end(desk.serve());
                after.spawn(async move {
                    tokio::time::sleep(HEARD_WITHIN).await;
                    ended.part();
                });
            })?;
        Ok(Self {
            asking: Asking::new(sender, Arc::clone(&state)),
            router: routes::router(Arc::new(agent)),
            runtime,
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            state,
            cancel,
            pidfd,
            kept: Kept::default(),
            most,
            thread: Some(thread),
        })
    }
}

/// Registers a descriptor, so that one can wait for it.
fn watched(runtime: &Handle, fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let _reactor = runtime.enter();
    #[allow(
        deprecated,
        reason = "unsound only for what does not own its descriptor; the function that replaces it is unsafe"
    )]
    AsyncFd::new(fd)
}

impl Session for WasmSession {
    fn connect(&self) -> io::Result<OwnedFd> {
        if let Some(why) = self.state.ended() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, why));
        }
        let place = Arc::clone(&self.connections).try_acquire_owned();
        let place = place.map_err(|_| io::Error::other("there are too many connections to it"))?;
        let (ours, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        let (router, state) = (self.router.clone(), Arc::clone(&self.state));
        self.runtime.spawn(async move {
            if let Ok(stream) = tokio::net::UnixStream::from_std(theirs) {
                tokio::select! {
                    () = serve(stream, router) => {}
                    () = state.parted() => {}
                }
            }
            drop(place);
        });
        Ok(ours.into())
    }

    /// Nobody can listen in it, so it ends at once.
    fn connect_to(&self, _port: u16) -> io::Result<OwnedFd> {
        if let Some(why) = self.state.ended() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, why));
        }
        UnixStream::pair().map(|(ours, _theirs)| ours.into())
    }

    /// A copy, in a folder that goes when nobody has it any more.
    fn files(&self) -> io::Result<OwnedFd> {
        self.kept.copy(&self.asking, &self.most)
    }

    fn save(&self, to: &Path) -> Result<u64, Fault> {
        let saved =
            std::fs::File::open(to).and_then(|to| keep::save(&self.asking, to.into(), &self.most));
        saved.map_err(|error| Fault(format!("copying its files: {error}")))
    }

    fn pause(&self) -> Result<(), Fault> {
        match self.state.ended() {
            Some(why) => Err(Fault(why)),
            None => self.state.pause(),
        }
    }

    fn resume(&self) -> Result<(), Fault> {
        match self.state.ended() {
            Some(why) => Err(Fault(why)),
            None => self.state.resume(),
        }
    }

    fn held(&self) -> Held {
        self.state.held()
    }

    fn end(&self) {
        self.cancel.cancel();
        // What is frozen dies when it goes on. That it has ended already is as good.
        pidfd_send_signal(&self.pidfd, KernelSignal::KILL).ok();
        self.state.thaw();
        self.state.part();
    }

    fn ended(&self) -> Option<String> {
        self.state.ended()
    }
}

impl Drop for WasmSession {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
