//! The checks, from outside the worker.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use casemate_linux::lockdown::wall;
use casemate_linux::proc::{self, MemoryWatch};
use casemate_linux::processor;
use casemate_linux::{Child, Exit, Spawn, Stderr, Step};

use crate::guest::{CHANNEL, MODULE, module};

/// `Err` is a skip with its reason; a failure panics.
pub(crate) type Verdict = Result<(), String>;

/// A name and what it checks.
pub(crate) type Check = (&'static str, fn() -> Verdict);

pub(crate) const CHECKS: &[Check] = &[
    ("spawn_gives_only_what_is_listed", only_what_is_listed),
    ("spawn_reports_what_failed", what_failed),
    ("child_ends_and_is_reaped", ends_and_is_reaped),
    ("child_can_be_waited_for_with_a_limit", waited_with_a_limit),
    ("a_spawning_thread_may_end", spawning_thread_may_end),
    ("many_threads_spawn_at_once", many_threads_spawn),
    ("all_walls_stand_for_root", all_walls_stand_for_root),
    ("walls_of_an_ordinary_user", walls_of_an_ordinary_user),
    ("a_processor_is_told_as_it_is", processor_is_told_as_it_is),
    ("a_second_thread_is_noticed", second_thread_is_noticed),
    ("groups_of_a_killed_owner_are_reclaimed", killed_owner),
    ("the_kernel_agrees", the_kernel_agrees),
    ("a_worker_can_work", a_worker_can_work),
    ("a_worker_dies_with_its_parent", dies_with_its_parent),
    ("misbehaviour_is_killed", misbehaviour_is_killed),
    ("sealed_memory_never_becomes_executable", sealed_memory),
    ("processor_time_is_seen_from_outside", processor_time),
    ("memory_is_seen_from_outside", memory),
    ("an_abort_is_an_abort", an_abort),
    ("interrupts_reach_the_closure", interrupts),
];

/// Root in CI has everything, so nothing may be skipped there.
pub(crate) fn must_not_skip() -> bool {
    is_root() && std::env::var_os("CI").is_some()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn need_root() -> Verdict {
    if is_root() {
        Ok(())
    } else {
        Err("needs root".to_owned())
    }
}

/// A worker and the host's end of its channel.
struct Worker {
    child: Child,
    reader: BufReader<UnixStream>,
    steps: Vec<Step>,
}

impl Worker {
    fn start() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Spawn::this_program()
            .arg("worker")
            .stderr(Stderr::Null)
            .fd(&theirs, CHANNEL)
            .fd(module(), MODULE)
            .spawn()
            .unwrap();
        drop(theirs);
        let mut worker = Self {
            child,
            reader: BufReader::new(ours),
            steps: Vec::new(),
        };
        worker.steps = serde_json::from_str(&worker.hear().unwrap()).unwrap();
        worker
    }

    fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
        }
    }

    fn order(&mut self, order: &str) {
        let line = format!("{order}\n");
        self.reader.get_mut().write_all(line.as_bytes()).unwrap();
    }

    fn ask(&mut self, order: &str) -> String {
        self.order(order);
        match self.hear() {
            Some(answer) => answer,
            None => panic!(
                "{order}: the worker ended with {:?}",
                self.child.wait().unwrap().exit
            ),
        }
    }

    fn killed_by(&mut self, order: &str) -> Exit {
        self.order(order);
        let answer = self.hear();
        assert_eq!(answer, None, "{order} was done");
        self.child.wait().unwrap().exit
    }

    fn seal(&mut self) {
        let steps: Vec<Step> = serde_json::from_str(&self.ask("seal")).unwrap();
        let walls: Vec<&str> = steps.iter().map(|step| step.wall.as_ref()).collect();
        assert_eq!(walls, [wall::NO_EXEC_GAIN, wall::SECCOMP_SEALED]);
        assert!(steps[1].stands(), "{steps:#?}");
        assert!(steps[0].stands() || !must_not_skip(), "{steps:#?}");
    }
}

const SIGSYS: Exit = Exit::Signal(libc::SIGSYS);

