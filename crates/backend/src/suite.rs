//! The conformance suite: what every backend must do, run unchanged over each of them.
//!
//! A case is a Python program and what must be seen of it from outside. A backend passes when
//! [`failures`] is empty. What a kind of isolation cannot give by its nature is named by whoever runs
//! the suite: it is not asked for, and the backend may not offer it either.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_model::event::What;
use casemate_model::guarantee::Guarantees;
use casemate_model::job::TenantId;
use casemate_model::limit::{Limit, LimitKind, Limits, Millis};
use casemate_model::outcome::Exit;
use casemate_model::policy::base_guarantees;
use casemate_model::unit::ByteSize;

use crate::contract::{Backend, Cancel, Finish, Signal};
use crate::plan::{Guest, Plan, PlannedFile};

/// What was seen of one run.
#[derive(Debug, Default)]
pub struct Seen {
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
    /// The end, once there is one.
    pub finish: Option<Finish>,
    /// Limits that were reached.
    pub limits: Vec<LimitKind>,
    /// Names of events.
    pub events: Vec<&'static str>,
    /// What was measured as it went on: microseconds since it began, processor time in microseconds, bytes of memory.
    pub used: Vec<(u64, u64, u64)>,
    /// How long the run took.
    pub took: Duration,
    /// Time from the start to the first output.
    pub first_output: Option<Duration>,
}

impl Seen {
    fn code(&self) -> Option<i32> {
        match self.finish.as_ref()?.exit {
            Exit::Code(code) => Some(code),
            _ => None,
        }
    }

    fn over(&self) -> Option<LimitKind> {
        match self.finish.as_ref()?.exit {
            Exit::Limit { limit, .. } => Some(limit),
            _ => None,
        }
    }

    fn artifact(&self, path: &str) -> Option<&[u8]> {
        let artifacts = &self.finish.as_ref()?.artifacts;
        artifacts
            .iter()
            .find(|artifact| artifact.path == path)
            .map(|artifact| artifact.bytes.as_slice())
    }
}

/// One case.
struct Case {
    name: &'static str,
    code: &'static str,
    change: fn(&mut Plan),
    check: fn(&Seen) -> bool,
}

/// A plan for `code` with finite limits.
pub fn plan_for(code: &str) -> Plan {
    Plan {
        run: "run-suite".to_owned(),
        tenant: TenantId::new("suite"),
        program: file("/work/suite.py", code.as_bytes()),
        guest: Guest::default(),
        loads: None,
        argv: vec!["suite.py".to_owned()],
        env: BTreeMap::new(),
        inputs: vec![file("/data/in.csv", b"a,b\n1,2\n")],
        stdin: Arc::from([]),
        limits: Limits {
            cpu_time: Limit::At(Millis(Duration::from_secs(20))),
            wall_time: Limit::At(Millis(Duration::from_secs(20))),
            ..Limits::default()
        },
        clock_granularity: Duration::from_millis(1),
        asked: base_guarantees(),
    }
}

fn file(path: &str, bytes: &[u8]) -> PlannedFile {
    PlannedFile {
        path: path.to_owned(),
        bytes: Arc::from(bytes),
        sha256: String::new(),
    }
}

/// Runs a plan to its end.
///
/// # Errors
/// What failed on our side, or the walls that were missing.
pub fn run(backend: &dyn Backend, plan: &Plan, cancel: &Cancel) -> Result<Seen, String> {
    let (sandbox, receipt) = backend.create(plan).map_err(|error| error.to_string())?;
    receipt
        .satisfies(&plan.asked)
        .map_err(|gap| gap.to_string())?;
    let mut seen = Seen::default();
    let begun = Instant::now();
    let mut sink = |signal: Signal| match signal {
        Signal::Stdout(bytes) => {
            seen.first_output.get_or_insert(begun.elapsed());
            seen.stdout.push_str(&String::from_utf8_lossy(&bytes));
        }
        Signal::Stderr(bytes) => seen.stderr.push_str(&String::from_utf8_lossy(&bytes)),
        Signal::Event(event) => {
            seen.events.push(event.what.name());
            match event.what {
                What::LimitReached { limit, .. } => seen.limits.push(limit),
                What::Usage {
                    cpu_us,
                    memory_bytes,
                    ..
                } => seen.used.push((event.at_us, cpu_us, memory_bytes)),
                _ => {}
            }
        }
        Signal::Displayed(_) | Signal::Error(_) => {}
    };
    let finish = sandbox
        .run(plan, &mut sink, cancel)
        .map_err(|fault| fault.to_string())?;
    seen.took = begun.elapsed();
    seen.finish = Some(finish);
    Ok(seen)
}

