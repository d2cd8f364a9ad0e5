//! What is said about a file when it is uploaded: kept in extended attributes.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{XattrFlags, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr};

/// The names of ours among the attributes.
const PREFIX: &str = "user.e2b.";
/// Bytes of all keys and values.
const BYTES_MAX: usize = 4096;
/// Bytes of the names of all attributes that are looked at.
const NAMES_MAX: usize = 64 << 10;

/// What is known of a file. A file system without attributes knows nothing.
pub(super) fn read(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; NAMES_MAX];
    let Ok(length) = listxattr(path, names.as_mut_slice()) else {
        return BTreeMap::new();
    };
    let names = names.get(..length).unwrap_or_default();
    let value = |name: &str| {
        let key = name.strip_prefix(PREFIX)?.to_owned();
        let mut value = vec![0; BYTES_MAX];
        let length = getxattr(path, name, value.as_mut_slice()).ok()?;
        value.truncate(length);
        Some((key, String::from_utf8(value).ok()?))
    };
    names
        .split(|&byte| byte == 0)
        .filter_map(|name| value(std::str::from_utf8(name).ok()?))
        .collect()
}

/// Replaces what is known of an open file.
pub(super) fn replace(file: impl AsFd, new: &BTreeMap<String, String>) -> rustix::io::Result<()> {
    let file = file.as_fd();
    let mut names = vec![0; NAMES_MAX];
    if let Ok(length) = flistxattr(file, names.as_mut_slice()) {
        let names = names.get(..length).unwrap_or_default();
        let ours = names
            .split(|&byte| byte == 0)
            .filter_map(|name| std::str::from_utf8(name).ok())
            .filter(|name| name.starts_with(PREFIX));
        for name in ours {
            fremovexattr(file, name)?;
        }
    }
    for (key, value) in new {
        let name = format!("{PREFIX}{key}");
        fsetxattr(file, name.as_str(), value.as_bytes(), XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_replaced_as_a_whole() {
        // Where temporary files are kept without attributes there is nothing to see.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("f");
        let file = std::fs::File::create(&path).unwrap();
        let one = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let two = BTreeMap::from([("b".to_owned(), "2".to_owned())]);
        replace(&file, &one).unwrap();
        assert_eq!(read(&path), one);
        replace(&file, &two).unwrap();
        assert_eq!(read(&path), two);
        replace(&file, &BTreeMap::new()).unwrap();
        assert!(read(&path).is_empty());
    }
}
