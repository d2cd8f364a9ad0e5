//! A jail from the host's side: building it, starting it, listening to it, taking it down.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Offer, Sandbox, Signal,
};
use casemate_backend::plan::{self as guest, Plan};
use casemate_driver::handover::{FAILED, GO, HOLD, READY, START};
use casemate_driver::listen::{Lasts, Lines, Processes, READY_WITHIN, Running};
use casemate_driver::lowered::{Lowered, Watched};
use casemate_driver::outside::number_of;
use casemate_driver::packets::{Packets, Received, wait_readable};
use casemate_driver::system::System;
use casemate_driver::walls::{self as shared, Counting};
use casemate_images::Systems;
use casemate_linux::Step;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::jail::enter::calls;
use casemate_linux::lockdown::Identity;
use casemate_model::guarantee::Guarantee;
use casemate_model::job::{ImageChoice, TenantId};
use casemate_model::receipt::Receipt;

use crate::init::confinement;
use crate::lower::lower;
use crate::measure::{self, Expected};
use crate::shown::Shown;
use crate::spare::{GuestEnds, Handed, Spare, Spares};
use crate::zygote::{Born, Loaded, Taken, Zygote, Zygotes};
use crate::{probe, walls};

/// How often the two channels are looked at while a child comes into its jail.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a backend keeps ready between runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warm {
    /// Jails that wait for a job; the child of a zygote with the libraries that waits in one has some 12 MiB of its own.
    pub spares: usize,
    /// Tenants that have zygotes: one with the libraries, of about 110 MiB, and one without, of about 20 MiB.
    pub zygotes: usize,
}

/// The jail backend.
pub struct JailBackend {
    systems: Systems,
    program: PathBuf,
    warm: Option<(Spares, Arc<Zygotes>)>,
}

/// A jail whose walls stand and in which nothing has run.
///
/// The fields are dropped in their order: first the processes, then what they were in.
struct JailSandbox {
    processes: Processes,
    lines: Lines,
    begin: Begin,
    scratch: OwnedFd,
    cgroup: Option<Cgroup>,
    watched: Watched,
}

/// A jail and the system it shows, whose files are there for as long as this is.
struct Shows {
    sandbox: JailSandbox,
    _system: System,
}

/// How the program is to begin.
enum Begin {
    /// Process 1 starts the interpreter.
    Cold,
    /// A child of the zygote waits. Process 1 ends when nobody holds its channel any more, and the child
    /// when the zygote does.
    Warm {
        _init: Packets,
        _zygote: Arc<Zygote>,
    },
}

/// With which interpreter a run is to begin.
enum Start {
    Zygote(Arc<Zygote>),
    /// A new one, and why.
    Cold(String),
}

impl Start {
    const fn zygote(&self) -> Option<&Arc<Zygote>> {
        match self {
            Self::Zygote(zygote) => Some(zygote),
            Self::Cold(_) => None,
        }
    }
}

/// What is in a jail before its walls are up.
enum Begins {
    /// Nothing, and why it is no child of a zygote.
    Cold(String),
    /// A child of a zygote, which waits.
    Warm(Born, Arc<Zygote>),
}

/// Why there is no child in a jail whose walls stand.
struct Unentered(String);

impl JailBackend {
    /// The backend over the systems it can show, with `program` as the program of a jail's first process:
    /// this one, unless a test says otherwise. Every run starts cold: this is for a process that makes one.
    pub fn new(systems: impl Into<Systems>, program: impl Into<PathBuf>) -> Self {
        Self {
            systems: systems.into(),
            program: program.into(),
            warm: None,
        }
    }

