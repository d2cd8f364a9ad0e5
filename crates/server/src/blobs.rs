//! Contents of uploads and artifacts: each stored once a tenant, by its hash, in a folder of the server's own.
//!
//! Tenants share no content, so that nobody can find out by the time it takes whether another has the same.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::store::StoreError;

/// How the name of a content begins that is still being written.
const UNFINISHED: &str = ".part-";

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

/// A tenant's folder. A tenant's name is whatever the operator likes, its folder's never.
fn folder_of(tenant: &str) -> String {
    casemate_engine::sha256_hex(tenant.as_bytes())
}

/// A content that nobody touched for a time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Old {
    folder: String,
    pub(crate) name: String,
}

impl Old {
    /// Whether it is of one of these tenants.
    pub(crate) fn is_of(&self, tenants: &[String]) -> bool {
        tenants
            .iter()
            .any(|tenant| folder_of(tenant) == self.folder)
    }
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

    fn path(&self, tenant: &str, name: &str) -> io::Result<PathBuf> {
        if !is_name(name) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let folder = self.folder.join(folder_of(tenant));
        Ok(folder.join(&name[..2]).join(name))
    }

    /// Stores a content under its hash, which is the answer. Blocking.
    pub(crate) fn put(&self, tenant: &str, bytes: &[u8]) -> Result<String, StoreError> {
        let name = casemate_engine::sha256_hex(bytes);
        let path = self.path(tenant, &name)?;
        if let Ok(file) = std::fs::File::open(&path)
            && file.metadata()?.len() == bytes.len() as u64
        {
            // Young again: tidying up leaves alone what a request may be about to refer to.
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
        let unfinished = crate::keys::random_word(UNFINISHED, 12).map_err(io::Error::other)?;
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
    pub(crate) fn get(&self, tenant: &str, name: &str) -> Result<Vec<u8>, StoreError> {
        Ok(std::fs::read(self.path(tenant, name)?)?)
    }

    /// A content to be read piece by piece. Blocking.
    pub(crate) fn open_one(&self, tenant: &str, name: &str) -> Result<std::fs::File, StoreError> {
        Ok(std::fs::File::open(self.path(tenant, name)?)?)
    }

    /// Forgets a tenant's content; that there is none is as good. Blocking.
    pub(crate) fn remove_one(&self, tenant: &str, name: &str) -> Result<(), StoreError> {
        match std::fs::remove_file(self.path(tenant, name)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Forgets a content. Blocking.
    pub(crate) fn remove(&self, old: &Old) -> io::Result<()> {
        std::fs::remove_file(
            self.folder
                .join(&old.folder)
                .join(&old.name[..2])
                .join(&old.name),
        )
    }

    /// The contents that nobody touched for a time; and what was never finished is removed. Blocking.
    pub(crate) fn older_than(&self, age: Duration) -> io::Result<Vec<Old>> {
        let mut all = Vec::new();
        for tenant in folders(&self.folder)? {
            for folder in folders(&tenant)? {
                for entry in std::fs::read_dir(folder)? {
                    let entry = entry?;
                    let modified = entry.metadata().and_then(|meta| meta.modified());
                    let old = |at: SystemTime| at.elapsed().is_ok_and(|passed| passed >= age);
                    let (Ok(name), true) =
                        (entry.file_name().into_string(), modified.is_ok_and(old))
                    else {
                        continue;
                    };
                    if is_name(&name) {
                        let folder = tenant.file_name().unwrap_or_default();
                        let folder = folder.to_string_lossy().into_owned();
                        all.push(Old { folder, name });
                    } else if name.starts_with(UNFINISHED) {
                        std::fs::remove_file(entry.path())?;
                    }
                }
            }
        }
        Ok(all)
    }
}

fn folders(of: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(of)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.push(entry.path());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_stored_once_a_tenant_and_nothing_else_is_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let name = blobs.put("../alice", b"a,b\n1,2\n").unwrap();
        assert_eq!(blobs.put("../alice", b"a,b\n1,2\n").unwrap(), name);
        assert_eq!(blobs.get("../alice", &name).unwrap(), b"a,b\n1,2\n");
        assert!(blobs.get("bob", &name).is_err(), "another tenant has none");
        let old = blobs.older_than(Duration::ZERO).unwrap();
        assert_eq!(old.len(), 1);
        assert!(old[0].is_of(&["bob".to_owned(), "../alice".to_owned()]));
        assert!(!old[0].is_of(&["bob".to_owned()]));
        let young = blobs.older_than(Duration::from_secs(60)).unwrap();
        assert_eq!(young, []);
        for trick in [
            "../../etc/passwd",
            "",
            "..",
            &name.to_uppercase(),
            &name[..63],
        ] {
            assert!(blobs.get("../alice", trick).is_err(), "{trick}");
        }
        blobs.remove(&old[0]).unwrap();
        assert!(blobs.get("../alice", &name).is_err());
    }
}
