//! An attack in the sandbox, with screening off: the walls must stop it, not what reads its source.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use casemate_backend::contract::{Cancel, Offer, Usable};
use casemate_engine::Engine;
use casemate_model::guarantee::Guarantees;
use casemate_model::job::{Demand, GuestPath, Input, Job, JobBuilder, Language, Program, RunId};
use casemate_model::limit::{Limit, LimitKind, Millis};
use casemate_model::outcome::{Ending, Outcome};
use casemate_model::policy::{Policy, ScreenMode, base_guarantees};
use casemate_model::unit::ByteSize;

use super::channel::{self, Channel};
use super::header::{Header, Promise};
use super::marks;
use super::oracle::{Held, Seen, Sign, is_forged, judge, not_run, stands};
use super::stage::Stage;
use super::table::{Attack, CALM};
use super::tree::{self, Holding, Watcher};
use crate::out::save;

/// Bytes that are looked through for a secret.
const KEPT: usize = 8 << 20;

/// How an attack fared in one sandbox.
#[derive(Debug)]
pub(crate) struct Run {
    /// The backend that was asked for.
    pub(crate) backend: String,
    /// The wall that must stop it there; none where nothing is promised.
    pub(crate) wall: Option<String>,
    /// The verdict.
    pub(crate) held: Held,
    /// How the run ended, where it ran.
    pub(crate) ending: Option<Ending>,
    /// Elapsed time as the host measured it.
    pub(crate) took: Duration,
    /// What a covert channel carried, where one was measured.
    pub(crate) channel: Option<Channel>,
}

/// What one run of an attack is told besides its stage.
#[derive(Debug, Clone, Copy)]
struct Part {
    tell_secret: bool,
    start: Option<u64>,
}

/// A backend, and the walls it offers of those that every run asks for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) backend: String,
    /// What an attack's run asks of it.
    pub(crate) require: Guarantees,
    /// What the host sees of it when the program does nothing: a kernel of its own has threads and
    /// descriptors of its own, which are not the program's.
    pub(crate) calm: Holding,
}

impl Target {
    /// The usable ones among these offers.
    pub(crate) fn of(offers: &[Offer]) -> Vec<Self> {
        let usable = offers.iter().filter(|offer| offer.usable == Usable::Yes);
        usable
            .map(|offer| Self {
                backend: offer.backend.clone(),
                require: base_guarantees().common(&offer.guarantees),
                calm: Holding::default(),
            })
            .collect()
    }

    /// Looks at what it holds while the program does nothing.
    ///
    /// # Errors
    /// When the host fails, or the program that does nothing.
    pub(crate) fn calmed(self, engine: &Engine, cancel: &Cancel) -> anyhow::Result<Self> {
        let stage = Stage::build(CALM.props, None)?;
        let part = Part {
            tell_secret: false,
            start: None,
        };
        let (outcome, seen) = perform(&CALM, engine, &self, &stage, part, cancel)?;
        ensure!(
            cancel.is_cancelled() || outcome.ending.is_success(),
            "{}: {}",
            self.backend,
            crate::show::cause(&outcome.ending)
        );
        Ok(Self {
            calm: seen.holding,
            ..self
        })
    }

    /// Whether programs are processes of the machine's there.
    fn is_native(&self) -> bool {
        self.backend != casemate_wasm::NAME
    }
}

