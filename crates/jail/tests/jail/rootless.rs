//! The same without root: what stands, what is missing, and that what is missing stops the job.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use casemate_backend::contract::{Backend, Cancel};
use casemate_backend::suite::{self, plan_without};
use casemate_jail::JailBackend;
use casemate_jail::setup::Store;
use casemate_linux::cgroup::{Cgroup, CgroupLimits, Kind, Layout};
use casemate_linux::{Exit, Spawn};
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::receipt::Receipt;

use crate::support::{lacking, missing, this_program};

/// The argument that makes this program the user's part of the test.
pub(crate) const AS_NOBODY: &str = "as-nobody";
const NOBODY: u32 = 65_534;
const SETPRIV: &str = "/usr/bin/setpriv";

pub(crate) const TESTS: &[(&str, fn())] = &[
    (
        "without_root_the_receipt_says_what_is_missing",
        without_root,
    ),
    (
        "without_root_in_a_delegated_group_nothing_is_missing",
        in_a_delegated_group,
    ),
    (
        "without_namespaces_a_user_is_refused_with_a_way_out",
        without_namespaces,
    ),
];

/// Under which conditions the user runs.
const BARE: &str = "bare";
const DELEGATED: &str = "delegated";
const NO_NAMESPACES: &str = "no-namespaces";
/// Answers system calls with an error, and becomes another program.
const DENY: &str = include_str!("../../../casemate/tests/taken_away/deny.py");
/// `unshare`, by its number on x86-64.
const UNSHARE: &str = "272";

fn without_root() {
    as_another_user(BARE, None);
}

fn without_namespaces() {
    if cfg!(target_arch = "x86_64") {
        as_another_user(NO_NAMESPACES, None);
    } else {
        println!("SKIPPED: the call has another number here");
    }
}

/// What `systemd-run --user --scope -p Delegate=yes` gives: groups that belong to the user, who is in them.
fn in_a_delegated_group() {
    if Layout::detect().unwrap().kind() == Kind::V2 {
        println!("SKIPPED: in version 2 a group that processes are in has no children with limits");
        return;
    }
    let limits = CgroupLimits {
        memory_bytes: casemate_linux::Limit::At(4 << 30),
        pids: casemate_linux::Limit::At(1024),
        cpu_millicores: casemate_linux::Limit::At(4000),
    };
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can hand over a group");
        return;
    }
    let group = Cgroup::create("delegated", &limits).unwrap();
    for dir in group.paths() {
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    as_another_user(DELEGATED, Some(&group));
}

/// A copy of the cache and of this program that belong to another user, and that user's run.
fn as_another_user(conditions: &str, group: Option<&Cgroup>) {
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
    let mut user = if conditions == NO_NAMESPACES {
        let deny = temp.path().join("deny.py");
        fs::write(&deny, DENY).unwrap();
        let python = Spawn::new("/usr/bin/python3").arg("-I").arg("-B");
        python.arg(&deny).arg(UNSHARE).arg(SETPRIV)
    } else {
        Spawn::new(SETPRIV)
    };
    if let Some(group) = group {
        user = user.cgroup(group);
    }
    let mut child = ids
        .iter()
        .fold(user, |spawn, id| spawn.arg(id))
        .arg(&program)
        .arg(AS_NOBODY)
        .arg(conditions)
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

/// What the other user sees.
pub(crate) fn as_nobody(conditions: &str) {
    let backend = JailBackend::new(Store::open().unwrap(), this_program());
    match conditions {
        BARE => bare(&backend),
        DELEGATED => delegated(&backend),
        NO_NAMESPACES => {
            let plan = plan_without("open('/tmp/ran', 'w')", &lacking());
            let error = backend.create(&plan).map(drop).unwrap_err().to_string();
            for words in ["user_namespace: unshare", "run as root"] {
                assert!(error.contains(words), "{error}");
            }
        }
        other => panic!("no conditions of the name {other:?}"),
    }
}

/// With groups of its own a user has every wall and every limit that root has.
fn delegated(backend: &JailBackend) {
    let plan = plan_without("print(1)", &lacking());
    let offer = backend.probe();
    assert!(plan.asked.missing_from(&offer.guarantees).is_empty());
    let (sandbox, receipt) = backend.create(&plan).unwrap();
    drop(sandbox);
    assert_eq!(receipt.satisfies(&plan.asked), Ok(()), "{receipt:#?}");
    let missing = missing(&receipt);
    assert!(missing.is_empty(), "{missing:#?}");
    let failures = suite::failures(backend, &lacking());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Where users may not make namespaces the jail says so and nothing runs.
fn bare(backend: &JailBackend) {
    let plan = plan_without("print(1)", &lacking());
    let (sandbox, receipt) = match backend.create(&plan) {
        Ok(made) => made,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("run as root"), "{text}");
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
    // What is offered is what is given, and why it is not more is said with what helps.
    let offer = backend.probe();
    assert_eq!(plan.asked.missing_from(&offer.guarantees), lost);
    for guarantee in lost.iter() {
        let why = &offer.lost[&guarantee];
        assert!(why.contains("run as root, or in a"), "{guarantee}: {why}");
    }
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
    let seen = suite::run(backend, &plan, &Cancel::new()).unwrap();
    assert_eq!(seen.stdout, "65534 ['in.csv']\n", "{}", seen.stderr);
    assert_eq!(seen.finish.unwrap().artifacts.len(), 1);
}

fn stands(receipt: &Receipt, name: &str) -> bool {
    receipt
        .walls
        .iter()
        .any(|wall| wall.name == name && wall.stands())
}
