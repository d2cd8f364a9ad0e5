//! A container that an agent lives in: the walls of a run, and no end of its own.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use casemate_backend::contract::CreateError;
use casemate_backend::plan::Plan;
use casemate_backend::session::{Session, Sessions};
use casemate_driver::handover::GO;
use casemate_driver::packages::Opened;
use casemate_driver::walls as shared;
use casemate_images::Systems;
use casemate_model::receipt::{Need, Receipt, Wall};
use thiserror::Error;

use crate::kind::Kind;
use crate::lower::{Begins, lower_session};
use crate::making::{Up, Wanted, make};
use crate::probe::{self, Found, Lack};

/// Why a runtime's containers can have no agent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unfit {
    /// gVisor's kernel: see [`ContainerSessions::new`].
    #[error(
        "no agent can live in a container of gVisor's: it holds each process by a descriptor (pidfd) and opens terminals \
         by TIOCGPTPEER, and gVisor's kernel has neither; take runc, crun or the jail"
    )]
    Gvisor,
    /// The agent's folder.
    #[error("{0}")]
    Agent(String),
}

/// Containers of one runtime, with an agent in them.
pub struct ContainerSessions {
    kind: Kind,
    systems: Systems,
    program: PathBuf,
    agent: Opened,
    found: OnceLock<Result<Found, Lack>>,
}

impl ContainerSessions {
    /// Over the systems they can show, with `program` as the program of a container's keeper and the folder that has
    /// the agent and nothing else in it. Whether there is the runtime is found out by the first of them.
    ///
    /// # Errors
    /// For gVisor, whose kernel (20240729) hands descriptors of the host's on to a program in it and answers ENOSYS to
    /// `pidfd_open` and ENOTTY to `TIOCGPTPEER`, so that the agent could start nothing; and when the folder is not there,
    /// or others than its owner can write to it.
    pub fn new(
        kind: Kind,
        systems: impl Into<Systems>,
        program: impl Into<PathBuf>,
        agent: &Path,
    ) -> Result<Self, Unfit> {
        if kind.is_gvisor() {
            return Err(Unfit::Gvisor);
        }
        Ok(Self {
            kind,
            systems: systems.into(),
            program: program.into(),
            agent: Opened::open(agent, true).map_err(Unfit::Agent)?,
            found: OnceLock::new(),
        })
    }
}

impl Sessions for ContainerSessions {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn open(
        &self,
        plan: &Plan,
        warm: bool,
        files: Option<&OwnedFd>,
    ) -> Result<(Box<dyn Session>, Receipt), CreateError> {
        let unusable = |(why, fix): Lack| CreateError::Unusable { why, fix };
        let found = self.found.get_or_init(|| probe::find(self.kind));
        let found = found.as_ref().map_err(|lack| unusable(lack.clone()))?;
        let system = self.systems.of(&plan.guest.image).map_err(unusable)?;
        let described = system.described.clone();
        let lowered = lower_session(plan, &system, &self.agent.path, warm);
        let lowered = lowered.map_err(CreateError::Plan)?;
        let wanted = Wanted {
            kind: self.kind,
            found,
            program: &self.program,
            agent: Some(&self.agent),
            files,
            begins: Begins::Anew,
        };
        let Up {
            standing,
            mut steps,
            ..
        } = make(&wanted, &lowered, system)?;
        steps.push(shared::fresh_layout("a session's own"));
        let family = wanted.family();
        let walls = shared::all(family.walls(), family.counting(), &lowered.watched, &steps);
        if let Some(wall) = walls.iter().find(|wall| is_gap(wall)) {
            return Err(CreateError::Fault(gap(wall)));
        }
        let receipt = Receipt {
            backend: self.kind.name().to_owned(),
            guest: format!("{described}, by {}", probe::runtime(self.kind, found)),
            walls,
        };
        // Until now there is its first process, which waits.
        let begun = standing.lines.messages.send(GO, &[]);
        let session = begun.and_then(|()| standing.live(true));
        let session =
            session.map_err(|error| CreateError::Fault(format!("starting the agent: {error}")))?;
        Ok((session, receipt))
    }
}

/// A container with a gap is not started, and a session that was not is none.
fn is_gap(wall: &Wall) -> bool {
    wall.need == Need::Required && !wall.stands()
}

fn gap(wall: &Wall) -> String {
    let why = wall
        .missing
        .as_deref()
        .unwrap_or("nobody said that it does");
    format!("the wall {} does not stand: {why}", wall.name)
}

#[cfg(test)]
mod tests {
    use casemate_driver::packages::Store;

    use super::*;
    use crate::Platform;

    #[test]
    fn no_agent_lives_behind_gvisors_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let new = |kind| {
            let store = Store::at(dir.path().to_owned());
            ContainerSessions::new(kind, store, "/x", dir.path())
        };
        for platform in [Platform::Systrap, Platform::Ptrace] {
            let refused = new(Kind::Gvisor(platform));
            assert!(matches!(refused.err(), Some(Unfit::Gvisor)));
        }
        assert_eq!(new(Kind::Crun).ok().unwrap().name(), "crun");
        let none = ContainerSessions::new(
            Kind::Runc,
            Store::at(dir.path().to_owned()),
            "/x",
            &dir.path().join("none"),
        );
        assert!(matches!(none.err(), Some(Unfit::Agent(_))));
    }
}
