//! A container from the host's side: having it made, starting it, listening to it, taking it down.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Offer, Sandbox, Signal,
};
use casemate_backend::plan::Plan;
use casemate_driver::handover::GO;
use casemate_driver::listen::{Lasts, Running};
use casemate_driver::packages::Opened;
use casemate_driver::session::Standing;
use casemate_driver::system::System;
use casemate_driver::walls as shared;
use casemate_images::Systems;
use casemate_model::receipt::Receipt;

use crate::checkpoint::{Checkpoints, Make, Maker, fits, whose};
use crate::kind::Kind;
use crate::lower::{Begins, as_saved, lower};
use crate::making::{Up, Wanted, make};
use crate::probe::{self, Found, Lack};
use crate::walls::ALWAYS;

/// The backend of one runtime.
pub struct ContainerBackend {
    kind: Kind,
    systems: Systems,
    program: PathBuf,
    found: OnceLock<Result<Found, Lack>>,
    checkpoints: Option<Arc<Checkpoints>>,
}

/// A container whose walls were measured and in which no program has run.
struct ContainerSandbox(Standing);

impl ContainerBackend {
    /// The backend over the systems it can show, with `program` as the program of a container's keeper:
    /// this one, unless a test says otherwise.
    pub fn new(kind: Kind, systems: impl Into<Systems>, program: impl Into<PathBuf>) -> Self {
        Self {
            kind,
            systems: systems.into(),
            program: program.into(),
            found: OnceLock::new(),
            checkpoints: None,
        }
    }

    /// The same with checkpoints in a folder of the user's own, from which programs go on that need the libraries.
    /// gVisor alone has any.
    #[must_use]
    pub fn with_checkpoints(mut self, folder: PathBuf, make: Make) -> Self {
        let own = self.kind.is_gvisor();
        self.checkpoints = own.then(|| Arc::new(Checkpoints::new(folder, make)));
        self
    }

    /// Asked once: to start a runtime for its version costs more than to start a container.
    fn found(&self) -> &Result<Found, Lack> {
        self.found.get_or_init(|| probe::find(self.kind))
    }

    /// The checkpoint that a plan's program goes on from; if none, why.
    fn checkpoint(&self, plan: &Plan, system: &System, found: &Found) -> Result<Opened, String> {
        let Some(all) = &self.checkpoints else {
            return Err(ALWAYS.to_owned());
        };
        fits(plan, system, all.is_must())?;
        let maker = Maker {
            kind: self.kind,
            found,
            program: &self.program,
            systems: &self.systems,
        };
        all.get(&maker, plan, system)
    }

    /// Has the container made: from the checkpoint that there is for it, or else with an interpreter of its own.
    fn make(&self, plan: &Plan, system: System, found: &Found) -> Result<Up, CreateError> {
        let must = self.checkpoints.as_ref().is_some_and(|all| all.is_must());
        let (system, why) = match self.checkpoint(plan, &system, found) {
            Err(why) => (system, why),
            Ok(folder) => match self.restore(plan, system, found, &folder) {
                Ok(up) => return Ok(up),
                Err(error) => {
                    let why = format!("its checkpoint could not be used: {error}");
                    self.checkpoints
                        .iter()
                        .for_each(|all| all.failed(&folder, &why));
                    (self.system(plan)?, why)
                }
            },
        };
        if must {
            return Err(CreateError::Fault(format!("not from a checkpoint: {why}")));
        }
        let lowered = lower(self.kind, plan, &system).map_err(CreateError::Plan)?;
        let wanted = self.wanted(found, Begins::Anew);
        let mut up = make(&wanted, &lowered, system)?;
        up.steps.push(shared::fresh_layout(&why));
        Ok(up)
    }

    fn restore(
        &self,
        plan: &Plan,
        system: System,
        found: &Found,
        folder: &Opened,
    ) -> Result<Up, CreateError> {
        let mut lowered = lower(self.kind, plan, &system).map_err(CreateError::Plan)?;
        let limits = as_saved(&mut lowered.job);
        let wanted = self.wanted(found, Begins::From(&folder.folder, limits));
        let mut up = make(&wanted, &lowered, system)?;
        up.steps.push(shared::shared_layout(&whose(folder)));
        Ok(up)
    }

    fn wanted<'a>(&'a self, found: &'a Found, begins: Begins<'a>) -> Wanted<'a> {
        Wanted {
            kind: self.kind,
            found,
            program: &self.program,
            agent: None,
            files: None,
            begins,
        }
    }

    fn system(&self, plan: &Plan) -> Result<System, CreateError> {
        let system = self.systems.of(&plan.guest.image);
        system.map_err(|(why, fix)| CreateError::Unusable { why, fix })
    }
}

impl Backend for ContainerBackend {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn probe(&self) -> Offer {
        let restores = self.checkpoints.is_some();
        probe::offer(self.kind, self.found(), &self.systems, restores)
    }

    fn rests_on(&self) -> Vec<(String, String)> {
        let mut all = self.systems.rests_on();
        all.extend(self.found().as_ref().ok().map(probe::rests_on));
        all
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        let unusable = |(why, fix): Lack| CreateError::Unusable { why, fix };
        let found = self
            .found()
            .as_ref()
            .map_err(|lack| unusable(lack.clone()))?;
        let system = self.system(plan)?;
        let described = system.described.clone();
        let runtime = probe::runtime(self.kind, found);
        let Up {
            standing, steps, ..
        } = self.make(plan, system, found)?;
        let family = self.kind.family();
        let walls = shared::all(family.walls(), family.counting(), &standing.watched, &steps);
        let receipt = Receipt {
            backend: self.kind.name().to_owned(),
            guest: format!("{described}, by {runtime}"),
            walls,
        };
        Ok((Box::new(ContainerSandbox(standing)), receipt))
    }
}

impl Sandbox for ContainerSandbox {
    fn run(
        mut self: Box<Self>,
        _plan: &Plan,
        sink: &mut dyn FnMut(Signal),
        cancel: &Cancel,
    ) -> Result<Finish, Fault> {
        let standing = &mut self.0;
        let go = standing.lines.messages.send(GO, &[]);
        go.map_err(|error| Fault(format!("starting the program: {error}")))?;
        let running = Running {
            lines: &mut standing.lines,
            processes: &mut standing.processes,
            watched: &standing.watched,
            cgroup: standing.cgroup.as_ref(),
            scratch: &standing.scratch,
            stands: true,
            lasts: Lasts::Run,
        };
        running.finish(sink, cancel)
    }
}
