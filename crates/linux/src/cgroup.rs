//! Control groups: memory, tasks and processor time of a process, capped and measured from
//! outside it, on version 1, on version 2 and on the mixture of both.
//!
//! A group is made below the group this process is in, so whatever limits an operator has put on
//! us hold for our children too. On version 2, where a group with processes may not have
//! controlled children, the nearest ancestor that can is used.
//!
//! A controller that is not there makes a [`Step`] that did not stand, never a silent success.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limit::Limit;
use crate::step::{Step, plain};

mod foreign;
mod freezer;
mod layout;
mod limits;
mod remove;
#[cfg(test)]
mod tests;

pub use layout::{Kind, Layout};

use layout::{Controller, Version};

/// The names of the walls in a group's steps.
pub mod wall {
    /// Memory, with the page cache the group causes.
    pub const MEMORY: &str = "cgroup_memory";
    /// No way around the memory limit through swap.
    pub const SWAP: &str = "cgroup_swap";
    /// Processes and threads.
    pub const PIDS: &str = "cgroup_pids";
    /// Processor time per period.
    pub const CPU: &str = "cgroup_cpu";
}

/// What a group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Memory in bytes; rounded down to whole pages by the kernel.
    pub memory_bytes: Limit,
    /// Processes and threads together.
    pub pids: Limit,
    /// Processor time in thousandths of one processor: 1500 is one and a half.
    pub cpu_millicores: Limit,
}

/// What a group may use that waits for its job.
const WAITING: CgroupLimits = CgroupLimits {
    memory_bytes: Limit::At(64 << 20),
    pids: Limit::At(16),
    cpu_millicores: Limit::At(1000),
};

/// No group could be made at all. The steps say why, one a limit.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no control group: {why}")]
pub struct Missing {
    /// The reason in one line.
    pub why: String,
    /// Every limit that was asked, each as a wall that does not stand.
    pub steps: Vec<Step>,
}

/// A group, in as many hierarchies as its controllers need. Dropping one that was made here kills what
/// is in it and removes it.
#[derive(Debug)]
pub struct Cgroup {
    layout: Layout,
    places: BTreeMap<Controller, Place>,
    /// Why a controller has no place.
    reasons: BTreeMap<Controller, String>,
    steps: Vec<Step>,
    /// The group's directory in a hierarchy that a container runtime makes its own part in.
    runtime: Option<PathBuf>,
    /// Whether it was made here, and so is taken down here.
    owned: bool,
}

/// Where one controller has the group.
#[derive(Debug, Clone)]
struct Place {
    version: Version,
    dir: PathBuf,
}

impl Place {
    fn read(&self, file: &str) -> io::Result<String> {
        std::fs::read_to_string(self.dir.join(file))
    }

    fn number(&self, file: &str) -> io::Result<u64> {
        parse_number(self.read(file)?.trim())
    }

    /// A value from a file of "key value" lines.
    fn keyed(&self, file: &str, key: &str) -> io::Result<u64> {
        let text = self.read(file)?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines
            .find(|(name, _)| *name == key)
            .ok_or_else(|| io::Error::other(format!("{file} has no {key}")))?;
        parse_number(value.trim())
    }

    /// Writes a value; never creates a file, so that a feature that is absent is an error.
    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        write_existing(&self.dir.join(file), value)
    }

    fn has(&self, file: &str) -> bool {
        self.dir.join(file).exists()
    }
}

fn parse_number(text: &str) -> io::Result<u64> {
    text.parse()
        .map_err(|_| io::Error::other(format!("not a number: {text}")))
}

fn write_existing(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).truncate(true).open(path)?;
    // In one call: the kernel takes each write as a whole value.
    file.write_all(value.as_bytes())
}

impl Missing {
    /// No group for this reason, with limits that were asked of it later.
    #[must_use]
    pub fn of(why: &str, limits: &CgroupLimits) -> Self {
        missing(why.to_owned(), limits)
    }
}

