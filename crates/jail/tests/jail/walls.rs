//! The walls around a jail, seen from outside it.

use std::collections::BTreeSet;
use std::fs;

use casemate_backend::contract::{Backend, Cancel};
use casemate_backend::suite::{self, plan_without};
use casemate_jail::JailBackend;
use casemate_jail::setup::Store;
use casemate_model::limit::{Limit, LimitKind, Millis};
use casemate_model::outcome::Exit;
use casemate_model::unit::ByteSize;

use crate::support::{jail, lacking, missing, run_with, seen, this_program};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_receipt_names_every_wall", a_receipt_names_every_wall),
    (
        "a_jail_that_is_not_started_runs_nothing_and_leaves_nothing",
        not_started,
    ),
    (
        "nothing_is_left_behind_after_any_end",
        nothing_is_left_behind,
    ),
    ("packages_that_are_a_link_are_not_shown", linked_packages),
    ("opened_files_are_told", opened_files),
    (
        "a_program_that_is_not_the_jails_first_process_is_an_error",
        another_program,
    ),
    ("processes_threads_and_native_code_are_real", real),
    ("figures_and_tables_come_back", figures_and_tables),
    ("the_number_of_processors_is_true", processors),
    (
        "limits_begin_with_the_program",
        limits_begin_with_the_program,
    ),
    ("pandas_and_a_figure_fit_in_little_memory", little_memory),
    ("large_inputs_and_outputs_cross", large),
    ("randomness_differs_between_runs", randomness),
];

fn a_receipt_names_every_wall() {
    let (_sandbox, receipt) = jail()
        .create(&plan_without("print(1)", &lacking()))
        .unwrap();
    if rustix::process::geteuid().is_root() {
        let missing = missing(&receipt);
        assert!(missing.is_empty(), "{missing:?}");
    }
    let names: Vec<&str> = receipt
        .walls
        .iter()
        .map(|wall| wall.name.as_str())
        .collect();
    for name in [
        "network_namespace",
        "pid_namespace",
        "root",
        "system_read_only",
        "inputs_read_only",
        "scratch_quota",
        "devices",
        "proc",
        "rlimits",
        "identity",
        "capabilities",
        "landlock_files",
        "seccomp",
        "environment",
        "cgroup_memory",
        "cgroup_swap",
        "cgroup_pids",
        "limit_memory",
        "limit_cpu_time",
        "limit_disk",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    println!(
        "{}",
        receipt
            .walls
            .iter()
            .map(|w| format!("    {:20} {}\n", w.name, w.got.as_deref().unwrap_or("-")))
            .collect::<String>()
    );
}

/// Groups, mounts and processes of this test's jails.
pub(crate) fn traces() -> (usize, usize, usize) {
    let mut groups = 0;
    for controller in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        let ours = fs::read_dir(controller.path().join("casemate"))
            .into_iter()
            .flatten()
            .flatten();
        let me = format!("-{}-", std::process::id());
        groups += ours
            .filter(|e| e.file_name().to_string_lossy().contains(&me))
            .count();
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .count();
    (groups, mounts, below(std::process::id()))
}

/// Processes below one, however deep.
fn below(root: u32) -> usize {
    all_below(root, &|_| true).len()
}

/// The same without those that have ended and that nobody has waited for.
pub(crate) fn living_below(root: u32) -> BTreeSet<u32> {
    all_below(root, &|state| state != "Z")
}

fn all_below(root: u32, counts: &dyn Fn(&str) -> bool) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let rest = stat.rsplit_once(')')?.1;
            if !counts(rest.split_whitespace().next()?) {
                return None;
            }
            Some((pid, rest.split_whitespace().nth(1)?.parse().ok()?))
        })
        .collect();
    let mut found: BTreeSet<u32> = BTreeSet::from([root]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            found.remove(&root);
            return found;
        }
        found.extend(more);
    }
}

fn not_started() {
    let before = traces();
    let backend = jail();
    for _ in 0..3 {
        let plan = plan_without("open('/tmp/a', 'w')", &lacking());
        let (sandbox, _receipt) = backend.create(&plan).unwrap();
        drop(sandbox);
    }
    assert_eq!(traces(), before);
}

fn nothing_is_left_behind() {
    let before = traces();
    for code in [
        "print(1)",
        "import os; os._exit(3)",
        "import os; os.kill(os.getpid(), 9)",
        "import os, time\nfor _ in range(5):\n    if os.fork() == 0: os.setsid(); time.sleep(100)",
        "x = bytearray(900 << 20)",
        "import os\nfor fd in range(20):\n    try: os.close(fd)\n    except OSError: pass\nimport time; time.sleep(0.2)",
    ] {
        drop(seen(code));
    }
    let slow = run_with("import time; time.sleep(100)", |plan| {
        plan.limits.wall_time = Limit::At(Millis(std::time::Duration::from_millis(200)));
    });
    assert!(matches!(
        slow.finish.unwrap().exit,
        Exit::Limit {
            limit: LimitKind::WallTime,
            ..
        }
    ));
    assert_eq!(traces(), before);
}

/// A folder of the cache that somebody turned into a link is not followed.
fn linked_packages() {
    let temp = tempfile::tempdir().unwrap();
    let real = Store::open().unwrap().dir();
    let store = Store::at(temp.path().to_owned());
    fs::create_dir_all(store.dir()).unwrap();
    fs::copy(
        real.join("manifest.json"),
        store.dir().join("manifest.json"),
    )
    .unwrap();
    std::os::unix::fs::symlink("/etc", store.dir().join("opt")).unwrap();
    let backend = JailBackend::new(store, this_program());
    let error = backend
        .create(&plan_without("print(1)", &lacking()))
        .err()
        .unwrap();
    assert!(error.to_string().contains("damaged"), "{error}");
}

