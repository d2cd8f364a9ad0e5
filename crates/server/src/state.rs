//! What the handlers share.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use casemate_backend::contract::{Cancel, Offer};
use casemate_engine::Engine;
use tokio::sync::{Notify, OwnedSemaphorePermit, RwLock, Semaphore};

use crate::blobs::Blobs;
use crate::config::Config;
use crate::e2b::Template;
use crate::e2b::sandboxes::Sandboxes;
use crate::e2b::snapshots::Snapshots;
use crate::error::ApiError;
use crate::guard::Caller;
use crate::metrics::Metrics;
use crate::spares::Spares;
use crate::store::{Store, StoreError};

/// How long what was found out about the machine, and about a tenant's room, is believed.
const BELIEVED: Duration = Duration::from_secs(10);
/// The time over which starts are counted.
const RATE_OVER: Duration = Duration::from_secs(60);

/// One server.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    /// What sandboxes that live on can be made of.
    pub(crate) templates: Vec<Arc<Template>>,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) spares: Arc<Spares>,
    pub(crate) snapshots: Snapshots,
    pub(crate) metrics: Metrics,
    /// KiB of requests that may be held in memory.
    pub(crate) room: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    starts: Mutex<HashMap<String, VecDeque<Instant>>>,
    stored: Mutex<HashMap<String, (u64, Instant)>>,
    /// Held by the one request that makes room.
    makes_room: tokio::sync::Mutex<()>,
    offers: tokio::sync::Mutex<Option<(Arc<Vec<Offer>>, Instant)>>,
    live: Mutex<HashMap<String, Live>>,
    /// Shared from when a content is stored until a row refers to it; whole to remove what none refers to.
    pub(crate) contents: RwLock<()>,
    /// Raised when the server goes down.
    stopping: AtomicBool,
    /// Told each time a run ends.
    pub(crate) ended: Notify,
}

/// The handlers' handle.
pub(crate) type State = Arc<Shared>;

/// A run that goes on.
struct Live {
    tenant: String,
    cancel: Cancel,
}

