//! What a worker does to itself before it touches anything a guest may influence.
//!
//! [`enter`] is called once, at the start of `main`, while the process has one thread. It gives up
//! descriptors, namespaces, the file system, its user and its capabilities, then every system call
//! that a worker does not need. [`seal`] is called when the compiled module is mapped: from then
//! on no memory can become executable.
//!
//! Both return one [`Step`] a wall. They go on after a wall that could not be put up, so that the
//! list is complete; the caller compares it with what it must have, and ends the process when
//! something is missing.

use std::os::fd::RawFd;

use crate::limit::Limit;
use crate::processor;
use crate::seccomp::{self, Compiled, Policy};
use crate::step::{Step, failed};
use crate::sys;

mod identity;
mod landlocked;
mod limits;
mod namespaces;
mod narrow;

pub(crate) use identity::drop_all as drop_identity;
pub(crate) use limits::set_all as set_rlimits;
pub use narrow::{enter_reader, enter_unpacker};

/// The names of the walls in the steps of [`enter`] and [`seal`], in their order.
pub mod wall {
    /// The process has one thread, so that nothing escapes the walls.
    pub const SINGLE_THREAD: &str = "single_thread";
    /// No program executed from here could gain privileges.
    pub const NO_NEW_PRIVS: &str = "no_new_privs";
    /// No descriptor but those on the list.
    pub const DESCRIPTORS: &str = "descriptors";
    /// A user namespace, where the process was not privileged. Only then is the step there.
    pub const USER_NAMESPACE: &str = "user_namespace";
    /// A network namespace of its own: nothing but a loopback that is down.
    pub const NETWORK_NAMESPACE: &str = "network_namespace";
    /// An IPC namespace of its own.
    pub const IPC_NAMESPACE: &str = "ipc_namespace";
    /// A host name of its own.
    pub const UTS_NAMESPACE: &str = "uts_namespace";
    /// A mount namespace of its own.
    pub const MOUNT_NAMESPACE: &str = "mount_namespace";
    /// The root directory is an empty, read-only file system, and the host's is detached.
    pub const EMPTY_ROOT: &str = "empty_root";
    /// Resource limits.
    pub const RLIMITS: &str = "rlimits";
    /// A user and a group that own nothing.
    pub const IDENTITY: &str = "identity";
    /// No capability in any set.
    pub const CAPABILITIES: &str = "capabilities";
    /// Killed when the parent ends.
    pub const DIES_WITH_PARENT: &str = "dies_with_parent";
    /// Neither traced nor dumped nor looked into by other processes of the user.
    pub const NOT_DUMPABLE: &str = "not_dumpable";
    /// Landlock: every file right handled, no path allowed.
    pub const LANDLOCK_FILES: &str = "landlock_files";
    /// Landlock: TCP bind and connect handled, no port allowed.
    pub const LANDLOCK_NETWORK: &str = "landlock_network";
    /// Landlock: abstract sockets and signals do not leave the process.
    pub const LANDLOCK_SCOPES: &str = "landlock_scopes";
    /// The allowlist of system calls for loading and running.
    pub const SECCOMP: &str = "seccomp";
    /// No memory may become executable, by the kernel's memory rule.
    pub const NO_EXEC_GAIN: &str = "no_exec_gain";
    /// The narrower allowlist, on all threads.
    pub const SECCOMP_SEALED: &str = "seccomp_sealed";
}

/// Who the worker becomes when it starts as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// A user and group number made from the process id, which no other process has: then
    /// per-user limits are the worker's own, and no other worker shares its user.
    Private,
    /// These numbers.
    Fixed {
        /// User number.
        uid: u32,
        /// Group number.
        gid: u32,
    },
}

/// Resource limits, hard and soft alike. Files cannot grow (`FSIZE` 0), nothing is dumped
/// (`CORE` 0) and nothing is locked (`MEMLOCK` 0), whatever is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimits {
    /// Descriptors may be numbered below this.
    pub open_files: u64,
    /// Tasks of the worker's user. Enforced only for a user of its own and never for root.
    pub tasks: u64,
    /// Processor seconds of the whole life of the process: a backstop, not the guest's limit.
    pub cpu_seconds: Limit,
    /// Address space in bytes. Linear memories reserve far more than they use.
    pub address_space_bytes: Limit,
    /// Private writable memory in bytes, used or not.
    pub data_bytes: Limit,
}

/// What [`enter`] is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockdownPlan {
    /// The descriptors that stay open.
    pub keep_fds: Vec<RawFd>,
    /// Who to become.
    pub identity: Identity,
    /// Resource limits.
    pub rlimits: Rlimits,
}

impl Identity {
    /// The numbers that [`Identity::Private`] stands for in this process, for a child that has
    /// another number in its own process table.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::of_process(std::process::id())
    }

    /// The same for another process.
    #[must_use]
    pub fn of_process(number: u32) -> Self {
        let own = identity::private_number(number);
        Self::Fixed { uid: own, gid: own }
    }
}

impl LockdownPlan {
    /// The plan with every wall and with finite limits that a worker can live in: 32 descriptors,
    /// 32 tasks, one hour of processor time, 16 GiB of writable memory.
    #[must_use]
    pub fn new(keep_fds: &[RawFd]) -> Self {
        Self {
            keep_fds: keep_fds.to_vec(),
            identity: Identity::Private,
            rlimits: Rlimits {
                open_files: 32,
                tasks: 32,
                cpu_seconds: Limit::At(3600),
                address_space_bytes: Limit::Unlimited,
                data_bytes: Limit::At(16 << 30),
            },
        }
    }
}

