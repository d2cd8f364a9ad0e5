//! What a hostile program tries from inside, what the host sees of it, and what is left afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use casemate_backend::contract::{Backend, Cancel};
use casemate_backend::plan::Plan;
use casemate_backend::suite::{self, Seen};
use casemate_driver::walls::lost_to_the_processor;
use casemate_model::guarantee::Guarantee;
use casemate_model::limit::{Limit, LimitKind, Millis};
use casemate_model::outcome::Exit;
use casemate_model::policy::base_guarantees;
use casemate_model::unit::ByteSize;

use crate::support::{self, Test, lacking};

/// `call(number, ...)` gives the errno of a raw system call, or 0.
const RAW: &str = "import ctypes, errno, os\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    def call(*args):\n    \
        ctypes.set_errno(0)\n    \
        r = libc.syscall(*[ctypes.c_long(a) for a in args])\n    \
        return errno.errorcode.get(ctypes.get_errno(), 'OK') if r == -1 else 'OK'\n";

pub(crate) const TESTS: &[Test] = &[
    ("a_receipt_names_every_wall", a_receipt_names_every_wall),
    (
        "one_that_is_not_started_leaves_nothing",
        one_that_is_not_started_leaves_nothing,
    ),
    (
        "only_its_own_descriptors_are_open",
        only_its_own_descriptors_are_open,
    ),
    (
        "the_root_holds_nothing_of_the_hosts",
        the_root_holds_nothing_of_the_hosts,
    ),
    (
        "nothing_but_scratch_can_be_written",
        nothing_but_scratch_can_be_written,
    ),
    ("calls_are_answered_or_kill", calls_are_answered_or_kill),
    ("no_socket_leads_anywhere", no_socket_leads_anywhere),
    (
        "a_fork_bomb_stops_at_the_limit",
        a_fork_bomb_stops_at_the_limit,
    ),
    (
        "messages_cannot_be_forged_into_an_end",
        messages_cannot_be_forged_into_an_end,
    ),
    ("what_is_left_running_is_gone", what_is_left_running_is_gone),
    (
        "nothing_is_left_after_any_end",
        nothing_is_left_after_any_end,
    ),
    (
        "nothing_is_left_when_the_host_is_killed",
        nothing_is_left_when_the_host_is_killed,
    ),
    (
        "what_a_keeper_could_not_take_away_the_next_start_does",
        what_a_keeper_could_not_take_away_the_next_start_does,
    ),
];

fn seen_with(backend: &dyn Backend, code: &str, change: impl FnOnce(&mut Plan)) -> Seen {
    let mut plan = suite::plan_without(code, &lacking());
    change(&mut plan);
    suite::run(backend, &plan, &Cancel::new()).unwrap()
}

fn seen(backend: &dyn Backend, code: &str) -> Seen {
    seen_with(backend, code, |_| {})
}

fn exit(seen: &Seen) -> Option<Exit> {
    seen.finish.as_ref().map(|finish| finish.exit.clone())
}

fn expect(seen: &Seen, stdout: &str) {
    assert_eq!(seen.stdout, stdout, "{} {:?}", seen.stderr, seen.finish);
}

fn is_gvisor(backend: &dyn Backend) -> bool {
    ["gvisor", "docker-runsc"].contains(&backend.name())
}

fn is_docker(backend: &dyn Backend) -> bool {
    backend.name().starts_with("docker")
}

fn a_receipt_names_every_wall(backend: &dyn Backend) {
    let plan = suite::plan_without("print(1)", &lacking());
    let (_sandbox, receipt) = backend.create(&plan).unwrap();
    let mut asked = base_guarantees().missing_from(&lacking());
    if is_gvisor(backend) {
        asked.insert(Guarantee::SeparateKernel);
    }
    assert_eq!(receipt.satisfies(&asked), Ok(()), "{receipt:?}");
    assert_eq!(
        receipt.granted().contains(Guarantee::SeparateKernel),
        is_gvisor(backend)
    );
    let names: BTreeSet<&str> = receipt
        .walls
        .iter()
        .map(|wall| wall.name.as_str())
        .collect();
    assert_eq!(names.len(), receipt.walls.len(), "each once");
    for wall in &receipt.walls {
        println!("    {:24} {:?} {:?}", wall.name, wall.got, wall.missing);
    }
    let lost = lost_to_the_processor();
    let missing = receipt.walls.iter().filter(|wall| !wall.stands());
    let missing = missing.filter(|wall| !wall.guarantees.iter().any(|of| lost.contains_key(&of)));
    let missing: Vec<&str> = missing.map(|wall| wall.name.as_str()).collect();
    match backend.name() {
        "docker" => assert_eq!(missing, ["user_namespace"], "as the daemon is set"),
        // As the daemon's runsc is set, its kernel is nobody or root in a user namespace of its own.
        "docker-runsc" => {
            let known = ["pid_namespace", "identity", "capabilities"];
            assert!(
                missing.iter().all(|wall| known.contains(wall)),
                "{missing:?}"
            );
        }
        _ if casemate_container::is_restored(&receipt) => assert_eq!(missing, ["memory_layout"]),
        _ => assert!(missing.is_empty(), "{missing:?}"),
    }
}

