//! `casemate bench corpus`: real programs in a native Python and in the sandbox, difference by difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use casemate_backend::contract::Cancel;
use casemate_model::outcome::{Ending, Outcome};
use casemate_model::policy::ScreenMode;
use casemate_wasm::setup::Store;
use serde::Serialize;

use super::corpus::{Case, SETS, spread};
use super::guest::{Ask, Sandboxes};
use super::process::{Done, Program};
use super::report::aligned;
use super::stop_if_cancelled;

/// The schema's name; the number changes when a field goes or changes its meaning.
const SCHEMA: &str = "casemate.bench.corpus/1";
/// How long one program may take in the native Python; the sandbox's policy has its own limit.
const NATIVE_WITHIN: Duration = Duration::from_secs(60);
/// Programs at once.
const THREADS: usize = 2;
/// Of the programs that pass natively, how many must pass in the sandbox.
const PROMISED: f64 = 0.99;
/// Between two lines of progress.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What to compare.
pub(crate) struct Options {
    pub(crate) dir: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) sample: Option<usize>,
}

/// One side's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Answer {
    passed: bool,
    /// Why not, in a line.
    detail: String,
}

/// A program that passes natively and not in the sandbox.
#[derive(Debug, Clone, Serialize)]
struct Difference {
    set: String,
    id: String,
    /// What kind of thing it is.
    reason: String,
    /// What the program said.
    detail: String,
    /// Whether a second native run passed too. If not, the program itself is a matter of luck.
    native_passes_again: bool,
    /// Whether a second run in the sandbox passed.
    passes_again: bool,
}

/// Counts of one group.
#[derive(Debug, Clone, Default, Serialize)]
struct Tally {
    programs: usize,
    pass_natively: usize,
    /// Of those.
    pass_here: usize,
    /// The share, when there were any.
    rate: Option<f64>,
    /// Programs that fail natively and pass here.
    pass_only_here: usize,
}

/// Everything.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    python: String,
    absent: Vec<String>,
    sample: Option<usize>,
    sets: BTreeMap<String, Tally>,
    /// The groups the promise covers, together.
    promised: Tally,
    /// All groups together.
    all: Tally,
    target_rate: f64,
    met: Option<bool>,
    seconds: f64,
    differences: Vec<Difference>,
}

/// What came of one program.
struct Compared {
    index: usize,
    native: Answer,
    here: Answer,
    difference: Option<Difference>,
}

/// Compares and prints. 0 when the promise is kept, else 1.
pub(crate) fn command(options: &Options, json: bool, cancel: &Cancel) -> anyhow::Result<i32> {
    ensure!(
        options.dir.is_dir(),
        "{}: not a folder with .jsonl files",
        options.dir.display()
    );
    ensure!(
        options.sample != Some(0),
        "--sample 0 would compare nothing; give at least 1"
    );
    let (cases, absent) = load(options)?;
    let store = Store::open()?;
    crate::setup::ensure(&store)?;
    let begun = Instant::now();
    let compared = compare_all(&cases, options, &store, cancel)?;
    let report = report(options, &cases, absent, compared, begun.elapsed());
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(i32::from(report.met != Some(true)))
}

fn load(options: &Options) -> anyhow::Result<(Vec<Case>, Vec<String>)> {
    let (mut cases, mut absent) = (Vec::new(), Vec::new());
    for set in SETS {
        match set.cases(&options.dir)? {
            Some(found) => cases.extend(spread(found, options.sample.unwrap_or(usize::MAX))),
            None => {
                eprintln!(
                    "ABSENT: {set}.jsonl is not in {}; this set is not compared",
                    options.dir.display()
                );
                absent.push(set.to_string());
            }
        }
    }
    let names = SETS.map(|set| format!("{set}.jsonl")).join(", ");
    ensure!(
        !cases.is_empty(),
        "{}: none of {names} is there",
        options.dir.display()
    );
    Ok((cases, absent))
}

