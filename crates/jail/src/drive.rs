//! A jail from the host's side: building it, starting it, listening to it, taking it down.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Offer, Sandbox, Signal,
};
use casemate_backend::plan::Plan;
use casemate_driver::handover::{FAILED, START, hand_over, hear_walls};
use casemate_driver::listen::{Lines, Processes, READY_WITHIN, Running};
use casemate_driver::lowered::{Lowered, Watched};
use casemate_driver::packets::Received;
use casemate_driver::system::System;
use casemate_driver::walls::{self as shared, Counting};
use casemate_images::Systems;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::{Exit as ProcessExit, Spawn, Step, handoff};
use casemate_model::receipt::Receipt;

use crate::lower::lower;
use crate::{init, probe, walls};

/// The jail backend.
pub struct JailBackend {
    systems: Systems,
    program: PathBuf,
}

/// A jail whose walls stand and in which nothing has run.
///
/// The fields are dropped in their order: first the processes, then what they were in.
struct JailSandbox {
    processes: Processes,
    lines: Lines,
    scratch: OwnedFd,
    cgroup: Option<Cgroup>,
    watched: Watched,
    /// Its files are there for as long as this is.
    _system: System,
}

impl JailBackend {
    /// The backend over the systems it can show, with `program` as the program of a jail's first process:
    /// this one, unless a test says otherwise.
    pub fn new(systems: impl Into<Systems>, program: impl Into<PathBuf>) -> Self {
        Self {
            systems: systems.into(),
            program: program.into(),
        }
    }
}

impl Backend for JailBackend {
    fn name(&self) -> &'static str {
        probe::NAME
    }

    fn probe(&self) -> Offer {
        probe::offer(&self.systems)
    }

    fn rests_on(&self) -> Vec<(String, String)> {
        self.systems.rests_on()
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        static RECLAIM: std::sync::Once = std::sync::Once::new();
        // Groups of processes that crashed. One that stays costs nothing and is tried again next time.
        RECLAIM.call_once(|| drop(casemate_linux::cgroup::reclaim_stale()));
        let system = self.systems.of(&plan.guest.image);
        let system = system.map_err(|(why, fix)| CreateError::Unusable { why, fix })?;
        let guest = system.described.clone();
        let lowered = lower(plan, &system).map_err(CreateError::Plan)?;
        let (mut sandbox, handed, around) = self
            .start(&lowered, system)
            .map_err(|error| CreateError::Fault(format!("starting the jail: {error}")))?;
        let steps = sandbox
            .arm(&lowered)
            .map_err(|error| sandbox.failed(&error))?;
        let steps = around.iter().chain(&steps);
        let walls = shared::all(walls::WALLS, Counting::Host, &lowered.watched, steps);
        // Both are handed over before the walls are reported.
        let init = handoff::receive(&handed);
        sandbox.processes.init = Some(init.map_err(|error| sandbox.failed(&error))?);
        // Where there is no scratch its wall is missing.
        if let Ok(scratch) = handoff::receive(&handed) {
            sandbox.scratch = scratch;
        }
        let receipt = Receipt {
            backend: probe::NAME.to_owned(),
            guest,
            walls,
        };
        Ok((Box::new(sandbox), receipt))
    }
}

impl JailBackend {
    /// Starts the process that will build the walls, in its control groups.
    fn start(
        &self,
        lowered: &Lowered<'_>,
        system: System,
    ) -> io::Result<(JailSandbox, OwnedFd, Vec<Step>)> {
        let (cgroup, mut steps) = match Cgroup::create("jail", &lowered.cgroup) {
            Ok(cgroup) => {
                let steps = cgroup.steps().to_vec();
                (Some(cgroup), steps)
            }
            Err(missing) => (None, missing.steps),
        };
        steps.push(shared::accounting(cgroup.as_ref()));
        let (lines, ends) = Lines::make()?;
        let (handed, handing) = std::os::unix::net::UnixStream::pair()?;
        handed.set_nonblocking(true)?;
        let mut spawn = Spawn::new(&self.program)
            .arg(init::ARGUMENT)
            .fd(&ends.control, init::CONTROL)
            .fd(&handing, init::HANDOFF)
            .fd(&ends.messages, init::MESSAGES)
            .fd(&ends.stdout, init::STDOUT)
            .fd(&ends.stderr, init::STDERR)
            .fd(&system.packages.folder, init::PACKAGES);
        if let Some(root) = &system.root {
            spawn = spawn.fd(&root.folder, init::IMAGE);
        }
        if let Some(venv) = &system.venv {
            spawn = spawn.fd(&venv.folder, init::VENV);
        }
        if let Some(cgroup) = &cgroup {
            spawn = spawn.cgroup(cgroup);
        }
        let child = spawn.spawn()?;
        let sandbox = JailSandbox {
            processes: Processes { child, init: None },
            lines,
            // Until scratch is handed over, a descriptor that holds nothing.
            scratch: File::open("/dev/null")?.into(),
            cgroup,
            watched: lowered.watched.clone(),
            _system: system,
        };
        Ok((sandbox, handed.into(), steps))
    }
}

impl JailSandbox {
    /// Hands over the job and hears which walls stand.
    fn arm(&mut self, lowered: &Lowered<'_>) -> io::Result<Vec<Step>> {
        hand_over(&self.lines.control, &lowered.job, lowered)?;
        hear_walls(&mut self.lines.control, Instant::now() + READY_WITHIN)
    }

    /// A jail that could not be built, in words: what it said, or how it ended.
    fn failed(&mut self, error: &io::Error) -> CreateError {
        let mut said = error.to_string();
        if error.kind() != io::ErrorKind::Other
            && let Ok(Received::Packet(FAILED, why)) = self.lines.control.receive(false)
        {
            said = String::from_utf8_lossy(&why).into_owned();
        }
        let ended = self
            .processes
            .child
            .wait_timeout(Duration::from_millis(200));
        let how = match ended.ok().flatten().map(|finished| finished.exit) {
            Some(exit) if exit.is_forbidden_call() => {
                "; its own filter killed it: this C library makes a call the filter does not know"
                    .to_owned()
            }
            Some(ProcessExit::Signal(signal)) => format!("; signal {signal} ended it"),
            _ => String::new(),
        };
        CreateError::Fault(format!("the jail could not be built: {said}{how}"))
    }
}

impl Sandbox for JailSandbox {
    fn run(
        mut self: Box<Self>,
        _plan: &Plan,
        sink: &mut dyn FnMut(Signal),
        cancel: &Cancel,
    ) -> Result<Finish, Fault> {
        self.lines
            .control
            .send(START, &[])
            .map_err(|error| Fault(format!("starting the jail: {error}")))?;
        let running = Running {
            lines: &mut self.lines,
            processes: &mut self.processes,
            watched: &self.watched,
            cgroup: self.cgroup.as_ref(),
            scratch: &self.scratch,
            stands: false,
        };
        running.finish(sink, cancel)
    }
}
