//! A container from the host's side: having it made, looking at it, starting it, listening to it, taking
//! it down.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Offer, Sandbox, Signal,
};
use casemate_backend::plan::Plan;
use casemate_driver::handover::{ENDED, FAILED, GO, READY, START, hand_over, hear_walls};
use casemate_driver::listen::{Lasts, Lines, Processes, READY_WITHIN, Running};
use casemate_driver::lowered::{Lowered, Watched};
use casemate_driver::outside::number_of;
use casemate_driver::packets::{Received, wait_readable};
use casemate_driver::system::System;
use casemate_driver::walls as shared;
use casemate_images::Systems;
use casemate_linux::cgroup::{Cgroup, wall as group_wall};
use casemate_linux::{Spawn, Step, handoff, jail};
use casemate_model::receipt::{Need, Receipt};

use crate::bundle::{Ids, mount_points, variables};
use crate::keeper;
use crate::kind::Kind;
use crate::lower::{beside, keeper_job, lower};
use crate::measure::{self, Expected};
use crate::probe::{self, Found, Lack};
use crate::walls;

/// Containers that are being made at once: more only make each other late.
const AT_ONCE: usize = 4;
/// How often the two channels are looked at while the interpreter comes up.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Bytes of what a container said that are passed on where it did not come up.
const SAID: usize = 2000;

/// The backend of one runtime.
pub struct ContainerBackend {
    kind: Kind,
    systems: Systems,
    program: PathBuf,
    found: OnceLock<Result<Found, Lack>>,
}

/// A container whose walls were measured and in which no program has run.
///
/// The fields are dropped in their order: first the processes, then what they were in.
struct ContainerSandbox {
    processes: Processes,
    lines: Lines,
    scratch: OwnedFd,
    cgroup: Option<Cgroup>,
    watched: Watched,
    /// Its files are there for as long as this is.
    _system: System,
}

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
        static RECLAIM: std::sync::Once = std::sync::Once::new();
        // Groups of processes that crashed. One that stays costs nothing and is tried again next time.
        RECLAIM.call_once(|| drop(casemate_linux::cgroup::reclaim_stale()));
        casemate_linux::cgroup::rouse();
        let unusable = |(why, fix): Lack| CreateError::Unusable { why, fix };
        let found = self
            .found()
            .as_ref()
            .map_err(|lack| unusable(lack.clone()))?;
        let system = self.systems.of(&plan.guest.image).map_err(unusable)?;
        let described = system.described.clone();
        let lowered = lower(self.kind, plan, &system).map_err(CreateError::Plan)?;
        let _turn = Turn::take();
        let making = self.start(&lowered, system);
        let making =
            making.map_err(|error| CreateError::Fault(format!("starting the keeper: {error}")))?;
        let runtime = probe::runtime(self.kind, found);
        let (sandbox, steps) = making.make(self.kind, found, &lowered)?;
        let family = self.kind.family();
        let walls = shared::all(family.walls(), family.counting(), &lowered.watched, &steps);
        let receipt = Receipt {
            backend: self.kind.name().to_owned(),
            guest: format!("{described}, by {runtime}"),
            walls,
        };
        Ok((Box::new(sandbox), receipt))
    }
}

/// One of the few turns there are to make a container.
pub(crate) struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Turn {
    pub(crate) fn take() -> Self {
        let taken = TURNS.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = TURNS.1.wait_while(taken, |taken| *taken >= AT_ONCE);
        *wait.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        TURNS.1.notify_one();
    }
}

/// A container that is being made.
struct Making {
    sandbox: ContainerSandbox,
    handed: OwnedFd,
    steps: Vec<Step>,
    /// The group's path for a runtime that insists on one.
    group: Option<String>,
}

