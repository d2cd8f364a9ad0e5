//! Listening to a sandbox with native Python in it: what it says, what it uses, how it ends.

use std::fs::File;
use std::io::{self, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use casemate_backend::contract::{Cancel, Fault, Finish, Signal};
use casemate_linux::cgroup::Cgroup;
use casemate_linux::{Child, Exit as ProcessExit};
use casemate_model::limit::LimitKind;
use casemate_model::outcome::{Exit, Usage};
use rustix::io::Errno;
use rustix::process::{Signal as KernelSignal, pidfd_send_signal};

use crate::collect::{Collected, collect};
use crate::handover::{ENDED, FAILED, MESSAGE_END, MESSAGE_PART, READY, WireEnd};
use crate::lowered::Watched;
use crate::packets::{PACKET_MAX, Packets, Received, wait_readable};
use crate::tally::{Over, Tally};
use crate::watch::{LOOK_EVERY, Watch};

/// How long the walls may take to stand, and the interpreter after the word to start.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long after the end of everything the last output may take to be read.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait for what is still on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(1);
/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The host's ends of a sandbox's channels.
#[derive(Debug)]
pub struct Lines {
    /// To the process that builds the sandbox.
    pub control: Packets,
    /// From the driver.
    pub messages: Packets,
    /// The guest's standard output.
    pub stdout: File,
    /// The guest's standard error.
    pub stderr: File,
}

/// The other ends.
#[derive(Debug)]
pub struct Ends {
    /// For the process that builds the sandbox.
    pub control: Packets,
    /// For the driver.
    pub messages: Packets,
    /// The guest's standard output.
    pub stdout: PipeWriter,
    /// The guest's standard error.
    pub stderr: PipeWriter,
}

impl Lines {
    /// Channels and their other ends.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn make() -> io::Result<(Self, Ends)> {
        let (control, control_end) = Packets::pair()?;
        let (messages, messages_end) = Packets::pair()?;
        let (stdout, stdout_end) = io::pipe()?;
        let (stderr, stderr_end) = io::pipe()?;
        for stream in [stdout.as_fd(), stderr.as_fd()] {
            let flags = rustix::fs::fcntl_getfl(stream)? | rustix::fs::OFlags::NONBLOCK;
            rustix::fs::fcntl_setfl(stream, flags)?;
        }
        let lines = Self {
            control,
            messages,
            stdout: File::from(OwnedFd::from(stdout)),
            stderr: File::from(OwnedFd::from(stderr)),
        };
        let ends = Ends {
            control: control_end,
            messages: messages_end,
            stdout: stdout_end,
            stderr: stderr_end,
        };
        Ok((lines, ends))
    }
}

/// The processes that hold a sandbox: the one that was started, and process 1 of its process table.
#[derive(Debug)]
pub struct Processes {
    /// The one that was started.
    pub child: Child,
    /// Process 1, by a descriptor: it ends after everything else in the sandbox has ended.
    pub init: Option<OwnedFd>,
}

/// What holds a sandbox, and ends it.
pub trait Holder {
    /// Kills everything in the sandbox and waits until nothing of it runs.
    ///
    /// # Errors
    /// When something could not be killed, or does not end.
    fn take_down(&mut self) -> io::Result<()>;

    /// Whether the control group goes with the processes: then it is read once more before they end.
    fn takes_its_group_along(&self) -> bool {
        false
    }

    /// Whether nothing that was said before the end is still on its way here.
    fn has_said_all(&self) -> bool {
        true
    }

    /// Whether the kernel ended all of it for memory, where its group cannot be asked any more.
    fn ended_for_memory(&mut self) -> bool {
        false
    }
}