fn only_what_is_listed() -> Verdict {
    // Descriptors that would be inherited: not close-on-exec, low and high.
    let leak = std::fs::File::open("/dev/null").unwrap();
    let low = rustix::io::dup(&leak).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = Spawn::this_program()
        .arg("look")
        .arg("a b")
        .env("KEY", "value = 1")
        .fd(&writer, CHANNEL)
        .fd(&leak, 9)
        .spawn()
        .unwrap();
    drop((writer, low));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().exit, Exit::Code(0));
    let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        seen["args"],
        serde_json::json!(["/proc/self/exe", "look", "a b"])
    );
    assert_eq!(seen["env"], serde_json::json!([["KEY", "value = 1"]]));
    assert_eq!(seen["fds"], serde_json::json!([0, 1, 2, 3, 9]));
    assert_eq!(seen["null"], "/dev/null");
    assert_eq!(seen["leads_session"], true);
    assert_eq!(seen["death_signal"], libc::SIGKILL);
    let signals: Vec<&str> = seen["signals"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|v| v.as_str())
        .collect();
    assert!(
        signals.contains(&"SigBlk:\t0000000000000000"),
        "{signals:?}"
    );
    // The runtime of the child itself ignores SIGPIPE (bit 12), nothing else may be ignored.
    assert!(
        signals.contains(&"SigIgn:\t0000000000001000"),
        "{signals:?}"
    );
    Ok(())
}

fn what_failed() -> Verdict {
    let missing = Spawn::new("/nowhere/program").spawn().unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(
        missing.to_string(),
        "could not start /nowhere/program: execve: no such file or directory"
    );
    let denied = Spawn::new("/etc/passwd").spawn().unwrap_err();
    assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied);
    let zero = Spawn::this_program().arg("a\0b").spawn().unwrap_err();
    assert_eq!(
        zero.to_string(),
        "a program, argument or variable contains a zero byte"
    );
    let null = std::fs::File::open("/dev/null").unwrap();
    for target in [-1, 64] {
        let bad = Spawn::this_program().fd(&null, target).spawn().unwrap_err();
        assert!(bad.to_string().contains("is not between 0 and 63"), "{bad}");
    }
    Ok(())
}

fn ends_and_is_reaped() -> Verdict {
    let mut child = Spawn::new("/bin/sh")
        .arg("-c")
        .arg("exit 7")
        .spawn()
        .unwrap();
    let finished = child.wait().unwrap();
    assert_eq!(finished.exit, Exit::Code(7));
    assert_eq!(
        child.wait().unwrap(),
        finished,
        "the second answer is the first"
    );
    assert_eq!(child.try_wait().unwrap(), Some(finished));
    child.kill().unwrap();
    let child = Spawn::new("/bin/sleep").arg("100").spawn().unwrap();
    let pid = child.pid();
    drop(child);
    assert!(
        proc::peak_resident(pid).is_err(),
        "dropping kills and reaps"
    );
    let mut child = Spawn::new("/bin/sleep").arg("100").spawn().unwrap();
    child.signal(libc::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().exit, Exit::Signal(libc::SIGTERM));
    Ok(())
}

fn waited_with_a_limit() -> Verdict {
    let mut child = Spawn::new("/bin/sleep").arg("100").spawn().unwrap();
    let begun = Instant::now();
    assert_eq!(child.wait_timeout(Duration::from_millis(30)).unwrap(), None);
    assert!(begun.elapsed() >= Duration::from_millis(30));
    child.kill().unwrap();
    let finished = child
        .wait_timeout(Duration::from_secs(10))
        .unwrap()
        .unwrap();
    assert_eq!(finished.exit, Exit::Signal(libc::SIGKILL));
    assert!(begun.elapsed() < Duration::from_secs(5));
    Ok(())
}

/// The kernel ties the parent-death signal to the thread that cloned.
fn spawning_thread_may_end() -> Verdict {
    let thread = std::thread::spawn(|| Spawn::new("/bin/sleep").arg("100").spawn().unwrap());
    let mut child = thread.join().unwrap();
    assert_eq!(
        child.wait_timeout(Duration::from_millis(100)).unwrap(),
        None
    );
    Ok(())
}

