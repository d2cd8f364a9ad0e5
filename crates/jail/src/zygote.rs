//! Zygotes from the host's side: interpreters with what programs need loaded, that are forked into jails. A tenant has
//! one with the libraries, and one for programs that need none of them: a fork copies what there is, and an end frees it.
//! Whatever is wrong with one, a run starts without it. They are of the machine's own system: a program on another
//! starts without one too.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use casemate_driver::handover::{BORN, ENDED, READY, hear};
use casemate_driver::outside::Process;
use casemate_driver::packets::{Packets, wait_readable};
use casemate_linux::jail::enter::{Call, begin, forked, passed};
use casemate_linux::{Child, Spawn, handoff};
use casemate_model::job::TenantId;
use rustix::net::{Shutdown, shutdown};
use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use crate::shown::{Key, Shown};

pub mod process;

/// How long the libraries may take to load.
const LOADED_WITHIN: Duration = Duration::from_secs(60);
/// How long a fork may take on a busy machine.
const BORN_WITHIN: Duration = Duration::from_secs(10);
/// How long after a failure none is started again.
const PAUSE: Duration = Duration::from_secs(30);

/// What a zygote without the libraries has loaded: modules of Python's own that small programs use.
const SMALL: &[&str] = &[
    "__future__",
    "abc",
    "argparse",
    "array",
    "base64",
    "bisect",
    "calendar",
    "collections",
    "contextlib",
    "copy",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "glob",
    "hashlib",
    "heapq",
    "io",
    "itertools",
    "json",
    "logging",
    "math",
    "numbers",
    "operator",
    "os",
    "pathlib",
    "pprint",
    "random",
    "re",
    "shutil",
    "signal",
    "statistics",
    "string",
    "struct",
    "sys",
    "tempfile",
    "textwrap",
    "threading",
    "time",
    "traceback",
    "types",
    "typing",
    "unicodedata",
    "warnings",
    "weakref",
];

/// What a zygote has loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Loaded {
    /// pandas, numpy and matplotlib, and what they need.
    Libraries,
    /// Modules of Python's own.
    Small,
}

impl Loaded {
    /// What a program of which is known what it loads is best forked from. Where it loads more after all, it does so
    /// itself.
    pub(crate) fn for_program(loads: Option<&BTreeSet<String>>) -> Self {
        let small = |name: &String| SMALL.contains(&name.as_str());
        match loads {
            Some(loads) if loads.iter().all(small) => Self::Small,
            _ => Self::Libraries,
        }
    }

    /// The modules of Python's own that it loads; none where it loads the libraries.
    fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Libraries => &[],
            Self::Small => SMALL,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Libraries => "libraries",
            Self::Small => "small",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        let both = [Self::Libraries, Self::Small];
        both.into_iter().find(|one| one.word() == word)
    }
}

/// An interpreter that waits to be forked. Dropping it ends it; its children hold on to it.
#[derive(Debug)]
pub(crate) struct Zygote {
    child: Child,
    control: Packets,
    /// The system it was made from.
    key: Key,
    /// No run will begin from it any more.
    retired: AtomicBool,
}

/// A child of a zygote, in the process table and the control groups of a jail. It ends when this is dropped before it has
/// come under the walls.
#[derive(Debug)]
pub(crate) struct Born {
    /// Its number here.
    pub(crate) pid: u32,
    /// Where it waits for what it has to do, and the zygote tells how it ended.
    pub(crate) line: Packets,
}

/// What a child takes with it into a jail.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    pub(crate) messages: BorrowedFd<'a>,
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) rules: BorrowedFd<'a>,
}

#[derive(Serialize)]
struct Request<'a> {
    calls: &'a [Call],
    /// Whether there is time before the job comes.
    ahead: bool,
}

