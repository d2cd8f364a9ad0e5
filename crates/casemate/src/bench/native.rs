//! `casemate bench native`: what a native jail costs, beside what else confines a Python process here.
//!
//! One round measures each side once, as in [`super::speed`]. The peers are given the same interpreter and
//! the same libraries, and are a process for every run, as they are to who uses them.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use casemate_backend::contract::{Backend, Cancel, Usable};
use casemate_container::{ContainerBackend, Kind, Make};
use casemate_jail::setup::Store;
use casemate_jail::{JailBackend, Warm};
use casemate_model::job::{Job, TenantId};
use casemate_model::outcome::Outcome;
use serde::Serialize;

use super::guest::{Ask, Sandboxes, described, drawn};
use super::process::{Done, Program};
use super::programs::{CHART, HELLO, READ_CSV, table};
use super::report::{Cell, Machine, Target, aligned, cell, number, verdict};
use super::rival::{PEER_WITHIN, Rival, Side, side_cell};
use super::speed::{THREADS, contains, measured, rate, takes_png, with_own};
use super::stats::Samples;
use super::{check_rounds, executable, stop_if_cancelled};
use crate::restored;

/// The schema's name; the number changes when a field goes or changes its meaning.
const SCHEMA: &str = "casemate.bench.native/1";
/// The interpreter of every side.
const PYTHON: &str = "/usr/bin/python3";
/// Jails that wait, two for each thread.
const SPARES: usize = 2 * THREADS;
/// Runs a thread makes in one round of the throughput measurement.
const HELLOS: usize = 20;
/// What is promised for runc, in times of it alone.
const RUNC_RATIO: f64 = 1.3;
/// How long a pause lasts in which the next jail is made, which a run is not to be charged with.
const PAUSE: Duration = Duration::from_millis(30);
/// Links that make a folder with the machine's `/usr` in it a system.
const LINKS: [(&str, &str); 4] = [
    ("bin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("sbin", "usr/sbin"),
];
/// How gVisor is asked for one program and no more.
const RUNSC_DO: [&str; 3] = ["--platform=systrap", "--network=none", "do"];
/// The name under which Docker knows that folder while this measures.
const IMAGE: &str = "casemate-bench-native";

/// What is measured beside, in the order of the columns.
const PEERS: [&str; 5] = ["python3", "bwrap", "runsc do", "docker run", "runc run"];

/// A program and what is promised for it.
struct Line {
    what: &'static str,
    unit: &'static str,
    target: Option<Promise>,
    ours: Samples,
    peers: [Side; 5],
}

/// What is promised.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Promise {
    /// A bound on the median.
    Bound(Target),
    /// The median is at most so many times that of `runc run`.
    TimesRunc(f64),
}

#[derive(Debug, Serialize)]
struct Measure {
    what: &'static str,
    unit: &'static str,
    ours: Cell,
    peers: Vec<(&'static str, Cell)>,
    target: Option<Promise>,
    met: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    machine: Machine,
    rounds: usize,
    measures: Vec<Measure>,
    notes: Vec<String>,
}

/// Measures, prints, and always ends well: a slow machine is not an error.
pub(crate) fn command(rounds: usize, json: bool, cancel: &Cancel) -> anyhow::Result<i32> {
    check_rounds(rounds)?;
    let store = Store::open()?;
    crate::setup::ensure_jail()?;
    let mut bench = Bench::new(&store, rounds, cancel)?;
    let report = bench.report()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(0)
}

struct Bench<'a> {
    peers: Peers,
    cold: Sandboxes<JailBackend>,
    warm: Sandboxes<JailBackend>,
    runc: Sandboxes<ContainerBackend>,
    gvisor: Sandboxes<ContainerBackend>,
    table: Arc<[u8]>,
    rounds: usize,
    cancel: &'a Cancel,
}

/// Where the lines stand in the table.
mod at {
    pub(super) const COLD: usize = 0;
    pub(super) const WHOLE: usize = 1;
    pub(super) const WARM: usize = 2;
    pub(super) const READ: usize = 3;
    pub(super) const DRAW: usize = 4;
    pub(super) const RATE: usize = 5;
    pub(super) const RUNC: usize = 6;
    pub(super) const GVISOR: usize = 7;
}