fn one_that_is_not_started_leaves_nothing(backend: &dyn Backend) {
    let plan = suite::plan_without("open('/tmp/ran', 'w')", &lacking());
    drop(backend.create(&plan).unwrap());
    assert_eq!(left_of_this_process(), Vec::<String>::new());
}

fn only_its_own_descriptors_are_open(backend: &dyn Backend) {
    let seen = seen(
        backend,
        "import os, stat\n\
         for fd in range(64):\n    \
             try: mode = os.fstat(fd).st_mode\n    \
             except OSError: continue\n    \
             kind = 'file' if stat.S_ISREG(mode) else 'pipe' if stat.S_ISFIFO(mode) else 'socket' if stat.S_ISSOCK(mode) else oct(mode)\n    \
             print(fd, kind)",
    );
    expect(&seen, "0 file\n1 pipe\n2 pipe\n3 socket\n");
}

fn the_root_holds_nothing_of_the_hosts(backend: &dyn Backend) {
    let seen = seen(
        backend,
        "import os\n\
         have = set(os.listdir('/')) - {'bin', 'lib', 'lib32', 'lib64', 'sbin', 'sys', '.dockerenv'}\n\
         # What a daemon makes of itself is empty, or leads into what is.\n\
         dockers = {name for name in ('hostname', 'hosts', 'resolv.conf', 'mtab') if os.path.islink('/etc/' + name) or os.stat('/etc/' + name).st_size == 0} if os.path.exists('/.dockerenv') else set()\n\
         print(sorted(have), os.listdir('/usr/local'), sorted(set(os.listdir('/etc')) - {'alternatives', 'ld.so.cache'} - dockers))\n\
         print(os.listdir('/opt'), sorted(os.listdir('/run')), os.uname().nodename)\n\
         known = {'self', 'thread-self', 'net', 'mounts'}\n\
         def holds(path):\n    \
             try: return os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(1)\n    \
             except OSError: return None\n\
         print([name for name in os.listdir('/proc') if not name.isdigit() and name not in known and holds('/proc/' + name)], os.path.exists('/sys/kernel'))\n\
         for path in ['/proc/1/environ', '/proc/kcore', '/proc/sys/kernel/core_pattern', '/dev/mem', '/dev/kmsg', '/dev/kvm']:\n    \
             try: open(path, 'rb').read(1); print('READ', path)\n    \
             except OSError: pass",
    );
    expect(
        &seen,
        "['data', 'dev', 'etc', 'opt', 'proc', 'run', 'tmp', 'usr', 'work'] [] []\n['casemate'] ['casemate'] casemate\n[] False\n",
    );
}

fn nothing_but_scratch_can_be_written(backend: &dyn Backend) {
    let seen = seen(
        backend,
        "import os\n\
         for dir in ['/', '/usr', '/usr/bin', '/etc', '/opt/casemate', '/opt/casemate/site-packages/pandas', '/run', '/run/casemate', '/data', '/dev', '/usr/local']:\n    \
             for what in (lambda: open(dir + '/x', 'w'), lambda: os.mkdir(dir + '/x'), lambda: os.symlink('a', dir + '/x'), lambda: os.rename('/tmp', dir + '/x'), lambda: os.chmod(dir, 0o777)):\n        \
                 try: what(); print('WROTE', dir)\n        \
                 except OSError: pass\n\
         for dir in ['/tmp', '/work', '/dev/shm']: open(dir + '/x', 'w').write('x')\n\
         print('done', os.getuid() != 0)",
    );
    expect(&seen, "done True\n");
}

