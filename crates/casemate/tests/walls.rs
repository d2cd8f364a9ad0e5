//! The walls around a live worker, seen from outside it; and that a missing one stops the job.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Lost, Offer, Sandbox, Signal, Usable,
};
use casemate_backend::plan::Plan;
use casemate_backend::suite::{self, plan_for};
use casemate_engine::Engine;
use casemate_model::event::{Event, What, Witness};
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::job::{JobBuilder, Language, Program, RunId, TenantId};
use casemate_model::outcome::{Ending, Exit, Usage};
use casemate_model::policy::{Policy, base_guarantees};
use casemate_model::receipt::{Need, Receipt, Wall};
use casemate_model::unit::ByteSize;
use casemate_wasm::WasmBackend;
use casemate_wasm::setup::Store;
use casemate_watch::AlertRules;

fn wasm() -> WasmBackend {
    WasmBackend::new(Store::open().unwrap(), env!("CARGO_BIN_EXE_casemate"))
}

fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field}"))
        .trim()
        .to_owned()
}

fn is_root() -> bool {
    status(std::process::id(), "Uid").starts_with("0\t")
}

#[test]
fn a_waiting_worker_holds_nothing_and_can_do_nothing() {
    let backend = wasm();
    backend.prefork(1).unwrap();
    let pid = backend.idle_pids()[0];
    assert_eq!(status(pid, "Seccomp"), "2", "a filter is on");
    assert!(
        status(pid, "Seccomp_filters").parse::<u32>().unwrap() >= 2,
        "both filters are on"
    );
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(
            u64::from_str_radix(&status(pid, set), 16).unwrap(),
            0,
            "{set}"
        );
    }
    if !is_root() {
        eprintln!(
            "SKIPPED the descriptors of the worker: only root can look into an undumpable process"
        );
        return;
    }
    assert_ne!(
        status(pid, "Uid").split('\t').next().unwrap(),
        "0",
        "root is given up"
    );
    let mut open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| {
            fs::read_link(entry.unwrap().path())
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    open.sort();
    let known = |target: &String| {
        let ends = ["/module.cwasm", "/memory.bin", "/pagemap", "[userfaultfd]"];
        target.starts_with("socket:") || ends.iter().any(|end| target.ends_with(end))
    };
    assert!(open.iter().all(known), "{open:?}");
    assert!(open.len() <= 6, "{open:?}");
    for namespace in ["net", "ipc", "uts", "mnt"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
    }
    assert_eq!(
        fs::read_dir(format!("/proc/{pid}/root/")).unwrap().count(),
        0,
        "its root is empty"
    );
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let both = maps.lines().filter(|line| {
        line.split(' ')
            .nth(1)
            .is_some_and(|mode| mode.contains('w') && mode.contains('x'))
    });
    assert_eq!(both.count(), 0, "no memory is writable and executable");
}

