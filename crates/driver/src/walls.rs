//! The walls that every backend with native Python has: the environment, and the ceilings on a run.

use std::sync::OnceLock;

use casemate_backend::contract::Lost;
use casemate_linux::Step;
use casemate_linux::cgroup::{Cgroup, Kind, Layout, wall as group};
use casemate_linux::jail::wall as jail;
use casemate_linux::lockdown::wall;
use casemate_linux::processor;
use casemate_model::guarantee::Guarantee::{
    self, CoreUnshared, CpuCapped, DiskCapped, MemoryCapped, OpenFilesCapped, OutputCapped,
    SpeculationLimited, TasksCapped, WallCapped,
};
use casemate_model::guarantee::Guarantees;
use casemate_model::known::KnownWalls;
use casemate_model::receipt::{Need, Receipt, Wall};

use crate::lowered::Watched;

/// The environment is made from the plan alone.
pub const ENVIRONMENT: &str = "environment";
/// Processor time is read from the control group.
pub const ACCOUNTING: &str = "cgroup_cpu_usage";

/// No other run has had the interpreter's memory.
pub const LAYOUT: &str = "memory_layout";
const OF_ITS_OWN: &str = "of this run alone";

/// The interpreter is started for this run, and why.
#[must_use]
pub fn fresh_layout(why: &str) -> Step {
    Step::run(LAYOUT, OF_ITS_OWN, || Ok(format!("started cold: {why}")))
}

/// The program runs in a copy of an interpreter of which there are others: whose, and what they share.
#[must_use]
pub fn shared_layout(whose: &str) -> Step {
    let why = format!(
        "{whose} share where things lie in memory and the hash secret; random state is renewed"
    );
    Step::missing(LAYOUT, OF_ITS_OWN, why)
}

/// Whether the program of a run with this receipt began in such a copy, and the words for whose it was begin so.
#[must_use]
pub fn shares_layout(receipt: &Receipt, whose: &str) -> bool {
    let layout = receipt.walls.iter().find(|wall| wall.name == LAYOUT);
    let why = layout.and_then(|wall| wall.missing.as_deref());
    why.is_some_and(|why| why.starts_with(whose))
}

/// The limits: name, what it guarantees, and the wall that enforces it; none is the host itself.
const LIMITS: &[(&str, Guarantee, Option<&str>)] = &[
    ("limit_memory", MemoryCapped, Some(group::MEMORY)),
    ("limit_cpu_time", CpuCapped, Some(ACCOUNTING)),
    ("limit_wall_time", WallCapped, None),
    ("limit_tasks", TasksCapped, Some(group::PIDS)),
    ("limit_disk", DiskCapped, Some(jail::SCRATCH)),
    ("limit_output", OutputCapped, None),
    ("limit_open_files", OpenFilesCapped, Some(wall::RLIMITS)),
];

/// Who counts tasks and descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// The host's kernel.
    Host,
    /// A kernel of the sandbox's own, which the wall of this name stands for.
    Inside(&'static str),
}

/// A wall as it was built or measured, by the backend's tables.
pub fn built(known: KnownWalls, step: &Step) -> Wall {
    let got = step.got.as_deref().map_err(String::as_str);
    known.wall(&step.wall, &step.asked, got)
}

/// All walls of a receipt: those in `steps`, the limits, and those that nobody mentioned.
pub fn all<'a>(
    known: KnownWalls,
    counting: Counting,
    watched: &Watched,
    steps: impl IntoIterator<Item = &'a Step>,
) -> Vec<Wall> {
    let mut walls: Vec<Wall> = steps.into_iter().map(|step| built(known, step)).collect();
    walls.extend(limits(counting, watched, &walls));
    walls.extend(known.unmentioned(&walls));
    walls
}

/// What the backend can guarantee where every wall stands.
pub fn offered(known: KnownWalls) -> Guarantees {
    let limits = LIMITS.iter().map(|(_, guarantee, _)| *guarantee).collect();
    known.offered().union(&limits)
}

/// What of it this machine lets stand, and what it does not.
pub fn offered_here(known: KnownWalls) -> (Guarantees, Lost) {
    // Looked for once: a machine does not change its control groups under a running program.
    static WITHOUT_GROUPS: OnceLock<Lost> = OnceLock::new();
    let mut lost = WITHOUT_GROUPS.get_or_init(lost_to_control_groups).clone();
    lost.extend(lost_to_the_processor());
    split(offered(known), lost)
}

/// Of what a backend has, what is left and what is lost.
pub fn split(has: Guarantees, mut lost: Lost) -> (Guarantees, Lost) {
    lost.retain(|guarantee, _| has.contains(*guarantee));
    let left = has.missing_from(&lost.keys().copied().collect());
    (left, lost)
}

