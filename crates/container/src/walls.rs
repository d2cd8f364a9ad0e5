//! From what was built and measured to the walls of a receipt: which are required and what each guarantees.

use casemate_driver::walls::{self as shared, Counting};
use casemate_linux::cgroup::wall as group;
use casemate_linux::jail::wall as jail;
use casemate_linux::lockdown::wall;
use casemate_model::guarantee::Guarantee::{
    EnvironmentEmpty, HostFilesHidden, InputsReadOnly, NetworkAbsent, SeparateKernel,
    SyscallsFiltered,
};
use casemate_model::known::{KnownWall, KnownWalls};

use crate::kind::Kind;

/// The runtime's version is not one with a known hole.
pub(crate) const RUNTIME: &str = "runtime_version";
/// The container was looked at before it was started.
pub(crate) const CREATED: &str = "created_not_started";
/// The container's processes are in our control group.
pub(crate) const MEMBERSHIP: &str = "cgroup_membership";
/// None of gVisor's processes is in the host's network.
pub(crate) const NETWORK: &str = "network_of_all";
/// The guest's kernel is not the host's.
pub(crate) const KERNEL: &str = "separate_kernel";
/// Every wall that a container of any runtime has.
const BOTH: &[KnownWall] = &[
    KnownWall::required(RUNTIME, &[]),
    KnownWall::required(jail::SYSTEM, &[]),
    KnownWall::required(jail::INPUTS, &[InputsReadOnly]),
    KnownWall::required(jail::SCRATCH, &[]),
    KnownWall::additional(jail::AFFINITY, &[]),
    KnownWall::required(CREATED, &[]),
    KnownWall::required(wall::NETWORK_NAMESPACE, &[NetworkAbsent]),
    KnownWall::required(wall::IPC_NAMESPACE, &[]),
    KnownWall::required(wall::UTS_NAMESPACE, &[]),
    KnownWall::required(wall::MOUNT_NAMESPACE, &[]),
    KnownWall::required(jail::PID_NAMESPACE, &[]),
    KnownWall::required(wall::USER_NAMESPACE, &[]),
    KnownWall::required(wall::CAPABILITIES, &[]),
    KnownWall::required(wall::IDENTITY, &[]),
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
];

/// What only a container on the host's kernel has.
const SHARED_KERNEL: &[KnownWall] = &[
    KnownWall::additional(jail::CGROUP_NAMESPACE, &[]),
    KnownWall::required(wall::RLIMITS, &[]),
    KnownWall::required(wall::DESCRIPTORS, &[]),
    KnownWall::required(wall::NOT_DUMPABLE, &[]),
];

/// What only gVisor has.
const GVISOR: &[KnownWall] = &[
    KnownWall::required(NETWORK, &[NetworkAbsent]),
    KnownWall::required(KERNEL, &[SeparateKernel]),
];

/// Every wall that a container of this kind has.
pub(crate) const fn of(kind: Kind) -> KnownWalls {
    if kind.is_gvisor() {
        KnownWalls(&[BOTH, GVISOR])
    } else {
        KnownWalls(&[BOTH, SHARED_KERNEL])
    }
}

/// Who counts its tasks and descriptors.
pub(crate) const fn counting(kind: Kind) -> Counting {
    if kind.is_gvisor() {
        Counting::Inside(KERNEL)
    } else {
        Counting::Host
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
    use crate::Platform;
    use crate::lower::lower;

    const KINDS: [Kind; 3] = [Kind::Runc, Kind::Crun, Kind::Gvisor(Platform::Systrap)];

    fn whole(kind: Kind) -> Vec<Step> {
        of(kind)
            .iter()
            .map(|wall| Step::run(wall.name, "asked", || Ok("stands".to_owned())))
            .collect()
    }

    fn receipt(kind: Kind, steps: &[Step]) -> Receipt {
        let plan = plan_for("print(1)");
        let watched = lower(kind, &plan, &sample().unwrap()).unwrap().watched;
        let walls = shared::all(of(kind), counting(kind), &watched, steps);
        Receipt {
            backend: kind.name().into(),
            guest: "none".into(),
            walls,
        }
    }

    fn asked(kind: Kind) -> Guarantees {
        let coarse = [Guarantee::ClockCoarse].into_iter().collect();
        let base = base_guarantees().missing_from(&coarse);
        if kind.is_gvisor() {
            return base.union(&[SeparateKernel].into_iter().collect());
        }
        base
    }

    #[test]
    fn with_every_wall_it_covers_all_but_the_coarse_clock() {
        for kind in KINDS {
            assert_eq!(receipt(kind, &whole(kind)).satisfies(&asked(kind)), Ok(()));
            let missing = base_guarantees().missing_from(&shared::offered(of(kind)));
            assert_eq!(missing.iter().collect::<Vec<_>>(), [Guarantee::ClockCoarse]);
        }
        assert!(!shared::offered(of(Kind::Runc)).contains(SeparateKernel));
    }

    #[test]
    fn each_required_wall_taken_away_or_kept_silent_about_is_a_gap() {
        for kind in KINDS {
            for KnownWall { name, need, .. } in of(kind).iter() {
                let mut steps = whole(kind);
                let step = steps.iter_mut().find(|step| step.wall == *name).unwrap();
                step.got = Err("taken away".to_owned());
                let gap = receipt(kind, &steps).satisfies(&asked(kind));
                let mut limits = asked(kind).iter().collect::<Vec<_>>().into_iter();
                let enforces = limits.any(|of| shared::enforcer(counting(kind), of) == Some(name));
                let refused = *need == Need::Required || enforces;
                assert_eq!(gap.is_err(), refused, "{name}");
                let silent: Vec<Step> = whole(kind)
                    .into_iter()
                    .filter(|s| s.wall != *name)
                    .collect();
                assert_eq!(
                    receipt(kind, &silent).satisfies(&asked(kind)).is_err(),
                    refused,
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn a_wall_of_another_runtimes_guarantees_nothing() {
        let step = Step::run(KERNEL, "x", || Ok("very".to_owned()));
        let wall = shared::built(of(Kind::Runc), &step);
        assert!(wall.guarantees.is_empty() && wall.need == Need::Required);
    }
}
