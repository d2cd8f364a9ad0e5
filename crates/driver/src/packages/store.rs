//! The place of the packages in the cache: the user's own, writable by nobody else, or nothing in it is
//! shown to a guest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use casemate_backend::setup::{Progress, SetupError, cache_root};
use casemate_linux::file::{Untrusted, create_private, lock_alone, open_owned};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::install;
use super::python::{PYTHON, python};

/// Counted up when the layout changes.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
/// What a guest sees at `/opt/casemate`.
pub(super) const SHOWN: &str = "opt";

/// What a complete set-up consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    files: u64,
    /// SHA-256 over the names and contents of all files, in order.
    sha256: String,
}

/// The place of the packages for this Python in the cache.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    key: String,
}

/// Packages that are set up.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Their folder.
    pub dir: PathBuf,
}

/// A folder a guest is shown, opened and checked.
#[derive(Debug)]
pub struct Opened {
    /// The folder, as it was checked.
    pub folder: File,
    /// Its path.
    pub path: String,
}

impl Opened {
    /// Opens a folder that is this user's, or else root's, and that nobody else can write.
    ///
    /// # Errors
    /// Why it is not to be shown, in words.
    pub fn open(path: &Path, or_roots: bool) -> Result<Self, String> {
        let shown = path.display();
        let text = path
            .to_str()
            .ok_or_else(|| format!("the name of {shown} is not UTF-8"))?;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::DIRECTORY;
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(|error| format!("{shown} cannot be opened as a folder: {error}"))?;
        let meta = folder
            .metadata()
            .map_err(|error| format!("{shown}: {error}"))?;
        let ours = meta.uid() == rustix::process::geteuid().as_raw();
        if (ours || or_roots && meta.uid() == 0) && meta.mode() & 0o022 == 0 {
            return Ok(Self {
                folder,
                path: text.to_owned(),
            });
        }
        Err(format!(
            "{shown} is not your own, or others may write to it"
        ))
    }
}

impl Store {
    /// The place in the user's cache for this Python.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub fn open() -> Result<Self, SetupError> {
        Ok(Self::at(cache_root()?))
    }

    /// The place below a given root.
    pub fn at(root: PathBuf) -> Self {
        let mut hash = Sha256::new();
        hash.update(FORMAT.to_le_bytes());
        // Native modules fit one minor version of Python and one processor.
        hash.update(format!("{:?}{}", python().ok(), std::env::consts::ARCH));
        for (name, text) in install::pinned() {
            for part in [name, text] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        Self {
            root: root.join("jail"),
            key: hex(&hash.finalize()[..12]),
        }
    }

    /// What a native program runs on: these packages, and the system's Python.
    pub fn rests_on(&self) -> Vec<(String, String)> {
        let file = casemate_linux::file::identity(Path::new(PYTHON));
        let file = file.unwrap_or_else(|error| error.to_string());
        vec![
            ("packages".to_owned(), self.key.clone()),
            ("python".to_owned(), file),
        ]
    }

    /// Where the packages are, or will be.
    pub fn dir(&self) -> PathBuf {
        self.root.join(&self.key)
    }

    /// One set-up at a time: the second waits for the first, and says so.
    pub(super) fn lock(&self, progress: &dyn Progress) -> Result<File, SetupError> {
        private_dir(&self.root)?;
        let path = self.root.join("setup.lock");
        let io_error = |error| SetupError::io(format!("locking {}", path.display()), error);
        let waits = || progress.say("another set-up is running; waiting for it");
        lock_alone(&path, waits).map_err(io_error)
    }

    /// The packages, when a complete set-up is here.
    ///
    /// # Errors
    /// What is missing, damaged or not trusted.
    pub fn installed(&self) -> Result<Installed, SetupError> {
        self.opened().map(|_| Installed { dir: self.dir() })
    }

    /// Opens what a guest is shown: a folder of ours that nobody else can write, in one that is.
    ///
    /// # Errors
    /// As [`Store::installed`].
    pub fn opened(&self) -> Result<Opened, SetupError> {
        self.manifest()?;
        let path = self.dir().join(SHOWN);
        // A link is none.
        if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            return Err(damaged(&path));
        }
        Opened::open(&path, false).map_err(SetupError::Untrusted)
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

    /// Compares every file with the hash that was noted when they were made.
    ///
    /// # Errors
    /// When anything differs.
    pub fn verify(&self) -> Result<(), SetupError> {
        let noted = self.manifest()?;
        let shown = PathBuf::from(self.opened()?.path);
        if inventory(&shown)? == noted {
            Ok(())
        } else {
            Err(damaged(&shown))
        }
    }

    pub(super) fn remove(&self) -> Result<(), SetupError> {
        remove_dir(&self.dir())
    }

    /// An empty folder to make the packages in. What an interrupted set-up left is not taken up: it
    /// takes less than a minute.
    pub(super) fn fresh_staging(&self) -> Result<PathBuf, SetupError> {
        let staging = self.root.join(format!("{}.part", self.key));
        remove_dir(&staging)?;
        private_dir(&staging)?;
        Ok(staging)
    }

    /// Gives a finished set-up its final name.
    pub(super) fn publish(&self, staging: &Path) -> Result<Installed, SetupError> {
        let shown = staging.join(SHOWN);
        open_to_readers(&shown)?;
        let manifest = inventory(&shown)?;
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| SetupError::Guest(error.to_string()))?;
        let write = |error| SetupError::io("writing the manifest", error);
        let path = staging.join(MANIFEST);
        fs::write(&path, text).map_err(write)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(write)?;
        // One that is damaged makes room.
        self.remove()?;
        fs::rename(staging, self.dir())
            .map_err(|error| SetupError::io("publishing the set-up", error))?;
        Ok(Installed { dir: self.dir() })
    }
}