impl Zygote {
    /// Starts one and waits until all is loaded.
    fn start(program: &Path, shown: &Shown, loaded: Loaded) -> Result<Self, String> {
        let failed = |error: io::Error| format!("starting the zygote: {error}");
        if shown.image.is_some() || shown.venv.is_some() {
            return Err("a zygote is of the machine's own system alone".to_owned());
        }
        let (mut control, end) = Packets::pair().map_err(failed)?;
        let child = Spawn::new(program)
            .arg(process::ARGUMENT)
            .arg(&shown.packages.path)
            .arg(loaded.word())
            .fd(&end, process::CONTROL)
            .fd(&shown.packages.folder, process::PACKAGES)
            .spawn()
            .map_err(failed)?;
        drop(end);
        match hear(&mut control, Instant::now() + LOADED_WITHIN) {
            Ok((READY, _)) => {}
            Ok(_) => return Err("the zygote said something else".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err("the zygote ended before it was loaded".to_owned());
            }
            Err(error) => return Err(failed(error)),
        }
        // While it loaded it had one processor, so that no library started threads for more.
        let pid = i32::try_from(child.pid()).ok().and_then(Pid::from_raw);
        sched_getaffinity(None)
            .and_then(|all| sched_setaffinity(pid, &all))
            .map_err(|error| failed(error.into()))?;
        let zygote = Self {
            child,
            control,
            key: shown.key().map_err(failed)?,
            retired: AtomicBool::new(false),
        };
        zygote.usable()?;
        Ok(zygote)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// That it lives and has one thread, as the kernel tells it.
    pub(crate) fn usable(&self) -> Result<(), String> {
        if self.ended() {
            return Err("the zygote has ended".to_owned());
        }
        let process = Process::open(self.pid())?;
        process
            .single_thread()
            .map(drop)
            .map_err(|why| format!("the zygote is not alone: {why}"))
    }

    /// Whether runs may begin from it: none does from one that made room for another.
    pub(crate) fn serves(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && !self.ended()
    }

    /// Whether it runs no more. In doubt it does not.
    pub(crate) fn ended(&self) -> bool {
        wait_readable(&[self.child.pidfd()], Duration::ZERO).unwrap_or(true)
    }

    /// Has a child forked into the jail that has this process 1, and into these control groups; `ahead` of a job it
    /// does what it can before there is one.
    pub(crate) fn fork(
        &self,
        init: BorrowedFd<'_>,
        groups: &[BorrowedFd<'_>],
        ahead: bool,
    ) -> Result<Born, String> {
        let failed = |error: io::Error| format!("asking the zygote: {error}");
        let (mut line, end) = Packets::pair().map_err(failed)?;
        let passed = [(forked::INIT, init)].into_iter();
        let groups = groups.iter().copied().enumerate();
        let passed = passed.chain(groups.map(|(index, fd)| (forked::GROUPS + index, fd)));
        let mut fds = vec![end.as_fd()];
        fds.extend(in_order(passed));
        let calls = begin(fds.len() - 1 - forked::GROUPS);
        let request = Request {
            calls: &calls,
            ahead,
        };
        send(&self.control, &request, &fds).map_err(failed)?;
        drop(end);
        match hear(&mut line, Instant::now() + BORN_WITHIN) {
            Ok((BORN, number)) => {
                let number = String::from_utf8_lossy(&number).into_owned();
                let pid = number
                    .parse()
                    .map_err(|_| format!("the zygote says that its child is {number:?}"))?;
                Ok(Born { pid, line })
            }
            Ok(_) => Err("the zygote said something else".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err("the zygote did not answer".to_owned())
            }
            Err(error) => Err(failed(error)),
        }
    }
}

impl Born {
    /// Has it make these calls, after which it waits on its channel.
    pub(crate) fn enter(&self, calls: &[Call], taken: &Taken<'_>) -> Result<(), String> {
        let passed = [
            (passed::MESSAGES, taken.messages),
            (passed::STDIN, taken.stdin),
            (passed::STDOUT, taken.stdout),
            (passed::STDERR, taken.stderr),
            (passed::INIT, taken.init),
            (passed::RULES, taken.rules),
        ];
        let request = Request {
            calls,
            ahead: false,
        };
        send(&self.line, &request, &in_order(passed))
            .map_err(|error| format!("asking the zygote's child: {error}"))
    }

    /// Ends it, and waits for that.
    pub(crate) fn dismiss(mut self) -> Result<(), String> {
        let failed = |error: io::Error| format!("ending a child that waited: {error}");
        shutdown(&self.line, Shutdown::Write).map_err(|error| failed(error.into()))?;
        match hear(&mut self.line, Instant::now() + BORN_WITHIN) {
            Ok((ENDED, _)) => Ok(()),
            Ok(_) => Err("a child that waited did not end".to_owned()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// A list of calls with the descriptors that it counts on.
fn send(to: &Packets, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let request = serde_json::to_vec(request).map_err(io::Error::other)?;
    handoff::send_with(to, &request, fds)
}

/// Descriptors in the order of their places.
fn in_order<'a>(passed: impl IntoIterator<Item = (usize, BorrowedFd<'a>)>) -> Vec<BorrowedFd<'a>> {
    let mut all: Vec<_> = passed.into_iter().collect();
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, fd)| fd).collect()
}

/// The zygotes of an engine.
#[derive(Debug)]
pub(crate) struct Zygotes {
    program: PathBuf,
    /// How many there may be with the same loaded; beyond it the one that was used longest ago goes.
    most: usize,
    of: Mutex<HashMap<Whose, Slot>>,
}

/// A tenant, and what its zygote has loaded.
type Whose = (TenantId, Loaded);

#[derive(Debug)]
struct Slot {
    state: State,
    used: Instant,
}

#[derive(Debug, Clone)]
enum State {
    Stands(Arc<Zygote>),
    /// Somebody is starting it.
    Starting,
    Failed(String, Instant),
}

impl Zygotes {
    pub(crate) fn new(program: PathBuf, most: usize) -> Arc<Self> {
        Arc::new(Self {
            program,
            most: most.max(1),
            of: Mutex::new(HashMap::new()),
        })
    }

