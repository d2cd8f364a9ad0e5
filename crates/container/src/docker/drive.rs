//! A container of a daemon's from the host's side: its files staged, having it made and started as far as
//! our own driver, looking at it, listening to it, taking it down.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Offer, Sandbox, Signal,
};
use casemate_backend::plan::Plan;
use casemate_driver::handover::{FAILED, MADE, READY, hand_over, hear, hear_walls, send_job};
use casemate_driver::listen::{Holder, Lasts, Lines, READY_WITHIN, Running};
use casemate_driver::lowered::{Lowered, Watched};
use casemate_driver::packages::{Store, guest};
use casemate_driver::packets::{Packets, Received, wait_readable};
use casemate_driver::system::host;
use casemate_driver::walls as shared;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::{Child, Exit, Spawn, Step, handoff, jail, owner};
use casemate_model::job::Language;
use casemate_model::receipt::Receipt;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal as KernelSignal, pidfd_open, pidfd_send_signal};

use super::bridge::Bridge;
use super::daemon::{ANSWER_WITHIN, Daemon, HOST};
use super::image::Image;
use super::lower::{KeeperJob, Parts, lower, mount_points, request, tree};
use super::probe::{self, Found};
use super::reclaim::reclaim;
use super::trouble::Trouble;
use super::{Ids, PLACES, Variant, keeper};
use crate::bundle::variables;
use crate::making::Turn;
use crate::measure::docker::{self as measure, Expected};
use crate::probe::Lack;
use crate::walls;

/// How often the channels are looked at while the interpreter comes up.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a killed container may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// How long the keeper may take to take everything away.
const CLEARED_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of what a container said that are passed on where it did not come up.
const SAID: usize = 2000;

/// The backend of one of the daemon's runtimes.
pub struct DockerBackend {
    variant: Variant,
    store: Store,
    program: PathBuf,
    /// Where the daemon is said to be.
    host: Option<String>,
    found: OnceLock<Result<Found, Lack>>,
    /// The image's id, once the daemon has it.
    image: Mutex<Option<String>>,
    live: Live,
}

/// The first processes of the containers that there are: they are the daemon's children, not ours.
#[derive(Debug, Clone, Default)]
struct Live(Arc<Mutex<BTreeSet<u32>>>);

