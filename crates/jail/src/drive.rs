//! A jail from the host's side: building it, starting it, listening to it, taking it down.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Offer, Sandbox, Signal,
};
use casemate_backend::plan::Plan;
use casemate_driver::{Over, Tally};
use casemate_linux::cgroup::Cgroup;
use casemate_linux::{Child, Exit as ProcessExit, Spawn, Step, handoff};
use casemate_model::limit::LimitKind;
use casemate_model::outcome::{Exit, Usage};
use casemate_model::receipt::{Receipt, Wall};
use rustix::io::Errno;
use rustix::process::{Signal as KernelSignal, pidfd_send_signal};

use crate::collect::{Collected, collect};
use crate::lower::{Lowered, Watched, lower};
use crate::packets::{PACKET_MAX, Packets, Received, wait_readable};
use crate::setup::Store;
use crate::watch::{LOOK_EVERY, Watch};
use crate::wire::{
    ARMED, DATA, ENDED, FAILED, JOB, JOB_END, MESSAGE_END, MESSAGE_PART, READY, START, WALLS,
    WALLS_MAX, WireEnd, WireWalls,
};
use crate::{init, probe, walls};

/// How long the walls may take to stand, and the interpreter after the word to start.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long after the end of everything the last output may take to be read.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The jail backend.
pub struct JailBackend {
    store: Store,
    program: PathBuf,
}

/// A jail whose walls stand and in which nothing has run.
///
/// The fields are dropped in their order: first the processes, then what they were in.
struct JailSandbox {
    child: Child,
    /// Process 1, by a descriptor: it ends after everything else in the jail has ended.
    init: Option<OwnedFd>,
    control: Packets,
    messages: Packets,
    stdout: File,
    stderr: File,
    scratch: OwnedFd,
    cgroup: Option<Cgroup>,
    watched: Watched,
}

impl JailBackend {
    /// The backend over a cache, with `program` as the program of a jail's first process: this one,
    /// unless a test says otherwise.
    pub fn new(store: Store, program: impl Into<PathBuf>) -> Self {
        Self {
            store,
            program: program.into(),
        }
    }
}

impl Backend for JailBackend {
    fn name(&self) -> &'static str {
        probe::NAME
    }

    fn probe(&self) -> Offer {
        probe::offer(&self.store)
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        static RECLAIM: std::sync::Once = std::sync::Once::new();
        // Groups of processes that crashed. One that stays costs nothing and is tried again next time.
        RECLAIM.call_once(|| drop(casemate_linux::cgroup::reclaim_stale()));
        probe::python().map_err(|(why, fix)| CreateError::Unusable { why, fix })?;
        let packages = self.store.opened().map_err(|error| CreateError::Unusable {
            why: error.to_string(),
            fix: "run `casemate setup --backend jail`".to_owned(),
        })?;
        let path = packages
            .path
            .to_str()
            .ok_or_else(|| CreateError::Fault("the cache folder's name is not UTF-8".to_owned()))?;
        let lowered = lower(plan, path).map_err(CreateError::Plan)?;
        let (mut sandbox, handed, around) = self
            .start(&lowered, &packages.folder)
            .map_err(|error| CreateError::Fault(format!("starting the jail: {error}")))?;
        let steps = sandbox
            .arm(&lowered)
            .map_err(|error| sandbox.failed(&error))?;
        let mut all: Vec<Wall> = around.iter().chain(&steps).map(walls::built).collect();
        all.extend(walls::limits(&lowered.watched, &all));
        all.extend(walls::unmentioned(&all));
        // Both are handed over before the walls are reported.
        let init = handoff::receive(&handed);
        sandbox.init = Some(init.map_err(|error| sandbox.failed(&error))?);
        // Where there is no scratch its wall is missing.
        if let Ok(scratch) = handoff::receive(&handed) {
            sandbox.scratch = scratch;
        }
        let receipt = Receipt {
            backend: probe::NAME.to_owned(),
            guest: probe::guest(),
            walls: all,
        };
        Ok((Box::new(sandbox), receipt))
    }
}

