//! The processes that run, and those that ended a moment ago.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use casemate_envd::process::{ProcessInfo, ProcessSelector};
use casemate_envd::{Code, RpcError};

use super::running::Running;

/// Processes at the same time.
const RUNNING_MAX: usize = 512;
/// How long the end of a process is kept for who comes late.
const KEPT: Duration = Duration::from_secs(30);
/// Ends that are kept.
const KEPT_MAX: usize = 1024;

/// All of them, by number.
#[derive(Default)]
pub(crate) struct Table(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    running: HashMap<u32, Arc<Running>>,
    /// In the order in which they ended.
    ended: std::collections::VecDeque<(Instant, Arc<Running>)>,
    /// Places that are taken by processes about to start.
    starting: usize,
}

impl Inner {
    fn forget(&mut self) {
        let old = |ended: &(Instant, Arc<Running>)| ended.0.elapsed() > KEPT;
        while self.ended.len() > KEPT_MAX || self.ended.front().is_some_and(old) {
            self.ended.pop_front();
        }
    }
}

/// A place for a process about to start; given back when it is dropped.
pub(crate) struct Place<'a>(&'a Table);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().starting -= 1;
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more.
    pub(crate) fn place(&self) -> Result<Place<'_>, RpcError> {
        let mut inner = self.lock();
        if inner.running.len() + inner.starting >= RUNNING_MAX {
            let what = format!("{RUNNING_MAX} processes run already");
            return Err(RpcError::new(Code::ResourceExhausted, what));
        }
        inner.starting += 1;
        Ok(Place(self))
    }

    pub(crate) fn add(&self, process: &Arc<Running>) {
        let mut inner = self.lock();
        // Its number may have been another's.
        inner.ended.retain(|(_, old)| old.pid != process.pid);
        inner.running.insert(process.pid, Arc::clone(process));
    }

    pub(crate) fn ended(&self, process: &Arc<Running>) {
        let mut inner = self.lock();
        inner.running.remove(&process.pid);
        inner.ended.push_back((Instant::now(), Arc::clone(process)));
        inner.forget();
    }

    pub(crate) fn list(&self) -> Vec<ProcessInfo> {
        let inner = self.lock();
        let mut all: Vec<ProcessInfo> = inner.running.values().map(|p| p.info()).collect();
        all.sort_by_key(|info| info.pid);
        all
    }

    /// One that runs.
    pub(crate) fn running(
        &self,
        selector: Option<&ProcessSelector>,
    ) -> Result<Arc<Running>, RpcError> {
        let selector = checked(selector)?;
        let inner = self.lock();
        let found = inner.running.values().find(|p| p.is(selector));
        found.cloned().ok_or_else(|| unknown(selector))
    }

    /// One that runs, or ended a moment ago.
    pub(crate) fn known(
        &self,
        selector: Option<&ProcessSelector>,
    ) -> Result<Arc<Running>, RpcError> {
        let selector = checked(selector)?;
        let mut inner = self.lock();
        inner.forget();
        let running = inner.running.values().find(|p| p.is(selector));
        let ended = || inner.ended.iter().rev().map(|(_, p)| p);
        let found = running.or_else(|| ended().find(|p| p.is(selector)));
        found.cloned().ok_or_else(|| unknown(selector))
    }
}

fn checked(selector: Option<&ProcessSelector>) -> Result<&ProcessSelector, RpcError> {
    match selector {
        Some(selector) if selector.pid.is_some() != selector.tag.is_some() => Ok(selector),
        _ => Err(RpcError::new(
            Code::InvalidArgument,
            "a process is named by its pid or by its tag",
        )),
    }
}

fn unknown(selector: &ProcessSelector) -> RpcError {
    let what = match (&selector.pid, &selector.tag) {
        (Some(pid), _) => format!("process with pid {pid} not found"),
        (None, tag) => {
            let tag = tag.as_deref().unwrap_or_default();
            format!("process with tag '{tag}' not found")
        }
    };
    RpcError::new(Code::NotFound, what)
}
