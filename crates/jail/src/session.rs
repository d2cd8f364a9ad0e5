//! A jail that an agent lives in: the walls of a run, and no end of its own.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use casemate_backend::contract::CreateError;
use casemate_backend::plan::Plan;
use casemate_backend::session::{Session, Sessions};
use casemate_driver::handover::START;
use casemate_driver::packages::Opened;
use casemate_driver::session::{Standing, fill};
use casemate_driver::walls::{self as shared, Counting};
use casemate_images::Systems;
use casemate_linux::lockdown::Identity;
use casemate_linux::lockdown::wall::SECCOMP;
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::receipt::Receipt;

use crate::init::owner;
use crate::lower::lower_session;
use crate::shown::Shown;
use crate::spare::Spare;
use crate::{probe, walls};

/// Jails with an agent in them.
pub struct JailSessions {
    systems: Systems,
    program: PathBuf,
    agent: Opened,
}

impl JailSessions {
    /// Over the systems it can show, with `program` as the program of a jail's first process and the folder that
    /// has the agent and nothing else in it.
    ///
    /// # Errors
    /// When the folder is not there, or others than its owner can write to it.
    pub fn new(
        systems: impl Into<Systems>,
        program: impl Into<PathBuf>,
        agent: &Path,
    ) -> Result<Self, String> {
        Ok(Self {
            systems: systems.into(),
            program: program.into(),
            agent: Opened::open(agent, true)?,
        })
    }
}

impl Sessions for JailSessions {
    fn name(&self) -> &'static str {
        probe::NAME
    }

    fn open(
        &self,
        plan: &Plan,
        warm: bool,
        files: Option<&OwnedFd>,
    ) -> Result<(Box<dyn Session>, Receipt), CreateError> {
        let system = self.systems.of(&plan.guest.image);
        let system = system.map_err(|(why, fix)| CreateError::Unusable { why, fix })?;
        let lowered = lower_session(plan, &system, &self.agent.path, warm);
        let lowered = lowered.map_err(CreateError::Plan)?;
        let shown = Shown::of(&system).and_then(|shown| shown.with_agent(&self.agent));
        let shown = shown.map_err(|error| CreateError::Fault(format!("the system: {error}")))?;
        let spare = Spare::make(&self.program, &shown);
        let mut spare =
            spare.map_err(|error| CreateError::Fault(format!("starting the jail: {error}")))?;
        let mut steps = spare.limit(&lowered);
        let armed = spare.arm(&lowered);
        let (built, handed) = armed.map_err(|error| CreateError::Fault(spare.failed(&error)))?;
        steps.extend(built);
        steps.push(shared::fresh_layout("a session's own"));
        if let Some(files) = files {
            let owner = owner(Identity::of_process(spare.number()));
            let filled = fill(files, &handed.scratch, owner, &lowered.watched);
            filled.map_err(|error| CreateError::Fault(format!("copying its files: {error}")))?;
        }
        let mut walls = shared::all(walls::WALLS, Counting::Host, &lowered.watched, &steps);
        // Its filter lets sockets of the internet be made: that they lead nowhere is the namespace's doing alone.
        let filter = walls.iter_mut().filter(|wall| wall.name == SECCOMP);
        filter.for_each(|wall| wall.guarantees = without_network(&wall.guarantees));
        let receipt = Receipt {
            backend: probe::NAME.to_owned(),
            guest: system.described.clone(),
            walls,
        };
        let Spare {
            mut processes,
            lines,
            cgroup,
            ..
        } = spare;
        processes.init = Some(handed.init);
        let standing = Standing {
            processes,
            lines,
            scratch: handed.scratch,
            cgroup: cgroup.ok(),
            watched: lowered.watched,
            system,
        };
        let begun = standing.lines.control.send(START, &[]);
        let session = begun.and_then(|()| standing.live(false));
        let session =
            session.map_err(|error| CreateError::Fault(format!("starting the agent: {error}")))?;
        Ok((session, receipt))
    }
}

/// What a wall guarantees but that there is no network.
fn without_network(guarantees: &Guarantees) -> Guarantees {
    let all = guarantees.iter();
    all.filter(|guarantee| *guarantee != Guarantee::NetworkAbsent)
        .collect()
}
