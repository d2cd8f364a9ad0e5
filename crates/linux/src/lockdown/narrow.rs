//! What a process that reads what somebody else made does to itself before it reads: the one that unpacks an archive,
//! and the one that analyses a script.
//!
//! Each stays the user that it was and keeps no capability and no descriptor but those it is given. The first may make and
//! remove files below one folder, which are then that user's; the second may open nothing.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use landlock::{AccessFs, PathBeneath, RestrictionStatus, RulesetCreatedAttr};
use rustix::process::Resource;

use super::landlocked::{enforced, refuses_files, ruleset};
use super::{
    close_all_but, compile, die_with, install, limits, no_new_privs, not_dumpable, single_thread,
    wall,
};
use crate::limit::Limit;
use crate::seccomp::{self, Compiled};
use crate::step::Step;

/// Locks this process down: from here on it reads what it has open and writes below `folder`, and
/// can do nothing else. `file_bytes` and `data_bytes` are ceilings on one file and on its own memory.
#[must_use = "a wall that is missing is only told here"]
pub fn enter_unpacker(
    keep: &[RawFd],
    folder: BorrowedFd<'_>,
    file_bytes: u64,
    data_bytes: u64,
) -> Vec<Step> {
    let mut all = keep.to_vec();
    all.push(folder.as_raw_fd());
    let files = ("fsize", Resource::Fsize, Limit::At(file_bytes));
    let (mut steps, filter) = narrow(&all, seccomp::UNPACK, data_bytes, files);
    steps.push(Step::run(
        wall::LANDLOCK_FILES,
        "one folder, no network, nothing executed",
        || restrict(folder),
    ));
    steps.push(install(wall::SECCOMP, filter, false));
    steps
}

/// Locks this process down: from here on it reads and writes what it has open and computes, and can do nothing
/// else; no call that opens anything is left. `data_bytes` is a ceiling on its memory, `cpu_seconds` on its time.
#[must_use = "a wall that is missing is only told here"]
pub fn enter_reader(keep: &[RawFd], data_bytes: u64, cpu_seconds: u64) -> Vec<Step> {
    let time = ("cpu", Resource::Cpu, Limit::At(cpu_seconds));
    let (mut steps, filter) = narrow(keep, seccomp::READER, data_bytes, time);
    steps.push(install(wall::SECCOMP, filter, false));
    steps
}

/// What both do before their filter, which is compiled first, while everything can still be done.
fn narrow(
    keep: &[RawFd],
    filter: &str,
    data_bytes: u64,
    limit: (&str, Resource, Limit),
) -> (Vec<Step>, Result<Compiled, String>) {
    let parent = rustix::process::getppid();
    let filter = compile(filter);
    let rlimits = [
        ("core", Resource::Core, Limit::At(0)),
        ("memlock", Resource::Memlock, Limit::At(0)),
        ("nofile", Resource::Nofile, Limit::At(64)),
        ("data", Resource::Data, Limit::At(data_bytes)),
        limit,
    ];
    let steps = vec![
        Step::run(wall::SINGLE_THREAD, "one thread", single_thread),
        Step::run(wall::NO_NEW_PRIVS, "on", no_new_privs),
        Step::run(wall::DESCRIPTORS, format!("only {keep:?}"), || {
            close_all_but(keep)
        }),
        limits::set_all(wall::RLIMITS, &rlimits),
        Step::run(
            wall::CAPABILITIES,
            "none",
            super::identity::drop_capabilities,
        ),
        Step::run(wall::DIES_WITH_PARENT, "SIGKILL", || die_with(parent)),
        Step::run(wall::NOT_DUMPABLE, "dumpable 0", not_dumpable),
    ];
    (steps, filter)
}

fn restrict(folder: BorrowedFd<'_>) -> Result<String, String> {
    enforced(only(folder).map_err(|error| error.to_string())?)?;
    refuses_files()?;
    Ok("everything outside the folder refused".to_owned())
}

fn only(folder: BorrowedFd<'_>) -> Result<RestrictionStatus, landlock::RulesetError> {
    let allowed = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeSym
        | AccessFs::Refer
        | AccessFs::Truncate;
    ruleset()?
        .add_rule(PathBeneath::new(folder.as_fd(), allowed))?
        .restrict_self()
}
