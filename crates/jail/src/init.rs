//! The other process: this program once more, which builds the walls from a plan it is given as data, and
//! then starts Python.
//!
//! One thread, from beginning to end. It is in its control groups before it runs; it says which walls
//! stand before anything of the guest's runs; it starts Python only when it is told to, and what Python
//! starts cannot outlive it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};
use std::process::ExitCode;

use casemate_linux::file::{Dir, create_beneath};
use casemate_linux::jail::root::{Builder, Plan};
use casemate_linux::jail::{self, Confinement, Forked, Parent, confine, fork_init, reap_until};
use casemate_linux::lockdown::Identity;
use casemate_linux::{Limit, Spawn, Step, handoff, take_fd};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::lower::STDIN_FILE;
use crate::packets::{Packets, Received};
use crate::probe::PYTHON;
use crate::walls::ENVIRONMENT;
use crate::wire::{
    ARMED, DATA, ENDED, FAILED, JOB, JOB_END, JOB_MAX, START, WALLS, WireEnd, WireFile, WireJob,
};

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

/// What starts the driver, and nothing else.
const BOOT: &str = "import sys; sys.path.append('/opt/casemate/site-packages'); \
    from casemate_guest.native import main; main()";
/// The interpreter's environment; nothing of the host's is in it.
const ENVIRON: [(&str, &str); 6] = [
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
        Err(()) => ExitCode::from(125),
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
}

/// An error here has been told to the host.
fn run(mut given: Given) -> Result<u8, ()> {
    // What is made here is for the guest to read, whatever the user's own mask says.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let job = tell(&given.control, receive_job)?;
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
            .map_err(drop),
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

/// Passes a failure on to the host.
fn tell<T>(control: &Packets, action: impl FnOnce(&Packets) -> Result<T, String>) -> Result<T, ()> {
    action(control).map_err(|why| {
        let bytes = why.as_bytes();
        // When the host is gone there is nobody to tell, and this process ends either way.
        drop(control.send(FAILED, &bytes[..bytes.len().min(4096)]));
    })
}

fn receive_job(control: &Packets) -> Result<WireJob, String> {
    let mut control = Packets::new(
        control
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| format!("the channel: {error}"))?,
    );
    let mut text = Vec::new();
    loop {
        match control.receive(true) {
            Ok(Received::Packet(JOB, part)) if text.len() + part.len() <= JOB_MAX => {
                text.extend(part);
            }
            Ok(Received::Packet(JOB_END, _)) => break,
            Ok(other) => return Err(format!("not a job: {}", word(&other))),
            Err(error) => return Err(format!("receiving the job: {error}")),
        }
    }
    let job: WireJob = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    check(&job)?;
    Ok(job)
}

fn word(received: &Received) -> &'static str {
    match received {
        Received::Packet(..) => "another packet",
        Received::Nothing => "nothing",
        Received::Closed => "the host is gone",
    }
}

