//! `casemate setup`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use casemate_backend::contract::{Backend, Cancel, Usable};
use casemate_backend::setup::{Progress, SetupError, Unit};
use casemate_container::{ContainerBackend, LAYOUT, Make};
use casemate_engine::{Engine, policies};
use casemate_model::job::{JobBuilder, Language, Program, RunId};
use casemate_model::outcome::Outcome;
use casemate_wasm::setup::{Installed, Source, Store, set_up};
use casemate_watch::AlertRules;

use crate::cli::{SetupArgs, SetupBackend};
use crate::progress::Bars;
use crate::restored;

/// Runs set-up, or verifies it.
pub(crate) fn command(args: SetupArgs) -> anyhow::Result<i32> {
    let both = args.backend == SetupBackend::All;
    if both || args.backend == SetupBackend::Wasm {
        wasm(&args)?;
    }
    if args.backend == SetupBackend::Jail || (both && args.from.is_none()) {
        jail(&args, both)?;
    }
    if args.backend == SetupBackend::Gvisor || (both && args.from.is_none()) {
        gvisor(&args, both)?;
    }
    Ok(0)
}

fn wasm(args: &SetupArgs) -> anyhow::Result<()> {
    let store = Store::open()?;
    if args.verify {
        store.verify()?;
        println!("{} is as it was made", store.dir().display());
        return Ok(());
    }
    let known = !args.force && store.installed().is_ok();
    let source = args.from.clone().map_or(Source::Index, Source::Path);
    let installed = set_up(&store, &source, args.force, &Bars::new())?;
    if known {
        println!("already set up: {}", installed.dir.display());
    }
    Ok(())
}

/// `optional`: a machine without a Python to put in a jail is told so, and that is all.
fn jail(args: &SetupArgs, optional: bool) -> anyhow::Result<()> {
    let store = casemate_jail::setup::Store::open()?;
    if args.verify {
        match store.verify() {
            Err(_) if optional && !store.dir().exists() => {
                println!("the jail is not set up: `casemate setup --backend jail`");
                return Ok(());
            }
            other => other?,
        }
        println!("{} is as it was made", store.dir().display());
        return Ok(());
    }
    if let (Usable::No { why, fix }, true) = (usable(&store), optional)
        && !store.dir().exists()
    {
        eprintln!("the jail is not set up: {why}; {fix}");
        return Ok(());
    }
    let known = !args.force && store.installed().is_ok();
    let installed = casemate_jail::setup::set_up(&store, args.force, &Bars::new())?;
    if known {
        println!("already set up: {}", installed.dir.display());
    }
    Ok(())
}

/// What a checkpoint is tried with: a program that needs what it has.
const NEEDS_LIBRARIES: &str = "import pandas\nprint(pandas.__version__)\n";

/// Makes the checkpoint for the policy `native`, and has a program go on from it. `optional` as above.
fn gvisor(args: &SetupArgs, optional: bool) -> anyhow::Result<()> {
    let program = Path::new("/proc/self/exe");
    let make = if args.verify {
        Make::Never
    } else {
        Make::First
    };
    let backend = restored::gvisor(program, make)?;
    if let Usable::No { why, fix } = backend.probe().usable {
        ensure!(optional, "gVisor cannot be used: {why}; {fix}");
        // Nobody asked for it by name.
        return Ok(());
    }
    ensure_jail()?;
    let folder = restored::folder()?;
    if args.force && folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("removing {}", folder.display()))?;
    }
    let bars = Bars::new();
    bars.stage(
        "gVisor: a Python with the libraries loaded",
        None,
        Unit::None,
    );
    let outcome = try_checkpoint(backend)?;
    let receipt = outcome.receipt.as_ref();
    if receipt.is_some_and(casemate_container::is_restored) && outcome.ending.is_success() {
        bars.done("");
        println!(
            "programs for gVisor go on from a checkpoint in {}",
            folder.display()
        );
        return Ok(());
    }
    bars.done("not there");
    let began = receipt.and_then(|receipt| receipt.walls.iter().find(|wall| wall.name == LAYOUT));
    let why = match began.and_then(|wall| wall.got.as_deref()) {
        Some(how) => how.to_owned(),
        None => crate::show::trouble(&outcome),
    };
    ensure!(optional, "gVisor has no checkpoint: {why}");
    eprintln!("gVisor has no checkpoint: {why}");
    Ok(())
}

fn try_checkpoint(backend: ContainerBackend) -> anyhow::Result<Outcome> {
    let program = Program {
        name: "checkpoint.py".to_owned(),
        source: NEEDS_LIBRARIES.into(),
        language: Language::Python,
    };
    let policy = policies::preset("native")?.context("there is no policy native")?;
    let job = JobBuilder::new(RunId::from_bits(0), program, policy);
    let backends: Vec<Arc<dyn Backend>> = vec![Arc::new(backend)];
    let engine = Engine::new(backends, AlertRules::embedded()?);
    Ok(engine.run(job.build()?, &mut |_| {}, &Cancel::new()))
}

fn usable(store: &casemate_jail::setup::Store) -> Usable {
    casemate_jail::JailBackend::new(store.clone(), "/proc/self/exe")
        .probe()
        .usable
}

/// Sets up when that has not been done, saying so.
///
/// # Errors
/// Those of set-up.
pub(crate) fn ensure(store: &Store) -> Result<Installed, SetupError> {
    match store.installed() {
        Ok(installed) => Ok(installed),
        // Something is there and is not right: the user hears what, rather than two minutes of repair.
        Err(error) if store.dir().exists() => Err(error),
        Err(_) => {
            eprintln!(
                "the Python guest is not set up yet; doing it now, once (two to four minutes)"
            );
            set_up(store, &Source::Index, false, &Bars::new())
        }
    }
}

/// The same for the jail.
///
/// # Errors
/// Those of its set-up.
pub(crate) fn ensure_jail() -> Result<casemate_jail::setup::Installed, SetupError> {
    let store = casemate_jail::setup::Store::open()?;
    match store.installed() {
        Ok(installed) => Ok(installed),
        Err(error) if store.dir().exists() => Err(error),
        Err(_) => {
            eprintln!(
                "the jail's packages are not set up yet; doing it now, once (under a minute)"
            );
            casemate_jail::setup::set_up(&store, false, &Bars::new())
        }
    }
}