/// A plan for `code` that asks for every base guarantee but those in `lacking`.
pub fn plan_without(code: &str, lacking: &Guarantees) -> Plan {
    Plan {
        asked: base_guarantees().missing_from(lacking),
        ..plan_for(code)
    }
}

/// Runs every case and says which failed and what was seen instead. `lacking` are the base guarantees
/// that this kind of isolation cannot give: none for most.
pub fn failures(backend: &dyn Backend, lacking: &Guarantees) -> Vec<String> {
    let mut failures: Vec<String> = CASES
        .iter()
        .filter_map(|case| case.failure(backend, lacking))
        .collect();
    failures.extend(
        [
            offer_failure(backend, lacking),
            cancelled(backend, lacking),
            nothing_left_behind(backend, lacking),
            many_at_once(backend, lacking),
        ]
        .into_iter()
        .flatten(),
    );
    failures
}

/// The number of cases.
pub fn count() -> usize {
    CASES.len() + 4
}

/// What is wrong with an offer: it must have every base guarantee but those named, and none of those.
pub fn offer_failure(backend: &dyn Backend, lacking: &Guarantees) -> Option<String> {
    let offered = backend.probe().guarantees;
    let missing = base_guarantees().missing_from(&offered);
    (missing != *lacking).then(|| format!("offer: it lacks {missing}, and {lacking} was named"))
}

impl Case {
    fn failure(&self, backend: &dyn Backend, lacking: &Guarantees) -> Option<String> {
        let mut plan = plan_without(self.code, lacking);
        (self.change)(&mut plan);
        match run(backend, &plan, &Cancel::new()) {
            Ok(seen) if (self.check)(&seen) => None,
            Ok(seen) => Some(format!("{}: {seen:?}", self.name)),
            Err(error) => Some(format!("{}: {error}", self.name)),
        }
    }
}

fn cancelled(backend: &dyn Backend, lacking: &Guarantees) -> Option<String> {
    let cancel = Cancel::new();
    let raise = cancel.clone();
    let raiser = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        raise.cancel();
    });
    let begun = Instant::now();
    let seen = run(backend, &plan_without("while True: pass", lacking), &cancel);
    let took = begun.elapsed();
    let joined = raiser.join().is_ok();
    let exit = seen
        .as_ref()
        .ok()
        .and_then(|seen| seen.finish.as_ref())
        .map(|finish| finish.exit.clone());
    let ended = joined && exit == Some(Exit::Cancelled) && took < Duration::from_secs(5);
    (!ended).then(|| format!("cancel: {exit:?} after {took:?}"))
}

/// What one run leaves, the next of the same tenant does not find.
fn nothing_left_behind(backend: &dyn Backend, lacking: &Guarantees) -> Option<String> {
    let leave = plan_without(
        "import builtins\nbuiltins.mark = 1\nopen('/tmp/mark', 'w').write('x')\nopen('/work/mark', 'w').write('x')",
        lacking,
    );
    let look = plan_without(
        "import builtins, os\nprint(hasattr(builtins, 'mark'), os.path.exists('/tmp/mark'), os.path.exists('/work/mark'))",
        lacking,
    );
    let first = run(backend, &leave, &Cancel::new());
    let second = run(backend, &look, &Cancel::new());
    match (first, second) {
        (Ok(_), Ok(seen)) if seen.stdout == "False False False\n" => None,
        (first, second) => Some(format!("nothing left behind: {first:?} then {second:?}")),
    }
}

