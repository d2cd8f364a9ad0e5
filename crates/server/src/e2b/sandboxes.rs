//! The sandboxes that live, and when each of them ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use casemate_backend::session::Session;
use casemate_model::limit::Limits;
use casemate_model::receipt::Receipt;
use tokio::sync::Notify;

use super::model::{Lifecycle, OnTimeout, PauseMode, Sample};
use crate::guard::Caller;
use crate::sleep::{self, Saved};
use crate::state::State;
use crate::store::now_ms;

/// Samples kept of a sandbox: one every five seconds, for two hours.
const SAMPLES: usize = 1440;

/// One sandbox.
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) tenant: String,
    /// Who made it: what this one may is what it may.
    pub(crate) maker: Caller,
    /// What it was asked for by: a template's name or a snapshot's.
    pub(crate) template: String,
    /// The template it is made of.
    pub(crate) made_of: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) token: String,
    pub(crate) traffic_token: Option<String>,
    /// What servers in it are told as their host.
    pub(crate) masked_host: Option<String>,
    pub(crate) started_ms: i64,
    /// When its walls were built: before it was anybody's, where it waited.
    pub(crate) made_ms: i64,
    pub(crate) limits: Limits,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) receipt: Receipt,
    pub(crate) session: Held,
    /// Processor time that it had used before it was anybody's.
    cpu_before_us: u64,
    /// How long it may be left alone.
    pub(crate) idle_ms: Option<i64>,
    life: Mutex<Life>,
    used: Mutex<Used>,
    samples: Mutex<Vec<Sample>>,
    /// Its files, where it sleeps: then there is nothing else of it.
    pub(crate) saved: Option<Arc<Saved>>,
    /// Held by whoever puts it to sleep, freezes or wakes it.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// Raised when it is gone: streams that go through it are cut off.
    gone: AtomicBool,
    pub(crate) cut: Notify,
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    pub(crate) end_ms: i64,
    pub(crate) paused: bool,
}

/// Who is at a sandbox now, and when somebody was last.
#[derive(Debug, Clone, Copy)]
struct Used {
    by: usize,
    last_ms: i64,
}

/// Somebody is at a sandbox: for as long as this is held, it is not left alone.
pub(crate) struct InUse(Arc<Sandbox>);

impl InUse {
    pub(crate) fn of(sandbox: Arc<Sandbox>) -> Self {
        sandbox.used().by += 1;
        Self(sandbox)
    }
}

impl Clone for InUse {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.0))
    }
}

impl std::ops::Deref for InUse {
    type Target = Arc<Sandbox>;

    fn deref(&self) -> &Arc<Sandbox> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut used = self.0.used();
        used.by -= 1;
        used.last_ms = now_ms();
    }
}

/// A session, and its place once it is somebody's. The place is given back by the last who holds it. Ending one may
/// take a while, and whoever lets go of it last may be about to answer others: so that is done beside.
pub(crate) struct Held {
    session: Option<Arc<dyn Session>>,
    place: Option<Arc<Place>>,
}

impl Held {
    pub(crate) fn new(session: Box<dyn Session>) -> Self {
        Self {
            session: Some(session.into()),
            place: None,
        }
    }

    /// Somebody's: the place is given back when it has ended.
    pub(crate) fn at(mut self, place: Option<Arc<Place>>) -> Self {
        self.place = place;
        self
    }

    /// The place of whoever it is, for the next session of the same.
    pub(crate) fn place(&self) -> Option<Arc<Place>> {
        self.place.clone()
    }

    /// Ends it here and now. Blocking.
    pub(crate) fn end(mut self) {
        drop((self.session.take(), self.place.take()));
    }
}

impl std::ops::Deref for Held {
    type Target = Arc<dyn Session>;