/// Locks this process down. Descriptors not in the plan are closed under whoever holds them, so
/// this belongs at the start of `main`, in a process started for the purpose.
#[must_use = "a wall that is missing is only told here"]
pub fn enter(plan: &LockdownPlan) -> Vec<Step> {
    // Before anything changes: whose child this is, and the filter, which needs heap and time.
    let parent = rustix::process::getppid();
    let filter = compile(seccomp::WASM_WORKER);
    let mut steps = vec![
        Step::run(wall::SINGLE_THREAD, "one thread", single_thread),
        Step::run(wall::NO_NEW_PRIVS, "on", no_new_privs),
        Step::run(
            wall::DESCRIPTORS,
            format!("only {:?}", plan.keep_fds),
            || close_all_but(&plan.keep_fds),
        ),
    ];
    namespaces::leave(&mut steps);
    steps.push(limits::apply(&plan.rlimits));
    identity::drop_all(plan.identity, &mut steps);
    // Changing the user clears both of these, so they come after it.
    steps.push(Step::run(wall::DIES_WITH_PARENT, "SIGKILL", || {
        die_with(parent)
    }));
    steps.push(Step::run(wall::NOT_DUMPABLE, "dumpable 0", not_dumpable));
    steps.extend(processor::set_apart());
    landlocked::restrict(&mut steps);
    steps.push(install(wall::SECCOMP, filter, false));
    steps
}

/// Narrows a process that has entered, once its module is mapped. May be called with threads
/// running; both walls hold for all of them.
#[must_use = "a wall that is missing is only told here"]
pub fn seal() -> Vec<Step> {
    let filter = compile(seccomp::WASM_WORKER_SEALED);
    vec![
        Step::run(wall::NO_EXEC_GAIN, "PR_MDWE_REFUSE_EXEC_GAIN", no_exec_gain),
        install(wall::SECCOMP_SEALED, filter, true),
    ]
}

pub(crate) fn compile(text: &str) -> Result<Compiled, String> {
    Policy::parse(text)
        .and_then(|policy| policy.compile())
        .map_err(|error| error.to_string())
}

fn install(wall: &'static str, filter: Result<Compiled, String>, all_threads: bool) -> Step {
    let how = "allowlist; any other call kills the process";
    install_with(wall, filter, all_threads, how)
}

/// Installs a filter and says `how` it answers.
pub(crate) fn install_with(
    wall: &'static str,
    filter: Result<Compiled, String>,
    all_threads: bool,
    how: &str,
) -> Step {
    let asked = match &filter {
        Ok(filter) => format!("{}, {} rules", filter.name, filter.rules),
        Err(_) => "an allowlist".to_owned(),
    };
    Step::run(wall, asked, || {
        sys::seccomp_filter(&filter?.program, all_threads).map_err(|e| failed("seccomp", e))?;
        Ok(how.to_owned())
    })
}

pub(crate) fn single_thread() -> Result<String, String> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(|e| failed("/proc/self/task", e))?;
    match tasks.count() {
        1 => Ok("one thread".to_owned()),
        more => Err(format!("{more} threads were already running")),
    }
}

pub(crate) fn no_new_privs() -> Result<String, String> {
    rustix::thread::set_no_new_privs(true).map_err(|e| failed("prctl", e))?;
    match rustix::thread::no_new_privs() {
        Ok(true) => Ok("on".to_owned()),
        Ok(false) => Err("the kernel says it is off".to_owned()),
        Err(error) => Err(failed("prctl", error)),
    }
}

pub(crate) fn close_all_but(keep: &[RawFd]) -> Result<String, String> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .collect();
    keep.sort_unstable();
    keep.dedup();
    let mut next = 0;
    for fd in &keep {
        if *fd > next {
            sys::close_range(next, fd - 1).map_err(|e| failed("close_range", e))?;
        }
        next = fd + 1;
    }
    sys::close_range(next, u32::MAX).map_err(|e| failed("close_range", e))?;
    Ok(format!("{} left open", keep.len()))
}

pub(crate) fn die_with(parent: Option<rustix::process::Pid>) -> Result<String, String> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| failed("prctl", e))?;
    if getppid() == parent {
        Ok("SIGKILL when the parent ends".to_owned())
    } else {
        Err("the parent is already gone".to_owned())
    }
}

pub(crate) fn not_dumpable() -> Result<String, String> {
    use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| failed("prctl", e))?;
    match dumpable_behavior() {
        Ok(DumpableBehavior::NotDumpable) => Ok("dumpable 0".to_owned()),
        Ok(_) => Err("the kernel says it is still dumpable".to_owned()),
        Err(error) => Err(failed("prctl", error)),
    }
}

fn no_exec_gain() -> Result<String, String> {
    let refuse = u64::from(libc::PR_MDWE_REFUSE_EXEC_GAIN);
    sys::prctl_numbers(libc::PR_SET_MDWE, refuse, 0)
        .map_err(|e| failed("prctl PR_SET_MDWE (Linux 6.3 or newer)", e))?;
    match sys::prctl_numbers(libc::PR_GET_MDWE, 0, 0) {
        Ok(bits) if bits.cast_unsigned() & refuse != 0 => Ok("refused by the kernel".to_owned()),
        Ok(_) => Err("the kernel says it is off".to_owned()),
        Err(error) => Err(failed("prctl PR_GET_MDWE", error)),
    }
}
