//! From what a worker reports to the walls of a receipt: which are required and what each guarantees.

use casemate_linux::Step;
use casemate_linux::lockdown::wall;
use casemate_model::guarantee::Guarantee::{
    self, ClockCoarse, CpuCapped, DiskCapped, EnvironmentEmpty, HostFilesHidden, InputsReadOnly,
    MemoryCapped, MemoryIsolated, NativeCodeAbsent, NetworkAbsent, OpenFilesCapped, OutputCapped,
    ProcessesAbsent, SyscallsFiltered, TasksCapped, WallCapped,
};
use casemate_model::guarantee::Guarantees;
use casemate_model::receipt::{Need, Wall};

use crate::wire::WireWall;

/// Every wall there can be: its name, whether a run may start without it, what it guarantees.
const KNOWN: &[(&str, Need, &[Guarantee])] = &[
    (wall::SINGLE_THREAD, Need::Required, &[]),
    (wall::NO_NEW_PRIVS, Need::Required, &[]),
    (wall::DESCRIPTORS, Need::Required, &[]),
    (wall::USER_NAMESPACE, Need::Additional, &[]),
    (wall::NETWORK_NAMESPACE, Need::Additional, &[NetworkAbsent]),
    (wall::IPC_NAMESPACE, Need::Additional, &[]),
    (wall::UTS_NAMESPACE, Need::Additional, &[]),
    (wall::MOUNT_NAMESPACE, Need::Additional, &[]),
    (wall::EMPTY_ROOT, Need::Additional, &[HostFilesHidden]),
    (wall::RLIMITS, Need::Required, &[]),
    (wall::IDENTITY, Need::Additional, &[]),
    (wall::CAPABILITIES, Need::Required, &[]),
    (wall::DIES_WITH_PARENT, Need::Required, &[]),
    (wall::NOT_DUMPABLE, Need::Required, &[]),
    (wall::LANDLOCK_FILES, Need::Additional, &[HostFilesHidden]),
    (wall::LANDLOCK_NETWORK, Need::Additional, &[]),
    (wall::LANDLOCK_SCOPES, Need::Additional, &[]),
    (
        wall::SECCOMP,
        Need::Required,
        &[
            SyscallsFiltered,
            HostFilesHidden,
            NetworkAbsent,
            ProcessesAbsent,
        ],
    ),
    (wall::NO_EXEC_GAIN, Need::Additional, &[]),
    (wall::SECCOMP_SEALED, Need::Required, &[NativeCodeAbsent]),
    (
        "wasm",
        Need::Required,
        &[
            MemoryIsolated,
            NativeCodeAbsent,
            ProcessesAbsent,
            TasksCapped,
        ],
    ),
    (
        "wasi_files",
        Need::Required,
        &[HostFilesHidden, InputsReadOnly],
    ),
    ("wasi_network", Need::Required, &[NetworkAbsent]),
    ("wasi_environment", Need::Required, &[EnvironmentEmpty]),
    ("wasi_clock", Need::Required, &[ClockCoarse]),
    ("limit_memory", Need::Additional, &[MemoryCapped]),
    ("limit_cpu_time", Need::Additional, &[CpuCapped]),
    ("limit_wall_time", Need::Additional, &[WallCapped]),
    ("limit_disk", Need::Additional, &[DiskCapped]),
    ("limit_disk_files", Need::Additional, &[]),
    ("limit_output", Need::Additional, &[OutputCapped]),
    ("limit_open_files", Need::Additional, &[OpenFilesCapped]),
];

/// What the backend can guarantee where every required wall stands.
pub(crate) fn offered() -> Guarantees {
    KNOWN
        .iter()
        .flat_map(|(_, _, guarantees)| guarantees.iter().copied())
        .collect()
}

/// A wall as a worker reported it. One that we do not know guarantees nothing and is required, so that
/// a worker of another version cannot slip one past.
pub(crate) fn reported(wire: WireWall) -> Wall {
    let known = KNOWN.iter().find(|(name, ..)| *name == wire.wall);
    let (need, guarantees) = known
        .map_or((Need::Required, Guarantees::none()), |(_, need, set)| {
            (*need, set.iter().copied().collect())
        });
    match wire.got {
        Ok(got) => Wall::standing(wire.wall, need, wire.asked, got, guarantees),
        Err(missing) => Wall::absent(wire.wall, need, wire.asked, missing, guarantees),
    }
}

/// A wall the host put up around the worker: its control groups.
pub(crate) fn around(step: &Step) -> Wall {
    let guarantees: Guarantees = match step.wall.as_ref() {
        "cgroup_memory" => [MemoryCapped].into_iter().collect(),
        "cgroup_pids" => [TasksCapped].into_iter().collect(),
        _ => Guarantees::none(),
    };
    match &step.got {
        Ok(got) => Wall::standing(
            step.wall.clone(),
            Need::Additional,
            &step.asked,
            got,
            guarantees,
        ),
        Err(missing) => Wall::absent(
            step.wall.clone(),
            Need::Additional,
            &step.asked,
            missing,
            guarantees,
        ),
    }
}

/// The walls that no run goes without and that `walls` does not even mention.
pub(crate) fn unmentioned(walls: &[Wall]) -> Vec<Wall> {
    KNOWN
        .iter()
        .filter(|(name, need, _)| {
            *need == Need::Required && walls.iter().all(|wall| wall.name != *name)
        })
        .map(|(name, need, set)| {
            let guarantees = set.iter().copied().collect();
            Wall::absent(
                *name,
                *need,
                "the wall",
                "the worker did not mention it",
                guarantees,
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_wall_guarantees_nothing_and_a_silent_worker_has_none() {
        let wall = reported(WireWall::standing("moat", "deep", "very"));
        assert!(wall.guarantees.is_empty());
        let missing = unmentioned(&[]);
        assert!(
            missing
                .iter()
                .any(|wall| wall.name == wall::SECCOMP && !wall.stands())
        );
    }

    #[test]
    fn the_offer_covers_what_every_policy_asks() {
        let asked = casemate_model::policy::base_guarantees();
        assert!(asked.missing_from(&offered()).is_empty());
    }
}