/// The two sides of the comparison.
struct Sides<'a> {
    python: &'a Path,
    /// What native runs share: matplotlib's font list is made once, not once a program.
    home: &'a Path,
    sandboxes: &'a Sandboxes,
    cancel: &'a Cancel,
}

fn compare_all(
    cases: &[Case],
    options: &Options,
    store: &Store,
    cancel: &Cancel,
) -> anyhow::Result<Vec<Compared>> {
    let home = tempfile::tempdir().context("making a folder for native runs")?;
    let sandboxes = Sandboxes::new(store, ScreenMode::Off, 1)?;
    let sides = Sides {
        python: &options.python,
        home: home.path(),
        sandboxes: &sandboxes,
        cancel,
    };
    let usable = sides.native("print(1)")?;
    ensure!(
        usable.passed,
        "{} does not run Python: {}",
        options.python.display(),
        usable.detail
    );
    let next = AtomicUsize::new(0);
    let all = Mutex::new((Vec::with_capacity(cases.len()), Instant::now()));
    let work = || -> anyhow::Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(index) else {
                return Ok(());
            };
            let compared = sides.compare(index, case)?;
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.0.push(compared);
            if all.1.elapsed() > SAY_EVERY {
                all.1 = Instant::now();
                eprintln!("{} of {} programs", all.0.len(), cases.len());
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a comparing thread is gone"))?
        })
    })?;
    let (mut all, _) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_by_key(|compared| compared.index);
    Ok(all)
}

impl Sides<'_> {
    fn compare(&self, index: usize, case: &Case) -> anyhow::Result<Compared> {
        let native = self.native(&case.source)?;
        let outcome = self.here(&case.source)?;
        let here = answer(&outcome);
        let difference = if native.passed && !here.passed {
            let again = self.here(&case.source)?;
            Some(Difference {
                set: case.group.name.clone(),
                id: case.id.clone(),
                reason: reason(&outcome, &here.detail),
                detail: here.detail.clone(),
                native_passes_again: self.native(&case.source)?.passed,
                passes_again: answer(&again).passed,
            })
        } else {
            None
        };
        Ok(Compared {
            index,
            native,
            here,
            difference,
        })
    }

    fn here(&self, source: &str) -> anyhow::Result<Outcome> {
        stop_if_cancelled(self.cancel)?;
        let job = self.sandboxes.job(Ask {
            code: source,
            ..Ask::default()
        })?;
        let outcome = self.sandboxes.run(job, &mut |_| {}, self.cancel);
        stop_if_cancelled(self.cancel)?;
        Ok(outcome)
    }

    /// In a process of its own, in a folder of its own that goes with it.
    fn native(&self, source: &str) -> anyhow::Result<Answer> {
        stop_if_cancelled(self.cancel)?;
        let dir = tempfile::tempdir().context("making a folder for a native run")?;
        std::fs::write(dir.path().join("main.py"), source)
            .context("writing a program for a native run")?;
        let program = Program::new(self.python, ["main.py"])
            .env("HOME", dir.path())
            .env("TMPDIR", dir.path())
            .env("MPLBACKEND", "agg")
            .env("MPLCONFIGDIR", self.home)
            .env("LANG", "C.UTF-8")
            .env("PATH", "/usr/bin:/bin")
            .inside(dir.path());
        let done = program
            .run(NATIVE_WITHIN, self.cancel)
            .context("running the native Python")?;
        Ok(Answer {
            passed: done.succeeded(),
            detail: if done.succeeded() {
                String::new()
            } else {
                why(&done)
            },
        })
    }
}

fn why(done: &Done) -> String {
    let stderr = String::from_utf8_lossy(&done.stderr);
    match done.exit {
        Some(_) => first_error(&stderr).unwrap_or_else(|| done.why()),
        None => done.why(),
    }
}

