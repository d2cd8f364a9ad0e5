//! What the walls of this machine rest on, by name, so that a change of any of it is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use casemate_backend::contract::Backend;
use casemate_engine::policies;
use casemate_linux::file::identity;
use casemate_linux::proc::kernel_facts;
use casemate_linux::seccomp;
use sha2::{Digest, Sha256};

use crate::sign::{file_sha256, hex};

/// This program, which may have been replaced under its name since it started.
const PROGRAM: &str = "/proc/self/exe";
/// Settings by which distributions and administrators take walls away or put them up.
const SETTINGS: [&str; 6] = [
    "kernel/apparmor_restrict_unprivileged_userns",
    "kernel/unprivileged_userns_clone",
    "user/max_user_namespaces",
    "kernel/yama/ptrace_scope",
    "kernel/io_uring_disabled",
    "kernel/unprivileged_bpf_disabled",
];

/// What was found of this machine, and of each backend.
#[derive(Debug, Clone)]
pub(crate) struct Depends {
    machine: BTreeMap<String, String>,
    backends: BTreeMap<String, BTreeMap<String, String>>,
}

impl Depends {
    /// Looks at the machine and asks the backends.
    pub(crate) fn look<'a>(backends: impl Iterator<Item = &'a dyn Backend>) -> Self {
        let of = |backend: &dyn Backend| {
            let own = backend.rests_on().into_iter().collect();
            (backend.name().to_owned(), own)
        };
        Self {
            machine: machine(),
            backends: backends.map(of).collect(),
        }
    }

    /// What one backend rests on.
    pub(crate) fn of(&self, backend: &str) -> BTreeMap<String, String> {
        let mut all = self.machine.clone();
        all.extend(self.backends.get(backend).cloned().unwrap_or_default());
        all
    }

    /// SHA-256 of the program that runs, for whoever reads a result elsewhere. Reading all of it takes too
    /// long to be done before every run; that it is the same file is what a run looks at.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn program_sha256(&self) -> anyhow::Result<String> {
        file_sha256(Path::new(PROGRAM)).context("reading this program")
    }
}

fn machine() -> BTreeMap<String, String> {
    let facts = kernel_facts();
    let kernel = rustix::system::uname();
    let settings = SETTINGS.iter().filter_map(|name| {
        let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
        Some(format!("{name}={}", text.trim()))
    });
    let read = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim_matches(['\0', '\n', ' ']).to_owned()
    };
    let said = |result: Result<String, String>| result.unwrap_or_else(|why| format!("no: {why}"));
    let filters = [
        seccomp::JAIL,
        seccomp::WASM_WORKER,
        seccomp::WASM_WORKER_SEALED,
    ];
    [
        (
            "kernel",
            format!(
                "{} {} {}",
                kernel.release().to_string_lossy(),
                kernel.version().to_string_lossy(),
                kernel.machine().to_string_lossy()
            ),
        ),
        ("settings", settings.collect::<Vec<_>>().join(" ")),
        (
            "security_modules",
            format!(
                "{}; confined as {:?}; Landlock {}",
                read("/sys/kernel/security/lsm"),
                read("/proc/self/attr/current"),
                said(facts.landlock_abi.map(|abi| abi.to_string()))
            ),
        ),
        (
            "control_groups",
            format!(
                "{:?}: {}",
                facts.cgroups,
                facts.cgroup_controllers.join(" ")
            ),
        ),
        ("user", format!("{}", rustix::process::geteuid().as_raw())),
        (
            "casemate",
            identity(Path::new(PROGRAM)).unwrap_or_else(|error| error.to_string()),
        ),
        ("seccomp", digest(filters)),
        ("policies", digest(policies::texts())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_the_same_twice_and_everything_is_named() {
        let depends = Depends::look(std::iter::empty());
        assert_eq!(depends.of("jail"), machine());
        for name in [
            "kernel",
            "casemate",
            "seccomp",
            "policies",
            "control_groups",
        ] {
            let value = &depends.machine[name];
            assert!(value.len() > 3, "{name}: {value}");
        }
        assert_eq!(depends.program_sha256().unwrap().len(), 64);
    }

    #[test]
    fn texts_cannot_move_between_files_unnoticed() {
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
    }
}
