//! Having a container made: the keeper started, the bundle handed over, what was made looked at, and started as far as
//! our own program in it, which waits.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use casemate_backend::contract::CreateError;
use casemate_driver::handover::{
    ENDED, FAILED, GO_ON, READY, START, WireJob, hand_over, hear_walls,
};
use casemate_driver::listen::{Lines, Processes, READY_WITHIN};
use casemate_driver::lowered::Lowered;
use casemate_driver::outside::number_of;
use casemate_driver::packages::Opened;
use casemate_driver::packets::{Received, wait_readable};
use casemate_driver::session::{Standing, fill};
use casemate_driver::system::System;
use casemate_driver::walls as shared;
use casemate_linux::cgroup::{Cgroup, Missing, wall as group_wall};
use casemate_linux::jail::root::Shape;
use casemate_linux::processor::wall as processor;
use casemate_linux::{Spawn, Step, handoff, jail};
use casemate_model::receipt::Need;

use crate::bundle::{HOMES, Ids, mount_points, variables};
use crate::keeper;
use crate::kind::{IMAGE_FD, Kind};
use crate::lower::{Begins, FIRST_OF_SESSION, beside, keeper_job};
use crate::measure::{self, Expected};
use crate::probe::{self, Found};
use crate::walls::{self, Family};

/// Containers that are being made at once: more only make each other late.
const AT_ONCE: usize = 4;
/// How often the two channels are looked at while our program in it comes up.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Bytes of what a container said that are passed on where it did not come up.
const SAID: usize = 2000;

/// What is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) kind: Kind,
    pub(crate) found: &'a Found,
    /// The keeper's program.
    pub(crate) program: &'a Path,
    /// The agent that is to live in it; none where a program runs to its end.
    pub(crate) agent: Option<&'a Opened>,
    /// What is copied into scratch.
    pub(crate) files: Option<&'a OwnedFd>,
    pub(crate) begins: Begins<'a>,
}

