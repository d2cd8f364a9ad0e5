//! The groups of this machine where it has them, and recorded trees of machines it is not.

use std::fs;

use super::*;
use layout::Ops;

const LIMITS: CgroupLimits = CgroupLimits {
    memory_bytes: Limit::At(64 << 20),
    pids: Limit::At(16),
    cpu_millicores: Limit::At(500),
};

/// What the kernel puts into a new version 2 group, as far as we look.
fn fill_v2(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    let parent = dir.parent().unwrap_or(dir);
    let offered = fs::read_to_string(parent.join("cgroup.subtree_control"))?;
    fs::write(dir.join("cgroup.controllers"), offered.replace('+', ""))?;
    for (file, text) in [
        ("cgroup.subtree_control", ""),
        ("cgroup.procs", ""),
        ("cgroup.kill", ""),
        ("memory.max", "max\n"),
        ("memory.swap.max", "max\n"),
        ("memory.oom.group", "0\n"),
        ("memory.peak", "4096\n"),
        ("memory.current", "1024\n"),
        ("memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("memory.stat", "anon 300\nfile 50\nshmem 20\n"),
        ("pids.max", "max\n"),
        ("pids.events", "max 7\n"),
        ("cpu.max", "max 100000\n"),
        ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
    ] {
        fs::write(dir.join(file), text)?;
    }
    Ok(())
}

const RECORDED: Ops = Ops {
    mkdir: fill_v2,
    rmdir: |dir| {
        let inner = fs::read_dir(dir)?
            .flatten()
            .any(|entry| entry.path().is_dir());
        if inner {
            return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
        }
        fs::remove_dir_all(dir)
    },
};

const V2_MOUNTS: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
    30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

/// A desktop under systemd: the user's manager has a delegated part, and the terminal's scope in
/// it has processes, so only the slice above may have controlled children.
fn desktop(root: &Path, enabled: &str) -> Layout {
    let scope = "user.slice/user-1000.slice/user@1000.service/app.slice/term.scope";
    let mut dir = root.join("sys/fs/cgroup");
    fs::create_dir_all(dir.join(scope)).unwrap();
    let parts = std::iter::once("").chain(scope.split('/'));
    for part in parts {
        dir = if part.is_empty() { dir } else { dir.join(part) };
        fs::write(dir.join("cgroup.controllers"), enabled).unwrap();
        fs::write(dir.join("cgroup.procs"), "").unwrap();
        fs::write(dir.join("cgroup.subtree_control"), enabled).unwrap();
    }
    // The kernel answers EBUSY here; a file that is not there is as good a refusal.
    fs::remove_file(dir.join("cgroup.subtree_control")).unwrap();
    Layout::parse(V2_MOUNTS, &format!("0::/{scope}\n"), root).with_ops(RECORDED)
}

#[test]
fn version_2_uses_the_nearest_group_that_may_have_children() {
    let root = tempfile::tempdir().unwrap();
    let layout = desktop(root.path(), "cpu memory pids");
    assert_eq!(layout.kind(), Kind::V2);
    assert_eq!(layout.controllers(), ["memory", "pids", "cpu"]);
    let group = layout.create("worker", &LIMITS).unwrap();
    assert!(
        group.steps().iter().all(Step::stands),
        "{:#?}",
        group.steps()
    );
    let dirs: Vec<PathBuf> = group.dirs().map(Path::to_owned).collect();
    assert_eq!(dirs.len(), 1, "one group for all controllers");
    let dir = &dirs[0];
    let above = dir.parent().unwrap();
    assert!(above.ends_with("app.slice/casemate"), "{}", above.display());
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
    assert_eq!(read("memory.max"), "67108864");
    assert_eq!(read("memory.swap.max"), "0");
    assert_eq!(read("memory.oom.group"), "1");
    assert_eq!(read("pids.max"), "16");
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(group.memory_peak().unwrap(), 4096);
    assert_eq!(group.memory_usage().unwrap(), 1024);
    assert_eq!(group.oom_kills().unwrap(), 2);
    assert_eq!(group.memory_held().unwrap(), 320);
    assert_eq!(group.task_refusals().unwrap(), 7);
    assert_eq!(group.cpu_usage().unwrap(), Duration::from_micros(1500));
    group.remove().unwrap();
    assert!(!above.exists(), "the parent goes with the last group");
}

#[test]
fn version_2_without_cpu_says_so_and_keeps_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let group = desktop(root.path(), "memory pids")
        .create("w", &LIMITS)
        .unwrap();
    let got: Vec<(&str, bool)> = group
        .steps()
        .iter()
        .map(|step| (step.wall.as_ref(), step.stands()))
        .collect();
    assert_eq!(
        got,
        [
            (wall::MEMORY, true),
            (wall::SWAP, true),
            (wall::PIDS, true),
            (wall::CPU, false)
        ]
    );
    let why = group.steps()[3].got.clone().unwrap_err();
    assert!(why.ends_with("app.slice does not offer cpu"), "{why}");
}

