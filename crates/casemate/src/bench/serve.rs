//! `casemate bench serve`: the server as its clients have it, over loopback, with the clients on the same processors.
//!
//! The server is this program once more, with a data folder of its own. Every answer is checked.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use casemate_backend::contract::Cancel;
use casemate_wasm::setup::Store;
use serde::Serialize;
use serde_json::{Value, json};
use ureq::Agent;

use super::process::{Program, Running};
use super::programs::HELLO;
use super::report::{Cell, Machine, Target, aligned, cell, load, verdict};
use super::rival::{NO_PYTHON, PEER_WITHIN, Rival, Side, side_cell};
use super::speed::{measured, with_own};
use super::stats::Samples;
use super::{check_rounds, stop_if_cancelled};

/// The schema's name; the number changes when a field goes or changes its meaning.
const SCHEMA: &str = "casemate.bench.serve/1";
/// Clients that ask at once, each on a connection of its own.
const CLIENTS: usize = 4;
/// How long they ask in one window, and how many windows there are.
const WINDOW: Duration = Duration::from_secs(5);
const WINDOWS: usize = 3;
/// Streams that are open at once.
const STREAMS: usize = 200;
/// What each of them is told, line by line.
const LINES: usize = 10;
/// How long a server may take until it answers, and until it has shut down.
const UP_WITHIN: Duration = Duration::from_secs(30);
/// The share of what was measured that a long run is driven at.
const SOAK_LOAD: f64 = 0.8;
/// How often the server is looked at in it.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Creates a sandbox with E2B's own library, runs a cell in it and ends it, as often as it is told.
const E2B: &str = "\
import json, sys, time
from e2b_code_interpreter import Sandbox
for _ in range(int(sys.argv[1])):
    time.sleep(0.5)
    begun = time.perf_counter()
    sandbox = Sandbox.create()
    text = sandbox.run_code('1+1').text
    took = time.perf_counter() - begun
    sandbox.kill()
    assert text == '2', text
    print(json.dumps(took * 1e3), flush=True)
";

/// What to measure besides, and for how long.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    /// A native Python to measure beside.
    pub(crate) python: Option<PathBuf>,
    /// A Python with E2B's library.
    pub(crate) e2b: Option<PathBuf>,
    /// How long the server is driven at four fifths of what it can do.
    pub(crate) soak: Option<Duration>,
}

#[derive(Debug, Serialize)]
struct Measure {
    what: &'static str,
    unit: &'static str,
    ours: Cell,
    native: Cell,
    target: Target,
    met: Option<bool>,
}

/// A long run.
#[derive(Debug, Serialize)]
struct Soak {
    seconds: u64,
    /// Requests a second that were asked for.
    rate: f64,
    answered: u64,
    /// Answers of status 500 and above, and connections that broke.
    failed: u64,
    /// The rest that was not what was asked for, such as 429.
    refused: u64,
    /// What the first of those was that failed or were refused.
    first_bad: Option<String>,
    p99_ms: f64,
    /// The whole server with its workers: proportional memory, in MiB, and descriptors, as medians of the first, the
    /// middle and the last third.
    memory_mib: [f64; 3],
    descriptors: [f64; 3],
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    machine: Machine,
    rounds: usize,
    measures: Vec<Measure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soak: Option<Soak>,
    notes: Vec<String>,
}

/// Measures, prints, and always ends well: a slow machine is not an error.
pub(crate) fn command(options: &Options, json: bool, cancel: &Cancel) -> anyhow::Result<i32> {
    check_rounds(options.rounds)?;
    let store = Store::open()?;
    crate::setup::ensure(&store)?;
    let data = tempfile::tempdir().context("making a folder for the server's data")?;
    let bench = Bench {
        server: Server::start(&data.path().join("data"), cancel)?,
        options,
        cancel,
    };
    let report = bench.report();
    // Whatever was measured: nothing of it stays.
    let stopped = bench.server.stop(cancel);
    let report = report?;
    stopped?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(0)
}

/// The server that is measured.
struct Server {
    url: String,
    running: Running,
}