impl JailBackend {
    /// Starts the process that will build the walls, in its control groups.
    fn start(
        &self,
        lowered: &Lowered<'_>,
        packages: &File,
    ) -> io::Result<(JailSandbox, OwnedFd, Vec<Step>)> {
        let (cgroup, mut steps) = match Cgroup::create("jail", &lowered.cgroup) {
            Ok(cgroup) => {
                let steps = cgroup.steps().to_vec();
                (Some(cgroup), steps)
            }
            Err(missing) => (None, missing.steps),
        };
        steps.push(accounting(cgroup.as_ref()));
        let (control, theirs) = Packets::pair()?;
        let (messages, to_us) = Packets::pair()?;
        let (handed, handing) = std::os::unix::net::UnixStream::pair()?;
        handed.set_nonblocking(true)?;
        let (stdout, out) = io::pipe()?;
        let (stderr, err) = io::pipe()?;
        let mut spawn = Spawn::new(&self.program)
            .arg(init::ARGUMENT)
            .fd(&theirs, init::CONTROL)
            .fd(&handing, init::HANDOFF)
            .fd(&to_us, init::MESSAGES)
            .fd(&out, init::STDOUT)
            .fd(&err, init::STDERR)
            .fd(packages, init::PACKAGES);
        if let Some(cgroup) = &cgroup {
            spawn = spawn.cgroup(cgroup);
        }
        let child = spawn.spawn()?;
        for stream in [stdout.as_fd(), stderr.as_fd()] {
            let flags = rustix::fs::fcntl_getfl(stream)? | rustix::fs::OFlags::NONBLOCK;
            rustix::fs::fcntl_setfl(stream, flags)?;
        }
        let sandbox = JailSandbox {
            child,
            init: None,
            control,
            messages,
            stdout: File::from(OwnedFd::from(stdout)),
            stderr: File::from(OwnedFd::from(stderr)),
            // Until scratch is handed over, a descriptor that holds nothing.
            scratch: File::open("/dev/null")?.into(),
            cgroup,
            watched: lowered.watched.clone(),
        };
        Ok((sandbox, handed.into(), steps))
    }
}

/// Processor time of everything in the jail, ended processes included, is a number of the group's.
fn accounting(cgroup: Option<&Cgroup>) -> Step {
    Step::run(walls::ACCOUNTING, "read by the host", || {
        let cgroup = cgroup.ok_or("there is no control group")?;
        cgroup.cpu_usage().map_err(|error| error.to_string())?;
        Ok("of all its processes, read every 10 ms".to_owned())
    })
}