impl<'a> Bench<'a> {
    fn new(store: &Store, rounds: usize, cancel: &'a Cancel) -> anyhow::Result<Self> {
        let program = "/proc/self/exe";
        let systems = crate::run::systems()?;
        let warm = JailBackend::new(systems.clone(), program).warm(Warm {
            spares: SPARES,
            zygotes: 1,
        })?;
        Ok(Self {
            peers: Peers::new(store)?,
            cold: Sandboxes::native(JailBackend::new(systems.clone(), program))?,
            warm: Sandboxes::native(warm)?,
            runc: Sandboxes::native(ContainerBackend::new(Kind::Runc, systems, program))?,
            gvisor: Sandboxes::native(restored::gvisor(Path::new(program), Make::First)?)?,
            table: table().into_bytes().into(),
            rounds,
            cancel,
        })
    }

    fn report(&mut self) -> anyhow::Result<Report> {
        let mut machine = Machine::now();
        let mut lines = self.lines()?;
        eprintln!("warming up");
        self.warm
            .backend
            .wait_warm(&TenantId::local())
            .map_err(|why| anyhow::anyhow!("no zygote, which takes root: {why}"))?;
        self.round(&mut self.lines()?)?;
        for side in lines.iter_mut().flat_map(|line| &mut line.peers).flatten() {
            side.warm_up(self.rounds, self.cancel)?;
        }
        for round in 0..self.rounds {
            eprint!("\rround {} of {} ", round + 1, self.rounds);
            self.round(&mut lines)?;
            for side in lines.iter_mut().flat_map(|line| &mut line.peers).flatten() {
                side.round(round, self.rounds, self.cancel)?;
            }
        }
        eprintln!();
        machine.load_after = super::report::load();
        let measures = lines.iter().map(Line::measure).collect();
        Ok(self.collect(machine, measures))
    }

    /// One round of ours.
    fn round(&self, lines: &mut [Line; 8]) -> anyhow::Result<()> {
        stop_if_cancelled(self.cancel)?;
        let hello = Ask {
            code: HELLO,
            ..Ask::default()
        };
        self.hello(&self.cold, &mut lines[at::COLD].ours, hello)?;
        if self.runc.backend.probe().usable == Usable::Yes {
            self.hello(&self.runc, &mut lines[at::RUNC].ours, hello)?;
        }
        if self.gvisor.backend.probe().usable == Usable::Yes {
            let job = self.gvisor.read_csv(&self.table)?;
            let ours = &mut lines[at::GVISOR].ours;
            // It does not start but from a checkpoint.
            described(&ours.time_ms(|| self.gvisor.must(job, self.cancel))?)?;
        }
        let whole = with_own(Program::new(
            Path::new("/proc/self/exe"),
            [
                "run",
                "--quiet",
                "--backend",
                "jail",
                "--policy",
                "native",
                "-c",
                HELLO,
            ],
        ));
        let done = lines[at::WHOLE]
            .ours
            .time_ms(|| whole.run(PEER_WITHIN, self.cancel))?;
        ensure!(
            done.succeeded() && done.stdout == b"hello\n",
            "casemate run of hello in the jail: {}",
            done.why()
        );
        // What the other processes left in the caches is not a warm run's to pay for.
        std::thread::sleep(PAUSE);
        self.must_be_warm(self.warm.job(hello)?)?;
        std::thread::sleep(PAUSE);
        let job = self.warm.job(hello)?;
        let outcome = lines[at::WARM].ours.time_ms(|| self.must_be_warm(job))?;
        ensure!(outcome.stdout == b"hello\n", "hello did not say hello");
        std::thread::sleep(PAUSE);
        let job = self.warm.read_csv(&self.table)?;
        described(&lines[at::READ].ours.time_ms(|| self.must_be_warm(job))?)?;
        std::thread::sleep(PAUSE);
        let job = self.warm.chart()?;
        drawn(&lines[at::DRAW].ours.time_ms(|| self.must_be_warm(job))?)?;
        lines[at::RATE].ours.push(rate(HELLOS, || {
            self.must_be_warm(self.warm.job(hello)?).map(drop)
        })?);
        Ok(())
    }

    /// A run that starts cold is right, and is not what is measured here.
    fn must_be_warm(&self, job: Job) -> anyhow::Result<Outcome> {
        let outcome = self.warm.must(job, self.cancel)?;
        let receipt = outcome.receipt.as_ref();
        ensure!(
            receipt.is_some_and(casemate_jail::is_warm),
            "a run started cold that was to start from a zygote"
        );
        Ok(outcome)
    }

