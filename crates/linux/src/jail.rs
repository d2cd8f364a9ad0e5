//! What a process does to become the first process of a jail: a native program and everything it
//! starts, with a root, a process table and a network of their own.
//!
//! The order is fixed, and each part says what it did as [`Step`]s:
//!
//! 1. [`leave`] in the process that was started: descriptors closed, name spaces left.
//! 2. [`fork_init`]: the child is process 1 of the new process table. What it ends takes everything
//!    else in there with it.
//! 3. [`root::Builder`] in process 1: a root on a fresh file system, the host's detached.
//! 4. [`confine`] in process 1: limits, user, capabilities, Landlock, seccomp. Whatever it starts
//!    inherits all of them.
//!
//! A process that was forked from a [`zygote`] comes in by [`enter`] instead, when all of that stands.
//!
//! As in [`lockdown`], nothing here decides that a missing wall is acceptable.

use std::os::fd::{OwnedFd, RawFd};

use crate::limit::Limit;
use crate::lockdown::{self, Identity, wall as base};
use crate::proc;
use crate::processor;
use crate::seccomp::{Compiled, FilterError, JAIL, Policy, SESSION};
use crate::step::{Step, failed};

pub mod enter;
mod landlocked;
mod limits;
pub mod machine;
pub mod maker;
pub(crate) mod namespaces;
pub mod procfs;
pub mod root;
pub mod zygote;

pub use landlocked::standing as landlock_standing;
pub use limits::{Rlimit, rlimits};
pub use namespaces::{
    Forked, Init, Parent, fork_init, leave_children_to_kernel, reap_until, reap_until_pid,
};

/// The names of the walls that only a jail has; the others are those of
/// [`lockdown::wall`].
pub mod wall {
    /// A process table of its own: no other process can be seen or signalled.
    pub const PID_NAMESPACE: &str = "pid_namespace";
    /// The control groups' names start at its own.
    pub const CGROUP_NAMESPACE: &str = "cgroup_namespace";
    /// The root is a file system of its own and the host's is detached.
    pub const ROOT: &str = "root";
    /// What is shown of the host's system cannot be written, nor give rights, nor name devices.
    pub const SYSTEM: &str = "system_read_only";
    /// The inputs are copies in a file system that is read-only.
    pub const INPUTS: &str = "inputs_read_only";
    /// Scratch is one file system with a fixed size and number of files.
    pub const SCRATCH: &str = "scratch_quota";
    /// The devices are null, zero, full, random and urandom.
    pub const DEVICES: &str = "devices";
    /// The process file system shows the jail's processes, and nothing of the machine.
    pub const PROC: &str = "proc";
    /// As many processors are shown as may be used.
    pub const AFFINITY: &str = "affinity";
}

/// What [`confine`] is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// Who to become where the process is root.
    pub identity: Identity,
    /// Descriptors of every process may be numbered below this.
    pub open_files: Limit,
    /// Tasks of the jail's user. Enforced only for a user of its own; the control group counts too.
    pub tasks: Limit,
    /// Processors shown.
    pub processors: usize,
    /// Where among the host's processors to begin, so that jails spread.
    pub first_processor: usize,
}

/// Closes what is not on the list and leaves the host's name spaces. The process must have one
/// thread; its next child, not itself, is in the new process table.
#[must_use = "a wall that is missing is only told here"]
pub fn leave(keep_fds: &[RawFd]) -> Vec<Step> {
    let mut steps = vec![
        Step::run(base::SINGLE_THREAD, "one thread", lockdown::single_thread),
        Step::run(base::NO_NEW_PRIVS, "on", lockdown::no_new_privs),
        Step::run(base::DESCRIPTORS, format!("only {keep_fds:?}"), || {
            lockdown::close_all_but(keep_fds)
        }),
    ];
    namespaces::leave(&mut steps);
    steps
}

/// Whether the next child will be process 1 of a process table of its own.
///
/// # Errors
/// Why not, and what helps.
pub fn has_left(steps: &[Step]) -> Result<(), String> {
    let step = steps.iter().find(|step| step.wall == wall::PID_NAMESPACE);
    let why = match step.map(|step| &step.got) {
        Some(Ok(_)) => return Ok(()),
        Some(Err(why)) => why,
        None => "nobody mentioned it",
    };
    let own = steps
        .iter()
        .find(|step| step.wall == base::USER_NAMESPACE && !step.stands());
    let Some(own) = own else {
        return Err(format!("{}: {why}", wall::PID_NAMESPACE));
    };
    let why = own.got.as_ref().err().map_or("", String::as_str);
    let setting = proc::user_namespaces().err();
    let setting = setting.map_or_else(String::new, |setting| format!(" ({setting})"));
    Err(format!(
        "{}: {why}: users may not make namespaces here{setting}; run as root, or have the machine let users make them",
        own.wall
    ))
}

