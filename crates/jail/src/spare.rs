//! Jails that are made before their job is known: namespaces, control groups and the system's part of the
//! root stand, and process 1 waits for a job. Each takes one, and none is used a second time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use casemate_driver::handover::{FAILED, hand_over, hear_walls};
use casemate_driver::listen::{Ends, Lines, Processes, READY_WITHIN};
use casemate_driver::lowered::Lowered;
use casemate_driver::packets::{Packets, Received, wait_readable};
use casemate_driver::walls::accounting;
use casemate_linux::cgroup::{Cgroup, Missing};
use casemate_linux::{Child, Exit as ProcessExit, Spawn, Step, handoff};

use crate::init::{self, handed};
use crate::maker::{Maker, Wanted};
use crate::shown::{Key, Shown};
use crate::zygote::{Born, Zygote, borrow};

/// A jail without a job.
///
/// The fields are dropped in their order: first the processes, then what they were in.
#[derive(Debug)]
pub(crate) struct Spare {
    early: Option<Early>,
    pub(crate) processes: Processes,
    pub(crate) lines: Lines,
    /// The guest's ends.
    pub(crate) ends: GuestEnds,
    handed: OwnedFd,
    /// What was handed over.
    all: BTreeMap<u8, OwnedFd>,
    pub(crate) cgroup: Result<Cgroup, String>,
    key: Key,
}

/// A child that was forked into a jail before there was a job, and the zygote that it is of.
#[derive(Debug)]
struct Early {
    born: Born,
    zygote: Arc<Zygote>,
}

/// What the guest itself is given. The end that process 1 has is in nobody else's hands, so that it is heard
/// when process 1 is gone.
#[derive(Debug)]
pub(crate) struct GuestEnds {
    pub(crate) messages: Packets,
    pub(crate) stdout: PipeWriter,
    pub(crate) stderr: PipeWriter,
}

/// What was handed over by a jail whose walls stand.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Process 1.
    pub(crate) init: OwnedFd,
    /// The top of scratch, or what holds nothing: then its wall is missing.
    pub(crate) scratch: OwnedFd,
    /// The guest's standard input.
    pub(crate) stdin: OwnedFd,
    /// The Landlock rules, where the kernel has Landlock.
    pub(crate) rules: Option<OwnedFd>,
}

impl Spare {
    /// Starts the process that will build the walls, in its control groups.
    pub(crate) fn make(program: &Path, shown: &Shown) -> io::Result<Self> {
        Self::made(shown, |ends, handing, cgroup| {
            let mut spawn = show(Spawn::new(program).arg(init::ARGUMENT), shown)
                .fd(&ends.control, init::CONTROL)
                .fd(handing, init::HANDOFF)
                .fd(&ends.messages, init::MESSAGES)
                .fd(&ends.stdout, init::STDOUT)
                .fd(&ends.stderr, init::STDERR);
            if let Some(cgroup) = cgroup {
                spawn = spawn.cgroup(cgroup);
            }
            spawn.spawn()
        })
    }

    /// The same by a process that has one forked.
    fn fork(maker: &mut Maker, shown: &Shown) -> io::Result<Self> {
        Self::made(shown, |ends, handing, cgroup| {
            let groups = entrances(cgroup)?;
            maker.make(&Wanted {
                control: ends.control.as_fd(),
                handoff: handing.as_fd(),
                messages: ends.messages.as_fd(),
                stdout: ends.stdout.as_fd(),
                stderr: ends.stderr.as_fd(),
                groups: borrow(&groups),
            })
        })
    }

    fn made(
        shown: &Shown,
        start: impl FnOnce(&Ends, &UnixStream, Option<&Cgroup>) -> io::Result<Child>,
    ) -> io::Result<Self> {
        let group = match shown.agent {
            None => Cgroup::reserve("jail"),
            Some(_) => Cgroup::reserve_freezable("session"),
        };
        let cgroup = group.map_err(|missing| missing.why);
        let (lines, ends) = Lines::make()?;
        let (handed, handing) = UnixStream::pair()?;
        handed.set_nonblocking(true)?;
        let child = start(&ends, &handing, cgroup.as_ref().ok())?;
        Ok(Self {
            early: None,
            processes: Processes { child, init: None },
            lines,
            ends: GuestEnds {
                messages: ends.messages,
                stdout: ends.stdout,
                stderr: ends.stderr,
            },
            handed: handed.into(),
            all: BTreeMap::new(),
            cgroup,
            key: shown.key()?,
        })
    }

    /// The number of the process outside, from which the jail's user is made.
    pub(crate) fn number(&self) -> u32 {
        self.processes.child.pid()
    }

    /// Whether it still waits, and shows this system.
    fn fits(&mut self, key: &Key) -> bool {
        *key == self.key
            && matches!(self.processes.child.try_wait(), Ok(None))
            && self
                .early
                .as_ref()
                .is_none_or(|early| early.zygote.serves())
    }

    /// Whether a child of this zygote waits in it.
    fn has(&self, zygote: &Arc<Zygote>) -> bool {
        let early = self.early.as_ref();
        early.is_some_and(|early| Arc::ptr_eq(&early.zygote, zygote))
    }

