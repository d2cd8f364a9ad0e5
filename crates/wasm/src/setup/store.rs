//! The cache folder: the user's own, writable by nobody else, or nothing in it is loaded.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use casemate_linux::file::{lock_alone, open_owned};
use serde::{Deserialize, Serialize};

use super::{Keys, Progress, SetupError, cache_root, file_sha256, private_dir};

/// Counted up when the layout of the cache changes.
pub(crate) const FORMAT: u32 = 5;
pub(crate) const LIBRARY: &str = "library.bin";
pub(crate) const MODULE: &str = "module.cwasm";
pub(crate) const MEMORY: &str = "memory.bin";
const MANIFEST: &str = "manifest.json";
/// What a whole set-up writes before it tidies up: wheels twice while they are fetched, two compiled
/// modules, a snapshot and a library; 1,080 MiB measured.
const ROOM: u64 = 1200 << 20;

/// What a complete set-up consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    files: Vec<ManifestFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ManifestFile {
    name: String,
    bytes: u64,
    sha256: String,
}

/// The place of one guest in the cache.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    keys: Keys,
}

/// A guest that is set up.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Its folder.
    pub dir: PathBuf,
}

/// The files a worker needs, opened and checked.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) module: File,
    pub(crate) library: File,
    pub(crate) memory: File,
}

