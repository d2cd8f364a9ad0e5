//! How the sandbox does, as far as it can be seen from inside.
//!
//! The host has its own numbers, from outside; these are for who asks the agent.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use casemate_envd::client::Metrics;

use crate::agent::Agent;

const MIB: u64 = 1 << 20;

/// Reads the numbers, and remembers the last for those that are differences.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    last: Mutex<Option<(Instant, Busy)>>,
}

/// Processor time that was used, and by how many processors.
#[derive(Debug, Clone, Copy)]
struct Busy {
    used: Duration,
}

impl Meter {
    /// The numbers now. What cannot be seen is 0.
    pub(crate) fn read(&self, agent: &Agent) -> Metrics {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let (total, used, cache) = memory();
        let home = agent.user(None).map(|user| user.home);
        let (disk_used, disk_total) = disk(home.as_deref().unwrap_or(Path::new("/")));
        Metrics {
            ts: jiff::Timestamp::now().as_second(),
            cpu_count: u32::try_from(cpus).unwrap_or(u32::MAX),
            cpu_used_pct: self.busy(cpus),
            mem_total: total,
            mem_used: used,
            mem_cache: cache,
            mem_total_mib: total / MIB,
            mem_used_mib: used / MIB,
            disk_used,
            disk_total,
        }
    }

    /// Percent of all processors since the last time.
    fn busy(&self, cpus: usize) -> f64 {
        let Some(now) = processor_time() else {
            return 0.0;
        };
        let at = Instant::now();
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = last.replace((at, Busy { used: now }));
        let Some((then, busy)) = before else {
            return 0.0;
        };
        let passed = at.duration_since(then).as_secs_f64() * cpus as f64;
        let used = now.saturating_sub(busy.used).as_secs_f64();
        if passed > 0.0 {
            (used / passed * 10_000.0).round() / 100.0
        } else {
            0.0
        }
    }
}

/// Processor time of everything in the sandbox.
fn processor_time() -> Option<Duration> {
    if let Some(text) = read("/sys/fs/cgroup/cpu.stat") {
        let micros = field(&text, "usage_usec")?;
        return Some(Duration::from_micros(micros));
    }
    if let Some(text) = read("/sys/fs/cgroup/cpuacct/cpuacct.usage") {
        return text.trim().parse().ok().map(Duration::from_nanos);
    }
    let text = read("/proc/stat")?;
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    // user, nice, system, then idle and iowait, which are no work.
    let used: u64 = ticks
        .iter()
        .take(3)
        .chain(ticks.iter().skip(5).take(3))
        .sum();
    Some(Duration::from_millis(used.saturating_mul(10)))
}

/// Total, used and given back on demand, in bytes.
fn memory() -> (u64, u64, u64) {
    let info = read("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| field(&info, name).unwrap_or_default().saturating_mul(1024);
    let (total, free) = (kib("MemTotal:"), kib("MemFree:"));
    let cache = kib("Cached:").saturating_add(kib("Buffers:"));
    let used = total.saturating_sub(free).saturating_sub(cache);
    let number = |path| read(path).and_then(|text| text.trim().parse::<u64>().ok());
    let limit = number("/sys/fs/cgroup/memory.max")
        .or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let in_group = number("/sys/fs/cgroup/memory.current")
        .or_else(|| number("/sys/fs/cgroup/memory/memory.usage_in_bytes"));
    match (limit, in_group) {
        // A limit beyond the machine is none.
        (Some(limit), Some(in_group)) if total == 0 || limit < total => (limit, in_group, 0),
        _ => (total, used, cache),
    }
}

/// Used and total, in bytes, of the file system at a path.
fn disk(path: &Path) -> (u64, u64) {
    rustix::fs::statvfs(path).map_or((0, 0), |stat| {
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bfree.saturating_mul(stat.f_frsize);
        (total.saturating_sub(free), total)
    })
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let text = "MemTotal:       24 kB\nMemFree: 3 kB\nbroken\n";
        assert_eq!(field(text, "MemFree:"), Some(3));
        assert_eq!(field(text, "Other:"), None);
        assert_eq!(field(text, "broken"), None);
    }

    #[test]
    fn this_machine_has_some_of_each() {
        let (total, used, _) = memory();
        assert!(total >= used && total > 0);
        let (disk_used, disk_total) = disk(Path::new("/"));
        assert!(disk_total > disk_used);
    }
}