    /// Has a child of this zygote wait in it.
    fn expect(&mut self, zygote: Arc<Zygote>) -> Result<(), String> {
        let born = self.fork_child(&zygote, true)?;
        self.early = Some(Early { born, zygote });
        Ok(())
    }

    fn fork_child(&mut self, zygote: &Zygote, ahead: bool) -> Result<Born, String> {
        let cgroup = self.cgroup.as_ref().ok();
        let groups = entrances(cgroup).map_err(|error| format!("the control groups: {error}"))?;
        if !self.all.contains_key(&handed::INIT) {
            // Process 1 says what is wrong on its other channel, or ends.
            let fds = [self.handed.as_fd(), self.lines.control.as_fd()];
            wait_readable(&fds, READY_WITHIN).map_err(|error| error.to_string())?;
            self.receive().map_err(|error| error.to_string())?;
        }
        let init = self.all.get(&handed::INIT);
        let init = init.ok_or("there is no process 1")?;
        zygote.fork(init.as_fd(), &borrow(&groups), ahead)
    }

    /// The child of this zygote that waits in it, or a new one; whoever else waits is ended.
    pub(crate) fn child_of(&mut self, zygote: &Arc<Zygote>) -> Result<Born, String> {
        if self.has(zygote)
            && let Some(early) = self.early.take()
        {
            return Ok(early.born);
        }
        self.dismiss()?;
        self.fork_child(zygote, false)
    }

    /// The same with nobody in it but process 1; nothing where that cannot be had.
    pub(crate) fn without_child(mut self) -> Option<Self> {
        self.dismiss().is_ok().then_some(self)
    }

    /// Ends who waits in it.
    fn dismiss(&mut self) -> Result<(), String> {
        let early = self.early.take();
        early.map_or(Ok(()), |early| early.born.dismiss())
    }

