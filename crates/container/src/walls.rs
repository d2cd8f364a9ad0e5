//! From what was built and measured to the walls of a receipt: which are required and what each guarantees.

use casemate_driver::lowered::Watched;
use casemate_linux::Step;
use casemate_linux::cgroup::wall as group;
use casemate_linux::jail::wall as jail;
use casemate_linux::lockdown::wall;
use casemate_model::guarantee::Guarantee::{
    self, CpuCapped, DiskCapped, EnvironmentEmpty, HostFilesHidden, InputsReadOnly, MemoryCapped,
    NetworkAbsent, OpenFilesCapped, OutputCapped, SeparateKernel, SyscallsFiltered, TasksCapped,
    WallCapped,
};
use casemate_model::guarantee::Guarantees;
use casemate_model::receipt::{Need, Wall};

/// What a container is made of, as far as its walls go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// On the host's kernel, made by a runtime that we drive.
    Runtime,
    /// On gVisor's kernel, made by runsc that we drive.
    Gvisor,
    /// On the host's kernel, made by Docker.
    Docker,
    /// On gVisor's kernel, made by Docker.
    DockerGvisor,
}

impl Family {
    const fn is_gvisor(self) -> bool {
        matches!(self, Self::Gvisor | Self::DockerGvisor)
    }
}

/// The runtime's version is not one with a known hole.
pub(crate) const RUNTIME: &str = "runtime_version";
/// The daemon is on this machine, and the container is made of what was staged here.
pub(crate) const DAEMON: &str = "docker_daemon";
/// The container was looked at before it was started.
pub(crate) const CREATED: &str = "created_not_started";
/// The container's processes are in our control group.
pub(crate) const MEMBERSHIP: &str = "cgroup_membership";
/// None of gVisor's processes is in the host's network.
pub(crate) const NETWORK: &str = "network_of_all";
/// The guest's kernel is not the host's.
pub(crate) const KERNEL: &str = "separate_kernel";
/// The environment is made from the plan alone.
pub(crate) const ENVIRONMENT: &str = "environment";
/// Processor time is read from the control group.
pub(crate) const ACCOUNTING: &str = "cgroup_cpu_usage";

type Known = (&'static str, Need, &'static [Guarantee]);

/// Every wall that a container has, whoever made it.
const ALL: &[Known] = &[
    (RUNTIME, Need::Required, &[]),
    (jail::SYSTEM, Need::Required, &[]),
    (jail::INPUTS, Need::Required, &[InputsReadOnly]),
    (jail::SCRATCH, Need::Required, &[]),
    (jail::AFFINITY, Need::Additional, &[]),
    (wall::NETWORK_NAMESPACE, Need::Required, &[NetworkAbsent]),
    (wall::IPC_NAMESPACE, Need::Required, &[]),
    (wall::UTS_NAMESPACE, Need::Required, &[]),
    (wall::MOUNT_NAMESPACE, Need::Required, &[]),
    (wall::NO_NEW_PRIVS, Need::Required, &[]),
    (wall::SECCOMP, Need::Required, &[SyscallsFiltered]),
    (jail::ROOT, Need::Required, &[HostFilesHidden]),
    (ENVIRONMENT, Need::Required, &[EnvironmentEmpty]),
    (MEMBERSHIP, Need::Required, &[]),
    (group::MEMORY, Need::Additional, &[]),
    (group::SWAP, Need::Additional, &[]),
    (group::PIDS, Need::Additional, &[]),
    (group::CPU, Need::Additional, &[]),
    (ACCOUNTING, Need::Additional, &[]),
];

/// What Docker does not have: it makes and starts in one, without a user namespace of its own by default,
/// and with its settings a kernel of gVisor's may be root in there, in the host's process table.
const OURS: &[Known] = &[
    (CREATED, Need::Required, &[]),
    (jail::PID_NAMESPACE, Need::Required, &[]),
    (wall::USER_NAMESPACE, Need::Required, &[]),
    (wall::CAPABILITIES, Need::Required, &[]),
    (wall::IDENTITY, Need::Required, &[]),
];

/// What Docker's containers have beside the rest.
const DOCKER: &[Known] = &[(DAEMON, Need::Required, &[])];

