//! What the set-up of every backend shares: what it tells, how it fails, where it keeps things.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What set-up tells while it works.
pub trait Progress: Send + Sync {
    /// A stage begins; `total` is in `unit`, or unknown.
    fn stage(&self, name: &str, total: Option<u64>, unit: Unit);
    /// So much of the stage is done.
    fn at(&self, done: u64);
    /// The stage is complete.
    fn done(&self, note: &str);
    /// Something worth saying.
    fn say(&self, text: &str);
}

/// What a stage counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Functions.
    Functions,
    /// Nothing: it takes as long as it takes.
    None,
}

/// Why set-up failed, and the way out.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The packages could not be fetched.
    #[error("{what}\n  {fix}")]
    Fetch {
        /// What went wrong.
        what: String,
        /// The way out.
        fix: String,
    },
    /// A file is not the one that was pinned.
    #[error(
        "{file} is not the pinned file: its SHA-256 is {got}, and {want} was expected\n  \
         fetch it again from a package index you trust; nothing of it was used"
    )]
    WrongHash {
        /// The file.
        file: String,
        /// Its hash.
        got: String,
        /// The pinned hash.
        want: String,
    },
    /// The file system refused.
    #[error("{what}: {cause}\n  {fix}")]
    Io {
        /// What was being done.
        what: String,
        /// The error.
        cause: io::Error,
        /// The way out.
        fix: String,
    },
    /// The cache belongs to somebody else or can be written by others.
    #[error("{0}")]
    Untrusted(String),
    /// The guest could not be prepared.
    #[error(
        "preparing the guest failed: {0}\n  run `casemate setup --force`; if it fails again, please report it"
    )]
    Guest(String),
}

impl SetupError {
    /// The file system refused while `what` was being done; the way out depends on how.
    pub fn io(what: impl Into<String>, cause: io::Error) -> Self {
        let fix = match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "set-up needs about 1.2 GiB; free some, or name another folder with CASEMATE_CACHE"
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "name a folder you may write to with CASEMATE_CACHE"
            }
            _ => "check the disk, or name another folder with CASEMATE_CACHE",
        };
        Self::Io {
            what: what.into(),
            cause,
            fix: fix.to_owned(),
        }
    }
}

/// The folder for caches: `CASEMATE_CACHE`, else `XDG_CACHE_HOME/casemate`, else `~/.cache/casemate`.
///
/// # Errors
/// When none of them names an absolute folder.
pub fn cache_root() -> Result<PathBuf, SetupError> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("CASEMATE_CACHE")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|path| path.join("casemate")))
        .or_else(|| absolute("HOME").map(|path| path.join(".cache/casemate")))
        .ok_or_else(|| {
            SetupError::Untrusted("no cache folder: set CASEMATE_CACHE to an absolute path".into())
        })
}
