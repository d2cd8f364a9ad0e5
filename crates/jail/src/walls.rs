//! From what the kernel gave to the walls of a receipt: which are required and what each guarantees.

use casemate_driver::walls as shared;
use casemate_linux::Step;
use casemate_linux::cgroup::wall as group;
use casemate_linux::jail::wall as jail;
use casemate_linux::lockdown::wall;
use casemate_linux::processor::wall as processor;
use casemate_model::guarantee::Guarantee::{
    CoreUnshared, EnvironmentEmpty, HostFilesHidden, InputsReadOnly, LayoutFresh, NetworkAbsent,
    SpeculationLimited, SyscallsFiltered,
};
use casemate_model::known::{KnownWall, KnownWalls};
use casemate_model::receipt::Receipt;

/// The program's process is in the jail's control groups; told where it was not started in them.
pub(crate) const MEMBERSHIP: &str = "cgroup_membership";
/// How the words begin for whose layout a program shares that did not start cold.
const FORKED: &str = "forked from zygote";

/// Every wall there can be.
pub(crate) const WALLS: KnownWalls = KnownWalls(&[&[
    KnownWall::required(wall::SINGLE_THREAD, &[]),
    KnownWall::required(wall::NO_NEW_PRIVS, &[]),
    KnownWall::required(wall::DESCRIPTORS, &[]),
    KnownWall::additional(wall::USER_NAMESPACE, &[]),
    KnownWall::required(wall::NETWORK_NAMESPACE, &[NetworkAbsent]),
    KnownWall::required(wall::IPC_NAMESPACE, &[]),
    KnownWall::additional(wall::UTS_NAMESPACE, &[]),
    KnownWall::additional(jail::CGROUP_NAMESPACE, &[]),
    KnownWall::required(wall::MOUNT_NAMESPACE, &[]),
    KnownWall::required(jail::PID_NAMESPACE, &[]),
    KnownWall::required(jail::SYSTEM, &[]),
    KnownWall::required(jail::DEVICES, &[]),
    KnownWall::required(jail::INPUTS, &[InputsReadOnly]),
    KnownWall::required(jail::SCRATCH, &[]),
    KnownWall::required(jail::PROC, &[]),
    KnownWall::required(jail::ROOT, &[HostFilesHidden]),
    KnownWall::additional(jail::AFFINITY, &[]),
    KnownWall::required(wall::RLIMITS, &[]),
    KnownWall::required(wall::IDENTITY, &[]),
    KnownWall::required(wall::CAPABILITIES, &[]),
    KnownWall::required(wall::DIES_WITH_PARENT, &[]),
    KnownWall::required(wall::NOT_DUMPABLE, &[]),
    KnownWall::additional(processor::SPECULATION, &[SpeculationLimited]),
    KnownWall::additional(processor::CORE_SCHEDULING, &[CoreUnshared]),
    KnownWall::additional(wall::LANDLOCK_FILES, &[HostFilesHidden]),
    KnownWall::additional(wall::LANDLOCK_NETWORK, &[]),
    KnownWall::additional(wall::LANDLOCK_SCOPES, &[]),
    KnownWall::required(wall::SECCOMP, &[SyscallsFiltered, NetworkAbsent]),
    KnownWall::required(shared::ENVIRONMENT, &[EnvironmentEmpty]),
    KnownWall::additional(group::MEMORY, &[]),
    KnownWall::additional(group::SWAP, &[]),
    KnownWall::additional(group::PIDS, &[]),
    KnownWall::additional(group::CPU, &[]),
    KnownWall::additional(shared::ACCOUNTING, &[]),
    KnownWall::additional(MEMBERSHIP, &[]),
    KnownWall::additional(shared::LAYOUT, &[LayoutFresh]),
]]);

/// The program runs in a child of a zygote.
pub(crate) fn shared_layout(zygote: u32) -> Step {
    shared::shared_layout(&format!("{FORKED} {zygote}: its tenant's runs"))
}

