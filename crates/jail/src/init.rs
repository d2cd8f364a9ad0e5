//! The other process: this program once more, which builds the walls from a plan it is given as data, and
//! then starts the interpreter, or holds the jail for one that was forked elsewhere.
//!
//! One thread, from beginning to end. It is in its control groups before it runs. What is the same for every
//! job it builds before it has one, so that it can be started in advance; it takes one job and no second. It
//! says which walls stand before anything of the guest's runs; it starts the program only when it is told to, and
//! whatever runs in the jail cannot outlive it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_driver::handover::{
    ENDED, HOLD, READY, START, Told, WireEnd, WireJob, copy_in, receive_job, report, tell,
};
use casemate_driver::lowered::STDIN_FILE;
use casemate_driver::packets::{Packets, Received};
use casemate_driver::walls::ENVIRONMENT;
use casemate_linux::jail::machine::Machine;
use casemate_linux::jail::root::{Bare, Folders, Ground, Plan, System};
use casemate_linux::jail::{
    self, Confinement, Filter, Forked, Network, Parent, confine, fork_init,
    leave_children_to_kernel, prepare, reap_until,
};
use casemate_linux::lockdown::Identity;
use casemate_linux::{Limit, Spawn, Step, handoff, take_fd};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// The first argument that makes this program the first process of a jail.
pub const ARGUMENT: &str = "jail-init";
/// The channel to the host.
pub(crate) const CONTROL: i32 = 3;
/// Where scratch is handed over.
pub(crate) const HANDOFF: i32 = 4;
/// The guest's channel to the host.
pub(crate) const MESSAGES: i32 = 5;
/// The guest's standard output.
pub(crate) const STDOUT: i32 = 6;
/// The guest's standard error.
pub(crate) const STDERR: i32 = 7;
/// The folder of the packages, as the host checked it.
pub(crate) const PACKAGES: i32 = 8;
/// The root of an image, where there is one.
pub(crate) const IMAGE: i32 = 9;
/// The packages of a virtual environment, where there is one.
pub(crate) const VENV: i32 = 10;
/// The folder of the agent, where one is to live in the jail.
pub(crate) const AGENT: i32 = 11;

/// What a descriptor that is handed over is.
pub(crate) mod handed {
    /// Process 1.
    pub(crate) const INIT: u8 = b'i';
    /// The top of scratch.
    pub(crate) const SCRATCH: u8 = b's';
    /// The guest's standard input.
    pub(crate) const STDIN: u8 = b'0';
    /// The Landlock rules.
    pub(crate) const RULES: u8 = b'r';
}

/// What this process was given for its jail.
pub(crate) struct Given {
    pub(crate) control: Packets,
    pub(crate) handoff: OwnedFd,
    pub(crate) messages: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What is the same for every jail that shows a system, and named before there is a job: a ground with its folders open.
pub(crate) struct OpenGround {
    ground: Ground,
    packages: OwnedFd,
    image: Option<OwnedFd>,
    venv: Option<OwnedFd>,
    agent: Option<OwnedFd>,
}

/// Builds the walls, waits for the word, runs the guest.
pub fn main() -> ExitCode {
    let given = match Given::take() {
        Ok(given) => given,
        // There is nobody to tell: it was started by hand.
        Err(_) => return ExitCode::from(125),
    };
    match tell(&given.control, |_| OpenGround::take()) {
        Ok(shows) => become_jail(given, shows, None),
        Err(Told) => ExitCode::from(125),
    }
}

/// What this process is from now on: a jail, with a filter that was compiled before, if one was.
pub(crate) fn become_jail(given: Given, shows: OpenGround, filter: Option<Filter>) -> ExitCode {
    match run(given, shows, filter) {
        Ok(code) => ExitCode::from(code),
        Err(Told) => ExitCode::from(125),
    }
}

/// Tells the host why there is no jail.
pub(crate) fn failed(given: &Given, why: &str) -> ExitCode {
    match tell(&given.control, |_| Err::<(), _>(why.to_owned())) {
        Ok(()) | Err(Told) => ExitCode::from(125),
    }
}

impl Given {
    fn take() -> io::Result<Self> {
        Ok(Self {
            control: Packets::new(take_fd(CONTROL)?),
            handoff: take_fd(HANDOFF)?,
            messages: take_fd(MESSAGES)?,
            stdout: take_fd(STDOUT)?,
            stderr: take_fd(STDERR)?,
        })
    }

