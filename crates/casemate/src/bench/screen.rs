//! `casemate bench screen`: rates over a corpus and after rewriting, and speed, with the naive list,
//! Bandit and ruff's S rules beside it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use casemate_backend::contract::Cancel;
use casemate_screen::trial::{self, Rate, Row, Speed, Table};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;
use serde_json::Value;
use walkdir::WalkDir;

use super::process::Program;

/// What is searched for by those who search for words.
const NAIVE: [&str; 8] = [
    "os.system",
    "subprocess",
    "__import__",
    "open(",
    "socket",
    "requests.post",
    "eval",
    "exec",
];
/// How long a peer may take over all programs.
const PATIENCE: Duration = Duration::from_secs(900);
/// The rewriting is the same in every run.
const SEED: u64 = 1;

/// What to measure.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) dir: PathBuf,
    pub(crate) peers: Option<PathBuf>,
    pub(crate) tree: Option<PathBuf>,
}

/// One judge's column.
#[derive(Debug, Serialize)]
struct Column {
    name: String,
    table: Table,
    /// Seconds over all programs, for a peer: start included.
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    columns: Vec<Column>,
    snippets: Option<Speed>,
    tree: Option<Speed>,
}

/// Measures and prints: 0 when every program got the verdict it should, 1 otherwise.
pub(crate) fn command(options: &Options, json: bool, cancel: &Cancel) -> anyhow::Result<i32> {
    let rows = trial::read(&options.dir)?;
    let mut columns = vec![
        column("casemate", &rows, trial::judge),
        column("eight words", &rows, naive),
    ];
    if let Some(venv) = &options.peers {
        for peer in ["bandit", "ruff"] {
            super::stop_if_cancelled(cancel)?;
            columns.push(peer_column(peer, venv, &rows, cancel)?);
        }
    }
    one_processor().context("keeping to one processor")?;
    let snippets = trial::speed(rows.iter().map(|row| row.code.as_str()));
    let tree = match &options.tree {
        Some(tree) => {
            let sources = sources(tree)?;
            trial::speed(sources.iter().map(String::as_str))
        }
        None => None,
    };
    let report = Report {
        schema: "casemate.bench.screen/1",
        columns,
        snippets,
        tree,
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    let wrong = report
        .columns
        .first()
        .is_some_and(|own| !own.table.wrong.is_empty());
    Ok(i32::from(wrong))
}

/// Keeps every thread of this process to one processor, on which what is promised is measured: an analysis has a thread of
/// its own, and waking another processor for each of them would be measured too.
fn one_processor() -> anyhow::Result<()> {
    let all = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(first.context("no processor may be used")?);
    for task in fs::read_dir("/proc/self/task")? {
        let number = task?.file_name();
        let number = number.to_str().and_then(|number| number.parse().ok());
        // One that has ended meanwhile is on none.
        match sched_setaffinity(number.and_then(Pid::from_raw), &one) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn column(name: &str, rows: &[Row], judge: impl FnMut(&str) -> &'static str) -> Column {
    let started = Instant::now();
    let table = trial::measure(rows, SEED, judge);
    Column {
        name: name.to_owned(),
        table,
        seconds: started.elapsed().as_secs_f64(),
    }
}

fn naive(code: &str) -> &'static str {
    if NAIVE.iter().any(|word| code.contains(word)) {
        "refuse"
    } else {
        "pass"
    }
}

/// A peer is run once over all programs, each in a file of its own.
fn peer_column(peer: &str, venv: &Path, rows: &[Row], cancel: &Cancel) -> anyhow::Result<Column> {
    let program = super::executable(&venv.join("bin").join(peer)).with_context(|| {
        format!(
            "install it there with: {}/bin/pip install {peer}",
            venv.display()
        )
    })?;
    let folder = tempfile::tempdir().context("making a folder for the peer's programs")?;
    let mut programs = Vec::new();
    trial::measure(rows, SEED, |code| {
        programs.push(code.to_owned());
        "pass"
    });
    for (index, code) in programs.iter().enumerate() {
        fs::write(folder.path().join(format!("p{index:06}.py")), code)?;
    }
    let out = folder.path().join("out.json");
    let started = Instant::now();
    let path = folder.path().as_os_str().to_owned();
    let args: Vec<std::ffi::OsString> = match peer {
        "bandit" => ["-q", "-r", "-f", "json", "--severity-level", "medium", "-o"]
            .map(Into::into)
            .into_iter()
            .chain([out.clone().into_os_string(), path])
            .collect(),
        _ => [
            "check",
            "--isolated",
            "--no-cache",
            "--select",
            "S",
            "--output-format",
            "json",
            "--output-file",
        ]
        .map(Into::into)
        .into_iter()
        .chain([out.clone().into_os_string(), path])
        .collect(),
    };
    let done = Program::new(&program, args).run(PATIENCE, cancel)?;
    let seconds = started.elapsed().as_secs_f64();
    let text = fs::read_to_string(&out)
        .with_context(|| format!("{peer} wrote no result: {}", done.why()))?;
    let flagged = flagged(peer, &serde_json::from_str(&text)?);
    let mut index = 0;
    let table = trial::measure(rows, SEED, |_| {
        let name = format!("p{index:06}.py");
        index += 1;
        if flagged.contains(&name) {
            "refuse"
        } else {
            "pass"
        }
    });
    Ok(Column {
        name: peer.to_owned(),
        table,
        seconds,
    })
}

/// The names of the files that a peer found something in.
fn flagged(peer: &str, out: &Value) -> HashSet<String> {
    let (list, key) = match peer {
        "bandit" => (&out["results"], "filename"),
        _ => (out, "filename"),
    };
    let name = |result: &Value| {
        // What cannot be parsed is not a finding of a rule.
        result
            .get("code")
            .filter(|code| code.is_null())
            .is_none()
            .then_some(())?;
        let path = Path::new(result[key].as_str()?);
        Some(path.file_name()?.to_str()?.to_owned())
    };
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(name)
        .collect()
}

fn sources(tree: &Path) -> anyhow::Result<Vec<String>> {
    let mut sources = Vec::new();
    for entry in WalkDir::new(tree).sort_by_file_name() {
        let entry = entry?;
        let python = entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "py");
        if entry.file_type().is_file() && python {
            // Sources in other encodings are refused at once and say nothing about speed.
            sources.extend(fs::read_to_string(entry.path()));
        }
    }
    anyhow::ensure!(!sources.is_empty(), "no .py file is in {}", tree.display());
    Ok(sources)
}

fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    let names: String = report
        .columns
        .iter()
        .map(|column| format!("{:>16}", column.name))
        .collect();
    lines.push(format!("{:<34}{:>7}{names}", "refused, %", "count"));
    let Some(own) = report.columns.first() else {
        return String::new();
    };
    let groups = |pick: fn(&Table) -> &std::collections::BTreeMap<String, Rate>| {
        pick(&own.table)
            .iter()
            .map(|(name, rate)| {
                let cells: String = report
                    .columns
                    .iter()
                    .map(|column| {
                        pick(&column.table).get(name).map_or_else(
                            || format!("{:>16}", "-"),
                            |rate| format!("{:>16.1}", rate.percent()),
                        )
                    })
                    .collect();
                let confined = if rate.confined > 0 {
                    format!("   ({} confined)", rate.confined)
                } else {
                    String::new()
                };
                format!("{name:<34}{:>7}{cells}{confined}", rate.all)
            })
            .collect::<Vec<_>>()
    };
    lines.extend(groups(|table| &table.classes));
    lines.push(String::new());
    lines.extend(groups(|table| &table.sets));
    lines.push(String::new());
    lines.push("should flag, rewritten".to_owned());
    lines.extend(groups(|table| &table.disguised));
    lines.push(String::new());
    let seconds: String = report
        .columns
        .iter()
        .map(|column| format!("{:>16.1}", column.seconds))
        .collect();
    lines.push(format!("{:<41}{seconds}", "seconds over all of these"));
    for (name, speed) in [
        ("snippets", &report.snippets),
        ("source tree", &report.tree),
    ] {
        if let Some(speed) = speed {
            lines.push(format!(
                "{name}, on one processor: {} programs, p50 {} us, p95 {} us, slowest {} us, {:.1} MB/s",
                speed.programs, speed.p50_us, speed.p95_us, speed.max_us, speed.mb_per_s
            ));
        }
    }
    lines.extend(
        own.table
            .wrong
            .iter()
            .take(40)
            .map(|wrong| format!("  {wrong}")),
    );
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_peers_are_read() {
        let bandit =
            serde_json::json!({"results": [{"filename": "/tmp/x/p000001.py", "code": "x"}]});
        assert!(flagged("bandit", &bandit).contains("p000001.py"));
        let ruff = serde_json::json!([{"filename": "/tmp/x/p000002.py", "code": "S102"}, {"filename": "/tmp/x/p000003.py", "code": null}]);
        assert_eq!(
            flagged("ruff", &ruff),
            HashSet::from(["p000002.py".to_owned()])
        );
    }

    #[test]
    fn the_eight_words() {
        assert_eq!((naive("x = eval('1')"), naive("x = 1")), ("refuse", "pass"));
    }
}
