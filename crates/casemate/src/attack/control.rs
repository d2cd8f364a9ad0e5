//! The control: an attack with no sandbox around it, in a throw-away folder, where it must succeed.
//!
//! Bounded all the same, so that proving a point costs the machine nothing: resource limits, a control
//! group where there is one, a deadline, and an end of every process it started.

use std::fs;
use std::io::{self, PipeReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use casemate_backend::contract::Cancel;
use casemate_linux::cgroup::{Cgroup, CgroupLimits};
use casemate_linux::{Child, Exit, Limit, Spawn};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::channel::{self, Channel};
use super::marks::{self, Sightings};
use super::oracle::{Harm, Seen};
use super::stage::{INHERITED, Stage};
use super::table::Attack;
use super::tree;

/// How long a control may take before it has failed.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Bytes of output that are kept.
const KEPT: u64 = 1 << 20;
/// How often a channel is tried; a busy machine can drown one.
const MEASURED: u32 = 3;
/// How a program says that this machine has not what it is about.
const IMPOSSIBLE: &str = "impossible: ";
/// What a control may use together.
const CGROUP: CgroupLimits = CgroupLimits {
    memory_bytes: Limit::At(1 << 30),
    pids: Limit::At(128),
    cpu_millicores: Limit::At(1000),
};

/// Sets resource limits on itself and becomes the attack. The numbers are a second bound behind the
/// control group, and the only one where there is none.
const PRELUDE: &str = "
import os, resource, sys
for name, value in (('CPU', 10), ('FSIZE', 64 << 20), ('NOFILE', 512), ('CORE', 0), ('AS', 2 << 30)):
    kind = getattr(resource, 'RLIMIT_' + name)
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
os.chdir(os.path.join(os.environ['CASEMATE_ARENA'], 'work'))
os.execv(sys.executable, [sys.executable, '-B', *sys.argv[1:]])
";

/// A native Python that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Python {
    /// Its own path, not that of a launcher in front of it.
    pub(crate) path: PathBuf,
    /// Its version.
    pub(crate) version: String,
}

impl Python {
    /// The `python3` on `PATH`, or why there is none and what to do.
    pub(crate) fn find() -> Result<Self, String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|dir| dir.join("python3"))
            .find(|path| path.is_file())
            .ok_or_else(|| "there is no python3 on PATH".to_owned())
            .and_then(|path| Self::ask(&path).map_err(|error| format!("{error:#}")))
            .map_err(|why| format!("{why}; install Python 3.8 or newer as python3"))
    }

    fn ask(launcher: &Path) -> anyhow::Result<Self> {
        let code = "import resource, sys\nassert sys.version_info >= (3, 8)\n\
                    print(sys.executable)\nprint(sys.version.split()[0])";
        let home = std::env::var_os("HOME").unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let spawn = Spawn::new(launcher).arg("-I").arg("-c").arg(code);
        let running = Running::start(spawn.env("HOME", home).env("PATH", path), None)?;
        let until = Instant::now() + DEADLINE;
        while !running.ended()? && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
        let (output, exit) = running.stop()?;
        let said = String::from_utf8_lossy(&output);
        let mut lines = said.lines();
        match (exit == Exit::Code(0), lines.next(), lines.next()) {
            (true, Some(path), Some(version)) => Ok(Self {
                path: path.into(),
                version: version.to_owned(),
            }),
            _ => anyhow::bail!("{} does not run as Python 3.8", launcher.display()),
        }
    }
}

/// Whether a control succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Control {
    /// Every harm was seen.
    Succeeded {
        /// In words.
        harm: String,
    },
    /// This machine has not what the attack is about, or gives it to nobody: it can harm nobody here.
    Impossible {
        /// What is not there.
        why: String,
    },
    /// One was not: the attack proves nothing.
    Failed {
        /// Which.
        why: String,
    },
    /// There was nothing to run it with.
    NotRun {
        /// Why, and what to do.
        why: String,
    },
}

/// Runs a control on its own stage.
///
/// # Errors
/// When the host fails: no process can be started, or one that was cannot be ended.
pub(crate) fn run(attack: &Attack, python: &Python, cancel: &Cancel) -> anyhow::Result<Control> {
    let tries = if attack.measured { MEASURED } else { 1 };
    let mut control = attempt(attack, python, cancel)?;
    for _ in 1..tries {
        if matches!(control, Control::Succeeded { .. }) || cancel.is_cancelled() {
            break;
        }
        control = attempt(attack, python, cancel)?;
    }
    Ok(control)
}

