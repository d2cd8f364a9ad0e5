//! A wall is taken away from live sandboxes, guarantee by guarantee, and the job must be refused.
//!
//! Nothing in casemate helps with it: a switch that weakens a wall for a test would be a hole. Instead the
//! conditions really lack the thing. A container's runtime is replaced, in a mount namespace of the test's own, by one
//! that leaves a setting out of the bundle before it becomes the real one: what was declared is not enforced, and only
//! what is measured can notice it. A Docker daemon is asked through a proxy that leaves a setting out of the request. A
//! jail is built where the kernel answers system calls with EPERM. Control groups are
//! unmounted. (For the WASM worker see `walls.rs`; for a jail without user namespaces or groups, `casemate-jail`.)

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const RUNTIME: &str = include_str!("runtime.py");
const DENY: &str = include_str!("deny.py");
const DAEMON: &str = include_str!("daemon.py");
/// What a program must not get to print.
const MARK: &str = "the program ran";

/// How a run went.
struct Ran {
    outcome: Value,
    stderr: String,
}

impl Ran {
    fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let stderr = support::stderr(&output);
        let outcome = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        Self { outcome, stderr }
    }

    /// Whether it was stopped before the program's first instruction, for this reason.
    fn refused_for(&self, word: &str) -> Result<(), String> {
        let ending = &self.outcome["ending"];
        let said = ending["reason"].as_str().unwrap_or_default();
        let ran = self.outcome["stdout"]
            .as_str()
            .is_some_and(|text| text.contains(MARK));
        let stopped = matches!(ending["status"].as_str(), Some("refused" | "faulted"));
        if stopped && !ran && said.contains(word) {
            return Ok(());
        }
        Err(format!(
            "not refused for {word:?}: {ending} {}",
            self.stderr
        ))
    }
}

fn casemate_run(backend: &str) -> Vec<String> {
    let program = format!("print('{MARK}')");
    let words = [
        env!("CARGO_BIN_EXE_casemate"),
        "run",
        "--json",
        "--policy",
        "native",
        "--backend",
        backend,
        "-c",
        &program,
    ];
    words.map(str::to_owned).to_vec()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the program under test is started as a user would, under other conditions"
)]
fn command(program: &str) -> Command {
    Command::new(program)
}

/// What runs this line of the shell, and then the program that follows, in mounts of its own.
fn with_own_mounts(line: &str) -> Command {
    let mut unshare = command("/usr/bin/unshare");
    unshare.args(["--mount", "--propagation", "private"]);
    unshare.args(["/bin/sh", "-c", line, "sh"]);
    unshare
}

/// Whether this backend runs here as it is: with nothing taken away, the same program must run.
fn works(backend: &str) -> bool {
    let words = casemate_run(backend);
    let ran = Ran::of(command(&words[0]).args(&words[1..]));
    let works = ran.outcome["ending"]["status"] == "exited";
    if !works {
        assert!(
            std::env::var_os("CI").is_none(),
            "no {backend} in CI: {} {}",
            ran.outcome["ending"],
            ran.stderr
        );
        eprintln!(
            "SKIPPED what is taken from {backend}: it does not run here: {}",
            ran.stderr
        );
    }
    works
}

/// A runtime that leaves something out, to be mounted over the real one.
struct Replaced {
    folder: tempfile::TempDir,
    real: PathBuf,
}

impl Replaced {
    fn new(program: &str) -> Self {
        let folders = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
        let mut paths = folders.iter().map(|folder| Path::new(folder).join(program));
        let real = paths
            .find(|path| path.exists())
            .unwrap()
            .canonicalize()
            .unwrap();
        // Not in /tmp, which the keeper has one of its own of.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(&real, folder.path().join("real")).unwrap();
        let path = folder.path().join("runtime");
        let here = folder.path().display().to_string();
        fs::write(&path, RUNTIME.replace("FOLDER", &here)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, real }
    }

    /// Runs the program with this left out, as a line of Python over `config` and `arguments`.
    fn run(&self, backend: &str, leave_out: &str) -> Ran {
        fs::write(self.folder.path().join("leave_out"), leave_out).unwrap();
        let mount = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
        Ran::of(
            with_own_mounts(mount)
                .arg(self.folder.path().join("runtime"))
                .arg(&self.real)
                .args(casemate_run(backend)),
        )
    }
}

