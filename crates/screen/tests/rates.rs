//! The table of rates over the corpora, with every kind of rewriting. The corpora are not part of the
//! project: `CASEMATE_CORPORA` names their folder.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that reports"
)]

use std::path::PathBuf;

use casemate_screen::trial::{self, Class, Kind};

#[test]
fn rates_hold() {
    let Some(folder) = std::env::var_os("CASEMATE_CORPORA").map(PathBuf::from) else {
        println!("SKIPPED: CASEMATE_CORPORA is not set, so no rate was measured");
        return;
    };
    let rows = trial::read(&folder).unwrap();
    let table = trial::measure(&rows, 1, trial::judge);
    for (name, rate) in table.classes.iter().chain(&table.disguised) {
        println!(
            "  {name:<18} {:>5} refused {:>5} confined {:>5}  {:.1} %",
            rate.all,
            rate.refused,
            rate.confined,
            rate.percent()
        );
    }
    if std::env::var_os("CASEMATE_CORPORA_VERBOSE").is_some() {
        table
            .wrong
            .iter()
            .for_each(|wrong| println!("wrong: {wrong}"));
        let out = std::env::temp_dir().join("casemate-wrong");
        std::fs::create_dir_all(&out).unwrap();
        let malicious = rows.iter().filter(|row| row.class == Class::ShouldFlag);
        for (index, row) in malicious.enumerate() {
            for kind in Kind::ALL {
                let wrong = table
                    .wrong
                    .iter()
                    .any(|wrong| wrong.starts_with(&format!("{}: {} ", kind.name(), row.id)));
                if let (true, Some(code)) =
                    (wrong, trial::disguise(&row.code, kind, 1 + index as u64))
                {
                    std::fs::write(
                        out.join(format!("{}-{}.py", kind.name().replace(' ', "_"), row.id)),
                        code,
                    )
                    .unwrap();
                }
            }
        }
    }
    let speed = trial::speed(rows.iter().map(|row| row.code.as_str())).unwrap();
    println!("  {speed:?}");
    // Twice the promise for the median: other programs share the machine that tests run on.
    assert!(speed.p50_us <= 600 && speed.p95_us <= 2_000, "{speed:?}");
    let rate = |class: Class| table.classes.get(class.name()).copied().unwrap_or_default();
    assert!(
        rate(Class::ShouldFlag).percent() >= 97.0,
        "{:?}",
        table.wrong
    );
    assert!(
        rate(Class::MustNotFlag).percent() <= 0.3,
        "{:?}",
        table.wrong
    );
    assert!(
        rate(Class::FileHandling).percent() <= 2.0,
        "{:?}",
        table.wrong
    );
    assert!(
        rate(Class::CapabilityOnly).percent() <= 10.0,
        "{:?}",
        table.wrong
    );
    let (all, refused) = table
        .disguised
        .values()
        .fold((0, 0), |(all, refused), rate| {
            (all + rate.all, refused + rate.refused)
        });
    assert!(refused * 100 >= all * 95, "{refused} of {all}");
}
