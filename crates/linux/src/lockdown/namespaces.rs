//! Leaving the host's namespaces and its file system.

#![allow(
    unsafe_code,
    reason = "unshare is unsafe in rustix because of file descriptor tables, which are not unshared here"
)]

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use super::wall;
use crate::step::{Step, failed};

const KINDS: [(&str, UnshareFlags); 4] = [
    (wall::NETWORK_NAMESPACE, UnshareFlags::NEWNET),
    (wall::IPC_NAMESPACE, UnshareFlags::NEWIPC),
    (wall::UTS_NAMESPACE, UnshareFlags::NEWUTS),
    (wall::MOUNT_NAMESPACE, UnshareFlags::NEWNS),
];

/// Unshares each namespace on its own, so that each is reported on its own.
pub(super) fn leave(steps: &mut Vec<Step>) {
    if !rustix::process::geteuid().is_root() {
        // An unprivileged process may make the others only from inside one of these. It stays
        // without a mapping: there is no user in it to become.
        steps.push(unshared(wall::USER_NAMESPACE, UnshareFlags::NEWUSER));
    }
    let mut mounts_are_ours = false;
    for (wall, flag) in KINDS {
        let step = unshared(wall, flag);
        mounts_are_ours |= flag == UnshareFlags::NEWNS && step.stands();
        steps.push(step);
    }
    let asked = "an empty read-only root";
    steps.push(if mounts_are_ours {
        Step::run(wall::EMPTY_ROOT, asked, empty_root)
    } else {
        Step::missing(
            wall::EMPTY_ROOT,
            asked,
            "there is no mount namespace for it",
        )
    });
}

fn unshared(wall: &'static str, flag: UnshareFlags) -> Step {
    Step::run(wall, "a namespace of its own", || {
        // SAFETY: the function is unsafe because CLONE_FILES would split the descriptor table
        // that other threads rely on. `flag` is one of the constants above, never CLONE_FILES.
        let done = unsafe { rustix::thread::unshare_unsafe(flag) };
        done.map_err(|e| failed("unshare", e))?;
        Ok("unshared".to_owned())
    })
}

/// Stacks an empty file system on some directory, makes it the root and lets the old root go.
fn empty_root() -> Result<String, String> {
    use rustix::mount::{mount, mount_change, unmount};
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| failed("mount --make-rprivate /", e))?;
    let place = ["/tmp", "/proc", "/dev"]
        .into_iter()
        .find(|place| std::path::Path::new(place).is_dir())
        .ok_or("no directory to mount on")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    let options = c"size=4k,nr_inodes=1,mode=0555";
    mount("none", place, "tmpfs", flags, options).map_err(|e| failed("mount tmpfs", e))?;
    rustix::process::chdir(place).map_err(|e| failed("chdir", e))?;
    rustix::process::pivot_root(".", ".").map_err(|e| failed("pivot_root", e))?;
    // Both roots are now mounted at "/", the old one on top, and "." is it.
    unmount(".", UnmountFlags::DETACH).map_err(|e| failed("umount", e))?;
    rustix::process::chdir("/").map_err(|e| failed("chdir /", e))?;
    verify_empty()
}

fn verify_empty() -> Result<String, String> {
    let entries = std::fs::read_dir("/").map_err(|e| failed("reading /", e))?;
    match entries.count() {
        0 => Ok("nothing of the host's file system is left".to_owned()),
        some => Err(format!("the new root has {some} entries")),
    }
}