impl ContainerBackend {
    /// Starts the keeper. gVisor's processes begin in the control group, because they are many and one
    /// of them forks; those of the others are one, and it is put there when it is made.
    fn start(&self, lowered: &Lowered<'_>, system: System) -> io::Result<Making> {
        let (mut cgroup, mut steps) = match Cgroup::create(self.kind.name(), &lowered.cgroup) {
            Ok(cgroup) => {
                let steps = cgroup.steps().to_vec();
                (Some(cgroup), steps)
            }
            Err(missing) => (None, missing.steps),
        };
        steps.push(shared::accounting(cgroup.as_ref()));
        let group = match (self.kind, &mut cgroup) {
            (Kind::Runc, Some(cgroup)) => Some(cgroup.for_runtime()?),
            _ => None,
        };
        let (lines, ends) = Lines::make()?;
        let (handed, handing) = UnixStream::pair()?;
        handed.set_nonblocking(true)?;
        let mut spawn = Spawn::new(&self.program)
            .arg(keeper::ARGUMENT)
            .fd(&ends.control, keeper::CONTROL)
            .fd(&handing, keeper::HANDOFF)
            .fd(&ends.messages, keeper::MESSAGES)
            .fd(&ends.stdout, keeper::STDOUT)
            .fd(&ends.stderr, keeper::STDERR)
            .fd(&system.packages.folder, keeper::PACKAGES);
        if let Some(root) = &system.root {
            spawn = spawn.fd(&root.folder, keeper::IMAGE);
        }
        if let Some(venv) = &system.venv {
            spawn = spawn.fd(&venv.folder, keeper::VENV);
        }
        if let (Kind::Gvisor(_), Some(cgroup)) = (self.kind, &cgroup) {
            spawn = spawn.cgroup(cgroup);
        }
        let child = spawn.spawn()?;
        let sandbox = ContainerSandbox {
            processes: Processes { child, init: None },
            lines,
            // Until scratch is handed over, a descriptor that holds nothing.
            scratch: File::open("/dev/null")?.into(),
            cgroup,
            watched: lowered.watched.clone(),
            _system: system,
        };
        Ok(Making {
            sandbox,
            handed: handed.into(),
            steps,
            group,
        })
    }
}

fn fault(why: impl std::fmt::Display) -> CreateError {
    CreateError::Fault(format!("the container could not be made: {why}"))
}

impl Making {
    /// Has the container made, looks at it, starts it as far as our own driver, and looks once more.
    fn make(
        mut self,
        kind: Kind,
        found: &Found,
        lowered: &Lowered<'_>,
    ) -> Result<(ContainerSandbox, Vec<Step>), CreateError> {
        self.steps.insert(0, version(kind, found));
        let shown = match &lowered.job.root {
            Some(root) => jail::root::System::Image(root.into()),
            None => jail::root::System::Host,
        };
        let shapes = jail::root::shapes(&shown).map_err(fault)?;
        let ids = Ids::of(self.sandbox.processes.child.pid());
        let program = found
            .program
            .to_str()
            .ok_or_else(|| fault("the runtime's path is not UTF-8"))?;
        let group = self.group.as_deref();
        let job = keeper_job(kind, &lowered.job, program, ids, &shapes, group).map_err(fault)?;
        let mut expected = Expected {
            kind,
            user: ids.user,
            root: ids.root,
            open_files: lowered.job.open_files,
            mounts: mount_points(&shapes, beside(&lowered.job)),
            scratch: 0,
            environment: variables(&lowered.job.env),
        };
        let deadline = Instant::now() + READY_WITHIN;
        let made = self.made(&job, lowered, deadline);
        let pid = made.map_err(|error| self.sandbox.failed(&error))?;
        let scratch = rustix::fs::fstat(&self.sandbox.scratch);
        expected.scratch = scratch
            .map_err(|error| fault(format!("scratch: {error}")))?
            .st_dev;
        if kind.is_gvisor() {
            self.steps.push(environment(expected.environment.len()));
        }
        let cgroup = self.sandbox.cgroup.as_ref();
        if let (Some(cgroup), false) = (cgroup, kind.is_gvisor()) {
            cgroup
                .add(pid)
                .map_err(|error| fault(format!("its control group: {error}")))?;
        }
        self.steps.extend(measure::created(&expected, pid, cgroup));
        if self.has_gap(kind) {
            // It is not started: whoever holds the receipt against the plan refuses it.
            return Ok((self.sandbox, self.steps));
        }
        let up = self.sandbox.bring_up(Instant::now() + READY_WITHIN);
        up.map_err(|error| self.sandbox.failed(&error))?;
        self.look_again(kind, &expected, pid, lowered)?;
        Ok((self.sandbox, self.steps))
    }

    /// Hands the job over and hears of the container: its process's number here.
    fn made(
        &mut self,
        job: &crate::lower::KeeperJob,
        lowered: &Lowered<'_>,
        deadline: Instant,
    ) -> io::Result<u32> {
        hand_over(&self.sandbox.lines.control, job, lowered)?;
        self.steps
            .extend(hear_walls(&mut self.sandbox.lines.control, deadline)?);
        // All three are handed over before the walls are reported.
        self.sandbox.processes.init = Some(handoff::receive(&self.handed)?);
        self.sandbox.scratch = handoff::receive(&self.handed)?;
        let container = handoff::receive(&self.handed)?;
        number_of(&container).map_err(io::Error::other)
    }

    fn has_gap(&self, kind: Kind) -> bool {
        let known = kind.family().walls();
        let walls = self.steps.iter().map(|step| shared::built(known, step));
        walls
            .into_iter()
            .any(|wall| wall.need == Need::Required && !wall.stands())
    }

