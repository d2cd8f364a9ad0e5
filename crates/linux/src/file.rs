//! Files that nobody else can have written, and files written below a directory.
//!
//! The first half is about trusting a file before it is loaded: compiled code in a cache folder
//! is as good as code, so it must be the user's own, in a folder that is the user's own, and no
//! other user may have been able to put it there. The second half is about names that a guest
//! chose: they must end up below the directory the user named, whatever they say.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

pub mod attributes;
mod beneath;
mod copy;
mod identity;
mod left;
mod owned;
mod tree;

pub use beneath::{Dir, Outside, create_beneath, mkdir_beneath, write_beneath};
pub use copy::{Copied, CopyTo, copy_tree};
pub use identity::identity;
pub use left::{Left, Room, left_beneath, open_beneath, room};
pub use owned::{Untrusted, create_private, open_owned};
pub use tree::{Tree, set_modified};

/// How long to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// At most this long.
    UpTo(Duration),
    /// Until it is free.
    Forever,
}

/// How often a lock with a deadline is tried.
const RETRY: Duration = Duration::from_millis(20);

/// Takes the whole-file lock (`flock`) that goes when the file is closed, also when its process
/// dies. `false`: another process has it and the wait is over.
///
/// # Errors
/// When the file system has no such locks.
pub fn lock_exclusive(file: &File, wait: Wait) -> io::Result<bool> {
    let deadline = match wait {
        Wait::Forever => return wait_for_lock(file).map(|()| true),
        Wait::No => None,
        Wait::UpTo(limit) => Instant::now().checked_add(limit),
    };
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
            Err(std::fs::TryLockError::WouldBlock) => {}
        }
        match deadline {
            Some(end) if Instant::now() < end => std::thread::sleep(RETRY),
            _ => return Ok(false),
        }
    }
}

/// Makes a lock file if there is none, and holds it for as long as what is returned is open: whoever else
/// wants it waits. `waits` is told when it is somebody else's at first.
///
/// # Errors
/// When it cannot be made or locked; a link in its place is not followed.
pub fn lock_alone(path: &Path, waits: impl FnOnce()) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    if !lock_exclusive(&file, Wait::No)? {
        waits();
        lock_exclusive(&file, Wait::Forever)?;
    }
    Ok(file)
}

fn wait_for_lock(file: &File) -> io::Result<()> {
    loop {
        match file.lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_keeps_others_out_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = File::create(&path).unwrap();
        let second = File::open(&path).unwrap();
        assert!(lock_exclusive(&first, Wait::No).unwrap());
        assert!(!lock_exclusive(&second, Wait::No).unwrap());
        let begun = Instant::now();
        assert!(!lock_exclusive(&second, Wait::UpTo(Duration::from_millis(60))).unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(60));
        drop(first);
        assert!(lock_exclusive(&second, Wait::Forever).unwrap());
    }
}