    fn deref(&self) -> &Self::Target {
        match &self.session {
            Some(session) => session,
            None => unreachable!("it is taken only when it is dropped"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let held = (self.session.take(), self.place.take());
        if held.0.is_none() {
            return;
        }
        let ending = std::thread::Builder::new().name("ending".to_owned());
        // Where no thread can be started the closure, and what it holds, is dropped here.
        drop(ending.spawn(move || drop(held)));
    }
}

/// What a sandbox is made of, before it is one.
pub(crate) struct Parts {
    pub(crate) id: String,
    pub(crate) maker: Caller,
    pub(crate) template: String,
    pub(crate) made_of: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) token: String,
    pub(crate) traffic_token: Option<String>,
    pub(crate) masked_host: Option<String>,
    pub(crate) limits: Limits,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) receipt: Receipt,
    pub(crate) session: Held,
    pub(crate) made_ms: i64,
    pub(crate) timeout_ms: i64,
    pub(crate) idle_ms: Option<i64>,
}

impl Sandbox {
    pub(crate) fn new(parts: Parts) -> Self {
        let now = now_ms();
        Self {
            id: parts.id,
            tenant: parts.maker.name().to_owned(),
            maker: parts.maker,
            template: parts.template,
            made_of: parts.made_of,
            env: parts.env,
            masked_host: parts.masked_host,
            metadata: parts.metadata,
            token: parts.token,
            traffic_token: parts.traffic_token,
            started_ms: now,
            made_ms: parts.made_ms,
            limits: parts.limits,
            lifecycle: parts.lifecycle,
            receipt: parts.receipt,
            cpu_before_us: parts.session.held().cpu_us,
            session: parts.session,
            life: Mutex::new(Life {
                end_ms: now.saturating_add(parts.timeout_ms),
                paused: false,
            }),
            idle_ms: parts.idle_ms,
            used: Mutex::new(Used {
                by: 0,
                last_ms: now,
            }),
            samples: Mutex::default(),
            saved: None,
            turn: Arc::default(),
            gone: AtomicBool::new(false),
            cut: Notify::new(),
        }
    }

    /// The same one with another session, or with its files alone where it sleeps: everything that was said of it
    /// holds on.
    pub(crate) fn with(
        &self,
        session: Held,
        receipt: Receipt,
        saved: Option<Arc<Saved>>,
        life: Life,
    ) -> Self {
        Self {
            id: self.id.clone(),
            tenant: self.tenant.clone(),
            maker: self.maker.clone(),
            template: self.template.clone(),
            made_of: self.made_of.clone(),
            metadata: self.metadata.clone(),
            env: self.env.clone(),
            token: self.token.clone(),
            traffic_token: self.traffic_token.clone(),
            masked_host: self.masked_host.clone(),
            started_ms: self.started_ms,
            made_ms: self.made_ms,
            limits: self.limits.clone(),
            lifecycle: self.lifecycle,
            receipt,
            cpu_before_us: session.held().cpu_us,
            session,
            idle_ms: self.idle_ms,
            life: Mutex::new(life),
            used: Mutex::new(Used {
                by: 0,
                last_ms: now_ms(),
            }),
            samples: Mutex::new(self.samples().clone()),
            saved,
            turn: Arc::clone(&self.turn),
            gone: AtomicBool::new(false),
            cut: Notify::new(),
        }
    }

    /// Where it is in its life. Whoever changes it holds the lock until it is done.
    pub(crate) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of it while it is paused; none while it runs.
    pub(crate) fn pause_mode(&self) -> Option<PauseMode> {
        let mode = if self.saved.is_some() {
            PauseMode::Filesystem
        } else {
            PauseMode::Full
        };
        self.life().paused.then_some(mode)
    }

    /// Whether its time is over, or it was left alone for as long as it may be.
    pub(crate) fn is_over(&self, life: Life, now: i64) -> bool {
        let used = *self.used();
        let alone = used.by == 0
            && self
                .idle_ms
                .is_some_and(|idle| used.last_ms.saturating_add(idle) <= now);
        !life.paused && (life.end_ms <= now || alone)
    }

