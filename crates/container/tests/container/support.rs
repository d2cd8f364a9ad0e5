//! The backends over this program, the set-up they need, and a list of tests run one by one over each.

use casemate_backend::contract::{Backend, Cancel, Usable};
use casemate_backend::setup::{Progress, Unit};
use casemate_backend::suite;
use casemate_container::docker::{DockerBackend, Variant};
use casemate_container::{ContainerBackend, Kind, Platform};
use casemate_driver::packages::{Store, set_up};
use casemate_linux::{Child, Spawn};
use casemate_model::guarantee::{Guarantee, Guarantees};

pub(crate) type Test = (&'static str, fn(&dyn Backend));

const KINDS: [(&str, Made); 6] = [
    ("runc", Made::Ours(Kind::Runc)),
    ("crun", Made::Ours(Kind::Crun)),
    ("gvisor", Made::Ours(Kind::Gvisor(Platform::Systrap))),
    ("gvisor_ptrace", Made::Ours(Kind::Gvisor(Platform::Ptrace))),
    ("docker", Made::Dockers(Variant::Native)),
    ("docker_runsc", Made::Dockers(Variant::Gvisor)),
];

/// Who makes the containers.
#[derive(Debug, Clone, Copy)]
enum Made {
    Ours(Kind),
    Dockers(Variant),
}

impl Made {
    const fn name(self) -> &'static str {
        match self {
            Self::Ours(kind) => kind.name(),
            Self::Dockers(variant) => variant.name(),
        }
    }

    fn backend(self, store: Store) -> Box<dyn Backend> {
        let program = std::env::current_exe().unwrap();
        match self {
            Self::Ours(kind) => Box::new(ContainerBackend::new(kind, store, program)),
            Self::Dockers(variant) => Box::new(DockerBackend::new(variant, store, program)),
        }
    }
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
pub(crate) fn host_that_runs(backend: &dyn Backend) -> Child {
    let spawn = Spawn::this_program().arg(HOST).arg(backend.name());
    std::env::vars_os()
        .fold(spawn, |spawn, (name, value)| spawn.env(name, value))
        .spawn()
        .unwrap()
}

/// Runs one until it is killed.
pub(crate) fn be_a_host(name: Option<std::ffi::OsString>) {
    let mut all = KINDS.iter().map(|(_, made)| *made);
    let made = all.find(|made| name.as_deref() == Some(made.name().as_ref()));
    let backend = made.unwrap().backend(Store::open().unwrap());
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

/// Runs the tests whose full names contain `only`. A runtime that this machine does not have is skipped,
/// in so many words; in CI that is a failure.
pub(crate) fn run(tests: &[Test], only: Option<String>) {
    let only = only.filter(|arg| !arg.starts_with('-')).unwrap_or_default();
    let store = Store::open().unwrap();
    if let Err(error) = set_up(&store, false, &Say) {
        assert!(std::env::var_os("CI").is_none(), "no guest in CI: {error}");
        println!("SKIPPED everything: {error}");
        return;
    }
    let mut failed = Vec::new();
    for (name, made) in KINDS {
        let wanted = tests
            .iter()
            .filter(|(test, _)| format!("{name}/{test}").contains(&only));
        let wanted: Vec<&Test> = wanted.collect();
        if wanted.is_empty() {
            continue;
        }
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
        failed.extend(run_over(name, backend.as_ref(), &wanted));
    }
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

fn run_over(kind: &str, backend: &dyn Backend, tests: &[&Test]) -> Vec<String> {
    let mut failed = Vec::new();
    for (name, test) in tests {
        let begun = std::time::Instant::now();
        let passed =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(backend))).is_ok();
        let word = if passed { "ok" } else { "FAILED" };
        println!(
            "test {kind}/{name} ... {word} ({:.1} s)",
            begun.elapsed().as_secs_f64()
        );
        if !passed {
            failed.push(format!("{kind}/{name}"));
        }
    }
    failed
}
