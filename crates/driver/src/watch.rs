//! Looking at a jail from outside while it runs: what it uses, and which limit it has reached.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use casemate_linux::cgroup::Cgroup;
use casemate_linux::file::{Room, room};
use casemate_model::event::What;
use casemate_model::limit::LimitKind;

use crate::lowered::Watched;
use crate::pace::Pace;
use crate::tally::{Over, Tally};

/// How often the numbers of a run are read.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Processes whose descriptors are counted at one look.
const LOOKED_INTO: usize = 64;

/// What was read so far.
pub struct Watch<'a> {
    limits: &'a Watched,
    cgroup: Option<&'a Cgroup>,
    scratch: &'a OwnedFd,
    /// How full scratch was before the program began.
    empty: Room,
    looked: Instant,
    /// How often the numbers are read.
    every: Duration,
    cpu_before: Duration,
    memory_before: u64,
    /// Processor time of the program so far.
    pub cpu: Duration,
    /// The most that scratch held.
    pub disk_peak: Room,
    /// The most descriptors of one process.
    pub open_files_peak: u64,
    /// The group's own peak when it was last read.
    memory_peak: u64,
    told: Vec<LimitKind>,
    pace: Pace,
}

impl<'a> Watch<'a> {
    /// Nothing read yet.
    pub fn new(
        limits: &'a Watched,
        cgroup: Option<&'a Cgroup>,
        scratch: &'a OwnedFd,
        every: Duration,
    ) -> Self {
        Self {
            every,
            limits,
            cgroup,
            scratch,
            empty: room(scratch).unwrap_or_default(),
            looked: Instant::now(),
            cpu_before: Duration::ZERO,
            memory_before: 0,
            cpu: Duration::ZERO,
            disk_peak: Room::default(),
            open_files_peak: 0,
            memory_peak: 0,
            told: Vec::new(),
            pace: Pace::default(),
        }
    }

    /// The program begins now: what was used before is the interpreter's.
    pub fn begin(&mut self) {
        if let Some(cgroup) = self.cgroup {
            self.cpu_before = cgroup.cpu_usage().unwrap_or_default();
            self.memory_before = cgroup.memory_usage().unwrap_or_default();
        }
    }

    /// Reads the numbers when it is time to, and says which limit ends the run.
    pub fn look(&mut self, tally: &mut Tally<'_>) -> Option<Over> {
        if self.looked.elapsed() < self.every {
            return None;
        }
        self.looked = Instant::now();
        let over = self.look_now(tally);
        self.measure(tally);
        over
    }

    /// Reads the numbers.
    pub fn look_now(&mut self, tally: &mut Tally<'_>) -> Option<Over> {
        let used = self.look_at_scratch(tally);
        let cgroup = self.cgroup?;
        let peak = cgroup.memory_peak().unwrap_or_default();
        self.memory_peak = self.memory_peak.max(peak);
        if cgroup.task_refusals().is_ok_and(|refused| refused > 0) {
            let allowed = self.limits.counted.tasks;
            self.tell(tally, LimitKind::Tasks, allowed, allowed.saturating_add(1));
        }
        self.count_descriptors(cgroup);
        self.memory(cgroup, used).or_else(|| self.cpu_time(cgroup))
    }

    /// Tells what is used now, when that is due.
    fn measure(&mut self, tally: &mut Tally<'_>) {
        if !self.pace.is_due(tally.begun().elapsed()) {
            return;
        }
        // Where it cannot be read nothing is told, rather than that nothing is used.
        let Some(Ok(memory)) = self.cgroup.map(Cgroup::memory_usage) else {
            return;
        };
        tally.event(What::Usage {
            cpu_us: u64::try_from(self.cpu.as_micros()).unwrap_or(u64::MAX),
            memory_bytes: memory.saturating_sub(self.memory_before),
            disk_bytes: room(self.scratch).unwrap_or_default().used_bytes,
        });
    }

    fn memory(&self, cgroup: &Cgroup, scratch: u64) -> Option<Over> {
        let allowed = self.limits.memory_bytes;
        let over = |seen| {
            Some(Over {
                limit: LimitKind::Memory,
                allowed,
                seen,
            })
        };
        if cgroup.oom_kills().is_ok_and(|kills| kills > 0) {
            let peak = cgroup.memory_peak().unwrap_or_default();
            return over(self.of_program(peak, scratch).max(allowed));
        }
        let held = self.of_program(cgroup.memory_held().ok()?, scratch);
        if held > allowed { over(held) } else { None }
    }

    /// Of memory in use, what is neither files nor the interpreter and its libraries.
    fn of_program(&self, bytes: u64, scratch: u64) -> u64 {
        let files = scratch.saturating_add(self.limits.held_bytes);
        bytes
            .saturating_sub(files)
            .saturating_sub(self.limits.own_bytes)
    }

    fn cpu_time(&mut self, cgroup: &Cgroup) -> Option<Over> {
        self.cpu = cgroup.cpu_usage().ok()?.saturating_sub(self.cpu_before);
        let seen = u64::try_from(self.cpu.as_millis()).unwrap_or(u64::MAX);
        let allowed = self.limits.cpu_time_ms;
        (seen > allowed).then_some(Over {
            limit: LimitKind::CpuTime,
            allowed,
            seen,
        })
    }

    /// A full scratch is felt by the program as an error of its own; the host sees that it is full.
    fn look_at_scratch(&mut self, tally: &mut Tally<'_>) -> u64 {
        let Ok(now) = room(self.scratch) else {
            return 0;
        };
        if now.used_bytes > self.disk_peak.used_bytes {
            self.disk_peak.used_bytes = now.used_bytes;
        }
        let files = now.used_files.saturating_sub(self.empty.used_files);
        self.disk_peak.used_files = self.disk_peak.used_files.max(files);
        if self.limits.disk_bytes < u64::MAX && now.free_bytes == 0 {
            let allowed = self.limits.disk_bytes;
            self.tell(
                tally,
                LimitKind::DiskBytes,
                allowed,
                now.used_bytes.max(allowed),
            );
        }
        if self.limits.disk_files < u64::MAX && now.free_files == 0 {
            let allowed = self.limits.disk_files;
            self.tell(tally, LimitKind::DiskFiles, allowed, files.max(allowed));
        }
        now.used_bytes
    }

    fn tell(&mut self, tally: &mut Tally<'_>, limit: LimitKind, allowed: u64, seen: u64) {
        if !self.told.contains(&limit) {
            self.told.push(limit);
            tally.reached(Over {
                limit,
                allowed,
                seen,
            });
        }
    }

    fn count_descriptors(&mut self, cgroup: &Cgroup) {
        for pid in cgroup
            .processes()
            .unwrap_or_default()
            .into_iter()
            .take(LOOKED_INTO)
        {
            // A process that has ended meanwhile, or one that may not be looked into, counts nothing.
            let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
            self.open_files_peak = self.open_files_peak.max(open.unwrap_or_default() as u64);
        }
    }

    /// The most memory above what there was when the program began.
    pub const fn memory_peak(&self) -> u64 {
        self.memory_peak.saturating_sub(self.memory_before)
    }
}
