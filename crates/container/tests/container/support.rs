//! The backends over this program, the set-up they need, and a list of tests run one by one over each.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use casemate_backend::contract::{Backend, Cancel, Usable};
use casemate_backend::setup::{Progress, Unit};
use casemate_backend::suite;
use casemate_container::docker::{DockerBackend, Variant};
use casemate_container::{ContainerBackend, ContainerSessions, Kind, Make, Platform};
use casemate_driver::packages::{Store, set_up};
use casemate_linux::{Child, Spawn};
use casemate_model::guarantee::{Guarantee, Guarantees};

pub(crate) type Test = (&'static str, fn(&dyn Backend));

const KINDS: [(&str, Made); 7] = [
    ("runc", Made::Ours(Kind::Runc)),
    ("crun", Made::Ours(Kind::Crun)),
    ("gvisor", Made::Ours(Kind::Gvisor(Platform::Systrap))),
    ("gvisor_ptrace", Made::Ours(Kind::Gvisor(Platform::Ptrace))),
    ("gvisor_restored", Made::Restored),
    ("docker", Made::Dockers(Variant::Native)),
    ("docker_runsc", Made::Dockers(Variant::Gvisor)),
];

/// Who makes the containers.
#[derive(Debug, Clone, Copy)]
enum Made {
    Ours(Kind),
    /// The same of gVisor's, where no run starts but from a checkpoint.
    Restored,
    Dockers(Variant),
}

/// Of which kind the containers are that are tested now.
static NOW: Mutex<&str> = Mutex::new("");

impl Made {
    fn backend(self, store: Store) -> Box<dyn Backend> {
        let program = std::env::current_exe().unwrap();
        match self {
            Self::Ours(kind) => Box::new(ContainerBackend::new(kind, store, program)),
            Self::Restored => Box::new(restored(store, program, checkpoints(), Make::First)),
            Self::Dockers(variant) => Box::new(DockerBackend::new(variant, store, program)),
        }
    }
}

/// The folder of checkpoints, which a process that is started by this one is told.
const CHECKPOINTS: &str = "CASEMATE_TEST_CHECKPOINTS";

/// gVisor with checkpoints.
fn restored(store: Store, program: PathBuf, folder: &Path, make: Make) -> ContainerBackend {
    let kind = Kind::Gvisor(Platform::Systrap);
    let backend = ContainerBackend::new(kind, store, program);
    backend.with_checkpoints(folder.to_owned(), make)
}

/// gVisor with those in a folder.
pub(crate) fn restored_from(folder: &Path, make: Make) -> ContainerBackend {
    let program = std::env::current_exe().unwrap();
    restored(Store::open().unwrap(), program, folder, make)
}

/// Where they are here.
pub(crate) fn checkpoints() -> &'static Path {
    static FOLDER: OnceLock<(PathBuf, Option<tempfile::TempDir>)> = OnceLock::new();
    let made = || match std::env::var_os(CHECKPOINTS) {
        Some(of_another) => (of_another.into(), None),
        None => {
            let folder = tempfile::tempdir().unwrap();
            (folder.path().to_owned(), Some(folder))
        }
    };
    &FOLDER.get_or_init(made).0
}

/// This program as a keeper: of a container, or of the files of one that a daemon makes.
pub(crate) fn keeper(of: fn() -> std::process::ExitCode) -> i32 {
    // The code is what the kernel is given either way; `ExitCode` does not tell it.
    let code = of();
    i32::from(code != std::process::ExitCode::SUCCESS)
}

/// What no native program can be kept from: reading the processor's own clock.
pub(crate) fn lacking() -> Guarantees {
    [Guarantee::ClockCoarse].into_iter().collect()
}

/// The argument that makes this program run one container for a while.
pub(crate) const HOST: &str = "host-to-be-killed";

/// Another process like this one, in which a container runs.
pub(crate) fn host_that_runs() -> Child {
    let spawn = Spawn::this_program().arg(HOST).arg(*NOW.lock().unwrap());
    let spawn = spawn.env(CHECKPOINTS, checkpoints());
    std::env::vars_os()
        .fold(spawn, |spawn, (name, value)| spawn.env(name, value))
        .spawn()
        .unwrap()
}

