//! An attack in the sandbox, with screening off: the walls must stop it, not what reads its source.

use std::time::{Duration, Instant};

use anyhow::Context;
use casemate_backend::contract::Cancel;
use casemate_engine::Engine;
use casemate_model::job::{GuestPath, Input, JobBuilder, Language, Program, RunId};
use casemate_model::limit::{Limit, Millis};
use casemate_model::outcome::{Ending, Outcome};
use casemate_model::policy::{Policy, ScreenMode};
use casemate_model::unit::ByteSize;

use super::header::Header;
use super::oracle::{Held, Seen, is_forged, judge};
use super::stage::Stage;
use super::table::Attack;
use super::tree::{self, Watcher};
use crate::out::save;

/// Bytes that are looked through for a secret.
const KEPT: usize = 8 << 20;

/// How an attack fared in the sandbox.
#[derive(Debug)]
pub(crate) struct Run {
    /// The verdict.
    pub(crate) held: Held,
    /// Where it ran; none where no backend took it.
    pub(crate) backend: Option<String>,
    /// How the run ended.
    pub(crate) ending: Ending,
    /// Elapsed time as the host measured it.
    pub(crate) wall: Duration,
}

/// Runs an attack in the sandbox on its own stage.
///
/// # Errors
/// When the host fails; what the attack did is in the verdict.
pub(crate) fn run(
    attack: &Attack,
    header: &Header,
    engine: &Engine,
    victim: Option<&std::path::Path>,
    cancel: &Cancel,
) -> anyhow::Result<Run> {
    let mut stage = Stage::build(attack.props, victim)?;
    let mut last = None;
    for round in 1..=attack.rounds {
        last = Some(perform(attack, engine, &stage, round, cancel)?);
    }
    let (outcome, mut seen) = last.context("an attack without a round")?;
    // Saving is the host's own doing; it is done where the stage has its trap.
    let not_saved = match save(&outcome, &stage.root().join("out")) {
        Ok(saved) => saved.failed.into_iter().next(),
        Err(error) => Some(format!("{error:#}")),
    };
    seen.stage = stage.inspect()?;
    seen.disk.0 = seen.disk.0.max(seen.stage.left.0);
    seen.disk.1 = seen.disk.1.max(seen.stage.left.1);
    let held = judge(
        header,
        attack.harms,
        attack.sign,
        &seen,
        &outcome,
        not_saved.as_deref(),
    );
    Ok(Run {
        held,
        backend: outcome.placement.map(|placement| placement.backend),
        ending: outcome.ending,
        wall: seen.wall,
    })
}

fn perform(
    attack: &Attack,
    engine: &Engine,
    stage: &Stage,
    round: u32,
    cancel: &Cancel,
) -> anyhow::Result<(Outcome, Seen)> {
    let job = job(attack, stage, round)?;
    let before = tree::below(std::process::id());
    let tasks_before = tree::holding(&before).tasks;
    let watcher = Watcher::start(vec![stage.victim_pid()])?;
    let begun = Instant::now();
    let outcome = engine.run(job, &mut |_| {}, cancel);
    let wall = begun.elapsed();
    let mut holding = watcher.finish()?;
    let usage = &outcome.usage;
    holding.tasks = holding.tasks.saturating_sub(tasks_before);
    holding.memory = holding.memory.max(usage.memory_peak_bytes);
    holding.descriptors = usage.open_files_peak;
    let results: usize = outcome
        .results
        .iter()
        .flat_map(|result| &result.representations)
        .map(|form| form.content.len())
        .sum();
    let seen = Seen {
        sandboxed: true,
        secret: stage.secret().to_owned(),
        output: everything(&outcome),
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

fn job(attack: &Attack, stage: &Stage, round: u32) -> anyhow::Result<casemate_model::job::Job> {
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
        JobBuilder::new(RunId::from_bits(0), program, policy(attack))
            .args(stage.args(round < attack.rounds))
            .inputs(vec![input])
            .build()?,
    )
}

/// Small limits, so that the walls are reached soon.
fn policy(attack: &Attack) -> Policy {
    let mut policy = Policy {
        name: "attack".to_owned(),
        screen: ScreenMode::Off,
        ..Policy::default()
    };
    let limits = &mut policy.limits;
    limits.cpu_time = Limit::At(Millis(attack.cpu));
    limits.wall_time = Limit::At(Millis(attack.wall));
    limits.disk = Limit::At(ByteSize::mib(8));
    limits.disk_files = Limit::At(100);
    limits.output = Limit::At(ByteSize::kib(256));
    limits.result_bytes = Limit::At(ByteSize::kib(256));
    limits.open_files = Limit::At(64);
    limits.artifacts = Limit::At(16);
    policy
}
