//! Programs in children of a zygote: the same walls, measured from outside, and nothing inherited.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use casemate_backend::contract::{Backend, Cancel, CreateError, Offer, Sandbox};
use casemate_backend::plan::Plan;
use casemate_backend::suite::{self, Seen, plan_for, plan_without};
use casemate_jail::setup::Store;
use casemate_jail::{JailBackend, Warm};
use casemate_model::guarantee::Guarantee;
use casemate_model::job::TenantId;
use casemate_model::outcome::Exit;
use casemate_model::receipt::Receipt;
use rustix::process::{Pid, Signal, kill_process, pidfd_open};

use crate::support::{lacking, missing, this_program};
use crate::walls::{living_below, traces};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("warm_passes_the_suite", passes_the_suite),
    ("small_passes_the_suite", small_passes_the_suite),
    (
        "what_a_program_loads_decides_its_zygote",
        zygote_for_what_is_loaded,
    ),
    ("warm_receipts_say_so_and_lack_nothing_else", receipts),
    ("warm_programs_have_four_descriptors", descriptors),
    ("warm_randomness_differs_between_runs", randomness),
    ("a_policy_that_asks_for_it_starts_cold", asked_for_cold),
    (
        "nobody_waits_any_more_where_another_program_begins",
        nobody_waits_any_more,
    ),
    ("a_dead_maker_of_jails_is_replaced", dead_maker),
    (
        "a_zygote_that_made_room_is_gone_though_a_child_of_it_waits",
        made_room,
    ),
    (
        "a_dead_zygote_is_replaced_and_the_run_starts_cold",
        dead_zygote,
    ),
    ("a_program_dies_with_its_zygote", dies_with_its_zygote),
    ("warm_jails_leave_nothing_behind", nothing_left),
    ("a_killed_engine_leaves_no_warm_process", killed),
    ("a_warm_start_is_faster_than_a_cold_one", faster),
];

/// Runs after which nothing may be left.
const RUNS: usize = 1000;

/// A backend whose zygote is loaded, and the zygote's number. None without root, in so many words.
fn warm() -> Option<(JailBackend, u32)> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root has zygotes");
        return None;
    }
    let keep = Warm {
        spares: 2,
        zygotes: 2,
    };
    let backend = JailBackend::new(Store::open().unwrap(), this_program());
    let backend = backend.warm(keep).unwrap();
    let zygote = backend.wait_warm(&plan_for("").tenant).unwrap();
    Some((backend, zygote))
}

fn run(backend: &JailBackend, code: &str) -> Seen {
    suite::run(backend, &plan_without(code, &lacking()), &Cancel::new()).unwrap()
}

/// For a program that is known to load these modules and no others.
fn plan_that_loads(code: &str, names: &[&str]) -> Plan {
    let names = names.iter().map(|name| (*name).to_owned());
    Plan {
        loads: Some(names.collect()),
        ..plan_without(code, &lacking())
    }
}

fn layout(receipt: &Receipt) -> Result<&str, &str> {
    let wall = receipt
        .walls
        .iter()
        .find(|wall| wall.name == "memory_layout");
    let wall = wall.unwrap();
    wall.got
        .as_deref()
        .ok_or_else(|| wall.missing.as_deref().unwrap())
}

/// A backend for which a start without a zygote is an error.
struct OnlyWarm(JailBackend);

/// The same, from the zygote that has no libraries.
struct OnlySmall(OnlyWarm);

impl Backend for OnlySmall {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn probe(&self) -> Offer {
        self.0.probe()
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        let loads = Some(BTreeSet::new());
        self.0.create(&Plan {
            loads,
            ..plan.clone()
        })
    }
}

impl Backend for OnlyWarm {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn probe(&self) -> Offer {
        self.0.probe()
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        let (mut sandbox, mut receipt) = self.0.create(plan)?;
        if !casemate_jail::is_warm(&receipt) {
            drop(sandbox);
            // The first run of its tenant, or its zygote made room for another's.
            self.0.wait_warm(&plan.tenant).map_err(CreateError::Fault)?;
            (sandbox, receipt) = self.0.create(plan)?;
        }
        if casemate_jail::is_warm(&receipt) {
            return Ok((sandbox, receipt));
        }
        let why = layout(&receipt);
        Err(CreateError::Fault(format!("started cold: {why:?}")))
    }
}