/// Runs every row and tells all that went wrong.
fn all_refused(rows: &[(&str, &str, &str)], run: impl Fn(&str) -> Ran) {
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|(guarantee, taken, word)| {
            let refused = run(taken).refused_for(word);
            refused
                .err()
                .map(|why| format!("{guarantee}, {taken}: {why}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The guarantee, what the runtime leaves out of the bundle or puts into it, and the wall that is named.
const LEFT_OUT: &[(&str, &str, &str)] = &[
    (
        "network absent",
        "config['linux']['namespaces'] = [n for n in config['linux']['namespaces'] if n['type'] != 'network']",
        "network_namespace",
    ),
    (
        "system calls filtered",
        "config['linux'].pop('seccomp')",
        "seccomp",
    ),
    (
        "system calls filtered, by a filter that allows all",
        "config['linux']['seccomp']['defaultAction'] = 'SCMP_ACT_ALLOW'; config['linux']['seccomp']['syscalls'] = []; config['linux']['seccomp'].pop('defaultErrnoRet')",
        "seccomp",
    ),
    (
        "system calls filtered, but for one",
        "call = next(c for c in config['linux']['seccomp']['syscalls'] if 'userfaultfd' in c['names']); call.update(action='SCMP_ACT_ALLOW'); call.pop('errnoRet')",
        "seccomp",
    ),
    (
        "host files hidden",
        "config['mounts'].append({'destination': '/srv', 'type': 'bind', 'source': '/etc', 'options': ['rbind', 'ro']})",
        "could not be made",
    ),
    (
        "host files hidden",
        "config['linux']['namespaces'] = [n for n in config['linux']['namespaces'] if n['type'] != 'pid']",
        "could not be made",
    ),
    (
        "open files capped",
        "config['process'].pop('rlimits')",
        "rlimits",
    ),
    (
        "no new privileges",
        "config['process']['noNewPrivileges'] = False",
        "could not be made",
    ),
    (
        "no capability",
        "config['process']['capabilities'] = {k: ['CAP_SYS_ADMIN'] for k in ('bounding', 'effective', 'permitted')}",
        "capabilities",
    ),
    (
        "nobody",
        "config['process']['user'] = {'uid': 0, 'gid': 0}",
        "identity",
    ),
    (
        "ipc of its own",
        "config['linux']['namespaces'] = [n for n in config['linux']['namespaces'] if n['type'] != 'ipc']",
        "ipc_namespace",
    ),
    (
        "user of its own",
        "config['linux']['namespaces'] = [n for n in config['linux']['namespaces'] if n['type'] != 'user']; config['linux'].pop('uidMappings', 0); config['linux'].pop('gidMappings', 0)",
        "user_namespace",
    ),
    (
        "disk capped",
        "next(m for m in config['mounts'] if m['destination'] == '/work').update(source='/var/tmp')",
        "root",
    ),
    (
        "environment empty",
        "config['process']['env'].append('HOST_SECRET=1')",
        "environment",
    ),
];

#[test]
fn what_a_runtime_leaves_out_of_a_bundle_is_noticed() {
    for program in ["runc", "crun"] {
        if !works(program) {
            continue;
        }
        let replaced = Replaced::new(program);
        let same = replaced.run(program, "pass");
        assert_eq!(
            same.outcome["ending"]["status"], "exited",
            "{program}: {}",
            same.stderr
        );
        all_refused(LEFT_OUT, |taken| replaced.run(program, taken));
    }
}

#[test]
fn a_gvisor_with_the_hosts_network_is_noticed() {
    if !works("gvisor") {
        return;
    }
    let replaced = Replaced::new("runsc");
    let same = replaced.run("gvisor", "pass");
    assert_eq!(
        same.outcome["ending"]["status"], "exited",
        "{}",
        same.stderr
    );
    let host = "arguments[arguments.index('--network=none')] = '--network=host'";
    all_refused(&[("network absent", host, "missing walls")], |taken| {
        replaced.run("gvisor", taken)
    });
}

/// The guarantee, what is left out of the request for a container or put into it, and the wall that is named.
const NOT_ASKED_FOR: &[(&str, &str, &str)] = &[
    (
        "network absent",
        "host['NetworkMode'] = 'host'",
        "network_namespace",
    ),
    (
        "system calls filtered",
        "host['SecurityOpt'] = ['no-new-privileges', 'seccomp=unconfined']",
        "seccomp",
    ),
    (
        "system calls filtered, as Docker does by itself",
        "host['SecurityOpt'] = ['no-new-privileges']",
        "seccomp",
    ),
    (
        "no new privileges",
        "host['SecurityOpt'] = [o for o in host['SecurityOpt'] if o.startswith('seccomp')]",
        "could not be made",
    ),
    ("no capability", "host.pop('CapDrop')", "capabilities"),
    ("nobody", "body['User'] = '0:0'", "identity"),
    (
        "host files hidden",
        "host['Mounts'].append({'Type': 'bind', 'Source': '/etc', 'Target': '/srv'})",
        "root",
    ),
    (
        "host files hidden, a root to write to",
        "host['ReadonlyRootfs'] = False",
        "root",
    ),
    (
        "processes of its own",
        "host['PidMode'] = 'host'",
        "pid_namespace",
    ),
    (
        "ipc of its own",
        "host['IpcMode'] = 'host'",
        "ipc_namespace",
    ),
    (
        "the machine's /proc covered",
        "host['MaskedPaths'] = []",
        "proc",
    ),
    ("privileged", "host['Privileged'] = True", "capabilities"),
    ("core files", "host.pop('Ulimits')", "rlimits"),
    (
        "memory capped",
        "host.pop('Memory'); host.pop('MemorySwap')",
        "memory capped",
    ),
    (
        "disk capped",
        "next(m for m in host['Mounts'] if m['Target'] == '/work').update(Source='/var/tmp')",
        "docker_daemon",
    ),
    (
        "environment empty",
        "body['Env'].append('HOST_SECRET=1')",
        "environment",
    ),
];

#[test]
fn what_is_left_out_of_a_request_to_a_daemon_is_noticed() {
    if !works("docker") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let proxy = dir.path().join("daemon.py");
    fs::write(&proxy, DAEMON).unwrap();
    let said = std::env::var("DOCKER_HOST").unwrap_or_default();
    let real = said.strip_prefix("unix://").unwrap_or("/run/docker.sock");
    let socket = dir.path().join("docker.sock");
    let run = |line: &str| {
        let mut python = command("/usr/bin/python3");
        python.args(["-I", "-B"]).args([&proxy, &socket]);
        python.args([real, line]).args(casemate_run("docker"));
        let ran = Ran::of(&mut python);
        fs::remove_file(&socket).unwrap();
        ran
    };
    let same = run("pass");
    assert_eq!(
        same.outcome["ending"]["status"], "exited",
        "{}",
        same.stderr
    );
    all_refused(NOT_ASKED_FOR, run);
}

#[test]
fn without_control_groups_nothing_that_needs_them_starts() {
    for backend in ["jail", "runc", "crun", "gvisor", "docker", "docker-runsc"] {
        if !works(backend) {
            continue;
        }
        let without = "umount --recursive --lazy /sys/fs/cgroup && exec \"$@\"";
        let ran = Ran::of(with_own_mounts(without).args(casemate_run(backend)));
        for guarantee in ["memory capped", "tasks capped", "CPU time capped"] {
            ran.refused_for(guarantee)
                .unwrap_or_else(|why| panic!("{backend}: {why}"));
        }
    }
}

/// What the kernel refuses by number (of x86-64), and the wall that is named.
#[cfg(target_arch = "x86_64")]
const REFUSED: &[(&str, &str, &str)] = &[
    ("system calls filtered", "317,157:22", "seccomp"),
    ("open files capped", "302,160", "rlimits"),
    ("no capability", "126", "could not be built"),
    ("not to be looked into", "157:4", "could not be built"),
    ("gone with its parent", "157:1", "PR_SET_PDEATHSIG"),
    ("host files hidden, root", "155", "could not be built"),
    (
        "host files hidden, mounts",
        "165,429,442",
        "mount --make-rprivate",
    ),
];

#[cfg(target_arch = "x86_64")]
#[test]
fn what_the_kernel_refuses_a_jail_is_noticed() {
    if !works("jail") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let deny = dir.path().join("deny.py");
    fs::write(&deny, DENY).unwrap();
    let run = |calls: &str| {
        let mut python = command("/usr/bin/python3");
        python.args(["-I", "-B"]).arg(&deny).arg(calls);
        Ran::of(python.args(casemate_run("jail")))
    };
    // A call that nobody makes: the filter alone takes nothing away.
    let same = run("212");
    assert_eq!(
        same.outcome["ending"]["status"], "exited",
        "{}",
        same.stderr
    );
    all_refused(REFUSED, run);
}

/// A wall of a receipt: how it stands, or why it does not.
#[cfg(target_arch = "x86_64")]
fn said_of(outcome: &Value, name: &str) -> Result<String, String> {
    let walls = outcome["receipt"]["walls"].as_array().unwrap();
    let wall = walls.iter().find(|wall| wall["name"] == name).unwrap();
    let text = |field: &str| wall[field].as_str().map(str::to_owned);
    text("got").ok_or_else(|| text("missing").unwrap())
}

/// What a kernel answers about its processor: by `PR_GET_SPECULATION_CTRL` (52) and `PR_SCHED_CORE` (62).
#[cfg(target_arch = "x86_64")]
#[test]
fn what_a_processor_does_beside_is_told_and_refused_where_that_is_demanded() {
    let dir = tempfile::tempdir().unwrap();
    let deny = dir.path().join("deny.py");
    fs::write(&deny, DENY).unwrap();
    let demanding = dir.path().join("demanding.toml");
    let native = include_str!("../../../../policies/presets/native.toml");
    let more = "require = [\n    \"speculation_limited\",\n    \"core_unshared\",";
    fs::write(&demanding, native.replace("require = [", more)).unwrap();
    let demanding = demanding.display().to_string();
    // Not runc: who is under a filter reads nobody else's back, and so is refused.
    for backend in ["jail", "wasm", "gvisor"] {
        if !works(backend) {
            continue;
        }
        let run = |calls: &str, policy: &str| {
            let mut words = casemate_run(backend);
            let at = words.iter().position(|word| word == "native").unwrap();
            words[at] = policy.to_owned();
            let mut python = command("/usr/bin/python3");
            python.args(["-I", "-B"]).arg(&deny).arg(calls);
            Ran::of(python.args(words))
        };
        // Not told, and not to be had: it runs, and the receipt says so.
        let without = "157:52=19,157:62=22";
        let ran = run(without, "native");
        assert_eq!(ran.outcome["ending"]["status"], "exited", "{}", ran.stderr);
        let why = said_of(&ran.outcome, "core_scheduling").unwrap_err();
        assert!(why.contains("CONFIG_SCHED_CORE"), "{backend}: {why}");
        // Where it is demanded nothing runs.
        let refused = run(without, &demanding);
        for guarantee in ["speculation limited", "core not shared"] {
            refused.refused_for(guarantee).unwrap();
        }
        // What a container inherits is read in the kernel's own files, which no filter changes.
        if backend == "gvisor" {
            continue;
        }
        let why = said_of(&ran.outcome, "speculation").unwrap_err();
        assert!(why.contains("no switch for it on this processor"), "{why}");
        // A processor that does not guess so, and has no core for two.
        let ran = run("157:52=0,157:62=19", &demanding);
        assert_eq!(ran.outcome["ending"]["status"], "exited", "{}", ran.stderr);
        let how = said_of(&ran.outcome, "speculation").unwrap();
        assert!(how.contains("store bypass not affected"), "{how}");
        let how = said_of(&ran.outcome, "core_scheduling").unwrap();
        assert!(how.contains("no core here runs two"), "{how}");
    }
}

#[test]
fn a_limit_that_the_policy_lifts_is_no_guarantee() {
    if !works("jail") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (limit, guarantee) in [
        ("wall_time", "wall time capped"),
        ("output", "output capped"),
        ("cpu_time", "CPU time capped"),
        ("memory", "memory capped"),
        ("tasks", "tasks capped"),
        ("open_files", "open files capped"),
    ] {
        let native = include_str!("../../../../policies/presets/native.toml");
        let (head, _) = native.split_once("[limits]").unwrap();
        let policy = dir.path().join(format!("{limit}.toml"));
        fs::write(
            &policy,
            format!("{head}\n[limits]\n{limit} = \"unlimited\"\n"),
        )
        .unwrap();
        let mut words = casemate_run("jail");
        let at = words.iter().position(|word| word == "native").unwrap();
        words[at] = policy.display().to_string();
        let ran = Ran::of(command(&words[0]).args(&words[1..]));
        ran.refused_for(guarantee)
            .unwrap_or_else(|why| panic!("{limit}: {why}"));
    }
}
