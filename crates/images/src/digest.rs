//! The digest of a tree: every name, kind, mode and content below a folder, in the order of names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// What a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    /// `sha256:` and 64 hexadecimal digits.
    pub(crate) digest: String,
    /// Bytes of all files.
    pub(crate) size_bytes: u64,
    /// Files, folders and links.
    pub(crate) entries: u64,
}

/// Reads the whole tree. Links are read, never followed; nothing but files, folders and links may be there.
///
/// # Errors
/// Those of the file system, and of kind `InvalidData` for a device, pipe or socket.
pub(crate) fn tree(root: &Path, told: &mut dyn FnMut(u64)) -> io::Result<Tree> {
    let mut walk = Walk {
        hash: Sha256::new(),
        size_bytes: 0,
        entries: 0,
        buffer: vec![0; 256 << 10],
        told,
    };
    walk.folder(root, b"")?;
    Ok(Tree {
        digest: format!("sha256:{}", hex(&walk.hash.finalize())),
        size_bytes: walk.size_bytes,
        entries: walk.entries,
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Walk<'a> {
    hash: Sha256,
    size_bytes: u64,
    entries: u64,
    buffer: Vec<u8>,
    told: &'a mut dyn FnMut(u64),
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, name: &[u8]) -> io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let mut full = name.to_vec();
            full.push(b'/');
            full.extend_from_slice(entry.file_name().as_bytes());
            let meta = fs::symlink_metadata(&path)?;
            self.entries += 1;
            let kind = meta.file_type();
            if kind.is_symlink() {
                let target = fs::read_link(&path)?;
                self.header(b'l', 0, &full, target.as_os_str().len() as u64);
                self.hash.update(target.as_os_str().as_bytes());
            } else if kind.is_dir() {
                self.header(b'd', meta.permissions().mode(), &full, 0);
                self.folder(&path, &full)?;
            } else if kind.is_file() {
                self.header(b'f', meta.permissions().mode(), &full, meta.size());
                self.content(&path, meta.size())?;
            } else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is neither a file, a folder nor a link", path.display()),
                ));
            }
        }
        Ok(())
    }

    fn header(&mut self, kind: u8, mode: u32, name: &[u8], length: u64) {
        self.hash.update([kind]);
        self.hash.update((mode & 0o7777).to_le_bytes());
        self.hash.update((name.len() as u64).to_le_bytes());
        self.hash.update(name);
        self.hash.update(length.to_le_bytes());
    }

    fn content(&mut self, path: &Path, expected: u64) -> io::Result<()> {
        let mut file = File::open(path)?;
        let mut read = 0;
        loop {
            let count = file.read(&mut self.buffer)?;
            if count == 0 {
                break;
            }
            read += count as u64;
            if let Some(bytes) = self.buffer.get(..count) {
                self.hash.update(bytes);
            }
        }
        if read != expected {
            return Err(io::Error::other(format!(
                "{} changes while it is read",
                path.display()
            )));
        }
        self.size_bytes += read;
        (self.told)(self.size_bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(root: &Path) -> String {
        tree(root, &mut |_| {}).unwrap().digest
    }

    #[test]
    fn every_change_changes_it_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/f"), "text").unwrap();
        std::os::unix::fs::symlink("f", root.join("a/b/l")).unwrap();
        let first = tree(root, &mut |_| {}).unwrap();
        assert_eq!((first.size_bytes, first.entries), (4, 4));
        assert_eq!(digest(root), first.digest);
        type Change = fn(&Path);
        let changes: [Change; 5] = [
            |root| fs::write(root.join("a/b/f"), "texx").unwrap(),
            |root| fs::rename(root.join("a/b/f"), root.join("a/b/g")).unwrap(),
            |root| {
                fs::set_permissions(root.join("a/b/g"), fs::Permissions::from_mode(0o755)).unwrap()
            },
            |root| {
                fs::remove_file(root.join("a/b/l")).unwrap();
                std::os::unix::fs::symlink("g", root.join("a/b/l")).unwrap();
            },
            |root| fs::create_dir(root.join("c")).unwrap(),
        ];
        let mut seen = vec![first.digest];
        for change in changes {
            change(root);
            let now = digest(root);
            assert!(!seen.contains(&now));
            seen.push(now);
        }
    }

    #[test]
    fn other_kinds_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        let error = tree(dir.path(), &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