    /// Hands a descriptor to the host.
    fn hand(&self, what: u8, fd: &impl AsFd) -> Result<(), String> {
        handoff::send_with(&self.handoff, &[what], &[fd.as_fd()])
            .map_err(|error| format!("handing over: {error}"))
    }
}

impl OpenGround {
    /// The folder of the packages, the root of an image, the packages of a virtual environment and the folder of an
    /// agent, as the arguments name them; no words for what there is not.
    pub(crate) fn take() -> Result<Self, String> {
        let path = |place: usize, what: &str| {
            let path = std::env::args_os().nth(place).map(PathBuf::from);
            let path = path.ok_or_else(|| format!("{what} is not named"))?;
            if path.as_os_str().is_empty() {
                return Ok(None);
            }
            let absolute = path.is_absolute().then_some(path);
            absolute
                .map(Some)
                .ok_or_else(|| format!("{what} is not an absolute path"))
        };
        let ground = Ground {
            system: path(3, "the system")?.map_or(System::Host, System::Image),
            packages: path(2, "the folder of the packages")?
                .ok_or("the folder of the packages is not named")?,
            venv: path(4, "the virtual environment")?,
            agent: path(5, "the agent")?,
        };
        let take =
            |number| take_fd(number).map_err(|error| format!("descriptor {number}: {error}"));
        let named = |named: bool, number| named.then(|| take(number)).transpose();
        Ok(Self {
            packages: take(PACKAGES)?,
            image: named(ground.system != System::Host, IMAGE)?,
            venv: named(ground.venv.is_some(), VENV)?,
            agent: named(ground.agent.is_some(), AGENT)?,
            ground,
        })
    }

    /// The filter of its jails.
    pub(crate) fn filter(&self) -> Filter {
        Filter::compile(self.network())
    }

    const fn network(&self) -> Network {
        if self.agent.is_some() {
            Network::Loopback
        } else {
            Network::Nothing
        }
    }
}

/// Every descriptor that a jail is made with.
fn kept(given: &Given, shows: &OpenGround) -> Vec<RawFd> {
    let streams = [
        given.control.as_fd(),
        given.handoff.as_fd(),
        given.messages.as_fd(),
        given.stdout.as_fd(),
        given.stderr.as_fd(),
        shows.packages.as_fd(),
    ];
    let shown = [&shows.image, &shows.venv, &shows.agent];
    let shown = shown.into_iter().flatten().map(AsFd::as_fd);
    let all = streams.into_iter().chain(shown);
    [0, 1, 2]
        .into_iter()
        .chain(all.map(|fd| fd.as_raw_fd()))
        .collect()
}

/// An error here has been told to the host.
fn run(mut given: Given, shows: OpenGround, filter: Option<Filter>) -> Result<u8, Told> {
    // What is made here is for the guest to read, whatever the user's own mask says.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let identity = Identity::of_this_process();
    let number = std::process::id();
    let steps = jail::leave(&kept(&given, &shows));
    // Without a process table there is no process 1 who could say what else is missing.
    tell(&given.control, |_| jail::has_left(&steps))?;
    match tell(&given.control, |_| fork_init())? {
        // What fails here process 1 sees, and says.
        Forked::Outside(init) => init
            .wait(identity)
            .map(|code| u8::try_from(code).unwrap_or(u8::MAX))
            .map_err(|_| Told),
        Forked::Init(parent) => {
            let inside = Inside {
                identity,
                number,
                parent,
            };
            let armed = inside.arm(&mut given, shows, filter, steps);
            let (program, stdin) = tell(&given.control, |_| armed)?;
            match given.control.receive(true) {
                Ok(Received::Packet(START, _)) => {
                    let ended = start(&mut given, program, stdin);
                    tell(&given.control, |_| ended)?;
                }
                Ok(Received::Packet(HOLD, _)) => {
                    drop((program, stdin));
                    hold(given)?;
                }
                // The host has gone, or has found a gap: nothing runs.
                _ => {}
            }
            Ok(0)
        }
    }
}

/// What is started for the job.
struct Program {
    spawn: Spawn,
    /// Whether process 1 says that it begins.
    silent: bool,
}

/// Process 1.
struct Inside {
    identity: Identity,
    /// The number of the process outside, which no other jail has at the same time.
    number: u32,
    parent: Parent,
}

impl Inside {
    /// Puts up and reports all walls. What is left to do is to start the interpreter, with its input.
    fn arm(
        mut self,
        given: &mut Given,
        shows: OpenGround,
        filter: Option<Filter>,
        mut steps: Vec<Step>,
    ) -> Result<(Program, File), String> {
        self.parent.confined()?;
        let own = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|error| format!("pidfd_open: {error}"))?;
        given.hand(handed::INIT, &own)?;
        let network = shows.network();
        let filter = filter.unwrap_or_else(|| shows.filter());
        let folders = Folders {
            packages: shows.packages.as_fd(),
            image: shows.image.as_ref().map(AsFd::as_fd),
            venv: shows.venv.as_ref().map(AsFd::as_fd),
            agent: shows.agent.as_ref().map(AsFd::as_fd),
        };
        let bare = Bare::begin(shows.ground, folders, &mut steps)?;
        if network == Network::Loopback {
            jail::loopback_up()?;
        }
        // Here it waits, when it was started in advance.
        let job: WireJob = receive_job(given.control.as_fd())?;
        job.check()?;
        // Of another system or with other packages than this one's it is refused.
        let builder = bare.furnish(self.root_plan(&job))?;
        let inputs = builder.inputs().ok_or("there is no place for the inputs")?;
        copy_in(&mut given.control, &job.files, inputs)?;
        let built = builder.finish(&mut steps);
        let stdin = File::open(Path::new("/").join(STDIN_FILE))
            .map_err(|error| format!("standard input: {error}"))?;
        if let Some(scratch) = &built.scratch {
            given.hand(handed::SCRATCH, scratch)?;
        }
        drop(built.scratch);
        let prepared = prepare(filter, &built.system, built.has_proc);
        given.hand(handed::STDIN, &stdin)?;
        if let Some(rules) = prepared.rules() {
            given.hand(handed::RULES, &rules)?;
        }
        // Before the limits: a descriptor that is placed may lie above the one on their number.
        let program = program(&job, given, &stdin);
        steps.push(Step::run(
            ENVIRONMENT,
            "the plan's and the interpreter's",
            || {
                Ok(format!(
                    "{} variables of ours and the system's, none of the host's",
                    job.env.len()
                ))
            },
        ));
        steps.extend(confine(&self.confinement(&job), &self.parent, prepared));
        report(&given.control, &steps)?;
        Ok((program, stdin))
    }

