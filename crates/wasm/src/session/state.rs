//! What is known of a session outside its thread: whether a cell runs, whether it is paused, what it holds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_backend::contract::Fault;
use casemate_backend::session::Held;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::proc::private_memory;
use tokio::sync::{Notify, oneshot, watch};

/// What the thread and those who ask share.
pub(super) struct State {
    now: Mutex<Now>,
    stirred: Notify,
    /// Those who want another interpreter, until there is one.
    renewals: Mutex<Vec<oneshot::Sender<()>>>,
    disk_bytes: AtomicU64,
    cgroup: Option<Arc<Cgroup>>,
    pid: u32,
    ended: Mutex<Option<String>>,
    over: watch::Sender<bool>,
}

#[derive(Default)]
struct Now {
    runs: bool,
    paused: bool,
    /// Whether a cell was stopped in its middle.
    frozen: bool,
}

impl State {
    pub(super) fn new(cgroup: Option<Arc<Cgroup>>, pid: u32) -> Self {
        Self {
            now: Mutex::default(),
            stirred: Notify::new(),
            renewals: Mutex::default(),
            disk_bytes: AtomicU64::new(0),
            cgroup,
            pid,
            ended: Mutex::default(),
            over: watch::Sender::new(false),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.now().paused
    }

    /// Waits until it is no longer paused, or is to be renewed.
    pub(super) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    fn renewals(&self) -> MutexGuard<'_, Vec<oneshot::Sender<()>>> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for another interpreter in the place of its own. It is told when there is one.
    pub(super) fn renew(&self) -> oneshot::Receiver<()> {
        let (told, renewed) = oneshot::channel();
        self.renewals().push(told);
        self.stirred.notify_one();
        renewed
    }

    /// Whether somebody asked for another interpreter.
    pub(super) fn is_to_be_renewed(&self) -> bool {
        !self.renewals().is_empty()
    }

    /// There is another interpreter.
    pub(super) fn was_renewed(&self) {
        for told in self.renewals().drain(..) {
            // Whoever asked may have gone.
            told.send(()).ok();
        }
    }

    /// A cell begins. False when it must not, because the session is paused.
    pub(super) fn begin_cell(&self) -> bool {
        let mut now = self.now();
        now.runs = !now.paused;
        now.runs
    }

    /// A cell has ended.
    pub(super) fn end_cell(&self) {
        self.now().runs = false;
    }

    /// Lets no other cell begin. One that runs is stopped where it is, by the kernel; without one there is nothing to
    /// stop, for the guest runs for cells alone.
    pub(super) fn pause(&self) -> Result<(), Fault> {
        let mut now = self.now();
        if now.runs && !now.frozen {
            let group = self.cgroup.as_ref();
            let group = group.ok_or_else(|| {
                Fault("a cell runs in it, and there is no control group to stop it in".to_owned())
            })?;
            let frozen = group.freeze();
            frozen.map_err(|error| Fault(format!("stopping it: {error}")))?;
            now.frozen = true;
        }
        now.paused = true;
        Ok(())
    }

    /// Lets cells begin, and go on.
    pub(super) fn resume(&self) -> Result<(), Fault> {
        let mut now = self.now();
        if let (true, Some(group)) = (now.frozen, &self.cgroup) {
            let thawed = group.thaw();
            thawed.map_err(|error| Fault(format!("letting it go on: {error}")))?;
        }
        (now.frozen, now.paused) = (false, false);
        drop(now);
        self.stirred.notify_one();
        Ok(())
    }

    /// Whether a cell was stopped in its middle, so that the worker answers nothing.
    pub(super) fn is_frozen(&self) -> bool {
        self.now().frozen
    }

    /// So many bytes its files have now.
    pub(super) fn has_files_of(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What it holds, by the kernel's count; its files by the worker's, in whose memory they are.
    pub(super) fn held(&self) -> Held {
        // What cannot be read is 0: these are numbers for people, and limits are watched elsewhere.
        let memory_bytes = match &self.cgroup {
            Some(group) => group.memory_usage().unwrap_or_default(),
            None => private_memory(self.pid).map_or(0, |memory| memory.private_bytes),
        };
        let group = self.cgroup.as_ref();
        let used = group.and_then(|group| group.memory_held().ok());
        let cpu = group.and_then(|group| group.cpu_usage().ok());
        let cpu_us = cpu.map_or(0, |used| used.as_micros());
        Held {
            cpu_us: u64::try_from(cpu_us).unwrap_or(u64::MAX),
            memory_bytes,
            cache_bytes: used.map_or(0, |used| memory_bytes.saturating_sub(used)),
            disk_bytes: self.disk_bytes.load(Ordering::Relaxed),
        }
    }

    /// It has ended, and why. Those who are still being answered are told when they must go.
    pub(super) fn end(&self, why: String) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.get_or_insert(why);
        // There will be no other interpreter.
        self.renewals().clear();
    }

    /// Why it is no longer, where it is not.
    pub(super) fn ended(&self) -> Option<String> {
        let ended = self.ended.lock();
        ended.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whoever is still being answered is no more.
    pub(super) fn part(&self) {
        self.over.send_replace(true);
    }

    /// Waits until nobody is answered any more.
    pub(super) async fn parted(&self) {
        // It cannot be dropped while this is borrowed.
        self.over.subscribe().wait_for(|over| *over).await.ok();
    }

    /// Lets it die where it was stopped.
    pub(super) fn thaw(&self) {
        if let Some(group) = &self.cgroup {
            group.thaw().ok();
        }
    }
}