fn passes_the_suite() {
    let Some((backend, _)) = warm() else { return };
    suite_passes(&OnlyWarm(backend));
}

fn small_passes_the_suite() {
    let Some((backend, _)) = warm() else { return };
    suite_passes(&OnlySmall(OnlyWarm(backend)));
}

fn suite_passes(backend: &dyn Backend) {
    let failures = suite::failures(backend, &lacking());
    assert!(
        failures.is_empty(),
        "{} of {} failed:\n{}",
        failures.len(),
        suite::count(),
        failures.join("\n")
    );
}

fn zygote_for_what_is_loaded() {
    let Some((backend, zygote)) = warm() else {
        return;
    };
    let zygote_of = |plan: &Plan| {
        let (sandbox, receipt) = backend.create(plan).unwrap();
        drop(sandbox);
        let said = layout(&receipt).unwrap_err().to_owned();
        let (_, number) = said.split_once("zygote ").unwrap();
        let number: String = number.chars().take_while(char::is_ascii_digit).collect();
        number.parse::<u32>().unwrap()
    };
    assert_eq!(zygote_of(&plan_without("print(1)", &lacking())), zygote);
    assert_eq!(zygote_of(&plan_that_loads("", &["json", "pandas"])), zygote);
    let small = zygote_of(&plan_that_loads("", &["json"]));
    assert_ne!(small, zygote);
    assert_eq!(small, zygote_of(&plan_that_loads("", &[])));
    let memory = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.unwrap().split_whitespace().nth(1).unwrap();
        number.parse::<u64>().unwrap()
    };
    let (small, whole) = (memory(small), memory(zygote));
    println!("    a zygote has {whole} KiB, one without libraries {small} KiB");
    assert!(small * 3 < whole);
    // What is read from a program's text may be wrong: then it loads the rest itself.
    let more = plan_that_loads("import numpy\nprint(numpy.arange(3).sum())", &[]);
    let seen = suite::run(&backend, &more, &Cancel::new()).unwrap();
    assert_eq!(seen.stdout, "3\n", "{}", seen.stderr);
}

fn receipts() {
    let Some((backend, zygote)) = warm() else {
        return;
    };
    let plan = plan_without("print(1)", &lacking());
    let (_sandbox, receipt) = backend.create(&plan).unwrap();
    assert!(
        layout(&receipt)
            .unwrap_err()
            .contains(&format!("zygote {zygote}"))
    );
    receipt.satisfies(&plan.asked).unwrap();
    let missing = missing(&receipt);
    assert_eq!(missing.len(), 1, "{missing:#?}");
    for name in [
        "seccomp",
        "identity",
        "capabilities",
        "descriptors",
        "root",
        "rlimits",
    ] {
        let wall = receipt.walls.iter().find(|wall| wall.name == name).unwrap();
        assert!(
            wall.got.as_deref().unwrap().starts_with("measured: "),
            "{wall:?}"
        );
    }
}

fn descriptors() {
    let Some((backend, _)) = warm() else { return };
    let code = "import os\n\
        def there(fd):\n    try: os.fstat(fd)\n    except OSError: return False\n    return True\n\
        print([fd for fd in range(4096) if there(fd)], os.getpid(), os.getsid(0), os.getppid())";
    let seen = run(&backend, code);
    assert_eq!(seen.stdout, "[0, 1, 2, 3] 2 2 0\n", "{}", seen.stderr);
}

fn randomness() {
    let Some((backend, _)) = warm() else { return };
    let code = "import random, numpy, uuid, tempfile, secrets, ssl, multiprocessing\n\
        print(random.random())\nprint(numpy.random.rand())\nprint(numpy.random.default_rng().random())\n\
        print(uuid.uuid4())\nprint(uuid.uuid1())\nprint(tempfile.mktemp())\nprint(secrets.token_hex(8))\n\
        print(ssl.RAND_bytes(8).hex())\nprint(bytes(multiprocessing.current_process().authkey).hex())";
    let mut all = BTreeSet::new();
    let (whole, small) = (plan_without(code, &lacking()), plan_that_loads(code, &[]));
    for plan in [&whole, &small].repeat(4) {
        let seen = suite::run(&backend, plan, &Cancel::new()).unwrap();
        assert_eq!(seen.stdout.lines().count(), 9, "{}", seen.stderr);
        for line in seen.stdout.lines() {
            assert!(all.insert(line.to_owned()), "{line} came twice");
        }
    }
}

