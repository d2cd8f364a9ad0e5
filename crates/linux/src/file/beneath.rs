//! Writing below a directory under names that somebody else chose.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2, renameat,
    statat, unlinkat,
};
use rustix::io::Errno;

use crate::step::plain;

/// Deeper names are refused: each folder is made and opened one by one.
const DEEPEST: usize = 64;

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum Outside {
    /// The name itself is not one below the directory.
    #[error("{0:?} is not a relative path of at most 64 names without . or ..")]
    BadName(PathBuf),
    /// A link, or something else that is not to be written through, is in the way.
    #[error("{0:?} is a link or something else that is not written over")]
    InTheWay(PathBuf),
    /// The system refused.
    #[error("{path:?}: {}", plain(.cause))]
    Failed {
        /// The path below the directory.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
}

/// An opened directory that everything is written below.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

impl Dir {
    /// Opens a directory that is there. Links in this path are followed: the user chose it.
    ///
    /// # Errors
    /// When it is not there, is not a directory, or may not be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty())?;
        Ok(Self { fd })
    }

    /// A directory that is open already.
    #[must_use]
    pub const fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens a directory, made first if it is not there, with the folders above it.
    ///
    /// # Errors
    /// As [`Dir::open`], and when it cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Self::open(path)
    }
}

/// Writes a file below `dir`, with the folders it needs. A regular file of that name is
/// replaced at once, so that a reader sees the old or the new one; nothing else is.
///
/// No part of the name is followed if it is a link, also when somebody swaps one in meanwhile.
///
/// # Errors
/// [`Outside`]: a bad name, something in the way, or the system's refusal. Then nothing of the
/// file is left.
pub fn write_beneath(dir: &Dir, relative: &Path, bytes: &[u8]) -> Result<(), Outside> {
    let name = checked(relative)?;
    let folder = match relative.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => mkdir_beneath(dir, parent)?,
        _ => open_beneath(dir.fd.as_fd(), Path::new("."), relative)?,
    };
    refuse_other_kinds(&folder, name, relative)?;
    let temporary = write_temporary(&folder, bytes, relative)?;
    renameat(&folder, &temporary, &folder, name).map_err(|error| {
        unlinkat(&folder, &temporary, AtFlags::empty()).ok();
        failed(relative, error)
    })
}

/// Makes a new file below `dir` that everybody may read, with the folders it needs, and opens it for
/// writing. A name that is there is not taken.
///
/// # Errors
/// As [`write_beneath`].
pub fn create_beneath(dir: &Dir, relative: &Path) -> Result<File, Outside> {
    let name = checked(relative)?;
    let folder = match relative.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => mkdir_beneath(dir, parent)?,
        _ => open_beneath(dir.fd.as_fd(), Path::new("."), relative)?,
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&folder, name, flags, Mode::from_raw_mode(0o444)) {
        Ok(fd) => Ok(File::from(fd)),
        Err(Errno::EXIST) => Err(Outside::InTheWay(relative.to_owned())),
        Err(error) => Err(failed(relative, error)),
    }
}

/// Makes a folder below `dir`, and those above it, and opens it. One that is there is fine.
///
/// # Errors
/// As [`write_beneath`].
pub fn mkdir_beneath(dir: &Dir, relative: &Path) -> Result<OwnedFd, Outside> {
    checked(relative)?;
    let mut fd = open_beneath(dir.fd.as_fd(), Path::new("."), relative)?;
    for part in relative.components() {
        let name = part.as_os_str();
        match mkdirat(&fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(relative, error)),
        }
        fd = open_beneath(fd.as_fd(), Path::new(name), relative)?;
    }
    Ok(fd)
}

/// The last name of a path that has only plain names.
fn checked(relative: &Path) -> Result<&OsStr, Outside> {
    let plain = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    // `components` forgets a slash at the end and dots in between; the text does not.
    let text = relative.as_os_str().as_encoded_bytes();
    let tidy = !text.ends_with(b"/") && text.split(|b| *b == b'/').all(|name| name != b".");
    match relative.file_name() {
        Some(name) if plain && tidy && relative.components().count() <= DEEPEST => Ok(name),
        _ => Err(Outside::BadName(relative.to_owned())),
    }
}

fn open_beneath(fd: impl AsFd, name: &Path, whole: &Path) -> Result<OwnedFd, Outside> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(&fd, name, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            // A rename elsewhere raced with the walk; the kernel asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                return Err(Outside::InTheWay(whole.to_owned()));
            }
            Err(error) => return Err(failed(whole, error)),
        }
    }
}

fn refuse_other_kinds(folder: &OwnedFd, name: &OsStr, whole: &Path) -> Result<(), Outside> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => Ok(()),
        Ok(_) => Err(Outside::InTheWay(whole.to_owned())),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed(whole, error)),
    }
}