impl Server {
    fn start(data: &Path, cancel: &Cancel) -> anyhow::Result<Self> {
        // Nobody else is given the number again at once.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let address = free.context("looking for a free port")?;
        let args = ["serve", "--listen", &address.to_string(), "--data-dir"];
        let mut program = Program::new(Path::new("/proc/self/exe"), args);
        program.args.push(data.into());
        let server = Self {
            url: format!("http://{address}"),
            running: with_own(program).start().context("starting the server")?,
        };
        let (agent, deadline) = (agent(), Instant::now() + UP_WITHIN);
        loop {
            let ready = agent.get(format!("{}/readyz", server.url)).call();
            if ready.is_ok_and(|answer| answer.status() == 200) {
                return Ok(server);
            }
            if server.running.has_ended()? || Instant::now() > deadline {
                let done = server.running.finish(Duration::ZERO, cancel)?;
                anyhow::bail!("the server did not come up: {}", done.why());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(self, cancel: &Cancel) -> anyhow::Result<()> {
        self.running
            .child
            .signal(rustix::process::Signal::TERM.as_raw())
            .context("stopping the server")?;
        let deadline = Instant::now() + UP_WITHIN;
        while !self.running.has_ended()? && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let done = self.running.finish(Duration::ZERO, cancel)?;
        ensure!(done.succeeded(), "the server: {}", done.why());
        Ok(())
    }
}

/// A client with connections of its own.
fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(PEER_WITHIN)).build().into()
}

struct Bench<'a> {
    server: Server,
    options: &'a Options,
    cancel: &'a Cancel,
}

/// What many clients were answered.
#[derive(Default)]
struct Answers {
    ms: Vec<f64>,
    failed: u64,
    refused: u64,
    /// What the first of those was that failed or were refused.
    first_bad: Option<String>,
}

impl Answers {
    fn add(&mut self, other: Self) {
        self.ms.extend(other.ms);
        self.failed += other.failed;
        self.refused += other.refused;
        self.first_bad = self.first_bad.take().or(other.first_bad);
    }

    /// One that was not what was asked for.
    fn bad(&mut self, answer: anyhow::Result<(u16, Value)>) {
        let (count, what) = match answer {
            Ok((status, body)) if (400..500).contains(&status) => {
                (&mut self.refused, format!("{status}: {body}"))
            }
            Ok((status, body)) => (&mut self.failed, format!("{status}: {body}")),
            Err(error) => (&mut self.failed, format!("{error:#}")),
        };
        *count += 1;
        self.first_bad
            .get_or_insert_with(|| what.chars().take(400).collect());
    }

    /// The answer that 99 in 100 are at most as slow as.
    fn p99(&self) -> Option<f64> {
        let mut sorted = self.ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
            .get((sorted.len() * 99).div_ceil(100).checked_sub(1)?)
            .copied()
    }
}

