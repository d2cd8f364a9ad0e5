//! The other process: this program once more, which builds the walls from a plan it is given as data, and
//! then starts Python.
//!
//! One thread, from beginning to end. It is in its control groups before it runs; it says which walls
//! stand before anything of the guest's runs; it starts Python only when it is told to, and what Python
//! starts cannot outlive it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use casemate_driver::handover::{
    ENDED, READY, START, Told, WireEnd, WireJob, copy_in, receive_job, report, tell,
};
use casemate_driver::lowered::STDIN_FILE;
use casemate_driver::packets::{Packets, Received};
use casemate_driver::walls::ENVIRONMENT;
use casemate_linux::jail::root::{Builder, Folders, Plan, System};
use casemate_linux::jail::{self, Confinement, Forked, Parent, confine, fork_init, reap_until};
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

/// What this process was given.
struct Given {
    control: Packets,
    handoff: OwnedFd,
    messages: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    packages: OwnedFd,
    image: Option<OwnedFd>,
    venv: Option<OwnedFd>,
}

/// Builds the walls, waits for the word, runs the guest.
pub fn main() -> ExitCode {
    let given = match Given::take() {
        Ok(given) => given,
        // There is nobody to tell: it was started by hand.
        Err(_) => return ExitCode::from(125),
    };
    match run(given) {
        Ok(code) => ExitCode::from(code),
        Err(Told) => ExitCode::from(125),
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
            packages: take_fd(PACKAGES)?,
            image: None,
            venv: None,
        })
    }
}

/// An error here has been told to the host.
fn run(mut given: Given) -> Result<u8, Told> {
    // What is made here is for the guest to read, whatever the user's own mask says.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let job = tell(&given.control, |control| {
        let job: WireJob = receive_job(control.as_fd())?;
        job.check()?;
        Ok(job)
    })?;
    let mut keep = vec![
        0, 1, 2, CONTROL, HANDOFF, MESSAGES, STDOUT, STDERR, PACKAGES,
    ];
    let shown = [
        (&job.root, &mut given.image, IMAGE),
        (&job.venv, &mut given.venv, VENV),
    ];
    for (named, fd, number) in shown {
        if named.is_some() {
            let taken = take_fd(number).map_err(|error| format!("descriptor {number}: {error}"));
            *fd = Some(tell(&given.control, |_| taken)?);
            keep.push(number);
        }
    }
    let identity = Identity::of_this_process();
    let number = std::process::id();
    let steps = jail::leave(&keep);
    match tell(&given.control, |_| fork_init())? {
        // What fails here process 1 sees, and says.
        Forked::Outside(init) => init
            .wait(identity)
            .map(|code| u8::try_from(code).unwrap_or(u8::MAX))
            .map_err(|_| Told),
        Forked::Init(parent) => {
            let mut plan = Inside {
                job,
                identity,
                number,
                parent,
            };
            match plan.run(&mut given, steps) {
                Ok(()) => Ok(0),
                Err(why) => tell(&given.control, |_| Err(why)),
            }
        }
    }
}

/// Process 1.
struct Inside {
    job: WireJob,
    identity: Identity,
    /// The number of the process outside, which no other jail has at the same time.
    number: u32,
    parent: Parent,
}