fn attempt(attack: &Attack, python: &Python, cancel: &Cancel) -> anyhow::Result<Control> {
    let mut stage = Stage::build(attack.props, Some(&python.path))?;
    fs::write(program(attack, &stage), attack.source)?;
    let ran = if attack.together {
        together(attack, python, &stage, cancel)
    } else {
        // Only the last round's output counts; the ones before it were told the secret.
        (1..=attack.rounds).try_fold(Seen::default(), |_, round| {
            let args = stage.args(round < attack.rounds, None);
            perform(attack, python, &stage, &args, cancel)
        })
    };
    let left = end_all(stage.root());
    let mut seen = ran?;
    left?;
    seen.secret = stage.secret().to_owned();
    seen.stage = stage.inspect()?;
    seen.disk = seen.stage.left;
    seen.handed_back = seen.stage.left.1;
    seen.forged = tree::contains(&seen.stage.messages, b"\"wall\":\"forged\"");
    seen.channel = Channel::between(&seen.secret, &seen.output);
    Ok(judge(attack.harms, &seen))
}

fn program(attack: &Attack, stage: &Stage) -> PathBuf {
    stage.root().join(format!("{}.py", attack.name))
}

/// Two at once, of which the first is told the secret; what counts is the second's.
fn together(
    attack: &Attack,
    python: &Python,
    stage: &Stage,
    cancel: &Cancel,
) -> anyhow::Result<Seen> {
    let start = attack.measured.then(channel::start);
    let (first, second) = (stage.args(true, start), stage.args(false, start));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| perform(attack, python, stage, &first, cancel));
        let second = perform(attack, python, stage, &second, cancel);
        first
            .join()
            .map_err(|_| anyhow::anyhow!("the thread of the first program is gone"))??;
        second
    })
}

fn judge(harms: &[Harm], seen: &Seen) -> Control {
    let missing = harms.iter().find(|harm| harm.seen(seen).is_none());
    let words = String::from_utf8_lossy(&seen.output);
    let mut impossible = words
        .lines()
        .filter_map(|line| line.strip_prefix(IMPOSSIBLE));
    if let (Some(_), Some(why)) = (missing, impossible.next()) {
        return Control::Impossible {
            why: crate::text::line(why, 200),
        };
    }
    if let Some(missing) = missing {
        let said = crate::text::line(&String::from_utf8_lossy(&seen.output), 200);
        return Control::Failed {
            why: format!("not seen: {missing:?}; it said: {said}"),
        };
    }
    let harm: Vec<String> = harms.iter().filter_map(|harm| harm.seen(seen)).collect();
    Control::Succeeded {
        harm: harm.join("; "),
    }
}

fn perform(
    attack: &Attack,
    python: &Python,
    stage: &Stage,
    args: &[String],
    cancel: &Cancel,
) -> anyhow::Result<Seen> {
    // No group is no error: the resource limits and the deadline bound a control as well.
    let cgroup = Cgroup::create("casemate-control", &CGROUP).ok();
    let mut spawn = Spawn::new(&python.path)
        .arg("-I")
        .arg("-c")
        .arg(PRELUDE)
        .arg(program(attack, stage))
        .fd(stage.secret_file(), INHERITED)
        .env("CASEMATE_ARENA", stage.root())
        .env("CASEMATE_CANARY", stage.secret())
        .env("TMPDIR", stage.root().join("tmp"))
        .env("HOME", stage.root())
        .env("LANG", "C.UTF-8")
        .env("PATH", search_path(stage.root()));
    for arg in args {
        spawn = spawn.arg(arg);
    }
    let mut seen = Seen::default();
    let interrupts = marks::interrupts();
    let mut running = Running::start(spawn, cgroup)?;
    watch(&mut running, attack.harms, stage, &mut seen, cancel)?;
    seen.interrupts = interrupts.zip(marks::interrupts());
    let (output, exit) = running.stop()?;
    seen.shown = String::from_utf8_lossy(&output).into_owned();
    seen.output = output;
    if let Exit::Signal(signal) = exit
        && signal != Signal::KILL.as_raw()
    {
        seen.signal = Some(signal);
    }
    Ok(seen)
}