/// Writes the bytes under a name of our own in the same folder. On failure nothing is left.
fn write_temporary(folder: &OwnedFd, bytes: &[u8], whole: &Path) -> Result<String, Outside> {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let name = format!(".casemate-{}-{sequence}.part", std::process::id());
        match openat(folder, &name, flags, Mode::from_raw_mode(0o644)) {
            Ok(fd) => {
                let written = File::from(fd).write_all(bytes);
                return match written {
                    Ok(()) => Ok(name),
                    Err(cause) => {
                        unlinkat(folder, &name, AtFlags::empty()).ok();
                        Err(Outside::Failed {
                            path: whole.to_owned(),
                            cause,
                        })
                    }
                };
            }
            // Left behind by an earlier process of the same number; the next name is free.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(whole, error)),
        }
    }
}

pub(super) fn failed(path: &Path, error: Errno) -> Outside {
    Outside::Failed {
        path: path.to_owned(),
        cause: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn out() -> (tempfile::TempDir, Dir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("out");
        let dir = Dir::create(&path).unwrap();
        (temp, dir, path)
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(path).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_and_folders_are_made_and_replaced() {
        let (_temp, dir, path) = out();
        write_beneath(&dir, Path::new("chart.png"), b"one").unwrap();
        write_beneath(&dir, Path::new("a/b/table.csv"), b"x").unwrap();
        write_beneath(&dir, Path::new("chart.png"), b"two").unwrap();
        assert_eq!(std::fs::read(path.join("chart.png")).unwrap(), b"two");
        assert_eq!(std::fs::read(path.join("a/b/table.csv")).unwrap(), b"x");
        assert_eq!(
            names(&path),
            ["a", "chart.png"],
            "no temporary file is left"
        );
    }

    #[test]
    fn a_replaced_file_is_a_new_one() {
        let (temp, dir, path) = out();
        let other = temp.path().join("other");
        std::fs::write(&other, "theirs").unwrap();
        std::fs::hard_link(&other, path.join("f")).unwrap();
        write_beneath(&dir, Path::new("f"), b"ours").unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"theirs");
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        let (temp, dir, _path) = out();
        let deep = "n/".repeat(64) + "n";
        let names_out = [
            "",
            ".",
            "..",
            "../x",
            "a/../../x",
            "/etc/x",
            "a/",
            "a//../x",
            "./x",
            "a/./x",
        ];
        for name in names_out.into_iter().chain([deep.as_str()]) {
            let error = write_beneath(&dir, Path::new(name), b"x").unwrap_err();
            assert!(matches!(error, Outside::BadName(_)), "{name}: {error}");
        }
        let zero = write_beneath(&dir, Path::new("a\0b"), b"x").unwrap_err();
        assert!(matches!(zero, Outside::Failed { .. }));
        let too_long = write_beneath(&dir, Path::new(&"n".repeat(256)), b"x").unwrap_err();
        assert!(matches!(too_long, Outside::Failed { .. }));
        write_beneath(&dir, Path::new(&deep[2..]), b"x").unwrap();
        assert_eq!(names(temp.path()), ["out"]);
    }

    #[test]
    fn links_are_never_followed() {
        let (temp, dir, path) = out();
        let victim = temp.path().join("victim");
        std::fs::create_dir(&victim).unwrap();
        std::fs::write(victim.join("f"), "safe").unwrap();
        symlink(&victim, path.join("folder")).unwrap();
        symlink(victim.join("f"), path.join("file")).unwrap();
        symlink("/proc/self/root/tmp", path.join("magic")).unwrap();
        symlink(victim.join("new"), path.join("dangling")).unwrap();
        for name in [
            "folder/f",
            "folder/new",
            "file",
            "magic/x",
            "dangling",
            "folder",
        ] {
            let error = write_beneath(&dir, Path::new(name), b"evil").unwrap_err();
            assert!(matches!(error, Outside::InTheWay(_)), "{name}: {error}");
        }
        assert!(matches!(
            mkdir_beneath(&dir, Path::new("folder/sub")),
            Err(Outside::InTheWay(_))
        ));
        assert_eq!(std::fs::read(victim.join("f")).unwrap(), b"safe");
        assert_eq!(names(&victim), ["f"]);
    }

    #[test]
    fn folders_and_pipes_are_not_written_over() {
        let (_temp, dir, path) = out();
        std::fs::create_dir(path.join("folder")).unwrap();
        assert!(matches!(
            write_beneath(&dir, Path::new("folder"), b"x"),
            Err(Outside::InTheWay(_))
        ));
        write_beneath(&dir, Path::new("file"), b"x").unwrap();
        assert!(matches!(
            write_beneath(&dir, Path::new("file/below"), b"x"),
            Err(Outside::InTheWay(_))
        ));
        assert_eq!(names(&path), ["file", "folder"]);
    }

    #[test]
    fn a_link_swapped_in_while_writing_leads_nowhere() {
        let (temp, dir, path) = out();
        let victim = temp.path().join("victim");
        std::fs::create_dir(&victim).unwrap();
        let swap = path.join("swap");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::fs::create_dir(&swap).ok();
                    std::fs::remove_dir_all(&swap).ok();
                    symlink(&victim, &swap).ok();
                    std::fs::remove_file(&swap).ok();
                }
            });
            for _ in 0..2000 {
                write_beneath(&dir, Path::new("swap/f"), b"x").ok();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(names(&victim).is_empty());
    }
}