/// And nothing is left: no child, no zombie, no descriptor.
fn many_threads_spawn() -> Verdict {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for run in 0..25 {
                    let code = (thread * 25 + run).to_string();
                    let exit = format!("exit {code}");
                    let sh = Spawn::new("/bin/sh").arg("-c").arg(exit);
                    let finished = sh.spawn().unwrap().wait().unwrap();
                    assert_eq!(finished.exit, Exit::Code(code.parse().unwrap()));
                }
            });
        }
    });
    assert_eq!(open(), before);
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    assert_eq!(children.trim(), "");
    Ok(())
}

fn all_walls_stand_for_root() -> Verdict {
    need_root()?;
    let worker = Worker::start();
    let walls: Vec<&str> = worker.steps.iter().map(|step| step.wall.as_ref()).collect();
    assert_eq!(
        walls,
        [
            wall::SINGLE_THREAD,
            wall::NO_NEW_PRIVS,
            wall::DESCRIPTORS,
            wall::NETWORK_NAMESPACE,
            wall::IPC_NAMESPACE,
            wall::UTS_NAMESPACE,
            wall::MOUNT_NAMESPACE,
            wall::EMPTY_ROOT,
            wall::RLIMITS,
            wall::IDENTITY,
            wall::CAPABILITIES,
            wall::DIES_WITH_PARENT,
            wall::NOT_DUMPABLE,
            processor::wall::SPECULATION,
            processor::wall::CORE_SCHEDULING,
            wall::LANDLOCK_FILES,
            wall::LANDLOCK_NETWORK,
            wall::LANDLOCK_SCOPES,
            wall::SECCOMP,
        ]
    );
    let stand = |step: &&Step| !step.stands() && !of_the_processor(step);
    let missing: Vec<&Step> = worker.steps.iter().filter(stand).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("not given to root here: {missing:#?}"))
}

/// Whether this machine can have such a wall is its processor's doing.
fn of_the_processor(step: &Step) -> bool {
    [
        processor::wall::SPECULATION,
        processor::wall::CORE_SCHEDULING,
    ]
    .contains(&step.wall.as_ref())
}

/// What a worker says of itself is what its machine can have, and what the kernel shows of it from outside.
fn processor_is_told_as_it_is() -> Verdict {
    need_root()?;
    let worker = Worker::start();
    let step = |name: &str| worker.steps.iter().find(|step| step.wall == name).unwrap();
    let pid = worker.child.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(found, _)| *found == name)
            .map_or("", |(_, words)| words.trim())
    };
    let own = step(processor::wall::SPECULATION);
    let outside = processor::speculation_of(line);
    assert_eq!(own.got.is_ok(), outside.is_ok(), "{own:?}, {outside:?}");
    assert_eq!(own.got.is_ok(), processor::speculation().is_ok(), "{own:?}");
    let own = step(processor::wall::CORE_SCHEDULING);
    let outside = processor::core_scheduling_of(pid);
    assert_eq!(own.got.is_ok(), outside.is_ok(), "{own:?}, {outside:?}");
    let machine = processor::core_scheduling();
    assert_eq!(own.got.is_ok(), machine.is_ok(), "{own:?}");
    println!(
        "    {}: {:?}; {machine:?}",
        own.wall,
        processor::speculation()
    );
    Ok(())
}

/// Run by root, which becomes an ordinary user first.
fn walls_of_an_ordinary_user() -> Verdict {
    need_root()?;
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = Spawn::this_program()
        .arg("unprivileged")
        .stderr(Stderr::Inherit)
        .fd(&writer, CHANNEL)
        .fd(module(), MODULE)
        .spawn()
        .unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().exit, Exit::Code(0));
    let steps: Vec<Step> = serde_json::from_str(&text).unwrap();
    let namespaces = [
        wall::USER_NAMESPACE,
        wall::NETWORK_NAMESPACE,
        wall::IPC_NAMESPACE,
        wall::UTS_NAMESPACE,
        wall::MOUNT_NAMESPACE,
        wall::EMPTY_ROOT,
    ];
    assert!(steps.iter().any(|step| step.wall == wall::USER_NAMESPACE));
    let (inside, others): (Vec<&Step>, Vec<&Step>) = steps
        .iter()
        .partition(|step| namespaces.contains(&step.wall.as_ref()));
    let fallen = others.iter().filter(|step| !step.stands());
    let fallen: Vec<_> = fallen.filter(|step| !of_the_processor(step)).collect();
    assert!(fallen.is_empty(), "{fallen:#?}");
    let missing: Vec<_> = inside.iter().filter(|step| !step.stands()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "namespaces are not given to users here: {missing:#?}"
    ))
}