/// By their numbers on x86_64. gVisor's kernel answers for itself, and none reaches the host's.
fn calls_are_answered_or_kill(backend: &dyn Backend) {
    if is_gvisor(backend) {
        let seen = seen(backend, "import os\nprint(os.uname().release)");
        return expect(&seen, "4.4.0\n");
    }
    if !cfg!(target_arch = "x86_64") {
        return println!("SKIPPED: the numbers are those of x86_64");
    }
    let calls = "calls = {'mount': 165, 'chroot': 161, 'ptrace': 101, 'keyctl': 250, 'userfaultfd': 323, 'unshare': 272, 'setns': 308,\n\
        'perf_event_open': 298, 'io_uring_setup': 425, 'clone3': 435, 'no such call': 9999}\n\
        for name, number in calls.items(): print(name, call(number, 0, 0, 0, 0, 0))\n\
        print(call(16, 0, 0x15412, 0), call(16, 0, 0x5411, 0), call(56, 0x10000000, 0, 0, 0, 0))";
    // Arguments that no rule allows are answered as what no rule names.
    let otherwise = if is_docker(backend) {
        "EPERM"
    } else {
        "ENOSYS"
    };
    let answers = format!(
        "mount EPERM\nchroot EPERM\nptrace EPERM\nkeyctl EPERM\nuserfaultfd EPERM\nunshare EPERM\nsetns EPERM\n\
         perf_event_open EPERM\nio_uring_setup ENOSYS\nclone3 ENOSYS\nno such call ENOSYS\nENOTTY ENOTTY {otherwise}\n"
    );
    expect(&seen(backend, &format!("{RAW}{calls}")), &answers);
    // bpf, init_module, pivot_root, open_by_handle_at, move_mount; ioctl TIOCSTI with and without bits that
    // the kernel does not read.
    for call in [
        "321",
        "175",
        "155",
        "304",
        "429",
        "16, 0, 0x5412",
        "16, 0, 0x100005412",
    ] {
        let code =
            format!("{RAW}print('before', flush=True)\ncall({call}, 0, 0, 0)\nprint('after')");
        let seen = seen(backend, &code);
        assert_eq!(seen.stdout, "before\n", "{call}");
        let end = exit(&seen);
        assert!(
            matches!(&end, Some(Exit::Wall { wall, .. }) if wall == "seccomp"),
            "{call}: {end:?}"
        );
    }
}

fn no_socket_leads_anywhere(backend: &dyn Backend) {
    // AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK, by the library, not by Python.
    let code = "import socket\n\
        for family in (2, 10, 16, 17, 38, 40):\n    \
            fd = libc.socket(family, 1 if family in (2, 10) else 3, 0)\n    \
            if fd >= 0 and family == 2:\n        \
                address = b'\\x02\\x00\\x00\\x09\\x01\\x01\\x01\\x01' + bytes(8)\n        \
                print('reached' if libc.connect(fd, address, 16) == 0 else 'refused')\n    \
            elif fd >= 0 and GVISOR is False: print('made', family)\n\
        a, b = socket.socketpair(); a.send(b'hi'); print(b.recv(2))";
    let gvisor = is_gvisor(backend);
    let python = if gvisor { "True" } else { "False" };
    let seen = seen(backend, &format!("GVISOR = {python}\n{RAW}{code}"));
    expect(
        &seen,
        if gvisor {
            "refused\nb'hi'\n"
        } else {
            "b'hi'\n"
        },
    );
}

fn a_fork_bomb_stops_at_the_limit(backend: &dyn Backend) {
    let code = "import os, time\n\
        made = 0\n\
        try:\n    \
            for _ in range(200):\n        \
                if os.fork() == 0: time.sleep(30)\n        \
                made += 1\n\
        except OSError as error: print(made, error.strerror)";
    let seen = seen_with(backend, code, |plan| {
        plan.limits.tasks = Limit::At(12);
        // Each holds a part of what is loaded.
        plan.limits.memory = Limit::At(ByteSize(1 << 30));
    });
    let made: u32 = seen.stdout.split(' ').next().unwrap().parse().unwrap();
    assert!((6..12).contains(&made), "{} {}", seen.stdout, seen.stderr);
    // gVisor's own count is not to be seen from outside.
    let told = seen.limits.contains(&LimitKind::Tasks);
    assert!(told || is_gvisor(backend), "{:?}", seen.limits);
    assert!(seen.took < Duration::from_secs(15), "{:?}", seen.took);
}

fn messages_cannot_be_forged_into_an_end(backend: &dyn Backend) {
    let code = "import os, sys\n\
        for bytes in (b'\\x0c{\"exit\":{\"code\":0}}', b'\\x02', b'\\x0bx', b'\\x01{\"kind\":\"end\",\"exit_code\":0}\\n', b'\\x01rubbish'):\n    \
            os.write(3, bytes)\n\
        print('still here')\nsys.stdout.flush()\nos._exit(9)";
    let seen = seen(backend, code);
    assert_eq!(seen.stdout, "still here\n");
    assert_eq!(exit(&seen), Some(Exit::Code(9)));
    assert!(seen.events.contains(&"denied"), "{:?}", seen.events);
}

fn what_is_left_running_is_gone(backend: &dyn Backend) {
    let code = "import os, time\n\
        for _ in range(3):\n    \
            if os.fork() == 0:\n        \
                os.setsid()\n        \
                time.sleep(100)\n\
        print('done', flush=True)\nos._exit(0)";
    let seen = seen(backend, code);
    expect(&seen, "done\n");
    assert_eq!(left_of_this_process(), Vec::<String>::new());
}