    /// Our driver is up, and nothing else.
    fn look_again(
        &mut self,
        kind: Kind,
        expected: &Expected,
        pid: u32,
        lowered: &Lowered<'_>,
    ) -> Result<(), CreateError> {
        let sandbox = &self.sandbox;
        let mut ours = vec![sandbox.processes.child.pid()];
        if let Some(init) = &sandbox.processes.init {
            ours.push(number_of(init).map_err(fault)?);
        }
        let cgroup = sandbox.cgroup.as_ref();
        self.steps
            .extend(measure::started(expected, pid, cgroup, &ours));
        // Until now a runtime's threads counted too.
        if let (Some(cgroup), Some(tasks), false) = (cgroup, lowered.job.tasks, kind.is_gvisor()) {
            let asked = format!("{tasks} tasks");
            let step = Step::run(group_wall::PIDS, asked, || cgroup.set_pids(tasks));
            self.steps.retain(|step| step.wall != group_wall::PIDS);
            self.steps.push(step);
        }
        Ok(())
    }
}

/// It was judged when it was found; a refused one does not come here.
fn version(kind: Kind, found: &Found) -> Step {
    Step::run(walls::RUNTIME, "no known hole that can be reached", || {
        let runtime = probe::runtime(kind, found);
        Ok(match found.notes.len() {
            0 => runtime,
            count => format!(
                "{runtime}; {count} advisories that are not reached here (`casemate doctor`)"
            ),
        })
    })
}

/// What gVisor's kernel was told; a process's environment in there is not to be seen from outside.
fn environment(variables: usize) -> Step {
    Step::run(
        shared::ENVIRONMENT,
        "the interpreter's, none of the host's",
        || Ok(format!("{variables} variables of the bundle's")),
    )
}

impl ContainerSandbox {
    /// Has the container started and waits until the driver in it is up.
    fn bring_up(&mut self, deadline: Instant) -> io::Result<()> {
        self.lines.control.send(START, &[])?;
        loop {
            match self.lines.messages.receive(false)? {
                Received::Packet(READY, _) => return Ok(()),
                Received::Packet(..) => {
                    return Err(io::Error::other("its driver said something else"));
                }
                Received::Nothing | Received::Closed => {}
            }
            match self.lines.control.receive(false)? {
                Received::Nothing => {}
                Received::Packet(FAILED, why) => {
                    return Err(io::Error::other(String::from_utf8_lossy(&why).into_owned()));
                }
                Received::Packet(ENDED, how) => {
                    let how = String::from_utf8_lossy(&how).into_owned();
                    return Err(io::Error::other(format!(
                        "the interpreter ended at once: {how}"
                    )));
                }
                Received::Packet(..) => {
                    return Err(io::Error::other("its keeper said something else"));
                }
                Received::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("the interpreter does not come up"));
            }
            let both = [self.lines.messages.as_fd(), self.lines.control.as_fd()];
            wait_readable(&both, LOOK_EVERY)?;
        }
    }

    /// A container that could not be made, in words: what its keeper said, and what it wrote.
    fn failed(&mut self, error: &io::Error) -> CreateError {
        let mut said = error.to_string();
        if error.kind() != io::ErrorKind::Other
            && let Ok(Received::Packet(FAILED, why)) = self.lines.control.receive(false)
        {
            said = String::from_utf8_lossy(&why).into_owned();
        }
        if error.kind() == io::ErrorKind::UnexpectedEof
            && self
                .cgroup
                .as_ref()
                .is_some_and(|group| group.oom_kills().is_ok_and(|kills| kills > 0))
        {
            said.push_str("; the kernel killed it for memory");
        }
        let mut wrote = vec![0; SAID];
        // What there is; nothing is not an error worth telling.
        let length = io::Read::read(&mut self.lines.stderr, &mut wrote).unwrap_or_default();
        if length > 0 {
            let wrote = String::from_utf8_lossy(&wrote[..length]);
            said.push_str(&format!("; it wrote: {}", wrote.trim()));
        }
        fault(said)
    }
}

impl Sandbox for ContainerSandbox {
    fn run(
        mut self: Box<Self>,
        _plan: &Plan,
        sink: &mut dyn FnMut(Signal),
        cancel: &Cancel,
    ) -> Result<Finish, Fault> {
        self.lines
            .messages
            .send(GO, &[])
            .map_err(|error| Fault(format!("starting the program: {error}")))?;
        let running = Running {
            lines: &mut self.lines,
            processes: &mut self.processes,
            watched: &self.watched,
            cgroup: self.cgroup.as_ref(),
            scratch: &self.scratch,
            stands: true,
            lasts: Lasts::Run,
        };
        running.finish(sink, cancel)
    }
}
