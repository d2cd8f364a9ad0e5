//! From what was built and measured to the walls of a receipt: which are required and what each guarantees.

use casemate_driver::walls::{self as shared, Counting};
use casemate_linux::cgroup::wall as group;
use casemate_linux::jail::wall as jail;
use casemate_linux::lockdown::wall;
use casemate_linux::processor::wall as processor;
use casemate_model::guarantee::Guarantee::{
    CoreUnshared, EnvironmentEmpty, HostFilesHidden, InputsReadOnly, LayoutFresh, NetworkAbsent,
    SeparateKernel, SpeculationLimited, SyscallsFiltered,
};
use casemate_model::known::{KnownWall, KnownWalls};

/// What a container is made of, as far as its walls go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// On the host's kernel, made by a runtime that we drive.
    Runtime,
    /// The same with an agent that lives in it.
    Session,
    /// On gVisor's kernel, made by runsc that we drive.
    Gvisor,
    /// On the host's kernel, made by Docker.
    Docker,
    /// On gVisor's kernel, made by Docker.
    DockerGvisor,
}

/// Why programs start cold where there is no other start.
pub(crate) const ALWAYS: &str = "an interpreter of its own for each run";
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

/// Every wall that a container has, whoever made it.
const ALL: &[KnownWall] = &[
    KnownWall::required(RUNTIME, &[]),
    KnownWall::required(jail::SYSTEM, &[]),
    KnownWall::required(jail::INPUTS, &[InputsReadOnly]),
    KnownWall::required(jail::SCRATCH, &[]),
    KnownWall::additional(jail::AFFINITY, &[]),
    KnownWall::required(wall::NETWORK_NAMESPACE, &[NetworkAbsent]),
    KnownWall::required(wall::IPC_NAMESPACE, &[]),
    KnownWall::required(wall::UTS_NAMESPACE, &[]),
    KnownWall::required(wall::MOUNT_NAMESPACE, &[]),
    KnownWall::required(wall::NO_NEW_PRIVS, &[]),
    KnownWall::required(wall::SECCOMP, &[SyscallsFiltered]),
    KnownWall::required(jail::ROOT, &[HostFilesHidden]),
    KnownWall::required(shared::ENVIRONMENT, &[EnvironmentEmpty]),
    KnownWall::required(MEMBERSHIP, &[]),
    KnownWall::additional(group::MEMORY, &[]),
    KnownWall::additional(group::SWAP, &[]),
    KnownWall::additional(group::PIDS, &[]),
    KnownWall::additional(group::CPU, &[]),
    KnownWall::additional(shared::ACCOUNTING, &[]),
    KnownWall::additional(shared::LAYOUT, &[LayoutFresh]),
];

/// What Docker does not have: it makes and starts in one, without a user namespace of its own by default,
/// with its settings a kernel of gVisor's may be root in there, in the host's process table, and what its daemon starts
/// inherits nothing of ours.
const OURS: &[KnownWall] = &[
    KnownWall::required(CREATED, &[]),
    KnownWall::required(jail::PID_NAMESPACE, &[]),
    KnownWall::required(wall::USER_NAMESPACE, &[]),
    KnownWall::required(wall::CAPABILITIES, &[]),
    KnownWall::required(wall::IDENTITY, &[]),
    KnownWall::additional(processor::SPECULATION, &[SpeculationLimited]),
    KnownWall::additional(processor::CORE_SCHEDULING, &[CoreUnshared]),
];

/// What Docker's containers have beside the rest.
const DOCKER: &[KnownWall] = &[KnownWall::required(DAEMON, &[])];

/// What only a container of Docker's on the host's kernel has.
const DOCKER_SHARED: &[KnownWall] = &[
    KnownWall::required(jail::PID_NAMESPACE, &[]),
    KnownWall::additional(wall::USER_NAMESPACE, &[]),
    KnownWall::required(wall::CAPABILITIES, &[]),
    KnownWall::required(wall::IDENTITY, &[]),
    KnownWall::required(jail::PROC, &[]),
    KnownWall::required(jail::DEVICES, &[]),
];

/// What only one of Docker's on gVisor's kernel has.
const DOCKER_GVISOR: &[KnownWall] = &[
    KnownWall::additional(jail::PID_NAMESPACE, &[]),
    KnownWall::required(wall::USER_NAMESPACE, &[]),
    KnownWall::additional(wall::CAPABILITIES, &[]),
    KnownWall::additional(wall::IDENTITY, &[]),
];

