//! The same without root: what stands, what is missing, and that what is missing stops the job.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use casemate_backend::contract::{Backend, Cancel};
use casemate_backend::suite::{self, plan_without};
use casemate_jail::JailBackend;
use casemate_jail::setup::Store;
use casemate_linux::{Exit, Spawn};
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::receipt::Receipt;

use crate::support::{lacking, this_program};

/// The argument that makes this program the user's part of the test.
pub(crate) const AS_NOBODY: &str = "as-nobody";
const NOBODY: u32 = 65_534;
const SETPRIV: &str = "/usr/bin/setpriv";

pub(crate) const TESTS: &[(&str, fn())] = &[(
    "without_root_the_receipt_says_what_is_missing",
    without_root,
)];

/// A copy of the cache and of this program that belong to another user, and that user's run.
fn without_root() {
    if !rustix::process::geteuid().is_root() || !Path::new(SETPRIV).exists() {
        println!("SKIPPED: only root can become somebody else, with {SETPRIV}");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = temp.path().join("program");
    fs::copy(this_program(), &program).unwrap();
    let store = Store::open().unwrap();
    let cache = temp.path().join("cache");
    let there = Store::at(cache.clone()).dir();
    copy(&store.dir(), &there);
    for dir in there.ancestors().take_while(|dir| dir.starts_with(&cache)) {
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let (mut said, to_us) = std::io::pipe().unwrap();
    let ids = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut child = ids
        .iter()
        .fold(Spawn::new(SETPRIV), |spawn, id| spawn.arg(id))
        .arg(&program)
        .arg(AS_NOBODY)
        .env("CASEMATE_CACHE", &cache)
        .fd(&to_us, 1)
        .fd(&to_us, 2)
        .spawn()
        .unwrap();
    drop(to_us);
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().exit, Exit::Code(0), "{text}");
    println!("{}", text.trim_end());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
        chown(&target, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// What the other user sees. Where users may not make namespaces the jail says so and nothing runs.
pub(crate) fn as_nobody() {
    let backend = JailBackend::new(Store::open().unwrap(), this_program());
    let plan = plan_without("print(1)", &lacking());
    let (sandbox, receipt) = match backend.create(&plan) {
        Ok(made) => made,
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains("unshare") || text.contains("process 1"),
                "{text}"
            );
            println!("SKIPPED: this kernel lets no user make namespaces: {text}");
            return;
        }
    };
    drop(sandbox);
    let lost: Guarantees = [
        Guarantee::MemoryCapped,
        Guarantee::TasksCapped,
        Guarantee::CpuCapped,
    ]
    .into_iter()
    .collect();
    let gap = receipt.satisfies(&plan.asked).unwrap_err();
    assert_eq!(
        (gap.missing, gap.walls),
        (lost.clone(), Vec::new()),
        "{receipt:#?}"
    );
    for wall in [
        "user_namespace",
        "pid_namespace",
        "root",
        "seccomp",
        "landlock_files",
    ] {
        assert!(stands(&receipt, wall), "{wall}: {receipt:#?}");
    }
    let mut plan = plan_without(
        "import os\nprint(os.getuid(), os.listdir('/data'))\nopen('/tmp/a', 'w').write('x')",
        &lacking(),
    );
    plan.asked = plan.asked.missing_from(&lost);
    let seen = suite::run(&backend, &plan, &Cancel::new()).unwrap();
    assert_eq!(seen.stdout, "65534 ['in.csv']\n", "{}", seen.stderr);
    assert_eq!(seen.finish.unwrap().artifacts.len(), 1);
}

fn stands(receipt: &Receipt, name: &str) -> bool {
    receipt
        .walls
        .iter()
        .any(|wall| wall.name == name && wall.stands())
}
