//! The other process: this program once more, which builds the walls from a plan it is given as data, and
//! then starts Python, or holds the jail for one that was forked elsewhere.
//!
//! One thread, from beginning to end. It is in its control groups before it runs. What is the same for every
//! job it builds before it has one, so that it can be started in advance; it takes one job and no second. It
//! says which walls stand before anything of the guest's runs; it starts Python only when it is told to, and
//! whatever runs in the jail cannot outlive it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_driver::handover::{
    ENDED, HOLD, START, Told, WireEnd, WireJob, copy_in, receive_job, report, tell,
};
use casemate_driver::lowered::STDIN_FILE;
use casemate_driver::packages::PYTHON;
use casemate_driver::packets::{Packets, Received};
use casemate_driver::walls::ENVIRONMENT;
use casemate_linux::jail::root::{Bare, Plan};
use casemate_linux::jail::{
    self, Confinement, Filter, Forked, Parent, confine, fork_init, leave_children_to_kernel,
    prepare, reap_until,
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

/// What starts the driver, and nothing else.
const BOOT: &str = "import sys; sys.path.append('/opt/casemate/site-packages'); \
    from casemate_guest.native import main; main()";
/// The interpreter's environment; nothing of the host's is in it.
pub(crate) const ENVIRON: [(&str, &str); 6] = [
    ("HOME", "/tmp"),
    ("LANG", "C.UTF-8"),
    ("MPLBACKEND", "agg"),
    ("MPLCONFIGDIR", "/tmp"),
    ("PATH", "/usr/bin:/bin"),
    ("TMPDIR", "/tmp"),
];

/// What this process was given.
struct Given {
    control: Packets,
    handoff: OwnedFd,
    messages: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    packages: OwnedFd,
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
        })
    }

    /// Hands a descriptor to the host.
    fn hand(&self, what: u8, fd: &impl AsFd) -> Result<(), String> {
        handoff::send_with(&self.handoff, &[what], &[fd.as_fd()])
            .map_err(|error| format!("handing over: {error}"))
    }
}

/// An error here has been told to the host.
fn run(mut given: Given) -> Result<u8, Told> {
    // What is made here is for the guest to read, whatever the user's own mask says.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let identity = Identity::of_this_process();
    let number = std::process::id();
    let keep = [
        0, 1, 2, CONTROL, HANDOFF, MESSAGES, STDOUT, STDERR, PACKAGES,
    ];
    let steps = jail::leave(&keep);
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
            let armed = inside.arm(&mut given, steps);
            let (python, stdin) = tell(&given.control, |_| armed)?;
            match given.control.receive(true) {
                Ok(Received::Packet(START, _)) => {
                    let ended = start(&mut given, python, stdin);
                    tell(&given.control, |_| ended)?;
                }
                Ok(Received::Packet(HOLD, _)) => {
                    drop((python, stdin));
                    hold(given)?;
                }
                // The host has gone, or has found a gap: nothing runs.
                _ => {}
            }
            Ok(0)
        }
    }
}

/// The folder of the packages: what this process is told before it has a job.
fn packages() -> Result<PathBuf, String> {
    let path = std::env::args_os().nth(2).map(PathBuf::from);
    path.filter(|path| path.is_absolute())
        .ok_or_else(|| "the folder of the packages is not named".to_owned())
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
    fn arm(mut self, given: &mut Given, mut steps: Vec<Step>) -> Result<(Spawn, File), String> {
        self.parent.confined()?;
        let own = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|error| format!("pidfd_open: {error}"))?;
        given.hand(handed::INIT, &own)?;
        let packages = packages()?;
        let bare = Bare::begin(&packages, given.packages.as_fd(), &mut steps)?;
        let filter = Filter::compile();
        // Here it waits, when it was started in advance.
        let job: WireJob = receive_job(given.control.as_fd())?;
        job.check()?;
        if Path::new(&job.packages) != packages {
            return Err("the job has other packages than the jail".to_owned());
        }
        let builder = bare.furnish(self.root_plan(&job))?;
        let inputs = builder.inputs().ok_or("there is no place for the inputs")?;
        copy_in(&mut given.control, &job.files, inputs)?;
        let built = builder.finish(&mut steps);
        let stdin = File::open(Path::new("/").join(STDIN_FILE))
            .map_err(|error| format!("standard input: {error}"))?;
        if let Some(scratch) = &built.scratch {
            given.hand(handed::SCRATCH, scratch)?;
        }
        drop(built);
        let prepared = prepare(filter);
        given.hand(handed::STDIN, &stdin)?;
        if let Some(rules) = prepared.rules() {
            given.hand(handed::RULES, &rules)?;
        }
        // Before the limits: a descriptor that is placed may lie above the one on their number.
        let python = python(given, &stdin);
        steps.push(Step::run(
            ENVIRONMENT,
            "the plan's and the interpreter's",
            || {
                Ok(format!(
                    "{} variables of ours, none of the host's",
                    ENVIRON.len()
                ))
            },
        ));
        steps.extend(confine(&self.confinement(&job), &self.parent, prepared));
        report(&given.control, &steps)?;
        Ok((python, stdin))
    }

    fn root_plan(&self, job: &WireJob) -> Plan {
        let limit = |amount: Option<u64>| amount.map_or(Limit::Unlimited, Limit::At);
        Plan {
            packages: job.packages.clone().into(),
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

    fn confinement(&self, job: &WireJob) -> Confinement {
        confinement(job, self.identity, self.number)
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

/// The interpreter: isolated from the environment and from whatever is installed beside it.
pub(crate) fn interpreter(boot: &str) -> Spawn {
    let options = ["-I", "-S", "-B", "-c", boot];
    let spawn = options
        .iter()
        .fold(Spawn::new(PYTHON), |spawn, option| spawn.arg(option));
    ENVIRON
        .iter()
        .fold(spawn, |spawn, (name, value)| spawn.env(name, value))
}

fn python(given: &Given, stdin: &File) -> Spawn {
    interpreter(BOOT)
        .fd(stdin, 0)
        .fd(&given.stdout, 1)
        .fd(&given.stderr, 2)
        .fd(&given.messages, 3)
}

fn start(given: &mut Given, python: Spawn, stdin: File) -> Result<(), String> {
    let main = python.spawn_alone().map_err(|error| error.to_string())?;
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