impl Cgroup {
    /// Makes a group on this machine. `name` is for people: lower-case letters, digits, `-` and
    /// `_`, at most 32; what makes it unique is added.
    ///
    /// # Errors
    /// [`Missing`] when no controller could be had. A group that has some of its limits is not
    /// an error: look at [`Cgroup::steps`].
    pub fn create(name: &str, limits: &CgroupLimits) -> Result<Self, Missing> {
        let layout = Layout::detect().map_err(|error| missing(plain(&error), limits))?;
        layout.create(name, limits)
    }

    /// Makes a group for what is made before its job is known, with limits under which it can wait.
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn reserve(name: &str) -> Result<Self, Missing> {
        Self::create(name, &WAITING)
    }

    /// The same for what is to be stopped and go on again: see [`Cgroup::freeze`].
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn reserve_freezable(name: &str) -> Result<Self, Missing> {
        let layout = Layout::detect().map_err(|error| missing(plain(&error), &WAITING))?;
        layout.create_with(name, &WAITING, true)
    }

    /// Stops everything in the group where it is, and waits until all of it has stopped. It uses no
    /// processor time from then on, and keeps its memory.
    ///
    /// # Errors
    /// When the group cannot be frozen here, or something in it does not stop within two seconds; then it goes
    /// on.
    pub fn freeze(&self) -> io::Result<()> {
        let done = self.freezer()?.freeze();
        if done.is_err() {
            self.thaw()?;
        }
        done
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When the group cannot be frozen here.
    pub fn thaw(&self) -> io::Result<()> {
        self.freezer()?.thaw()
    }

    fn freezer(&self) -> io::Result<freezer::Freezer<'_>> {
        let own = self.places.get(&Controller::Freezer);
        let unified = || {
            let mut places = self.places.values();
            places.find(|place| place.version == Version::V2)
        };
        let place = own.or_else(unified);
        place
            .map(freezer::Freezer)
            .ok_or_else(|| io::Error::other("no control group here can be frozen"))
    }

    /// Sets all limits, and makes them those of [`Cgroup::steps`].
    pub fn limit(&mut self, limits: &CgroupLimits) {
        self.steps = limits::apply(&self.places, &self.reasons, limits);
    }

    /// What was asked of the group and what the kernel gave, one step a limit.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The group's directories, one a hierarchy.
    #[must_use]
    pub fn paths(&self) -> Vec<&Path> {
        self.dirs().collect()
    }

    /// Changes the memory limit, in bytes, and reads it back.
    ///
    /// # Errors
    /// When there is no memory controller, or the kernel cannot push usage below the limit.
    pub fn set_memory(&self, bytes: u64) -> io::Result<()> {
        let set = limits::set_memory(self.memory()?, Limit::At(bytes));
        set.map(drop).map_err(io::Error::other)
    }

    /// Changes the limit on tasks and reads it back.
    ///
    /// # Errors
    /// What the kernel says instead.
    pub fn set_pids(&self, tasks: u64) -> Result<String, String> {
        let place = self.places.get(&Controller::Pids);
        limits::set_pids(
            place.ok_or("there is no pids controller")?,
            Limit::At(tasks),
        )
    }

