//! `Plan` to what the keeper of a container is told. Pure.

use casemate_backend::plan::Plan;
use casemate_driver::handover::WireJob;
use casemate_driver::lowered::{self, LIBRARIES, Lowered};
use casemate_driver::system::{Entry, FIRST, System};
use casemate_linux::Limit;
use casemate_linux::jail::root::Shape;
use serde::{Deserialize, Serialize};

use crate::bundle::{Ids, Parts, spec, tree};
use crate::kind::Kind;

/// What gVisor's kernel, and the process that opens files for it, take beside the guest.
pub(crate) const SENTRY: u64 = 160 << 20;
/// Threads of a runtime in the group while the interpreter comes up. They are gone before the program
/// begins, and the limit is set to what it is to be then.
pub(crate) const STARTING: u64 = 64;
/// Tasks of gVisor's kernel itself: below this it does not start.
pub(crate) const SENTRY_TASKS: u64 = 512;
/// Tasks of gVisor's on the host for each of the guest's.
pub(crate) const TASKS_FOR_ONE: u64 = 4;

/// Tasks of ours in the group of a container that an agent lives in: its first process.
pub(crate) const FIRST_OF_SESSION: u64 = 1;

/// What the keeper is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeeperJob {
    pub(crate) job: WireJob,
    /// Who owns scratch.
    pub(crate) owner: u32,
    /// The runtime's program.
    pub(crate) program: String,
    pub(crate) create: Vec<String>,
    pub(crate) start: Vec<String>,
    /// Whether it is shown the hierarchy of devices.
    pub(crate) devices: bool,
    pub(crate) folders: Vec<String>,
    pub(crate) files: Vec<String>,
    pub(crate) links: Vec<(String, String)>,
    /// The bundle's `config.json`.
    pub(crate) config: String,
}

/// A plan, as far as it can be lowered before the keeper has a number.
pub(crate) fn lower<'a>(
    kind: Kind,
    plan: &'a Plan,
    system: &System,
) -> Result<Lowered<'a>, String> {
    let own = if kind.is_gvisor() {
        LIBRARIES + SENTRY
    } else {
        LIBRARIES
    };
    let mut lowered = lowered::lower(plan, system, Entry::Waiting, own, STARTING)?;
    if !kind.is_gvisor() {
        // The keeper, which is in another group, writes them.
        lowered.watched.held_bytes = 0;
    } else if let Some(tasks) = lowered.job.tasks {
        let tasks = tasks.saturating_mul(TASKS_FOR_ONE);
        lowered.cgroup.pids = Limit::At(tasks.saturating_add(SENTRY_TASKS));
    }
    Ok(lowered)
}

/// The same for a container that an agent lives in, whose folder on the host this is.
pub(crate) fn lower_session<'a>(
    plan: &'a Plan,
    system: &System,
    agent: &str,
    warm: bool,
) -> Result<Lowered<'a>, String> {
    let lowered = lowered::lower_lasting(plan, system, agent, warm, LIBRARIES, STARTING);
    let mut lowered = lowered?;
    lowered.watched.held_bytes = 0;
    lowered.job.command.insert(1, FIRST.to_owned());
    Ok(lowered)
}

/// What is shown beside the system: our packages, those of a virtual environment, the agent.
pub(crate) fn beside(job: &WireJob) -> Vec<&'static str> {
    let venv = job.venv.as_ref().map(|_| "opt/venv");
    let agent = job.agent.as_ref().map(|_| "opt/agent");
    std::iter::once("opt/casemate")
        .chain(venv)
        .chain(agent)
        .collect()
}

/// What the keeper with these numbers is told.
pub(crate) fn keeper_job(
    kind: Kind,
    job: &WireJob,
    program: &str,
    ids: Ids,
    shapes: &[Shape],
    group: Option<&str>,
) -> Result<KeeperJob, String> {
    let beside = beside(job);
    let lived_in = job.agent.is_some();
    let tree = tree(shapes, &beside, lived_in);
    let tasks = match kind {
        // The only count of the guest's tasks there is.
        Kind::Gvisor(_) => job.tasks,
        // The second behind the control group, which tells the host and is to be met first.
        Kind::Runc | Kind::Crun => job.tasks.map(|tasks| tasks.saturating_add(STARTING)),
    };
    let spec = spec(Parts {
        kind,
        ids,
        shapes,
        beside: &beside,
        command: &job.command,
        env: &job.env,
        group,
        open_files: job.open_files,
        tasks,
        lived_in,
    })?;
    Ok(KeeperJob {
        job: job.clone(),
        owner: ids.user,
        program: program.to_owned(),
        create: kind.create(),
        start: kind.start(),
        devices: kind.groups() == casemate_linux::keeper::Groups::Devices,
        folders: tree.folders,
        files: tree.files,
        links: tree.links,
        config: serde_json::to_string(&spec).map_err(|error| error.to_string())?,
    })
}

#[cfg(test)]
mod tests {
    use casemate_backend::suite::plan_for;
    use casemate_driver::system::sample;

    use super::*;
    use crate::Platform;

    #[test]
    fn limits_are_those_of_the_plan_and_of_what_is_around_it() {
        let plan = plan_for("print(1)");
        let runc = lower(Kind::Runc, &plan, &sample().unwrap()).unwrap();
        assert_eq!(runc.cgroup.pids, Limit::At(32 + 64));
        assert_eq!(runc.watched.held_bytes, 0);
        let gvisor = lower(Kind::Gvisor(Platform::Systrap), &plan, &sample().unwrap()).unwrap();
        assert_eq!(gvisor.cgroup.pids, Limit::At(32 * 4 + 512));
        let more =
            gvisor.cgroup.memory_bytes.value().unwrap() - runc.cgroup.memory_bytes.value().unwrap();
        assert_eq!(more, SENTRY);
        assert!(gvisor.watched.held_bytes > 0);
    }

    #[test]
    fn an_agent_is_the_child_of_a_first_process_and_is_handed_its_connections() {
        let plan = plan_for("print(1)");
        let session = lower_session(&plan, &sample().unwrap(), "/agent", true).unwrap();
        let command = session.job.command.join(" ");
        assert!(
            command.starts_with("/opt/agent/casemate-guest first --handoff-fd 3 ")
                && command.ends_with(" --warm"),
            "{command}"
        );
        assert_eq!(beside(&session.job), ["opt/casemate", "opt/agent"]);
        let run = lower(Kind::Crun, &plan, &sample().unwrap()).unwrap();
        assert_eq!(
            (&session.cgroup, session.watched),
            (&run.cgroup, run.watched)
        );
    }

    #[test]
    fn the_guests_tasks_are_counted_where_they_can_be() {
        let plan = plan_for("print(1)");
        for (kind, tasks) in [(Kind::Crun, 96), (Kind::Gvisor(Platform::Ptrace), 32)] {
            let lowered = lower(kind, &plan, &sample().unwrap()).unwrap();
            let job = keeper_job(kind, &lowered.job, "/x", Ids::of(1), &[], None).unwrap();
            let expected = format!(r#"{{"type":"RLIMIT_NPROC","hard":{tasks},"soft":{tasks}}}"#);
            assert!(job.config.contains(&expected), "{}", job.config);
        }
    }
}
