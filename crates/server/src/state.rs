//! What the handlers share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use casemate_backend::contract::Cancel;
use casemate_engine::Engine;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::blobs::Blobs;
use crate::config::Config;
use crate::e2b::Template;
use crate::e2b::sandboxes::Sandboxes;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::store::Store;

/// One server.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    pub(crate) metrics: Metrics,
    /// What E2B's SDKs may name.
    pub(crate) templates: Vec<Arc<Template>>,
    /// What they made and did not end.
    pub(crate) sandboxes: Arc<Sandboxes>,
    turns: Arc<Semaphore>,
    tenants: Mutex<HashMap<String, Arc<Tenant>>>,
    /// Runs that have begun here and not ended.
    pub(crate) live: Mutex<HashMap<String, Live>>,
    /// Raised when the server goes down.
    pub(crate) stopping: std::sync::atomic::AtomicBool,
    /// Told each time a run ends.
    pub(crate) ended: Notify,
}

/// The handlers' handle.
pub(crate) type State = Arc<Shared>;

/// A run that goes on.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) tenant: String,
    pub(crate) cancel: Cancel,
}

struct Tenant {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    started: Mutex<Vec<Instant>>,
}

/// The right to run one program now; given back when it is dropped.
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        engine: Arc<Engine>,
        templates: Vec<Template>,
        store: Store,
        blobs: Blobs,
    ) -> Self {
        let turns = Arc::new(Semaphore::new(config.parallel.max(1)));
        Self {
            config,
            engine,
            store,
            blobs,
            metrics: Metrics::new(),
            templates: templates.into_iter().map(Arc::new).collect(),
            sandboxes: Arc::default(),
            turns,
            tenants: Mutex::default(),
            live: Mutex::default(),
            stopping: false.into(),
            ended: Notify::new(),
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn tenant(&self, name: &str, running: usize) -> Arc<Tenant> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            Arc::new(Tenant {
                turns: Arc::new(Semaphore::new(running.max(1))),
                waiting: Arc::new(Semaphore::new(self.config.rules.waiting)),
                started: Mutex::default(),
            })
        };
        Arc::clone(tenants.entry(name.to_owned()).or_insert_with(make))
    }

    /// Counts a start against a tenant's rate.
    ///
    /// # Errors
    /// 429 with the time until the oldest start is a minute old.
    pub(crate) fn count_start(
        &self,
        name: &str,
        running: usize,
        per_minute: Option<usize>,
    ) -> Result<(), ApiError> {
        let Some(allowed) = per_minute else {
            return Ok(());
        };
        let tenant = self.tenant(name, running);
        let mut started = tenant
            .started
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        started.retain(|at| at.elapsed().as_secs() < 60);
        if started.len() < allowed {
            started.push(Instant::now());
            return Ok(());
        }
        let oldest = started.first().map_or(0, |at| at.elapsed().as_secs());
        let wait = 60_u64.saturating_sub(oldest).max(1);
        Err(ApiError::busy(
            format!("this key may start {allowed} programs a minute"),
            wait,
        ))
    }

    /// Waits for a turn, behind the tenant's other programs first and then behind everybody's.
    ///
    /// # Errors
    /// 429 where as many wait already as may.
    pub(crate) async fn turn(&self, name: &str, running: usize) -> Result<Turn, ApiError> {
        let tenant = self.tenant(name, running);
        let place = Arc::clone(&tenant.waiting).try_acquire_owned();
        let place = place.map_err(|_| {
            ApiError::busy(
                format!(
                    "{} programs of this tenant wait already",
                    self.config.rules.waiting
                ),
                1,
            )
        })?;
        self.metrics.waiting.inc();
        let waiting = Waiting(&self.metrics.waiting);
        let stopped = |_| ApiError::stopping();
        let own = Arc::clone(&tenant.turns).acquire_owned().await;
        let own = own.map_err(stopped)?;
        let all = Arc::clone(&self.turns).acquire_owned().await;
        let all = all.map_err(stopped)?;
        drop((waiting, place));
        Ok(Turn {
            _own: own,
            _all: all,
        })
    }
}

/// One that waits is counted until it no longer does, whatever becomes of it.
struct Waiting<'a>(&'a prometheus_client::metrics::gauge::Gauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