fn asked_for_cold() {
    let Some((backend, _)) = warm() else { return };
    let mut plan = plan_without("print(1)", &lacking());
    plan.asked.insert(Guarantee::LayoutFresh);
    let (_sandbox, receipt) = backend.create(&plan).unwrap();
    assert!(layout(&receipt).unwrap().contains("the policy asks"));
    receipt.satisfies(&plan.asked).unwrap();
}

fn nobody_waits_any_more() {
    let Some((backend, _)) = warm() else { return };
    let code = "import os\n\
        others = {int(name) for name in os.listdir('/proc') if name.isdigit()} - {1, os.getpid()}\n\
        print({name: open(f'/proc/{name}/comm').read() for name in others})";
    let mut cold = plan_without(code, &lacking());
    cold.asked.insert(Guarantee::LayoutFresh);
    let plans = [
        (plan_that_loads(code, &[]), true),
        (plan_without(code, &lacking()), true),
        (cold, false),
    ];
    // The third time round a child of each zygote has waited in a jail that another took.
    for (plan, warm) in plans.iter().cycle().take(9) {
        let (sandbox, receipt) = backend.create(plan).unwrap();
        assert_eq!(casemate_jail::is_warm(&receipt), *warm);
        drop(sandbox);
        backend.wait_warm(&plan.tenant).unwrap();
        let seen = suite::run(&backend, plan, &Cancel::new()).unwrap();
        assert_eq!(seen.stdout, "{}\n", "{}", seen.stderr);
        backend.wait_warm(&plan.tenant).unwrap();
    }
}

