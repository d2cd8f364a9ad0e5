//! What a guest left below a directory: found without following anything, opened the same way.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, openat2, statat};

/// Folders deeper than this are not looked into.
const DEEPEST: usize = 64;

/// A regular file below a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its path, relative to the directory.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Bytes it really takes: less than its length where it has holes.
    pub stored: u64,
}

/// Every regular file below the folder `name` of `dir`, by name, at most `max` of them. Links, devices,
/// sockets and pipes are left out; names may be anything.
///
/// # Errors
/// When the folder cannot be read.
pub fn left_beneath(dir: impl AsFd, name: &Path, max: usize) -> io::Result<Vec<Left>> {
    let mut found = Vec::new();
    let mut folders = vec![(name.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let fd = open(dir.as_fd(), &folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let stat = statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            let path = folder.join(std::ffi::OsStr::from_bytes(name));
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth < DEEPEST => folders.push((path, depth + 1)),
                FileType::RegularFile if found.len() < max => {
                    let bytes = u64::try_from(stat.st_size).unwrap_or_default();
                    let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
                    found.push(Left {
                        path,
                        bytes,
                        stored: bytes.min(blocks.saturating_mul(512)),
                    });
                }
                _ => {}
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Opens a regular file below `dir` for reading.
///
/// # Errors
/// When a part of the path is a link, it leads out, or it is not a regular file.
pub fn open_beneath(dir: impl AsFd, path: &Path) -> io::Result<File> {
    // Opening a pipe would otherwise wait for its other end.
    let fd = open(dir.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        Ok(File::from(fd))
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidInput))
    }
}

fn open(dir: std::os::fd::BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(dir, path, flags, Mode::empty(), resolve)?)
}

/// How full the file system of a descriptor is: bytes and files in use, and bytes and files free.
///
/// # Errors
/// Those of `fstatvfs`.
pub fn room(fd: impl AsFd) -> io::Result<Room> {
    let state = rustix::fs::fstatvfs(fd)?;
    Ok(Room {
        used_bytes: state.f_blocks.saturating_sub(state.f_bfree) * state.f_frsize,
        free_bytes: state.f_bfree.saturating_mul(state.f_frsize),
        used_files: state.f_files.saturating_sub(state.f_ffree),
        free_files: state.f_ffree,
    })
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Bytes in use, in whole blocks.
    pub used_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Files and folders there are.
    pub used_files: u64,
    /// Files and folders that can still be made.
    pub free_files: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_regular_files_are_found_and_links_lead_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        let tmp = temp.path().join("tmp");
        std::fs::create_dir_all(tmp.join("deep/er")).unwrap();
        std::fs::write(tmp.join("deep/er/a"), b"abc").unwrap();
        std::fs::write(tmp.join("b"), b"").unwrap();
        symlink("/etc/passwd", tmp.join("link")).unwrap();
        symlink("/etc", tmp.join("folder")).unwrap();
        File::create(tmp.join("sparse"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        let dir = File::open(temp.path()).unwrap();
        let left = left_beneath(&dir, Path::new("tmp"), 10).unwrap();
        let seen: Vec<_> = left
            .iter()
            .map(|l| (l.path.to_str().unwrap(), l.bytes))
            .collect();
        assert_eq!(
            seen,
            [("tmp/b", 0), ("tmp/deep/er/a", 3), ("tmp/sparse", 1 << 40)]
        );
        assert_eq!(left[2].stored, 0);
        assert_eq!(left_beneath(&dir, Path::new("tmp"), 1).unwrap().len(), 1);
        assert!(open_beneath(&dir, Path::new("tmp/deep/er/a")).is_ok());
        for path in [
            "tmp/link",
            "tmp/folder/hostname",
            "../x",
            "/etc/passwd",
            "tmp/deep",
        ] {
            assert!(open_beneath(&dir, Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn room_is_read_from_the_file_system() {
        let room = room(File::open("/tmp").unwrap()).unwrap();
        assert!(room.free_bytes > 0);
    }
}
