//! What a hostile program tries from inside, each with what must be seen of it from outside.

use casemate_backend::suite::Seen;
use casemate_model::limit::{Limit, LimitKind};
use casemate_model::outcome::Exit;

use crate::support::{run_with, seen};

/// `call(number, ...)` gives the errno of a raw system call, or 0.
const RAW: &str = "import ctypes, errno, os\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    def call(*args):\n    \
        ctypes.set_errno(0)\n    \
        r = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in args])\n    \
        return errno.errorcode.get(ctypes.get_errno(), 'OK') if r == -1 else 'OK'\n";

fn raw(code: &str) -> Seen {
    seen(&format!("{RAW}{code}"))
}

fn expect(seen: &Seen, stdout: &str) {
    let error = &seen.stderr;
    assert_eq!(seen.stdout, stdout, "{error} {:?}", seen.finish);
}

pub(crate) const TESTS: &[(&str, fn())] = &[
    (
        "only_its_own_descriptors_are_open",
        only_its_own_descriptors_are_open,
    ),
    (
        "the_host_cannot_be_reached_through_proc",
        the_host_cannot_be_reached_through_proc,
    ),
    (
        "nothing_of_the_kernel_can_be_written",
        nothing_of_the_kernel_can_be_written,
    ),
    (
        "the_root_holds_nothing_of_the_hosts",
        the_root_holds_nothing_of_the_hosts,
    ),
    (
        "nothing_but_scratch_can_be_written",
        nothing_but_scratch_can_be_written,
    ),
    (
        "calls_that_programs_try_are_answered",
        calls_that_programs_try_are_answered,
    ),
    (
        "calls_that_only_attacks_make_kill",
        calls_that_only_attacks_make_kill,
    ),
    (
        "only_unix_sockets_can_be_made",
        only_unix_sockets_can_be_made,
    ),
    (
        "nothing_of_the_processor_is_switched_back",
        nothing_of_the_processor_is_switched_back,
    ),
    ("the_32_bit_door_kills", the_32_bit_door_kills),
    (
        "set_user_id_programs_give_nothing",
        set_user_id_programs_give_nothing,
    ),
    (
        "device_nodes_cannot_be_made_or_opened",
        device_nodes_cannot_be_made_or_opened,
    ),
    (
        "a_fork_bomb_stops_at_the_limit",
        a_fork_bomb_stops_at_the_limit,
    ),
    ("threads_stop_at_the_limit", threads_stop_at_the_limit),
    (
        "process_1_cannot_be_killed_or_traced",
        process_1_cannot_be_killed_or_traced,
    ),
    (
        "links_left_behind_lead_nowhere",
        links_left_behind_lead_nowhere,
    ),
    ("what_is_left_running_is_gone", what_is_left_running_is_gone),
    (
        "memory_of_all_processes_counts",
        memory_of_all_processes_counts,
    ),
    (
        "files_without_a_name_count_as_memory",
        files_without_a_name_count_as_memory,
    ),
    (
        "shared_memory_counts_as_scratch",
        shared_memory_counts_as_scratch,
    ),
    (
        "processor_time_of_children_counts",
        processor_time_of_children_counts,
    ),
    (
        "messages_cannot_be_forged_into_an_end",
        messages_cannot_be_forged_into_an_end,
    ),
    ("namespaces_cannot_be_made", namespaces_cannot_be_made),
];

fn only_its_own_descriptors_are_open() {
    let seen = seen(
        "import os, stat\n\
         for fd in range(1024):\n    \
             try: mode = os.fstat(fd).st_mode\n    \
             except OSError: continue\n    \
             kind = 'file' if stat.S_ISREG(mode) else 'pipe' if stat.S_ISFIFO(mode) else 'socket' if stat.S_ISSOCK(mode) else oct(mode)\n    \
             print(fd, kind)",
    );
    expect(&seen, "0 file\n1 pipe\n2 pipe\n3 socket\n");
}