/// What only a container of Docker's on the host's kernel has.
const DOCKER_SHARED: &[Known] = &[
    (jail::PID_NAMESPACE, Need::Required, &[]),
    (wall::USER_NAMESPACE, Need::Additional, &[]),
    (wall::CAPABILITIES, Need::Required, &[]),
    (wall::IDENTITY, Need::Required, &[]),
    (jail::PROC, Need::Required, &[]),
    (jail::DEVICES, Need::Required, &[]),
];

/// What only one of Docker's on gVisor's kernel has.
const DOCKER_GVISOR: &[Known] = &[
    (jail::PID_NAMESPACE, Need::Additional, &[]),
    (wall::USER_NAMESPACE, Need::Required, &[]),
    (wall::CAPABILITIES, Need::Additional, &[]),
    (wall::IDENTITY, Need::Additional, &[]),
];

/// What only a container on the host's kernel has.
const SHARED_KERNEL: &[Known] = &[
    (jail::CGROUP_NAMESPACE, Need::Additional, &[]),
    (wall::RLIMITS, Need::Required, &[]),
    (wall::DESCRIPTORS, Need::Required, &[]),
    (wall::NOT_DUMPABLE, Need::Required, &[]),
];

/// What only gVisor has.
const GVISOR: &[Known] = &[
    (NETWORK, Need::Required, &[NetworkAbsent]),
    (KERNEL, Need::Required, &[SeparateKernel]),
];

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

fn known(family: Family) -> impl Iterator<Item = &'static Known> {
    let rows: [&[Known]; 4] = match family {
        Family::Runtime => [ALL, OURS, SHARED_KERNEL, &[]],
        Family::Gvisor => [ALL, OURS, GVISOR, &[]],
        Family::Docker => [ALL, DOCKER, DOCKER_SHARED, SHARED_KERNEL],
        Family::DockerGvisor => [ALL, DOCKER, DOCKER_GVISOR, GVISOR],
    };
    rows.into_iter().flatten()
}

