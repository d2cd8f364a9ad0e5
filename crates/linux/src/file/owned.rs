//! Files that are the user's own.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open, openat};
use rustix::io::Errno;

use crate::step::plain;

/// Why a file or a directory is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// It could not be looked at.
    #[error("{path}: {}", plain(.cause))]
    Unreadable {
        /// The path in question.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// It is a symbolic link, a device or something else.
    #[error("{0} is not a {1}")]
    WrongKind(PathBuf, &'static str),
    /// It belongs to somebody else.
    #[error("{path} belongs to user {owner}, not to you; remove it or choose another folder")]
    NotYours {
        /// The path in question.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// Others may write it.
    #[error(
        "{path} can be written by others (mode {mode:03o}); chmod go-w it, after a look at what is in it"
    )]
    WritableByOthers {
        /// The path in question.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl Untrusted {
    /// Whether there simply is no such file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Unreadable { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
    }
}

/// Opens a file for reading that nobody but this user can have written or put there.
///
/// It must be a regular file (not a link to one), this user's and writable by nobody else; so
/// must its folder; and every folder above must be this user's or root's and, if everybody may
/// write it, sticky. All of it is checked on the opened objects, so nothing can be swapped
/// between the check and the use.
///
/// # Errors
/// The first object that fails, and why.
pub fn open_owned(path: &Path) -> Result<File, Untrusted> {
    let (folder, name) = split(path)?;
    let folder_fd = walk(&folder)?;
    check_own(&folder, &stat(&folder_fd, &folder)?)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat(&folder_fd, &name, flags, Mode::empty()).map_err(|error| {
        if error == Errno::LOOP {
            return Untrusted::WrongKind(path.to_owned(), "regular file");
        }
        unreadable(path, error)
    })?;
    let found = stat(&file, path)?;
    if kind(&found) != FileType::RegularFile {
        return Err(Untrusted::WrongKind(path.to_owned(), "regular file"));
    }
    check_own(path, &found)?;
    Ok(File::from(file))
}

/// Makes a folder only this user can use, with any folder above it that is missing, and checks
/// it as [`open_owned`] checks a file's folder. One that is there already keeps its mode.
///
/// # Errors
/// When it cannot be made, or what is there is not trusted.
pub fn create_private(dir: &Path) -> Result<(), Untrusted> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(|cause| Untrusted::Unreadable {
        path: dir.to_owned(),
        cause,
    })?;
    let real = canonical(dir)?;
    let fd = walk(&real)?;
    check_own(&real, &stat(&fd, &real)?)
}

/// The folder's real path and the file's name.
fn split(path: &Path) -> Result<(PathBuf, std::ffi::OsString), Untrusted> {
    let name = path
        .file_name()
        .ok_or_else(|| Untrusted::WrongKind(path.to_owned(), "regular file"))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((canonical(folder)?, name.to_owned()))
}

fn canonical(path: &Path) -> Result<PathBuf, Untrusted> {
    std::fs::canonicalize(path).map_err(|cause| Untrusted::Unreadable {
        path: path.to_owned(),
        cause,
    })
}

/// Opens a folder by its real path, step by step from the root without following links, and
/// checks every folder on the way.
fn walk(real: &Path) -> Result<OwnedFd, Untrusted> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = PathBuf::from("/");
    let mut fd = open("/", flags, Mode::empty()).map_err(|e| unreadable(&here, e))?;
    check_above(&here, &stat(&fd, &here)?)?;
    for part in real.components() {
        let Component::Normal(name) = part else {
            continue;
        };
        here.push(name);
        fd = openat(&fd, name, flags, Mode::empty()).map_err(|e| unreadable(&here, e))?;
        check_above(&here, &stat(&fd, &here)?)?;
    }
    Ok(fd)
}

fn check_own(path: &Path, found: &Stat) -> Result<(), Untrusted> {
    if found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(not_yours(path, found));
    }
    if found.st_mode & 0o022 != 0 {
        return Err(writable(path, found));
    }
    Ok(())
}

fn check_above(path: &Path, found: &Stat) -> Result<(), Untrusted> {
    if found.st_uid != 0 && found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(not_yours(path, found));
    }
    let sticky = found.st_mode & libc::S_ISVTX != 0;
    if found.st_mode & 0o002 != 0 && !sticky {
        return Err(writable(path, found));
    }
    Ok(())
}