/// Runs an attack in a sandbox on its own stage.
///
/// # Errors
/// When the host fails; what the attack did is in the verdict.
pub(crate) fn run(
    attack: &Attack,
    header: &Header,
    engine: &Engine,
    target: &Target,
    victim: Option<&std::path::Path>,
    cancel: &Cancel,
) -> anyhow::Result<Run> {
    let (promise, sign) = if target.is_native() {
        (&header.native, attack.native)
    } else {
        (&header.wall, attack.sign)
    };
    let walls = match promise {
        Promise::Walls(walls) => walls.as_slice(),
        Promise::NotPromised(why) if attack.measured => {
            return measure(attack, engine, target, why, cancel);
        }
        Promise::NotPromised(why) => return Ok(not_promised(target, why)),
    };
    let mut stage = Stage::build(attack.props, victim)?;
    let (outcome, mut seen) = if attack.together {
        pair(attack, engine, target, &stage, cancel)?
    } else {
        rounds(attack, engine, target, &stage, cancel)?
    };
    // Saving is the host's own doing; it is done where the stage has its trap.
    let not_saved = match save(&outcome, &stage.root().join("out")) {
        Ok(saved) => saved.failed.into_iter().next(),
        Err(error) => Some(format!("{error:#}")),
    };
    seen.stage = stage.inspect()?;
    seen.disk.0 = seen.disk.0.max(seen.stage.left.0);
    seen.disk.1 = seen.disk.1.max(seen.stage.left.1);
    let standing = walls.iter().find(|wall| stands(wall, &outcome));
    let wall = standing
        .or(walls.first())
        .context("an attack without a wall")?;
    // A kernel of its own counts tasks itself and tells nobody outside.
    let sign = match sign {
        Sign::Limit(LimitKind::Tasks) if stands("separate_kernel", &outcome) => Sign::Standing,
        sign => sign,
    };
    let held = judge(
        wall,
        attack.harms,
        sign,
        &seen,
        &outcome,
        not_saved.as_deref(),
    );
    Ok(Run {
        backend: target.backend.clone(),
        wall: Some(wall.clone()),
        held,
        ending: Some(outcome.ending),
        took: seen.wall,
        channel: None,
    })
}

/// One after the other; all but the last are told the secret.
fn rounds(
    attack: &Attack,
    engine: &Engine,
    target: &Target,
    stage: &Stage,
    cancel: &Cancel,
) -> anyhow::Result<(Outcome, Seen)> {
    let mut last = None;
    for round in 1..=attack.rounds {
        let part = Part {
            tell_secret: round < attack.rounds,
            start: None,
        };
        last = Some(perform(attack, engine, target, stage, part, cancel)?);
    }
    last.context("an attack without a round")
}

/// Two sandboxes at once, of which the first is told the secret. What counts is the second's, unless the
/// first did not run: then its own end says so.
fn pair(
    attack: &Attack,
    engine: &Engine,
    target: &Target,
    stage: &Stage,
    cancel: &Cancel,
) -> anyhow::Result<(Outcome, Seen)> {
    let start = attack.measured.then(channel::start);
    let part = |tell_secret| Part { tell_secret, start };
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| perform(attack, engine, target, stage, part(true), cancel));
        let second = perform(attack, engine, target, stage, part(false), cancel);
        (first.join(), second)
    });
    let first = first.map_err(|_| anyhow::anyhow!("the thread of the first sandbox is gone"))??;
    if not_run(&first.1, &first.0).is_some() {
        return Ok(first);
    }
    second
}

/// What no wall stops is measured all the same.
fn measure(
    attack: &Attack,
    engine: &Engine,
    target: &Target,
    why: &str,
    cancel: &Cancel,
) -> anyhow::Result<Run> {
    let stage = Stage::build(attack.props, None)?;
    let (outcome, seen) = pair(attack, engine, target, &stage, cancel)?;
    let mut run = not_promised(target, why);
    run.channel = Channel::between(stage.secret(), &seen.output);
    run.took = seen.wall;
    if let Some(why) = not_run(&seen, &outcome) {
        run.held = Held::NotRun { why };
    } else if run.channel.is_none() {
        let why = crate::show::cause(&outcome.ending);
        run.held = Held::NotRun {
            why: format!("it said nothing of what it got; it ended: {why}"),
        };
    }
    run.ending = Some(outcome.ending);
    Ok(run)
}

fn not_promised(target: &Target, why: &str) -> Run {
    Run {
        backend: target.backend.clone(),
        wall: None,
        held: Held::NotPromised {
            why: why.to_owned(),
        },
        ending: None,
        took: Duration::ZERO,
        channel: None,
    }
}

