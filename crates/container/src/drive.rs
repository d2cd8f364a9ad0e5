//! A container from the host's side: having it made, starting it, listening to it, taking it down.

use std::path::PathBuf;
use std::sync::OnceLock;

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Offer, Sandbox, Signal,
};
use casemate_backend::plan::Plan;
use casemate_driver::handover::GO;
use casemate_driver::listen::{Lasts, Running};
use casemate_driver::session::Standing;
use casemate_driver::walls as shared;
use casemate_images::Systems;
use casemate_model::receipt::Receipt;

use crate::kind::Kind;
use crate::lower::lower;
use crate::making::{Wanted, make};
use crate::probe::{self, Found, Lack};

/// The backend of one runtime.
pub struct ContainerBackend {
    kind: Kind,
    systems: Systems,
    program: PathBuf,
    found: OnceLock<Result<Found, Lack>>,
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
        }
    }

    /// Asked once: to start a runtime for its version costs more than to start a container.
    fn found(&self) -> &Result<Found, Lack> {
        self.found.get_or_init(|| probe::find(self.kind))
    }
}

impl Backend for ContainerBackend {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn probe(&self) -> Offer {
        probe::offer(self.kind, self.found(), &self.systems)
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
        let system = self.systems.of(&plan.guest.image).map_err(unusable)?;
        let described = system.described.clone();
        let lowered = lower(self.kind, plan, &system).map_err(CreateError::Plan)?;
        let wanted = Wanted {
            kind: self.kind,
            found,
            program: &self.program,
            agent: None,
            files: None,
        };
        let runtime = probe::runtime(self.kind, found);
        let (standing, steps) = make(&wanted, &lowered, system)?;
        let family = wanted.family();
        let walls = shared::all(family.walls(), family.counting(), &lowered.watched, &steps);
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
