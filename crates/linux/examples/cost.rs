//! Measures what starting and locking down a process costs: `cargo run --release --example cost`.
//!
//! Prints the median of 200 spawns of a program that does nothing, alone, in control groups and
//! from a parent with a gigabyte of memory, and the median of each step of `lockdown::enter`.

#![allow(
    clippy::print_stdout,
    reason = "an example whose output is its purpose"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use casemate_linux::cgroup::{Cgroup, CgroupLimits};
use casemate_linux::lockdown::{self, LockdownPlan};
use casemate_linux::{Limit, Spawn};

const LIMITS: CgroupLimits = CgroupLimits {
    memory_bytes: Limit::At(512 << 20),
    pids: Limit::At(32),
    cpu_millicores: Limit::At(1000),
};

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("noop") => Ok(()),
        Some("worker") => worker(),
        _ => measure(),
    }
}

fn measure() -> Result<(), Box<dyn Error>> {
    let runs = 200;
    report("spawn and wait", median(runs, || spawn(None))?);
    report("std::process", median(runs, by_std)?);
    report(
        "make and remove control groups",
        median(runs, || {
            Cgroup::create("cost", &LIMITS)?.remove()?;
            Ok(())
        })?,
    );
    report(
        "spawn in new control groups, wait, remove",
        median(runs, || {
            let group = Cgroup::create("cost", &LIMITS)?;
            spawn(Some(&group))?;
            group.remove()?;
            Ok(())
        })?,
    );
    let big = vec![1u8; 1 << 30];
    report(
        "spawn and wait, parent of 1 GiB",
        median(runs, || spawn(None))?,
    );
    report("std::process, parent of 1 GiB", median(runs, by_std)?);
    drop(std::hint::black_box(big));
    steps(50)
}

fn spawn(group: Option<&Cgroup>) -> Result<(), Box<dyn Error>> {
    let mut spawn = Spawn::this_program().arg("noop");
    if let Some(group) = group {
        spawn = spawn.cgroup(group);
    }
    spawn.spawn()?.wait()?;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the measure to compare with")]
fn by_std() -> Result<(), Box<dyn Error>> {
    std::process::Command::new("/proc/self/exe")
        .arg("noop")
        .status()?;
    Ok(())
}

/// Enters and tells its parent, in nanoseconds, what each step took.
fn worker() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::PipeWriter::from(casemate_linux::take_fd(3)?);
    let begun = Instant::now();
    let steps = lockdown::enter(&LockdownPlan::new(&[0, 1, 2, 3]));
    let entered = begun.elapsed();
    let begun = Instant::now();
    let sealed = lockdown::seal();
    let times = [
        ("enter, all of it", entered),
        ("seal, all of it", begun.elapsed()),
    ];
    let mut lines: Vec<String> = steps
        .iter()
        .chain(&sealed)
        .map(|step| format!("{}\t{}\t{}", step.wall, step.took.as_nanos(), step.stands()))
        .collect();
    lines.extend(times.map(|(name, time)| format!("{name}\t{}\ttrue", time.as_nanos())));
    out.write_all(lines.join("\n").as_bytes())?;
    Ok(())
}

fn steps(runs: usize) -> Result<(), Box<dyn Error>> {
    let mut all: BTreeMap<(usize, String), Vec<Duration>> = BTreeMap::new();
    for _ in 0..runs {
        let begun = Instant::now();
        let (mut reader, writer) = std::io::pipe()?;
        let mut child = Spawn::this_program().arg("worker").fd(&writer, 3).spawn()?;
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        let life = begun.elapsed();
        let finished = child.wait()?;
        if text.is_empty() {
            return Err(format!("the worker ended with {:?}", finished.exit).into());
        }
        for (index, line) in text.lines().enumerate() {
            let mut fields = line.split('\t');
            let name = fields.next().unwrap_or_default();
            let nanos = fields.next().unwrap_or_default().parse()?;
            let missing = if fields.next() == Some("true") {
                ""
            } else {
                " (missing)"
            };
            let times = all.entry((index, format!("{name}{missing}"))).or_default();
            times.push(Duration::from_nanos(nanos));
        }
        let times = all.entry((99, "spawn to report".to_owned())).or_default();
        times.push(life);
    }
    for ((_, name), times) in all {
        report(&name, middle(times));
    }
    Ok(())
}

fn median(
    runs: usize,
    mut action: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<Duration, Box<dyn Error>> {
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let begun = Instant::now();
        action()?;
        times.push(begun.elapsed());
    }
    Ok(middle(times))
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn report(name: &str, time: Duration) {
    println!("{name:44} {:9.1} us", time.as_secs_f64() * 1e6);
}
