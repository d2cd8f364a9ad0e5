//! `casemate bench run`: everything that is promised about speed, side by side, round by round.
//!
//! One round measures each side of each line once (slow peers in some of the rounds), so that whatever
//! else the machine does falls on all of them alike. Every run is checked: a failure is not a fast run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use casemate_backend::contract::Cancel;
use casemate_model::policy::ScreenMode;
use casemate_wasm::setup::Store;

use super::guest::{Ask, Sandboxes, described, drawn};
use super::layers::{Layer, Layers, start_worker};
use super::process::{Done, Program};
use super::programs::{CHART, HELLO, LIVE, PNG, READ_CSV, table};
use super::report::{self, Cell, Machine, Measure, Report, SCHEMA, Target};
use super::rival::{NO_PYTHON, NO_RUNNER, PEER_WITHIN, Pair, Rival, Side};
use super::stats::{Samples, due};
use super::{check_rounds, memory, stop_if_cancelled};

/// Workers and threads of the throughput measurement.
pub(super) const THREADS: usize = 2;
/// Workers that wait, as a pool has them: while one makes its next instance, the other serves.
const POOL: usize = 2;
/// Runs a thread makes in one round of it.
const HELLOS: usize = 50;
/// Where the guest's own runner shows the folder of the measurement's files.
const GRANTED: &str = "/bench";

/// Whom to measure beside.
pub(crate) struct Peers {
    pub(crate) python: Option<PathBuf>,
    pub(crate) runner: Option<PathBuf>,
}

/// One measurement: its files, the peers and how many rounds.
struct Bench<'a> {
    files: tempfile::TempDir,
    table: Arc<[u8]>,
    peers: &'a Peers,
    rounds: usize,
    cancel: &'a Cancel,
}

/// What was measured of ours, and of the native Python outside the programs.
#[derive(Default)]
struct Ours {
    hello: Samples,
    read_csv: Samples,
    chart: Samples,
    rate: Samples,
    whole: Samples,
    session: Samples,
    worker: Samples,
    idle: Samples,
    start: Samples,
    native_rate: Samples,
    native_session: Samples,
    layers: Layers,
}

/// Measures, prints, and always ends well: a slow machine is not an error.
pub(crate) fn command(
    rounds: usize,
    peers: &Peers,
    json: bool,
    cancel: &Cancel,
) -> anyhow::Result<i32> {
    check_rounds(rounds)?;
    let store = Store::open()?;
    crate::setup::ensure(&store)?;
    let files = tempfile::tempdir().context("making a folder for the measurement's files")?;
    let table: Arc<[u8]> = table().into_bytes().into();
    let bench = Bench {
        files,
        table,
        peers,
        rounds,
        cancel,
    };
    for dir in [bench.shared(), bench.home()] {
        std::fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    std::fs::write(bench.shared().join("table.csv"), &bench.table).context("writing the table")?;
    let report = bench.report(&store)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report::text(&report));
    }
    Ok(0)
}

