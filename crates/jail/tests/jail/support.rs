//! The backend over this program, the set-up it needs, and a list of tests run one by one.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use casemate_backend::contract::Cancel;
use casemate_backend::plan::Plan;
use casemate_backend::setup::{Progress, Unit};
use casemate_backend::suite::{self, Seen};
use casemate_driver::walls::lost_to_the_processor;
use casemate_jail::setup::{Store, set_up};
use casemate_jail::{JailBackend, init, maker, zygote};
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::receipt::{Receipt, Wall};

/// This program as one of the other processes of a jail, by its first argument: how that ended.
pub(crate) fn part(first: &OsStr) -> Option<i32> {
    let main = match first.to_str()? {
        init::ARGUMENT => init::main,
        maker::process::ARGUMENT => maker::process::main,
        zygote::process::ARGUMENT => zygote::process::main,
        _ => return None,
    };
    // The code is what the kernel is given either way; `ExitCode` does not tell it.
    Some(i32::from(main() != ExitCode::SUCCESS))
}

/// The backend, with this program.
pub(crate) fn jail() -> JailBackend {
    JailBackend::new(Store::open().unwrap(), this_program())
}

pub(crate) fn this_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// What no native program can be kept from: reading the processor's own clock.
pub(crate) fn lacking() -> Guarantees {
    [Guarantee::ClockCoarse].into_iter().collect()
}

/// The walls of a receipt that do not stand, beside those that this machine's processor does not let stand.
pub(crate) fn missing(receipt: &Receipt) -> Vec<&Wall> {
    let lost = lost_to_the_processor();
    let missing = receipt.walls.iter().filter(|wall| !wall.stands());
    missing
        .filter(|wall| !wall.guarantees.iter().any(|of| lost.contains_key(&of)))
        .collect()
}

/// Runs a program under the suite's limits, changed.
pub(crate) fn run_with(code: &str, change: impl FnOnce(&mut Plan)) -> Seen {
    let mut plan = suite::plan_without(code, &lacking());
    change(&mut plan);
    suite::run(&jail(), &plan, &Cancel::new()).unwrap()
}

/// Runs a program under the suite's limits.
pub(crate) fn seen(code: &str) -> Seen {
    run_with(code, |_| {})
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

/// Runs the tests whose names contain `only`. Where this machine can have no jail they are skipped, in
/// so many words; in CI that is a failure.
pub(crate) fn run(tests: &[(&str, fn())], only: Option<String>) {
    let only = only.filter(|arg| !arg.starts_with('-')).unwrap_or_default();
    if let Err(why) = ready() {
        assert!(std::env::var_os("CI").is_none(), "no jail in CI: {why}");
        println!("SKIPPED all {} tests: {why}", tests.len());
        return;
    }
    let mut failed = Vec::new();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(&only)) {
        let begun = std::time::Instant::now();
        let passed = std::panic::catch_unwind(test).is_ok();
        let word = if passed { "ok" } else { "FAILED" };
        println!(
            "test {name} ... {word} ({:.1} s)",
            begun.elapsed().as_secs_f64()
        );
        if !passed {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

fn ready() -> Result<(), String> {
    let store = Store::open().map_err(|error| error.to_string())?;
    set_up(&store, false, &Say)
        .map(drop)
        .map_err(|error| error.to_string())
}