impl Live {
    fn all(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container whose walls were measured and in which no program has run.
///
/// The fields are dropped in their order: first who listens, then the connection, then the files.
struct DockerSandbox {
    lines: Lines,
    held: Held,
    cgroup: Option<Cgroup>,
    scratch: OwnedFd,
    watched: Watched,
    _files: Files,
}

/// What holds the container.
struct Held {
    bridge: Bridge,
    daemon: Daemon,
    id: String,
    /// Its first process, once it is known.
    first: Option<OwnedFd>,
    /// The same by its number, and where that is kept.
    number: Option<u32>,
    live: Live,
    /// The control group, by itself, to see when all of its processes are gone.
    group: Option<Cgroup>,
}

/// The keeper of its files. When it goes, it takes them away, and the container.
struct Files {
    control: Option<Packets>,
    keeper: Child,
    job: KeeperJob,
}

impl DockerBackend {
    /// The backend over a cache, with `program` as the program of the files' keeper: this one, unless
    /// a test says otherwise. The daemon is where `DOCKER_HOST` says, or in its usual place.
    pub fn new(variant: Variant, store: Store, program: impl Into<PathBuf>) -> Self {
        let host = std::env::var_os(HOST).map(|host| host.to_string_lossy().into_owned());
        Self {
            variant,
            store,
            program: program.into(),
            host,
            found: OnceLock::new(),
            image: Mutex::new(None),
            live: Live::default(),
        }
    }

    /// Asked once.
    fn found(&self) -> &Result<Found, Lack> {
        self.found
            .get_or_init(|| probe::find(self.variant, self.host.as_deref()))
    }

    /// The image, made if the daemon has not got it.
    fn image(&self, daemon: &Daemon, shapes: &[jail::root::Shape]) -> Result<String, CreateError> {
        let mut image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = &*image {
            return Ok(id.clone());
        }
        let made = Image::of(&tree(shapes)).map_err(fault)?;
        let id = made.ensure(daemon).map_err(troubled)?;
        *image = Some(id.clone());
        Ok(id)
    }

    /// What the daemon says no to because it has lost the image is to be made anew.
    fn forget_image(&self, trouble: &Trouble) {
        if matches!(trouble, Trouble::ImageMissing { .. }) {
            *self.image.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

impl Backend for DockerBackend {
    fn name(&self) -> &'static str {
        self.variant.name()
    }

    fn is_slow_to_probe(&self) -> bool {
        true
    }

    fn probe(&self) -> Offer {
        probe::offer(self.variant, self.found(), &self.store)
    }

    fn rests_on(&self) -> Vec<(String, String)> {
        let mut all = self.store.rests_on();
        all.extend(probe::rests_on(self.variant));
        all
    }

    fn elsewhere(&self) -> Vec<u32> {
        let all = self.live.all();
        let groups = all.iter().filter_map(|pid| Cgroup::of_process(*pid).ok());
        // One that ends meanwhile has none.
        groups
            .filter_map(|group| group.processes().ok())
            .flatten()
            .collect()
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        static RECLAIM: std::sync::Once = std::sync::Once::new();
        let unusable = |(why, fix): Lack| CreateError::Unusable { why, fix };
        let found = self
            .found()
            .as_ref()
            .map_err(|lack| unusable(lack.clone()))?;
        // What crashed. What stays is tried again at the next start.
        RECLAIM.call_once(|| drop(reclaim(&found.daemon)));
        if plan.guest.language != Language::Python || !plan.guest.image.is_any() {
            return Err(unusable(super::no_images()));
        }
        let system = host(&self.store, None).map_err(unusable)?;
        let lowered = lower(self.variant, plan, &system).map_err(CreateError::Plan)?;
        let _turn = Turn::take();
        let shapes = jail::root::shapes(&jail::root::System::Host).map_err(fault)?;
        let image = self.image(&found.daemon, &shapes)?;
        let name = owner::unique_name("casemate").map_err(fault)?;
        let making = Making {
            variant: self.variant,
            found,
            lowered: &lowered,
            place: Path::new(PLACES).join(&name),
            name,
            image,
            shapes,
            steps: vec![shared::fresh_layout(walls::ALWAYS)],
            live: self.live.clone(),
        };
        let made = making.make(&self.program, &system.packages.folder);
        let (sandbox, steps) = made.map_err(|error| match error {
            Failed::Trouble(trouble) => {
                self.forget_image(&trouble);
                troubled(trouble)
            }
            Failed::Fault(why) => fault(why),
        })?;
        let receipt = self.receipt(found, &lowered, &steps);
        Ok((Box::new(sandbox), receipt))
    }
}

impl DockerBackend {
    fn receipt(&self, found: &Found, lowered: &Lowered<'_>, steps: &[Step]) -> Receipt {
        let family = self.variant.family();
        let walls = shared::all(family.walls(), family.counting(), &lowered.watched, steps);
        Receipt {
            backend: self.variant.name().to_owned(),
            guest: format!("{}, by {}", guest(), found.versions),
            walls,
        }
    }
}

fn fault(why: impl std::fmt::Display) -> CreateError {
    CreateError::Fault(format!("the container could not be made: {why}"))
}

/// What is wrong with the daemon is for its operator to mend.
fn troubled(trouble: Trouble) -> CreateError {
    match trouble {
        Trouble::Refused { .. } | Trouble::Other(_) => fault(trouble),
        _ => CreateError::Unusable {
            why: trouble.to_string(),
            fix: trouble.way_out(),
        },
    }
}

/// Why there is no container.
enum Failed {
    Trouble(Trouble),
    Fault(String),
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

fn failed(what: &str) -> impl Fn(io::Error) -> Failed + '_ {
    move |error| Failed::Fault(format!("{what}: {error}"))
}

/// A container that is being made.
struct Making<'a> {
    variant: Variant,
    found: &'a Found,
    lowered: &'a Lowered<'a>,
    name: String,
    place: PathBuf,
    image: String,
    shapes: Vec<jail::root::Shape>,
    steps: Vec<Step>,
    live: Live,
}

impl Making<'_> {
    fn make(
        mut self,
        program: &Path,
        packages: &File,
    ) -> Result<(DockerSandbox, Vec<Step>), Failed> {
        self.steps.push(version(self.found));
        let daemon = &self.found.daemon;
        let (mut files, scratch) = self.stage(program, packages)?;
        let user = Ids::of(files.keeper.pid()).user;
        let processors = processors(self.lowered.job.processors, files.keeper.pid());
        let id = self.ask_for(&mut files, user, &processors)?;
        let (lines, ends) = Lines::make().map_err(failed("channels"))?;
        let bridge = Bridge::attach(daemon, &id, ends)?;
        let held = Held {
            bridge,
            daemon: daemon.clone(),
            id,
            first: None,
            number: None,
            live: self.live.clone(),
            group: None,
        };
        let mut sandbox = DockerSandbox {
            lines,
            held,
            cgroup: None,
            scratch,
            watched: self.lowered.watched.clone(),
            _files: files,
        };
        daemon.start(&sandbox.held.id)?;
        let pid = sandbox.first_process()?;
        let up = sandbox.bring_up(Instant::now() + READY_WITHIN);
        up.map_err(|error| Failed::Fault(sandbox.said_instead(&error)))?;
        self.look(&mut sandbox, pid, user)?;
        Ok((sandbox, self.steps))
    }

    /// Has the files staged; the keeper, and scratch.
    fn stage(&mut self, program: &Path, packages: &File) -> Result<(Files, OwnedFd), Failed> {
        let (control, control_end) = Packets::pair().map_err(failed("channels"))?;
        let (handed, handing) = UnixStream::pair().map_err(failed("channels"))?;
        handed.set_nonblocking(true).map_err(failed("channels"))?;
        let keeper = Spawn::new(program)
            .arg(keeper::ARGUMENT)
            .fd(&control_end, keeper::CONTROL)
            .fd(&handing, keeper::HANDOFF)
            .fd(packages, keeper::PACKAGES)
            .spawn()
            .map_err(failed("starting the keeper"))?;
        drop(control_end);
        let mut files = Files {
            control: Some(control),
            keeper,
            job: KeeperJob {
                job: self.lowered.job.clone(),
                name: self.name.clone(),
                place: self.place.clone(),
                daemon: self.found.daemon.clone(),
            },
        };
        let deadline = Instant::now() + READY_WITHIN;
        let control = files.control.as_mut().ok_or_else(no_control)?;
        let staged = hand_over(control, &files.job, self.lowered)
            .and_then(|()| hear_walls(control, deadline))
            .and_then(|steps| {
                self.steps.extend(steps);
                // It is handed over before the walls are reported.
                handoff::receive(&handed)
            });
        let scratch = staged.map_err(failed("staging its files"))?;
        Ok((files, scratch))
    }

    /// Has the keeper ask for the container; its id.
    fn ask_for(&self, files: &mut Files, user: u32, processors: &str) -> Result<String, Failed> {
        let machine = crate::measure::docker::of_the_machine().map_err(Failed::Fault)?;
        let body = request(Parts {
            variant: self.variant,
            lowered: self.lowered,
            name: &self.name,
            image: &self.image,
            place: &self.place,
            user,
            shapes: &self.shapes,
            machine: &machine,
            processors,
        });
        let body = body.map_err(Failed::Fault)?;
        let control = files.control.as_mut().ok_or_else(no_control)?;
        let asking = || failed("having the container made");
        send_job(control, &body).map_err(asking())?;
        let deadline = Instant::now() + ANSWER_WITHIN + READY_WITHIN;
        let answer: Result<String, Trouble> = match hear(control, deadline) {
            Ok((MADE, answer)) => {
                serde_json::from_slice(&answer).map_err(|error| asking()(error.into()))?
            }
            Ok(_) => return Err(no_control()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(no_control()),
            Err(error) => return Err(asking()(error)),
        };
        Ok(answer?)
    }

    /// Our driver is up and waits for the word; nothing else has run.
    fn look(&mut self, sandbox: &mut DockerSandbox, pid: u32, user: u32) -> Result<(), Failed> {
        let group = match Cgroup::of_process(pid) {
            Ok(group) => group,
            Err(error) => {
                let asked = "its processes are in a control group of their own";
                let why = error.to_string();
                self.steps
                    .push(Step::missing(walls::MEMBERSHIP, asked, why));
                return Ok(());
            }
        };
        let mounts = mount_points(self.variant, &self.shapes);
        let environment = variables(&self.lowered.job.env);
        let expected = Expected {
            id: &sandbox.held.id,
            place: &self.place,
            user,
            open_files: self.lowered.job.open_files,
            processors: self.lowered.job.processors,
            mounts: &mounts,
            environment: &environment,
        };
        self.steps.extend(match self.variant {
            Variant::Native => measure::shared(&expected, pid, &group),
            Variant::Gvisor => measure::gvisor(&expected, pid, &group),
        });
        // Until now a runtime's threads counted too.
        let limits = &self.lowered.cgroup;
        if let (Variant::Native, Some(tasks)) = (self.variant, limits.pids.value()) {
            self.found.daemon.set_tasks(&sandbox.held.id, tasks)?;
        }
        self.steps.extend(group.read_back(limits));
        self.steps.push(shared::accounting(Some(&group)));
        sandbox.held.group = Cgroup::of_process(pid).ok();
        sandbox.cgroup = Some(group);
        Ok(())
    }
}

fn no_control() -> Failed {
    Failed::Fault("the keeper's channel is gone".to_owned())
}

/// They were judged when they were found; a refused one does not come here.
fn version(found: &Found) -> Step {
    Step::run(walls::RUNTIME, "no known hole that can be reached", || {
        Ok(match found.notes.len() {
            0 => found.versions.clone(),
            count => format!(
                "{}; {count} advisories that are not reached here (`casemate doctor`)",
                found.versions
            ),
        })
    })
}

/// As many of the processors that this process may use, beginning where others do not.
fn processors(count: usize, first: u32) -> String {
    let allowed = allowed_processors();
    let first = usize::try_from(first).unwrap_or_default();
    let turned = allowed.iter().cycle().skip(first % allowed.len().max(1));
    let mut chosen: Vec<usize> = turned.take(count.min(allowed.len())).copied().collect();
    chosen.sort_unstable();
    let words: Vec<String> = chosen.iter().map(usize::to_string).collect();
    words.join(",")
}

fn allowed_processors() -> Vec<usize> {
    rustix::thread::sched_getaffinity(None).map_or_else(
        |_| vec![0],
        |set| {
            (0..rustix::thread::CpuSet::MAX_CPU)
                .filter(|n| set.is_set(*n))
                .collect()
        },
    )
}

impl DockerSandbox {
    /// The container's first process, held by a descriptor, so that it is no other later.
    fn first_process(&mut self) -> Result<u32, Failed> {
        let held = &mut self.held;
        let state = held.daemon.state(&held.id)?;
        let number = state.pid.unwrap_or_default();
        let pid = i32::try_from(number).ok().filter(|pid| *pid > 1);
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            let why = state.error.unwrap_or_default();
            let code = state.exit_code.unwrap_or_default();
            let why = format!("it ended at once, with {code} {why}");
            return Err(Failed::Fault(self.said_instead(&io::Error::other(why))));
        };
        let first = pidfd_open(pid, PidfdFlags::empty());
        let first = first.map_err(|error| Failed::Fault(format!("its first process: {error}")))?;
        let number = pid.as_raw_pid().unsigned_abs();
        // Another could have got the number before the descriptor was open.
        let groups = std::fs::read_to_string(format!("/proc/{number}/cgroup"));
        if !groups.is_ok_and(|text| text.contains(&held.id)) {
            return Err(Failed::Fault(
                "the daemon names a first process that is not the container's on this machine"
                    .to_owned(),
            ));
        }
        held.first = Some(first);
        held.number = Some(number);
        held.live.all().insert(number);
        Ok(number)
    }

    /// Waits until the driver in it is up.
    fn bring_up(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            match self.lines.messages.receive(false)? {
                Received::Packet(READY, _) => return Ok(()),
                Received::Packet(..) => {
                    return Err(io::Error::other("its driver said something else"));
                }
                Received::Nothing | Received::Closed => {}
            }
            match self.lines.control.receive(false)? {
                Received::Nothing => {}
                Received::Packet(FAILED, why) => {
                    return Err(io::Error::other(String::from_utf8_lossy(&why).into_owned()));
                }
                Received::Packet(..) => {
                    return Err(io::Error::other("the interpreter ended at once"));
                }
                Received::Closed => return Err(io::Error::other("it was killed")),
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("the interpreter does not come up"));
            }
            let both = [self.lines.messages.as_fd(), self.lines.control.as_fd()];
            wait_readable(&both, LOOK_EVERY)?;
        }
    }

