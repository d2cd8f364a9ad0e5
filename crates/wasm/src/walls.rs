//! From what a worker reports to the walls of a receipt: which are required and what each guarantees.

use casemate_linux::Step;
use casemate_linux::cgroup::wall as group;
use casemate_linux::lockdown::wall;
use casemate_linux::processor::wall as processor;
use casemate_model::guarantee::Guarantee::{
    ClockCoarse, CoreUnshared, CpuCapped, DiskCapped, EnvironmentEmpty, HostFilesHidden,
    InputsReadOnly, MemoryCapped, MemoryIsolated, NativeCodeAbsent, NetworkAbsent, OpenFilesCapped,
    OutputCapped, ProcessesAbsent, SpeculationLimited, SyscallsFiltered, TasksCapped, WallCapped,
};
use casemate_model::known::{KnownWall, KnownWalls};
use casemate_model::receipt::Wall;

use crate::wire::WireWall;

/// Every wall that a worker may report.
pub(crate) const WORKER: KnownWalls = KnownWalls(&[&[
    KnownWall::required(wall::SINGLE_THREAD, &[]),
    KnownWall::required(wall::NO_NEW_PRIVS, &[]),
    KnownWall::required(wall::DESCRIPTORS, &[]),
    KnownWall::additional(wall::USER_NAMESPACE, &[]),
    KnownWall::additional(wall::NETWORK_NAMESPACE, &[NetworkAbsent]),
    KnownWall::additional(wall::IPC_NAMESPACE, &[]),
    KnownWall::additional(wall::UTS_NAMESPACE, &[]),
    KnownWall::additional(wall::MOUNT_NAMESPACE, &[]),
    KnownWall::additional(wall::EMPTY_ROOT, &[HostFilesHidden]),
    KnownWall::required(wall::RLIMITS, &[]),
    KnownWall::additional(wall::IDENTITY, &[]),
    KnownWall::required(wall::CAPABILITIES, &[]),
    KnownWall::required(wall::DIES_WITH_PARENT, &[]),
    KnownWall::required(wall::NOT_DUMPABLE, &[]),
    KnownWall::additional(processor::SPECULATION, &[SpeculationLimited]),
    KnownWall::additional(processor::CORE_SCHEDULING, &[CoreUnshared]),
    KnownWall::additional(wall::LANDLOCK_FILES, &[HostFilesHidden]),
    KnownWall::additional(wall::LANDLOCK_NETWORK, &[]),
    KnownWall::additional(wall::LANDLOCK_SCOPES, &[]),
    KnownWall::required(
        wall::SECCOMP,
        &[
            SyscallsFiltered,
            HostFilesHidden,
            NetworkAbsent,
            ProcessesAbsent,
        ],
    ),
    KnownWall::additional(wall::NO_EXEC_GAIN, &[]),
    KnownWall::required(wall::SECCOMP_SEALED, &[NativeCodeAbsent]),
    KnownWall::required(
        "wasm",
        &[
            MemoryIsolated,
            NativeCodeAbsent,
            ProcessesAbsent,
            TasksCapped,
        ],
    ),
    KnownWall::required("wasi_files", &[HostFilesHidden, InputsReadOnly]),
    KnownWall::required("wasi_network", &[NetworkAbsent]),
    KnownWall::required("wasi_environment", &[EnvironmentEmpty]),
    KnownWall::required("wasi_clock", &[ClockCoarse]),
    KnownWall::additional("limit_memory", &[MemoryCapped]),
    KnownWall::additional("limit_cpu_time", &[CpuCapped]),
    KnownWall::additional("limit_wall_time", &[WallCapped]),
    KnownWall::additional("limit_disk", &[DiskCapped]),
    KnownWall::additional("limit_disk_files", &[]),
    KnownWall::additional("limit_output", &[OutputCapped]),
    KnownWall::additional("limit_open_files", &[OpenFilesCapped]),
]]);

/// The walls that the host puts up around a worker: its control groups. A worker's word for one of
/// them counts for nothing.
const AROUND: KnownWalls = KnownWalls(&[&[
    KnownWall::additional(group::MEMORY, &[MemoryCapped]),
    KnownWall::additional(group::SWAP, &[]),
    KnownWall::additional(group::PIDS, &[TasksCapped]),
    KnownWall::additional(group::CPU, &[]),
]]);

/// A wall as a worker reported it.
pub(crate) fn reported(wire: &WireWall) -> Wall {
    let got = wire.got.as_deref().map_err(String::as_str);
    WORKER.wall(&wire.wall, &wire.asked, got)
}

/// A wall around the worker.
pub(crate) fn around(step: &Step) -> Wall {
    let got = step.got.as_deref().map_err(String::as_str);
    AROUND.wall(&step.wall, &step.asked, got)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_wall_guarantees_nothing_and_a_silent_worker_has_none() {
        let wall = reported(&WireWall::standing("moat", "deep", "very"));
        assert!(wall.guarantees.is_empty());
        let missing = WORKER.unmentioned(&[]);
        assert!(
            missing
                .iter()
                .any(|wall| wall.name == wall::SECCOMP && !wall.stands())
        );
    }

    #[test]
    fn a_workers_word_for_a_wall_around_it_counts_for_nothing() {
        let wall = reported(&WireWall::standing(group::MEMORY, "a ceiling", "trust me"));
        assert!(wall.guarantees.is_empty());
        let step = Step::run(group::MEMORY, "a ceiling", || Ok("1 MiB".to_owned()));
        assert!(around(&step).guarantees.contains(MemoryCapped));
    }

    #[test]
    fn the_offer_covers_what_every_policy_asks() {
        let asked = casemate_model::policy::base_guarantees();
        assert!(asked.missing_from(&WORKER.offered()).is_empty());
    }
}
