//! The fuzzer: `fuzz [COUNT [SEED [FOLDER]]]`. FOLDER holds a corpus whose programs are changed too.

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use casemate_screen::trial;

/// Programs that are changed when there is no corpus.
const SEEDS: &[&str] = &[
    "import os\nos.system('rm -rf /')\n",
    "import base64\nexec(base64.b64decode('cHJpbnQoMSk='))\n",
    "def f(x, *a, **k):\n    for i in range(10):\n        x += chr(i ^ 7)\n    return getattr(a[0], x)(**k)\nf('', print)\n",
    "class A:\n    def __init__(self, c):\n        self.c = c\n    def go(self):\n        return open(self.c).read()\nA('/etc/' + 'shadow').go()\n",
    "import pandas as pd\ndf = pd.read_csv('a.csv')\nprint(df.groupby('x').sum())\n",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, otherwise: u64| {
        args.get(index)
            .map_or(Ok(otherwise), |text| text.parse::<u64>())
    };
    let (Ok(count), Ok(seed)) = (number(0, 100_000), number(1, 1)) else {
        eprintln!("usage: fuzz [COUNT [SEED [FOLDER]]], where COUNT and SEED are numbers");
        return ExitCode::from(2);
    };
    let mut programs: Vec<String> = SEEDS.iter().map(|&seed| seed.to_owned()).collect();
    match args
        .get(2)
        .map(|folder| trial::read(&PathBuf::from(folder)))
    {
        Some(Ok(rows)) => programs.extend(rows.into_iter().map(|row| row.code)),
        Some(Err(error)) => eprintln!("fuzz: {error}; going on without a corpus"),
        None => {}
    }
    // Panics of the analysis are caught and told as findings, which are faults here.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let report = trial::fuzz(count, seed, &programs, |done| {
        if done % 10_000 == 0 {
            eprintln!("  {done} of {count}, {} s", started.elapsed().as_secs());
        }
    });
    let [pass, confine, refuse] = report.verdicts;
    println!(
        "{} inputs in {} s: {pass} pass, {confine} confine, {refuse} refuse",
        report.inputs,
        started.elapsed().as_secs()
    );
    println!(
        "slowest: {} ms, {} ({:?})",
        report.worst.took.as_millis(),
        report.worst.name,
        report.worst.head
    );
    if report.faults.is_empty() {
        println!("nothing panicked, overflowed or took too long");
        return ExitCode::SUCCESS;
    }
    println!("{} faults with seed {seed}:", report.faults.len());
    report
        .faults
        .iter()
        .take(20)
        .for_each(|fault| println!("  {fault}"));
    ExitCode::FAILURE
}
