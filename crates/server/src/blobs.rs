//! Contents of uploads and artifacts: each stored once, by its hash, in a folder of the server's own.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::store::StoreError;

/// The folder of contents.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    folder: PathBuf,
}

/// Whether a text is a content's name: 64 lower-case hexadecimal digits. Nothing else is ever made a path.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl Blobs {
    /// The contents in a data folder.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let folder = data.join("blobs");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        is_name(name).then(|| self.folder.join(&name[..2]).join(name))
    }

    /// Stores a content under its hash, which is the answer. Blocking.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<String, StoreError> {
        let name = casemate_engine::sha256_hex(bytes);
        let Some(path) = self.path(&name) else {
            return Err(StoreError::Files(io::ErrorKind::InvalidInput.into()));
        };
        if let Ok(file) = std::fs::File::open(&path) {
            // Young again: `sweep` leaves alone what a request may be about to refer to.
            file.set_modified(SystemTime::now())?;
            return Ok(name);
        }
        let stored = self.write(&path, bytes);
        stored.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::Full(error.to_string())
            }
            _ => StoreError::Files(error),
        })?;
        Ok(name)
    }

    /// Whole or not at all: what is there under its name was written to its end.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        use std::io::Write as _;
        let folder = path.parent().unwrap_or(&self.folder);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let unfinished = crate::keys::random_word(".part-", 12).map_err(io::Error::other)?;
        let unfinished = folder.join(unfinished);
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| std::fs::rename(&unfinished, path));
        if written.is_err() {
            // It is ours and of no use; that it cannot be removed is no worse than what went wrong.
            std::fs::remove_file(&unfinished).ok();
        }
        written
    }

    /// A content. Blocking.
    pub(crate) fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let path = self
            .path(name)
            .ok_or_else(|| StoreError::Files(io::ErrorKind::InvalidInput.into()))?;
        Ok(std::fs::read(path)?)
    }

    /// Forgets a content. Blocking.
    pub(crate) fn remove(&self, name: &str) {
        if let Some(path) = self.path(name) {
            std::fs::remove_file(path).ok();
        }
    }

    /// The names of the contents that nobody touched for a time. Blocking.
    pub(crate) fn older_than(&self, age: Duration) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for folder in std::fs::read_dir(&self.folder)? {
            let folder = folder?.path();
            if !folder.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let old = |at: SystemTime| at.elapsed().is_ok_and(|passed| passed >= age);
                if let Ok(name) = entry.file_name().into_string()
                    && is_name(&name)
                    && entry
                        .metadata()
                        .and_then(|meta| meta.modified())
                        .is_ok_and(old)
                {
                    names.push(name);
                }
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_stored_once_and_nothing_else_is_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let name = blobs.put(b"a,b\n1,2\n").unwrap();
        assert_eq!(blobs.put(b"a,b\n1,2\n").unwrap(), name);
        assert_eq!(blobs.older_than(Duration::ZERO).unwrap(), [name.as_str()]);
        assert!(
            blobs
                .older_than(Duration::from_secs(60))
                .unwrap()
                .is_empty()
        );
        assert_eq!(blobs.get(&name).unwrap(), b"a,b\n1,2\n");
        for trick in [
            "../../etc/passwd",
            "",
            "..",
            &name.to_uppercase(),
            &name[..63],
        ] {
            assert!(blobs.get(trick).is_err(), "{trick}");
        }
        blobs.remove(&name);
        assert!(blobs.get(&name).is_err());
    }
}
