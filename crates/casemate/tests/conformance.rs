//! The conformance suite over every backend of this build, with real workers.

use std::collections::BTreeSet;

use casemate_backend::contract::Cancel;
use casemate_backend::suite;
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
    let failures = suite::failures(&wasm());
    assert!(
        failures.is_empty(),
        "{} of {} failed:\n{}",
        failures.len(),
        suite::count(),
        failures.join("\n")
    );
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