fn search_path(arena: &Path) -> std::ffi::OsString {
    let mut path = arena.join("bin").into_os_string();
    path.push(":/usr/local/bin:/usr/bin:/bin");
    path
}

/// Measures until the program ends, or is known to have succeeded, or is out of time.
fn watch(
    running: &mut Running,
    harms: &[Harm],
    stage: &Stage,
    seen: &mut Seen,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut sightings = Sightings::default();
    let root = running.child.pid();
    loop {
        let mut pids = tree::below(root);
        pids.push(root);
        seen.holding = seen.holding.peak(tree::holding(&pids));
        sightings.look(&pids, stage.port());
        seen.output_bytes = running.arrived.load(Ordering::Relaxed);
        seen.wall = begun.elapsed();
        seen.cpu = running.child.cpu_time()?;
        ensure!(!cancel.is_cancelled(), "stopped");
        let enough = harms
            .iter()
            .any(|harm| harm.is_final() && harm.seen(seen).is_some());
        if enough || seen.wall > DEADLINE || running.ended()? {
            seen.marks = sightings.lasting();
            seen.outlived = marks::has_stowaway(stage.port());
            return Ok(());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A program with its output being read, ended with its group when it is stopped or dropped.
struct Running {
    child: Child,
    cgroup: Option<Cgroup>,
    arrived: Arc<AtomicU64>,
    readers: Vec<JoinHandle<io::Result<Vec<u8>>>>,
}

impl Running {
    fn start(spawn: Spawn, cgroup: Option<Cgroup>) -> anyhow::Result<Self> {
        let (stdout, out) = io::pipe()?;
        let (stderr, err) = io::pipe()?;
        let mut spawn = spawn.fd(&out, 1).fd(&err, 2);
        if let Some(cgroup) = &cgroup {
            spawn = spawn.cgroup(cgroup);
        }
        let child = spawn.spawn().context("starting a control")?;
        drop((out, err));
        let arrived = Arc::new(AtomicU64::new(0));
        let readers = [stdout, stderr]
            .map(|pipe| {
                let arrived = arrived.clone();
                std::thread::spawn(move || read_all(pipe, &arrived))
            })
            .into();
        Ok(Self {
            child,
            cgroup,
            arrived,
            readers,
        })
    }

    /// Whether the child has ended. It is not reaped, so that its number still names its group.
    fn ended(&self) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(
            &mut [PollFd::new(&self.child.pidfd(), PollFlags::IN)],
            Some(&now),
        ) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends everything and gives what it said.
    fn stop(mut self) -> anyhow::Result<(Vec<u8>, Exit)> {
        self.end().context("ending a control")?;
        let exit = self.child.wait()?.exit;
        if let Some(cgroup) = self.cgroup.take() {
            cgroup.remove().context("removing a control's group")?;
        }
        let mut output = Vec::new();
        for reader in self.readers.drain(..) {
            let read = reader
                .join()
                .map_err(|_| io::Error::other("a reader is gone"))??;
            output.extend(read);
        }
        Ok((output, exit))
    }

    fn end(&self) -> io::Result<()> {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill()?;
        }
        let group = i32::try_from(self.child.pid()).ok().and_then(Pid::from_raw);
        match kill_process_group(group.ok_or(io::ErrorKind::InvalidData)?, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn read_all(mut pipe: PipeReader, arrived: &AtomicU64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        let len = match pipe.read(&mut chunk) {
            Ok(0) => return Ok(kept),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        arrived.fetch_add(len as u64, Ordering::Relaxed);
        let room = usize::try_from(KEPT)
            .unwrap_or(usize::MAX)
            .saturating_sub(kept.len());
        kept.extend(chunk[..len].iter().take(room));
    }
}

/// Ends what left its group, wherever it went, and makes sure that nothing is left.
fn end_all(arena: &Path) -> anyhow::Result<()> {
    for _ in 0..50 {
        let left = tree::marked(arena);
        if left.is_empty() {
            return Ok(());
        }
        for pid in left {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            match kill_process(pid.context("a process number")?, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(io::Error::from(error)).context("ending a control"),
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    anyhow::bail!(
        "a control left processes that do not end: {:?}",
        tree::marked(arena)
    )
}

/// Used where a control is not run, so that its row is not empty.
pub(crate) fn not_run(why: &str) -> Control {
    Control::NotRun {
        why: why.to_owned(),
    }
}
