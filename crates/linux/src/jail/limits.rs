//! Resource limits of a jail.

use rustix::process::Resource;

use super::Confinement;
use crate::limit::Limit;
use crate::lockdown::{set_rlimits, wall};
use crate::step::Step;

/// Process 1 and the one that waits for it are of the same user. One more, so that the control group,
/// which tells the host, is met first.
const OURS: u64 = 3;

pub(super) fn apply(plan: &Confinement) -> Step {
    let tasks = match plan.tasks {
        Limit::At(tasks) if rustix::process::geteuid().is_root() => {
            Limit::At(tasks.saturating_add(OURS))
        }
        // A user's other processes would count too.
        _ => Limit::Unlimited,
    };
    set_rlimits(
        wall::RLIMITS,
        &[
            ("nofile", Resource::Nofile, plan.open_files),
            ("nproc", Resource::Nproc, tasks),
            ("core", Resource::Core, Limit::At(0)),
            ("memlock", Resource::Memlock, Limit::At(0)),
            ("msgqueue", Resource::Msgqueue, Limit::At(0)),
            ("rtprio", Resource::Rtprio, Limit::At(0)),
            ("nice", Resource::Nice, Limit::At(0)),
        ],
    )
}