fn answer(outcome: &Outcome) -> Answer {
    let passed = outcome.ending.is_success();
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    let detail = match &outcome.ending {
        _ if passed => String::new(),
        Ending::Exited { .. } => first_error(&stderr)
            .or_else(|| {
                outcome
                    .error
                    .as_ref()
                    .map(|error| format!("{}: {}", error.name, error.value))
            })
            .unwrap_or_else(|| crate::show::cause(&outcome.ending)),
        other => crate::show::cause(other),
    };
    Answer { passed, detail }
}

/// The first line that names an error: of several failing tests the first is as good as any.
fn first_error(stderr: &str) -> Option<String> {
    let named = |line: &&str| {
        let name = line.split([':', ' ']).next().unwrap_or_default();
        let class = name.rsplit('.').next().unwrap_or_default();
        line.starts_with(name)
            && (class.ends_with("Error") || class.ends_with("Exception") || class == "Deadlock")
    };
    stderr
        .lines()
        .find(named)
        .map(|line| line.chars().take(200).collect())
}

/// What a difference comes from, as far as the program's own words and what was seen of it tell.
fn reason(outcome: &Outcome, detail: &str) -> String {
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    let says = |words: &[&str]| {
        words
            .iter()
            .any(|word| detail.contains(word) || stderr.contains(word))
    };
    let denied = |what: &str| {
        outcome
            .summary
            .denials
            .iter()
            .any(|denial| denial.starts_with(what))
    };
    match &outcome.ending {
        Ending::Over { limit, .. } => return format!("limit: {limit:?}"),
        Ending::Exited { .. } => {}
        _ => return "the sandbox ended it".to_owned(),
    }
    if let Some((_, rest)) = detail.split_once("No module named ") {
        return format!("module absent: {}", rest.trim_matches(['\'', '"']));
    }
    let table: [(&str, bool); 7] = [
        (
            "needs a process",
            denied("no processes") || says(&["processes"]),
        ),
        ("needs the network", denied("no network")),
        ("needs native code", denied("no native code")),
        (
            "needs threads",
            says(&["Deadlock", "no thread", "new thread"]) || denied("no threads"),
        ),
        (
            "32-bit integers",
            says(&["int32", "int64", "too large to convert", "OverflowError"]),
        ),
        ("memory of a 32-bit process", says(&["MemoryError"])),
        ("a file of the machine", denied("no such file")),
    ];
    let found = table
        .into_iter()
        .find(|(_, seen)| *seen)
        .map(|(reason, _)| reason);
    found.unwrap_or("other").to_owned()
}

impl Tally {
    fn count(&mut self, compared: &Compared) {
        let (native, here) = (compared.native.passed, compared.here.passed);
        self.programs += 1;
        self.pass_natively += usize::from(native);
        self.pass_here += usize::from(native && here);
        self.pass_only_here += usize::from(!native && here);
        self.rate =
            (self.pass_natively > 0).then(|| self.pass_here as f64 / self.pass_natively as f64);
    }
}

fn report(
    options: &Options,
    cases: &[Case],
    absent: Vec<String>,
    compared: Vec<Compared>,
    took: Duration,
) -> Report {
    let (mut sets, mut promised, mut all) = (
        BTreeMap::<String, Tally>::new(),
        Tally::default(),
        Tally::default(),
    );
    for one in &compared {
        let Some(case) = cases.get(one.index) else {
            continue;
        };
        sets.entry(case.group.name.clone()).or_default().count(one);
        all.count(one);
        if case.group.promised {
            promised.count(one);
        }
    }
    Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        python: options.python.display().to_string(),
        absent,
        sample: options.sample,
        met: promised.rate.map(|rate| rate >= PROMISED),
        sets,
        promised,
        all,
        target_rate: PROMISED,
        seconds: took.as_secs_f64(),
        differences: compared
            .into_iter()
            .filter_map(|one| one.difference)
            .collect(),
    }
}

fn percent(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.2} %", rate * 100.0))
}

