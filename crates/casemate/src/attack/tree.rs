//! Processes as the kernel sees them: how many there are below one, and what they hold.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use casemate_backend::contract::Backend;

use super::marks::Sightings;

/// How often a watcher looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What processes hold at one moment, or the most that was ever seen of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Threads of all of them.
    pub(crate) tasks: u64,
    /// Bytes of anonymous and shared memory of the largest.
    pub(crate) memory: u64,
    /// Open descriptors of the one with most, where the kernel tells us.
    pub(crate) descriptors: u64,
}

impl Holding {
    /// The larger of each.
    #[must_use]
    pub(crate) fn peak(self, other: Self) -> Self {
        Self {
            tasks: self.tasks.max(other.tasks),
            memory: self.memory.max(other.memory),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }
}

/// Process numbers of everything below `root`, without it.
pub(crate) fn below(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all() {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&root).unwrap_or_default();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let more = children.remove(pid).unwrap_or_default();
        found.extend(more);
        next += 1;
    }
    found
}

/// What these processes hold now. One that has ended meanwhile holds nothing.
pub(crate) fn holding(pids: &[u32]) -> Holding {
    let mut sum = Holding::default();
    for pid in pids {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        sum.tasks += number(&status, "Threads:");
        let memory = number(&status, "RssAnon:") + number(&status, "RssShmem:");
        sum.memory = sum.memory.max(memory * 1024);
        let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |fds| fds.count() as u64);
        sum.descriptors = sum.descriptors.max(open);
    }
    sum
}

/// Processes whose environment holds `mark`, wherever they stand in the tree.
pub(crate) fn marked(mark: &Path) -> Vec<u32> {
    let mark = mark.as_os_str().as_encoded_bytes();
    all()
        .into_iter()
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            contains(&environment, mark)
        })
        .collect()
}

/// Whether `needle` is somewhere in `hay`.
pub(crate) fn contains(hay: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && hay.windows(needle.len()).any(|window| window == needle)
}

fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// The name in the second field may hold anything, so fields are counted from its last parenthesis.
/// A zombie is no longer anybody.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z")
        .then(|| fields.next()?.parse().ok())
        .flatten()
}

fn number(status: &str, key: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Looks at the processes of sandboxes until it is told to stop.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Holding, Sightings)>,
}

impl Watcher {
    /// Starts looking, with the stage's `port`, at what is below this process and at the sandboxes that a backend has
    /// elsewhere. Processes in `ignore` are not counted.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(
        backend: Option<Arc<dyn Backend>>,
        ignore: Vec<u32>,
        port: u16,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || {
                let (mut peak, mut sightings) = (Holding::default(), Sightings::default());
                while !stopped.load(Ordering::Relaxed) {
                    let mut pids = below(std::process::id());
                    pids.extend(backend.iter().flat_map(|backend| backend.elsewhere()));
                    pids.retain(|pid| !ignore.contains(pid));
                    peak = peak.peak(holding(&pids));
                    sightings.look(&pids, port);
                    std::thread::sleep(LOOK_EVERY);
                }
                (peak, sightings)
            })?;
        Ok(Self { stop, thread })
    }

    /// The most that was held, and what was seen.
    ///
    /// # Errors
    /// When the watcher panicked: then nothing is known.
    pub(crate) fn finish(self) -> io::Result<(Holding, Sightings)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| io::Error::other("the thread that watches processes is gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_with_its_threads_and_descriptors() {
        let holding = holding(&[std::process::id()]);
        assert!(holding.tasks >= 1 && holding.memory > 1 << 16 && holding.descriptors >= 3);
        assert!(below(1).contains(&std::process::id()) || std::process::id() == 1);
    }

    #[test]
    fn a_needle_is_found_where_it_is() {
        assert!(contains(b"abcd", b"cd") && !contains(b"abc", b"cd") && !contains(b"abc", b""));
    }
}
