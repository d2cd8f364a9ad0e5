//! Giving up the user and every capability.

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{Identity, wall};
use crate::step::{Step, failed};
use crate::sys;

/// Private numbers begin here, in a range no distribution hands out; process ids are below 2^22.
const PRIVATE_BASE: u32 = 2_000_000_000;
/// `nobody`, where the private number is not mapped.
const NOBODY: u32 = 65_534;

pub(crate) fn drop_all(identity: Identity, steps: &mut Vec<Step>) {
    // The bounding set can be emptied only while its capability is still there.
    let bounding = empty_bounding_set();
    steps.push(Step::run(wall::IDENTITY, asked(identity), || {
        become_nobody(identity)
    }));
    steps.push(Step::run(wall::CAPABILITIES, "none", || {
        no_capabilities(bounding)
    }));
}

/// The same for a process that stays the user it is.
pub(super) fn drop_capabilities() -> Result<String, String> {
    no_capabilities(empty_bounding_set())
}

/// The private number of a process.
pub(super) fn private_number(process: u32) -> u32 {
    PRIVATE_BASE.saturating_add(process)
}

fn asked(identity: Identity) -> String {
    match identity {
        Identity::Private => "a user of its own".to_owned(),
        Identity::Fixed { uid, gid } => format!("user {uid}, group {gid}"),
    }
}

fn become_nobody(identity: Identity) -> Result<String, String> {
    let now = rustix::process::geteuid();
    if !now.is_root() {
        return Ok(format!("user {}, as it was started", now.as_raw()));
    }
    rustix::thread::set_thread_groups(&[]).map_err(|e| failed("setgroups", e))?;
    let (uid, gid) = match identity {
        Identity::Fixed { uid, gid } => (uid, gid),
        Identity::Private => {
            let own = private_number(std::process::id());
            (own, own)
        }
    };
    let (uid, gid) = match (set_ids(uid, gid), identity) {
        (Ok(()), _) => (uid, gid),
        // In a container only some numbers are mapped.
        (Err(_), Identity::Private) => set_ids(NOBODY, NOBODY).map(|()| (NOBODY, NOBODY))?,
        (Err(error), Identity::Fixed { .. }) => return Err(error),
    };
    let really = (rustix::process::getuid(), rustix::process::geteuid());
    if really == (Uid::from_raw(uid), Uid::from_raw(uid)) {
        Ok(format!("user {uid}, group {gid}, no other group"))
    } else {
        Err("the kernel kept another user".to_owned())
    }
}

fn set_ids(uid: u32, gid: u32) -> Result<(), String> {
    if uid == 0 || gid == 0 || uid == u32::MAX || gid == u32::MAX {
        return Err("the user and the group must be numbers other than 0 and -1".to_owned());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // The group first: a user that is not root may not change it. One thread, so the calls for
    // a thread are calls for the process.
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|e| failed("setresgid", e))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|e| failed("setresuid", e))
}

/// How many were dropped, or why they could not be.
fn empty_bounding_set() -> Result<u32, String> {
    for capability in 0..64u32 {
        let dropped = sys::prctl_numbers(libc::PR_CAPBSET_DROP, u64::from(capability), 0);
        match dropped {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && capability > 0 => {
                return Ok(capability);
            }
            Err(error) => return Err(failed("prctl PR_CAPBSET_DROP", error)),
        }
    }
    Ok(64)
}

fn no_capabilities(bounding: Result<u32, String>) -> Result<String, String> {
    rustix::thread::clear_ambient_capability_set().map_err(|e| failed("prctl", e))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(|e| failed("capset", e))?;
    let left = rustix::thread::capabilities(None).map_err(|e| failed("capget", e))?;
    if left != none {
        return Err("the kernel says some are left".to_owned());
    }
    Ok(match bounding {
        Ok(count) => format!("none; all {count} out of the bounding set"),
        // Without the right to change it the bounding set only limits what exec could give, and
        // no_new_privs already lets exec give nothing.
        Err(_) => "none; the bounding set as it was, which no_new_privs makes moot".to_owned(),
    })
}