impl Store {
    /// The place in the user's cache for this engine, this processor and this guest.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub fn open() -> Result<Self, SetupError> {
        Self::at(cache_root()?)
    }

    /// The place below a given root.
    ///
    /// # Errors
    /// When this processor cannot be targeted.
    pub fn at(root: PathBuf) -> Result<Self, SetupError> {
        Ok(Self {
            root: root.join("wasm"),
            keys: Keys::new()?,
        })
    }

    /// What names this guest among all: everything that went into it.
    pub fn key(&self) -> &str {
        &self.keys.guest
    }

    /// Where the guest is, or will be.
    pub fn dir(&self) -> PathBuf {
        self.root.join(&self.keys.guest)
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join(format!("{}.part", self.keys.guest))
    }

    /// Python as compiled from the wheel; kept, so that the next version's set-up takes half as long.
    pub(crate) fn plain(&self) -> PathBuf {
        self.root.join(format!("plain-{}.cwasm", self.keys.plain))
    }

    pub(crate) fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// One set-up at a time: the second waits for the first, and says so.
    pub(crate) fn lock(&self, progress: &dyn Progress) -> Result<File, SetupError> {
        private_dir(&self.root)?;
        let path = self.root.join("setup.lock");
        let io_error = |error| SetupError::io(format!("locking {}", path.display()), error);
        let waits = || progress.say("another set-up is running; waiting for it");
        lock_alone(&path, waits).map_err(io_error)
    }

    /// Finds out before the first of several minutes whether the disk has room for the rest of a set-up.
    ///
    /// # Errors
    /// A full disk, as writing would meet it.
    pub(crate) fn room(&self) -> Result<(), SetupError> {
        let made = [self.downloads(), self.plain(), self.staging()];
        let made: u64 = made.iter().map(|path| size_of(path)).sum();
        let needed = ROOM.saturating_sub(made);
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|error| SetupError::io("asking for the cache's disk", error.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= needed {
            return Ok(());
        }
        let what = format!(
            "{} has {} MiB free and {} MiB are needed",
            self.root.display(),
            free >> 20,
            needed >> 20
        );
        Err(SetupError::io(what, io::ErrorKind::StorageFull.into()))
    }

    /// The guest, when a complete set-up is here. Sizes are compared; hashes are `verify`'s job.
    ///
    /// # Errors
    /// What is missing, damaged or not trusted.
    pub fn installed(&self) -> Result<Installed, SetupError> {
        self.opened().map(|_| Installed { dir: self.dir() })
    }

    /// Opens the files a worker needs.
    pub(crate) fn opened(&self) -> Result<Opened, SetupError> {
        let dir = self.dir();
        let manifest = self.manifest()?;
        let open = |name: &str| {
            let path = dir.join(name);
            let file =
                open_owned(&path).map_err(|error| SetupError::Untrusted(error.to_string()))?;
            let size = file
                .metadata()
                .map_err(|error| SetupError::io("reading the cache", error))?
                .len();
            let expected = manifest
                .files
                .iter()
                .find(|entry| entry.name == name)
                .map(|entry| entry.bytes);
            if expected == Some(size) {
                Ok(file)
            } else {
                Err(damaged(&path))
            }
        };
        Ok(Opened {
            module: open(MODULE)?,
            library: open(LIBRARY)?,
            memory: open(MEMORY)?,
        })
    }

    fn manifest(&self) -> Result<Manifest, SetupError> {
        let path = self.dir().join(MANIFEST);
        let file = open_owned(&path).map_err(|error| SetupError::Untrusted(error.to_string()))?;
        let manifest: Manifest = serde_json::from_reader(BufReader::new(file.take(64 * 1024)))
            .map_err(|_| damaged(&path))?;
        if manifest.format == FORMAT {
            Ok(manifest)
        } else {
            Err(damaged(&path))
        }
    }

    /// Compares every file with the hash that was noted when it was made.
    ///
    /// # Errors
    /// The first file that differs.
    pub fn verify(&self) -> Result<(), SetupError> {
        for entry in &self.manifest()?.files {
            let path = self.dir().join(&entry.name);
            let sha256 = file_sha256(&path)
                .map_err(|error| SetupError::io(path.display().to_string(), error))?;
            if sha256 != entry.sha256 {
                return Err(damaged(&path));
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&self) -> Result<(), SetupError> {
        for dir in [self.dir(), self.staging()] {
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(SetupError::io(format!("removing {}", dir.display()), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives a finished set-up its final name, and drops what only set-up needed.
    pub(crate) fn publish(&self, staging: &Path) -> Result<Installed, SetupError> {
        let io_error = |what: &str| {
            let what = what.to_owned();
            move |error| SetupError::io(what, error)
        };
        let mut files = Vec::new();
        for name in [MODULE, LIBRARY, MEMORY] {
            let path = staging.join(name);
            let bytes = fs::metadata(&path)
                .map_err(io_error("reading the set-up folder"))?
                .len();
            let sha256 = file_sha256(&path).map_err(io_error("reading the set-up folder"))?;
            files.push(ManifestFile {
                name: name.to_owned(),
                bytes,
                sha256,
            });
        }
        let manifest = serde_json::to_vec_pretty(&Manifest {
            format: FORMAT,
            files,
        })
        .map_err(|error| SetupError::Guest(error.to_string()))?;
        write_private(&staging.join(MANIFEST), &manifest)
            .map_err(io_error("writing the manifest"))?;
        match fs::remove_file(staging.join("snapshot.wasm")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SetupError::io("tidying the set-up folder", error));
            }
            _ => {}
        }
        self.remove_final()?;
        fs::rename(staging, self.dir()).map_err(io_error("publishing the set-up"))?;
        Ok(Installed { dir: self.dir() })
    }

    /// A damaged guest under the final name makes room for the new one.
    fn remove_final(&self) -> Result<(), SetupError> {
        match fs::remove_dir_all(self.dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SetupError::io("removing the damaged guest", error))
            }
            _ => Ok(()),
        }
    }
}

fn damaged(path: &Path) -> SetupError {
    SetupError::Untrusted(format!(
        "{} is damaged or incomplete; run `casemate setup --force` to make it again",
        path.display()
    ))
}

/// Writes a file of 0600 under another name first, so that it is whole or absent.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&part)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // A disk that is full needs the room back; that it could not be written is the error that counts.
        fs::remove_file(&part).ok();
    }
    written
}

/// Bytes of a file, or of all files below a folder; nothing where there is nothing.
pub(crate) fn size_of(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size_of(&entry.path())).sum()
}