/// Fifty at once, each with its own answer.
fn many_at_once(backend: &dyn Backend, lacking: &Guarantees) -> Option<String> {
    let wrong = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..50)
            .map(|number| {
                scope.spawn(move || {
                    let plan = plan_without(&format!("print({number} * 2)"), lacking);
                    let seen = run(backend, &plan, &Cancel::new());
                    seen.is_ok_and(|seen| seen.stdout == format!("{}\n", number * 2))
                })
            })
            .collect();
        runs.into_iter()
            .map(|run| run.join().unwrap_or(false))
            .filter(|right| !right)
            .count()
    });
    (wrong > 0).then(|| format!("fifty at once: {wrong} gave a wrong answer"))
}

fn nothing(_: &mut Plan) {}

const CASES: &[Case] = &[
    Case {
        name: "text",
        code: "print('hello')\nimport sys\nprint('oops', file=sys.stderr)",
        change: nothing,
        check: |seen| seen.stdout == "hello\n" && seen.stderr == "oops\n" && seen.code() == Some(0),
    },
    Case {
        name: "exit code",
        code: "import sys\nprint('x')\nsys.exit(7)",
        change: nothing,
        check: |seen| seen.code() == Some(7) && seen.stdout == "x\n",
    },
    Case {
        name: "uncaught exception",
        code: "1 / 0",
        change: nothing,
        check: |seen| {
            seen.code() == Some(1)
                && seen.stderr.contains("ZeroDivisionError")
                && seen.stderr.contains("suite.py")
        },
    },
    Case {
        name: "immediate exit",
        code: "import os\nprint('x', flush=True)\nos._exit(9)",
        change: nothing,
        check: |seen| seen.code() == Some(9) && seen.stdout == "x\n",
    },
    Case {
        name: "stdin",
        code: "import sys\nprint(sys.stdin.read().upper())",
        change: |plan| plan.stdin = Arc::from(*b"abc"),
        check: |seen| seen.stdout == "ABC\n",
    },
    Case {
        name: "argv",
        code: "import sys\nprint(sys.argv)",
        change: |plan| plan.argv.extend(["--x".to_owned(), "a b".to_owned()]),
        check: |seen| seen.stdout == "['suite.py', '--x', 'a b']\n",
    },
    Case {
        name: "environment given",
        code: "import os\nprint(os.environ['KEY'])",
        change: |plan| drop(plan.env.insert("KEY".to_owned(), "välue".to_owned())),
        check: |seen| seen.stdout == "välue\n",
    },
    Case {
        name: "environment of the host absent",
        code: "import os\nprint(sorted(set(os.environ) - {'HOME','TMPDIR','PYTHONTZPATH','MPLBACKEND','MPLCONFIGDIR','PATH','LANG'}))",
        change: nothing,
        check: |seen| seen.stdout == "[]\n",
    },
    Case {
        name: "inputs are there, by path and by name",
        code: "print(open('/data/in.csv').read() == open('in.csv').read() == 'a,b\\n1,2\\n')",
        change: nothing,
        check: |seen| seen.stdout == "True\n",
    },
    Case {
        name: "inputs are read-only",
        code: "import os\ntries = [lambda: open('/data/in.csv', 'w'), lambda: open('/data/in.csv', 'a'), \
               lambda: os.remove('/data/in.csv'), lambda: os.rename('/data/in.csv', '/tmp/x'), \
               lambda: os.truncate('/data/in.csv', 0), lambda: open('/data/new', 'w'), lambda: os.utime('/data/in.csv', (1, 1))]\n\
               for t in tries:\n    try: t(); print('WROTE')\n    except OSError: pass\n\
               print(open('/data/in.csv').read() == 'a,b\\n1,2\\n')",
        change: nothing,
        check: |seen| seen.stdout == "True\n",
    },
    Case {
        name: "files out",
        code: "import os\nos.makedirs('/tmp/deep/er')\nopen('/tmp/deep/er/a.bin', 'wb').write(bytes(range(256)))\nopen('b.txt', 'w').write('b')",
        change: nothing,
        check: |seen| {
            let all: Vec<u8> = (0..=255).collect();
            seen.artifact("/tmp/deep/er/a.bin") == Some(&all)
                && seen.artifact("/work/b.txt") == Some(b"b")
        },
    },
    Case {
        name: "links are not followed out",
        code: "import os\nos.symlink('/etc/passwd', '/tmp/l')\nos.symlink('/data/in.csv', '/tmp/m')\nprint(os.path.exists('/tmp/l'))",
        change: nothing,
        check: |seen| {
            seen.stdout == "False\n"
                && seen
                    .finish
                    .as_ref()
                    .is_some_and(|finish| finish.artifacts.is_empty())
        },
    },
    Case {
        name: "streaming",
        code: "import time\nprint('first', flush=True)\ntime.sleep(1)\nprint('second')",
        change: nothing,
        check: |seen| {
            seen.stdout == "first\nsecond\n"
                && seen
                    .first_output
                    .is_some_and(|first| first + Duration::from_millis(700) < seen.took)
        },
    },
    Case {
        name: "network absent",
        code: "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), timeout=2)\n    print('CONNECTED')\nexcept OSError as e:\n    print('refused')",
        change: nothing,
        check: |seen| {
            seen.stdout == "refused\n"
                && seen.took < Duration::from_secs(5)
                && seen.events.contains(&"network")
        },
    },
    Case {
        name: "host files absent",
        code: "import os\nfor p in ['/etc/shadow', '/etc/passwd', '/root', '/home', '/proc/self/environ', '/var/run/docker.sock']:\n    try: open(p).read(); print('READ', p)\n    except OSError: pass\nprint('done')",
        change: nothing,
        check: |seen| seen.stdout == "done\n",
    },
    Case {
        name: "memory",
        code: "x = bytearray(64 << 20)\nprint(len(x))\nx = bytearray(600 << 20)",
        change: nothing,
        check: |seen| {
            seen.stdout == "67108864\n"
                && (seen.limits.contains(&LimitKind::Memory)
                    || seen.over() == Some(LimitKind::Memory))
        },
    },
    Case {
        name: "CPU time",
        code: "while True: pass",
        change: |plan| plan.limits.cpu_time = Limit::At(Millis(Duration::from_millis(300))),
        check: |seen| seen.over() == Some(LimitKind::CpuTime) && seen.took < Duration::from_secs(6),
    },
    Case {
        name: "wall time",
        code: "import time\ntime.sleep(60)",
        change: |plan| plan.limits.wall_time = Limit::At(Millis(Duration::from_millis(300))),
        check: |seen| {
            seen.over() == Some(LimitKind::WallTime) && seen.took < Duration::from_secs(6)
        },
    },
    Case {
        name: "tasks",
        code: "import threading, time\nstarted = 0\ntry:\n    for _ in range(64):\n        \
               threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n        started += 1\n\
               except (RuntimeError, OSError): pass\nprint('more' if started > 32 else 'few')",
        change: |plan| plan.limits.tasks = Limit::At(16),
        check: |seen| seen.stdout == "few\n",
    },
    // Calls that any process may make on any kernel that has them: a ring, page faults, a comparison with
    // itself, a file's number.
    Case {
        name: "system calls filtered",
        code: "import ctypes, os\ntry:\n    libc = ctypes.CDLL(None)\n    me = os.getpid()\n    \
               room = [ctypes.create_string_buffer(b'\\x80', 136) for _ in range(3)]\n    \
               answers = [libc.syscall(425, 1, room[0]), libc.syscall(323, 1), libc.syscall(312, me, me, 1, 0, 0), \
               libc.syscall(303, -100, b'/usr', room[1], room[2], 0)]\n\
               except (OSError, AttributeError):\n    answers = []\n\
               print('ALLOWED' if any(a >= 0 for a in answers) else 'refused')",
        change: nothing,
        check: |seen| seen.stdout == "refused\n",
    },
    Case {
        name: "disk bytes",
        code: "with open('/tmp/a', 'wb') as f:\n    for _ in range(64): f.write(bytes(1 << 20))",
        change: |plan| plan.limits.disk = Limit::At(ByteSize::mib(8)),
        check: |seen| seen.limits.contains(&LimitKind::DiskBytes) && seen.code() == Some(1),
    },
    Case {
        name: "disk files",
        code: "for i in range(100): open(f'/tmp/{i}', 'w').close()",
        change: |plan| plan.limits.disk_files = Limit::At(20),
        check: |seen| seen.limits.contains(&LimitKind::DiskFiles) && seen.code() == Some(1),
    },
    Case {
        name: "output",
        code: "while True: print('x' * 1000)",
        change: |plan| plan.limits.output = Limit::At(ByteSize::kib(64)),
        check: |seen| seen.over() == Some(LimitKind::OutputBytes) && seen.stdout.len() == 64 << 10,
    },
    Case {
        name: "open files",
        code: "files = [open('/tmp/a', 'w') for _ in range(100)]",
        change: |plan| plan.limits.open_files = Limit::At(16),
        check: |seen| seen.limits.contains(&LimitKind::OpenFiles) && seen.code() == Some(1),
    },
    Case {
        name: "artifacts, count",
        code: "for i in range(9): open(f'/tmp/{i}', 'w').write('x')",
        change: |plan| plan.limits.artifacts = Limit::At(4),
        check: |seen| {
            seen.limits.contains(&LimitKind::ArtifactCount)
                && seen.finish.as_ref().is_some_and(|f| f.artifacts.len() == 4)
        },
    },
    Case {
        name: "artifacts, bytes",
        code: "open('/tmp/a', 'wb').write(bytes(1 << 20))\nopen('/tmp/b', 'w').write('x')",
        change: |plan| plan.limits.artifact_bytes = Limit::At(ByteSize::kib(64)),
        check: |seen| {
            seen.limits.contains(&LimitKind::ArtifactBytes)
                && seen.artifact("/tmp/b") == Some(b"x")
                && seen.artifact("/tmp/a").is_none()
        },
    },
    Case {
        name: "results",
        code: "from IPython.display import display\nfor _ in range(64): display({'text/plain': 'x' * 65536}, raw=True)",
        change: |plan| plan.limits.result_bytes = Limit::At(ByteSize::mib(1)),
        check: |seen| seen.over() == Some(LimitKind::ResultBytes),
    },
    Case {
        name: "usage is measured",
        code: "x = bytearray(32 << 20)\nopen('/tmp/a', 'wb').write(bytes(5000))\nsum(range(10**6))",
        change: nothing,
        check: |seen| {
            let Some(finish) = &seen.finish else {
                return false;
            };
            let usage = &finish.usage;
            usage.cpu_us > 1000
                && usage.wall_us >= usage.cpu_us / 2
                && usage.disk_peak_bytes == 5000
                && usage.memory_peak_bytes >= 16 << 20
        },
    },
    Case {
        name: "usage is told as time goes on",
        code: "import time\nx = bytearray(32 << 20)\nend = time.time() + 0.5\nwhile time.time() < end: pass",
        change: nothing,
        check: |seen| {
            let Some(finish) = &seen.finish else {
                return false;
            };
            let grows = seen
                .used
                .is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1);
            let most = seen.used.iter().map(|(_, _, memory)| *memory).max();
            let last = seen.used.last();
            seen.used.len() >= 4
                && grows
                && most
                    .is_some_and(|most| (16 << 20..=finish.usage.memory_peak_bytes).contains(&most))
                && last.is_some_and(|(at, cpu, _)| {
                    *at <= finish.usage.wall_us && (100_000..=finish.usage.cpu_us).contains(cpu)
                })
        },
    },
];