impl JailSandbox {
    /// Hands over the job and hears which walls stand.
    fn arm(&mut self, lowered: &Lowered<'_>) -> io::Result<Vec<Step>> {
        let job = serde_json::to_vec(&lowered.job)?;
        self.control.send_split(JOB, &job)?;
        self.control.send(JOB_END, &[])?;
        self.control.send_split(DATA, &lowered.driver)?;
        for content in &lowered.contents {
            self.control.send_split(DATA, content)?;
        }
        let deadline = Instant::now() + READY_WITHIN;
        let mut text = Vec::new();
        loop {
            match self.control.receive_until(deadline)? {
                Received::Packet(WALLS, part) if text.len() + part.len() <= WALLS_MAX => {
                    text.extend(part);
                }
                Received::Packet(ARMED, _) => {
                    let steps: WireWalls = serde_json::from_slice(&text)?;
                    return Ok(steps);
                }
                Received::Packet(FAILED, why) => {
                    return Err(io::Error::other(String::from_utf8_lossy(&why).into_owned()));
                }
                Received::Packet(..) | Received::Nothing => {
                    return Err(io::Error::other("it did not report its walls"));
                }
                Received::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// A jail that could not be built, in words: what it said, or how it ended.
    fn failed(&mut self, error: &io::Error) -> CreateError {
        let mut said = error.to_string();
        if error.kind() != io::ErrorKind::Other
            && let Ok(Received::Packet(FAILED, why)) = self.control.receive(false)
        {
            said = String::from_utf8_lossy(&why).into_owned();
        }
        let ended = self.child.wait_timeout(Duration::from_millis(200));
        let how = match ended.ok().flatten().map(|finished| finished.exit) {
            Some(exit) if exit.is_forbidden_call() => {
                "; its own filter killed it: this C library makes a call the filter does not know"
                    .to_owned()
            }
            Some(ProcessExit::Signal(signal)) => format!("; signal {signal} ended it"),
            _ => String::new(),
        };
        CreateError::Fault(format!("the jail could not be built: {said}{how}"))
    }

    /// Kills everything in the jail and waits until nothing of it runs.
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

impl Sandbox for JailSandbox {
    fn run(
        mut self: Box<Self>,
        _plan: &Plan,
        sink: &mut dyn FnMut(Signal),
        cancel: &Cancel,
    ) -> Result<Finish, Fault> {
        self.control
            .send(START, &[])
            .map_err(fault("starting the jail"))?;
        let watched = self.watched.clone();
        let cgroup = self.cgroup.take();
        let scratch = self
            .scratch
            .try_clone()
            .map_err(fault("the jail's scratch"))?;
        let mut tally = Tally::new(watched.counted.clone(), sink);
        let mut watch = Watch::new(&watched, cgroup.as_ref(), &scratch);
        let (exit, wall) = Run {
            jail: &mut self,
            tally: &mut tally,
            watch: &mut watch,
            watched: &watched,
            cancel,
            ready: None,
            started: Instant::now(),
        }
        .finish()?;
        if let Exit::Limit {
            limit,
            allowed,
            seen,
        } = exit
        {
            tally.reached(Over {
                limit,
                allowed,
                seen,
            });
        }
        tally.told_too_much();
        let left =
            collect(&scratch, &watched, &mut tally).map_err(fault("reading what was left"))?;
        Ok(Finish {
            exit,
            usage: usage(&watch, &left, wall, tally.output()),
            artifacts: tally.take_artifacts(),
        })
    }
}

fn fault(what: &'static str) -> impl Fn(io::Error) -> Fault {
    move |error| Fault(format!("{what}: {error}"))
}

fn usage(
    watch: &Watch<'_>,
    left: &Collected,
    wall: Duration,
    (stdout_bytes, stderr_bytes): (u64, u64),
) -> Usage {
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
    jail: &'r mut JailSandbox,
    tally: &'r mut Tally<'a>,
    watch: &'r mut Watch<'a>,
    watched: &'a Watched,
    cancel: &'r Cancel,
    /// When the program began.
    ready: Option<Instant>,
    started: Instant,
}

impl Run<'_, '_> {
    /// Listens, takes everything down, and reads what was said and reached before the end.
    fn finish(mut self) -> Result<(Exit, Duration), Fault> {
        let exit = self.listen().map_err(fault("listening to the jail"))?;
        let wall = self.elapsed();
        self.jail.take_down().map_err(fault("ending the jail"))?;
        let over = drain(self.jail, self.tally).map_err(fault("reading the last output"))?;
        let late = self.watch.look_now(self.tally);
        Ok((settle(exit, over.or(late)), wall))
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
        let jail = &self.jail;
        let fds = [
            jail.control.as_fd(),
            jail.messages.as_fd(),
            jail.stdout.as_fd(),
            jail.stderr.as_fd(),
        ];
        wait_readable(&fds, LOOK_EVERY).map(drop)
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
            match self.jail.messages.receive(false) {
                Ok(Received::Packet(READY, _)) if self.ready.is_none() => {
                    self.ready = Some(Instant::now());
                    self.tally.begin_now();
                    self.watch.begin();
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
        let out = read_some(&mut self.jail.stdout)?;
        if let Some(Err(over)) = out.map(|bytes| self.tally.stdout(bytes)) {
            return Ok(Some(over));
        }
        let err = read_some(&mut self.jail.stderr)?;
        Ok(err.and_then(|bytes| self.tally.stderr(bytes).err()))
    }

    fn take_end(&mut self) -> io::Result<Option<Exit>> {
        match self.jail.control.receive(false)? {
            Received::Nothing => Ok(None),
            Received::Packet(ENDED, bytes) => {
                let end: WireEnd = serde_json::from_slice(&bytes)?;
                Ok(Some(ended(end.exit)))
            }
            Received::Packet(FAILED, why) => Ok(Some(Exit::Fault(
                String::from_utf8_lossy(&why).into_owned(),
            ))),
            Received::Packet(..) => {
                Ok(Some(Exit::Fault("the jail said something else".to_owned())))
            }
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
fn drain(jail: &mut JailSandbox, tally: &mut Tally<'_>) -> io::Result<Option<Over>> {
    let deadline = Instant::now() + DRAIN_WITHIN;
    let mut over = None;
    while Instant::now() < deadline {
        let (out, err) = (read_some(&mut jail.stdout)?, read_some(&mut jail.stderr)?);
        let more = out.is_some() || err.is_some();
        let outs = out.and_then(|bytes| tally.stdout(bytes).err());
        let errs = err.and_then(|bytes| tally.stderr(bytes).err());
        over = over.or(outs).or(errs);
        let said = match jail.messages.receive(false) {
            Ok(Received::Packet(kind, bytes)) => {
                over = over.or(message(tally, kind, &bytes));
                true
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => true,
            Ok(Received::Nothing | Received::Closed) => false,
            Err(error) => return Err(error),
        };
        if over.is_some() || !(more || said) {
            break;
        }
    }
    Ok(over)
}