fn perform(
    attack: &Attack,
    engine: &Engine,
    target: &Target,
    stage: &Stage,
    part: Part,
    cancel: &Cancel,
) -> anyhow::Result<(Outcome, Seen)> {
    let job = job(attack, target, stage, part)?;
    let before = tree::below(std::process::id());
    let tasks_before = tree::holding(&before).tasks;
    let interrupts = marks::interrupts();
    let watcher = Watcher::start(vec![stage.victim_pid()], stage.port())?;
    let begun = Instant::now();
    let outcome = engine.run(job, &mut |_| {}, cancel);
    let wall = begun.elapsed();
    let (mut holding, sightings) = watcher.finish()?;
    let usage = &outcome.usage;
    holding.tasks = holding.tasks.saturating_sub(tasks_before);
    holding.memory = holding.memory.max(usage.memory_peak_bytes);
    holding.descriptors = usage.open_files_peak;
    holding.tasks = holding.tasks.saturating_sub(target.calm.tasks);
    holding.descriptors = holding.descriptors.saturating_sub(target.calm.descriptors);
    let results: usize = outcome
        .results
        .iter()
        .flat_map(|result| &result.representations)
        .map(|form| form.content.len())
        .sum();
    let output = everything(&outcome);
    let seen = Seen {
        sandboxed: true,
        secret: stage.secret().to_owned(),
        shown: crate::text::plain(&output),
        output,
        output_bytes: (outcome.stdout.len() + outcome.stderr.len() + results) as u64,
        handed_back: outcome.artifacts.len() as u64,
        wall,
        cpu: Duration::from_micros(usage.cpu_us),
        holding,
        disk: (usage.disk_peak_bytes, usage.disk_peak_files),
        signal: match outcome.ending {
            Ending::Signalled { signal } => Some(signal),
            _ => None,
        },
        forged: is_forged(&outcome),
        marks: sightings.lasting(),
        looked_into: sightings.looked_into(),
        outlived: marks::has_stowaway(stage.port()),
        interrupts: interrupts.zip(marks::interrupts()),
        channel: None,
        stage: super::stage::Inspection::default(),
    };
    Ok((outcome, seen))
}

/// What the guest gave back, in one piece to look through.
fn everything(outcome: &Outcome) -> Vec<u8> {
    let results = outcome
        .results
        .iter()
        .flat_map(|result| &result.representations)
        .map(|form| form.content.as_slice());
    let files = outcome.artifacts.iter().map(|file| file.bytes.as_slice());
    let error = outcome
        .error
        .iter()
        .flat_map(|error| [error.value.as_bytes(), error.traceback.as_bytes()]);
    let mut all = Vec::new();
    let streams = [outcome.stdout.as_slice(), outcome.stderr.as_slice()];
    for part in streams.into_iter().chain(error).chain(results).chain(files) {
        let room = KEPT.saturating_sub(all.len());
        all.extend_from_slice(&part[..part.len().min(room)]);
        all.push(b'\n');
    }
    all
}

fn job(attack: &Attack, target: &Target, stage: &Stage, part: Part) -> anyhow::Result<Job> {
    let program = Program {
        source: attack.source.as_bytes().to_vec(),
        name: format!("{}.py", attack.name),
        language: Language::Python,
    };
    let input = Input {
        path: GuestPath::input("/data/in.csv")?,
        bytes: stage.input().into(),
    };
    Ok(
        JobBuilder::new(RunId::from_bits(0), program, policy(attack, target))
            .demand(Demand {
                backend: Some(target.backend.clone()),
                ..Demand::default()
            })
            .args(stage.args(part.tell_secret, part.start))
            .inputs(vec![input])
            .build()?,
    )
}

/// Small limits, so that the walls are reached soon.
fn policy(attack: &Attack, target: &Target) -> Policy {
    let mut policy = Policy {
        name: "attack".to_owned(),
        screen: ScreenMode::Off,
        require: target.require.clone(),
        ..Policy::default()
    };
    let limits = &mut policy.limits;
    limits.cpu_time = Limit::At(Millis(attack.cpu));
    limits.wall_time = Limit::At(Millis(attack.wall));
    limits.memory = Limit::At(ByteSize::mib(64));
    limits.tasks = Limit::At(8);
    limits.disk = Limit::At(ByteSize::mib(8));
    limits.disk_files = Limit::At(100);
    limits.output = Limit::At(ByteSize::kib(256));
    limits.result_bytes = Limit::At(ByteSize::kib(256));
    limits.open_files = Limit::At(64);
    limits.artifacts = Limit::At(16);
    policy
}