impl Wanted<'_> {
    pub(crate) const fn family(&self) -> Family {
        match self.agent {
            None => self.kind.family(),
            Some(_) => Family::Session,
        }
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

/// Has a container made, when it is its turn.
pub(crate) fn make(
    wanted: &Wanted<'_>,
    lowered: &Lowered<'_>,
    system: System,
) -> Result<Up, CreateError> {
    static RECLAIM: std::sync::Once = std::sync::Once::new();
    // Groups of processes that crashed. One that stays costs nothing and is tried again next time.
    RECLAIM.call_once(|| drop(casemate_linux::cgroup::reclaim_stale()));
    let _turn = Turn::take();
    let making = Making::start(wanted, lowered, system);
    let making =
        making.map_err(|error| CreateError::Fault(format!("starting the keeper: {error}")))?;
    making.make(wanted, lowered)
}

/// A container that was made, as far as it came up.
pub(crate) struct Up {
    pub(crate) standing: Standing,
    pub(crate) steps: Vec<Step>,
    /// What its interpreter says is mapped into its memory, as JSON, where a checkpoint of it is to be made.
    pub(crate) mapped: Vec<u8>,
}

/// What a container shows of its system at the top.
pub(crate) fn shapes_of(job: &WireJob) -> Result<Vec<Shape>, String> {
    let shown = match &job.root {
        Some(root) => jail::root::System::Image(root.into()),
        None => jail::root::System::Host,
    };
    let mut shapes = jail::root::shapes(&shown)?;
    shapes.retain(|shape| job.agent.is_none() || shape.name != HOMES);
    Ok(shapes)
}

/// A container that is being made.
struct Making {
    standing: Standing,
    handed: OwnedFd,
    steps: Vec<Step>,
    /// The group's path for a runtime that insists on one.
    group: Option<String>,
}

impl Making {
    /// Starts the keeper. gVisor's processes begin in the control group, because they are many and one
    /// of them forks; those of the others are one, and it is put there when it is made.
    fn start(wanted: &Wanted<'_>, lowered: &Lowered<'_>, system: System) -> io::Result<Self> {
        let (mut cgroup, mut steps) = group(wanted, lowered);
        steps.push(shared::accounting(cgroup.as_ref()));
        let group = match (wanted.kind, &mut cgroup) {
            (Kind::Runc, Some(cgroup)) => Some(cgroup.for_runtime()?),
            _ => None,
        };
        let (lines, ends) = Lines::make()?;
        let (handed, handing) = UnixStream::pair()?;
        handed.set_nonblocking(true)?;
        let mut spawn = Spawn::new(wanted.program)
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
        if let Some(agent) = wanted.agent {
            spawn = spawn.fd(&agent.folder, keeper::AGENT);
        }
        if let Some(folder) = wanted.begins.image() {
            spawn = spawn.fd(folder, IMAGE_FD);
        }
        if let (Kind::Gvisor(_), Some(cgroup)) = (wanted.kind, &cgroup) {
            spawn = spawn.cgroup(cgroup);
        }
        let child = spawn.spawn()?;
        let standing = Standing {
            processes: Processes { child, init: None },
            lines,
            // Until scratch is handed over, a descriptor that holds nothing.
            scratch: File::open("/dev/null")?.into(),
            cgroup,
            watched: lowered.watched.clone(),
            system,
        };
        Ok(Self {
            standing,
            handed: handed.into(),
            steps,
            group,
        })
    }
}

/// The control group: one that can be frozen where an agent lives.
fn group(wanted: &Wanted<'_>, lowered: &Lowered<'_>) -> (Option<Cgroup>, Vec<Step>) {
    let made = match wanted.agent {
        None => Cgroup::create(wanted.kind.name(), &lowered.cgroup),
        Some(_) => Cgroup::reserve_freezable("session")
            .map(|mut group| {
                group.limit(&lowered.cgroup);
                group
            })
            .map_err(|missing| Missing::of(&missing.why, &lowered.cgroup)),
    };
    match made {
        Ok(group) => {
            let steps = group.steps().to_vec();
            (Some(group), steps)
        }
        Err(missing) => (None, missing.steps),
    }
}

fn fault(why: impl std::fmt::Display) -> CreateError {
    CreateError::Fault(format!("the container could not be made: {why}"))
}

impl Making {
    /// Has the container made, looks at it, starts it as far as our own program in it, and looks once more.
    fn make(mut self, wanted: &Wanted<'_>, lowered: &Lowered<'_>) -> Result<Up, CreateError> {
        let (kind, found) = (wanted.kind, wanted.found);
        let lived_in = wanted.agent.is_some();
        self.steps.insert(0, version(kind, found));
        let shapes = shapes_of(&lowered.job).map_err(fault)?;
        let ids = match wanted.begins {
            Begins::Anew => Ids::of(self.standing.processes.child.pid()),
            Begins::From(..) | Begins::Into(_) => Ids::SAVED,
        };
        let program = found
            .program
            .to_str()
            .ok_or_else(|| fault("the runtime's path is not UTF-8"))?;
        let group = self.group.as_deref();
        let begins = wanted.begins;
        let job = keeper_job(kind, &lowered.job, program, ids, &shapes, group, begins);
        let job = job.map_err(fault)?;
        let mut expected = Expected {
            kind,
            user: ids.user,
            root: ids.root,
            open_files: lowered.job.open_files,
            mounts: mount_points(&shapes, &beside(&lowered.job), lived_in),
            scratch: 0,
            environment: variables(&lowered.job.env),
            lived_in,
        };
        let deadline = Instant::now() + READY_WITHIN;
        let made = self.made(&job, lowered, deadline);
        let pid = made.map_err(|error| self.failed(&error))?;
        let scratch = rustix::fs::fstat(&self.standing.scratch);
        expected.scratch = scratch
            .map_err(|error| fault(format!("scratch: {error}")))?
            .st_dev;
        if let Some(files) = wanted.files {
            let standing = &self.standing;
            let owner = (ids.user, ids.user);
            fill(files, &standing.scratch, owner, &standing.watched)
                .map_err(|error| fault(format!("copying its files: {error}")))?;
        }
        if kind.is_gvisor() {
            self.steps.push(environment(expected.environment.len()));
        }
        let cgroup = self.standing.cgroup.as_ref();
        if let (Some(cgroup), false) = (cgroup, kind.is_gvisor()) {
            cgroup
                .add(pid)
                .map_err(|error| fault(format!("its control group: {error}")))?;
        }
        self.steps.extend(measure::created(&expected, pid, cgroup));
        if self.has_gap(wanted.family()) {
            // It is not started: whoever holds the receipt against the plan refuses it.
            return Ok(Up {
                standing: self.standing,
                steps: self.steps,
                mapped: Vec::new(),
            });
        }
        let up = self.bring_up(begins, Instant::now() + READY_WITHIN);
        let mapped = up.map_err(|error| self.failed(&error))?;
        self.look_again(kind, &expected, pid, lowered)?;
        Ok(Up {
            standing: self.standing,
            steps: self.steps,
            mapped,
        })
    }

    /// Hands the job over and hears of the container: its process's number here.
    fn made(
        &mut self,
        job: &crate::lower::KeeperJob,
        lowered: &Lowered<'_>,
        deadline: Instant,
    ) -> io::Result<u32> {
        hand_over(&self.standing.lines.control, job, lowered)?;
        self.steps
            .extend(hear_walls(&mut self.standing.lines.control, deadline)?);
        // All three are handed over before the walls are reported.
        self.standing.processes.init = Some(handoff::receive(&self.handed)?);
        self.standing.scratch = handoff::receive(&self.handed)?;
        let container = handoff::receive(&self.handed)?;
        number_of(&container).map_err(io::Error::other)
    }

    fn has_gap(&self, family: Family) -> bool {
        let known = family.walls();
        let walls = self.steps.iter().map(|step| shared::built(known, step));
        walls
            .into_iter()
            .any(|wall| wall.need == Need::Required && !wall.stands())
    }

    /// Our program is up, and nothing else.
    fn look_again(
        &mut self,
        kind: Kind,
        expected: &Expected,
        pid: u32,
        lowered: &Lowered<'_>,
    ) -> Result<(), CreateError> {
        let standing = &self.standing;
        let mut ours = vec![standing.processes.child.pid()];
        if let Some(init) = &standing.processes.init {
            ours.push(number_of(init).map_err(fault)?);
        }
        let cgroup = standing.cgroup.as_ref();
        let measured = measure::started(expected, pid, cgroup, &ours);
        // What was said by the keeper, which is now seen of the container itself.
        let said = [processor::SPECULATION, processor::CORE_SCHEDULING];
        self.steps
            .retain(|step| !said.contains(&step.wall.as_ref()));
        self.steps.extend(measured);
        // Until now a runtime's threads counted too.
        if let (Some(cgroup), Some(tasks), false) = (cgroup, lowered.job.tasks, kind.is_gvisor()) {
            let ours = if expected.lived_in {
                FIRST_OF_SESSION
            } else {
                0
            };
            let tasks = tasks.saturating_add(ours);
            let asked = format!("{tasks} tasks");
            let step = Step::run(group_wall::PIDS, asked, || cgroup.set_pids(tasks));
            self.steps.retain(|step| step.wall != group_wall::PIDS);
            self.steps.push(step);
        }
        Ok(())
    }

    /// Has the container started and waits until our program in it is up: what it says of itself.
    fn bring_up(&mut self, begins: Begins<'_>, deadline: Instant) -> io::Result<Vec<u8>> {
        if let Begins::From(_, limits) = begins {
            let limits = serde_json::to_vec(&limits)?;
            self.standing.lines.messages.send(GO_ON, &limits)?;
        }
        self.standing.lines.control.send(START, &[])?;
        loop {
            match self.standing.lines.messages.receive(false)? {
                Received::Packet(READY, mapped) => return Ok(mapped),
                Received::Packet(..) => {
                    return Err(io::Error::other("its first process said something else"));
                }
                Received::Nothing | Received::Closed => {}
            }
            match self.standing.lines.control.receive(false)? {
                Received::Nothing => {}
                Received::Packet(FAILED, why) => {
                    return Err(io::Error::other(String::from_utf8_lossy(&why).into_owned()));
                }
                Received::Packet(ENDED, how) => {
                    let how = String::from_utf8_lossy(&how).into_owned();
                    return Err(io::Error::other(format!(
                        "its first process ended at once: {how}"
                    )));
                }
                Received::Packet(..) => {
                    return Err(io::Error::other("its keeper said something else"));
                }
                Received::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("its first process does not come up"));
            }
            let both = [
                self.standing.lines.messages.as_fd(),
                self.standing.lines.control.as_fd(),
            ];
            wait_readable(&both, LOOK_EVERY)?;
        }
    }

    /// A container that could not be made, in words: what its keeper said, and what it wrote.
    fn failed(&mut self, error: &io::Error) -> CreateError {
        let mut said = error.to_string();
        if error.kind() != io::ErrorKind::Other
            && let Ok(Received::Packet(FAILED, why)) = self.standing.lines.control.receive(false)
        {
            said = String::from_utf8_lossy(&why).into_owned();
        }
        if error.kind() == io::ErrorKind::UnexpectedEof
            && self
                .standing
                .cgroup
                .as_ref()
                .is_some_and(|group| group.oom_kills().is_ok_and(|kills| kills > 0))
        {
            said.push_str("; the kernel killed it for memory");
        }
        let mut wrote = vec![0; SAID];
        // What there is; nothing is not an error worth telling.
        let length =
            io::Read::read(&mut self.standing.lines.stderr, &mut wrote).unwrap_or_default();
        if length > 0 {
            let wrote = String::from_utf8_lossy(&wrote[..length]);
            said.push_str(&format!("; it wrote: {}", wrote.trim()));
        }
        fault(said)
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
