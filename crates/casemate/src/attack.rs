//! `casemate attack`: hostile programs against the walls of this machine, each with its control.

mod channel;
mod control;
mod depends;
mod header;
mod html;
mod listen;
mod marks;
mod matrix;
mod oracle;
mod report;
mod result;
mod sandbox;
mod stage;
mod table;
mod tree;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use casemate_backend::contract::{Backend, Cancel};
use casemate_engine::Engine;
use casemate_server::{AttackMatrix, AttackTry};
use casemate_wasm::setup::Store;

use crate::cli::AttackArgs;
use crate::restored::only_restored;
use crate::run::{NotFound, backends, over};
use crate::setup;
use crate::sign::Key;
use crate::warm::only_warm;
use control::Python;
use header::Header;
use report::Row;
use sandbox::Target;
use table::{ATTACKS, Attack};

/// The exit code when Ctrl-C ended it.
const STOPPED: i32 = 130;
/// How long the last processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);

pub(crate) use depends::Depends;
pub(crate) use result::{AttackResult, Results, TYPE as RESULT_TYPE, envelope_in, parsed};

/// What the backends of this build rest on here.
///
/// # Errors
/// When there is no cache folder.
pub(crate) fn depends() -> anyhow::Result<Depends> {
    let backends = attacked(&Store::open()?)?;
    Ok(Depends::look(backends.iter().map(AsRef::as_ref)))
}

/// What is known of attacks here, for the server to show.
///
/// # Errors
/// When there is no folder for results, or an attack's header is not one.
pub(crate) fn for_server(store: &Store) -> anyhow::Result<AttackMatrix> {
    let results = Results::open()?;
    let backends = attacked(store)?;
    let depends = Depends::look(backends.iter().map(AsRef::as_ref));
    let columns = backends.iter().map(|backend| {
        let name = backend.name();
        results.column(name, &depends.of(name))
    });
    let attacks = choose(None)?.into_iter().map(|(attack, header)| AttackTry {
        attack: attack.name.to_owned(),
        threat: header.threat.to_string(),
        tries: header.tries,
    });
    Ok(AttackMatrix {
        attacks: attacks.collect(),
        backends: columns.collect(),
    })
}

/// The backends of this build, and some once more for each other start that they have.
fn attacked(store: &Store) -> anyhow::Result<Vec<Arc<dyn Backend>>> {
    let mut backends = backends(store)?;
    // Only root has zygotes and checkpoints.
    if rustix::process::geteuid().is_root() {
        let program = Path::new("/proc/self/exe");
        backends.extend(only_warm(program)?);
        backends.push(only_restored(program)?);
    }
    Ok(backends)
}

/// Runs the attacks and prints the table: 0 when every one is stopped and every control succeeded.
pub(crate) fn command(args: &AttackArgs) -> anyhow::Result<i32> {
    let chosen = choose(args.only.as_deref())?;
    // What is no whole attack says nothing about a backend. A key that cannot be used is found out now.
    let keeper = match args.only {
        Some(_) => None,
        None => Some(Keeper::open()?),
    };
    let cancel = Cancel::new();
    let raise = cancel.clone();
    casemate_linux::term::on_interrupt(move |_| raise.cancel()).context("watching for Ctrl-C")?;
    let store = Store::open()?;
    setup::ensure(&store)?;
    let engine = over(attacked(&store)?)?;
    let targets = targets(&engine, &args.backend, &cancel)?;
    let python = Python::find();
    let mut rows = Vec::new();
    let mut threat = None;
    say(args.json, &matrix::head(&targets))?;
    for (attack, header) in chosen {
        if threat.replace(header.threat) != Some(header.threat) {
            say(args.json, &matrix::threat(header.threat))?;
        }
        let row = try_one(attack, header, &engine, &targets, &python, &cancel);
        if cancel.is_cancelled() {
            return Ok(STOPPED);
        }
        let row = row?;
        say(args.json, &matrix::row(&row))?;
        rows.push(row);
    }
    // The idle workers go with it.
    drop(engine);
    let left = left_behind();
    let kept = match &keeper {
        // A sandbox that leaves something behind has not held, whatever its rows say.
        Some(keeper) if left.is_empty() => keeper.keep(&rows, targets.len())?,
        _ => Vec::new(),
    };
    let passed = left.is_empty() && rows.iter().all(|row| row.stopped() && row.proven());
    say(args.json, &matrix::summary(&rows, &python, &left))?;
    for path in &kept {
        say(args.json, &format!("signed result: {}\n", path.display()))?;
    }
    if let Some(path) = &args.html {
        let page = html::page(&rows, &python, &left);
        std::fs::write(path, page).with_context(|| format!("writing {}", path.display()))?;
    }
    if args.json {
        let value = report::as_json(&rows, &python, &left, passed);
        println!("{}", serde_json::to_string_pretty(&value)?);
    }
    Ok(i32::from(!passed))
}

/// Signs and keeps results, about the machine as it was when the attack began.
struct Keeper {
    results: Results,
    key: Key,
    depends: Depends,
}

impl Keeper {
    fn open() -> anyhow::Result<Self> {
        let results = Results::open()?;
        Ok(Self {
            key: results.key()?,
            depends: depends()?,
            results,
        })
    }

    /// One result a backend.
    fn keep(&self, rows: &[Row], backends: usize) -> anyhow::Result<Vec<PathBuf>> {
        (0..backends)
            .map(|at| {
                let result = AttackResult::of(rows, at, &self.depends, self.key.public())?;
                self.results.keep(&result, &self.key)
            })
            .collect()
    }
}

/// The attacks whose name contains `only`, each with its header.
fn choose(only: Option<&str>) -> anyhow::Result<Vec<(&'static Attack, Header)>> {
    let mut chosen = ATTACKS
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
    chosen.sort_by_key(|(_, header)| header.threat);
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