fn not_yours(path: &Path, found: &Stat) -> Untrusted {
    Untrusted::NotYours {
        path: path.to_owned(),
        owner: found.st_uid,
    }
}

fn writable(path: &Path, found: &Stat) -> Untrusted {
    Untrusted::WritableByOthers {
        path: path.to_owned(),
        mode: found.st_mode & 0o7777,
    }
}

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

fn stat(fd: &OwnedFd, path: &Path) -> Result<Stat, Untrusted> {
    fstat(fd).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: Errno) -> Untrusted {
    Untrusted::Unreadable {
        path: path.to_owned(),
        cause: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        mode(dir.path(), 0o700);
        let file = dir.path().join("module");
        std::fs::write(&file, "code").unwrap();
        mode(&file, 0o600);
        (dir, file)
    }

    #[test]
    fn an_own_file_in_an_own_folder_opens() {
        let (_dir, file) = folder();
        let mut opened = open_owned(&file).unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut opened, &mut text).unwrap();
        assert_eq!(text, "code");
    }

    #[test]
    fn what_others_may_write_does_not() {
        for bits in [0o620, 0o602] {
            let (_dir, file) = folder();
            mode(&file, bits);
            let error = open_owned(&file).unwrap_err();
            assert!(matches!(error, Untrusted::WritableByOthers { mode, .. } if mode == bits));
        }
        for bits in [0o770, 0o707, 0o1777] {
            let (dir, file) = folder();
            mode(dir.path(), bits);
            let error = open_owned(&file).unwrap_err();
            assert!(matches!(error, Untrusted::WritableByOthers { mode, .. } if mode == bits));
        }
    }

    #[test]
    fn a_folder_above_that_everybody_may_write_does_not() {
        let (dir, _) = folder();
        let above = dir.path().join("open");
        let inner = above.join("own");
        create_private(&inner).unwrap();
        std::fs::write(inner.join("f"), "").unwrap();
        mode(&inner.join("f"), 0o600);
        assert!(open_owned(&inner.join("f")).is_ok());
        mode(&above, 0o777);
        let error = open_owned(&inner.join("f")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("can be written by others (mode 777)")
        );
        mode(&above, 0o1777);
        assert!(open_owned(&inner.join("f")).is_ok(), "sticky, as /tmp is");
    }

    #[test]
    fn links_and_other_kinds_do_not() {
        let (dir, file) = folder();
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        let error = open_owned(&link).unwrap_err();
        assert!(
            error.to_string().ends_with("link is not a regular file"),
            "{error}"
        );
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let error = open_owned(&inner).unwrap_err();
        assert!(
            error.to_string().ends_with("inner is not a regular file"),
            "{error}"
        );
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(
            matches!(open_owned(&pipe), Err(Untrusted::WrongKind(..))),
            "and it does not wait"
        );
    }

    #[test]
    fn a_missing_file_is_told_apart() {
        let (dir, _) = folder();
        let error = open_owned(&dir.path().join("none")).unwrap_err();
        assert!(error.is_not_found());
        assert!(
            error
                .to_string()
                .ends_with("none: no such file or directory"),
            "{error}"
        );
    }

    #[test]
    fn another_users_file_does_not() {
        let (_dir, file) = folder();
        match std::os::unix::fs::chown(&file, Some(65_534), None) {
            Ok(()) => {
                let error = open_owned(&file).unwrap_err();
                assert!(matches!(error, Untrusted::NotYours { owner: 65_534, .. }));
            }
            Err(error) => eprintln!("skipped: giving a file away needs root: {error}"),
        }
    }

    #[test]
    fn a_private_folder_is_made_private() {
        let (dir, _) = folder();
        let made = dir.path().join("a/b/c");
        create_private(&made).unwrap();
        for path in [dir.path().join("a"), dir.path().join("a/b"), made.clone()] {
            let bits = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(bits & 0o777, 0o700);
        }
        create_private(&made).unwrap();
        mode(&made, 0o777);
        assert!(create_private(&made).is_err());
    }
}