/// What enforces a limit: for gVisor, descriptors are its own kernel's to count.
fn enforcer(family: Family, by: Option<&'static str>) -> Option<&'static str> {
    match by {
        Some(wall::RLIMITS) if family.is_gvisor() => Some(KERNEL),
        other => other,
    }
}

/// What the backend can guarantee where every wall stands.
pub(crate) fn offered(family: Family) -> Guarantees {
    let walls = known(family).flat_map(|(_, _, set)| set.iter().copied());
    walls.chain(LIMITS.iter().map(|(_, g, _)| *g)).collect()
}

/// A wall as it was built or measured. One that we do not know guarantees nothing and is required.
pub(crate) fn built(family: Family, step: &Step) -> Wall {
    let row = known(family).find(|(name, ..)| *name == step.wall);
    let (need, guarantees) = row.map_or((Need::Required, Guarantees::none()), |(_, need, set)| {
        (*need, set.iter().copied().collect())
    });
    let name = step.wall.clone();
    match &step.got {
        Ok(got) => Wall::standing(name, need, &step.asked, got, guarantees),
        Err(missing) => Wall::absent(name, need, &step.asked, missing, guarantees),
    }
}

/// The limits of a run, each standing where it is finite and what enforces it stands.
pub(crate) fn limits(family: Family, watched: &Watched, walls: &[Wall]) -> Vec<Wall> {
    let counted = &watched.counted;
    let inside = if family.is_gvisor() {
        ", counted by gVisor's kernel for the guest's user"
    } else {
        ""
    };
    let amount = |name: &str| match name {
        "limit_memory" => (
            watched.memory_bytes,
            "bytes beside the libraries'".to_owned(),
        ),
        "limit_cpu_time" => (watched.cpu_time_ms, "ms, read by the host".to_owned()),
        "limit_wall_time" => (watched.wall_time_ms, "ms, by the host's clock".to_owned()),
        "limit_tasks" => (counted.tasks, format!("tasks{inside}")),
        "limit_disk" => (watched.disk_bytes, "bytes".to_owned()),
        "limit_output" => (
            counted.output_bytes,
            "bytes a stream, counted by the host".to_owned(),
        ),
        _ => (counted.open_files, format!("descriptors a process{inside}")),
    };
    let stands = |name: &str| walls.iter().any(|wall| wall.name == name && wall.stands());
    LIMITS
        .iter()
        .map(|(name, guarantee, by)| {
            let set = [*guarantee].into_iter().collect();
            let (amount, unit) = amount(name);
            let missing = match enforcer(family, *by) {
                _ if amount == u64::MAX => Some("unlimited by choice".to_owned()),
                Some(by) if !stands(by) => Some(format!("{by} does not stand")),
                _ => None,
            };
            let need = Need::Additional;
            match missing {
                None => Wall::standing(*name, need, "a ceiling", format!("{amount} {unit}"), set),
                Some(why) => Wall::absent(*name, need, "a ceiling", why, set),
            }
        })
        .collect()
}

/// The walls that no run goes without and that `walls` does not even mention.
pub(crate) fn unmentioned(family: Family, walls: &[Wall]) -> Vec<Wall> {
    known(family)
        .filter(|(name, need, _)| {
            *need == Need::Required && walls.iter().all(|wall| wall.name != *name)
        })
        .map(|(name, need, set)| {
            let set = set.iter().copied().collect();
            Wall::absent(*name, *need, "the wall", "nobody mentioned it", set)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use casemate_backend::suite::plan_for;
    use casemate_model::policy::base_guarantees;
    use casemate_model::receipt::Receipt;

    use super::*;
    use crate::kind::Kind;
    use crate::lower::lower;

    const FAMILIES: [Family; 4] = [
        Family::Runtime,
        Family::Gvisor,
        Family::Docker,
        Family::DockerGvisor,
    ];

    fn whole(family: Family) -> Vec<Step> {
        known(family)
            .map(|(name, ..)| Step::run(name, "asked", || Ok("stands".to_owned())))
            .collect()
    }

    fn receipt(family: Family, steps: &[Step]) -> Receipt {
        let plan = plan_for("print(1)");
        let watched = lower(Kind::Runc, &plan, "/p").unwrap().watched;
        let mut walls: Vec<Wall> = steps.iter().map(|step| built(family, step)).collect();
        walls.extend(limits(family, &watched, &walls));
        walls.extend(unmentioned(family, &walls));
        Receipt {
            backend: "x".into(),
            guest: "none".into(),
            walls,
        }
    }

    fn asked(family: Family) -> Guarantees {
        let coarse = [Guarantee::ClockCoarse].into_iter().collect();
        let base = base_guarantees().missing_from(&coarse);
        if family.is_gvisor() {
            return base.union(&[SeparateKernel].into_iter().collect());
        }
        base
    }

    #[test]
    fn with_every_wall_it_covers_all_but_the_coarse_clock() {
        for family in FAMILIES {
            assert_eq!(receipt(family, &whole(family)).satisfies(&asked(family)), Ok(()));
            let missing = base_guarantees().missing_from(&offered(family));
            assert_eq!(missing.iter().collect::<Vec<_>>(), [Guarantee::ClockCoarse]);
        }
        for family in FAMILIES {
            let own = offered(family).contains(SeparateKernel);
            assert_eq!(own, family.is_gvisor());
        }
    }

    #[test]
    fn each_required_wall_taken_away_or_kept_silent_about_is_a_gap() {
        for family in FAMILIES {
            for (name, need, _) in known(family) {
                let mut steps = whole(family);
                let step = steps.iter_mut().find(|step| step.wall == *name).unwrap();
                step.got = Err("taken away".to_owned());
                let gap = receipt(family, &steps).satisfies(&asked(family));
                let enforces = LIMITS
                    .iter()
                    .any(|(_, _, by)| enforcer(family, *by) == Some(name));
                let refused = *need == Need::Required || enforces;
                assert_eq!(gap.is_err(), refused, "{name}");
                let silent: Vec<Step> = whole(family)
                    .into_iter()
                    .filter(|s| s.wall != *name)
                    .collect();
                assert_eq!(
                    receipt(family, &silent).satisfies(&asked(family)).is_err(),
                    refused,
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn a_wall_of_another_runtimes_guarantees_nothing() {
        let wall = built(
            Family::Runtime,
            &Step::run(KERNEL, "x", || Ok("very".to_owned())),
        );
        assert!(wall.guarantees.is_empty() && wall.need == Need::Required);
    }
}