    fn root_plan(&self, job: &WireJob) -> Plan {
        let limit = |amount: Option<u64>| amount.map_or(Limit::Unlimited, Limit::At);
        let machine = Machine {
            memory: limit(job.memory_bytes),
            processors: job.processors,
        };
        let owner = owner(self.identity);
        Plan {
            ground: ground_of(job),
            input_bytes: job.input_bytes(),
            input_files: job.input_files(),
            scratch_bytes: limit(job.scratch_bytes),
            scratch_files: limit(job.scratch_files),
            links: job.links.clone(),
            owner,
            seen_as: owner,
            machine: job.agent.is_some().then_some(machine),
        }
    }

    fn confinement(&self, job: &WireJob) -> Confinement {
        confinement(job, self.identity, self.number)
    }
}

/// Who owns the scratch of a jail: where it is made by root, whoever its processes become.
pub(crate) fn owner(identity: Identity) -> (u32, u32) {
    match identity {
        Identity::Fixed { uid, gid } if rustix::process::geteuid().is_root() => (uid, gid),
        _ => (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        ),
    }
}

/// What a job allows its processes, in the jail that the process of this number was started for.
pub(crate) fn confinement(job: &WireJob, identity: Identity, number: u32) -> Confinement {
    let limit = |amount: Option<u64>| amount.map_or(Limit::Unlimited, Limit::At);
    Confinement {
        identity,
        open_files: limit(job.open_files),
        tasks: limit(job.tasks),
        processors: job.processors,
        first_processor: number as usize,
    }
}

/// The system that a job is shown, and what is shown beside it.
fn ground_of(job: &WireJob) -> Ground {
    Ground {
        system: match &job.root {
            Some(root) => System::Image(root.into()),
            None => System::Host,
        },
        packages: job.packages.clone().into(),
        venv: job.venv.as_ref().map(Into::into),
        agent: job.agent.as_ref().map(Into::into),
    }
}

/// A command line with its environment, and nothing of the host's.
pub(crate) fn command(argv: &[String], env: &[(String, String)]) -> Spawn {
    let (program, arguments) = match argv.split_first() {
        Some((program, arguments)) => (program.as_str(), arguments),
        // It was checked; a program that is not there does not start.
        None => ("", &[][..]),
    };
    let spawn = arguments
        .iter()
        .fold(Spawn::new(program), |spawn, argument| spawn.arg(argument));
    env.iter()
        .fold(spawn, |spawn, (name, value)| spawn.env(name, value))
}

/// The interpreter, with the streams and, where it speaks on it, the channel.
fn program(job: &WireJob, given: &Given, stdin: &File) -> Program {
    let spawn = command(&job.command, &job.env)
        .fd(stdin, 0)
        .fd(&given.stdout, 1)
        .fd(&given.stderr, 2);
    // An agent is silent too: it is spoken to.
    let has_channel = !job.silent || job.agent.is_some();
    Program {
        spawn: if has_channel {
            spawn.fd(&given.messages, 3)
        } else {
            spawn
        },
        silent: job.silent,
    }
}

fn start(given: &mut Given, program: Program, stdin: File) -> Result<(), String> {
    if program.silent {
        let messages = given.messages.try_clone();
        let messages = messages.map_err(|error| error.to_string())?;
        Packets::new(messages)
            .send(READY, &[])
            .map_err(|error| format!("saying that the program begins: {error}"))?;
    }
    let main = program.spawn.spawn_alone();
    let main = main.map_err(|error| error.to_string())?;
    drop(stdin);
    let exit = reap_until(&main)?;
    let end = serde_json::to_vec(&WireEnd { exit }).map_err(|error| error.to_string())?;
    given
        .control
        .send(ENDED, &end)
        .map_err(|error| format!("reporting the end: {error}"))
}

/// Keeps the jail for a program that was forked elsewhere: the kernel reaps what is left to process 1, and
/// everything in here ends with it, and it with the host.
fn hold(given: Given) -> Result<(), Told> {
    let Given { mut control, .. } = given;
    tell(&control, |_| leave_children_to_kernel())?;
    // Whatever comes, or an end of the channel, is the end.
    control.receive(true).map(drop).map_err(|_| Told)
}
