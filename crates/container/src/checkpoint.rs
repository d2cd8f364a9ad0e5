//! Checkpoints of gVisor's: the memory of a sandbox in which the libraries are imported and nothing has run, in
//! a folder of the user's own. What is in there is as good as code, so it is opened as code is.
//!
//! A checkpoint belongs to one version of the runtime, one kernel, one set of packages and one number of
//! processors; the name of its folder is a hash of all of them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use casemate_driver::packages::Store;
use casemate_linux::file::{create_private, open_owned};
use sha2::{Digest, Sha256};

/// Counted up when what is in a checkpoint changes.
const FORMAT: &str = "1";
/// What gVisor writes.
const PARTS: [&str; 3] = ["checkpoint.img", "pages.img", "pages_meta.img"];

/// Where the checkpoint for these facts is, or will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    root: PathBuf,
    key: String,
}

/// What a checkpoint depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// The runtime with its version and platform.
    pub(crate) runtime: &'a str,
    /// Processors that are shown.
    pub(crate) processors: usize,
    /// The bundle's `config.json`.
    pub(crate) config: &'a str,
}

impl Place {
    /// Beside the packages of the store.
    pub(crate) fn of(store: &Store, facts: Facts<'_>) -> Self {
        let kernel = rustix::system::uname();
        let packages = store.dir();
        let mut hash = Sha256::new();
        for part in [
            FORMAT.as_bytes(),
            facts.runtime.as_bytes(),
            kernel.release().to_bytes(),
            kernel.version().to_bytes(),
            packages.as_os_str().as_encoded_bytes(),
            facts.processors.to_string().as_bytes(),
            facts.config.as_bytes(),
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let hash = hash.finalize();
        let key = hash.iter().take(12).map(|b| format!("{b:02x}")).collect();
        let cache = packages.ancestors().nth(2).unwrap_or(&packages);
        Self {
            root: cache.join("gvisor"),
            key,
        }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.join(&self.key)
    }

    /// The folder, where a whole checkpoint is in it that nobody else can have written.
    pub(crate) fn open(&self) -> Result<File, String> {
        let dir = self.dir();
        for part in PARTS {
            let path = dir.join(part);
            let file = open_owned(&path).map_err(|error| error.to_string())?;
            let meta = file
                .metadata()
                .map_err(|e| format!("{}: {e}", path.display()))?;
            if meta.mode() & 0o077 != 0 || meta.len() == 0 {
                return Err(format!("{} is empty, or others may read it", path.display()));
            }
        }
        directory(&dir)
    }

    /// An empty folder to make it in.
    pub(crate) fn staging(&self) -> Result<(PathBuf, File), String> {
        create_private(&self.root).map_err(|error| error.to_string())?;
        let staging = self.root.join(format!("{}.{}.part", self.key, std::process::id()));
        remove(&staging)?;
        let made = DirBuilder::new().mode(0o700).create(&staging);
        made.map_err(|error| format!("{}: {error}", staging.display()))?;
        let folder = directory(&staging)?;
        Ok((staging, folder))
    }

    /// Gives a finished one its name, unless another process was first.
    pub(crate) fn publish(&self, staging: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", staging.display());
        for part in PARTS {
            let path = staging.join(part);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        }
        match fs::rename(staging, self.dir()) {
            Err(_) if self.open().is_ok() => remove(staging),
            other => other.map_err(failed),
        }
    }

    /// One that does not restore is of no use to anybody.
    pub(crate) fn remove(&self) -> Result<(), String> {
        remove(&self.dir())
    }
}

fn directory(path: &Path) -> Result<File, String> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::DIRECTORY;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("removing {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts<'static> = Facts {
        runtime: "runsc 20240729.0, platform systrap",
        processors: 1,
        config: "{}",
    };

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let store = Store::at(dir.path().to_owned());
        (dir, Place::of(&store, FACTS))
    }

    fn made(place: &Place) {
        let (staging, _folder) = place.staging().unwrap();
        for part in PARTS {
            fs::write(staging.join(part), "x").unwrap();
        }
        place.publish(&staging).unwrap();
    }

    #[test]
    fn another_version_or_another_number_is_another_checkpoint() {
        let (dir, place) = place();
        let store = Store::at(dir.path().to_owned());
        assert_eq!(Place::of(&store, FACTS), place);
        for facts in [
            Facts {
                runtime: "runsc 20250101.0, platform systrap",
                ..FACTS
            },
            Facts {
                processors: 2,
                ..FACTS
            },
            Facts {
                config: "{\"x\":1}",
                ..FACTS
            },
        ] {
            assert_ne!(Place::of(&store, facts), place, "{facts:?}");
        }
    }

    #[test]
    fn what_is_made_is_private_and_opens() {
        let (_dir, place) = place();
        assert!(place.open().is_err());
        made(&place);
        place.open().unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(place.dir()), 0o700);
        assert_eq!(mode(place.dir().join(PARTS[0])), 0o600);
        // A second one gives way to the first.
        made(&place);
        place.open().unwrap();
        place.remove().unwrap();
        assert!(place.open().is_err());
    }

    #[test]
    fn what_others_may_touch_is_not_restored() {
        let (_dir, place) = place();
        for (part, mode) in [(PARTS[0], 0o620), (PARTS[1], 0o644), (PARTS[2], 0o602)] {
            place.remove().unwrap();
            made(&place);
            let path = place.dir().join(part);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(place.open().is_err(), "{part} {mode:o}");
        }
        place.remove().unwrap();
        made(&place);
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(place.open().is_err());
    }
}
