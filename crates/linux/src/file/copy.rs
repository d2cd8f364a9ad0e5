//! Copying a tree whose names and contents somebody else chose.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fchown, mkdirat, openat,
    readlinkat, statat, symlinkat,
};

/// Folders in one another.
const DEEPEST: usize = 64;

/// What a copy is to be.
#[derive(Debug, Clone, Copy)]
pub struct CopyTo {
    /// User and group of everything in it.
    pub owner: (u32, u32),
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, folders and links together.
    pub files: u64,
}

/// How much was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, folders and links together.
    pub files: u64,
}

/// Copies what is in a folder into another one. Folders that are there already are filled. Links are copied as they
/// are and never followed; a file with several names becomes several; sockets, pipes and devices are left out, and so
/// are the marks that give rights.
///
/// # Errors
/// When there is more than may be copied, folders lie too deep, or something cannot be read or written. What was
/// copied by then stays.
pub fn copy_tree(from: impl AsFd, to: impl AsFd, into: &CopyTo) -> io::Result<Copied> {
    let mut copying = Copying {
        into,
        copied: Copied::default(),
    };
    copying.folder(from.as_fd(), to.as_fd(), 0)?;
    Ok(copying.copied)
}

struct Copying<'a> {
    into: &'a CopyTo,
    copied: Copied,
}

impl Copying<'_> {
    fn folder(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!(
                "there are more than {DEEPEST} folders in one another"
            )));
        }
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.count()?;
                    self.subfolder((from, to), name, depth)?;
                }
                FileType::RegularFile => {
                    self.count()?;
                    self.file((from, to), name)?;
                }
                FileType::Symlink => {
                    self.count()?;
                    let target = readlinkat(from, name, Vec::new())?;
                    symlinkat(target, to, name)?;
                    let (user, group) = self.owner();
                    chownat(to, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn subfolder(
        &mut self,
        (from, to): (BorrowedFd<'_>, BorrowedFd<'_>),
        name: &std::ffi::CStr,
        depth: usize,
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = openat(from, name, flags, Mode::empty())?;
        match mkdirat(to, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let to = openat(to, name, flags, Mode::empty())?;
        self.folder(from.as_fd(), to.as_fd(), depth + 1)?;
        self.finish(&to, &rustix::fs::fstat(&from)?)
    }

    fn file(
        &mut self,
        (from, to): (BorrowedFd<'_>, BorrowedFd<'_>),
        name: &std::ffi::CStr,
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = openat(from, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&from)?;
        // Another may have taken its name since.
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        let left = self.into.bytes - self.copied.bytes;
        let mut file = File::from(to);
        // One byte more than may be, to see that there is one.
        let mut source = File::from(from).take(left.saturating_add(1));
        let bytes = io::copy(&mut source, &mut file)?;
        if bytes > left {
            return Err(too_much(&format!("{} bytes", self.into.bytes)));
        }
        self.copied.bytes += bytes;
        self.finish(&OwnedFd::from(file), &stat)
    }

    fn finish(&self, made: &OwnedFd, like: &Stat) -> io::Result<()> {
        let (user, group) = self.owner();
        fchown(made, user, group)?;
        let rights = Mode::RWXU | Mode::RWXG | Mode::RWXO;
        fchmod(made, Mode::from_raw_mode(like.st_mode) & rights)?;
        Ok(())
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        let (user, group) = self.into.owner;
        (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
    }

    fn count(&mut self) -> io::Result<()> {
        if self.copied.files >= self.into.files {
            return Err(too_much(&format!("{} files", self.into.files)));
        }
        self.copied.files += 1;
        Ok(())
    }
}

fn too_much(most: &str) -> io::Error {
    io::Error::other(format!("there are more than {most}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn copied(from: &Path, to: &Path, bytes: u64, files: u64) -> io::Result<Copied> {
        let into = CopyTo {
            owner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            bytes,
            files,
        };
        copy_tree(File::open(from)?, File::open(to)?, &into)
    }

    #[test]
    fn files_folders_and_links_are_copied_and_nothing_is_followed() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| from.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/file"), "four").unwrap();
        std::fs::set_permissions(at("a/b/file"), std::fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("/etc/shadow", at("a/link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("a/pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        // One that is there already, as the folders of a fresh scratch are.
        std::fs::create_dir(to.path().join("a")).unwrap();
        let done = copied(from.path(), to.path(), 4, 4).unwrap();
        assert_eq!(done, Copied { bytes: 4, files: 4 });
        let there = |name: &str| to.path().join(name);
        assert_eq!(std::fs::read(there("a/b/file")).unwrap(), b"four");
        let mode = std::fs::metadata(there("a/b/file"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o750, "no right of another user's");
        assert_eq!(
            std::fs::read_link(there("a/link")).unwrap(),
            Path::new("/etc/shadow")
        );
        assert!(!there("a/pipe").exists());
    }

    #[test]
    fn more_than_may_be_is_refused() {
        let from = tempfile::tempdir().unwrap();
        std::fs::write(from.path().join("file"), "four").unwrap();
        std::fs::create_dir(from.path().join("folder")).unwrap();
        for (bytes, files, why) in [(3, 9, "3 bytes"), (9, 1, "1 files")] {
            let to = tempfile::tempdir().unwrap();
            let error = copied(from.path(), to.path(), bytes, files).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let deep = (0..70).fold(from.path().to_owned(), |path, _| path.join("d"));
        std::fs::create_dir_all(deep).unwrap();
        let to = tempfile::tempdir().unwrap();
        let error = copied(from.path(), to.path(), 9, 999).unwrap_err();
        assert!(error.to_string().contains("in one another"), "{error}");
    }
}