impl Bench<'_> {
    fn report(&self) -> anyhow::Result<Report> {
        let mut machine = Machine::now();
        let mut notes = vec![format!(
            "the clients use the same {} processors as the server",
            machine.cpus
        )];
        if machine.was_busy() {
            notes.push("the machine was busy when the measuring began".to_owned());
        }
        let (hello, native) = self.hello()?;
        let (rate, p99) = self.rate()?;
        let streams = self.streams()?;
        let e2b = self.e2b()?;
        let none = || Cell::Absent("nothing to compare with".to_owned());
        let line = |what, unit, ours, native, target: Target| Measure {
            what,
            unit,
            met: target.is_met(&ours),
            ours,
            native,
            target,
        };
        let nothing = "nothing was measured";
        let per_second = rate.stats().map_or(0.0, |stats| stats.median);
        let measures = vec![
            line(
                "POST /v1/runs, hello on WASM",
                "ms",
                measured(&hello, nothing),
                side_cell(&native),
                Target::AtMost(6.0),
            ),
            line(
                "the same, four clients at once",
                "/s",
                measured(&rate, nothing),
                none(),
                Target::AtLeast(350.0),
            ),
            line(
                "of these the slowest in a hundred",
                "ms",
                measured(&p99, nothing),
                none(),
                Target::AtMost(60.0),
            ),
            line(
                "streams without loss, 200 at once",
                "",
                measured(&streams, nothing),
                none(),
                Target::AtLeast(STREAMS as f64),
            ),
            line(
                "E2B's SDK: create a sandbox, run a cell",
                "ms",
                e2b,
                none(),
                Target::AtMost(60.0),
            ),
        ];
        let soak = self.options.soak;
        let soak = soak
            .map(|long| self.soak(long, per_second * SOAK_LOAD))
            .transpose()?;
        machine.load_after = load();
        Ok(Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            machine,
            rounds: self.options.rounds,
            measures,
            soak,
            notes,
        })
    }

    /// One request after the other, with a native process for each in between.
    fn hello(&self) -> anyhow::Result<(Samples, Side)> {
        let program = self.options.python.as_ref();
        let program = program.map(|python| Program::new(python, ["-c", HELLO]));
        let mut native: Side = program
            .map(|program| Rival::new(program, |done| done.stdout == b"hello\n"))
            .ok_or_else(|| NO_PYTHON.to_owned());
        let rounds = self.options.rounds;
        if let Ok(native) = &mut native {
            native.warm_up(rounds, self.cancel)?;
        }
        let agent = agent();
        // The first two start workers.
        for _ in 0..2 {
            hello(&agent, &self.server.url)?;
        }
        let mut samples = Samples::default();
        for round in 0..rounds {
            stop_if_cancelled(self.cancel)?;
            samples.time_ms(|| hello(&agent, &self.server.url))?;
            if let Ok(native) = &mut native {
                native.round(round, rounds, self.cancel)?;
            }
        }
        Ok((samples, native))
    }

    fn rate(&self) -> anyhow::Result<(Samples, Samples)> {
        let (mut rates, mut p99s) = (Samples::default(), Samples::default());
        // Until as many workers stand as there are clients.
        self.clients(CLIENTS, Duration::from_secs(1), None)?;
        for _ in 0..WINDOWS {
            let begun = Instant::now();
            let answers = self.clients(CLIENTS, WINDOW, None)?;
            let elapsed = begun.elapsed().as_secs_f64();
            ensure!(
                answers.failed + answers.refused == 0,
                "{} of the requests failed, {} were refused",
                answers.failed,
                answers.refused
            );
            rates.push(answers.ms.len() as f64 / elapsed);
            if let Some(p99) = answers.p99() {
                p99s.push(p99);
            }
        }
        Ok((rates, p99s))
    }

    /// Clients that ask for a while, at their own pace or so many times a second together.
    fn clients(&self, count: usize, long: Duration, rate: Option<f64>) -> anyhow::Result<Answers> {
        let until = Instant::now() + long;
        let pause = rate.map(|rate| Duration::from_secs_f64(count as f64 / rate.max(0.1)));
        let mut all = Answers::default();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..count)
                .map(|_| scope.spawn(move || self.client(until, pause)))
                .collect();
            clients.into_iter().try_for_each(|client| {
                let answers = client.join();
                all.add(answers.map_err(|_| anyhow::anyhow!("a client's thread is gone"))?);
                Ok::<_, anyhow::Error>(())
            })
        })?;
        stop_if_cancelled(self.cancel)?;
        Ok(all)
    }

    fn client(&self, until: Instant, pause: Option<Duration>) -> Answers {
        let (agent, mut answers) = (agent(), Answers::default());
        let mut next = Instant::now();
        while Instant::now() < until && !self.cancel.is_cancelled() {
            if let Some(pause) = pause {
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                next += pause;
            }
            let begun = Instant::now();
            match ask(&agent, &self.server.url, HELLO) {
                Ok((200, outcome)) if outcome["stdout"] == "hello\n" => {
                    answers.ms.push(begun.elapsed().as_secs_f64() * 1e3);
                }
                other => answers.bad(other),
            }
        }
        answers
    }

    /// Streams that are open at the same time: how many were told all there was to tell.
    fn streams(&self) -> anyhow::Result<Samples> {
        let whole = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..STREAMS {
                let spawned = std::thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn_scoped(scope, || {
                        if self.stream().is_ok_and(|whole| whole) {
                            whole.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                spawned.context("starting a client")?;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        stop_if_cancelled(self.cancel)?;
        let mut samples = Samples::default();
        samples.push(whole.into_inner() as f64);
        Ok(samples)
    }

    /// Whether one stream has every line once, in its order, and its end.
    fn stream(&self) -> anyhow::Result<bool> {
        let mut answer = agent()
            .post(format!("{}/v1/runs", self.server.url))
            .header("accept", "application/x-ndjson")
            .send_json(json!({"code": talk()}))?;
        let (mut said, mut ended) = (String::new(), false);
        for line in BufReader::new(answer.body_mut().as_reader()).lines() {
            let told: Value = serde_json::from_str(&line?)?;
            match told["type"].as_str() {
                Some("stdout") => said.push_str(told["text"].as_str().unwrap_or_default()),
                Some("outcome") => ended = told["outcome"]["exit_code"] == 0,
                _ => {}
            }
        }
        let all: String = (0..LINES)
            .map(|number| format!("line {number}\n"))
            .collect();
        Ok(ended && said == all)
    }

    /// By E2B's library, where a Python has it.
    fn e2b(&self) -> anyhow::Result<Cell> {
        let Some(python) = &self.options.e2b else {
            return Ok(Cell::Absent(
                "no Python with E2B's SDK was given (--e2b)".to_owned(),
            ));
        };
        let times = self.options.rounds.min(20);
        let program = with_own(Program::new(python, ["-c", E2B, &times.to_string()]))
            .env("E2B_API_URL", &self.server.url)
            .env("E2B_SANDBOX_URL", &self.server.url)
            .env("E2B_API_KEY", format!("e2b_{}", "0".repeat(40)));
        let done = program.run(PEER_WITHIN, self.cancel)?;
        stop_if_cancelled(self.cancel)?;
        if !done.succeeded() {
            return Ok(Cell::Absent(done.why()));
        }
        let mut samples = Samples::default();
        for line in String::from_utf8_lossy(&done.stdout).lines() {
            samples.push(line.parse().context("what the SDK's program printed")?);
        }
        Ok(measured(&samples, "the SDK's program measured nothing"))
    }

    fn soak(&self, long: Duration, rate: f64) -> anyhow::Result<Soak> {
        let pid = self.server.running.child.pid();
        let (mut memory, mut descriptors) = (Vec::new(), Vec::new());
        let (until, over) = (
            Instant::now() + long,
            std::sync::atomic::AtomicBool::new(false),
        );
        let answers = std::thread::scope(|scope| {
            let clients = scope.spawn(|| {
                let answers = self.clients(2 * CLIENTS, long, Some(rate));
                over.store(true, Ordering::Relaxed);
                answers
            });
            while !over.load(Ordering::Relaxed) {
                let left = until.saturating_duration_since(Instant::now());
                eprint!("\r{} s left ", left.as_secs());
                let (mib, open) = held(pid);
                memory.push(mib);
                descriptors.push(open);
                std::thread::sleep(LOOK_EVERY.min(left.max(Duration::from_millis(50))));
            }
            eprintln!();
            clients
                .join()
                .map_err(|_| anyhow::anyhow!("the clients are gone"))?
        })?;
        Ok(Soak {
            seconds: long.as_secs(),
            rate,
            p99_ms: answers.p99().unwrap_or_default(),
            answered: answers.ms.len() as u64,
            failed: answers.failed,
            refused: answers.refused,
            first_bad: answers.first_bad,
            memory_mib: thirds(&memory),
            descriptors: thirds(&descriptors),
        })
    }
}

/// The program of a stream: it says its lines with pauses in between.
fn talk() -> String {
    format!(
        "import time\nfor number in range({LINES}):\n    print('line', number, flush=True)\n    time.sleep(0.01)"
    )
}

/// The medians of the thirds of a list.
fn thirds(all: &[f64]) -> [f64; 3] {
    let long = all.len().div_ceil(3).max(1);
    let median = |third: usize| {
        let mut samples = Samples::default();
        let part = all.chunks(long).nth(third).unwrap_or_default();
        part.iter().for_each(|value| samples.push(*value));
        samples.stats().map_or(0.0, |stats| stats.median)
    };
    [median(0), median(1), median(2)]
}

/// One request, and what it was answered.
fn ask(agent: &Agent, url: &str, code: &str) -> anyhow::Result<(u16, Value)> {
    let mut answer = agent
        .post(format!("{url}/v1/runs"))
        .send_json(json!({"code": code}))?;
    let status = answer.status().as_u16();
    Ok((status, answer.body_mut().read_json()?))
}

fn hello(agent: &Agent, url: &str) -> anyhow::Result<()> {
    let (status, outcome) = ask(agent, url, HELLO)?;
    ensure!(
        status == 200 && outcome["stdout"] == "hello\n",
        "hello was answered {status}: {outcome}"
    );
    Ok(())
}

/// What a process and all it started hold: memory in MiB, shared pages by their share, and open descriptors.
fn held(root: u32) -> (f64, f64) {
    let mut family = vec![root];
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name may hold anything: what follows it begins behind its last parenthesis.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
            Some((pid, parent.parse().ok()?))
        })
        .collect();
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        let children = parents.iter().filter(|(_, of)| *of == parent);
        family.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    let memory = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB"));
        kilobytes
            .and_then(|kb| kb.trim().parse::<f64>().ok())
            .unwrap_or_default()
            / 1024.0
    };
    let open = |pid: &u32| {
        let list = std::fs::read_dir(format!("/proc/{pid}/fd"));
        list.map_or(0, Iterator::count) as f64
    };
    (
        family.iter().map(memory).sum(),
        family.iter().map(open).sum(),
    )
}

