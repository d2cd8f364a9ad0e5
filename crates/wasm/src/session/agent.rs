//! What answers the protocol for one session.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use casemate_envd::client::{Init, Metrics};
use casemate_envd::interpreter::Context;
use casemate_envd::server::paths;
use casemate_envd::{Code, RpcError};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::desk::{Answered, Cell, HOME, Question, Task};
use super::state::State;
use crate::wire::{WireAsk, WireLimits};

/// Who everything in a session is.
pub(super) const USER: &str = "user";
/// The variables that the interpreter has beside those of the session.
const OWN: [(&str, &str); 3] = [("HOME", HOME), ("USER", USER), ("LOGNAME", USER)];
const MIB: u64 = 1 << 20;
/// Executions that run, wait or are being read.
pub(super) const EXECUTIONS: usize = 16;

/// The host's end of a session.
pub(super) struct Agent {
    tasks: mpsc::Sender<Task>,
    state: Arc<State>,
    told: Mutex<Init>,
    /// The one there is.
    pub(super) context: Context,
    memory_bytes: u64,
    disk_bytes: u64,
    cpu_millis: u32,
    /// Executions that may be answered at the same time: what they say and nobody has read yet is in this process.
    pub(super) executions: Arc<Semaphore>,
    /// When the processor time was last read, and what it was then.
    last: Mutex<Option<(Instant, u64)>>,
}

impl Agent {
    pub(super) fn new(
        tasks: mpsc::Sender<Task>,
        state: Arc<State>,
        limits: &WireLimits,
    ) -> io::Result<Self> {
        let mut name = [0_u8; 16];
        rustix::rand::getrandom(name.as_mut_slice(), rustix::rand::GetRandomFlags::empty())?;
        let context = Context {
            id: name.iter().map(|byte| format!("{byte:02x}")).collect(),
            language: "python".to_owned(),
            cwd: HOME.to_owned(),
        };
        Ok(Self {
            tasks,
            state,
            told: Mutex::default(),
            context,
            memory_bytes: limits.memory_bytes,
            disk_bytes: limits.disk_bytes,
            cpu_millis: limits.cpu_millis,
            executions: Arc::new(Semaphore::new(EXECUTIONS)),
            last: Mutex::default(),
        })
    }

    fn told(&self) -> MutexGuard<'_, Init> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the host says. What is not said stays as it is.
    pub(super) fn init(&self, init: Init) -> Result<(), RpcError> {
        self.user(init.default_user.as_deref())?;
        let mut told = self.told();
        told.env_vars = init.env_vars.or(told.env_vars.take());
        told.access_token = init.access_token.or(told.access_token.take());
        told.default_workdir = init.default_workdir.or(told.default_workdir.take());
        Ok(())
    }

    /// The token that callers must show, if there is one.
    pub(super) fn token(&self) -> Option<String> {
        self.told().access_token.clone()
    }

    /// The environment variables that were said.
    pub(super) fn envs(&self) -> BTreeMap<String, String> {
        self.told().env_vars.clone().unwrap_or_default()
    }

    /// Whether this is a user: there is one.
    pub(super) fn user(&self, name: Option<&str>) -> Result<(), RpcError> {
        match name {
            None | Some(USER) => Ok(()),
            Some(other) => {
                let what = format!("invalid username: '{other}'");
                Err(RpcError::new(Code::Unauthenticated, what))
            }
        }
    }

    /// A path as the user means it.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        let workdir = self.told().default_workdir.clone();
        paths::resolve(Path::new(HOME), workdir.as_deref(), path)
    }

    /// Asks about files.
    pub(super) async fn ask(&self, ask: WireAsk, data: Bytes) -> Result<Answered, RpcError> {
        let (answer, answered) = oneshot::channel();
        let task = Task::Ask(Question {
            ask,
            data,
            // Whoever asked may have gone.
            answer: Box::new(move |told| drop(answer.send(told))),
        });
        self.tasks.send(task).await.map_err(|_| self.gone())?;
        answered.await.map_err(|_| self.gone())
    }

    /// Runs a cell after those that wait.
    pub(super) async fn execute(
        &self,
        code: String,
        own_env: BTreeMap<String, String>,
        out: mpsc::Sender<casemate_envd::interpreter::Line>,
    ) -> Result<(), RpcError> {
        let own = OWN.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut env = BTreeMap::from(own);
        env.extend(self.envs());
        let cell = Cell {
            code,
            env,
            own_env,
            out,
        };
        let sent = self.tasks.send(Task::Cell(cell)).await;
        sent.map_err(|_| self.gone())
    }

    /// Starts its interpreter anew. What cells left is lost, but for their files.
    pub(super) async fn restart(&self) -> Result<(), RpcError> {
        let renewed = self.state.renew();
        // Asked for after the end it would be waited for in vain.
        if self.state.ended().is_some() {
            return Err(self.gone());
        }
        renewed.await.map_err(|_| self.gone())
    }

    fn gone(&self) -> RpcError {
        let why = self.state.ended();
        let why = why.unwrap_or_else(|| "the session has ended".to_owned());
        RpcError::new(Code::Unavailable, why)
    }

    /// How it does, as the host sees it.
    pub(super) fn metrics(&self) -> Metrics {
        let held = self.state.held();
        Metrics {
            ts: jiff::Timestamp::now().as_second(),
            cpu_count: self.cpu_millis.div_ceil(1000).max(1),
            cpu_used_pct: self.busy(held.cpu_us),
            mem_total: self.memory_bytes,
            mem_used: held.memory_bytes.saturating_sub(held.cache_bytes),
            mem_cache: held.cache_bytes,
            mem_total_mib: self.memory_bytes / MIB,
            mem_used_mib: held.memory_bytes.saturating_sub(held.cache_bytes) / MIB,
            disk_used: held.disk_bytes,
            disk_total: self.disk_bytes,
        }
    }

    /// Percent of a processor since the last time.
    fn busy(&self, cpu_us: u64) -> f64 {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((then, before)) = last.replace((now, cpu_us)) else {
            return 0.0;
        };
        let passed = now.duration_since(then).as_secs_f64() * 1e6;
        let used = cpu_us.saturating_sub(before) as f64;
        if passed > 0.0 {
            (used / passed * 10_000.0).round() / 100.0
        } else {
            0.0
        }
    }
}