impl Bench<'_> {
    /// What the peers' programs read and write.
    fn shared(&self) -> PathBuf {
        self.files.path().join("shared")
    }

    /// Where the peers keep what they keep between runs.
    fn home(&self) -> PathBuf {
        self.files.path().join("home")
    }

    fn native(&self, code: &str, argument: Option<&Path>) -> Option<Program> {
        let mut args: Vec<OsString> = vec!["-c".into(), code.into()];
        args.extend(argument.map(Into::into));
        let home = self.home();
        let program = Program::new(self.peers.python.as_ref()?, args);
        Some(
            program
                .env("HOME", &home)
                .env("MPLBACKEND", "agg")
                .env("MPLCONFIGDIR", &home)
                .env("PATH", "/usr/bin:/bin"),
        )
    }

    fn runner(&self, code: &str, file: Option<&str>) -> Option<Program> {
        let mut grant = OsString::from(format!("{GRANTED}="));
        grant.push(self.shared());
        let mut args: Vec<OsString> = vec!["run".into(), "--grant-writable".into(), grant];
        args.extend(
            [
                "--env",
                "MPLBACKEND=agg",
                "--env",
                "MPLCONFIGDIR=/bench",
                "--deadline-s",
                "100",
                "--",
            ]
            .map(Into::into),
        );
        args.extend(["-c".into(), code.into()]);
        args.extend(file.map(|file| format!("{GRANTED}/{file}").into()));
        // Its compiled guest is kept in the user's cache, as it is for a user.
        Some(with_own(Program::new(self.peers.runner.as_ref()?, args)))
    }

    /// The peers of one program, which names its file as its argument.
    fn pair(&self, code: &str, file: Option<&str>, check: fn(&Done, &Path) -> bool) -> Pair {
        let path = file.map(|file| self.shared().join(file));
        let rival = |program: Option<Program>, why: &str| {
            let path = path.clone().unwrap_or_default();
            program
                .map(|program| Rival::new(program, move |done| check(done, &path)))
                .ok_or_else(|| why.to_owned())
        };
        Pair {
            native: rival(self.native(code, path.as_deref()), NO_PYTHON),
            runner: rival(self.runner(code, file), NO_RUNNER),
        }
    }

    fn report(&self, store: &Store) -> anyhow::Result<Report> {
        let mut machine = Machine::now();
        if machine.was_busy() {
            eprintln!(
                "the machine is busy (load {:.2}): the numbers will say more about that",
                machine.load_before
            );
        }
        // Apart, so that the workers of the lone runs, whose page faults are counted, serve nobody else.
        let lone = Sandboxes::new(store, ScreenMode::Enforce, POOL)?;
        let crowd = Sandboxes::new(store, ScreenMode::Enforce, POOL)?;
        let mut pairs = [
            self.pair(HELLO, None, |done, _| contains(&done.stdout, b"hello")),
            self.pair(READ_CSV, Some("table.csv"), |done, _| {
                contains(&done.stdout, b"10000.0")
            }),
            self.pair(CHART, Some("chart.png"), |_, path| takes_png(path)),
        ];
        let mut ours = Ours::default();
        eprintln!("warming up");
        for pair in &mut pairs {
            pair.each(|rival| rival.warm_up(self.rounds, self.cancel))?;
        }
        self.round(&lone, &crowd, &mut Ours::default())?;
        for round in 0..self.rounds {
            eprint!("\rround {} of {} ", round + 1, self.rounds);
            self.round(&lone, &crowd, &mut ours)?;
            for pair in &mut pairs {
                pair.each(|rival| rival.round(round, self.rounds, self.cancel))?;
            }
            self.sessions(store, round, &mut ours)?;
            self.native_rate(&pairs[0].native, &mut ours)?;
        }
        eprintln!();
        machine.load_after = report::load();
        Ok(self.collect(machine, &ours, &pairs))
    }

    /// One round of ours.
    fn round(
        &self,
        sandboxes: &Sandboxes,
        crowd: &Sandboxes,
        ours: &mut Ours,
    ) -> anyhow::Result<()> {
        stop_if_cancelled(self.cancel)?;
        let hello = sandboxes.job(Ask {
            code: HELLO,
            ..Ask::default()
        })?;
        // Warm is what follows another run. The programs of the peers, which ran in between, have left
        // the processor's caches to themselves, so one run comes first that is not counted.
        sandboxes.must(hello.clone(), self.cancel)?;
        let job = hello.clone();
        let outcome = ours.hello.time_ms(|| sandboxes.must(job, self.cancel))?;
        ensure!(
            outcome.stdout == b"hello\n",
            "hello did not say hello in the sandbox"
        );

        let job = sandboxes.read_csv(&self.table)?;
        described(&ours.read_csv.time_ms(|| sandboxes.must(job, self.cancel))?)?;

        let job = sandboxes.chart()?;
        drawn(&ours.chart.time_ms(|| sandboxes.must(job, self.cancel))?)?;

        ours.layers.measure(sandboxes, &hello, self.cancel)?;
        let done = ours
            .whole
            .time_ms(|| whole_process().run(PEER_WITHIN, self.cancel))?;
        stop_if_cancelled(self.cancel)?;
        ensure!(
            done.succeeded() && done.stdout == b"hello\n",
            "casemate run of hello: {}",
            done.why()
        );
        ours.rate.push(rate(HELLOS, || {
            let job = crowd.job(Ask {
                code: HELLO,
                ..Ask::default()
            })?;
            crowd.must(job, self.cancel).map(drop)
        })?);
        Ok(())
    }

    /// A live session's memory here and in a native process, in ten of the rounds: it hardly varies.
    fn sessions(&self, store: &Store, round: usize, ours: &mut Ours) -> anyhow::Result<()> {
        if !due(round, 10, self.rounds) {
            return Ok(());
        }
        let sandboxes = Sandboxes::new(store, ScreenMode::Enforce, 0)?;
        start_worker(&sandboxes, &mut ours.start)?;
        let session = memory::session(&sandboxes, &self.table, self.cancel)?;
        ours.session.push(session.worker - session.idle);
        ours.worker.push(session.worker);
        ours.idle.push(session.idle);
        if let Some(program) = self.native(LIVE, Some(&self.shared().join("table.csv")))
            && let Ok(mib) = memory::native(&program, PEER_WITHIN, self.cancel)
        {
            ours.native_session.push(mib);
        }
        Ok(())
    }

    /// Native processes a second, two at a time.
    fn native_rate(&self, native: &Side, ours: &mut Ours) -> anyhow::Result<()> {
        let Ok(rival) = native else { return Ok(()) };
        if rival.failed.is_some() {
            return Ok(());
        }
        let program = &rival.program;
        let per_second = rate(5, || {
            let done = program.run(PEER_WITHIN, self.cancel)?;
            ensure!(done.succeeded(), "the native Python failed: {}", done.why());
            Ok(())
        })?;
        ours.native_rate.push(per_second);
        Ok(())
    }

    fn collect(&self, machine: Machine, ours: &Ours, pairs: &[Pair; 3]) -> Report {
        let [hello, read_csv, chart] = pairs.each_ref().map(Pair::cells);
        let line = |what, unit, target, ours: &Samples, [native, runner]: [Cell; 2]| {
            Measure::new(
                what,
                unit,
                target,
                [measured(ours, "nothing was measured"), native, runner],
            )
        };
        let no_runner = |why: &str| Cell::Absent(why.to_owned());
        let rates = [
            measured(&ours.native_rate, NO_PYTHON),
            no_runner("one process a run: its rate follows from hello"),
        ];
        let sessions = [
            measured(&ours.native_session, "no native Python with pandas"),
            no_runner(
                "it prints only at its end, so a live session cannot be told from an ending one",
            ),
        ];
        let measures = vec![
            line(
                "warm hello",
                "ms",
                Target::AtMost(3.0),
                &ours.hello,
                hello.clone(),
            ),
            line(
                "read_csv of 10,000 rows + describe",
                "ms",
                Target::AtMost(60.0),
                &ours.read_csv,
                read_csv,
            ),
            line(
                "line chart to PNG",
                "ms",
                Target::AtMost(300.0),
                &ours.chart,
                chart,
            ),
            line(
                "hello on two cores",
                "/s",
                Target::AtLeast(450.0),
                &ours.rate,
                rates,
            ),
            line(
                "hello as a whole process",
                "ms",
                Target::AtMost(60.0),
                &ours.whole,
                hello,
            ),
            line(
                "private memory of a live pandas session",
                "MiB",
                Target::AtMost(20.0),
                &ours.session,
                sessions,
            ),
        ];
        let mut layers = ours.layers.report();
        let start = ours.start.stats();
        let layer = "not in it: a new worker, locked down and loaded";
        layers.extend(start.map(|stats| Layer {
            layer,
            unit: "ms",
            stats,
        }));
        let notes = self.notes(&machine, ours, &measures);
        let version = env!("CARGO_PKG_VERSION");
        Report {
            schema: SCHEMA,
            version,
            machine,
            rounds: self.rounds,
            measures,
            layers,
            notes,
        }
    }

    fn notes(&self, machine: &Machine, ours: &Ours, measures: &[Measure]) -> Vec<String> {
        let mut notes = vec![
            "native python and the guest's own runner start a process for every run and import what it needs; \
             casemate's guest has it imported"
                .to_owned(),
        ];
        if let (Some(worker), Some(idle)) = (ours.worker.stats(), ours.idle.stats()) {
            notes.push(format!(
                "private memory is dirty pages: the session's own; its whole worker process has {:.1} MiB, of which \
                 {:.1} MiB before the session",
                worker.median, idle.median
            ));
        }
        if self.rounds < 30 {
            notes.push(format!(
                "{} rounds are few for a median: 30 or more are meant",
                self.rounds
            ));
        }
        if machine.was_busy() {
            notes.push("the machine was busy when the measuring began".to_owned());
        }
        for measure in measures {
            for (side, cell) in [
                ("native python", &measure.native),
                ("the guest's own runner", &measure.runner),
            ] {
                if let Cell::Absent(why) = cell {
                    notes.push(format!("{}, {side}: {why}", measure.what));
                }
            }
        }
        notes
    }
}

