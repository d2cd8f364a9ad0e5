//! Facts about the kernel, for reports. They are hints: whether a wall stands is told by the
//! step that puts it up.

use serde::{Deserialize, Serialize};

use super::{Kind, Layout, failed, sys};
use crate::processor;

/// What this kernel offers, or why it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFacts {
    /// The release, such as `6.18.2-1-generic`.
    pub release: String,
    /// The version of Landlock's interface.
    pub landlock_abi: Result<u32, String>,
    /// Whether a filter can kill a process, and the actions the kernel knows.
    pub seccomp: Result<String, String>,
    /// The shape of the control groups.
    pub cgroups: Kind,
    /// The controllers that can be found.
    pub cgroup_controllers: Vec<String>,
    /// Whether processes are moved between control groups without a wait.
    pub cgroup_moves: Result<String, String>,
    /// Whether an unprivileged process may make user namespaces, as the settings have it.
    pub user_namespaces: Result<String, String>,
    /// Whether a process can do without the processor's guesses at what it will do, or none is known to give memory away.
    pub speculation: Result<String, String>,
    /// Whether a process can have its cores to itself, or none runs two programs at once.
    pub core_scheduling: Result<String, String>,
    /// Whether this process runs as root.
    pub root: bool,
}

/// Looks at the running kernel. Never fails: what cannot be read is reported as missing.
#[must_use]
pub fn kernel_facts() -> KernelFacts {
    let layout = Layout::detect().ok();
    let controllers = layout.as_ref().map(Layout::controllers).unwrap_or_default();
    KernelFacts {
        release: setting("kernel/osrelease").unwrap_or_else(|_| "unknown".to_owned()),
        landlock_abi: landlock(),
        seccomp: seccomp(),
        cgroups: layout.as_ref().map_or(Kind::Absent, Layout::kind),
        cgroup_controllers: controllers.into_iter().map(str::to_owned).collect(),
        cgroup_moves: layout.as_ref().map_or_else(
            || Err("no control groups are mounted".to_owned()),
            Layout::quick_moves,
        ),
        user_namespaces: user_namespaces(),
        speculation: processor::speculation(),
        core_scheduling: processor::core_scheduling(),
        root: rustix::process::geteuid().is_root(),
    }
}

fn setting(name: &str) -> Result<String, String> {
    let path = format!("/proc/sys/{name}");
    let text = std::fs::read_to_string(&path).map_err(|e| failed(&path, e))?;
    Ok(text.trim().to_owned())
}

fn landlock() -> Result<u32, String> {
    let abi = sys::landlock_abi().map_err(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "built in but switched off at boot (lsm=landlock,...)".to_owned(),
        Some(libc::ENOSYS) => "not in this kernel (Linux 5.13 or newer)".to_owned(),
        _ => failed("landlock_create_ruleset", error),
    })?;
    u32::try_from(abi).map_err(|error| error.to_string())
}

fn seccomp() -> Result<String, String> {
    let actions = setting("kernel/seccomp/actions_avail")?;
    if actions
        .split_whitespace()
        .any(|action| action == "kill_process")
    {
        return Ok(actions);
    }
    Err("filters cannot kill a process (Linux 4.14 or newer)".to_owned())
}

/// The settings by which distributions forbid them, each where it exists.
pub(crate) fn user_namespaces() -> Result<String, String> {
    let max = setting("user/max_user_namespaces")?;
    if max == "0" {
        return Err("user.max_user_namespaces is 0".to_owned());
    }
    if setting("kernel/unprivileged_userns_clone").is_ok_and(|value| value == "0") {
        return Err("kernel.unprivileged_userns_clone is 0".to_owned());
    }
    if setting("kernel/apparmor_restrict_unprivileged_userns").is_ok_and(|value| value == "1") {
        return Err("kernel.apparmor_restrict_unprivileged_userns is 1".to_owned());
    }
    Ok(format!("at most {max}"))
}