    /// The same for a process that makes many runs: jails are made in advance, and programs start in
    /// children of a zygote.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn warm(mut self, warm: Warm) -> io::Result<Self> {
        let spares = Spares::new(self.program.clone(), warm.spares)?;
        let zygotes = Zygotes::new(self.program.clone(), warm.zygotes);
        self.warm = Some((spares, zygotes));
        Ok(self)
    }

    /// Waits until a tenant's zygotes are loaded and jails wait; without this the first runs start cold. Answers with the
    /// number of the one that has the libraries.
    ///
    /// # Errors
    /// Why there is no zygote, in words.
    pub fn wait_warm(&self, tenant: &TenantId) -> Result<u32, String> {
        let (spares, zygotes) = self.warm.as_ref().ok_or("every run starts cold here")?;
        let system = self.systems.of(&ImageChoice::default());
        let system = system.map_err(|(why, fix)| format!("{why}; {fix}"))?;
        let shown = Shown::of(&system).map_err(|error| error.to_string())?;
        zygotes.get_ready(&(tenant.clone(), Loaded::Small), &shown)?;
        let zygote = zygotes.get_ready(&(tenant.clone(), Loaded::Libraries), &shown)?;
        spares.wait_full(&shown)?;
        Ok(zygote.pid())
    }

    /// A zygote is of the machine's own system, and our driver is all that runs in its children.
    fn start(&self, plan: &Plan, system: &System, shown: &Shown) -> Start {
        let Some((_, zygotes)) = &self.warm else {
            return Start::Cold("this process makes one run".to_owned());
        };
        if plan.asked.contains(Guarantee::LayoutFresh) {
            return Start::Cold("the policy asks for a layout of its own".to_owned());
        }
        if !system.is_host() {
            return Start::Cold("it is shown another system than the zygotes".to_owned());
        }
        if plan.guest.start != guest::Start::Driver {
            return Start::Cold(format!("no zygote runs {}", plan.guest.language));
        }
        let loaded = Loaded::for_program(plan.loads.as_ref());
        match zygotes.get(&(plan.tenant.clone(), loaded), shown) {
            Ok(zygote) => Start::Zygote(zygote),
            Err(why) => Start::Cold(why),
        }
    }

    fn build(
        &self,
        lowered: &Lowered<'_>,
        shown: &Shown,
        start: Start,
    ) -> Result<(JailSandbox, Vec<Step>), CreateError> {
        let taken = self
            .warm
            .as_ref()
            // Those of another system are not to be made for one run.
            .filter(|_| shown.image.is_none() && shown.venv.is_none())
            .and_then(|(spares, _)| spares.take(shown, start.zygote()))
            // The interpreter that process 1 starts is alone in its jail.
            .and_then(|spare| match start {
                Start::Cold(_) => spare.without_child(),
                Start::Zygote(_) => Some(spare),
            });
        let mut spare = match taken {
            Some(spare) => spare,
            None => Spare::make(&self.program, shown)
                .map_err(|error| CreateError::Fault(format!("starting the jail: {error}")))?,
        };
        let begins = match start {
            Start::Cold(why) => Begins::Cold(why),
            Start::Zygote(zygote) => match spare.child_of(&zygote) {
                Ok(born) => Begins::Warm(born, zygote),
                Err(why) => return self.build(lowered, shown, Start::Cold(why)),
            },
        };
        let mut steps = spare.limit(lowered);
        let armed = spare.arm(lowered);
        let (built, handed) = armed.map_err(|error| CreateError::Fault(spare.failed(&error)))?;
        steps.extend(built);
        let made = Made {
            spare,
            handed,
            steps,
        };
        match begins {
            Begins::Cold(why) => Ok(made.cold(lowered, &why)),
            Begins::Warm(born, zygote) => match made.enter(lowered, born, zygote) {
                Ok(made) => Ok(made),
                // Never a jail in which something else was tried: another one.
                Err(Unentered(why)) => self.build(lowered, shown, Start::Cold(why)),
            },
        }
    }
}