    fn hello<B: Backend + 'static>(
        &self,
        sandboxes: &Sandboxes<B>,
        samples: &mut Samples,
        hello: Ask<'_>,
    ) -> anyhow::Result<()> {
        let job = sandboxes.job(hello)?;
        let outcome = samples.time_ms(|| sandboxes.must(job, self.cancel))?;
        ensure!(outcome.stdout == b"hello\n", "hello did not say hello");
        Ok(())
    }

    fn lines(&self) -> anyhow::Result<[Line; 8]> {
        let most = |ms| Some(Promise::Bound(Target::AtMost(ms)));
        let line = |what, target, peers| Line {
            what,
            unit: "ms",
            target,
            ours: Samples::default(),
            peers,
        };
        let none = || std::array::from_fn(|_| Err("measured with the first line".to_owned()));
        Ok([
            line("hello in a new jail", most(25.0), self.peers.hello()),
            line("the same, `casemate run` as a whole", None, none()),
            line("hello from a zygote", most(8.0), none()),
            line(
                "read_csv + describe from a zygote",
                most(25.0),
                self.peers.read_csv()?,
            ),
            line("first chart from a zygote", most(150.0), self.peers.chart()),
            Line {
                what: "hellos from a zygote, two at a time",
                unit: "/s",
                target: Some(Promise::Bound(Target::AtLeast(250.0))),
                ours: Samples::default(),
                peers: none(),
            },
            line(
                "hello in runc",
                Some(Promise::TimesRunc(RUNC_RATIO)),
                self.peers.runc(),
            ),
            line(
                "read_csv + describe in gVisor, from a checkpoint",
                most(400.0),
                self.peers.gvisor()?,
            ),
        ])
    }

    fn collect(&self, machine: Machine, measures: Vec<Measure>) -> Report {
        let mut notes = vec![
            "peers start a process for every run and import what it needs, from the same interpreter and \
             libraries; casemate's own lines are runs of one process that lives on, but for `casemate run`"
                .to_owned(),
        ];
        if machine.was_busy() {
            notes.push("the machine was busy when the measuring began".to_owned());
        }
        if let Err(why) = casemate_linux::proc::kernel_facts().cgroup_moves {
            notes.push(format!("control groups: {why}"));
        }
        for (name, why) in self.peers.missing() {
            notes.push(format!("{name}: {why}"));
        }
        let failed = measures.iter().flat_map(|measure| {
            let failed = measure.peers.iter().filter_map(|(name, cell)| match cell {
                Cell::Absent(why) if !why.starts_with("measured") && !why.starts_with("not ") => {
                    Some(format!("{}, {name}: {why}", measure.what))
                }
                _ => None,
            });
            failed.collect::<Vec<_>>()
        });
        notes.extend(failed);
        Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            machine,
            rounds: self.rounds,
            measures,
            notes,
        }
    }
}

impl Line {
    fn measure(&self) -> Measure {
        let ours = measured(
            &self.ours,
            "this machine cannot run it: `casemate doctor` says why",
        );
        let peers: Vec<_> = PEERS
            .into_iter()
            .zip(self.peers.iter().map(side_cell))
            .collect();
        let met = self.target.and_then(|target| met(target, &ours, &peers));
        Measure {
            what: self.what,
            unit: self.unit,
            ours,
            peers,
            target: self.target,
            met,
        }
    }
}

/// Nothing where one of the two was not measured.
fn met(target: Promise, ours: &Cell, peers: &[(&str, Cell)]) -> Option<bool> {
    match target {
        Promise::Bound(target) => target.is_met(ours),
        Promise::TimesRunc(times) => {
            let (_, Cell::Measured(runc)) = peers.last()? else {
                return None;
            };
            Target::AtMost(times * runc.median).is_met(ours)
        }
    }
}