/// Whether the program of a run with this receipt was forked from a zygote.
#[must_use]
pub fn is_warm(receipt: &Receipt) -> bool {
    shared::shares_layout(receipt, FORKED)
}

#[cfg(test)]
mod tests {
    use casemate_driver::lowered::Watched;
    use casemate_driver::system::sample;
    use casemate_driver::walls::Counting;
    use casemate_model::guarantee::{Guarantee, Guarantees};
    use casemate_model::policy::base_guarantees;
    use casemate_model::receipt::{Need, Receipt};

    use super::*;
    use crate::lower::lower;

    fn watched() -> Watched {
        let plan = casemate_backend::suite::plan_for("print(1)");
        lower(&plan, &sample().unwrap()).unwrap().watched
    }

    fn whole() -> Vec<Step> {
        WALLS
            .iter()
            .map(|wall| Step::run(wall.name, "asked", || Ok("stands".to_owned())))
            .collect()
    }

    fn receipt(steps: &[Step]) -> Receipt {
        let walls = shared::all(WALLS, Counting::Host, &watched(), steps);
        Receipt {
            backend: "jail".into(),
            guest: "none".into(),
            walls,
        }
    }

    fn asked() -> Guarantees {
        let mut asked = base_guarantees();
        asked = asked
            .iter()
            .filter(|guarantee| *guarantee != Guarantee::ClockCoarse)
            .collect();
        asked
    }

    #[test]
    fn with_every_wall_it_covers_all_but_the_coarse_clock() {
        assert_eq!(receipt(&whole()).satisfies(&asked()), Ok(()));
        let missing = base_guarantees().missing_from(&shared::offered(WALLS));
        assert_eq!(missing.iter().collect::<Vec<_>>(), [Guarantee::ClockCoarse]);
    }

    #[test]
    fn each_required_wall_taken_away_or_kept_silent_about_is_a_gap() {
        for KnownWall { name, need, .. } in WALLS.iter() {
            let mut steps = whole();
            let step = steps.iter_mut().find(|step| step.wall == *name).unwrap();
            step.got = Err("taken away".to_owned());
            let gap = receipt(&steps).satisfies(&asked());
            let mut limits = base_guarantees().iter().collect::<Vec<_>>().into_iter();
            let enforces = limits.any(|of| shared::enforcer(Counting::Host, of) == Some(name));
            let refused = *need == Need::Required || (enforces && *name != group::CPU);
            assert_eq!(gap.is_err(), refused, "{name}");
            let silent: Vec<Step> = whole().into_iter().filter(|s| s.wall != *name).collect();
            assert_eq!(
                receipt(&silent).satisfies(&asked()).is_err(),
                refused,
                "{name}"
            );
        }
    }

    #[test]
    fn what_a_processor_does_beside_stops_only_whom_it_concerns() {
        for (name, guarantee) in [
            (processor::SPECULATION, SpeculationLimited),
            (processor::CORE_SCHEDULING, CoreUnshared),
        ] {
            let mut demanded = asked();
            demanded.insert(guarantee);
            assert_eq!(receipt(&whole()).satisfies(&demanded), Ok(()));
            let mut steps = whole();
            let step = steps.iter_mut().find(|step| step.wall == name).unwrap();
            step.got = Err("not on this machine".to_owned());
            assert_eq!(receipt(&steps).satisfies(&asked()), Ok(()));
            let gap = receipt(&steps).satisfies(&demanded).unwrap_err();
            assert_eq!(gap.missing.iter().collect::<Vec<_>>(), [guarantee]);
        }
    }

    #[test]
    fn each_guarantee_is_lost_with_the_walls_that_give_it() {
        for guarantee in asked().iter() {
            let mut receipt = receipt(&whole());
            for wall in &mut receipt.walls {
                if wall.guarantees.contains(guarantee) {
                    wall.got = None;
                    wall.missing = Some("taken away".to_owned());
                }
            }
            let gap = receipt.satisfies(&asked()).unwrap_err();
            assert!(gap.missing.contains(guarantee), "{guarantee}");
        }
    }
}
