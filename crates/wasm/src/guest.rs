//! What the host holds for one guest: its WASI state and its memory's ceiling.

use std::time::Duration;

use casemate_driver::pace::Pace;
use casemate_model::event::What;
use casemate_model::limit::LimitKind;
use wasmtime::{Memory, ResourceLimiter};

use crate::machine::Interrupt;
use crate::wasi::{Halt, Wasi};

/// Table entries a guest may have; CPython's one table has 47,157 and never grows.
const TABLE_MAX: usize = 100_000;

/// The ceiling of a guest's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryLimit {
    /// Bytes the program may add to what the snapshot holds.
    pub(crate) allowed: u64,
}

/// The data of one guest's store.
pub(crate) struct Guest {
    pub(crate) wasi: Wasi,
    memory: Option<Memory>,
    interrupt: Option<Interrupt>,
    limit: MemoryLimit,
    /// Bytes of memory when the guest started.
    baseline: u64,
    /// The most bytes since.
    peak: u64,
    pace: Pace,
}

impl Guest {
    pub(crate) fn new(wasi: Wasi, limit: MemoryLimit) -> Self {
        Self {
            wasi,
            memory: None,
            interrupt: None,
            limit,
            baseline: 0,
            peak: 0,
            pace: Pace::default(),
        }
    }

    /// Notes the memory of a fresh instance, and how it is interrupted.
    pub(crate) fn started(&mut self, memory: Memory, size: u64, interrupt: Option<Interrupt>) {
        self.memory = Some(memory);
        self.interrupt = interrupt;
        self.baseline = size;
        self.peak = size;
    }

    /// Replaces what the guest is given by that of its run.
    pub(crate) fn give(&mut self, wasi: Wasi, limit: MemoryLimit) {
        self.wasi = wasi;
        self.limit = limit;
        self.pace = Pace::default();
    }

    /// Goes on with the files of another one, which has nothing more to run.
    pub(crate) fn take_over(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.wasi, &mut other.wasi);
        self.limit = other.limit;
        self.wasi.renew();
    }

    /// Begins the next cell of a session.
    pub(crate) fn begin_cell(&mut self, job: Vec<u8>) {
        self.wasi.begin_cell(job);
        self.pace = Pace::default();
    }

    /// Tells what the run uses, when that is due. Memory of a guest never shrinks, so its peak is what it has.
    pub(crate) fn measure(&mut self) -> Result<(), Halt> {
        let clock = &self.wasi.clock;
        let at_us = clock.elapsed_us();
        if !self.pace.is_due(Duration::from_micros(at_us)) {
            return Ok(());
        }
        let what = What::Usage {
            cpu_us: clock.cpu_us(),
            memory_bytes: self.memory_added(),
            disk_bytes: self.wasi.tree.quota.bytes,
        };
        self.wasi.log.add(at_us, what);
        self.wasi.flush(true)
    }

    pub(crate) fn memory(&self) -> Option<Memory> {
        self.memory
    }

    pub(crate) fn interrupt(&self) -> Option<Interrupt> {
        self.interrupt.clone()
    }

    /// The most bytes above the snapshot.
    pub(crate) fn memory_added(&self) -> u64 {
        self.peak.saturating_sub(self.baseline)
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let desired = desired as u64;
        if self.memory.is_none() {
            // The instance itself: the snapshot's own size, which set-up decided.
            return Ok(maximum.is_none_or(|maximum| desired <= maximum as u64));
        }
        let added = desired.saturating_sub(self.baseline);
        if added > self.limit.allowed {
            self.wasi
                .log_limit(LimitKind::Memory, self.limit.allowed, added);
            return Ok(false);
        }
        self.peak = self.peak.max(desired);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_MAX)
    }
}