#[test]
fn a_receipt_names_every_wall_and_covers_every_policy() {
    let plan = plan_for("print(1)");
    let (_sandbox, receipt) = wasm().create(&plan).unwrap();
    assert_eq!(receipt.satisfies(&base_guarantees()), Ok(()));
    for name in [
        "seccomp",
        "seccomp_sealed",
        "landlock_files",
        "rlimits",
        "wasm",
        "wasi_files",
        "limit_memory",
    ] {
        assert!(receipt.walls.iter().any(|wall| wall.name == name), "{name}");
    }
    if is_root() {
        let processor = ["speculation", "core_scheduling"];
        let missing = receipt.walls.iter().filter(|wall| !wall.stands());
        let missing: Vec<_> = missing
            .filter(|wall| !processor.contains(&wall.name.as_str()))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn a_worker_is_used_again_by_its_tenant_and_by_no_other() {
    let backend = wasm();
    let run = |tenant: &str| {
        let mut plan = plan_for("print(1)");
        plan.tenant = TenantId::new(tenant);
        suite::run(&backend, &plan, &Cancel::new()).unwrap();
        backend.idle_pids()
    };
    let first = run("a");
    assert_eq!(run("a"), first, "the same tenant, the same worker");
    let both = run("b");
    assert_eq!(both.len(), 2, "another tenant, another worker");
    assert!(both.contains(&first[0]));
}

#[test]
fn a_worker_is_gone_after_a_limit_and_after_a_cancel() {
    let backend = wasm();
    let mut plan = plan_for("while True: pass");
    plan.limits.cpu_time = casemate_model::limit::Limit::At(casemate_model::limit::Millis(
        std::time::Duration::from_millis(100),
    ));
    suite::run(&backend, &plan, &Cancel::new()).unwrap();
    assert!(backend.idle_pids().is_empty());
}

/// A backend whose sandbox has a gap and says whether it was started all the same.
struct Gappy {
    walls: Vec<Wall>,
    started: Arc<AtomicBool>,
}

struct GappySandbox(Arc<AtomicBool>);

impl Backend for Gappy {
    fn name(&self) -> &'static str {
        "gappy"
    }

    fn probe(&self) -> Offer {
        Offer {
            backend: "gappy".into(),
            usable: Usable::Yes,
            images: Usable::Yes,
            languages: Language::ALL.to_vec(),
            guarantees: base_guarantees(),
            lost: Lost::new(),
            memory_floor: ByteSize(0),
            memory_ceiling: ByteSize(u64::MAX),
            cost: 1,
            notes: Vec::new(),
        }
    }

    fn create(&self, _plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        let receipt = Receipt {
            backend: "gappy".into(),
            guest: "none".into(),
            walls: self.walls.clone(),
        };
        Ok((Box::new(GappySandbox(self.started.clone())), receipt))
    }
}

impl Sandbox for GappySandbox {
    fn run(
        self: Box<Self>,
        _: &Plan,
        sink: &mut dyn FnMut(Signal),
        _: &Cancel,
    ) -> Result<Finish, Fault> {
        self.0.store(true, Ordering::SeqCst);
        sink(Signal::Event(Event {
            at_us: 1,
            witness: Witness::Host,
            what: What::EnvRead { name: "A".into() },
        }));
        Ok(Finish {
            exit: Exit::Code(0),
            usage: Usage::default(),
            artifacts: Vec::new(),
        })
    }
}

fn run_gappy(walls: Vec<Wall>) -> (Ending, bool) {
    let started = Arc::new(AtomicBool::new(false));
    let backend = Gappy {
        walls,
        started: started.clone(),
    };
    let engine = Engine::new(vec![Arc::new(backend)], AlertRules::embedded().unwrap());
    (run_on(&engine), started.load(Ordering::SeqCst))
}

fn run_on(engine: &Engine) -> Ending {
    let program = Program {
        source: b"print(1)".to_vec(),
        name: "a.py".into(),
        language: Language::Python,
    };
    let job = JobBuilder::new(RunId::from_bits(1), program, Policy::default())
        .build()
        .unwrap();
    engine.run(job, &mut |_| {}, &Cancel::new()).ending
}

/// A backend that cannot be used when it is first asked, and can from then on.
struct Mended {
    backend: Gappy,
    asked: Arc<AtomicUsize>,
}

impl Backend for Mended {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn probe(&self) -> Offer {
        let usable = match self.asked.fetch_add(1, Ordering::SeqCst) {
            0 => Usable::No {
                why: "not yet".into(),
                fix: "wait".into(),
            },
            _ => Usable::Yes,
        };
        Offer {
            usable,
            ..self.backend.probe()
        }
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        self.backend.create(plan)
    }
}

#[test]
fn offers_are_believed_for_a_moment_and_asked_for_anew_before_a_job_is_refused() {
    let asked = Arc::new(AtomicUsize::new(0));
    let whole = Wall::standing("all", Need::Required, "x", "y", base_guarantees());
    let mended = Mended {
        backend: Gappy {
            walls: vec![whole],
            started: Arc::default(),
        },
        asked: asked.clone(),
    };
    let engine = Engine::new(vec![Arc::new(mended)], AlertRules::embedded().unwrap());
    assert_eq!(run_on(&engine), Ending::Exited { code: 0 });
    assert_eq!(
        asked.load(Ordering::SeqCst),
        2,
        "once more before a refusal"
    );
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for _ in 0..5 {
        assert_eq!(run_on(&engine), Ending::Exited { code: 0 });
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3, "once for all of these");
}

#[test]
fn a_gap_in_the_receipt_stops_the_job_before_it_starts() {
    let all = |but: Option<Guarantee>| -> Guarantees {
        base_guarantees()
            .iter()
            .filter(|g| Some(*g) != but)
            .collect()
    };
    let whole = Wall::standing("all", Need::Required, "x", "y", all(None));
    assert_eq!(
        run_gappy(vec![whole.clone()]),
        (Ending::Exited { code: 0 }, true)
    );
    for guarantee in base_guarantees().iter() {
        let (ending, started) = run_gappy(vec![Wall::standing(
            "most",
            Need::Required,
            "x",
            "y",
            all(Some(guarantee)),
        )]);
        assert!(!started, "{guarantee}");
        assert!(
            matches!(&ending, Ending::Refused { by, reason } if by == "walls" && reason.contains(guarantee.describe())),
            "{ending:?}"
        );
        assert_eq!(ending.exit_code(), 126);
    }
    let absent = Wall::absent("moat", Need::Required, "x", "dry", Guarantees::none());
    let (ending, started) = run_gappy(vec![whole, absent]);
    assert!(
        !started
            && matches!(&ending, Ending::Refused { reason, .. } if reason.contains("moat (dry)")),
        "{ending:?}"
    );
    assert!(!run_gappy(Vec::new()).1);
}

#[test]
fn a_worker_that_died_while_it_waited_is_replaced() {
    let backend = wasm();
    backend.prefork(1).unwrap();
    let pid = rustix::process::Pid::from_raw(backend.idle_pids()[0].cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let seen = suite::run(&backend, &plan_for("print('here')"), &Cancel::new()).unwrap();
    assert_eq!(seen.stdout, "here\n");
}

/// Giving much memory back must not make a call that the filter kills.
#[test]
fn a_worker_survives_large_inputs_and_outputs_again_and_again() {
    let backend = wasm();
    let mut plan = plan_for(
        "open('/tmp/out', 'wb').write(open('/data/in.csv', 'rb').read() * 2)\nprint('x' * 500_000)",
    );
    plan.inputs[0].bytes = vec![b'a'; 8 << 20].into();
    for round in 0..20 {
        let seen = suite::run(&backend, &plan, &Cancel::new()).unwrap();
        assert_eq!(
            seen.stdout.len(),
            500_001,
            "round {round}: {:?}",
            seen.finish.map(|finish| finish.exit)
        );
    }
}
