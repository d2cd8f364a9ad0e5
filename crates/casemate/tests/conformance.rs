//! The conformance suite over every backend of this build, with real workers and real jails.

use std::collections::BTreeSet;

use casemate_backend::contract::{Backend, Cancel, Usable};
use casemate_backend::suite;
use casemate_container::docker::{DockerBackend, Variant};
use casemate_container::{ContainerBackend, Kind, Platform};
use casemate_jail::JailBackend;
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_wasm::WasmBackend;
use casemate_wasm::setup::Store;

fn wasm() -> WasmBackend {
    let store = Store::open().expect("a cache folder");
    store
        .installed()
        .expect("the guest must be set up before the tests: casemate setup");
    WasmBackend::new(store, env!("CARGO_BIN_EXE_casemate"))
}

#[test]
fn wasm_passes_the_suite() {
    let failures = suite::failures(&wasm(), &Guarantees::none());
    assert!(
        failures.is_empty(),
        "{} of {} failed:\n{}",
        failures.len(),
        suite::count(),
        failures.join("\n")
    );
}

/// Where this machine can have no jail the test says why and passes; in CI that is a failure.
#[test]
fn the_jail_passes_the_suite() {
    let store = casemate_jail::setup::Store::open().expect("a cache folder");
    let backend = JailBackend::new(store, env!("CARGO_BIN_EXE_casemate"));
    let usable = backend.probe().usable;
    if usable != Usable::Yes {
        assert!(
            std::env::var_os("CI").is_none(),
            "no jail in CI: {usable:?}"
        );
        eprintln!("SKIPPED the suite over the jail: {usable:?}");
        return;
    }
    // A native program reads the processor's own clock, and nothing can keep it from that.
    let lacking = [Guarantee::ClockCoarse].into_iter().collect();
    let failures = suite::failures(&backend, &lacking);
    assert!(
        failures.is_empty(),
        "{} of {} failed:\n{}",
        failures.len(),
        suite::count(),
        failures.join("\n")
    );
}

/// One that this machine does not have is said so, and passes; in CI that is a failure.
fn a_container_passes_the_suite(backend: &dyn Backend) {
    let name = backend.name();
    let usable = backend.probe().usable;
    if usable != Usable::Yes {
        assert!(
            std::env::var_os("CI").is_none(),
            "no {name} in CI: {usable:?}"
        );
        eprintln!("SKIPPED the suite over {name}: {usable:?}");
        return;
    }
    let lacking = [Guarantee::ClockCoarse].into_iter().collect();
    let failures = suite::failures(backend, &lacking);
    assert!(
        failures.is_empty(),
        "{name}: {} of {} failed:\n{}",
        failures.len(),
        suite::count(),
        failures.join("\n")
    );
}

/// One after the other: each has fifty at once among its cases.
#[test]
fn containers_pass_the_suite() {
    let store = casemate_jail::setup::Store::open().expect("a cache folder");
    let program = env!("CARGO_BIN_EXE_casemate");
    for kind in [
        Kind::Crun,
        Kind::Runc,
        Kind::Gvisor(Platform::Systrap),
        Kind::Gvisor(Platform::Ptrace),
    ] {
        a_container_passes_the_suite(&ContainerBackend::new(kind, store.clone(), program));
    }
    for variant in [Variant::Native, Variant::Gvisor] {
        a_container_passes_the_suite(&DockerBackend::new(variant, store.clone(), program));
    }
}

#[test]
fn randomness_differs_between_runs_of_one_worker() {
    let backend = wasm();
    let code = "import random, numpy, uuid, tempfile, secrets\n\
                print(random.random())\nprint(numpy.random.rand())\nprint(uuid.uuid4())\n\
                print(tempfile.mktemp())\nprint(secrets.token_hex(4))\nprint(uuid.uuid1())";
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        let run = suite::run(&backend, &suite::plan_for(code), &Cancel::new()).expect("a run");
        for line in run.stdout.lines() {
            assert!(seen.insert(line.to_owned()), "{line} came twice");
        }
    }
    assert_eq!(seen.len(), 30);
}