    fn samples(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those from one second to another, both included.
    pub(crate) fn samples_of(&self, start: Option<i64>, end: Option<i64>) -> Vec<Sample> {
        let span = start.unwrap_or(i64::MIN)..=end.unwrap_or(i64::MAX);
        let samples = self.samples();
        let asked = samples
            .iter()
            .filter(|sample| span.contains(&sample.timestamp_unix));
        asked.cloned().collect()
    }

    /// Until it is gone.
    pub(crate) async fn gone(&self) {
        loop {
            let cut = self.cut.notified();
            if self.is_gone() {
                return;
            }
            cut.await;
        }
    }

    /// Cuts its streams.
    fn go(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Stops everything in it for as long as what comes back is held, so that its files can be copied. It goes on
    /// afterwards unless it was paused.
    pub(crate) async fn still(self: &Arc<Self>) -> Result<Still, String> {
        let sandbox = Arc::clone(self);
        let held = tokio::task::spawn_blocking(move || {
            let life = sandbox.life();
            if life.paused {
                return Ok(Still(None));
            }
            sandbox.session.pause().map_err(|fault| fault.0)?;
            drop(life);
            Ok(Still(Some(sandbox)))
        });
        held.await.map_err(|error| error.to_string())?
    }

    /// Freezes it. False when it was frozen already.
    pub(crate) fn pause(&self) -> Result<bool, String> {
        let mut life = self.life();
        if life.paused {
            return Ok(false);
        }
        self.session.pause().map_err(|fault| fault.0)?;
        life.paused = true;
        life.end_ms = now_ms();
        Ok(true)
    }

    /// Thaws it and gives it time from now. False when it was not frozen; then its time is only ever
    /// made longer.
    pub(crate) fn wake(&self, timeout_ms: i64) -> Result<bool, String> {
        let mut life = self.life();
        let end = now_ms().saturating_add(timeout_ms);
        if !life.paused {
            life.end_ms = life.end_ms.max(end);
            return Ok(false);
        }
        self.session.resume().map_err(|fault| fault.0)?;
        self.used().last_ms = now_ms();
        *life = Life {
            end_ms: end,
            paused: false,
        };
        Ok(true)
    }

    fn sample(&self) {
        let held = self.session.held();
        let cpu_count = self.limits.cpu_millis.div_ceil(1000).max(1);
        let memory = self.limits.memory.or(casemate_model::unit::ByteSize(0)).0;
        let disk = self.limits.disk.or(casemate_model::unit::ByteSize(0)).0;
        let now = jiff::Timestamp::now();
        let mut samples = self.samples();
        let elapsed_us = now
            .as_microsecond()
            .saturating_sub(self.started_ms.saturating_mul(1000))
            .max(1);
        let used = held.cpu_us.saturating_sub(self.cpu_before_us);
        let share = used as f64 / elapsed_us as f64 * 100.0 / f64::from(cpu_count);
        if samples.len() >= SAMPLES {
            samples.remove(0);
        }
        samples.push(Sample {
            timestamp: now.to_string(),
            timestamp_unix: now.as_second(),
            cpu_count,
            cpu_used_pct: (share * 100.0).round() / 100.0,
            mem_used: held.memory_bytes,
            mem_total: memory,
            mem_cache: held.cache_bytes,
            disk_used: held.disk_bytes,
            disk_total: disk,
        });
    }
}

/// A sandbox that is stopped for a moment.
pub(crate) struct Still(Option<Arc<Sandbox>>);

impl Drop for Still {
    fn drop(&mut self) {
        if let Some(sandbox) = &self.0 {
            let life = sandbox.life();
            // Somebody may have paused it meanwhile.
            if !life.paused {
                sandbox.session.resume().ok();
            }
        }
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Sandboxes {
    all: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    /// How many of a tenant's there are, those in the making among them.
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// The right to one more sandbox; given back when it is dropped.
pub(crate) struct Place {
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
    tenant: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

impl Sandboxes {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Sandbox>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to one more of a tenant's.
    ///
    /// # Errors
    /// The most that it may have, where it has that many.
    pub(crate) fn reserve(&self, tenant: &str, most: usize) -> Result<Place, usize> {
        let mut counts = self.counts();
        let count = counts.entry(tenant.to_owned()).or_default();
        if *count >= most {
            return Err(most);
        }
        *count += 1;
        Ok(Place {
            counts: Arc::clone(&self.counts),
            tenant: tenant.to_owned(),
        })
    }

    /// Ends all of them, and waits until they are gone, but no longer than this.
    pub(crate) async fn remove_all(&self, within: Duration) {
        for sandbox in self.list() {
            self.remove(&sandbox.id);
        }
        let gone = async {
            while !self.counts().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(within, gone).await.ok();
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, sandbox: Arc<Sandbox>) {
        self.all().insert(sandbox.id.clone(), sandbox);
    }

    /// One by its id, whoever's it is.
    pub(crate) fn any(&self, id: &str) -> Option<Arc<Sandbox>> {
        self.all().get(id).map(Arc::clone)
    }

    /// One of a tenant's.
    pub(crate) fn of(&self, tenant: &str, id: &str) -> Option<Arc<Sandbox>> {
        // E2B's older clients send `ID-CLIENT`.
        let id = id.split('-').next().unwrap_or(id);
        self.any(id).filter(|sandbox| sandbox.tenant == tenant)
    }

    /// A copy of the list.
    pub(crate) fn list(&self) -> Vec<Arc<Sandbox>> {
        self.all().values().map(Arc::clone).collect()
    }

    /// Takes one away: its streams are cut, and everything in it ends when the last of them has let go.
    pub(crate) fn remove(&self, id: &str) -> bool {
        let Some(sandbox) = self.all().remove(id) else {
            return false;
        };
        sandbox.go();
        true
    }

    /// Puts the same one with another session in its place. False when it is gone meanwhile.
    pub(crate) fn replace(&self, old: &Arc<Sandbox>, new: Arc<Sandbox>) -> bool {
        let mut all = self.all();
        match all.get_mut(&old.id) {
            Some(own) if Arc::ptr_eq(own, old) => *own = new,
            _ => return false,
        }
        drop(all);
        old.go();
        true
    }

    /// Bytes of a tenant's that sleep.
    pub(crate) fn asleep_bytes(&self, tenant: &str) -> u64 {
        let all = self.all();
        let own = all.values().filter(|sandbox| sandbox.tenant == tenant);
        own.filter_map(|sandbox| sandbox.saved.as_ref())
            .fold(0, |sum, saved| sum.saturating_add(saved.bytes))
    }

    /// Ends what is past its time or has ended by itself. Those whose files alone are to be kept are told.
    fn look_after(&self) -> Vec<Arc<Sandbox>> {
        let now = now_ms();
        let mut tired = Vec::new();
        for sandbox in self.list() {
            if sandbox.session.ended().is_some() {
                self.remove(&sandbox.id);
                continue;
            }
            let life = *sandbox.life();
            if !sandbox.is_over(life, now) {
                continue;
            }
            let Ok(_turn) = sandbox.turn.try_lock() else {
                // Somebody is about to do something else with it.
                continue;
            };
            match sandbox.lifecycle.on_timeout {
                OnTimeout::Pause if !sandbox.lifecycle.keeps_memory => {
                    tired.push(Arc::clone(&sandbox));
                }
                OnTimeout::Pause if sandbox.pause().is_ok_and(|paused| paused) => {}
                OnTimeout::Pause | OnTimeout::Kill => drop(self.remove(&sandbox.id)),
            }
        }
        tired
    }
}

/// Looks after all sandboxes until the server stops.
pub(crate) async fn look_after(state: State, mut stopped: tokio::sync::watch::Receiver<bool>) {
    let mut rounds = 0_u64;
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        let (all, sampled) = (Arc::clone(&state.sandboxes), rounds.is_multiple_of(50));
        rounds += 1;
        // Freezing and reading groups are system calls that may wait.
        let done = tokio::task::spawn_blocking(move || {
            let tired = all.look_after();
            if sampled {
                let paused = |sandbox: &Arc<Sandbox>| sandbox.life().paused;
                for sandbox in all.list().iter().filter(|sandbox| !paused(sandbox)) {
                    sandbox.sample();
                }
            }
            tired
        })
        .await;
        match done {
            Ok(tired) => {
                for sandbox in tired {
                    tokio::spawn(sleep::when_over(Arc::clone(&state), sandbox));
                }
            }
            Err(error) => eprintln!("casemate: looking after sandboxes: {error}"),
        }
    }
}
