//! The process file system of a jail: processes, and, where an agent lives, texts of ours over a few names.
//!
//! The kernel finds no name but those of processes once it is told to, except what is held: so there is no list of
//! what to hide, and what it gets a name for later is hidden too.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{MountFlags, MoveMountFlags, mount, mount_remount, move_mount};

use super::machine;
use super::root::{NODEV, NOEXEC, NOSUID, RDONLY, clone_tree, expect_read_only};
use crate::step::failed;
use crate::sys;

const FLAGS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::RDONLY);
const OPTIONS: &CStr = c"subset=pid,hidepid=2";

/// Mounts one that shows processes and nothing else.
pub(super) fn mount_processes(at: &Path) -> Result<String, String> {
    mount("proc", at, "proc", FLAGS, OPTIONS)
        .map_err(|e| failed("mount proc (Linux 5.8 or newer)", e))?;
    for hidden in ["sys", "kcore", "sysrq-trigger", "kallsyms"] {
        if at.join(hidden).exists() {
            return Err(format!("/proc/{hidden} is still there"));
        }
    }
    Ok("subset=pid, hidepid=2, read-only".to_owned())
}

/// Mounts a whole one, for [`Texts::lay_over`]. It is no wall until then.
pub(super) fn mount_whole(at: &Path) -> Result<(), String> {
    let flags = FLAGS.difference(MountFlags::RDONLY);
    mount("proc", at, "proc", flags, c"hidepid=2").map_err(|e| failed("mount proc", e))
}

/// The options of a file system that has room for these texts.
pub(super) fn room_for(files: &[(&str, String)]) -> String {
    let bytes: usize = files.iter().map(|(_, text)| text.len() + (8 << 10)).sum();
    format!("size={bytes},nr_inodes=32,mode=0755")
}

/// Texts of the machine, read-only, and not yet at their places.
#[derive(Debug)]
pub struct Texts {
    files: Vec<(&'static str, String)>,
    /// One for each of [`machine::NAMES`].
    trees: Vec<(&'static str, OwnedFd)>,
}

impl Texts {
    /// Writes them into the file system that is mounted at a folder.
    pub(super) fn write(at: &Path, files: Vec<(&'static str, String)>) -> Result<Self, String> {
        for name in machine::FOLDERS {
            std::fs::create_dir(at.join(name)).map_err(|e| failed(name, e))?;
        }
        for (name, text) in &files {
            std::fs::write(at.join(name), text).map_err(|e| failed(name, e))?;
        }
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(at, flags, "").map_err(|e| failed("mount -o remount,ro", e))?;
        let mut trees = Vec::new();
        for name in machine::NAMES {
            let tree = clone_tree(&at.join(name), false)?;
            sys::mount_setattr(tree.as_fd(), false, RDONLY | NOSUID | NODEV | NOEXEC)
                .map_err(|e| failed("mount_setattr", e))?;
            trees.push((name, tree));
        }
        Ok(Self { files, trees })
    }

    /// Puts them over their names in a whole process file system, and leaves nothing else there but processes. What
    /// network files tell of more than the namespace of its process 1 is closed. Descriptors of this process keep
    /// two links alive for as long as it lives.
    ///
    /// # Errors
    /// The first step that failed, or a name of the machine's that is still found.
    pub fn lay_over(self, at: &Path) -> Result<String, String> {
        let names = names(at)?;
        close_network(at)?;
        for (name, tree) in self.trees {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&tree, "", CWD, at.join(name), flags)
                .map_err(|e| failed(&format!("move_mount {name}"), e))?;
        }
        for name in machine::LINKS {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let link = open(at.join(name), flags, Mode::empty()).map_err(|e| failed(name, e))?;
            // A link cannot be mounted over.
            let _held = link.into_raw_fd();
        }
        mount_remount(at, FLAGS, OPTIONS).map_err(|e| failed("mount -o remount,subset=pid", e))?;
        verify(at, &names, &self.files)?;
        Ok(format!(
            "subset=pid, hidepid=2, read-only; of our own: {}; none other of {} names",
            machine::NAMES.join(", "),
            names.len()
        ))
    }
}

/// The names at the top of a whole process file system that are no process's. None of them is looked at: what was
/// looked at is found again.
///
/// # Errors
/// When it cannot be read.
pub fn names(proc: &Path) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(proc).map_err(|e| failed("reading /proc", e))? {
        let name = entry.map_err(|e| failed("reading /proc", e))?.file_name();
        let name = name.into_string().map_err(|_| "a name in /proc is none")?;
        if !is_of_a_process(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_of_a_process(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit()) || matches!(name, "self" | "thread-self")
}

/// Takes every right to what tells of more than the network namespace, whose files these are alone: no other
/// namespace's are touched.
fn close_network(proc: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    // By its number: whoever does this may be in another process table.
    let at = proc.join("1/net");
    for entry in std::fs::read_dir(&at).map_err(|e| failed("reading /proc/1/net", e))? {
        let path = entry.map_err(|e| failed("reading /proc/1/net", e))?.path();
        let name = path.file_name().unwrap_or_default();
        if machine::NETWORK.iter().any(|open| name == *open) {
            continue;
        }
        let what = || format!("closing /proc/1/net/{}", name.display());
        let none = std::fs::Permissions::from_mode(0o000);
        std::fs::set_permissions(&path, none).map_err(|e| failed(&what(), e))?;
        let now = std::fs::metadata(&path).map_err(|e| failed(&what(), e))?;
        if now.permissions().mode() & 0o7777 != 0 {
            return Err(format!("{}: the kernel kept its rights", what()));
        }
    }
    Ok(())
}

/// Nothing of the machine's is found in it, by none of these names, and what is found is what was written.
fn verify(at: &Path, all: &[String], files: &[(&str, String)]) -> Result<(), String> {
    only_processes(at, all)?;
    for (name, text) in files {
        let read = std::fs::read_to_string(at.join(name)).map_err(|e| failed(name, e))?;
        if read != *text {
            return Err(format!("/proc/{name} is not ours"));
        }
    }
    expect_read_only(&at.join("sys"))
}

/// That a process file system with texts over it shows none of these names of the machine's beside them.
///
/// # Errors
/// The first that it does.
pub fn only_processes(at: &Path, all: &[String]) -> Result<(), String> {
    for name in all {
        let shown =
            machine::NAMES.contains(&name.as_str()) || machine::LINKS.contains(&name.as_str());
        match std::fs::symlink_metadata(at.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !shown => {}
            Ok(_) if shown => {}
            Ok(_) => return Err(format!("/proc/{name} is still there")),
            Err(error) => return Err(failed(&format!("/proc/{name}"), error)),
        }
    }
    if let Some(name) = names(at)?.first() {
        return Err(format!("/proc/{name} is still listed"));
    }
    for name in machine::LINKS {
        let leads = std::fs::read_link(at.join(name)).map_err(|e| failed(name, e))?;
        if leads != Path::new("self").join(name) {
            return Err(format!("/proc/{name} leads to {}", leads.display()));
        }
    }
    Ok(())
}
