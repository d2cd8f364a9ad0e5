//! Whose thing it is, written in its name, so that what a process left behind is known for that.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::step::failed;

/// A process, beyond doubt: numbers come back, but not with the same start in the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The inode of its process id namespace.
    namespace: u64,
    pid: i32,
    /// In clock ticks since the machine started.
    started: u64,
}

impl Owner {
    /// This process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn this_process() -> io::Result<Self> {
        let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        Ok(Self {
            namespace: namespace()?,
            pid,
            started: started(pid)?,
        })
    }

    /// From the last part but one of a name, `name.NAMESPACE-PID-STARTED.SEQUENCE`.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.rsplit('.');
        let _sequence: u64 = parts.next()?.parse().ok()?;
        let mut numbers = parts.next()?.split('-');
        let owner = Self {
            namespace: numbers.next()?.parse().ok()?,
            pid: numbers.next()?.parse().ok()?,
            started: numbers.next()?.parse().ok()?,
        };
        (numbers.next().is_none() && parts.next().is_some()).then_some(owner)
    }

    /// Whether it surely runs no more. In doubt it does.
    #[must_use]
    pub fn is_gone(self) -> bool {
        namespace().is_ok_and(|here| self.is_gone_from(here))
    }

    fn is_gone_from(self, here: u64) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return false;
        };
        if self.namespace != here || self.pid < 0 {
            return false;
        }
        match test_kill_process(pid) {
            Err(Errno::SRCH) => true,
            Ok(()) | Err(_) => started(self.pid).is_ok_and(|started| started != self.started),
        }
    }
}

/// A name of this process's that nothing else has or will have. `name` is for people: lower-case
/// letters, digits, `-` and `_`, at most 32.
///
/// # Errors
/// When `name` is not such, or `/proc` cannot be read.
pub fn unique_name(name: &str) -> Result<String, String> {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 32 || !name.chars().all(fits) {
        return Err(format!(
            "{name:?} is not 1 to 32 lower-case letters, digits, - or _"
        ));
    }
    let owner = Owner::this_process().map_err(|e| failed("/proc/self", e))?;
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    Ok(format!("{name}.{owner}.{sequence}"))
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.namespace, self.pid, self.started)
    }
}

fn namespace() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/ns/pid")?.ino())
}

/// Field 22 of `/proc/PID/stat`. The program's name, in parentheses, may hold anything.
fn started(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').map(|(_, after)| after);
    let field = after.and_then(|after| after.split_whitespace().nth(19));
    field
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other("the process's stat file has no start time"))
}

/// What in this folder is named after an owner that is gone. Names we did not make are left alone.
#[must_use]
pub fn stale_in(parent: &Path) -> Vec<PathBuf> {
    let Ok(here) = namespace() else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            let owner = name.to_str().and_then(Owner::of_name);
            owner.is_some_and(|owner| owner.is_gone_from(here))
        })
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_owner_back() {
        let owner = Owner::this_process().unwrap();
        assert_eq!(Owner::of_name(&format!("w.{owner}.7")), Some(owner));
        for other in ["w", "w.7", "w.1-2.7", "w.1-2-3-4.7", "w.1-2-3.x", "1-2-3.7"] {
            assert_eq!(Owner::of_name(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_process_that_is_surely_gone_is_gone() {
        let me = Owner::this_process().unwrap();
        let here = me.namespace;
        assert!(!me.is_gone_from(here));
        let earlier = Owner {
            started: me.started - 1,
            ..me
        };
        assert!(
            earlier.is_gone_from(here),
            "the same number, another process"
        );
        let elsewhere = Owner {
            namespace: here + 1,
            ..earlier
        };
        assert!(
            !elsewhere.is_gone_from(here),
            "another namespace tells nothing"
        );
        let never = Owner {
            pid: i32::MAX,
            ..me
        };
        assert!(never.is_gone_from(here));
        let nonsense = Owner { pid: -1, ..me };
        assert!(!nonsense.is_gone_from(here));
    }
}