fn the_host_cannot_be_reached_through_proc() {
    let seen = seen(
        "import os\n\
         for path in ['/proc/1/root', '/proc/1/cwd', '/proc/1/exe', '/proc/1/fd', '/proc/1/environ', '/proc/1/mem', '/proc/1/maps',\n\
             '/proc/self/mem', '/proc/self/environ', '/proc/self/root/etc/passwd', '/proc/self/cwd/../../etc/shadow',\n\
             '/proc/kcore', '/proc/kallsyms', '/proc/keys', '/proc/sched_debug', '/proc/version', '/proc/cmdline', '/proc/partitions']:\n    \
             for what in (lambda p: open(p).read(), os.listdir):\n        \
                 try: what(path); print('GOT', path)\n        \
                 except OSError: pass\n\
         print(os.readlink('/proc/self/exe').startswith('/usr/bin/python3'))\n\
         print(sorted(p for p in os.listdir('/proc') if p.isdigit()) == [str(os.getpid())], os.getppid())\n\
         try: open('/proc/self/exe', 'wb'); print('WROTE')\n\
         except OSError: pass",
    );
    expect(&seen, "True\nTrue 1\n");
}

fn nothing_of_the_kernel_can_be_written() {
    let seen = seen(
        "import os\n\
         for path in ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sys/vm/overcommit_memory', '/proc/sysrq-trigger',\n\
             '/proc/self/oom_score_adj', '/proc/self/uid_map', '/proc/self/setgroups', '/sys/kernel/uevent_helper',\n\
             '/sys/fs/cgroup/memory/release_agent', '/dev/kmsg', '/dev/mem', '/dev/kvm', '/dev/fuse', '/dev/net/tun', '/dev/tty', '/dev/ptmx']:\n    \
             try: open(path, 'w').write('1'); print('WROTE', path)\n    \
             except OSError: pass\n\
         print(os.path.exists('/sys'), os.path.exists('/proc/sys'), sorted(os.listdir('/dev')))",
    );
    expect(
        &seen,
        "False False ['fd', 'full', 'null', 'random', 'shm', 'stderr', 'stdin', 'stdout', 'urandom', 'zero']\n",
    );
}

fn the_root_holds_nothing_of_the_hosts() {
    let seen = seen(
        "import os\n\
         have = set(os.listdir('/')) - {'bin', 'lib', 'lib32', 'lib64', 'sbin'}\n\
         print(sorted(have), os.listdir('/usr/local'), sorted(set(os.listdir('/etc')) - {'alternatives', 'ld.so.cache'}))\n\
         print(os.listdir('/opt'), sorted(os.listdir('/run')), os.uname().nodename, os.path.exists('/..'), os.path.samefile('/', '/..'))",
    );
    expect(
        &seen,
        "['data', 'dev', 'etc', 'opt', 'proc', 'run', 'tmp', 'usr', 'work'] [] []\n['casemate'] ['casemate'] casemate True True\n",
    );
}

fn nothing_but_scratch_can_be_written() {
    let seen = seen(
        "import os\n\
         for dir in ['/', '/usr', '/usr/bin', '/etc', '/opt/casemate', '/opt/casemate/site-packages/pandas', '/run', '/run/casemate', '/data', '/proc', '/dev', '/usr/local']:\n    \
             for what in (lambda: open(dir + '/x', 'w'), lambda: os.mkdir(dir + '/x'), lambda: os.symlink('a', dir + '/x'), lambda: os.rename('/tmp', dir + '/x'), lambda: os.chmod(dir, 0o777)):\n        \
                 try: what(); print('WROTE', dir)\n        \
                 except OSError: pass\n\
         for dir in ['/tmp', '/work', '/dev/shm']: open(dir + '/x', 'w').write('x')\n\
         print('done')",
    );
    expect(&seen, "done\n");
}

/// By their numbers on both processors that are supported where those agree; the others by name below.
#[cfg(target_arch = "x86_64")]
fn calls_that_programs_try_are_answered() {
    let seen = raw(
        "calls = {'mount': 165, 'umount2': 166, 'chroot': 161, 'ptrace': 101, 'process_vm_readv': 310, 'keyctl': 250, 'add_key': 248,\n\
             'userfaultfd': 323, 'unshare': 272, 'setns': 308, 'perf_event_open': 298, 'io_uring_setup': 425, 'clone3': 435, 'swapon': 167,\n\
             'kcmp': 312, 'pidfd_getfd': 438, 'settimeofday': 164, 'sethostname': 170, 'syslog': 103, 'landlock_create_ruleset': 444, 'no such call': 9999}\n\
         for name, number in calls.items(): print(name, call(number, 0, 0, 0, 0, 0))",
    );
    expect(
        &seen,
        "mount EPERM\numount2 EPERM\nchroot EPERM\nptrace EPERM\nprocess_vm_readv EPERM\nkeyctl EPERM\nadd_key EPERM\n\
         userfaultfd EPERM\nunshare EPERM\nsetns EPERM\nperf_event_open EPERM\nio_uring_setup ENOSYS\nclone3 ENOSYS\nswapon EPERM\n\
         kcmp EPERM\npidfd_getfd EPERM\nsettimeofday EPERM\nsethostname EPERM\nsyslog EPERM\nlandlock_create_ruleset ENOSYS\nno such call ENOSYS\n",
    );
}