pub(super) fn measured(samples: &Samples, otherwise: &str) -> Cell {
    samples
        .stats()
        .map_or_else(|| Cell::Absent(otherwise.to_owned()), Cell::Measured)
}

/// `casemate run` as a user starts it.
fn whole_process() -> Program {
    with_own(Program::new(
        Path::new("/proc/self/exe"),
        ["run", "--quiet", "-c", HELLO],
    ))
}

/// With what finds a user's caches and programs.
pub(super) fn with_own(program: Program) -> Program {
    ["HOME", "XDG_CACHE_HOME", "PATH"]
        .into_iter()
        .fold(program, |program, name| match std::env::var_os(name) {
            Some(value) => program.env(name, value),
            None => program,
        })
}

/// How often a second `act` is done by [`THREADS`] threads, each doing it `times` times.
pub(super) fn rate(
    times: usize,
    act: impl Fn() -> anyhow::Result<()> + Sync,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| (0..times).try_for_each(|_| act())))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a measuring thread is gone"))?
        })
    })?;
    Ok((THREADS * times) as f64 / begun.elapsed().as_secs_f64())
}

pub(super) fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// Whether a PNG lies there. It is taken away, so that the next run has to write its own.
pub(super) fn takes_png(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(PNG))
        && std::fs::remove_file(path).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_thread_does_its_share() {
        let count = AtomicUsize::new(0);
        let per_second = rate(7, || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        assert!(per_second.unwrap() > 0.0);
        assert_eq!(count.into_inner(), THREADS * 7);
        assert!(rate(1, || anyhow::bail!("no")).is_err());
    }

    #[test]
    fn a_chart_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chart.png");
        std::fs::write(&path, PNG).unwrap();
        assert!(takes_png(&path));
        assert!(!takes_png(&path));
    }
}
