//! Resource limits of a jail.

use rustix::process::{Resource, getrlimit};

use super::Confinement;
use crate::limit::Limit;
use crate::lockdown::{set_rlimits, wall};
use crate::step::Step;

/// Process 1 and the one that waits for it are of the same user. One more, so that the control group,
/// which tells the host, is met first.
const OURS: u64 = 3;

/// A resource limit of every process of a jail, hard and soft alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// What `setrlimit` calls it.
    pub name: &'static str,
    /// What `/proc/PID/limits` calls it.
    pub shown: &'static str,
    /// The resource.
    pub resource: Resource,
    /// The limit. A hard limit of the calling process that is lower stays.
    pub limit: Limit,
}

/// The limits of a jail's processes, when this process starts them.
#[must_use]
pub fn rlimits(plan: &Confinement) -> Vec<Rlimit> {
    let tasks = match plan.tasks {
        Limit::At(tasks) if rustix::process::geteuid().is_root() => {
            Limit::At(tasks.saturating_add(OURS))
        }
        // A user's other processes would count too.
        _ => Limit::Unlimited,
    };
    let none = Limit::At(0);
    [
        ("nofile", "open files", Resource::Nofile, plan.open_files),
        ("nproc", "processes", Resource::Nproc, tasks),
        ("core", "core file size", Resource::Core, none),
        ("memlock", "locked memory", Resource::Memlock, none),
        ("msgqueue", "msgqueue size", Resource::Msgqueue, none),
        ("rtprio", "realtime priority", Resource::Rtprio, none),
        ("nice", "nice priority", Resource::Nice, none),
    ]
    .into_iter()
    .map(|(name, shown, resource, limit)| Rlimit {
        name,
        shown,
        resource,
        limit: lower(resource, limit),
    })
    .collect()
}

/// Only root could raise a hard limit, and nobody should.
fn lower(resource: Resource, limit: Limit) -> Limit {
    match (limit, getrlimit(resource).maximum) {
        (Limit::At(wanted), Some(hard)) => Limit::At(wanted.min(hard)),
        (limit, _) => limit,
    }
}

pub(super) fn apply(plan: &Confinement) -> Step {
    let limits: Vec<_> = rlimits(plan)
        .iter()
        .map(|limit| (limit.name, limit.resource, limit.limit))
        .collect();
    set_rlimits(wall::RLIMITS, &limits)
}