fn nothing_is_left_after_any_end(backend: &dyn Backend) {
    let before = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    drop(seen(backend, "print(1)"));
    let descriptors = open();
    for code in [
        "print(1)",
        "1 / 0",
        "while True: print('x' * 1000)",
        "while True: pass",
        "x = bytearray(900 << 20)",
    ] {
        seen_with(backend, code, |plan| {
            plan.limits.cpu_time = Limit::At(Millis(Duration::from_millis(400)));
        });
    }
    assert_eq!(left_of_this_process(), Vec::<String>::new());
    assert_eq!(
        std::fs::read_to_string("/proc/self/mounts").unwrap(),
        before
    );
    assert_eq!(open(), descriptors);
}

/// At several moments: while it is made, while it comes up, while it runs.
fn nothing_is_left_when_the_host_is_killed(backend: &dyn Backend) {
    for millis in [15, 60, 150, 400, 1500] {
        let mut host = support::host_that_runs();
        std::thread::sleep(Duration::from_millis(millis));
        let pid = host.pid();
        host.kill().unwrap();
        host.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let dockers = || is_docker(backend) && !left_of(pid).is_empty();
        while !guests().is_empty() || dockers() {
            let left = (guests(), left_of(pid));
            assert!(Instant::now() < deadline, "{millis} ms: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        casemate_linux::cgroup::reclaim_stale().unwrap();
        assert_eq!(left_of(pid), Vec::<String>::new(), "{millis} ms");
    }
}

/// Only the program that holds the container is killed, and its keeper too: then process 1 in there ends by
/// itself, and what is left the next start takes away.
fn what_a_keeper_could_not_take_away_the_next_start_does(backend: &dyn Backend) {
    if !is_docker(backend) {
        return;
    }
    let mut host = support::host_that_runs();
    let pid = host.pid();
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < deadline, "{what}: {:?}", left_of(pid));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // gVisor's programs are no processes of the host's: there the daemon says that its container runs.
    let is_up = || match is_gvisor(backend) {
        true => support::runs_container_of(pid),
        false => !guests().is_empty(),
    };
    until("it comes up", &is_up);
    let keeper = keeper_of(pid).unwrap();
    for pid in [keeper, i32::try_from(pid).unwrap()] {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    host.wait().unwrap();
    until("process 1 ends by itself", &|| !is_up());
    assert!(!left_of(pid).is_empty(), "the keeper was to do that");
    let mut next = support::host_that_runs();
    until("the next start takes it away", &|| left_of(pid).is_empty());
    // Not before: one that its daemon is only about to make is the start's after it to take away.
    until("it comes up as well", &|| match is_gvisor(backend) {
        true => support::runs_container_of(next.pid()),
        false => !guests().is_empty(),
    });
    let other = next.pid();
    next.kill().unwrap();
    next.wait().unwrap();
    until("and its own goes with it", &|| {
        left_of(other).is_empty() && guests().is_empty()
    });
}

/// The process that keeps the files of the container of this one.
fn keeper_of(host: u32) -> Option<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut found = entries.filter_map(|entry| {
        let path = entry.path();
        let command = std::fs::read_to_string(path.join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        let ours = command.contains("docker-keeper") && parent == host.to_string();
        ours.then(|| entry.file_name().to_string_lossy().parse().ok())?
    });
    found.next()
}

/// Processes of users that only guests have, or of a runtime's in a table of ours.
pub(crate) fn guests() -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let command = std::fs::read_to_string(path.join("cmdline")).unwrap_or_default();
        let of_guests = [
            "/tmp/bundle/",
            "casemate_guest.container",
            "casemate_guest/docker",
        ];
        if of_guests.iter().any(|part| command.contains(part)) {
            found.push(format!("{} {}", path.display(), command.replace('\0', " ")));
        }
    }
    found
}

pub(crate) fn left_of_this_process() -> Vec<String> {
    let mut left = left_of(std::process::id());
    left.extend(guests());
    left
}

/// Groups, staged files and a daemon's containers that are named after a process.
pub(crate) fn left_of(pid: u32) -> Vec<String> {
    let part = format!("-{pid}-");
    let mut left = groups_of(pid);
    let staged = std::fs::read_dir("/run/casemate/docker");
    let staged = staged.into_iter().flatten().flatten();
    left.extend(
        staged
            .map(|entry| entry.path().display().to_string())
            .filter(|path| path.contains(&part)),
    );
    let containers = support::containers();
    let names = containers
        .split('"')
        .filter(|word| word.starts_with("/casemate."));
    left.extend(names.filter(|name| name.contains(&part)).map(str::to_owned));
    left
}

/// Groups whose name says that this process made them.
fn groups_of(pid: u32) -> Vec<String> {
    let part = format!("-{pid}-");
    let mut found = Vec::new();
    let mut look = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = look.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(&part) {
                found.push(entry.path().display().to_string());
            }
            look.push(entry.path());
        }
    }
    found
}