/// The job is checked again here, where it is carried out.
fn check(job: &WireJob) -> Result<(), String> {
    let plain = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_)));
    for file in &job.files {
        let path = Path::new(&file.path);
        if !plain(path) || !(path.starts_with("data") || path.starts_with("run")) {
            return Err(format!("{:?} is not a place for a file", file.path));
        }
    }
    for (name, target) in &job.links {
        let one = Path::new(name).components().count() == 1 && plain(Path::new(name));
        let inside = target.starts_with("/data/") || target.starts_with("/run/");
        if !one || !inside {
            return Err(format!("{name:?} is not a name for a link"));
        }
    }
    if !Path::new(&job.packages).is_absolute() || job.processors == 0 {
        return Err("the packages or the processors are not such".to_owned());
    }
    Ok(())
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
        let mut builder = Builder::begin(self.root_plan(), given.packages.as_fd(), &mut steps)?;
        self.copy_in(&mut given.control, &mut builder)?;
        let built = builder.finish(&mut steps);
        let stdin = File::open(Path::new("/").join(STDIN_FILE))
            .map_err(|error| format!("standard input: {error}"))?;
        if let Some(scratch) = &built.scratch {
            handoff::send(&given.handoff, scratch).map_err(|e| format!("handing over: {e}"))?;
        }
        drop(built);
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
        steps.extend(confine(&self.confinement(), &self.parent));
        report(&given.control, &steps)?;
        match given.control.receive(true) {
            Ok(Received::Packet(START, _)) => {}
            // The host has gone, or has found a gap: nothing runs.
            _ => return Ok(()),
        }
        start(given, python, stdin)
    }

    fn root_plan(&self) -> Plan {
        let limit = |amount: Option<u64>| amount.map_or(Limit::Unlimited, Limit::At);
        let job = &self.job;
        let folders: usize = job
            .files
            .iter()
            .map(|file| Path::new(&file.path).components().count())
            .sum();
        Plan {
            packages: job.packages.clone().into(),
            input_bytes: job.files.iter().fold(0, |sum: u64, file| {
                sum.saturating_add(file.bytes.div_ceil(4096).saturating_mul(4096))
            }),
            input_files: folders as u64,
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

    fn confinement(&self) -> Confinement {
        let limit = |amount: Option<u64>| amount.map_or(Limit::Unlimited, Limit::At);
        Confinement {
            identity: self.identity,
            open_files: limit(self.job.open_files),
            tasks: limit(self.job.tasks),
            processors: self.job.processors,
            first_processor: self.number as usize,
        }
    }

    /// Writes the files as their bytes come.
    fn copy_in(&self, control: &mut Packets, builder: &mut Builder) -> Result<(), String> {
        let inputs = builder
            .inputs()
            .ok_or("there is no place for the inputs")?
            .try_clone_to_owned()
            .map_err(|error| format!("the inputs: {error}"))?;
        let dir = Dir::from_fd(inputs);
        for file in &self.job.files {
            let to = create_beneath(&dir, Path::new(&file.path)).map_err(|e| e.to_string())?;
            copy_file(control, file, to)?;
        }
        Ok(())
    }
}

fn copy_file(control: &mut Packets, file: &WireFile, mut to: File) -> Result<(), String> {
    let mut left = file.bytes;
    while left > 0 {
        match control.receive(true) {
            Ok(Received::Packet(DATA, bytes)) => {
                left = left
                    .checked_sub(bytes.len() as u64)
                    .ok_or_else(|| format!("more bytes than {} has", file.path))?;
                to.write_all(&bytes)
                    .map_err(|error| format!("writing {}: {error}", file.path))?;
            }
            Ok(other) => return Err(format!("not the bytes of a file: {}", word(&other))),
            Err(error) => return Err(format!("receiving {}: {error}", file.path)),
        }
    }
    Ok(())
}

fn report(control: &Packets, steps: &[Step]) -> Result<(), String> {
    let text = serde_json::to_vec(steps).map_err(|error| error.to_string())?;
    control
        .send_split(WALLS, &text)
        .and_then(|()| control.send(ARMED, &[]))
        .map_err(|error| format!("reporting: {error}"))
}

/// The interpreter: isolated from the environment and from whatever is installed beside it.
fn python(given: &Given, stdin: &File) -> Spawn {
    let options = ["-I", "-S", "-B", "-c", BOOT];
    let spawn = options
        .iter()
        .fold(Spawn::new(PYTHON), |spawn, option| spawn.arg(option));
    ENVIRON
        .iter()
        .fold(spawn, |spawn, (name, value)| spawn.env(name, value))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> WireJob {
        WireJob {
            packages: "/p".into(),
            files: vec![WireFile {
                path: "data/a/b.csv".into(),
                bytes: 1,
            }],
            links: vec![("b.csv".into(), "/data/b.csv".into())],
            scratch_bytes: None,
            scratch_files: None,
            open_files: None,
            tasks: None,
            processors: 1,
        }
    }

    #[test]
    fn a_job_that_leads_out_is_refused_where_it_is_carried_out() {
        assert_eq!(check(&job()), Ok(()));
        for path in ["/data/x", "../x", "data/../../x", "etc/passwd", ""] {
            let mut job = job();
            job.files[0].path = path.into();
            assert!(check(&job).is_err(), "{path}");
        }
        for (name, target) in [
            ("a/b", "/data/b"),
            ("..", "/data/b"),
            ("b", "/etc/passwd"),
            ("b", "data/b"),
        ] {
            let mut job = job();
            job.links = vec![(name.into(), target.into())];
            assert!(check(&job).is_err(), "{name} -> {target}");
        }
    }
}