/// What no sandbox on this machine can have because of its processor, or of how its kernel was built and started.
pub fn lost_to_the_processor() -> Lost {
    // Looked for once, too: every run asks, and neither changes under a running program.
    static LOST: OnceLock<Lost> = OnceLock::new();
    let look = || {
        reasons([
            (SpeculationLimited, processor::speculation()),
            (CoreUnshared, processor::core_scheduling()),
        ])
    };
    LOST.get_or_init(look).clone()
}

fn reasons(found: impl IntoIterator<Item = (Guarantee, Result<String, String>)>) -> Lost {
    let lacking = found.into_iter();
    lacking
        .filter_map(|(guarantee, found)| Some((guarantee, found.err()?)))
        .collect()
}

/// Root may make groups wherever there are some. Whoever else may is found out by making one.
fn lost_to_control_groups() -> Lost {
    if !rustix::process::geteuid().is_root() {
        return without_root();
    }
    let layout = Layout::detect().ok();
    let mut have = layout.as_ref().map(Layout::controllers).unwrap_or_default();
    if layout.is_some_and(|layout| layout.kind() == Kind::V2) {
        // Version 2 counts processor time in every group.
        have.push("cpuacct");
    }
    let by_control_group = [
        ("memory", MemoryCapped),
        ("pids", TasksCapped),
        ("cpuacct", CpuCapped),
    ];
    let lost = by_control_group
        .into_iter()
        .filter(|(controller, _)| !have.contains(controller));
    lost.map(|(controller, guarantee)| {
        (guarantee, format!("no control group here for {controller}"))
    })
    .collect()
}

fn without_root() -> Lost {
    let group = Cgroup::reserve("probe");
    let steps = match &group {
        Ok(group) => group.steps(),
        Err(missing) => &missing.steps,
    };
    let of = |wall: &str| {
        let step = steps.iter().find(|step| step.wall == wall);
        step.map_or_else(
            || Err("nobody mentioned it".to_owned()),
            |step| step.got.clone(),
        )
    };
    let counted = match &group {
        Ok(group) => accounting(Some(group)).got,
        Err(missing) => Err(missing.why.clone()),
    };
    reasons([
        (MemoryCapped, of(group::MEMORY)),
        (TasksCapped, of(group::PIDS)),
        (CpuCapped, counted),
    ])
}

/// The wall whose absence costs a limit: none for what the host counts itself.
pub fn enforcer(counting: Counting, guarantee: Guarantee) -> Option<&'static str> {
    let (_, _, by) = LIMITS.iter().find(|(_, of, _)| *of == guarantee)?;
    match (by, counting) {
        (Some(wall::RLIMITS), Counting::Inside(kernel)) => Some(kernel),
        (by, _) => *by,
    }
}

/// The limits of a run, each standing where it is finite and what enforces it stands.
fn limits(counting: Counting, watched: &Watched, walls: &[Wall]) -> Vec<Wall> {
    let stands = |name: &str| walls.iter().any(|wall| wall.name == name && wall.stands());
    LIMITS
        .iter()
        .map(|(name, guarantee, _)| {
            let set = [*guarantee].into_iter().collect();
            let (amount, unit) = amount(counting, watched, *guarantee);
            let missing = match enforcer(counting, *guarantee) {
                _ if amount == u64::MAX => Some("unlimited by choice".to_owned()),
                Some(by) if !stands(by) => Some(format!("{by} does not stand")),
                _ => None,
            };
            let (need, asked) = (Need::Additional, "a ceiling");
            match missing {
                None => Wall::standing(*name, need, asked, format!("{amount} {unit}"), set),
                Some(why) => Wall::absent(*name, need, asked, why, set),
            }
        })
        .collect()
}

fn amount(counting: Counting, watched: &Watched, of: Guarantee) -> (u64, String) {
    let counted = &watched.counted;
    let inside = match counting {
        Counting::Host => "",
        Counting::Inside(_) => ", counted by the sandbox's own kernel for the guest's user",
    };
    let (amount, unit) = match of {
        MemoryCapped => (watched.memory_bytes, "bytes beside the libraries'"),
        CpuCapped => (watched.cpu_time_ms, "ms, read by the host"),
        WallCapped => (watched.wall_time_ms, "ms, by the host's clock"),
        DiskCapped => (watched.disk_bytes, "bytes"),
        OutputCapped => (counted.output_bytes, "bytes a stream, counted by the host"),
        TasksCapped => return (counted.tasks, format!("tasks{inside}")),
        _ => return (counted.open_files, format!("descriptors a process{inside}")),
    };
    (amount, unit.to_owned())
}

/// Processor time of everything in the sandbox, ended processes included, is a number of the group's.
pub fn accounting(cgroup: Option<&Cgroup>) -> Step {
    Step::run(ACCOUNTING, "read by the host", || {
        let cgroup = cgroup.ok_or("there is no control group")?;
        cgroup.cpu_usage().map_err(|error| error.to_string())?;
        Ok("of all its processes, read every 10 ms".to_owned())
    })
}