impl Inside {
    fn run(&mut self, given: &mut Given, mut steps: Vec<Step>) -> Result<(), String> {
        self.parent.confined()?;
        let own = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|error| format!("pidfd_open: {error}"))?;
        handoff::send(&given.handoff, &own).map_err(|e| format!("handing over: {e}"))?;
        let folders = Folders {
            packages: given.packages.as_fd(),
            image: given.image.as_ref().map(AsFd::as_fd),
            venv: given.venv.as_ref().map(AsFd::as_fd),
        };
        let builder = Builder::begin(self.root_plan(), folders, &mut steps)?;
        let inputs = builder.inputs().ok_or("there is no place for the inputs")?;
        copy_in(&mut given.control, &self.job.files, inputs)?;
        let built = builder.finish(&mut steps);
        let stdin = File::open(Path::new("/").join(STDIN_FILE))
            .map_err(|error| format!("standard input: {error}"))?;
        if let Some(scratch) = &built.scratch {
            handoff::send(&given.handoff, scratch).map_err(|e| format!("handing over: {e}"))?;
        }
        let system = built.system;
        drop(built.scratch);
        // Before the limits: a descriptor that is placed may lie above the one on their number.
        let program = self.program(given, &stdin);
        steps.push(Step::run(
            ENVIRONMENT,
            "the plan's and the interpreter's",
            || {
                Ok(format!(
                    "{} variables of ours and the system's, none of the host's",
                    self.job.env.len()
                ))
            },
        ));
        steps.extend(confine(&self.confinement(system), &self.parent));
        report(&given.control, &steps)?;
        match given.control.receive(true) {
            Ok(Received::Packet(START, _)) => {}
            // The host has gone, or has found a gap: nothing runs.
            _ => return Ok(()),
        }
        self.start(given, program, stdin)
    }

    /// What is started: with the streams and the channel, and nothing of the host's.
    fn program(&self, given: &Given, stdin: &File) -> Spawn {
        let (program, arguments) = match self.job.command.split_first() {
            Some((program, arguments)) => (program.as_str(), arguments),
            // It was checked; a program that is not there does not start.
            None => ("", &[][..]),
        };
        let spawn = arguments
            .iter()
            .fold(Spawn::new(program), |spawn, argument| spawn.arg(argument));
        let variables = self.job.env.iter();
        let spawn = variables.fold(spawn, |spawn, (name, value)| spawn.env(name, value));
        let spawn = spawn.fd(stdin, 0).fd(&given.stdout, 1).fd(&given.stderr, 2);
        if self.job.silent {
            return spawn;
        }
        spawn.fd(&given.messages, 3)
    }

    fn start(&self, given: &mut Given, program: Spawn, stdin: File) -> Result<(), String> {
        if self.job.silent {
            let messages = given
                .messages
                .try_clone()
                .map_err(|error| error.to_string())?;
            Packets::new(messages)
                .send(READY, &[])
                .map_err(|error| format!("saying that the program begins: {error}"))?;
        }
        let main = program.spawn_alone().map_err(|error| error.to_string())?;
        drop(stdin);
        let exit = reap_until(&main)?;
        let end = serde_json::to_vec(&WireEnd { exit }).map_err(|error| error.to_string())?;
        given
            .control
            .send(ENDED, &end)
            .map_err(|error| format!("reporting the end: {error}"))
    }

    fn root_plan(&self) -> Plan {
        let limit = |amount: Option<u64>| amount.map_or(Limit::Unlimited, Limit::At);
        let job = &self.job;
        Plan {
            system: match &job.root {
                Some(root) => System::Image(root.into()),
                None => System::Host,
            },
            packages: job.packages.clone().into(),
            venv: job.venv.as_ref().map(Into::into),
            input_bytes: job.input_bytes(),
            input_files: job.input_files(),
            scratch_bytes: limit(job.scratch_bytes),
            scratch_files: limit(job.scratch_files),
            links: job.links.clone(),
            owner: match self.identity {
                Identity::Fixed { uid, gid } if rustix::process::geteuid().is_root() => (uid, gid),
                _ => (
                    rustix::process::geteuid().as_raw(),
                    rustix::process::getegid().as_raw(),
                ),
            },
        }
    }

    fn confinement(&self, system: Vec<String>) -> Confinement {
        let limit = |amount: Option<u64>| amount.map_or(Limit::Unlimited, Limit::At);
        Confinement {
            identity: self.identity,
            open_files: limit(self.job.open_files),
            tasks: limit(self.job.tasks),
            processors: self.job.processors,
            first_processor: self.number as usize,
            system,
        }
    }
}