impl Holder for Processes {
    fn take_down(&mut self) -> io::Result<()> {
        if let Some(init) = &self.init {
            match pidfd_send_signal(init, KernelSignal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
            // The kernel lets process 1 go when all others of its table are gone.
            let deadline = Instant::now() + GONE_WITHIN;
            while !wait_readable(&[init.as_fd()], LOOK_EVERY)? {
                if Instant::now() > deadline {
                    return Err(io::Error::other("something in it does not end"));
                }
            }
        }
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

/// A sandbox whose program is about to start.
pub struct Running<'a> {
    /// Its channels.
    pub lines: &'a mut Lines,
    /// Its processes.
    pub processes: &'a mut dyn Holder,
    /// Its limits.
    pub watched: &'a Watched,
    /// Its control group.
    pub cgroup: Option<&'a Cgroup>,
    /// The top of its scratch.
    pub scratch: &'a OwnedFd,
    /// Whether the interpreter stands already and the program begins now.
    pub stands: bool,
    /// How long it is to last.
    pub lasts: Lasts,
}

/// How long a sandbox lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// As long as a program runs; what it leaves is taken then.
    Run,
    /// Until somebody ends it. What is left in it is thrown away, and it is looked at less often, since there may
    /// be many of them.
    Session,
}

/// How often a session is looked at.
const LOOK_AT_SESSION_EVERY: Duration = Duration::from_millis(250);

impl Lasts {
    const fn look_every(self) -> Duration {
        match self {
            Self::Run => LOOK_EVERY,
            Self::Session => LOOK_AT_SESSION_EVERY,
        }
    }
}

impl Running<'_> {
    /// Listens to the end, takes everything down, and reads what was left.
    ///
    /// # Errors
    /// What failed on our side.
    pub fn finish(self, sink: &mut dyn FnMut(Signal), cancel: &Cancel) -> Result<Finish, Fault> {
        let fault = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| Fault(format!("{what}: {error}"))
        };
        let mut tally = Tally::new(self.watched.counted.clone(), sink);
        let every = self.lasts.look_every();
        let mut watch = Watch::new(self.watched, self.cgroup, self.scratch, every);
        let mut run = Run {
            every,
            lines: self.lines,
            tally: &mut tally,
            watch: &mut watch,
            watched: self.watched,
            cancel,
            ready: None,
            started: Instant::now(),
        };
        if self.stands {
            run.begin();
        }
        let exit = run.listen().map_err(fault("listening to the sandbox"))?;
        let wall = run.elapsed();
        let mut late = None;
        if self.processes.takes_its_group_along() {
            late = watch.look_now(&mut tally);
        }
        let taken_down = self.processes.take_down();
        taken_down.map_err(fault("ending the sandbox"))?;
        let over = drain(self.lines, self.processes, &mut tally);
        let over = over.map_err(fault("reading the last output"))?;
        // What was reached between the last look and the end.
        late = watch.look_now(&mut tally).or(late);
        if exit == Exit::Signal(9) && self.processes.ended_for_memory() {
            late = late.or(Some(out_of_memory(self.watched)));
        }
        let exit = settle(exit, over.or(late));
        say_over(&exit, &mut tally);
        tally.told_too_much();
        let left = match self.lasts {
            Lasts::Run => collect(self.scratch, self.watched, &mut tally),
            Lasts::Session => Ok(Collected::default()),
        };
        let left = left.map_err(fault("reading what was left"))?;
        Ok(Finish {
            exit,
            usage: usage(&tally, &watch, wall, &left),
            artifacts: tally.take_artifacts(),
        })
    }
}

fn out_of_memory(watched: &Watched) -> Over {
    Over {
        limit: LimitKind::Memory,
        allowed: watched.memory_bytes,
        seen: watched.memory_bytes,
    }
}

/// The limit that ended a run is an event too.
fn say_over(exit: &Exit, tally: &mut Tally<'_>) {
    if let Exit::Limit {
        limit,
        allowed,
        seen,
    } = *exit
    {
        tally.reached(Over {
            limit,
            allowed,
            seen,
        });
    }
}

fn usage(tally: &Tally<'_>, watch: &Watch<'_>, wall: Duration, left: &Collected) -> Usage {
    let (stdout_bytes, stderr_bytes) = tally.output();
    Usage {
        wall_us: micros(wall),
        cpu_us: micros(watch.cpu),
        memory_peak_bytes: watch.memory_peak(),
        // Exact where the most was there at the end; whole pages where it was seen in between.
        disk_peak_bytes: if watch.disk_peak.used_bytes > left.pages {
            watch.disk_peak.used_bytes
        } else {
            left.bytes
        },
        disk_peak_files: watch.disk_peak.used_files,
        open_files_peak: watch.open_files_peak,
        stdout_bytes,
        stderr_bytes,
    }
}

/// An end of the program's own gives way to a limit that was passed before it.
fn settle(exit: Exit, over: Option<Over>) -> Exit {
    match (exit, over) {
        // Time that ran out while everything was already over is not the program's.
        (exit, Some(over)) if over.limit == LimitKind::CpuTime => exit,
        (Exit::Code(_) | Exit::Signal(_), Some(over)) => limit(over),
        (exit, _) => exit,
    }
}