fn text(report: &Report) -> String {
    let row = |name: &str, tally: &Tally| {
        let counts =
            [tally.programs, tally.pass_natively, tally.pass_here].map(|count| count.to_string());
        let mut row = vec![name.to_owned()];
        row.extend(counts);
        row.extend([percent(tally.rate), tally.pass_only_here.to_string()]);
        row
    };
    let head = [
        "set",
        "programs",
        "pass natively",
        "of those here",
        "rate",
        "pass only here",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.sets.iter().map(|(name, tally)| row(name, tally)));
    rows.push(row("promised together", &report.promised));
    rows.push(row("everything", &report.all));
    let mut text = aligned(&rows);
    for set in &report.absent {
        text.push_str(&format!("ABSENT: {set} was not compared\n"));
    }
    let verdict = match report.met {
        Some(true) => "met",
        Some(false) => "NOT MET",
        None => "not measured",
    };
    let target = percent(Some(report.target_rate));
    let rate = percent(report.promised.rate);
    let written = write!(
        text,
        "\n{rate} of what passes natively passes here; target {target}: {verdict} ({:.0} s)\n",
        report.seconds
    );
    debug_assert!(written.is_ok(), "a String takes what is written to it");
    let rows: Vec<Vec<String>> = report.differences.iter().map(difference_row).collect();
    if !rows.is_empty() {
        text.push_str(&format!(
            "\ndifferences\n{}",
            crate::text::plain(aligned(&rows).as_bytes())
        ));
    }
    text
}

fn difference_row(difference: &Difference) -> Vec<String> {
    let luck = match (difference.native_passes_again, difference.passes_again) {
        (true, false) => "every time",
        (true, true) => "passed here the second time",
        (false, _) => "the native one failed the second time",
    };
    [
        &difference.set,
        &difference.id,
        &difference.reason,
        luck,
        &difference.detail,
    ]
    .map(|cell| cell.to_string())
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_line_is_found_and_chatter_is_not() {
        let stderr = "warning: Error ahead\n  File \"main.py\", line 1\nAssertionError: 1 != 2\n\nOSError: later\n";
        assert_eq!(
            first_error(stderr).as_deref(),
            Some("AssertionError: 1 != 2")
        );
        assert_eq!(
            first_error("pandas.errors.ParserError: bad\n").as_deref(),
            Some("pandas.errors.ParserError: bad")
        );
        assert_eq!(
            first_error("Deadlock: would wait\n").as_deref(),
            Some("Deadlock: would wait")
        );
        assert_eq!(first_error("Ran 3 tests\nFAILED (failures=1)\n"), None);
    }

    fn compared(native: bool, here: bool) -> Compared {
        let answer = |passed| Answer {
            passed,
            detail: String::new(),
        };
        Compared {
            index: 0,
            native: answer(native),
            here: answer(here),
            difference: None,
        }
    }

    #[test]
    fn the_rate_is_of_what_passes_natively() {
        let mut tally = Tally::default();
        assert_eq!(tally.rate, None);
        for (native, here) in [
            (true, true),
            (true, true),
            (true, true),
            (true, false),
            (false, true),
            (false, false),
        ] {
            tally.count(&compared(native, here));
        }
        assert_eq!(
            (
                tally.programs,
                tally.pass_natively,
                tally.pass_here,
                tally.pass_only_here
            ),
            (6, 4, 3, 1)
        );
        assert_eq!(tally.rate, Some(0.75));
        assert_eq!(percent(tally.rate), "75.00 %");
    }

    #[test]
    fn a_row_says_whether_it_is_a_matter_of_luck() {
        let row = |native_passes_again, passes_again| {
            let difference = Difference {
                set: "s".into(),
                id: "i".into(),
                reason: "other".into(),
                detail: "d".into(),
                native_passes_again,
                passes_again,
            };
            difference_row(&difference)[3].clone()
        };
        assert_eq!(row(true, false), "every time");
        assert!(row(true, true).contains("second time") && row(false, true).contains("native"));
    }
}
