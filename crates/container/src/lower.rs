//! `Plan` to what the keeper of a container is told. Pure.

use std::fs::File;

use casemate_backend::plan::Plan;
use casemate_driver::handover::{WireFile, WireJob};
use casemate_driver::lowered::{self, LIBRARIES, Lowered};
use casemate_driver::system::{Command, Entry, FIRST, System, host_saved};
use casemate_linux::Limit;
use casemate_linux::cgroup::CgroupLimits;
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

/// What loading and using the libraries may take, with gVisor's kernel around it.
const SAVED_MEMORY: u64 = 1 << 30;
/// What it may write.
const SAVED_SCRATCH: u64 = 16 << 20;
const SAVED_FILES: u64 = 256;

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
    /// Where the container's process waits for a reader, where a runtime's command to begin is no more than that.
    pub(crate) fifo: Option<String>,
    /// The arguments with which it keeps the container as files, where that is what it is made for.
    pub(crate) save: Option<Vec<String>>,
    /// Whether the folder of a checkpoint comes with it.
    pub(crate) image: bool,
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

/// How the interpreter in a container begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Begins<'a> {
    /// By itself.
    Anew,
    /// It goes on from the checkpoint in this folder, under these limits.
    From(&'a File, OwnLimits),
    /// By itself, and a checkpoint of it is made in this folder, which ends it.
    Into(&'a File),
}

impl<'a> Begins<'a> {
    /// The folder of the checkpoint.
    pub(crate) const fn image(self) -> Option<&'a File> {
        match self {
            Self::Anew => None,
            Self::From(folder, _) | Self::Into(folder) => Some(folder),
        }
    }
}

/// Limits that the driver of a restored container sets for itself: those that its bundle, which is that of the
/// checkpoint, does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct OwnLimits {
    /// Descriptors of a process.
    #[serde(rename = "NOFILE", skip_serializing_if = "Option::is_none")]
    pub(crate) open_files: Option<u64>,
    /// Tasks of the guest's user.
    #[serde(rename = "NPROC", skip_serializing_if = "Option::is_none")]
    pub(crate) tasks: Option<u64>,
}

/// Makes of a job one whose bundle is the same for every run on the machine's own system: the interpreter that is kept as
/// files. What its limits are it is told where it goes on.
pub(crate) fn as_saved(job: &mut WireJob) -> OwnLimits {
    let Command { argv, env, silent } = host_saved();
    (job.command, job.env, job.silent) = (argv, env, silent);
    OwnLimits {
        open_files: job.open_files.take(),
        tasks: job.tasks.take(),
    }
}

/// The container of which a checkpoint is made, for runs with the processors of this plan. It has nothing of the plan's
/// program.
pub(crate) fn lower_to_save(
    kind: Kind,
    plan: &Plan,
    system: &System,
) -> Result<Lowered<'static>, String> {
    let Lowered {
        mut job, watched, ..
    } = lower(kind, plan, system)?;
    as_saved(&mut job);
    let driver = b"{}".to_vec();
    job.files = vec![WireFile {
        path: lowered::JOB_FILE.to_owned(),
        bytes: driver.len() as u64,
    }];
    job.links.clear();
    (job.scratch_bytes, job.scratch_files) = (Some(SAVED_SCRATCH), Some(SAVED_FILES));
    Ok(Lowered {
        job,
        driver,
        contents: Vec::new(),
        cgroup: CgroupLimits {
            memory_bytes: Limit::At(SAVED_MEMORY),
            pids: Limit::At(SENTRY_TASKS + STARTING),
            cpu_millicores: Limit::Unlimited,
        },
        watched,
    })
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
    begins: Begins<'_>,
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
    let (start, fifo) = match begins {
        Begins::Anew | Begins::Into(_) => (kind.start(), kind.fifo()),
        Begins::From(..) => (kind.restore(), None),
    };
    Ok(KeeperJob {
        job: job.clone(),
        owner: ids.user,
        program: program.to_owned(),
        create: kind.create(),
        start,
        fifo,
        save: matches!(begins, Begins::Into(_)).then(|| kind.checkpoint()),
        image: begins.image().is_some(),
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
    fn what_is_kept_has_nothing_of_a_runs_and_what_goes_on_is_told_its_limits() {
        let mut plan = plan_for("print('secret')");
        plan.argv.push("secret".to_owned());
        let kind = Kind::Gvisor(Platform::Systrap);
        let saved = lower_to_save(kind, &plan, &sample().unwrap()).unwrap();
        assert!(!format!("{saved:?}").contains("secret"));
        assert_eq!((&*saved.driver, saved.contents.len()), (&b"{}"[..], 0));
        let mut job = lower(kind, &plan, &sample().unwrap()).unwrap().job;
        let limits = serde_json::to_string(&as_saved(&mut job)).unwrap();
        assert_eq!(limits, r#"{"NOFILE":64,"NPROC":32}"#);
        assert_eq!((job.open_files, job.tasks), (None, None));
        // So that both have the same bundle.
        let one = (&saved.job.command, &saved.job.env, saved.job.processors);
        assert_eq!(one, (&job.command, &job.env, job.processors));
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
            let job = keeper_job(
                kind,
                &lowered.job,
                "/x",
                Ids::of(1),
                &[],
                None,
                Begins::Anew,
            )
            .unwrap();
            let expected = format!(r#"{{"type":"RLIMIT_NPROC","hard":{tasks},"soft":{tasks}}}"#);
            assert!(job.config.contains(&expected), "{}", job.config);
        }
    }
}