/// The only wall that can be missing without the kernel's doing.
fn second_thread_is_noticed() -> Verdict {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = Spawn::this_program()
        .arg("crowded")
        .fd(&writer, CHANNEL)
        .spawn()
        .unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    let steps: Vec<Step> = serde_json::from_str(&text).unwrap();
    assert_eq!(steps[0].wall, wall::SINGLE_THREAD);
    assert_eq!(
        steps[0].got,
        Err("2 threads were already running".to_owned())
    );
    Ok(())
}

fn killed_owner() -> Verdict {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut owner = Spawn::this_program()
        .arg("owner")
        .fd(&writer, CHANNEL)
        .spawn()
        .unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    if text.is_empty() {
        return Err("this machine gives no control groups".to_owned());
    }
    let paths: Vec<std::path::PathBuf> = serde_json::from_str(&text).unwrap();
    let layout = casemate_linux::cgroup::Layout::detect().unwrap();
    layout.reclaim_stale().unwrap();
    assert!(paths.iter().all(|path| path.is_dir()), "the owner lives");
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(
        paths.iter().all(|path| path.is_dir()),
        "nobody was there to remove them"
    );
    assert!(layout.reclaim_stale().unwrap() >= paths.len());
    assert!(paths.iter().all(|path| !path.exists()));
    Ok(())
}

/// What the steps say is what `/proc` says.
fn the_kernel_agrees() -> Verdict {
    need_root()?;
    let worker = Worker::start();
    let pid = worker.child.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
            .unwrap_or_default()
    };
    let own = (2_000_000_000 + pid).to_string();
    let ids = [own.as_str(); 4].join(" ");
    assert_eq!((field("Uid:"), field("Gid:")), (ids.clone(), ids));
    assert_eq!(field("Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    for kind in ["net", "ipc", "uts", "mnt"] {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let ours = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(theirs, ours, "{kind}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let devices = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    assert_eq!(
        devices.lines().skip(2).count(),
        1,
        "loopback only: {devices}"
    );
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("32"), "{files}");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    assert_eq!(fds, 5);
    Ok(())
}

/// Threads, code from the module's file, memory, sleep and hashing, before and after sealing.
fn a_worker_can_work() -> Verdict {
    let mut worker = Worker::start();
    assert_eq!(worker.ask("load"), "true");
    let ordinary = ["thread", "hash", "sleep a little", "grow", "thread"];
    for order in ordinary {
        assert_eq!(worker.ask(order), "true", "{order}");
    }
    worker.seal();
    for order in ordinary {
        assert_eq!(worker.ask(order), "true", "{order}, sealed");
    }
    assert_eq!(worker.ask("run"), "42", "loaded code still runs");
    drop(worker.reader);
    assert_eq!(worker.child.wait().unwrap().exit, Exit::Code(0));
    let mut worker = Worker::start();
    assert_eq!(
        worker.ask("size"),
        "true",
        "std asks for the size of the module"
    );
    Ok(())
}