/// By the guest, which may keep silent: nothing else sees them.
fn opened_files() {
    let seen = seen(
        "open('/data/in.csv').read()\nopen('/tmp/a', 'w')\ntry: open('/etc/passwd')\nexcept OSError: pass",
    );
    let opened = seen
        .events
        .iter()
        .filter(|event| **event == "file_open")
        .count();
    assert_eq!(opened, 3, "{:?}", seen.events);
}

fn another_program() {
    let backend = JailBackend::new(Store::open().unwrap(), "/usr/bin/true");
    let error = backend
        .create(&plan_without("print(1)", &lacking()))
        .err()
        .unwrap();
    assert!(error.to_string().contains("could not be built"), "{error}");
}

fn real() {
    let seen = seen(
        "import ctypes, subprocess, threading, multiprocessing\n\
         from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor\n\
         print(subprocess.run(['echo', 'hi'], capture_output=True, text=True).stdout, end='')\n\
         def double(x): return x * 2\n\
         with ThreadPoolExecutor(2) as pool: print(list(pool.map(double, [1, 2])))\n\
         with ProcessPoolExecutor(2) as pool: print(list(pool.map(double, [3, 4])))\n\
         print(ctypes.CDLL('libc.so.6').abs(-5))\n\
         threading.Thread(target=lambda: print('late')).start()",
    );
    assert_eq!(
        seen.stdout, "hi\n[2, 4]\n[6, 8]\n5\nlate\n",
        "{}",
        seen.stderr
    );
    // Threads are told from Python 3.12 on, which announces them.
    for event in ["process", "native_code"] {
        assert!(seen.events.contains(&event), "{event}: {:?}", seen.events);
    }
}

fn figures_and_tables() {
    use casemate_backend::contract::Signal;
    let backend = jail();
    let plan = plan_without(
        "import pandas as pd, matplotlib.pyplot as plt\n\
         frame = pd.read_csv('in.csv')\n\
         frame.plot(); plt.savefig('/tmp/chart.png'); plt.show()\n\
         frame",
        &lacking(),
    );
    let (sandbox, _) = backend.create(&plan).unwrap();
    let mut forms = Vec::new();
    let mut said = String::new();
    let mut sink = |signal| match signal {
        Signal::Displayed(shown) => {
            forms.extend(shown.representations.into_iter().map(|form| form.mime))
        }
        Signal::Stderr(bytes) => said.push_str(&String::from_utf8_lossy(&bytes)),
        _ => {}
    };
    let finish = sandbox.run(&plan, &mut sink, &Cancel::new()).unwrap();
    assert_eq!(said, "", "nothing is said about fonts or folders");
    for mime in [
        "image/png",
        "application/vnd.casemate.chart+json",
        "application/vnd.casemate.table+json",
        "text/html",
    ] {
        assert!(forms.iter().any(|form| form == mime), "{mime}: {forms:?}");
    }
    let paths: Vec<&str> = finish.artifacts.iter().map(|a| a.path.as_str()).collect();
    assert_eq!(paths, ["/tmp/chart.png"]);
}

fn processors() {
    let seen = run_with(
        "import os\nprint(len(os.sched_getaffinity(0)), open('/dev/null').read())",
        |plan| plan.limits.cpu_millis = 500,
    );
    assert_eq!(seen.stdout, "1 \n", "{}", seen.stderr);
}

/// The interpreter's own start costs a program nothing.
fn limits_begin_with_the_program() {
    let seen = run_with("print(sum(range(1000)))", |plan| {
        let short = Limit::At(Millis(std::time::Duration::from_millis(60)));
        plan.limits.cpu_time = short;
    });
    assert_eq!(seen.stdout, "499500\n", "{:?}", seen.finish);
}

fn little_memory() {
    let seen = run_with(
        "import pandas as pd, matplotlib.pyplot as plt\n\
         pd.DataFrame({'a': range(1000)}).plot(); plt.show(); print('drawn')",
        |plan| plan.limits.memory = Limit::At(ByteSize::mib(8)),
    );
    assert_eq!(seen.stdout, "drawn\n", "{:?} {}", seen.finish, seen.stderr);
}

fn large() {
    let seen = run_with(
        "data = open('/data/in.csv', 'rb').read()\nopen('/tmp/out', 'wb').write(data * 2)\nprint('x' * 500_000)",
        |plan| plan.inputs[0].bytes = vec![b'a'; 8 << 20].into(),
    );
    assert_eq!(seen.stdout.len(), 500_001, "{:?}", seen.stderr);
    let finish = seen.finish.unwrap();
    assert_eq!(finish.artifacts[0].bytes.len(), 16 << 20);
}

fn randomness() {
    let code = "import random, numpy, uuid, tempfile, secrets\n\
                print(random.random())\nprint(numpy.random.rand())\nprint(uuid.uuid4())\n\
                print(tempfile.mktemp())\nprint(secrets.token_hex(8))";
    let mut all = BTreeSet::new();
    for _ in 0..3 {
        let run = suite::run(&jail(), &plan_without(code, &lacking()), &Cancel::new()).unwrap();
        for line in run.stdout.lines() {
            assert!(all.insert(line.to_owned()), "{line} came twice");
        }
    }
    assert_eq!(all.len(), 15);
}