    /// The zygote of a tenant, or why there is none now. One that is missing, broken or of other packages is
    /// being started when this returns: no run waits for that.
    pub(crate) fn get(
        self: &Arc<Self>,
        whose: &Whose,
        shown: &Shown,
    ) -> Result<Arc<Zygote>, String> {
        let why = match self.standing(whose, shown) {
            Ok(zygote) => return Ok(zygote),
            Err(None) => return Err("the zygote is being started".to_owned()),
            Err(Some(why)) => why,
        };
        let shown = shown.try_clone().map_err(|error| error.to_string())?;
        if self.claim(whose) {
            let (all, whose) = (Arc::clone(self), whose.clone());
            let start = move || all.start(&whose, &shown).map(drop);
            std::thread::Builder::new()
                .name("zygote".to_owned())
                .spawn(move || drop(start()))
                .map_err(|error| format!("no thread to start the zygote from: {error}"))?;
        }
        Err(why)
    }

    /// The same, waiting for it.
    pub(crate) fn get_ready(
        self: &Arc<Self>,
        whose: &Whose,
        shown: &Shown,
    ) -> Result<Arc<Zygote>, String> {
        loop {
            match self.standing(whose, shown) {
                Ok(zygote) => return Ok(zygote),
                Err(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(Some(_)) if self.claim(whose) => return self.start(whose, shown),
                Err(Some(why)) => return Err(why),
            }
        }
    }

    /// No reason: it is being started.
    fn standing(&self, whose: &Whose, shown: &Shown) -> Result<Arc<Zygote>, Option<String>> {
        let mut all = self.all();
        let Some(slot) = all.get_mut(whose) else {
            return Err(Some("the first run of its kind and tenant".to_owned()));
        };
        slot.used = Instant::now();
        match &slot.state {
            State::Starting => Err(None),
            State::Failed(why, _) => Err(Some(why.clone())),
            State::Stands(zygote) => {
                if !shown.key().is_ok_and(|key| key == zygote.key) {
                    return Err(Some("the packages were set up anew".to_owned()));
                }
                zygote.usable().map_err(Some)?;
                Ok(Arc::clone(zygote))
            }
        }
    }

    /// Marks a zygote as being started by the caller, unless somebody else does it or one has just failed.
    fn claim(&self, whose: &Whose) -> bool {
        let mut all = self.all();
        let state = all.get(whose).map(|slot| slot.state.clone());
        match state {
            Some(State::Starting) => return false,
            Some(State::Failed(_, when)) if when.elapsed() < PAUSE => return false,
            _ => {}
        }
        all.insert(whose.clone(), Slot::new(State::Starting));
        true
    }

    fn start(&self, whose: &Whose, shown: &Shown) -> Result<Arc<Zygote>, String> {
        let started = Zygote::start(&self.program, shown, whose.1).map(Arc::new);
        let state = match &started {
            Ok(zygote) => State::Stands(Arc::clone(zygote)),
            Err(why) => State::Failed(why.clone(), Instant::now()),
        };
        let mut all = self.all();
        all.insert(whose.clone(), Slot::new(state));
        let same = |other: &Whose| other.1 == whose.1;
        while all.keys().filter(|other| same(other)).count() > self.most {
            let unused = all
                .iter()
                .filter(|(other, slot)| same(other) && !matches!(slot.state, State::Starting))
                .min_by_key(|(_, slot)| slot.used)
                .map(|(unused, _)| unused.clone());
            match unused {
                Some(unused) => drop(all.remove(&unused)),
                None => break,
            }
        }
        started
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Whose, Slot>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who still holds the zygote, for a child of it that waits, is to let it go.
impl Drop for Slot {
    fn drop(&mut self) {
        if let State::Stands(zygote) = &self.state {
            zygote.retired.store(true, Ordering::Release);
        }
    }
}

impl Slot {
    fn new(state: State) -> Self {
        Self {
            state,
            used: Instant::now(),
        }
    }
}

/// The other side's descriptors, for a request.
pub(crate) fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use casemate_driver::packages::Opened;

    use super::*;

    #[test]
    fn no_zygote_is_started_of_an_image_or_with_an_environment() {
        let dir = tempfile::tempdir().unwrap();
        let folder = || Some(Opened::open(dir.path(), false).unwrap());
        for (image, venv) in [(folder(), None), (None, folder())] {
            let packages = folder().unwrap();
            let shown = Shown {
                packages,
                image,
                venv,
                agent: None,
            };
            let why =
                Zygote::start(Path::new("/nonexistent"), &shown, Loaded::Libraries).unwrap_err();
            assert!(why.contains("own system alone"), "{why}");
        }
    }

    #[test]
    fn what_a_program_is_forked_from_has_what_it_loads() {
        let of = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            Loaded::for_program(Some(&names))
        };
        assert_eq!(of(&[]), Loaded::Small);
        assert_eq!(of(&["json", "os"]), Loaded::Small);
        assert_eq!(of(&["json", "pandas"]), Loaded::Libraries);
        assert_eq!(of(&["helper"]), Loaded::Libraries);
        assert_eq!(Loaded::for_program(None), Loaded::Libraries);
    }
}