/// The report for people.
fn text(report: &Report) -> String {
    let head = [
        "what",
        "casemate: median (min..p90)",
        "a native process",
        "target",
        "",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for measure in &report.measures {
        let show = |side: &Cell| cell(side, measure.unit, report.rounds);
        rows.push(vec![
            measure.what.to_owned(),
            show(&measure.ours),
            show(&measure.native),
            measure.target.text(measure.unit),
            verdict(measure.met).to_owned(),
        ]);
    }
    let mut text = aligned(&rows);
    if let Some(soak) = &report.soak {
        let [first, middle, last] = soak.memory_mib;
        let [few, some, many] = soak.descriptors;
        let written = write!(
            text,
            "\n{} s at {:.0} /s: {} answered (p99 {:.1} ms), {} failed, {} refused\n\
             memory, first third to last: {first:.0}, {middle:.0}, {last:.0} MiB; descriptors: {few:.0}, {some:.0}, {many:.0}\n",
            soak.seconds, soak.rate, soak.answered, soak.p99_ms, soak.failed, soak.refused
        );
        debug_assert!(written.is_ok(), "a String takes what is written to it");
        if let Some(bad) = &soak.first_bad {
            text.push_str(&format!(
                "the first that was not answered as it should be: {bad}\n"
            ));
        }
    }
    text.push_str(&format!("\n{}\n", report.machine.facts()));
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    for measure in &report.measures {
        if let Cell::Absent(why) = &measure.ours {
            text.push_str(&format!("note: {}: {why}\n", measure.what));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_have_a_median_each() {
        assert_eq!(thirds(&[]), [0.0; 3]);
        assert_eq!(
            thirds(&[1.0, 2.0, 9.0, 5.0, 5.0, 7.0, 8.0]),
            [2.0, 5.0, 8.0]
        );
    }

    #[test]
    fn the_slowest_in_a_hundred_are_left_out() {
        let answers = |count: u32| Answers {
            ms: (1..=count).map(f64::from).collect(),
            ..Answers::default()
        };
        assert_eq!(answers(0).p99(), None);
        assert_eq!(answers(1).p99(), Some(1.0));
        assert_eq!(answers(200).p99(), Some(198.0));
    }

    #[test]
    fn a_process_holds_memory_and_descriptors() {
        let (mib, open) = held(std::process::id());
        assert!(mib > 1.0 && open >= 3.0, "{mib} {open}");
        assert_eq!(held(u32::MAX), (0.0, 0.0));
    }
}