    /// Moves a process into the group, with all its threads.
    ///
    /// # Errors
    /// The first directory that does not take it.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        self.dirs()
            .try_for_each(|dir| write_existing(&dir.join("cgroup.procs"), &pid.to_string()))
    }

    /// Whether a process is in the group, in every hierarchy that has a part of it.
    ///
    /// # Errors
    /// When the group cannot be read.
    pub fn holds(&self, pid: u32) -> io::Result<bool> {
        let word = pid.to_string();
        for dir in self.dirs() {
            let text = std::fs::read_to_string(dir.join("cgroup.procs"))?;
            if !text.lines().any(|line| line == word) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The path by which a container runtime that insists on groups of its own may name this one. On
    /// version 1 that is in the hierarchy of devices, where this group has no part, and what the
    /// runtime makes there goes with this group; on version 2 it is the group itself.
    ///
    /// # Errors
    /// When there is no such hierarchy.
    pub fn for_runtime(&mut self) -> io::Result<String> {
        let own = self.dirs().next();
        let name = own.and_then(Path::file_name).map(ToOwned::to_owned);
        let name = name.ok_or_else(|| io::Error::other("the group is gone"))?;
        let (mount, dir) = self.layout.runtime_dir(&name)?;
        let path = dir.strip_prefix(&mount).map_err(io::Error::other)?;
        let path = Path::new("/").join(path);
        self.runtime = Some(dir);
        path.into_os_string()
            .into_string()
            .map_err(|_| io::Error::other("a group's name is not UTF-8"))
    }

    /// The most memory the group ever had, in bytes.
    ///
    /// # Errors
    /// When there is no memory controller, or the kernel does not record the peak (before 5.19
    /// on version 2).
    pub fn memory_peak(&self) -> io::Result<u64> {
        let place = self.memory()?;
        match place.version {
            Version::V1 => place.number("memory.max_usage_in_bytes"),
            Version::V2 => place.number("memory.peak"),
        }
    }

    /// The memory the group has now, in bytes.
    ///
    /// # Errors
    /// When there is no memory controller.
    pub fn memory_usage(&self) -> io::Result<u64> {
        let place = self.memory()?;
        match place.version {
            Version::V1 => place.number("memory.usage_in_bytes"),
            Version::V2 => place.number("memory.current"),
        }
    }

    /// The memory the group cannot give back: private pages, and pages of memory file systems and of
    /// files without a name. What was read from a disk and can be read again is not in it. The kernel
    /// brings the number up to date in steps of 256 KiB a processor.
    ///
    /// # Errors
    /// When there is no memory controller.
    pub fn memory_held(&self) -> io::Result<u64> {
        let place = self.memory()?;
        let private = match place.version {
            Version::V1 => "rss",
            Version::V2 => "anon",
        };
        let shared = place.keyed("memory.stat", "shmem")?;
        Ok(place.keyed("memory.stat", private)?.saturating_add(shared))
    }

    /// How often the limit on tasks has refused a new one.
    ///
    /// # Errors
    /// When there is no pids controller.
    pub fn task_refusals(&self) -> io::Result<u64> {
        let place = self
            .places
            .get(&Controller::Pids)
            .ok_or_else(|| io::Error::other("there is no pids controller"))?;
        place.keyed("pids.events", "max")
    }

    /// The processes in the group, by their numbers here. One that ends meanwhile may be among them.
    ///
    /// # Errors
    /// When the group cannot be read.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let dir = self.dirs().next();
        let dir = dir.ok_or_else(|| io::Error::other("the group is gone"))?;
        let text = std::fs::read_to_string(dir.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// How many processes of the group were killed for memory.
    ///
    /// # Errors
    /// When there is no memory controller.
    pub fn oom_kills(&self) -> io::Result<u64> {
        let place = self.memory()?;
        match place.version {
            Version::V1 => place.keyed("memory.oom_control", "oom_kill"),
            Version::V2 => place.keyed("memory.events", "oom_kill"),
        }
    }

    /// The processor time the group has used.
    ///
    /// # Errors
    /// When neither `cpuacct` nor version 2's accounting is there.
    pub fn cpu_usage(&self) -> io::Result<Duration> {
        if let Some(place) = self.places.get(&Controller::Cpuacct) {
            return Ok(Duration::from_nanos(place.number("cpuacct.usage")?));
        }
        let mut version_2 = self.places.values().filter(|p| p.version == Version::V2);
        let place = version_2
            .next()
            .ok_or_else(|| io::Error::other("there is no cpuacct controller"))?;
        Ok(Duration::from_micros(
            place.keyed("cpu.stat", "usage_usec")?,
        ))
    }

    /// Kills everything in the group.
    ///
    /// # Errors
    /// When a process could not be signalled.
    pub fn kill(&self) -> io::Result<()> {
        self.dirs().try_for_each(remove::kill_all)
    }

    /// Kills what is in the group and removes it, waiting up to two seconds for the kernel.
    ///
    /// # Errors
    /// The directory that could not be removed, and why.
    pub fn remove(mut self) -> io::Result<()> {
        self.take_down()
    }

    /// The files through which a process enters the group, open for writing.
    pub fn open_procs(&self) -> impl Iterator<Item = io::Result<OwnedFd>> + '_ {
        self.dirs().map(|dir| {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(dir.join("cgroup.procs"))?;
            Ok(OwnedFd::from(file))
        })
    }

    /// Each directory once: hierarchies may carry several controllers.
    fn dirs(&self) -> impl Iterator<Item = &Path> {
        let dirs: std::collections::BTreeSet<&Path> = self
            .places
            .values()
            .map(|place| place.dir.as_path())
            .collect();
        dirs.into_iter()
    }

    fn memory(&self) -> io::Result<&Place> {
        self.places
            .get(&Controller::Memory)
            .ok_or_else(|| io::Error::other("there is no memory controller"))
    }

    fn take_down(&mut self) -> io::Result<()> {
        if !self.owned {
            return Ok(());
        }
        let mut done = Ok(());
        // Each is tried, whatever became of the others.
        for dir in self.dirs() {
            done = done.and(remove::remove(&self.layout, dir));
        }
        if let Some(dir) = self.runtime.take() {
            done = done.and(remove::remove(&self.layout, &dir));
        }
        self.places.clear();
        done
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // What cannot be removed now is found by `reclaim_stale` at the next start.
        self.take_down().ok();
    }
}

impl Layout {
    /// As [`Cgroup::create`], in this layout.
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn create(&self, name: &str, limits: &CgroupLimits) -> Result<Cgroup, Missing> {
        self.create_with(name, limits, false)
    }

    fn create_with(
        &self,
        name: &str,
        limits: &CgroupLimits,
        freezable: bool,
    ) -> Result<Cgroup, Missing> {
        let full = crate::owner::unique_name(name).map_err(|why| missing(why, limits))?;
        let mut places = BTreeMap::new();
        let mut reasons = BTreeMap::new();
        let bases = self.bases().into_iter();
        for (controller, base) in bases.filter(|(controller, _)| needed(*controller, limits)) {
            let made = base.and_then(|base| {
                let dir = self.make(controller, &base, &full)?;
                Ok(Place {
                    version: base.0,
                    dir,
                })
            });
            match made {
                Ok(place) => drop(places.insert(controller, place)),
                Err(why) => drop(reasons.insert(controller, why)),
            }
        }
        if places.is_empty() {
            let why = reasons.into_values().next().unwrap_or_default();
            return Err(missing(why, limits));
        }
        // Where it cannot be made the group is one that cannot be frozen, and says so when it is asked to.
        if freezable && let Some(Ok(dir)) = self.make_freezer(&full) {
            let version = Version::V1;
            places.insert(Controller::Freezer, Place { version, dir });
        }
        let steps = limits::apply(&places, &reasons, limits);
        Ok(Cgroup {
            layout: self.clone(),
            places,
            reasons,
            steps,
            runtime: None,
            owned: true,
        })
    }

    /// Removes groups whose maker no longer runs, killing what is left in them. Returns how many
    /// directories went.
    ///
    /// # Errors
    /// The first group that could not be removed; the others are still tried.
    pub fn reclaim_stale(&self) -> io::Result<usize> {
        let mut removed = 0;
        let mut result = Ok(());
        for dir in self.parents() {
            for group in crate::owner::stale_in(&dir) {
                match remove::remove(self, &group) {
                    Ok(()) => removed += 1,
                    Err(error) => result = result.and(Err(error)),
                }
            }
        }
        result.map(|()| removed)
    }
}

/// Removes what earlier processes left behind on this machine; see [`Layout::reclaim_stale`].
///
/// # Errors
/// As [`Layout::reclaim_stale`], and when the layout cannot be read.
pub fn reclaim_stale() -> io::Result<usize> {
    Layout::detect()?.reclaim_stale()
}

/// Entering a group costs the kernel a wait in every hierarchy, so one without a limit to hold or
/// a number to read is left out. Memory and processor time are always measured.
const fn needed(controller: Controller, limits: &CgroupLimits) -> bool {
    match controller {
        Controller::Memory | Controller::Cpuacct => true,
        Controller::Pids => limits.pids.value().is_some(),
        Controller::Cpu => limits.cpu_millicores.value().is_some(),
        Controller::Freezer => false,
    }
}

fn missing(why: String, limits: &CgroupLimits) -> Missing {
    let steps = limits::asked(limits)
        .into_iter()
        .map(|(wall, asked)| Step::missing(wall, asked, why.clone()))
        .collect();
    Missing { why, steps }
}