/// Also after the change of user, which clears the setting, so it was made again.
fn dies_with_its_parent() -> Verdict {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut parent = Spawn::this_program()
        .arg("parent")
        .fd(&writer, CHANNEL)
        .spawn()
        .unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let worker: u32 = text.parse().unwrap();
    assert!(proc::peak_resident(worker).is_ok(), "it is there");
    parent.kill().unwrap();
    parent.wait().unwrap();
    let begun = Instant::now();
    while proc::peak_resident(worker).is_ok() {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "the worker outlived its parent"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn misbehaviour_is_killed() -> Verdict {
    let orders = [
        "open",
        "list",
        "connect",
        "start a program",
        "kill the parent",
        "duplicate",
    ];
    for order in orders {
        assert_eq!(Worker::start().killed_by(order), SIGSYS, "{order}");
    }
    for order in orders.into_iter().chain(["size", "seal again"]) {
        let mut worker = Worker::start();
        worker.seal();
        assert_eq!(worker.killed_by(order), SIGSYS, "{order}, sealed");
    }
    Ok(())
}

fn sealed_memory() -> Verdict {
    let orders = [
        "writable and executable",
        "later executable",
        "later executable, another thread",
        "file executable",
    ];
    for order in orders {
        let mut worker = Worker::start();
        assert_eq!(
            worker.ask(order),
            "true",
            "{order}: it is the seal that stops it"
        );
        let mut worker = Worker::start();
        assert_eq!(worker.ask("load"), "true");
        worker.seal();
        assert_eq!(worker.killed_by(order), SIGSYS, "{order}");
    }
    Ok(())
}

fn processor_time() -> Verdict {
    let mut worker = Worker::start();
    let before = worker.child.cpu_time().unwrap();
    worker.order("spin");
    let begun = Instant::now();
    while worker.child.cpu_time().unwrap() - before < Duration::from_millis(20) {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
    worker.child.kill().unwrap();
    let finished = worker.child.wait().unwrap();
    assert_eq!(finished.exit, Exit::Signal(libc::SIGKILL));
    let used = finished.usage.user + finished.usage.system;
    assert!(used >= Duration::from_millis(20), "{used:?}");
    assert_eq!(worker.child.cpu_time().unwrap(), used);
    Ok(())
}

fn memory() -> Verdict {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Spawn::this_program()
        .arg("worker")
        .fd(&theirs, CHANNEL)
        .fd(module(), MODULE)
        .spawn()
        .unwrap();
    let mut watch = MemoryWatch::open(child.pid()).unwrap();
    drop(theirs);
    let mut worker = Worker {
        child,
        reader: BufReader::new(ours),
        steps: Vec::new(),
    };
    worker.hear().unwrap();
    let small = watch.read().unwrap();
    assert!(
        small.private_bytes > 0 && small.private_bytes < 16 << 20,
        "{small:?}"
    );
    assert_eq!(worker.ask("grow"), "true");
    let peak = proc::peak_resident(worker.child.pid()).unwrap();
    assert!(peak > 64 << 20, "{peak}");
    assert!(worker.child.wait_timeout(Duration::ZERO).unwrap().is_none());
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
    assert!(
        watch.read().is_err(),
        "no other process is read in its place"
    );
    Ok(())
}

fn an_abort() -> Verdict {
    let mut worker = Worker::start();
    worker.seal();
    assert_eq!(worker.killed_by("abort"), Exit::Signal(libc::SIGABRT));
    Ok(())
}

fn interrupts() -> Verdict {
    // In a process that ignores none of them: one that is started in the background may.
    let child = Spawn::this_program()
        .arg("interrupted")
        .stderr(Stderr::Inherit)
        .spawn();
    assert_eq!(child.unwrap().wait().unwrap().exit, Exit::Code(0));
    Ok(())
}

/// Interrupts itself, and hears of each.
pub(crate) fn interrupted() -> ExitCode {
    use casemate_linux::term::{Interrupt, on_interrupt};
    use rustix::process::{Signal, getpid, kill_process};
    let (sender, receiver) = std::sync::mpsc::channel();
    on_interrupt(move |kind| sender.send(kind).unwrap()).unwrap();
    for (signal, kind) in [
        (Signal::INT, Interrupt::Interrupted),
        (Signal::TERM, Interrupt::Terminated),
        (Signal::HUP, Interrupt::HungUp),
        (Signal::INT, Interrupt::Interrupted),
    ] {
        kill_process(getpid(), signal).unwrap();
        let got = receiver.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(got, kind);
    }
    assert!(on_interrupt(|_| ()).is_err(), "once only");
    ExitCode::SUCCESS
}