fn damaged(path: &Path) -> SetupError {
    SetupError::Untrusted(format!(
        "{} is damaged or incomplete; run `casemate setup --backend jail --force` to make it again",
        path.display()
    ))
}

fn remove_dir(dir: &Path) -> Result<(), SetupError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SetupError::io(format!("removing {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}

/// A folder of the user's own, or none.
fn private_dir(dir: &Path) -> Result<(), SetupError> {
    create_private(dir).map_err(|error| match error {
        Untrusted::Unreadable { path, cause } => {
            SetupError::io(format!("making {}", path.display()), cause)
        }
        other => SetupError::Untrusted(other.to_string()),
    })
}

/// Every entry below a folder, the folders before what is in them, by name.
fn walk(dir: &Path, found: &mut Vec<(PathBuf, fs::Metadata)>) -> io::Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    entries.sort();
    for path in entries {
        let meta = fs::symlink_metadata(&path)?;
        let folder = meta.is_dir();
        found.push((path.clone(), meta));
        if folder {
            walk(&path, found)?;
        }
    }
    Ok(())
}

/// The guest is another user: it may read everything, and write nothing.
fn open_to_readers(shown: &Path) -> Result<(), SetupError> {
    let io_error = |error| SetupError::io("setting modes", error);
    let mut found = Vec::new();
    walk(shown, &mut found).map_err(io_error)?;
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    mode(shown, 0o755).map_err(io_error)?;
    for (path, meta) in found {
        if meta.is_dir() {
            mode(&path, 0o755).map_err(io_error)?;
        } else if meta.is_file() {
            let runs = meta.mode() & 0o100;
            mode(&path, if runs == 0 { 0o644 } else { 0o755 }).map_err(io_error)?;
        } else {
            return Err(SetupError::Guest(format!(
                "{} is neither a file nor a folder",
                path.display()
            )));
        }
    }
    Ok(())
}

fn inventory(shown: &Path) -> Result<Manifest, SetupError> {
    let io_error = |error| SetupError::io("reading the set-up folder", error);
    let mut found = Vec::new();
    walk(shown, &mut found).map_err(io_error)?;
    let (mut hash, mut files) = (Sha256::new(), 0);
    for (path, _) in found.iter().filter(|(_, meta)| meta.is_file()) {
        let name = path.strip_prefix(shown).unwrap_or(path);
        let content = fs::read(path).map_err(io_error)?;
        for part in [name.as_os_str().as_encoded_bytes(), &content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        files += 1;
    }
    Ok(Manifest {
        format: FORMAT,
        files,
        sha256: hex(&hash.finalize()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Quiet;
    impl Progress for Quiet {
        fn stage(&self, _: &str, _: Option<u64>, _: casemate_backend::setup::Unit) {}
        fn at(&self, _: u64) {}
        fn done(&self, _: &str) {}
        fn say(&self, _: &str) {}
    }

    fn made(root: &Path) -> Store {
        let store = Store::at(root.to_owned());
        drop(store.lock(&Quiet).unwrap());
        let staging = store.fresh_staging().unwrap();
        let packages = staging.join(SHOWN).join("site-packages");
        fs::create_dir_all(&packages).unwrap();
        fs::write(packages.join("a.py"), "x = 1").unwrap();
        assert!(store.installed().is_err(), "nothing before the rename");
        store.publish(&staging).unwrap();
        store
    }

    #[test]
    fn a_set_up_appears_whole_and_a_change_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let store = made(root.path());
        store.installed().unwrap();
        store.verify().unwrap();
        let file = store.dir().join("opt/site-packages/a.py");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
        fs::write(&file, "x = 2").unwrap();
        let error = store.verify().unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_shown() {
        let root = tempfile::tempdir().unwrap();
        let store = made(root.path());
        let shown = store.dir().join(SHOWN);
        fs::set_permissions(&shown, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(store.opened().is_err());
        fs::set_permissions(&shown, fs::Permissions::from_mode(0o755)).unwrap();
        store.opened().unwrap();
        fs::set_permissions(store.dir(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(store.opened().is_err(), "the folder above counts too");
    }

    #[test]
    fn links_in_the_packages_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::at(root.path().to_owned());
        drop(store.lock(&Quiet).unwrap());
        let staging = store.fresh_staging().unwrap();
        fs::create_dir_all(staging.join(SHOWN)).unwrap();
        std::os::unix::fs::symlink("/etc", staging.join(SHOWN).join("x")).unwrap();
        assert!(store.publish(&staging).is_err());
    }
}