impl Backend for JailBackend {
    fn name(&self) -> &'static str {
        probe::NAME
    }

    fn probe(&self) -> Offer {
        probe::offer(&self.systems, self.warm.is_some())
    }

    fn rests_on(&self) -> Vec<(String, String)> {
        self.systems.rests_on()
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        static RECLAIM: std::sync::Once = std::sync::Once::new();
        // Groups of processes that crashed. One that stays costs nothing and is tried again next time.
        RECLAIM.call_once(|| drop(casemate_linux::cgroup::reclaim_stale()));
        let system = self.systems.of(&plan.guest.image);
        let system = system.map_err(|(why, fix)| CreateError::Unusable { why, fix })?;
        let lowered = lower(plan, &system).map_err(CreateError::Plan)?;
        let shown = Shown::of(&system);
        let shown = shown.map_err(|error| CreateError::Fault(format!("the system: {error}")))?;
        let start = self.start(plan, &system, &shown);
        let (sandbox, steps) = self.build(&lowered, &shown, start)?;
        let guest = system.described.clone();
        let sandbox = Shows {
            sandbox,
            _system: system,
        };
        let walls = shared::all(walls::WALLS, Counting::Host, &lowered.watched, &steps);
        let receipt = Receipt {
            backend: probe::NAME.to_owned(),
            guest,
            walls,
        };
        Ok((Box::new(sandbox), receipt))
    }
}

/// A jail whose walls stand, before it is known how the program begins.
struct Made {
    spare: Spare,
    handed: Handed,
    steps: Vec<Step>,
}

impl Made {
    fn cold(self, lowered: &Lowered<'_>, why: &str) -> (JailSandbox, Vec<Step>) {
        let mut steps = self.steps;
        steps.push(shared::fresh_layout(why));
        let Spare {
            processes,
            lines,
            cgroup,
            ..
        } = self.spare;
        let parts = (processes, lines, cgroup);
        (sandbox(parts, self.handed, lowered, Begin::Cold), steps)
    }

    /// Has a child of the zygote come into the jail, and measures what stands around it.
    fn enter(
        self,
        lowered: &Lowered<'_>,
        born: Born,
        zygote: Arc<Zygote>,
    ) -> Result<(JailSandbox, Vec<Step>), Unentered> {
        let Self {
            spare,
            handed,
            steps,
        } = self;
        let number = spare.number();
        let Spare {
            processes,
            mut lines,
            ends,
            cgroup,
            ..
        } = spare;
        lines
            .control
            .send(HOLD, &[])
            .map_err(|error| Unentered(format!("process 1: {error}")))?;
        let (line, measured) = {
            let entering = Entering {
                lines: &mut lines,
                ends: &ends,
                handed: &handed,
                cgroup: cgroup.as_ref().ok(),
                zygote: &zygote,
            };
            entering.enter(lowered, born, number).map_err(Unentered)?
        };
        let mut steps = measure::merge(steps, measured).map_err(Unentered)?;
        steps.push(walls::shared_layout(zygote.pid()));
        let begin = Begin::Warm {
            _init: std::mem::replace(&mut lines.control, line),
            _zygote: zygote,
        };
        let parts = (processes, lines, cgroup);
        Ok((sandbox(parts, handed, lowered, begin), steps))
    }
}

fn sandbox(
    (mut processes, lines, cgroup): (Processes, Lines, Result<Cgroup, String>),
    handed: Handed,
    lowered: &Lowered<'_>,
    begin: Begin,
) -> JailSandbox {
    processes.init = Some(handed.init);
    JailSandbox {
        processes,
        lines,
        begin,
        scratch: handed.scratch,
        cgroup: cgroup.ok(),
        watched: lowered.watched.clone(),
    }
}

/// A child on its way into a jail.
struct Entering<'a> {
    lines: &'a mut Lines,
    ends: &'a GuestEnds,
    handed: &'a Handed,
    cgroup: Option<&'a Cgroup>,
    zygote: &'a Zygote,
}

