//! `casemate attack`: hostile programs against the walls of this machine, each with its control.

mod control;
mod header;
mod listen;
mod oracle;
mod report;
mod sandbox;
mod stage;
mod table;
mod tree;

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, ensure};
use casemate_backend::contract::Cancel;
use casemate_engine::Engine;
use casemate_wasm::setup::Store;

use crate::cli::AttackArgs;
use crate::run::{NotFound, engine};
use crate::setup;
use control::Python;
use header::Header;
use report::Row;
use sandbox::Target;
use table::{ATTACKS, Attack};

/// The exit code when Ctrl-C ended it.
const STOPPED: i32 = 130;
/// How long the last processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// Runs the attacks and prints the table: 0 when every one is stopped and every control succeeded.
pub(crate) fn command(args: &AttackArgs) -> anyhow::Result<i32> {
    let chosen = choose(args.only.as_deref())?;
    let cancel = Cancel::new();
    let raise = cancel.clone();
    casemate_linux::term::on_interrupt(move |_| raise.cancel()).context("watching for Ctrl-C")?;
    let store = Store::open()?;
    setup::ensure(&store)?;
    let engine = engine(&store)?;
    let targets = targets(&engine, &args.backend, &cancel)?;
    let python = Python::find();
    let mut rows = Vec::new();
    say(args.json, &report::head(&targets))?;
    for (attack, header) in chosen {
        let row = try_one(attack, header, &engine, &targets, &python, &cancel);
        if cancel.is_cancelled() {
            return Ok(STOPPED);
        }
        let row = row?;
        say(args.json, &report::row(&row))?;
        rows.push(row);
    }
    // The idle workers go with it.
    drop(engine);
    let left = left_behind();
    let passed = left.is_empty() && rows.iter().all(|row| row.stopped() && row.proven());
    say(args.json, &report::summary(&rows, &python, &left))?;
    if args.json {
        let value = report::as_json(&rows, &python, &left, passed);
        println!("{}", serde_json::to_string_pretty(&value)?);
    }
    Ok(i32::from(!passed))
}

/// The attacks whose name contains `only`, each with its header.
fn choose(only: Option<&str>) -> anyhow::Result<Vec<(&'static Attack, Header)>> {
    let chosen = ATTACKS
        .iter()
        .filter(|attack| only.is_none_or(|only| attack.name.contains(only)))
        .map(|attack| Ok((attack, Header::parse(attack.name, attack.source)?)))
        .collect::<Result<Vec<_>, String>>()
        .map_err(anyhow::Error::msg)?;
    let names = || ATTACKS.iter().map(|attack| attack.name).collect::<Vec<_>>();
    ensure!(
        !chosen.is_empty(),
        NotFound::new(format!(
            "no attack has {:?} in its name; there are {}",
            only.unwrap_or_default(),
            names().join(", ")
        ))
    );
    Ok(chosen)
}

fn try_one(
    attack: &Attack,
    header: Header,
    engine: &Engine,
    targets: &[Target],
    python: &Result<Python, String>,
    cancel: &Cancel,
) -> anyhow::Result<Row> {
    let native = python.as_ref().ok().map(|python| python.path.as_path());
    let runs = targets
        .iter()
        .map(|target| {
            sandbox::run(attack, &header, engine, target, native, cancel)
                .with_context(|| format!("{} in {}", attack.name, target.backend))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let control = match python {
        Ok(python) => control::run(attack, python, cancel)
            .with_context(|| format!("{} with no sandbox", attack.name))?,
        Err(why) => control::not_run(why),
    };
    Ok(Row {
        header,
        runs,
        control,
    })
}

/// The backends that are asked for, or every usable one.
fn targets(engine: &Engine, names: &[String], cancel: &Cancel) -> anyhow::Result<Vec<Target>> {
    let mut targets = Target::of(&engine.offers());
    if let Some(name) = names
        .iter()
        .find(|name| targets.iter().all(|target| target.backend != **name))
    {
        let usable: Vec<&str> = targets.iter().map(|t| t.backend.as_str()).collect();
        anyhow::bail!(
            "--backend {name}: not usable here ({} can be used); `casemate doctor` says why and what to do",
            usable.join(", ")
        );
    }
    targets.retain(|target| names.is_empty() || names.contains(&target.backend));
    targets
        .into_iter()
        .map(|target| target.calmed(engine, cancel))
        .collect()
}

/// What is still below this process when everything should be gone.
fn left_behind() -> Vec<u32> {
    let until = std::time::Instant::now() + GONE_WITHIN;
    loop {
        let left = tree::below(std::process::id());
        if left.is_empty() || std::time::Instant::now() > until {
            return left;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A row is shown when it is known; a reader that went away (`| head`) does not end the suite.
fn say(json: bool, text: &str) -> io::Result<()> {
    if json {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