/// Those who share a number of programs at once: a tenant's requests, or those of a key with a number of its own.
struct Lane {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// A place among those that wait for a turn.
pub(crate) struct Place {
    lane: Arc<Lane>,
    held: OwnedSemaphorePermit,
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
        snapshots: Snapshots,
    ) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(config.parallel.max(1))),
            room: Arc::new(Semaphore::new(config.room_bytes >> 10)),
            engine,
            store,
            blobs,
            templates: templates.into_iter().map(Arc::new).collect(),
            sandboxes: Arc::default(),
            spares: Arc::new(Spares::new(config.ready)),
            config,
            snapshots,
            metrics: Metrics::new(),
            lanes: Mutex::default(),
            starts: Mutex::default(),
            stored: Mutex::default(),
            makes_room: tokio::sync::Mutex::default(),
            offers: tokio::sync::Mutex::default(),
            live: Mutex::default(),
            contents: RwLock::default(),
            stopping: AtomicBool::new(false),
            ended: Notify::new(),
        }
    }

    /// Takes nothing new from here on.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// A run goes on from here.
    pub(crate) fn goes_on(&self, run: &str, tenant: &str, cancel: &Cancel) {
        let live = Live {
            tenant: tenant.to_owned(),
            cancel: cancel.clone(),
        };
        locked(&self.live).insert(run.to_owned(), live);
    }

    /// A run has ended, and its end is stored.
    pub(crate) fn has_ended(&self, run: &str) {
        locked(&self.live).remove(run);
        self.ended.notify_waiters();
    }

    /// Whether a run goes on here.
    pub(crate) fn is_live(&self, run: &str) -> bool {
        locked(&self.live).contains_key(run)
    }

    /// How many runs go on.
    pub(crate) fn live_count(&self) -> usize {
        locked(&self.live).len()
    }

    /// Stops a tenant's run, where it goes on.
    pub(crate) fn cancel(&self, run: &str, tenant: &str) {
        if let Some(live) = locked(&self.live)
            .get(run)
            .filter(|live| live.tenant == tenant)
        {
            live.cancel.cancel();
        }
    }

    /// Stops every run.
    pub(crate) fn cancel_all(&self) {
        locked(&self.live)
            .values()
            .for_each(|live| live.cancel.cancel());
    }

    /// Counts a start against the rate of the caller's key.
    ///
    /// # Errors
    /// 429 with the time until the oldest start is a minute old.
    pub(crate) fn count_start(&self, caller: &Caller) -> Result<(), ApiError> {
        let Some((id, allowed)) = caller
            .key
            .as_deref()
            .and_then(|key| Some((&key.id, key.per_minute?)))
        else {
            return Ok(());
        };
        let mut all = locked(&self.starts);
        let starts = all.entry(id.clone()).or_default();
        while starts.front().is_some_and(|at| at.elapsed() >= RATE_OVER) {
            starts.pop_front();
        }
        if (starts.len() as i64) < allowed {
            starts.push_back(Instant::now());
            return Ok(());
        }
        let passed = starts.front().map_or(Duration::ZERO, Instant::elapsed);
        let wait = RATE_OVER.saturating_sub(passed).as_secs().max(1);
        Err(ApiError::busy(
            format!("this key may start {allowed} programs a minute"),
            wait,
        ))
    }

    fn lane(&self, caller: &Caller) -> Arc<Lane> {
        let own = caller
            .key
            .as_deref()
            .and_then(|key| Some((&key.id, key.running?)));
        let (name, running) = match own {
            Some((id, running)) => (format!("key {id}"), usize::try_from(running).unwrap_or(1)),
            None => (
                format!("tenant {}", caller.name()),
                self.config.rules.running,
            ),
        };
        let make = || {
            Arc::new(Lane {
                turns: Arc::new(Semaphore::new(running.max(1))),
                waiting: Arc::new(Semaphore::new(self.config.rules.waiting)),
            })
        };
        Arc::clone(locked(&self.lanes).entry(name).or_insert_with(make))
    }

    /// A place to wait at for a turn.
    ///
    /// # Errors
    /// 429 where as many wait already as may.
    pub(crate) fn place(&self, caller: &Caller) -> Result<Place, ApiError> {
        let lane = self.lane(caller);
        match Arc::clone(&lane.waiting).try_acquire_owned() {
            Ok(held) => Ok(Place { lane, held }),
            Err(_) => {
                let waiting = self.config.rules.waiting;
                let why =
                    format!("{waiting} requests of this tenant, or of this key, wait already");
                Err(ApiError::busy(why, 1))
            }
        }
    }

    /// Waits for a turn, behind those of the same lane first and then behind everybody's.
    ///
    /// # Errors
    /// 503 where the server goes down.
    pub(crate) async fn turn(&self, place: Place) -> Result<Turn, ApiError> {
        self.metrics.waiting.inc();
        let waiting = Waiting(&self.metrics.waiting);
        let stopped = |_| ApiError::stopping();
        let own = Arc::clone(&place.lane.turns).acquire_owned().await;
        let own = own.map_err(stopped)?;
        let all = Arc::clone(&self.turns).acquire_owned().await;
        let all = all.map_err(stopped)?;
        drop((waiting, place.held));
        Ok(Turn {
            _own: own,
            _all: all,
        })
    }

    /// Refuses more to a tenant that would keep more than it may. Where that is what the server lets every tenant keep,
    /// its oldest runs make room; what one key is bound to is no reason to forget what others of its tenant did.
    ///
    /// # Errors
    /// 507, or what the database says.
    pub(crate) async fn quota(&self, caller: &Caller, more: u64) -> Result<(), ApiError> {
        let own = caller.key.as_deref().and_then(|key| key.stored_bytes);
        let own = own.and_then(|bytes| u64::try_from(bytes).ok());
        let allowed = own.unwrap_or(self.config.rules.stored_bytes);
        loop {
            let stored = self.stored_bytes(caller.name()).await?;
            let over = stored.saturating_add(more).saturating_sub(allowed);
            if over == 0 {
                return Ok(());
            }
            // Two at once would find the same oldest, and the second none of them.
            let alone = self.makes_room.lock().await;
            if self.stored_bytes(caller.name()).await? < stored {
                continue;
            }
            // Some more than is asked for, so that not every request has to.
            let wanted = over.max(allowed / 200);
            let may = own.is_none() && more <= allowed;
            let made = may && self.make_room(caller.name(), wanted).await?;
            drop(alone);
            if !made {
                return Err(ApiError::full(format!(
                    "this tenant keeps {stored} bytes of {allowed} allowed, and {more} more are asked for"
                )));
            }
        }
    }

    /// Forgets a tenant's oldest runs, but none that ended a moment ago: whoever sent it may still ask. False where
    /// there is none to forget.
    async fn make_room(&self, tenant: &str, bytes: u64) -> Result<bool, ApiError> {
        let least = i64::try_from(self.config.keep_least.as_millis()).unwrap_or(i64::MAX);
        let before_ms = crate::store::now_ms().saturating_sub(least);
        let (count, contents) = self.store.forget_oldest(tenant, bytes, before_ms).await?;
        self.deleted(tenant, contents).await?;
        Ok(count > 0)
    }

    async fn stored_bytes(&self, tenant: &str) -> Result<u64, StoreError> {
        let known = locked(&self.stored).get(tenant).copied();
        if let Some((bytes, at)) = known
            && at.elapsed() < BELIEVED
        {
            return Ok(bytes);
        }
        let bytes = self.store.stored_bytes(tenant).await?;
        locked(&self.stored).insert(tenant.to_owned(), (bytes, Instant::now()));
        Ok(bytes)
    }

    /// A tenant keeps more than before.
    pub(crate) fn keeps(&self, tenant: &str, more: u64) {
        if let Some((bytes, _)) = locked(&self.stored).get_mut(tenant) {
            *bytes = bytes.saturating_add(more);
        }
    }

    /// A tenant deleted what had these contents: those that nothing of its else has go, and what it keeps is
    /// asked for again.
    pub(crate) async fn deleted(
        &self,
        tenant: &str,
        contents: Vec<String>,
    ) -> Result<(), ApiError> {
        locked(&self.stored).remove(tenant);
        for sha256 in contents {
            let alone = self.contents.write().await;
            let owners = self.store.owners(&sha256).await?;
            if !owners.iter().any(|owner| owner == tenant) {
                let (blobs, tenant) = (self.blobs.clone(), tenant.to_owned());
                let removed =
                    tokio::task::spawn_blocking(move || blobs.remove_one(&tenant, &sha256)).await;
                removed.map_err(|error| ApiError::fault(error.to_string()))??;
            }
            drop(alone);
        }
        Ok(())
    }

    /// What the backends offer, found out at most every few seconds: some are slow to say.
    ///
    /// # Errors
    /// Where finding out failed.
    pub(crate) async fn offers(&self) -> Result<Arc<Vec<Offer>>, ApiError> {
        let mut known = self.offers.lock().await;
        if let Some((offers, at)) = &*known
            && at.elapsed() < BELIEVED
        {
            return Ok(Arc::clone(offers));
        }
        let engine = Arc::clone(&self.engine);
        let offers = tokio::task::spawn_blocking(move || engine.offers()).await;
        let offers = Arc::new(offers.map_err(|error| ApiError::fault(error.to_string()))?);
        *known = Some((Arc::clone(&offers), Instant::now()));
        Ok(offers)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that waits is counted until it no longer does, whatever becomes of it.
struct Waiting<'a>(&'a prometheus_client::metrics::gauge::Gauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