fn limit(over: Over) -> Exit {
    Exit::Limit {
        limit: over.limit,
        allowed: over.allowed,
        seen: over.seen,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// One run as the host hears it.
struct Run<'r, 'a> {
    every: Duration,
    lines: &'r mut Lines,
    tally: &'r mut Tally<'a>,
    watch: &'r mut Watch<'a>,
    watched: &'a Watched,
    cancel: &'r Cancel,
    /// When the program began.
    ready: Option<Instant>,
    started: Instant,
}

impl Run<'_, '_> {
    /// The program begins now.
    fn begin(&mut self) {
        self.ready = Some(Instant::now());
        self.tally.begin_now();
        self.watch.begin();
    }

    fn elapsed(&self) -> Duration {
        self.ready.unwrap_or(self.started).elapsed()
    }

    /// Listens until there is an end: the program's own, a limit's, or the caller's wish.
    fn listen(&mut self) -> io::Result<Exit> {
        loop {
            if self.cancel.is_cancelled() {
                return Ok(Exit::Cancelled);
            }
            if let Some(over) = self.take_messages()?.or(self.take_output()?) {
                return Ok(limit(over));
            }
            if let Some(exit) = self.take_end()? {
                return Ok(exit);
            }
            if let Some(over) = self.late() {
                return Ok(limit(over));
            }
            if self.ready.is_some() {
                if let Some(over) = self.watch.look(self.tally) {
                    return Ok(limit(over));
                }
            } else if self.started.elapsed() > READY_WITHIN {
                return Ok(Exit::Fault("the interpreter did not start".to_owned()));
            }
            self.wait()?;
        }
    }

    fn wait(&self) -> io::Result<()> {
        let lines = &self.lines;
        let fds = [
            lines.control.as_fd(),
            lines.messages.as_fd(),
            lines.stdout.as_fd(),
            lines.stderr.as_fd(),
        ];
        wait_readable(&fds, self.every).map(drop)
    }

    fn late(&self) -> Option<Over> {
        let seen = u64::try_from(self.ready?.elapsed().as_millis()).unwrap_or(u64::MAX);
        let allowed = self.watched.wall_time_ms;
        (seen > allowed).then_some(Over {
            limit: LimitKind::WallTime,
            allowed,
            seen,
        })
    }

    fn take_messages(&mut self) -> io::Result<Option<Over>> {
        for _ in 0..64 {
            match self.lines.messages.receive(false) {
                Ok(Received::Packet(READY, _)) if self.ready.is_none() => {
                    self.begin();
                }
                Ok(Received::Packet(kind, bytes)) => {
                    if let Some(over) = message(self.tally, kind, &bytes) {
                        return Ok(Some(over));
                    }
                }
                Ok(Received::Nothing | Received::Closed) => return Ok(None),
                // Larger than packets are: the guest's own doing, and dropped.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn take_output(&mut self) -> io::Result<Option<Over>> {
        let out = read_some(&mut self.lines.stdout)?;
        if let Some(Err(over)) = out.map(|bytes| self.tally.stdout(bytes)) {
            return Ok(Some(over));
        }
        let err = read_some(&mut self.lines.stderr)?;
        Ok(err.and_then(|bytes| self.tally.stderr(bytes).err()))
    }

    fn take_end(&mut self) -> io::Result<Option<Exit>> {
        match self.lines.control.receive(false)? {
            Received::Nothing => Ok(None),
            Received::Packet(ENDED, bytes) => {
                let end: WireEnd = serde_json::from_slice(&bytes)?;
                Ok(Some(ended(end.exit)))
            }
            Received::Packet(FAILED, why) => Ok(Some(Exit::Fault(
                String::from_utf8_lossy(&why).into_owned(),
            ))),
            Received::Packet(..) => Ok(Some(Exit::Fault(
                "its keeper said something else".to_owned(),
            ))),
            // Killed from outside: by the kernel for memory, which the next look sees.
            Received::Closed => Ok(Some(Exit::Signal(9))),
        }
    }
}

fn message(tally: &mut Tally<'_>, kind: u8, bytes: &[u8]) -> Option<Over> {
    if !matches!(kind, MESSAGE_PART | MESSAGE_END) {
        return None;
    }
    if let Err(over) = tally.message_part(bytes) {
        return Some(over);
    }
    if kind == MESSAGE_END {
        tally.message_end();
    }
    None
}

fn ended(exit: ProcessExit) -> Exit {
    match exit {
        _ if exit.is_forbidden_call() => Exit::Wall {
            wall: "seccomp".to_owned(),
            reason: "the program made a system call that only an attack makes".to_owned(),
        },
        ProcessExit::Code(code) => Exit::Code(code & 0xff),
        ProcessExit::Signal(signal) => Exit::Signal(signal),
    }
}

/// What can be read now: none when there is nothing, or nobody writes any more.
fn read_some(from: &mut File) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; PACKET_MAX];
    loop {
        return match from.read(&mut buffer) {
            Ok(0) => Ok(None),
            Ok(read) => {
                buffer.truncate(read);
                Ok(Some(buffer))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

/// Reads what was written before the end. Nobody is left to write more.
fn drain(
    lines: &mut Lines,
    holder: &dyn Holder,
    tally: &mut Tally<'_>,
) -> io::Result<Option<Over>> {
    let deadline = Instant::now() + DRAIN_WITHIN;
    let mut over = None;
    while Instant::now() < deadline {
        // Asked before reading: what it has said by now is there to be read.
        let all_said = holder.has_said_all();
        let (out, err) = (read_some(&mut lines.stdout)?, read_some(&mut lines.stderr)?);
        let more = out.is_some() || err.is_some();
        let outs = out.and_then(|bytes| tally.stdout(bytes).err());
        let errs = err.and_then(|bytes| tally.stderr(bytes).err());
        over = over.or(outs).or(errs);
        let said = match lines.messages.receive(false) {
            Ok(Received::Packet(kind, bytes)) => {
                over = over.or(message(tally, kind, &bytes));
                true
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => true,
            Ok(Received::Nothing | Received::Closed) => false,
            Err(error) => return Err(error),
        };
        match (more || said, all_said) {
            _ if over.is_some() => break,
            (true, _) => {}
            (false, true) => break,
            (false, false) => std::thread::sleep(ON_ITS_WAY),
        }
    }
    Ok(over)
}