#[test]
fn what_is_not_limited_needs_no_controller() {
    let root = tempfile::tempdir().unwrap();
    let limits = CgroupLimits {
        pids: Limit::Unlimited,
        cpu_millicores: Limit::Unlimited,
        ..LIMITS
    };
    let group = desktop(root.path(), "memory").create("w", &limits).unwrap();
    assert!(
        group.steps().iter().all(Step::stands),
        "{:#?}",
        group.steps()
    );
    assert_eq!(group.steps()[3].got.as_deref(), Ok("not limited, as asked"));
}

#[test]
fn version_2_with_nothing_delegated_is_missing_with_a_way_out() {
    let root = tempfile::tempdir().unwrap();
    let missing = desktop(root.path(), "").create("w", &LIMITS).unwrap_err();
    assert_eq!(missing.steps.len(), 4);
    assert!(missing.steps.iter().all(|step| !step.stands()));
    assert!(missing.why.contains("Delegate=yes"), "{}", missing.why);
}

#[test]
fn what_makes_moves_wait_has_a_way_out() {
    let moves = |options: &str| {
        let mounts =
            format!("41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 {options}\n");
        Layout::parse(&mounts, "0::/\n", Path::new("/")).quick_moves()
    };
    assert_eq!(moves("rw,nsdelegate,favordynmods").unwrap(), "favordynmods");
    let why = moves("rw,nsdelegate").unwrap_err();
    assert!(
        why.contains("mount -o remount,favordynmods /sys/fs/cgroup`"),
        "{why}"
    );
    Layout::parse("", "", Path::new("/"))
        .quick_moves()
        .unwrap_err();
}

#[test]
fn no_control_groups_is_missing() {
    let layout = Layout::parse("24 1 0:22 / /proc rw - proc proc rw\n", "", Path::new("/"));
    assert_eq!(layout.kind(), Kind::Absent);
    let missing = layout.create("w", &LIMITS).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "no control group: no control group hierarchy has the memory controller"
    );
}

