//! The other process: this program once more, which stages the files, has the runtime make the container
//! from a bundle that it is given as data, and starts it when it is told to.
//!
//! It is process 1 of a process table of its own, with mounts of its own. The runtime, what it keeps, the
//! container: all of it ends with this process, and this process with the host's.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Component, Path};
use std::process::ExitCode;
use std::time::Duration;

use casemate_driver::handover::{
    ENDED, SAVE, SAVED, START, Told, WireEnd, copy_in, receive_job, report, tell,
};
use casemate_driver::packets::{Packets, Received, wait_readable};
use casemate_linux::jail::machine::Machine;
use casemate_linux::jail::procfs::Texts;
use casemate_linux::jail::root::{Builder, Folders, Ground, PLACE, Plan, System};
use casemate_linux::jail::{Forked, Parent, fork_init, reap_until_pid, wall};
use casemate_linux::keeper::{self, Groups};
use casemate_linux::processor::set_apart;
use casemate_linux::{Child, Exit, Limit, Spawn, Step, handoff, take_fd};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use crate::bundle::{INSIDE, NOTHING};
use crate::kind::{BUNDLE, IMAGE_FD};
use crate::lower::KeeperJob;

/// The first argument that makes this program the keeper of a container.
pub const ARGUMENT: &str = "container-keeper";
/// The channel to the host.
pub(crate) const CONTROL: i32 = 3;
/// Where descriptors are handed over.
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
/// The folder of the agent, where one is to live in the container.
pub(crate) const AGENT: i32 = 11;

/// How long one command of a runtime's may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of what a runtime says that are passed on.
const SAID: usize = 1500;

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
    agent: Option<OwnedFd>,
    /// The folder of a checkpoint, where one is made or gone on from.
    checkpoint: Option<OwnedFd>,
}

/// Stages, has the container made, waits for the word, starts it, waits for its end.
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
            agent: None,
            checkpoint: None,
        })
    }
}

/// An error here has been told to the host.
fn run(mut given: Given) -> Result<u8, Told> {
    // What is made here is for the guest to read, whatever the user's own mask says.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let job: KeeperJob = tell(&given.control, |control| {
        let job: KeeperJob = receive_job(control.as_fd())?;
        check(&job)?;
        Ok(job)
    })?;
    let number = std::process::id();
    let mut keep = vec![
        0, 1, 2, CONTROL, HANDOFF, MESSAGES, STDOUT, STDERR, PACKAGES,
    ];
    let shown = [
        (job.job.root.is_some(), &mut given.image, IMAGE),
        (job.job.venv.is_some(), &mut given.venv, VENV),
        (job.job.agent.is_some(), &mut given.agent, AGENT),
        (job.image, &mut given.checkpoint, IMAGE_FD),
    ];
    for (named, fd, number) in shown {
        if named {
            let taken = take_fd(number).map_err(|error| format!("descriptor {number}: {error}"));
            *fd = Some(tell(&given.control, |_| taken)?);
            keep.push(number);
        }
    }
    tell(&given.control, |_| keeper::leave(&keep))?;
    match tell(&given.control, |_| fork_init())? {
        // What fails here process 1 sees, and says.
        Forked::Outside(init) => init
            .wait_as_root()
            .map(|code| u8::try_from(code).unwrap_or(u8::MAX))
            .map_err(|_| Told),
        Forked::Init(parent) => {
            let keeper = Keeper { job, number };
            match keeper.run(&mut given, parent) {
                Ok(()) => Ok(0),
                Err(why) => tell(&given.control, |_| Err(why)),
            }
        }
    }
}