/// What has to be made before anything is given up.
#[derive(Debug)]
pub struct Prepared {
    filter: Result<Compiled, String>,
    rules: landlocked::Rules,
}

/// What there is of a network in a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Nothing: no socket of the internet's families can be made.
    Nothing,
    /// The loopback of its own network namespace, which has no other interface.
    Loopback,
}

impl Network {
    /// The rules for system calls of a sandbox with this network.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn policy(self) -> Result<Policy, FilterError> {
        let jail = Policy::parse(JAIL)?;
        match self {
            Self::Nothing => Ok(jail),
            Self::Loopback => Ok(jail.but(Policy::parse(SESSION)?)),
        }
    }
}

/// Switches on the loopback of this process's network namespace.
///
/// # Errors
/// What the kernel says instead.
pub fn loopback_up() -> Result<(), String> {
    crate::sys::loopback_up().map_err(|e| failed("SIOCSIFFLAGS lo", e))
}

/// The filter of a jail.
#[derive(Debug)]
pub struct Filter(Result<Compiled, String>, Network);

impl Filter {
    /// Compiles it. It does not depend on the job, so a process that waits for one can do this before.
    #[must_use]
    pub fn compile(network: Network) -> Self {
        let compiled = network.policy().and_then(|policy| policy.compile());
        Self(compiled.map_err(|error| error.to_string()), network)
    }
}

/// Makes the rules, of the paths in the root as it now is: the folders of `system` may be read and executed, and
/// `/proc` may be read where it shows what is meant to be (`has_proc`).
#[must_use]
pub fn prepare(Filter(filter, network): Filter, system: &[String], has_proc: bool) -> Prepared {
    Prepared {
        filter,
        rules: landlocked::Rules::make(system, has_proc, network),
    }
}

impl Prepared {
    /// The Landlock rules, for a process that comes into the jail from elsewhere; none where the kernel has no
    /// Landlock.
    #[must_use]
    pub fn rules(&self) -> Option<OwnedFd> {
        self.rules.descriptor()
    }
}

/// Gives up what process 1 no longer needs once its root stands, then every system call that no
/// program needs.
#[must_use = "a wall that is missing is only told here"]
pub fn confine(plan: &Confinement, parent: &Parent, prepared: Prepared) -> Vec<Step> {
    let Prepared { filter, rules } = prepared;
    let mut steps = vec![
        Step::run(
            wall::AFFINITY,
            format!("{} processors", plan.processors),
            || affinity(plan),
        ),
        limits::apply(plan),
    ];
    lockdown::drop_identity(plan.identity, &mut steps);
    // Changing the user clears both of these, so they come after it. The parent is outside this
    // process table, where it has no number.
    steps.push(Step::run(base::DIES_WITH_PARENT, "SIGKILL", || {
        let how = lockdown::die_with(None)?;
        parent.is_there()?;
        Ok(how)
    }));
    steps.push(Step::run(
        base::NOT_DUMPABLE,
        "dumpable 0",
        lockdown::not_dumpable,
    ));
    steps.extend(processor::set_apart());
    landlocked::restrict(rules, &mut steps);
    steps.push(lockdown::install_with(
        base::SECCOMP,
        filter,
        false,
        "allowlist; others are answered ENOSYS, attacks and the 32-bit door kill",
    ));
    steps
}

fn affinity(plan: &Confinement) -> Result<String, String> {
    show_processors(plan.processors, plan.first_processor)
}

pub(crate) fn show_processors(processors: usize, first: usize) -> Result<String, String> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let have = sched_getaffinity(None).map_err(|e| failed("sched_getaffinity", e))?;
    let mut wanted = CpuSet::new();
    let shown = self::processors(processors, first)?;
    shown.iter().for_each(|cpu| wanted.set(*cpu));
    sched_setaffinity(None, &wanted).map_err(|e| failed("sched_setaffinity", e))?;
    let now = sched_getaffinity(None).map_err(|e| failed("sched_getaffinity", e))?;
    if now == wanted {
        Ok(format!("{} of {}", shown.len(), have.count()))
    } else {
        Err("the kernel kept another set".to_owned())
    }
}

/// Of the processors that this process may use, as many as are wanted, from one of them on.
fn processors(count: usize, first: usize) -> Result<Vec<usize>, String> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let have = sched_getaffinity(None).map_err(|e| failed("sched_getaffinity", e))?;
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| have.is_set(*cpu))
        .collect();
    let count = count.clamp(1, usable.len().max(1));
    (0..count)
        .map(|offset| {
            let index = first.wrapping_add(offset) % usable.len().max(1);
            let cpu = usable.get(index).copied();
            cpu.ok_or_else(|| "no processor may be used".to_owned())
        })
        .collect()
}
