//! What a process does to become a zygote: an interpreter that is forked into jails.
//!
//! It runs nothing but trusted code. It keeps what its children need to enter a jail, which is much, and so
//! has nothing else: no network, no file of the host's but what jails show, no other capability.

use std::os::fd::RawFd;

use rustix::thread::{CapabilitySet, CapabilitySets};

use super::namespaces;
use crate::lockdown;
use crate::step::{Step, failed};
use crate::sys;

/// What entering a jail takes: namespaces, those of a process that may not be looked into, a root, a user, an
/// empty bounding set; and the right to end a child of another user, without which it would outlive this
/// process.
pub(super) const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL);

/// Closes what is not on the list and leaves the host's namespaces but its process table, below which the
/// jails' are. The process must have one thread, and be root.
///
/// # Errors
/// The first step that failed.
pub fn leave(keep_fds: &[RawFd]) -> Result<(), String> {
    lockdown::single_thread()?;
    lockdown::no_new_privs()?;
    lockdown::close_all_but(keep_fds)?;
    let mut steps = Vec::new();
    namespaces::leave_but_processes(&mut steps);
    steps.into_iter().try_for_each(|step: Step| {
        let named = |why| format!("{}: {why}", step.wall);
        step.got.map(drop).map_err(named)
    })
}

/// Gives up every capability but those that children need.
///
/// # Errors
/// The first step that failed.
pub fn shed() -> Result<(), String> {
    for capability in 0..64u32 {
        if KEPT.bits() >> capability & 1 == 1 {
            continue;
        }
        match sys::prctl_numbers(libc::PR_CAPBSET_DROP, u64::from(capability), 0) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && capability > 0 => break,
            Err(error) => return Err(failed("prctl PR_CAPBSET_DROP", error)),
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(|e| failed("prctl", e))?;
    let kept = CapabilitySets {
        effective: KEPT,
        permitted: KEPT,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, kept).map_err(|e| failed("capset", e))?;
    match rustix::thread::capabilities(None) {
        Ok(now) if now == kept => Ok(()),
        Ok(_) => Err("the kernel kept other capabilities".to_owned()),
        Err(error) => Err(failed("capget", error)),
    }
}

/// Shows one processor, so that no library starts threads for more while it is loaded.
///
/// # Errors
/// When the kernel keeps another set.
pub fn use_one_processor() -> Result<(), String> {
    super::show_processors(1, 0).map(drop)
}