#[cfg(not(target_arch = "x86_64"))]
fn calls_that_programs_try_are_answered() {
    println!("SKIPPED: the numbers are those of x86_64");
}

#[cfg(target_arch = "x86_64")]
fn calls_that_only_attacks_make_kill() {
    // bpf, kexec_load, init_module, pivot_root, open_by_handle_at, move_mount, fsopen, iopl, reboot.
    for number in [321, 246, 175, 155, 304, 429, 430, 172, 169] {
        let seen = raw(&format!(
            "print('before', flush=True)\ncall({number}, 0, 0, 0, 0, 0)\nprint('after')"
        ));
        let exit = seen.finish.as_ref().map(|finish| finish.exit.clone());
        assert_eq!(seen.stdout, "before\n", "{number}");
        assert!(
            matches!(&exit, Some(Exit::Wall { wall, .. }) if wall == "seccomp"),
            "{number}: {exit:?}"
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn calls_that_only_attacks_make_kill() {
    println!("SKIPPED: the numbers are those of x86_64");
}

fn only_unix_sockets_can_be_made() {
    // AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK, AF_BLUETOOTH, AF_XDP, by the library, not by Python.
    let seen = raw("for family in (2, 10, 16, 17, 38, 40, 31, 44):\n    \
             ctypes.set_errno(0)\n    \
             print(family, libc.socket(family, 3, 0), errno.errorcode[ctypes.get_errno()])\n\
         import socket\n\
         a, b = socket.socketpair(); a.send(b'hi'); print(b.recv(2))\n\
         s = socket.socket(socket.AF_UNIX); s.bind('/tmp/s'); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect('/tmp/s'); print('connected')");
    let refused: String = [2, 10, 16, 17, 38, 40, 31, 44]
        .map(|family| format!("{family} -1 EACCES\n"))
        .concat();
    expect(&seen, &format!("{refused}b'hi'\nconnected\n"));
}

/// `int 0x80` is the 32-bit door on x86_64.
#[cfg(target_arch = "x86_64")]
fn the_32_bit_door_kills() {
    let seen = seen(
        "import ctypes, mmap\n\
         code = bytes([0xb8, 0x14, 0, 0, 0, 0xcd, 0x80, 0xc3])\n\
         page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n\
         page.write(code)\n\
         print('before', flush=True)\n\
         ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()\n\
         print('after')",
    );
    assert_eq!(seen.stdout, "before\n", "{}", seen.stderr);
    let exit = seen.finish.map(|finish| finish.exit);
    // A kernel without the door answers with a fault of the program's own.
    assert!(
        matches!(&exit, Some(Exit::Wall { wall, .. }) if wall == "seccomp")
            || exit == Some(Exit::Signal(11)),
        "{exit:?}"
    );
}

#[cfg(not(target_arch = "x86_64"))]
fn the_32_bit_door_kills() {
    println!("SKIPPED: there is no such door on this processor");
}

/// Neither what the processor guesses nor whose cores they are, of itself or of another process.
fn nothing_of_the_processor_is_switched_back() {
    let seen = raw(
        "print({call(157, 53, n, off, 0, 0) for n in (0, 1, 2) for off in (2, 4, 8)}, \
        {call(157, 62, what, pid, scope, 0) for what in range(4) for pid in (0, 1, 2) for scope in (0, 1, 2)})",
    );
    expect(&seen, "{'ENOSYS'} {'ENOSYS'}\n");
}

fn set_user_id_programs_give_nothing() {
    let seen = seen(
        "import glob, os, stat, subprocess\n\
         found = [p for d in ('/usr/bin', '/usr/sbin') for p in glob.glob(d + '/*') if os.lstat(p).st_mode & (stat.S_ISUID | stat.S_ISGID)]\n\
         status = subprocess.run(['/usr/bin/cat', '/proc/self/status'], capture_output=True, text=True).stdout\n\
         uid = os.getuid()\n\
         print(uid != 0, os.getresuid() == (uid, uid, uid), os.getgroups())\n\
         for p in found:\n    \
             subprocess.run(['/usr/bin/timeout', '-s', 'KILL', '0.2', p, '--version'], stdin=subprocess.DEVNULL, capture_output=True)\n\
         for attempt in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.chown('/tmp', 0, 0)):\n    \
             try: attempt(); print('BECAME')\n    \
             except OSError: pass\n\
         open('/tmp/s', 'wb').write(open('/usr/bin/id', 'rb').read()); os.chmod('/tmp/s', 0o6755)\n\
         print(subprocess.run(['/tmp/s', '-u'], capture_output=True, text=True).stdout.strip() == str(uid))\n\
         import ctypes\n\
         libc = ctypes.CDLL(None)\n\
         print(libc.prctl(39, 0, 0, 0, 0), [libc.prctl(23, n, 0, 0, 0) for n in (0, 6, 21)])",
    );
    assert!(
        seen.stdout.ends_with("True\n1 [0, 0, 0]\n")
            || seen.stdout.ends_with("True\n1 [1, 1, 1]\n"),
        "{} {}",
        seen.stdout,
        seen.stderr
    );
    assert!(!seen.stdout.contains("BECAME"), "{}", seen.stdout);
}

fn device_nodes_cannot_be_made_or_opened() {
    let seen = seen(
        "import os, stat\n\
         for kind in (stat.S_IFCHR, stat.S_IFBLK):\n    \
             for dir in ('/tmp', '/work', '/dev/shm'):\n        \
                 try: os.mknod(dir + '/n', 0o666 | kind, os.makedev(8, 0)); print('MADE')\n        \
                 except OSError: pass\n\
         os.mkfifo('/tmp/f')\n\
         print(open('/dev/zero', 'rb').read(3), len(open('/dev/urandom', 'rb').read(8)), open('/dev/null').read() == '')",
    );
    expect(&seen, "b'\\x00\\x00\\x00' 8 True\n");
}

fn a_fork_bomb_stops_at_the_limit() {
    let seen = run_with(
        "import os, time\n\
         made = 0\n\
         try:\n    \
             while True:\n        \
                 if os.fork() == 0: time.sleep(60)\n        \
                 made += 1\n\
         except OSError as e: print(made, e.errno)",
        |plan| plan.limits.tasks = Limit::At(8),
    );
    // The interpreter is the first of the eight.
    expect(&seen, "7 11\n");
    assert!(seen.limits.contains(&LimitKind::Tasks), "{:?}", seen.limits);
}

fn threads_stop_at_the_limit() {
    let seen = run_with(
        "import threading, time\n\
         made = 0\n\
         try:\n    \
             while True:\n        \
                 threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); made += 1\n\
         except RuntimeError: print(made)",
        |plan| plan.limits.tasks = Limit::At(5),
    );
    expect(&seen, "4\n");
    assert!(seen.limits.contains(&LimitKind::Tasks), "{:?}", seen.limits);
}

fn process_1_cannot_be_killed_or_traced() {
    let seen = raw("import os, signal, time\n\
         for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGSEGV):\n    \
             try: os.kill(1, number)\n    \
             except OSError: pass\n\
         try: os.kill(-1, 0)\n\
         except OSError as e: print(e.errno)\n\
         time.sleep(0.1)\n\
         print('alive', os.getppid())");
    assert!(
        seen.stdout.ends_with("alive 1\n"),
        "{} {}",
        seen.stdout,
        seen.stderr
    );
    let exit = seen.finish.map(|finish| finish.exit);
    assert_eq!(exit, Some(Exit::Code(0)));
}

fn links_left_behind_lead_nowhere() {
    let seen = seen(
        "import os\n\
         os.symlink('/etc/shadow', '/tmp/a'); os.symlink('/proc/self/environ', '/work/b'); os.symlink('/', '/tmp/root')\n\
         os.makedirs('/tmp/d'); os.symlink('../../..', '/tmp/d/up'); os.mkfifo('/tmp/pipe')\n\
         open('/tmp/real', 'w').write('x'); os.link('/tmp/real', '/tmp/hard')\n\
         open('/tmp/in\\nname\\x1b[31m', 'w').write('y'); os.truncate(os.open('/work/sparse', os.O_CREAT | os.O_RDWR), 1 << 40)",
    );
    let finish = seen.finish.unwrap();
    let paths: Vec<&str> = finish.artifacts.iter().map(|a| a.path.as_str()).collect();
    assert_eq!(
        paths,
        ["/tmp/hard", "/tmp/in\nname\u{1b}[31m", "/tmp/real"],
        "{}",
        seen.stderr
    );
    assert!(
        seen.limits.contains(&LimitKind::ArtifactBytes),
        "the sparse file is said to be too large"
    );
}

fn what_is_left_running_is_gone() {
    let mark = format!("casemate-mark-{}", std::process::id());
    let seen = seen(&format!(
        "import os, subprocess\n\
         subprocess.Popen(['/usr/bin/python3', '-c', 'import time; time.sleep(300)', '{mark}'], start_new_session=True)\n\
         if os.fork() == 0:\n    \
             os.setsid()\n    \
             if os.fork() == 0:\n        \
                 import time; time.sleep(300)\n    \
             os._exit(0)\n\
         print('left')"
    ));
    expect(&seen, "left\n");
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(&mark), "{entry:?}");
    }
}

fn memory_of_all_processes_counts() {
    let seen = seen(
        "import os, time\n\
         for _ in range(6):\n    \
             if os.fork() == 0:\n        \
                 x = bytearray(80 << 20); time.sleep(5); os._exit(0)\n\
         time.sleep(5); print('LIVED')",
    );
    expect(&seen, "");
    let exit = seen.finish.unwrap().exit;
    assert!(
        matches!(exit, Exit::Limit { limit: LimitKind::Memory, allowed, seen } if seen > allowed),
        "{exit:?}"
    );
}

fn files_without_a_name_count_as_memory() {
    let seen = seen(
        "import os\n\
         fd = os.memfd_create('x')\n\
         for _ in range(600): os.write(fd, bytes(1 << 20))\n\
         print('LIVED')",
    );
    expect(&seen, "");
    let exit = seen.finish.unwrap().exit;
    assert!(
        matches!(
            exit,
            Exit::Limit {
                limit: LimitKind::Memory,
                ..
            }
        ),
        "{exit:?}"
    );
}

fn shared_memory_counts_as_scratch() {
    let seen = run_with(
        "open('/dev/shm/a', 'wb').write(bytes(5 << 20))\n\
         try: open('/tmp/b', 'wb').write(bytes(5 << 20)); print('WROTE')\n\
         except OSError as e: print(e.errno)\n\
         import multiprocessing\n\
         with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
        |plan| plan.limits.disk = Limit::At(casemate_model::unit::ByteSize::mib(8)),
    );
    assert!(
        seen.stdout.starts_with("28\n"),
        "{} {}",
        seen.stdout,
        seen.stderr
    );
}

fn processor_time_of_children_counts() {
    let seen = run_with(
        "import os\n\
         os.fork(); os.fork()\n\
         while True: pass",
        |plan| {
            let second = std::time::Duration::from_secs(1);
            plan.limits.cpu_time = Limit::At(casemate_model::limit::Millis(second));
        },
    );
    let exit = seen.finish.unwrap().exit;
    assert!(
        matches!(
            exit,
            Exit::Limit {
                limit: LimitKind::CpuTime,
                ..
            }
        ),
        "{exit:?}"
    );
    assert!(seen.took.as_secs() < 5, "{:?}", seen.took);
}

fn messages_cannot_be_forged_into_an_end() {
    let seen = seen(
        "import os\n\
         os.write(3, b'\\x02'); os.write(3, b'\\x01{\"kind\":\"end\",\"exit_code\":0}\\n'); os.write(3, b'\\xff' * 60000)\n\
         os.write(3, b'\\x01rubbish')\n\
         try: os.write(3, b'x' * 100000)\n\
         except OSError: pass\n\
         os.close(3)\n\
         open('/tmp/took the number', 'w')\n\
         raise SystemExit(7)",
    );
    let finish = seen.finish.unwrap();
    assert_eq!(
        finish.exit,
        Exit::Code(7),
        "the code is that of the process: {}",
        seen.stderr
    );
    assert!(
        finish
            .artifacts
            .iter()
            .all(|artifact| artifact.bytes.is_empty())
    );
    assert!(seen.events.contains(&"denied"));
}

#[cfg(target_arch = "x86_64")]
fn namespaces_cannot_be_made() {
    // clone with CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET.
    let seen = raw(
        "for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000):\n    \
             got = call(56, flag | 17, 0, 0, 0, 0)\n    \
             print(got)",
    );
    expect(&seen, "ENOSYS\nENOSYS\nENOSYS\nENOSYS\n");
}

#[cfg(not(target_arch = "x86_64"))]
fn namespaces_cannot_be_made() {
    println!("SKIPPED: the numbers are those of x86_64");
}
