//! Leaving the host's name spaces, and the first process of a new process table.

#![allow(
    unsafe_code,
    reason = "unshare and fork are unsafe because of other threads, of which there are none here"
)]

use rustix::thread::UnshareFlags;

use super::wall;
use crate::lockdown::wall as base;
use crate::step::{Step, failed};
use crate::sys;

const KINDS: [(&str, UnshareFlags); 6] = [
    (base::NETWORK_NAMESPACE, UnshareFlags::NEWNET),
    (base::IPC_NAMESPACE, UnshareFlags::NEWIPC),
    (base::UTS_NAMESPACE, UnshareFlags::NEWUTS),
    (wall::CGROUP_NAMESPACE, UnshareFlags::NEWCGROUP),
    (base::MOUNT_NAMESPACE, UnshareFlags::NEWNS),
    (wall::PID_NAMESPACE, UnshareFlags::NEWPID),
];
/// The host name inside.
const HOST_NAME: &str = "casemate";

/// Unshares each name space on its own, so that each is reported on its own.
pub(super) fn leave(steps: &mut Vec<Step>) {
    if !rustix::process::geteuid().is_root() {
        steps.push(Step::run(
            base::USER_NAMESPACE,
            "one user, mapped to itself",
            user_namespace,
        ));
    }
    for (wall, flag) in KINDS {
        steps.push(Step::run(wall, "a namespace of its own", || {
            unshare(flag)?;
            if flag == UnshareFlags::NEWUTS {
                rustix::system::sethostname(HOST_NAME.as_bytes())
                    .map_err(|e| failed("sethostname", e))?;
            }
            Ok("unshared".to_owned())
        }));
    }
}

fn unshare(flag: UnshareFlags) -> Result<(), String> {
    // SAFETY: the function is unsafe because CLONE_FILES would split the descriptor table that
    // other threads rely on. `flag` is one of the constants of this file, never CLONE_FILES.
    let done = unsafe { rustix::thread::unshare_unsafe(flag) };
    done.map_err(|e| failed("unshare", e))
}

/// An unprivileged process may make the others only from inside a user namespace. The map is written
/// by the process itself, which may map its own number and nothing else.
fn user_namespace() -> Result<String, String> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    unshare(UnshareFlags::NEWUSER)?;
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| failed(file, e))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{0} {0} 1", uid.as_raw()))?;
    write("gid_map", format!("{0} {0} 1", gid.as_raw()))?;
    Ok(format!("user {}, group {}", uid.as_raw(), gid.as_raw()))
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Forked {
    /// The one that was there, outside the new process table.
    Parent(Init),
    /// Process 1 of the new process table.
    Init,
}

/// Process 1, as its parent sees it.
#[derive(Debug)]
pub struct Init(rustix::process::Pid);

impl Init {
    /// Waits for its end: its exit code, or 128 and the signal.
    ///
    /// # Errors
    /// When it is not there to be waited for.
    pub fn wait(self) -> Result<i32, String> {
        use rustix::process::{WaitOptions, waitpid};
        loop {
            match waitpid(Some(self.0), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    let signal = status.terminating_signal().map(|signal| 128 + signal);
                    return Ok(status.exit_status().or(signal).unwrap_or(1));
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed("waitpid", error)),
            }
        }
    }
}

/// Makes process 1 of the process table that [`leave`](super::leave) made.
///
/// # Errors
/// When there is more than one thread, the kernel refuses, or the child is not process 1, which
/// means that there is no new process table.
pub fn fork_init() -> Result<Forked, String> {
    crate::lockdown::single_thread()?;
    // SAFETY: the process has one thread, as was just read from the kernel.
    let pid = unsafe { sys::fork() }.map_err(|e| failed("fork", e))?;
    match pid.and_then(rustix::process::Pid::from_raw) {
        Some(pid) => Ok(Forked::Parent(Init(pid))),
        None if std::process::id() == 1 => Ok(Forked::Init),
        None => Err("the child is not process 1".to_owned()),
    }
}

/// Waits, as process 1 must, for whatever ends, until `main` has.
///
/// # Errors
/// When there is nothing to wait for although `main` has not been seen to end.
pub fn reap_until(main: &crate::Child) -> Result<crate::Exit, String> {
    use rustix::process::{WaitOptions, wait};
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid().unsigned_abs() == main.pid() => {
                let exit = status.exit_status().map(crate::Exit::Code);
                let signal = status.terminating_signal().map(crate::Exit::Signal);
                return exit.or(signal).ok_or("neither ended nor killed".to_owned());
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed("wait4", error)),
        }
    }
}
