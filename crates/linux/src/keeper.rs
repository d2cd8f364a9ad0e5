//! What a process does that has a container made by another program, a runtime.
//!
//! It is process 1 of a process table of its own, with mounts of its own: the runtime, the container and
//! everything a runtime leaves behind end with it, whoever kills it. In its mounts the runtime sees the
//! control groups that it may use, and no other.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, RawFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::set_parent_process_death_signal;
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space,
    move_into_thread_name_spaces,
};

use crate::cgroup::{Kind, Layout};
use crate::jail::namespaces::unshare;
use crate::jail::{Parent, show_processors};
use crate::lockdown;
use crate::step::failed;

/// Where every system has its control groups.
const GROUPS: &str = "/sys/fs/cgroup";

/// Which control groups the runtime sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// None: everything it starts stays in the groups it was started in.
    None,
    /// Only what a runtime insists on: version 1's hierarchy of devices, or version 2's only one.
    Devices,
}

/// Closes what is not on the list and leaves the host's mounts and process table; the next child is
/// process 1 of the new one. The process must have one thread.
///
/// # Errors
/// The first step that failed.
pub fn leave(keep_fds: &[RawFd]) -> Result<(), String> {
    lockdown::single_thread()?;
    lockdown::close_all_but(keep_fds)?;
    unshare(UnshareFlags::NEWNS)?;
    unshare(UnshareFlags::NEWPID)
}

/// In process 1: is killed with the process outside, and mounts its own process file system and its own
/// view of the control groups.
///
/// # Errors
/// The first step that failed.
pub fn settle(parent: &Parent, groups: Groups) -> Result<(), String> {
    lockdown::die_with(None)?;
    parent.is_there()?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| failed("mount --make-rprivate /", e))?;
    show_groups(groups)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).map_err(|e| failed("mount /proc", e))
}

/// crun 1.8 refuses a machine with both versions when the unified tree has controllers, and a group that
/// a runtime makes for itself would be outside ours: so it does not get to see them.
fn show_groups(groups: Groups) -> Result<(), String> {
    let layout = Layout::detect().map_err(|e| failed("reading the control groups", e))?;
    if groups == Groups::Devices && layout.kind() == Kind::V2 {
        return Ok(());
    }
    let devices = match groups {
        Groups::None => None,
        Groups::Devices => {
            let path = layout
                .devices_mount()
                .ok_or("there is no hierarchy of devices, which this runtime insists on")?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            Some(open_tree(CWD, path, flags).map_err(|e| failed("open_tree", e))?)
        }
    };
    if !Path::new(GROUPS).is_dir() {
        return Ok(());
    }
    // Of the hierarchies that are mounted there nothing is left in this view.
    while unmount(GROUPS, UnmountFlags::DETACH).is_ok() {}
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = c"size=64k,nr_inodes=8,mode=0755";
    mount("none", GROUPS, "tmpfs", flags, options).map_err(|e| failed("mount tmpfs", e))?;
    if let Some(devices) = devices {
        let place = Path::new(GROUPS).join("devices");
        std::fs::create_dir(&place).map_err(|e| failed("mkdir", e))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&devices, "", CWD, &place, flags).map_err(|e| failed("move_mount", e))?;
    }
    Ok(())
}

/// A folder on a file system of its own, for the bundle and what the runtime keeps of it.
///
/// # Errors
/// When there is something of that name, or the kernel refuses.
pub fn make_folder(path: &Path) -> Result<(), String> {
    std::fs::create_dir(path).map_err(|e| failed("mkdir", e))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let options = c"size=32m,nr_inodes=1024,mode=0755";
    mount("none", path, "tmpfs", flags, options).map_err(|e| failed("mount tmpfs", e))
}

/// Does something in the mounts of a container that was made and not started, and comes back. This process must have one
/// thread.
///
/// # Errors
/// What failed in there, or that the kernel refuses the way in or back.
pub fn in_mounts_of<T>(
    container: impl AsFd,
    action: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    // By the namespace itself: this process's own descriptor would lead to where it is by then.
    let own = File::open("/proc/self/ns/mnt").map_err(|e| failed("/proc/self/ns/mnt", e))?;
    move_into_thread_name_spaces(container.as_fd(), ThreadNameSpaceType::MOUNT)
        .map_err(|e| failed("setns to the container's mounts", e))?;
    let done = action();
    // The root and the working folder become those of the other mounts too.
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(|e| failed("setns back", e))?;
    done
}

/// Goes on when whoever started this process ends: for one that cleans up behind it.
///
/// # Errors
/// When the kernel refuses.
pub fn outlive_parent() -> Result<(), String> {
    set_parent_process_death_signal(None).map_err(|e| failed("prctl", e))
}

/// Makes the file system at this folder read-only for everybody.
///
/// # Errors
/// When something still has it open for writing, or nothing is mounted there.
pub fn seal(path: &Path) -> Result<(), String> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(path, flags, "").map_err(|e| failed("mount -o remount,ro", e))
}

/// Takes away everything that is mounted at a folder, and the folder. One that is not there is fine.
///
/// # Errors
/// When something is left.
pub fn clear(path: &Path) -> Result<(), String> {
    loop {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        match unmount(path, flags) {
            // There may be one below it.
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            // Nothing is mounted there any more.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(failed(&format!("umount {}", path.display()), error)),
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed(&format!("rmdir {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Writes a file that is not there yet.
///
/// # Errors
/// When it is there, or cannot be written.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = open(path, flags, Mode::from_raw_mode(0o644)).map_err(|e| failed("open", e))?;
    File::from(fd)
        .write_all(bytes)
        .map_err(|e| failed("write", e))
}

/// Shows as many processors as may be used to whatever is started from here.
///
/// # Errors
/// When the kernel keeps another set.
pub fn processors(count: usize, first: usize) -> Result<String, String> {
    show_processors(count, first)
}