/// What only a container on the host's kernel has.
const SHARED_KERNEL: &[KnownWall] = &[
    KnownWall::additional(jail::CGROUP_NAMESPACE, &[]),
    KnownWall::required(wall::RLIMITS, &[]),
    KnownWall::required(wall::DESCRIPTORS, &[]),
    KnownWall::required(wall::NOT_DUMPABLE, &[]),
];

/// What only one that an agent lives in has: more than processes is shown there.
const SESSION: &[KnownWall] = &[KnownWall::required(jail::PROC, &[])];

/// What only gVisor has.
const GVISOR: &[KnownWall] = &[
    KnownWall::required(NETWORK, &[NetworkAbsent]),
    KnownWall::required(KERNEL, &[SeparateKernel]),
];

impl Family {
    const fn is_gvisor(self) -> bool {
        matches!(self, Self::Gvisor | Self::DockerGvisor)
    }

    /// Every wall that such a container has.
    pub(crate) const fn walls(self) -> KnownWalls {
        match self {
            Self::Runtime => KnownWalls(&[ALL, OURS, SHARED_KERNEL]),
            Self::Session => KnownWalls(&[ALL, OURS, SHARED_KERNEL, SESSION]),
            Self::Gvisor => KnownWalls(&[ALL, OURS, GVISOR]),
            Self::Docker => KnownWalls(&[ALL, DOCKER, DOCKER_SHARED, SHARED_KERNEL]),
            Self::DockerGvisor => KnownWalls(&[ALL, DOCKER, DOCKER_GVISOR, GVISOR]),
        }
    }

    /// Who counts its tasks and descriptors.
    pub(crate) const fn counting(self) -> Counting {
        if self.is_gvisor() {
            Counting::Inside(KERNEL)
        } else {
            Counting::Host
        }
    }
}

#[cfg(test)]
mod tests {
    use casemate_backend::suite::plan_for;
    use casemate_driver::system::sample;
    use casemate_linux::Step;
    use casemate_model::guarantee::{Guarantee, Guarantees};
    use casemate_model::policy::base_guarantees;
    use casemate_model::receipt::{Need, Receipt};

    use super::*;
    use crate::kind::Kind;
    use crate::lower::lower;

    const FAMILIES: [Family; 5] = [
        Family::Runtime,
        Family::Session,
        Family::Gvisor,
        Family::Docker,
        Family::DockerGvisor,
    ];

    fn whole(family: Family) -> Vec<Step> {
        family
            .walls()
            .iter()
            .map(|wall| Step::run(wall.name, "asked", || Ok("stands".to_owned())))
            .collect()
    }

    fn receipt(family: Family, steps: &[Step]) -> Receipt {
        let plan = plan_for("print(1)");
        let watched = lower(Kind::Runc, &plan, &sample().unwrap())
            .unwrap()
            .watched;
        let walls = shared::all(family.walls(), family.counting(), &watched, steps);
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
            assert_eq!(
                receipt(family, &whole(family)).satisfies(&asked(family)),
                Ok(())
            );
            let missing = base_guarantees().missing_from(&shared::offered(family.walls()));
            assert_eq!(missing.iter().collect::<Vec<_>>(), [Guarantee::ClockCoarse]);
        }
        for family in FAMILIES {
            let own = shared::offered(family.walls()).contains(SeparateKernel);
            assert_eq!(own, family.is_gvisor());
        }
    }

    #[test]
    fn each_required_wall_taken_away_or_kept_silent_about_is_a_gap() {
        for family in FAMILIES {
            for KnownWall { name, need, .. } in family.walls().iter() {
                let mut steps = whole(family);
                let step = steps.iter_mut().find(|step| step.wall == *name).unwrap();
                step.got = Err("taken away".to_owned());
                let gap = receipt(family, &steps).satisfies(&asked(family));
                let mut limits = asked(family).iter().collect::<Vec<_>>().into_iter();
                let enforces =
                    limits.any(|of| shared::enforcer(family.counting(), of) == Some(name));
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
        let step = Step::run(KERNEL, "x", || Ok("very".to_owned()));
        let wall = shared::built(Family::Runtime.walls(), &step);
        assert!(wall.guarantees.is_empty() && wall.need == Need::Required);
    }
}