fn text(report: &Report) -> String {
    let mut head = vec!["what".to_owned(), "casemate: median (min..p90)".to_owned()];
    head.extend(PEERS.map(str::to_owned));
    head.extend(["target".to_owned(), String::new()]);
    let mut rows = vec![head];
    for measure in &report.measures {
        let mut row = vec![
            measure.what.to_owned(),
            cell(&measure.ours, measure.unit, report.rounds),
        ];
        row.extend(measure.peers.iter().map(|(_, cell)| match cell {
            Cell::Measured(stats) => number(stats.median),
            Cell::Absent(_) => "-".to_owned(),
        }));
        row.push(match measure.target {
            Some(Promise::Bound(target)) => target.text(measure.unit),
            Some(Promise::TimesRunc(times)) => format!("<= {times} x runc run"),
            None => String::new(),
        });
        row.push(match measure.target {
            Some(_) => verdict(measure.met).to_owned(),
            None => String::new(),
        });
        rows.push(row);
    }
    let mut text = aligned(&rows);
    let written = write!(text, "\n{}\n", report.machine.facts());
    debug_assert!(written.is_ok(), "a String takes what is written to it");
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

/// The programs that are measured beside, and what they need.
struct Peers {
    files: tempfile::TempDir,
    packages: PathBuf,
    /// By [`PEERS`]; in place of a program why there is none.
    programs: [Result<PathBuf, String>; 5],
}

impl Peers {
    fn new(store: &Store) -> anyhow::Result<Self> {
        let files = tempfile::tempdir().context("making a folder for the measurement's files")?;
        for dir in ["shared", "home", "bundle", "bundle/rootfs"] {
            std::fs::create_dir(files.path().join(dir)).context("making the peers' folders")?;
        }
        std::fs::write(files.path().join("shared/table.csv"), table())
            .context("writing the table")?;
        for (name, to) in LINKS {
            symlink(to, files.path().join("bundle/rootfs").join(name)).context("making a root")?;
        }
        let names = [PYTHON, "bwrap", "runsc", "docker", "runc"];
        let programs =
            names.map(|name| executable(Path::new(name)).map_err(|_| "not here".to_owned()));
        let root = files.path().join("bundle/rootfs");
        let [python, bwrap, runsc, docker, runc] = programs;
        let docker = docker.and_then(|docker| import(&docker, &root).map(|()| docker));
        let bundled = files.path().join("bundle");
        let runc = runc.and_then(|runc| bundle(&runc, &bundled).map(|()| runc));
        Ok(Self {
            packages: Path::new(&store.opened()?.path).join("site-packages"),
            files,
            programs: [python, bwrap, runsc, docker, runc],
        })
    }

    fn missing(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let whys = self.programs.iter().map(|program| program.as_ref().err());
        PEERS
            .into_iter()
            .zip(whys)
            .filter_map(|(name, why)| Some((name, why?.as_str())))
    }

    fn side(
        &self,
        peer: usize,
        args: Vec<OsString>,
        check: impl Fn(&Done) -> bool + 'static,
    ) -> Side {
        let program = self.programs[peer].as_ref().map_err(Clone::clone)?;
        let program = with_hosts(with_own(Program::new(program, args)))
            .env("PYTHONPATH", &self.packages)
            .env("MPLBACKEND", "agg")
            .env("MPLCONFIGDIR", self.files.path().join("home"));
        Ok(Rival::new(program, check))
    }

    fn hello(&self) -> [Side; 5] {
        let said = |done: &Done| done.stdout == b"hello\n";
        let python = words(&[PYTHON, "-c", HELLO]);
        let after = |first: &[&str]| [words(first), python.clone()].concat();
        let docker = [
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "/usr:/usr:ro",
            IMAGE,
        ];
        [
            self.side(0, words(&["-c", HELLO]), said),
            self.side(1, [self.bwrap(), python.clone()].concat(), said),
            self.side(2, after(&RUNSC_DO), said),
            self.side(3, after(&docker), said),
            Err("measured with the last line".to_owned()),
        ]
    }

    fn table(&self) -> anyhow::Result<String> {
        let table = self.files.path().join("shared/table.csv");
        let table = table.to_str();
        Ok(table
            .context("the temporary folder's name is not UTF-8")?
            .to_owned())
    }

    /// gVisor alone, which starts anew and imports.
    fn gvisor(&self) -> anyhow::Result<[Side; 5]> {
        let not = || Err("measured with another line".to_owned());
        let program = words(&[PYTHON, "-c", READ_CSV, &self.table()?]);
        let runsc = self.side(2, [words(&RUNSC_DO), program].concat(), |done| {
            contains(&done.stdout, b"10000.0")
        });
        Ok([not(), not(), runsc, not(), not()])
    }

    fn read_csv(&self) -> anyhow::Result<[Side; 5]> {
        let table = &self.table()?;
        Ok(self.with_libraries(&["-c", READ_CSV, table], |done| {
            contains(&done.stdout, b"10000.0")
        }))
    }

    fn chart(&self) -> [Side; 5] {
        let picture = self.files.path().join("shared/chart.png");
        let name = picture.to_string_lossy().into_owned();
        self.with_libraries(&["-c", CHART, &name], move |_| takes_png(&picture))
    }

    fn with_libraries(
        &self,
        args: &[&str],
        check: impl Fn(&Done) -> bool + Clone + 'static,
    ) -> [Side; 5] {
        let python = [words(&[PYTHON]), words(args)].concat();
        let not = || Err("not measured with the libraries".to_owned());
        [
            self.side(0, words(args), check.clone()),
            self.side(1, [self.bwrap(), python].concat(), check),
            not(),
            not(),
            not(),
        ]
    }

    fn runc(&self) -> [Side; 5] {
        let not = || Err("measured with the first line".to_owned());
        let bundle = self.files.path().join("bundle");
        let mut args = words(&["run", "--bundle"]);
        args.extend([
            bundle.into(),
            format!("bench-{}", std::process::id()).into(),
        ]);
        let runc = self.side(4, args, |done| done.stdout == b"hello\n");
        [not(), not(), not(), not(), runc]
    }

    /// Everything unshared, the system read-only, the libraries and one folder of ours.
    fn bwrap(&self) -> Vec<OsString> {
        let mut args = words(&["--unshare-all", "--die-with-parent", "--new-session"]);
        args.extend(words(&[
            "--ro-bind",
            "/usr",
            "/usr",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
        ]));
        args.extend(words(&["--tmpfs", "/tmp"]));
        for (name, to) in LINKS {
            args.extend(words(&["--symlink", to, &format!("/{name}")]));
        }
        let packages = self.packages.as_os_str();
        let files = self.files.path().as_os_str();
        for (how, path) in [("--ro-bind", packages), ("--bind", files)] {
            args.extend([how.into(), path.to_owned(), path.to_owned()]);
        }
        args
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if let [_, _, _, Ok(docker), _] = &self.programs {
            // An image of four links that stays is a nuisance and no more.
            quietly(docker, &["image", "rm", IMAGE]).ok();
        }
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

/// A peer's own tool, run to its end.
fn quietly(program: &Path, args: &[&str]) -> Result<(), String> {
    let program = with_hosts(with_own(Program::new(program, args.iter().copied())));
    let done = program
        .run(PEER_WITHIN, &Cancel::new())
        .map_err(|error| format!("not startable: {error}"))?;
    if done.succeeded() {
        Ok(())
    } else {
        Err(done.why())
    }
}

/// With the daemon that Docker's own program is told of.
fn with_hosts(program: Program) -> Program {
    match std::env::var_os("DOCKER_HOST") {
        Some(host) => program.env("DOCKER_HOST", host),
        None => program,
    }
}

/// Has Docker know a root of links, the rest of which each run mounts.
fn import(docker: &Path, root: &Path) -> Result<(), String> {
    let root = root.to_string_lossy();
    let archive = format!("{root}.tar");
    let tar = executable(Path::new("tar")).map_err(|error| error.to_string())?;
    quietly(&tar, &["-C", &root, "-cf", &archive, "."])?;
    quietly(docker, &["import", &archive, IMAGE])
}

/// A bundle with runc's own settings, but for what is run and the system it is run in.
fn bundle(runc: &Path, folder: &Path) -> Result<(), String> {
    let shown = folder.to_string_lossy();
    quietly(runc, &["spec", "--bundle", &shown])?;
    let path = folder.join("config.json");
    let change = || -> anyhow::Result<()> {
        let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = serde_json::json!([PYTHON, "-c", HELLO]);
        let mounts = spec["mounts"]
            .as_array_mut()
            .context("a spec without mounts")?;
        mounts.push(serde_json::json!({
            "destination": "/usr", "source": "/usr", "type": "bind", "options": ["rbind", "ro"],
        }));
        Ok(std::fs::write(&path, serde_json::to_vec(&spec)?)?)
    };
    change().map_err(|error| error.to_string())?;
    // runc makes the folders that it mounts over only in a root that can be written to.
    for name in ["usr", "proc", "dev", "sys"] {
        std::fs::create_dir(folder.join("rootfs").join(name)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::stats::Stats;
    use super::*;

    #[test]
    fn a_promise_in_times_of_runc_needs_both() {
        let cell = |median| {
            Cell::Measured(Stats {
                n: 3,
                median,
                min: 1.0,
                p90: 9.0,
            })
        };
        let absent = || Cell::Absent("not here".to_owned());
        for (ours, runc, expected) in [
            (cell(130.0), cell(100.0), Some(true)),
            (cell(131.0), cell(100.0), Some(false)),
            (cell(1.0), absent(), None),
            (absent(), cell(1.0), None),
        ] {
            assert_eq!(
                met(Promise::TimesRunc(1.3), &ours, &[("runc run", runc)]),
                expected
            );
        }
    }
}