    /// What has been handed over by now.
    fn receive(&mut self) -> io::Result<()> {
        loop {
            match handoff::receive_marked(&self.handed) {
                Ok((what, fd)) => drop(self.all.insert(what, fd)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sets the limits of the control groups: what was asked and what the kernel gave.
    pub(crate) fn limit(&mut self, lowered: &Lowered<'_>) -> Vec<Step> {
        let mut steps = match &mut self.cgroup {
            Ok(cgroup) => {
                cgroup.limit(&lowered.cgroup);
                cgroup.steps().to_vec()
            }
            Err(why) => Missing::of(why, &lowered.cgroup).steps,
        };
        steps.push(accounting(self.cgroup.as_ref().ok()));
        steps
    }

    /// Hands over the job and hears which walls stand.
    pub(crate) fn arm(&mut self, lowered: &Lowered<'_>) -> io::Result<(Vec<Step>, Handed)> {
        hand_over(&self.lines.control, &lowered.job, lowered)?;
        let deadline = Instant::now() + READY_WITHIN;
        let steps = hear_walls(&mut self.lines.control, deadline)?;
        // All of it was handed over before the walls were reported.
        self.receive()?;
        let mut all = std::mem::take(&mut self.all);
        let missing = || io::Error::other("process 1 did not hand over all it has");
        let scratch = match all.remove(&handed::SCRATCH) {
            Some(scratch) => scratch,
            None => File::open("/dev/null")?.into(),
        };
        let handed = Handed {
            init: all.remove(&handed::INIT).ok_or_else(missing)?,
            scratch,
            stdin: all.remove(&handed::STDIN).ok_or_else(missing)?,
            rules: all.remove(&handed::RULES),
        };
        Ok((steps, handed))
    }

    /// A jail that could not be built, in words: what it said, or how it ended.
    pub(crate) fn failed(&mut self, error: &io::Error) -> String {
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
        format!("the jail could not be built: {said}{how}")
    }
}

/// The program of jails that show a system, with the names and the folders of what is shown.
pub(crate) fn show(spawn: Spawn, shown: &Shown) -> Spawn {
    let optional = [
        (&shown.image, init::IMAGE),
        (&shown.venv, init::VENV),
        (&shown.agent, init::AGENT),
    ];
    let spawn = spawn
        .arg(&shown.packages.path)
        .fd(&shown.packages.folder, init::PACKAGES);
    optional
        .into_iter()
        .fold(spawn, |spawn, (opened, number)| match opened {
            Some(opened) => spawn.arg(&opened.path).fd(&opened.folder, number),
            None => spawn.arg(""),
        })
}

/// The files through which a process enters control groups, where there are any.
fn entrances(cgroup: Option<&Cgroup>) -> io::Result<Vec<OwnedFd>> {
    cgroup.map_or_else(|| Ok(Vec::new()), |cgroup| cgroup.open_procs().collect())
}

/// How long it may take until all wait.
const FULL_WITHIN: Duration = Duration::from_secs(10);
/// How long the thread that makes them pauses when one could not be made.
const PAUSE: Duration = Duration::from_millis(200);

/// Jails that wait, refilled by a thread of their own whenever one was taken. Dropping this takes them down.
#[derive(Debug)]
pub(crate) struct Spares {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    program: PathBuf,
    wanted: usize,
    waiting: Mutex<Waiting>,
    /// Something for the thread to look at.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jails: Vec<Spare>,
    /// Of which system more are to be made.
    shown: Option<Arc<Shown>>,
    /// The zygotes that runs began from, the last one first.
    used: Vec<Weak<Zygote>>,
    /// Nobody wants them any more.
    over: bool,
}

impl Spares {
    /// As many as are wanted wait, once the first was asked for.
    pub(crate) fn new(program: PathBuf, wanted: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            program,
            wanted,
            waiting: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        // With none wanted there is nothing to make.
        let thread = (wanted > 0).then(|| {
            std::thread::Builder::new()
                .name("spares".to_owned())
                .spawn(move || own.refill())
        });
        Ok(Self {
            shared,
            thread: thread.transpose()?,
        })
    }

    /// One that waits, if there is one, and a word to make another: best one in which a child of this zygote waits.
    pub(crate) fn take(&self, shown: &Shown, zygote: Option<&Arc<Zygote>>) -> Option<Spare> {
        let mut waiting = self.of_this(shown).ok()?;
        let jails = &waiting.jails;
        let fitting = jails
            .iter()
            .position(|spare| zygote.is_some_and(|zygote| spare.has(zygote)))
            .or_else(|| jails.iter().position(|spare| spare.early.is_none()))
            .or_else(|| jails.len().checked_sub(1));
        let spare = fitting.map(|at| waiting.jails.swap_remove(at));
        if let Some(zygote) = zygote {
            let wanted = self.shared.wanted;
            waiting.use_now(zygote, wanted);
        }
        drop(waiting);
        self.shared.changed.notify_one();
        spare
    }

    /// Waits until as many wait as are wanted.
    ///
    /// # Errors
    /// When they are not made in time.
    pub(crate) fn wait_full(&self, shown: &Shown) -> Result<(), String> {
        let deadline = Instant::now() + FULL_WITHIN;
        loop {
            let waiting = self.of_this(shown).map_err(|e| e.to_string())?;
            if waiting.jails.len() >= self.shared.wanted {
                return Ok(());
            }
            drop(waiting);
            if Instant::now() > deadline {
                return Err("no jail can be made in advance".to_owned());
            }
            self.shared.changed.notify_one();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What waits, without jails that have ended or show another system; from now on they are made of this one.
    fn of_this(&self, shown: &Shown) -> io::Result<MutexGuard<'_, Waiting>> {
        let key = shown.key()?;
        let mut waiting = self.shared.waiting();
        waiting.jails.retain_mut(|spare| spare.fits(&key));
        let known = waiting.shown.as_ref().map(|known| known.key());
        if !matches!(known, Some(Ok(known)) if known == key) {
            waiting.shown = Some(Arc::new(shown.try_clone()?));
        }
        Ok(waiting)
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.shared.waiting().over = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did there is nothing left of it to wait for.
            thread.join().ok();
        }
    }
}

impl Waiting {
    fn use_now(&mut self, zygote: &Arc<Zygote>, most: usize) {
        let own = Arc::downgrade(zygote);
        self.used.retain(|other| !other.ptr_eq(&own));
        self.used.insert(0, own);
        self.used.truncate(most);
    }

    /// The zygote of which a child is to wait in the next jail: the one used last of which none waits, or of them all.
    fn next(&self) -> Option<Arc<Zygote>> {
        let used = self.used.iter().filter_map(Weak::upgrade);
        let used: Vec<_> = used.filter(|zygote| zygote.serves()).collect();
        let waits = |zygote: &Arc<Zygote>| self.jails.iter().any(|spare| spare.has(zygote));
        let without = used.iter().find(|zygote| !waits(zygote));
        without.or(used.first()).cloned()
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refill(&self) {
        // What forks them, of the system that was wanted last.
        let mut maker: Option<Maker> = None;
        let mut waiting = self.waiting();
        while !waiting.over {
            let (wanted, zygote) = match &waiting.shown {
                Some(shown) if waiting.jails.len() < self.wanted => {
                    (Arc::clone(shown), waiting.next())
                }
                _ => {
                    let woken = self.changed.wait(waiting);
                    waiting = woken.unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            drop(waiting);
            match self.fork(&mut maker, &wanted) {
                Ok(mut spare) => {
                    // Where no child can be forked in advance, the run that takes the jail tries it, and says why not.
                    if let Some(zygote) = zygote {
                        spare.expect(zygote).ok();
                    }
                    waiting = self.waiting();
                    waiting.jails.push(spare);
                }
                // A run that needs one makes it itself, and says why it cannot.
                Err(_) => {
                    maker = None;
                    let pause = self.changed.wait_timeout(self.waiting(), PAUSE);
                    waiting = pause.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        waiting.jails.clear();
    }

    fn fork(&self, maker: &mut Option<Maker>, shown: &Shown) -> io::Result<Spare> {
        let key = shown.key()?;
        let maker = match maker {
            Some(maker) if maker.key == key => maker,
            _ => maker.insert(Maker::start(&self.program, shown, key)?),
        };
        Spare::fork(maker, shown)
    }
}
