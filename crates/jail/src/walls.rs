//! From what the kernel gave to the walls of a receipt: which are required and what each guarantees.

use casemate_driver::lowered::Watched;
use casemate_linux::Step;
use casemate_linux::cgroup::wall as group;
use casemate_linux::jail::wall as jail;
use casemate_linux::lockdown::wall;
use casemate_model::guarantee::Guarantee::{
    self, CpuCapped, DiskCapped, EnvironmentEmpty, HostFilesHidden, InputsReadOnly, LayoutFresh,
    MemoryCapped, NetworkAbsent, OpenFilesCapped, OutputCapped, SyscallsFiltered, TasksCapped, WallCapped,
};
use casemate_model::guarantee::Guarantees;
use casemate_model::receipt::{Need, Wall};

/// The environment is made from the plan alone.
pub(crate) const ENVIRONMENT: &str = "environment";
/// Processor time is read from the control group.
pub(crate) const ACCOUNTING: &str = "cgroup_cpu_usage";

/// The program's process is in the jail's control groups; told where it was not started in them.
pub(crate) const MEMBERSHIP: &str = "cgroup_membership";
/// No other run has had the interpreter's memory.
pub(crate) const LAYOUT: &str = "memory_layout";

/// Every wall there can be: its name, whether a run may start without it, what it guarantees.
const KNOWN: &[(&str, Need, &[Guarantee])] = &[
    (wall::SINGLE_THREAD, Need::Required, &[]),
    (wall::NO_NEW_PRIVS, Need::Required, &[]),
    (wall::DESCRIPTORS, Need::Required, &[]),
    (wall::USER_NAMESPACE, Need::Additional, &[]),
    (wall::NETWORK_NAMESPACE, Need::Required, &[NetworkAbsent]),
    (wall::IPC_NAMESPACE, Need::Required, &[]),
    (wall::UTS_NAMESPACE, Need::Additional, &[]),
    (jail::CGROUP_NAMESPACE, Need::Additional, &[]),
    (wall::MOUNT_NAMESPACE, Need::Required, &[]),
    (jail::PID_NAMESPACE, Need::Required, &[]),
    (jail::SYSTEM, Need::Required, &[]),
    (jail::DEVICES, Need::Required, &[]),
    (jail::INPUTS, Need::Required, &[InputsReadOnly]),
    (jail::SCRATCH, Need::Required, &[]),
    (jail::PROC, Need::Required, &[]),
    (jail::ROOT, Need::Required, &[HostFilesHidden]),
    (jail::AFFINITY, Need::Additional, &[]),
    (wall::RLIMITS, Need::Required, &[]),
    (wall::IDENTITY, Need::Required, &[]),
    (wall::CAPABILITIES, Need::Required, &[]),
    (wall::DIES_WITH_PARENT, Need::Required, &[]),
    (wall::NOT_DUMPABLE, Need::Required, &[]),
    (wall::LANDLOCK_FILES, Need::Additional, &[HostFilesHidden]),
    (wall::LANDLOCK_NETWORK, Need::Additional, &[]),
    (wall::LANDLOCK_SCOPES, Need::Additional, &[]),
    (
        wall::SECCOMP,
        Need::Required,
        &[SyscallsFiltered, NetworkAbsent],
    ),
    (ENVIRONMENT, Need::Required, &[EnvironmentEmpty]),
    (group::MEMORY, Need::Additional, &[]),
    (group::SWAP, Need::Additional, &[]),
    (group::PIDS, Need::Additional, &[]),
    (group::CPU, Need::Additional, &[]),
    (ACCOUNTING, Need::Additional, &[]),
    (MEMBERSHIP, Need::Additional, &[]),
    (LAYOUT, Need::Additional, &[LayoutFresh]),
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

/// What the backend can guarantee where every wall stands.
pub(crate) fn offered() -> Guarantees {
    let known = KNOWN.iter().flat_map(|(_, _, set)| set.iter().copied());
    known.chain(LIMITS.iter().map(|(_, g, _)| *g)).collect()
}

/// What is lost where there is no control group of one's own.
pub(crate) fn by_control_group() -> [(&'static str, Guarantee); 3] {
    [
        ("memory", MemoryCapped),
        ("pids", TasksCapped),
        ("cpuacct", CpuCapped),
    ]
}

/// A wall as it was built. One that we do not know guarantees nothing and is required, so that a
/// process of another version cannot slip one past.
pub(crate) fn built(step: &Step) -> Wall {
    let known = KNOWN.iter().find(|(name, ..)| *name == step.wall);
    let (need, guarantees) = known
        .map_or((Need::Required, Guarantees::none()), |(_, need, set)| {
            (*need, set.iter().copied().collect())
        });
    let name = step.wall.clone();
    match &step.got {
        Ok(got) => Wall::standing(name, need, &step.asked, got, guarantees),
        Err(missing) => Wall::absent(name, need, &step.asked, missing, guarantees),
    }
}

/// The interpreter is started for this run.
pub(crate) fn fresh_layout(why: &str) -> Step {
    Step::run(LAYOUT, "of this run alone", || {
        Ok(format!("started cold: {why}"))
    })
}

/// The program runs in a child of a zygote.
pub(crate) fn shared_layout(zygote: u32) -> Step {
    let why = format!(
        "forked from zygote {zygote}: its tenant's runs share where things lie in memory and the hash secret; random \
         state is renewed"
    );
    Step::missing(LAYOUT, "of this run alone", why)
}

/// The limits of a run, each standing where it is finite and what enforces it stands.
pub(crate) fn limits(watched: &Watched, walls: &[Wall]) -> Vec<Wall> {
    let counted = &watched.counted;
    let amount = |name: &str| match name {
        "limit_memory" => (watched.memory_bytes, "bytes beside the libraries'"),
        "limit_cpu_time" => (watched.cpu_time_ms, "ms, read by the host"),
        "limit_wall_time" => (watched.wall_time_ms, "ms, by the host's clock"),
        "limit_tasks" => (counted.tasks, "tasks"),
        "limit_disk" => (watched.disk_bytes, "bytes"),
        "limit_output" => (counted.output_bytes, "bytes a stream, counted by the host"),
        _ => (counted.open_files, "descriptors a process"),
    };
    let stands = |name: &str| walls.iter().any(|wall| wall.name == name && wall.stands());
    LIMITS
        .iter()
        .map(|(name, guarantee, by)| {
            let set = [*guarantee].into_iter().collect();
            let (amount, unit) = amount(name);
            let missing = match by {
                _ if amount == u64::MAX => Some("unlimited by choice".to_owned()),
                Some(by) if !stands(by) => Some(format!("{by} does not stand")),
                _ => None,
            };
            match missing {
                None => Wall::standing(
                    *name,
                    Need::Additional,
                    "a ceiling",
                    format!("{amount} {unit}"),
                    set,
                ),
                Some(why) => Wall::absent(*name, Need::Additional, "a ceiling", why, set),
            }
        })
        .collect()
}

/// The walls that no run goes without and that `walls` does not even mention.
pub(crate) fn unmentioned(walls: &[Wall]) -> Vec<Wall> {
    KNOWN
        .iter()
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
    use casemate_model::policy::base_guarantees;
    use casemate_model::receipt::Receipt;

    use super::*;
    use crate::lower::lower;

    fn watched() -> Watched {
        let plan = casemate_backend::suite::plan_for("print(1)");
        lower(&plan, "/p").unwrap().watched
    }

    fn whole() -> Vec<Step> {
        KNOWN
            .iter()
            .map(|(name, ..)| Step::run(name, "asked", || Ok("stands".to_owned())))
            .collect()
    }

    fn receipt(steps: &[Step]) -> Receipt {
        let mut walls: Vec<Wall> = steps.iter().map(built).collect();
        walls.extend(limits(&watched(), &walls));
        walls.extend(unmentioned(&walls));
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
        let missing = base_guarantees().missing_from(&offered());
        assert_eq!(missing.iter().collect::<Vec<_>>(), [Guarantee::ClockCoarse]);
    }

    #[test]
    fn each_required_wall_taken_away_or_kept_silent_about_is_a_gap() {
        for (name, need, _) in KNOWN {
            let mut steps = whole();
            let step = steps.iter_mut().find(|step| step.wall == *name).unwrap();
            step.got = Err("taken away".to_owned());
            let gap = receipt(&steps).satisfies(&asked());
            let enforces = LIMITS.iter().any(|(_, _, by)| *by == Some(name));
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

    #[test]
    fn an_unknown_wall_guarantees_nothing() {
        let wall = built(&Step::run("moat", "deep", || Ok("very".to_owned())));
        assert!(wall.guarantees.is_empty() && wall.need == Need::Required);
    }
}
