//! The backends over this program, the set-up they need, and a list of tests run one by one over each.

use casemate_backend::contract::{Backend, Cancel, Usable};
use casemate_backend::setup::{Progress, Unit};
use casemate_backend::suite;
use casemate_container::{ContainerBackend, Kind, Platform};
use casemate_driver::packages::{Store, set_up};
use casemate_linux::{Child, Spawn};
use casemate_model::guarantee::{Guarantee, Guarantees};

pub(crate) type Test = (&'static str, fn(&ContainerBackend));

const KINDS: [(&str, Kind); 4] = [
    ("runc", Kind::Runc),
    ("crun", Kind::Crun),
    ("gvisor", Kind::Gvisor(Platform::Systrap)),
    ("gvisor_ptrace", Kind::Gvisor(Platform::Ptrace)),
];

/// This program as a keeper.
pub(crate) fn keeper() -> i32 {
    // The code is what the kernel is given either way; `ExitCode` does not tell it.
    let code = casemate_container::keeper::main();
    i32::from(code != std::process::ExitCode::SUCCESS)
}

/// What no native program can be kept from: reading the processor's own clock.
pub(crate) fn lacking() -> Guarantees {
    [Guarantee::ClockCoarse].into_iter().collect()
}

/// The argument that makes this program run one container for a while.
pub(crate) const HOST: &str = "host-to-be-killed";

/// Another process like this one, in which a container runs.
pub(crate) fn host_that_runs(backend: &ContainerBackend) -> Child {
    let spawn = Spawn::this_program().arg(HOST).arg(backend.name());
    std::env::vars_os()
        .fold(spawn, |spawn, (name, value)| spawn.env(name, value))
        .spawn()
        .unwrap()
}

/// Runs one until it is killed.
pub(crate) fn be_a_host(name: Option<std::ffi::OsString>) {
    let kinds = KINDS.iter().map(|(_, kind)| *kind);
    let kind = kinds
        .into_iter()
        .find(|kind| name.as_deref() == Some(kind.name().as_ref()));
    let program = std::env::current_exe().unwrap();
    let backend = ContainerBackend::new(kind.unwrap(), Store::open().unwrap(), program);
    let plan = suite::plan_without("import time\ntime.sleep(60)", &lacking());
    drop(suite::run(&backend, &plan, &Cancel::new()));
}

struct Say;

impl Progress for Say {
    fn stage(&self, name: &str, _: Option<u64>, _: Unit) {
        println!("{name}");
    }
    fn at(&self, _: u64) {}
    fn done(&self, _: &str) {}
    fn say(&self, text: &str) {
        println!("{text}");
    }
}

/// Runs the tests whose full names contain `only`. A runtime that this machine does not have is skipped,
/// in so many words; in CI that is a failure.
pub(crate) fn run(tests: &[Test], only: Option<String>) {
    let only = only.filter(|arg| !arg.starts_with('-')).unwrap_or_default();
    let store = Store::open().unwrap();
    if let Err(error) = set_up(&store, false, &Say) {
        assert!(std::env::var_os("CI").is_none(), "no guest in CI: {error}");
        println!("SKIPPED everything: {error}");
        return;
    }
    let mut failed = Vec::new();
    for (name, kind) in KINDS {
        let wanted = tests
            .iter()
            .filter(|(test, _)| format!("{name}/{test}").contains(&only));
        let wanted: Vec<&Test> = wanted.collect();
        if wanted.is_empty() {
            continue;
        }
        let program = std::env::current_exe().unwrap();
        let backend = ContainerBackend::new(kind, store.clone(), program);
        let usable = backend.probe().usable;
        if usable != Usable::Yes {
            assert!(
                std::env::var_os("CI").is_none(),
                "no {name} in CI: {usable:?}"
            );
            println!("SKIPPED {} tests of {name}: {usable:?}", wanted.len());
            continue;
        }
        failed.extend(run_over(name, &backend, &wanted));
    }
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

fn run_over(kind: &str, backend: &ContainerBackend, tests: &[&Test]) -> Vec<String> {
    let mut failed = Vec::new();
    for (name, test) in tests {
        let begun = std::time::Instant::now();
        let passed =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(backend))).is_ok();
        let word = if passed { "ok" } else { "FAILED" };
        println!(
            "test {kind}/{name} ... {word} ({:.1} s)",
            begun.elapsed().as_secs_f64()
        );
        if !passed {
            failed.push(format!("{kind}/{name}"));
        }
    }
    failed
}