/// The job is checked again here, where it is carried out.
fn check(job: &KeeperJob) -> Result<(), String> {
    job.job.check()?;
    let plain = |path: &String| {
        let mut parts = Path::new(path).components();
        !path.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    let names = job.folders.iter().chain(&job.files);
    let links = job.links.iter().map(|(name, _)| name);
    if let Some(name) = names.chain(links).find(|name| !plain(name)) {
        return Err(format!("{name:?} is not a name in a root"));
    }
    if !Path::new(&job.program).is_absolute() || job.owner == 0 {
        return Err("the runtime or the owner is not one".to_owned());
    }
    Ok(())
}

/// Process 1.
struct Keeper {
    job: KeeperJob,
    /// The number of the process outside, which no other keeper has at the same time.
    number: u32,
}

impl Keeper {
    fn run(&self, given: &mut Given, mut parent: Parent) -> Result<(), String> {
        parent.confined()?;
        let groups = if self.job.devices {
            Groups::Devices
        } else {
            Groups::None
        };
        keeper::settle(&parent, groups)?;
        hand(given, own_pidfd()?)?;
        let mut steps = Vec::new();
        let (scratch, texts) = self.stage(given, &mut steps)?;
        self.write_bundle()?;
        steps.push(self.processors());
        // The runtime and what it makes inherit them. What stands around the container is measured from outside.
        steps.extend(set_apart());
        let made = self.create(given)?;
        if let Some(texts) = texts {
            // Before anything of the guest's: the process in there is still the runtime's.
            keeper::in_mounts_of(&made.pidfd, || texts.lay_over(Path::new("/proc")))?;
        }
        hand(given, scratch)?;
        hand(given, made.pidfd)?;
        report(&given.control, &steps)?;
        match given.control.receive(true) {
            Ok(Received::Packet(START, _)) => {}
            // The host has gone, or has found a gap: nothing runs.
            _ => return Ok(()),
        }
        if !self.let_go()? {
            let start = with_checkpoint(self.spawn(&self.job.start), given);
            finish(start.spawn_alone(), &self.job.program, "start")?;
        }
        if let Some(save) = &self.job.save {
            return self.save(given, save);
        }
        let exit = reap_until_pid(made.pid)?;
        let end = serde_json::to_vec(&WireEnd { exit }).map_err(|error| error.to_string())?;
        given
            .control
            .send(ENDED, &end)
            .map_err(|error| format!("reporting the end: {error}"))
    }

    /// Lets the container's process go on to its program, where all that it waits for is a reader; whether it is so.
    fn let_go(&self) -> Result<bool, String> {
        let Some(path) = &self.job.fifo else {
            return Ok(false);
        };
        let failed = |error: io::Error| format!("the container's process does not go on: {error}");
        // Without waiting, for who is to write may have died.
        let mut fifo = match File::options()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
        {
            Ok(fifo) => fifo,
            // Another version of the runtime does it otherwise.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        let mut word = [0];
        if !wait_readable(&[fifo.as_fd()], COMMAND_WITHIN).map_err(failed)?
            || fifo.read(&mut word).map_err(failed)? == 0
        {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        // What it is no more says that the container was started.
        std::fs::remove_file(path).map_err(failed)?;
        Ok(true)
    }

    /// Keeps the container as files when the host says that it is ready for that, which ends it.
    fn save(&self, given: &mut Given, save: &[String]) -> Result<(), String> {
        match given.control.receive(true) {
            Ok(Received::Packet(SAVE, _)) => {}
            // The host has gone, or does not want it any more.
            _ => return Ok(()),
        }
        let save = with_checkpoint(self.spawn(save), given);
        finish(save.spawn_alone(), &self.job.program, "checkpoint")?;
        let told = given.control.send(SAVED, &[]);
        told.map_err(|error| format!("reporting: {error}"))
    }

    /// The files of the container: the host's system, the inputs, scratch. Answers with the top of scratch, and with
    /// what `/proc` is to tell where an agent lives.
    fn stage(
        &self,
        given: &mut Given,
        steps: &mut Vec<Step>,
    ) -> Result<(OwnedFd, Option<Texts>), String> {
        let folders = Folders {
            packages: given.packages.as_fd(),
            image: given.image.as_ref().map(AsFd::as_fd),
            venv: given.venv.as_ref().map(AsFd::as_fd),
            agent: given.agent.as_ref().map(AsFd::as_fd),
        };
        let builder = Builder::begin(self.root_plan(), folders, steps)?;
        let inputs = builder.inputs().ok_or("there is no place for the inputs")?;
        copy_in(&mut given.control, &self.job.job.files, inputs)?;
        let built = builder.finish_staged(steps);
        // The devices of the stage are not shown: a runtime brings its own.
        steps.retain(|step| step.wall != wall::DEVICES);
        let scratch = built.scratch.ok_or("there is no scratch")?;
        Ok((scratch, built.texts.transpose()?))
    }

    fn root_plan(&self) -> Plan {
        let limit = |amount: Option<u64>| amount.map_or(Limit::Unlimited, Limit::At);
        let job = &self.job.job;
        let machine = Machine {
            memory: limit(job.memory_bytes),
            processors: job.processors,
        };
        Plan {
            ground: Ground {
                system: match &job.root {
                    Some(root) => System::Image(root.into()),
                    None => System::Host,
                },
                packages: job.packages.clone().into(),
                venv: job.venv.as_ref().map(Into::into),
                agent: job.agent.as_ref().map(Into::into),
            },
            input_bytes: job.input_bytes(),
            input_files: job.input_files(),
            scratch_bytes: limit(job.scratch_bytes),
            scratch_files: limit(job.scratch_files),
            links: job.links.clone(),
            owner: (self.job.owner, self.job.owner),
            seen_as: (INSIDE, INSIDE),
            machine: job.agent.is_some().then_some(machine),
        }
    }

    fn write_bundle(&self) -> Result<(), String> {
        let failed = |name: &str, error: io::Error| format!("the bundle's {name}: {error}");
        std::fs::create_dir(Path::new(PLACE).join(NOTHING)).map_err(|e| failed(NOTHING, e))?;
        let bundle = Path::new(BUNDLE);
        keeper::make_folder(bundle)?;
        let root = bundle.join("rootfs");
        for name in &self.job.folders {
            std::fs::create_dir_all(root.join(name)).map_err(|e| failed(name, e))?;
        }
        for name in &self.job.files {
            let path = root.join(name);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(|e| failed(name, e))?;
            }
            keeper::write_new(&path, b"")?;
        }
        for (name, target) in &self.job.links {
            symlink(target, root.join(name)).map_err(|e| failed(name, e))?;
        }
        keeper::write_new(&bundle.join("config.json"), self.job.config.as_bytes())
    }

    fn processors(&self) -> Step {
        let count = self.job.job.processors;
        Step::run(wall::AFFINITY, format!("{count} processors"), || {
            keeper::processors(count, self.number as usize)
        })
    }

    /// The runtime with its arguments, and nothing of the host's environment.
    fn spawn(&self, arguments: &[String]) -> Spawn {
        let spawn = Spawn::new(&self.job.program).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        arguments.iter().fold(spawn, |spawn, arg| spawn.arg(arg))
    }

    /// Has the container made. Nothing of the guest's has run.
    fn create(&self, given: &Given) -> Result<Made, String> {
        let spawn = self
            .spawn(&self.job.create)
            .fd(&given.messages, 0)
            .fd(&given.stdout, 1)
            .fd(&given.stderr, 2);
        finish(spawn.spawn_alone(), &self.job.program, "create")?;
        let text = std::fs::read_to_string(Path::new(BUNDLE).join("pid"))
            .map_err(|error| format!("the runtime wrote no number: {error}"))?;
        let number: i32 = text
            .trim()
            .parse()
            .map_err(|_| format!("not a number: {text:?}"))?;
        let pid = Pid::from_raw(number).filter(|pid| pid.as_raw_pid() > 1);
        let pid = pid.ok_or_else(|| format!("{number} is not a container's process"))?;
        let pidfd =
            pidfd_open(pid, PidfdFlags::empty()).map_err(|e| format!("the container: {e}"))?;
        Ok(Made {
            pid: number.unsigned_abs(),
            pidfd,
        })
    }
}

/// A command of the runtime's with the folder of the checkpoint, where there is one.
fn with_checkpoint(spawn: Spawn, given: &Given) -> Spawn {
    match &given.checkpoint {
        Some(folder) => spawn.fd(folder, IMAGE_FD),
        None => spawn,
    }
}

/// A container that was made.
struct Made {
    pid: u32,
    pidfd: OwnedFd,
}

fn own_pidfd() -> Result<OwnedFd, String> {
    pidfd_open(getpid(), PidfdFlags::empty()).map_err(|error| format!("pidfd_open: {error}"))
}

fn hand(given: &Given, fd: OwnedFd) -> Result<(), String> {
    handoff::send(&given.handoff, fd).map_err(|error| format!("handing over: {error}"))
}

/// Waits for a command of the runtime's; its own words where it fails.
fn finish(started: io::Result<Child>, program: &str, command: &str) -> Result<(), String> {
    let mut child = started.map_err(|error| error.to_string())?;
    let finished = child
        .wait_timeout(COMMAND_WITHIN)
        .map_err(|error| format!("waiting for {program}: {error}"))?;
    match finished.map(|finished| finished.exit) {
        Some(Exit::Code(0)) => Ok(()),
        Some(exit) => Err(format!(
            "{program} {command} ended with {exit:?}: {}",
            said()
        )),
        None => Err(format!("{program} {command} does not end: {}", said())),
    }
}

/// The end of the runtime's log.
fn said() -> String {
    let mut text = Vec::new();
    let read = File::open(Path::new(BUNDLE).join("log"))
        .and_then(|file| file.take(1 << 20).read_to_end(&mut text));
    if read.is_err() || text.is_empty() {
        return "it said nothing".to_owned();
    }
    let end = &text[text.len().saturating_sub(SAID)..];
    String::from_utf8_lossy(end).trim().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use casemate_driver::handover::WireJob;

    use super::*;

    fn job() -> KeeperJob {
        KeeperJob {
            job: WireJob {
                root: None,
                packages: "/p".into(),
                venv: None,
                agent: None,
                command: vec!["/usr/bin/python3".into()],
                env: Vec::new(),
                silent: false,
                files: Vec::new(),
                links: Vec::new(),
                scratch_bytes: None,
                scratch_files: None,
                open_files: None,
                tasks: None,
                processors: 1,
                memory_bytes: None,
            },
            owner: 1,
            program: "/usr/bin/x".into(),
            create: Vec::new(),
            start: Vec::new(),
            fifo: None,
            save: None,
            image: false,
            devices: false,
            folders: vec!["etc/alternatives".into()],
            files: vec!["etc/ld.so.cache".into()],
            links: vec![("bin".into(), "usr/bin".into())],
            config: String::new(),
        }
    }

    #[test]
    fn a_job_that_leads_out_is_refused_where_it_is_carried_out() {
        assert_eq!(check(&job()), Ok(()));
        for bad in ["/etc", "../x", "a/../../x", ""] {
            let changes: [fn(&mut KeeperJob, &str); 3] = [
                |job, name| job.folders.push(name.into()),
                |job, name| job.files.push(name.into()),
                |job, name| job.links.push((name.into(), "x".into())),
            ];
            for change in changes {
                let mut job = job();
                change(&mut job, bad);
                assert!(check(&job).is_err(), "{bad}");
            }
        }
        let root = KeeperJob { owner: 0, ..job() };
        assert!(check(&root).is_err());
    }
}