#[test]
fn hybrid_places_are_read_from_the_mounts() {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().join("sys/fs/cgroup");
    for dir in ["memory/docker/abc", "cpu,cpuacct", "pids", "unified"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    let mounts = "31 1 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        32 1 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 1 0:29 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        34 1 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let own = "4:memory:/docker/abc\n3:cpu,cpuacct:/gone\n2:pids:/docker/abc\n0::/\n";
    let layout = Layout::parse(mounts, own, root.path());
    assert_eq!(layout.kind(), Kind::Hybrid);
    let bases: Vec<String> = layout
        .bases()
        .into_values()
        .map(|made| {
            made.unwrap()
                .1
                .strip_prefix(&base)
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    assert_eq!(
        bases,
        ["memory/docker/abc", "pids", "cpu,cpuacct", "cpu,cpuacct"]
    );
}

#[test]
fn groups_of_processes_that_are_gone_are_reclaimed() {
    let root = tempfile::tempdir().unwrap();
    let layout = desktop(root.path(), "cpu memory pids");
    let live = layout.create("w", &LIMITS).unwrap();
    let parent = live.dirs().next().unwrap().parent().unwrap().to_owned();
    let name = live
        .dirs()
        .next()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap();
    // The same namespace, a number no process can have.
    let namespace = name.split(['.', '-']).nth(1).unwrap();
    let dead = parent.join(format!("w.{namespace}-{}-5.0", i32::MAX));
    fill_v2(&dead).unwrap();
    let foreign = parent.join("somebody-else");
    fill_v2(&foreign).unwrap();
    assert_eq!(layout.reclaim_stale().unwrap(), 1);
    assert!(!dead.exists() && foreign.exists());
    assert_eq!(
        live.memory_usage().unwrap(),
        1024,
        "the live one is untouched"
    );
}

#[test]
fn names_are_checked() {
    for name in ["", "A", "a/b", "..", "a.b", &"a".repeat(33)] {
        let missing = Layout::parse("", "", Path::new("/"))
            .create(name, &LIMITS)
            .unwrap_err();
        assert!(
            missing.why.contains("is not 1 to 32"),
            "{name}: {}",
            missing.why
        );
    }
}

/// The real thing. Without the privilege it is reported and not run; in CI as root it must run.
#[test]
fn this_machine() {
    let group = match Cgroup::create("test", &LIMITS) {
        Ok(group) if group.steps().iter().all(Step::stands) => group,
        other => {
            let must = rustix::process::geteuid().is_root() && std::env::var_os("CI").is_some();
            assert!(!must, "{other:#?}");
            eprintln!("skipped: this machine gives no control groups: {other:?}");
            return;
        }
    };
    let dirs: Vec<PathBuf> = group.dirs().map(Path::to_owned).collect();
    // Lower, higher and not a whole number of pages.
    for bytes in [16 << 20, 256 << 20, (32 << 20) + 1] {
        group.set_memory(bytes).unwrap();
    }
    group
        .set_memory(LIMITS.memory_bytes.value().unwrap())
        .unwrap();
    assert_eq!(group.oom_kills().unwrap(), 0);
    assert_eq!(group.task_refusals().unwrap(), 0);

    let mut child = crate::Spawn::new("/bin/sh")
        .arg("-c")
        .arg("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100")
        .cgroup(&group)
        .spawn()
        .unwrap();
    while group.cpu_usage().unwrap() < Duration::from_millis(2) {
        assert_eq!(child.try_wait().unwrap(), None);
    }
    assert!(group.memory_peak().unwrap() > 0);
    // The kernel brings these numbers up to date in steps of some hundred KiB, so a shell may hold none.
    assert!(group.memory_held().unwrap() < LIMITS.memory_bytes.value().unwrap());
    assert!(group.processes().unwrap().contains(&child.pid()));
    for dir in &dirs {
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        assert!(
            procs.lines().any(|line| line == child.pid().to_string()),
            "{procs}"
        );
    }
    group.remove().unwrap();
    let finished = child.wait().unwrap();
    assert_eq!(
        finished.exit,
        crate::Exit::Signal(libc::SIGKILL),
        "removal kills what is inside"
    );
    assert!(dirs.iter().all(|dir| !dir.exists()));
}

/// A child that takes more than its memory is killed, and the group says so.
#[test]
fn memory_over_the_limit_is_an_oom_kill() {
    let Ok(group) = Cgroup::create("oom", &LIMITS) else {
        eprintln!("skipped: this machine gives no control groups");
        return;
    };
    if !group.steps()[0].stands() {
        eprintln!("skipped: this machine gives no memory controller");
        return;
    }
    let mut child = crate::Spawn::new("/bin/sh")
        .arg("-c")
        .arg("x=0123456789abcdef; while :; do x=$x$x; done")
        .cgroup(&group)
        .spawn()
        .unwrap();
    assert_eq!(
        child.wait().unwrap().exit,
        crate::Exit::Signal(libc::SIGKILL)
    );
    assert_eq!(group.oom_kills().unwrap(), 1);
    assert!(group.memory_peak().unwrap() > 60 << 20);
}

#[test]
fn tasks_over_the_limit_are_refused() {
    let Ok(group) = Cgroup::create("pids", &LIMITS) else {
        eprintln!("skipped: this machine gives no control groups");
        return;
    };
    if !group.steps()[2].stands() {
        eprintln!("skipped: this machine gives no pids controller");
        return;
    }
    let (mut reader, writer) = io::pipe().unwrap();
    let mut child = crate::Spawn::new("/bin/sh")
        .arg("-c")
        .arg("i=0; while [ $i -lt 40 ]; do sleep 100 & i=$((i+1)); done")
        .env("PATH", "/usr/bin:/bin")
        .fd(&writer, 2)
        .cgroup(&group)
        .spawn()
        .unwrap();
    drop(writer);
    let finished = child.wait().unwrap();
    assert_ne!(finished.exit, crate::Exit::Code(0));
    group.remove().unwrap();
    let mut said = String::new();
    io::Read::read_to_string(&mut reader, &mut said).unwrap();
    assert!(said.to_lowercase().contains("fork"), "{said}");
}

/// A container's group as an engine makes it, in a tree of version 2 and in one of version 1.
#[test]
fn a_group_of_somebody_elses_is_compared_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = root
        .path()
        .join("sys/fs/cgroup/system.slice/docker-1.scope");
    fs::create_dir_all(dir.parent().unwrap()).unwrap();
    fs::write(
        dir.parent().unwrap().join("cgroup.subtree_control"),
        "cpu memory pids",
    )
    .unwrap();
    fill_v2(&dir).unwrap();
    for (file, text) in [
        ("memory.max", "67108864\n"),
        ("memory.swap.max", "0\n"),
        ("pids.max", "16\n"),
        ("cpu.max", "50000 100000\n"),
    ] {
        fs::write(dir.join(file), text).unwrap();
    }
    let own = "0::/system.slice/docker-1.scope\n";
    let group = || Cgroup::foreign(Layout::parse(V2_MOUNTS, own, root.path()));
    let steps = group().read_back(&LIMITS);
    assert!(steps.iter().all(Step::stands), "{steps:#?}");
    for (file, text, lost) in [
        ("memory.max", "max\n", wall::MEMORY),
        ("memory.swap.max", "max\n", wall::SWAP),
        ("pids.max", "17\n", wall::PIDS),
        ("cpu.max", "max 100000\n", wall::CPU),
        ("cpu.max", "60000 100000\n", wall::CPU),
    ] {
        let before = fs::read_to_string(dir.join(file)).unwrap();
        fs::write(dir.join(file), text).unwrap();
        let steps = group().read_back(&LIMITS);
        let missing: Vec<_> = steps.iter().filter(|step| !step.stands()).collect();
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert_eq!(missing[0].wall, lost);
        fs::write(dir.join(file), before).unwrap();
    }
    fs::remove_file(dir.join("pids.max")).unwrap();
    assert!(!group().read_back(&LIMITS)[2].stands(), "no controller");
    drop(group());
    assert!(dir.is_dir(), "it is not ours to remove");
}

#[test]
fn the_group_of_this_process_is_nobody_elses() {
    let error = Cgroup::of_process(std::process::id()).unwrap_err();
    assert!(error.to_string().contains("of this process"), "{error}");
    assert!(Cgroup::of_process(u32::MAX).is_err());
}