fn made_room() {
    let Some((backend, _)) = warm() else { return };
    let plan_of = |tenant: &str| Plan {
        tenant: TenantId::new(tenant),
        ..plan_without("print(1)", &lacking())
    };
    // With room for two, the third makes the first go.
    let mut zygotes = Vec::new();
    for tenant in ["a", "b", "c"] {
        let plan = plan_of(tenant);
        zygotes.push(backend.wait_warm(&plan.tenant).unwrap());
        let seen = suite::run(&backend, &plan, &Cancel::new()).unwrap();
        assert_eq!(seen.stdout, "1\n", "{}", seen.stderr);
        backend.wait_warm(&plan.tenant).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while living_below(std::process::id()).contains(&zygotes[0]) {
        assert!(Instant::now() < deadline, "the first is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(living_below(std::process::id()).contains(&zygotes[2]));
}

/// The network namespace of a process.
fn network(process: &str) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{process}/ns/net")).ok()
}

/// The process of this one that makes jails. One that it has just made looks like it until it has left for namespaces
/// of its own.
fn maker() -> u32 {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match makers()[..] {
            [one] => return one,
            ref others => assert!(Instant::now() < deadline, "{others:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn makers() -> Vec<u32> {
    let argument = casemate_jail::maker::process::ARGUMENT.as_bytes();
    let own = living_below(std::process::id()).into_iter();
    let makes = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Each jail that it made has its command line too, and a network of its own.
        line.split(|byte| *byte == 0).nth(1) == Some(argument)
            && network(&pid.to_string()) == network("self")
    };
    own.filter(makes).collect()
}

fn dead_maker() {
    let Some((backend, _)) = warm() else { return };
    let before = maker();
    kill_and_wait(before);
    for _ in 0..4 {
        assert_eq!(run(&backend, "print(1)").stdout, "1\n");
    }
    backend.wait_warm(&plan_for("").tenant).unwrap();
    assert_ne!(maker(), before);
}

fn kill_and_wait(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let pidfd: OwnedFd = pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let second = Duration::from_secs(5);
    assert!(
        casemate_driver::packets::wait_readable(&[std::os::fd::AsFd::as_fd(&pidfd)], second)
            .unwrap()
    );
}

fn dead_zygote() {
    let Some((backend, zygote)) = warm() else {
        return;
    };
    kill_and_wait(zygote);
    let plan = plan_without("print(1)", &lacking());
    let (sandbox, receipt) = backend.create(&plan).unwrap();
    assert!(layout(&receipt).unwrap().contains("the zygote has ended"));
    drop(sandbox);
    let next = backend.wait_warm(&plan.tenant).unwrap();
    assert_ne!(next, zygote);
    assert_eq!(run(&backend, "print(1)").stdout, "1\n");
}

fn dies_with_its_zygote() {
    let Some((backend, zygote)) = warm() else {
        return;
    };
    let begun = Instant::now();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        kill_and_wait(zygote);
    });
    let seen = run(&backend, "import time\ntime.sleep(15)\nprint('late')");
    killer.join().unwrap();
    assert_eq!(seen.stdout, "");
    assert!(matches!(seen.finish.unwrap().exit, Exit::Signal(9)));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

fn nothing_left() {
    let before = traces();
    {
        let Some((backend, _)) = warm() else { return };
        for code in [
            "print(1)",
            "import os, time\nfor _ in range(5):\n    if os.fork() == 0: os.setsid(); time.sleep(100)",
            "x = bytearray(900 << 20)",
            "import os; os.kill(os.getpid(), 9)",
        ] {
            drop(run(&backend, code));
        }
        let plan = plan_without("print(1)", &lacking());
        drop(backend.create(&plan).unwrap());
        let open = descriptors_of_this_process();
        let only = OnlyWarm(backend);
        for _ in 0..RUNS {
            let seen = suite::run(&only, &plan, &Cancel::new()).unwrap();
            assert_eq!(seen.stdout, "1\n");
        }
        only.0.wait_warm(&plan.tenant).unwrap();
        let more = descriptors_of_this_process().saturating_sub(open);
        assert!(more < 20, "{more} descriptors more after {RUNS} runs");
    }
    assert_eq!(traces(), before);
}

fn descriptors_of_this_process() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The first argument that makes this program one that keeps jails warm, until it is killed.
pub(crate) const ENGINE: &str = "warm-engine";

/// Runs one program after the other in children of a zygote. A word on standard output says that it stands.
pub(crate) fn engine() {
    let (backend, _) = warm().unwrap();
    println!("stands");
    loop {
        let code = "import os, time\nif os.fork() == 0: os.setsid()\ntime.sleep(0.05)";
        drop(run(&backend, code));
    }
}

/// Kills a process that keeps jails warm, at ten moments that nobody chose, and looks for what it left.
fn killed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    for _ in 0..10 {
        let mut engine = casemate_linux::Spawn::new(this_program()).arg(ENGINE);
        for name in ["HOME", "XDG_CACHE_HOME"] {
            if let Some(value) = std::env::var_os(name) {
                engine = engine.env(name, value);
            }
        }
        let (reader, writer) = std::io::pipe().unwrap();
        engine = engine.fd(&writer, 1);
        let engine = engine.spawn().unwrap();
        drop(writer);
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
        assert_eq!(lines.next().unwrap().unwrap(), "stands");
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let moment = u64::from(clock.unwrap().subsec_micros() % 200);
        std::thread::sleep(Duration::from_millis(moment));
        assert!(living_below(std::process::id()).len() > 3);
        kill_and_wait(engine.pid());
        drop(engine);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            // What lost its parent is this process's to wait for; a process table ends when all in it are.
            while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
            let left = living_below(std::process::id());
            if left.is_empty() {
                break;
            }
            let what = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
            assert!(
                Instant::now() < deadline,
                "left after {moment} ms: {:#?}",
                left.iter().filter_map(what).collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // What lies in the control groups' file systems goes at the next start.
    casemate_linux::cgroup::reclaim_stale().unwrap();
    rustix::process::set_child_subreaper(None).unwrap();
}

/// The median of twenty runs each, made in turn.
fn faster() {
    let Some((backend, _)) = warm() else { return };
    let cold = JailBackend::new(Store::open().unwrap(), this_program());
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..20 {
        for (backend, took) in [&cold, &backend].into_iter().zip(&mut took) {
            let begun = Instant::now();
            assert_eq!(run(backend, "print('hello')").stdout, "hello\n");
            took.push(begun.elapsed());
        }
    }
    took.iter_mut().for_each(|took| took.sort_unstable());
    let least = [took[0][0], took[1][0]];
    let [cold, warm] = took.map(|took| took[took.len() / 2]);
    println!("    hello: cold {cold:?}, from a zygote {warm:?}; at least {least:?}");
    assert!(warm < cold);
}