/// Runs one until it is killed.
pub(crate) fn be_a_host(name: Option<std::ffi::OsString>) {
    let mut all = KINDS.iter();
    let (_, made) = all
        .find(|(kind, _)| name.as_deref() == Some(kind.as_ref()))
        .unwrap();
    let backend = made.backend(Store::open().unwrap());
    let plan = suite::plan_without("import time\ntime.sleep(60)", &lacking());
    drop(suite::run(backend.as_ref(), &plan, &Cancel::new()));
}

/// What the daemon says of its containers, where there is one.
pub(crate) fn containers() -> String {
    use std::io::{Read, Write};
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let path = host.strip_prefix("unix://").unwrap_or("/run/docker.sock");
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(path) else {
        return String::new();
    };
    stream
        .write_all(b"GET /containers/json?all=1 HTTP/1.0\r\nHost: docker\r\n\r\n")
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

/// Whether it says that a container of this process's runs.
pub(crate) fn runs_container_of(pid: u32) -> bool {
    let said = containers();
    let body = said.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let all: Vec<serde_json::Value> = serde_json::from_str(body).unwrap_or_default();
    let named = |container: &serde_json::Value| {
        let names = container["Names"].as_array();
        let part = format!("-{pid}-");
        names.is_some_and(|names| names.iter().any(|name| name.to_string().contains(&part)))
    };
    all.iter()
        .any(|container| named(container) && container["State"] == "running")
}

/// The agent as it is shipped, in a folder that has nothing else in it; none where `./dev` has not built it.
pub(crate) fn agent() -> Option<tempfile::TempDir> {
    let beside = || {
        Some(
            std::env::current_exe()
                .ok()?
                .ancestors()
                .nth(3)?
                .join("agent/casemate-guest"),
        )
    };
    let named = std::env::var_os("CASEMATE_GUEST_AGENT").map(PathBuf::from);
    let path = named.or_else(beside).filter(|path| path.exists());
    let Some(path) = path else {
        assert!(std::env::var_os("CI").is_none(), "the agent is missing");
        println!("SKIPPED all sessions: the agent is missing; ./dev agent builds it");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    readable(folder.path());
    std::fs::copy(path, folder.path().join("casemate-guest")).unwrap();
    readable(&folder.path().join("casemate-guest"));
    Some(folder)
}

fn readable(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn sessions(name: &str, agent: &Path) -> ContainerSessions {
    let mut kinds = [Kind::Runc, Kind::Crun].into_iter();
    let kind = kinds.find(|kind| kind.name() == name).unwrap();
    let program = std::env::current_exe().unwrap();
    ContainerSessions::new(kind, Store::open().unwrap(), program, agent).unwrap()
}

/// The argument that makes this program open one session.
pub(crate) const SESSION: &str = "host-of-a-session";

/// Another process like this one, in which a session is.
pub(crate) fn another(name: &str, how: &str, agent: &Path) -> Child {
    let spawn = Spawn::this_program().arg(SESSION).arg(name).arg(how);
    let spawn = spawn.arg(agent);
    std::env::vars_os()
        .fold(spawn, |spawn, (name, value)| spawn.env(name, value))
        .spawn()
        .unwrap()
}

/// Is that process.
pub(crate) fn be_a_host_of_a_session(mut words: impl Iterator<Item = std::ffi::OsString>) {
    let mut word = || words.next().unwrap();
    let (name, how, agent) = (word(), word(), word());
    let sessions = sessions(name.to_str().unwrap(), Path::new(&agent));
    crate::hosts::be_a_host(&sessions, how.to_str().unwrap());
}

/// A runtime that leaves something out of the bundle, to be mounted over the real one.
pub(crate) struct Replaced {
    folder: tempfile::TempDir,
    agent: tempfile::TempDir,
    name: String,
    real: PathBuf,
}

const RUNTIME: &str = include_str!("../../../casemate/tests/taken_away/runtime.py");

impl Replaced {
    pub(crate) fn new(name: &str) -> Self {
        let folders = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
        let mut paths = folders.iter().map(|folder| Path::new(folder).join(name));
        let real = paths.find(|path| path.exists()).unwrap();
        let real = real.canonicalize().unwrap();
        // Not in /tmp, which the keeper has one of its own of.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        readable(folder.path());
        std::fs::copy(&real, folder.path().join("real")).unwrap();
        let here = folder.path().display().to_string();
        let path = folder.path().join("runtime");
        std::fs::write(&path, RUNTIME.replace("FOLDER", &here)).unwrap();
        readable(&path);
        Self {
            folder,
            agent: agent().unwrap(),
            name: name.to_owned(),
            real,
        }
    }

    /// What a process says that opens a session with this left out, as a line of Python.
    #[expect(
        clippy::disallowed_methods,
        reason = "this program is started once more, in other mounts"
    )]
    pub(crate) fn opened(&self, leave_out: &str) -> String {
        std::fs::write(self.folder.path().join("leave_out"), leave_out).unwrap();
        let mount = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
        let output = std::process::Command::new("/usr/bin/unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "/bin/sh",
                "-c",
                mount,
                "sh",
            ])
            .arg(self.folder.path().join("runtime"))
            .arg(&self.real)
            .arg(std::env::current_exe().unwrap())
            .args([SESSION, &self.name, "once"])
            .arg(self.agent.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said + &String::from_utf8_lossy(&output.stderr)
    }
}

struct Say;

impl Progress for Say {
    fn stage(&self, name: &str, _: Option<u64>, _: Unit) {
        println!("{name}");
    }
    fn at(&self, _: u64) {}
    fn done(&self, _: &str) {}
    fn say(&self, text: &str) {
        println!("{text}");
    }
}

/// Runs the tests whose full names contain `only`: of every kind, and those of sessions where there can be one. A
/// runtime that this machine does not have is skipped, in so many words; in CI that is a failure.
pub(crate) fn run(tests: &[Test], of_sessions: &[crate::sessions::Test], only: Option<String>) {
    let only = only.filter(|arg| !arg.starts_with('-')).unwrap_or_default();
    let store = Store::open().unwrap();
    if let Err(error) = set_up(&store, false, &Say) {
        assert!(std::env::var_os("CI").is_none(), "no guest in CI: {error}");
        println!("SKIPPED everything: {error}");
        return;
    }
    let mut failed = Vec::new();
    for (name, made) in KINDS {
        let more: &[Test] = match made {
            Made::Restored => crate::restored::TESTS,
            _ => &[],
        };
        let wanted = tests
            .iter()
            .chain(more)
            .filter(|(test, _)| format!("{name}/{test}").contains(&only));
        let wanted: Vec<&Test> = wanted.collect();
        let lasting = matches!(made, Made::Ours(Kind::Runc | Kind::Crun));
        let lasting = of_sessions
            .iter()
            .filter(|(test, _)| lasting && format!("{name}/session/{test}").contains(&only));
        let lasting: Vec<_> = lasting.collect();
        if wanted.is_empty() && lasting.is_empty() {
            continue;
        }
        *NOW.lock().unwrap() = name;
        let backend = made.backend(store.clone());
        let usable = backend.probe().usable;
        if usable != Usable::Yes {
            assert!(
                std::env::var_os("CI").is_none(),
                "no {name} in CI: {usable:?}"
            );
            println!("SKIPPED {} tests of {name}: {usable:?}", wanted.len());
            continue;
        }
        for (test, run) in wanted {
            let whole = format!("{name}/{test}");
            failed.extend(one(&whole, || run(backend.as_ref())));
        }
        if !lasting.is_empty()
            && let Some(agent) = agent()
        {
            let sessions = sessions(name, agent.path());
            for (test, run) in lasting {
                let whole = format!("{name}/session/{test}");
                failed.extend(one(&whole, || run(&sessions)));
            }
        }
    }
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

/// Runs one; its name where it failed.
fn one(name: &str, test: impl FnOnce()) -> Option<String> {
    let begun = std::time::Instant::now();
    let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).is_ok();
    let word = if passed { "ok" } else { "FAILED" };
    println!(
        "test {name} ... {word} ({:.1} s)",
        begun.elapsed().as_secs_f64()
    );
    (!passed).then(|| name.to_owned())
}