impl Entering<'_> {
    fn enter(
        self,
        lowered: &Lowered<'_>,
        mut born: Born,
        number: u32,
    ) -> Result<(Packets, Vec<Step>), String> {
        let confinement = confinement(&lowered.job, Identity::of_process(number), number);
        let calls = calls(&confinement)?;
        let Handed { init, stdin, .. } = self.handed;
        let rules = self.handed.rules.as_ref();
        let taken = Taken {
            messages: self.ends.messages.as_fd(),
            stdin: stdin.as_fd(),
            stdout: self.ends.stdout.as_fd(),
            stderr: self.ends.stderr.as_fd(),
            init: init.as_fd(),
            rules: rules.ok_or("the kernel has no Landlock")?.as_fd(),
        };
        let environment = lowered.job.env.iter();
        let environment: Vec<String> = environment
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        born.enter(&calls, &taken)?;
        hear_ready(&mut self.lines.messages, &mut born)?;
        let expected = Expected {
            pid: born.pid,
            init: number_of(init)?,
            zygote: self.zygote.pid(),
            confinement: &confinement,
            calls: &calls,
            descriptors: [taken.stdin, taken.stdout, taken.stderr, taken.messages],
            cgroup: self.cgroup,
            environment: &environment,
        };
        let measured = measure::entered(&expected);
        // After the child has made its calls: from now on it dies with the zygote, if that dies.
        self.zygote.usable()?;
        Ok((born.line, measured))
    }
}

/// Waits until the child has made all calls; what it or the zygote said instead is the error.
fn hear_ready(messages: &mut Packets, born: &mut Born) -> Result<(), String> {
    let deadline = Instant::now() + READY_WITHIN;
    let said = |why: &[u8]| format!("coming into the jail: {}", String::from_utf8_lossy(why));
    loop {
        match messages.receive(false) {
            Ok(Received::Packet(READY, _)) => return Ok(()),
            Ok(Received::Packet(FAILED, why)) => return Err(said(&why)),
            Ok(Received::Nothing) => {}
            Ok(_) => return Err("the child said something else".to_owned()),
            Err(error) => return Err(format!("hearing the child: {error}")),
        }
        match born.line.receive(false) {
            Ok(Received::Nothing) => {}
            // Before it had a channel of its own.
            Ok(Received::Packet(FAILED, why)) => return Err(said(&why)),
            // What it said before it ended is on the other channel.
            _ => match messages.receive(false) {
                Ok(Received::Packet(FAILED, why)) => return Err(said(&why)),
                _ => return Err("the child ended before it was in the jail".to_owned()),
            },
        }
        if Instant::now() > deadline {
            return Err("the child does not come into the jail".to_owned());
        }
        let fds = [messages.as_fd(), born.line.as_fd()];
        wait_readable(&fds, LOOK_EVERY).map_err(|error| error.to_string())?;
    }
}

impl Sandbox for Shows {
    fn run(
        self: Box<Self>,
        _plan: &Plan,
        sink: &mut dyn FnMut(Signal),
        cancel: &Cancel,
    ) -> Result<Finish, Fault> {
        let Self {
            mut sandbox,
            _system: system,
        } = *self;
        let finish = sandbox.run(sink, cancel);
        drop((sandbox, system));
        finish
    }
}

impl JailSandbox {
    fn run(&mut self, sink: &mut dyn FnMut(Signal), cancel: &Cancel) -> Result<Finish, Fault> {
        let stands = matches!(self.begin, Begin::Warm { .. });
        let told = if stands {
            self.lines.messages.send(GO, &[])
        } else {
            self.lines.control.send(START, &[])
        };
        told.map_err(|error| Fault(format!("starting the program: {error}")))?;
        let running = Running {
            lines: &mut self.lines,
            processes: &mut self.processes,
            watched: &self.watched,
            cgroup: self.cgroup.as_ref(),
            scratch: &self.scratch,
            stands,
            lasts: Lasts::Run,
        };
        running.finish(sink, cancel)
    }
}
