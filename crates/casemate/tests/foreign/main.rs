//! The conformance suite over a wall that is not ours, so that the suite itself is tested: it must pass where
//! `bwrap` really has the wall, and must fail, by name, where it has none.

mod bwrap;

use std::collections::BTreeSet;

use bwrap::Bwrap;
use casemate_backend::contract::Backend;
use casemate_backend::suite;
use casemate_model::guarantee::Guarantees;
use casemate_model::policy::base_guarantees;

/// What `bwrap` cannot give, case by case, and why.
const FAILS: &[(&str, &str)] = &[
    (
        "host files absent",
        "its /proc shows a program its own environment, which may have been the host's",
    ),
    (
        "system calls filtered",
        "it brings no filter; it takes one that somebody else has made",
    ),
    (
        "network absent",
        "nothing can be reached, and nobody is told that it was tried",
    ),
    ("memory", "it makes no control group"),
    ("CPU time", "nor a limit on processor time"),
    ("wall time", "nor a clock of its own"),
    ("tasks", "nor a limit on tasks"),
    (
        "disk bytes",
        "what can be taken out again is the host's own disk",
    ),
    ("disk files", "without a quota"),
    ("output", "output goes straight to whoever reads it"),
    ("open files", "it sets no limits of processes"),
    ("artifacts, count", "whoever collects files must count them"),
    ("artifacts, bytes", "and weigh them"),
    (
        "results",
        "there is no IPython, and nobody to take what it shows",
    ),
    ("usage is measured", "it measures nothing"),
    ("usage is told as time goes on", "nor tells of it"),
];

/// The name in front of a failure.
fn name(failure: &str) -> &str {
    failure.split_once(": ").map_or(failure, |(name, _)| name)
}

#[test]
fn the_suite_fails_bwrap_exactly_where_it_has_no_wall() {
    if Bwrap::missing() {
        assert!(
            std::env::var_os("CI").is_none(),
            "no bwrap in CI: `./dev test` installs it"
        );
        eprintln!(
            "SKIPPED the suite over bwrap: there is none (Debian: apt-get install bubblewrap)"
        );
        return;
    }
    let lacking = base_guarantees().missing_from(&Bwrap.probe().guarantees);
    let failures = suite::failures(&Bwrap, &lacking);
    let failed: BTreeSet<&str> = failures.iter().map(|failure| name(failure)).collect();
    let expected: BTreeSet<&str> = FAILS.iter().map(|(name, _)| *name).collect();
    assert_eq!(failed, expected, "{}", failures.join("\n"));
    assert_eq!(failures.len(), FAILS.len(), "a case failed twice");
    assert!(suite::count() > FAILS.len() + 10, "few cases passed");
}

#[test]
fn the_suite_does_not_take_bwrap_for_more_than_it_offers() {
    let failure = suite::offer_failure(&Bwrap, &Guarantees::none());
    let said = failure.unwrap_or_default();
    assert!(
        said.starts_with("offer: ") && said.contains("memory capped"),
        "{said}"
    );
}