    /// A container that did not come up, in words: why, and what it wrote.
    fn said_instead(&mut self, error: &io::Error) -> String {
        let mut said = error.to_string();
        let mut wrote = vec![0; SAID];
        // What there is; nothing is not an error worth telling.
        let length = io::Read::read(&mut self.lines.stderr, &mut wrote).unwrap_or_default();
        if length > 0 {
            let wrote = String::from_utf8_lossy(&wrote[..length]);
            said.push_str(&format!("; it wrote: {}", wrote.trim()));
        }
        said
    }
}

impl Holder for Held {
    fn take_down(&mut self) -> io::Result<()> {
        let Some(first) = &self.first else {
            return Err(io::Error::other("its first process is not known"));
        };
        // Process 1 of its process table, or gVisor's kernel: with it everything in there ends.
        match pidfd_send_signal(first, KernelSignal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        let deadline = Instant::now() + GONE_WITHIN;
        while !wait_readable(&[first.as_fd()], LOOK_EVERY)? {
            if Instant::now() > deadline {
                return Err(io::Error::other("something in it does not end"));
            }
        }
        // Whoever served it ends after it, and the group with the last of them.
        while let Some(group) = &self.group
            && group.processes().is_ok_and(|all| !all.is_empty())
        {
            if Instant::now() > deadline {
                return Err(io::Error::other("something around it does not end"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn takes_its_group_along(&self) -> bool {
        true
    }

    fn has_said_all(&self) -> bool {
        self.bridge.has_said_all()
    }

    fn ended_for_memory(&mut self) -> bool {
        let state = self.daemon.state(&self.id);
        state.is_ok_and(|state| state.oom_killed == Some(true))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.live.all().remove(&number);
        }
    }
}

impl Drop for Files {
    /// Nothing is left when this returns, unless the daemon does not answer: then what is left is reclaimed at
    /// the next start.
    fn drop(&mut self) {
        self.control = None;
        let ended = self.keeper.wait_timeout(CLEARED_WITHIN);
        let done = Exit::Code(0);
        if !ended.is_ok_and(|ended| ended.is_some_and(|ended| ended.exit == done)) {
            // It was killed, or could not: one more try from here.
            drop(keeper::clear(&self.job));
        }
    }
}

impl Sandbox for DockerSandbox {
    fn run(
        mut self: Box<Self>,
        _plan: &Plan,
        sink: &mut dyn FnMut(Signal),
        cancel: &Cancel,
    ) -> Result<Finish, Fault> {
        if !self.held.bridge.go() {
            return Err(Fault(
                "starting the program: its streams are gone".to_owned(),
            ));
        }
        let running = Running {
            lines: &mut self.lines,
            processes: &mut self.held,
            watched: &self.watched,
            cgroup: self.cgroup.as_ref(),
            scratch: &self.scratch,
            stands: true,
            lasts: Lasts::Run,
        };
        running.finish(sink, cancel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_some_of_those_there_are() {
        let all = allowed_processors();
        for (count, first) in [(1, 0), (1, 7), (all.len() + 3, 1)] {
            let chosen = processors(count, first);
            let numbers: Vec<usize> = chosen.split(',').map(|n| n.parse().unwrap()).collect();
            assert_eq!(numbers.len(), count.min(all.len()));
            assert!(
                numbers.iter().all(|number| all.contains(number)),
                "{chosen}"
            );
        }
    }

    #[test]
    fn what_the_operator_can_mend_says_how() {
        let error = troubled(Trouble::NoRuntime);
        assert!(matches!(&error, CreateError::Unusable { fix, .. } if fix.contains("daemon.json")));
        let error = troubled(Trouble::DiskFull {
            said: "no space left on device".to_owned(),
        });
        assert!(error.to_string().contains("docker system df"), "{error}");
    }

    #[test]
    fn a_daemon_elsewhere_is_refused_with_the_reason() {
        let store = Store::at(tempfile::tempdir().unwrap().path().to_owned());
        let backend = DockerBackend {
            host: Some("tcp://192.0.2.1:2375".to_owned()),
            ..DockerBackend::new(Variant::Native, store, "/proc/self/exe")
        };
        let usable = backend.probe().usable;
        let casemate_backend::contract::Usable::No { why, fix } = usable else {
            panic!("{usable:?}");
        };
        if rustix::process::geteuid().is_root() {
            assert!(
                why.contains("192.0.2.1") && fix.contains("DOCKER_HOST"),
                "{why}"
            );
        }
    }
}
