//! What is said about a file, kept in its extended attributes.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr};
use rustix::io::Result;

/// Bytes of a value.
const BYTES_MAX: usize = 4096;
/// Bytes of the names of all attributes that are looked at.
const NAMES_MAX: usize = 64 << 10;

/// What is said about an open file: the texts whose names begin with `prefix`, without it. A file system without
/// attributes knows nothing.
pub fn read(file: impl AsFd, prefix: &str) -> BTreeMap<String, String> {
    let file = file.as_fd();
    let get = |name: &str, value: &mut [u8]| fgetxattr(file, name, value);
    texts(prefix, |names| flistxattr(file, names), get)
}

/// The same of a file by its path; links are followed.
#[must_use]
pub fn read_at(path: &Path, prefix: &str) -> BTreeMap<String, String> {
    let get = |name: &str, value: &mut [u8]| getxattr(path, name, value);
    texts(prefix, |names| listxattr(path, names), get)
}

fn texts(
    prefix: &str,
    list: impl Fn(&mut [u8]) -> Result<usize>,
    get: impl Fn(&str, &mut [u8]) -> Result<usize>,
) -> BTreeMap<String, String> {
    let text = |name: String| {
        let mut value = vec![0; BYTES_MAX];
        let length = get(&name, &mut value).ok()?;
        value.truncate(length);
        let key = name.strip_prefix(prefix)?.to_owned();
        Some((key, String::from_utf8(value).ok()?))
    };
    names(prefix, list).into_iter().filter_map(text).collect()
}

/// The names of attributes that begin so.
fn names(prefix: &str, list: impl Fn(&mut [u8]) -> Result<usize>) -> Vec<String> {
    let mut names = vec![0; NAMES_MAX];
    let length = list(&mut names).unwrap_or_default();
    let names = names.get(..length).unwrap_or_default();
    names
        .split(|&byte| byte == 0)
        .filter_map(|name| String::from_utf8(name.to_vec()).ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Replaces what is said about an open file.
///
/// # Errors
/// Those of the file system: one without attributes can be told nothing (`NOTSUP`).
pub fn replace(file: impl AsFd, prefix: &str, new: &BTreeMap<String, String>) -> Result<()> {
    let file = file.as_fd();
    for name in names(prefix, |names| flistxattr(file, names)) {
        fremovexattr(file, name)?;
    }
    for (key, value) in new {
        let name = format!("{prefix}{key}");
        fsetxattr(file, name, value.as_bytes(), XattrFlags::empty())?;
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
        replace(&file, "user.x.", &one).unwrap();
        assert_eq!(read_at(&path, "user.x."), one);
        replace(&file, "user.x.", &two).unwrap();
        assert_eq!(
            (read_at(&path, "user.x."), read(&file, "user.x.")),
            (two.clone(), two)
        );
        assert!(read(&file, "user.y.").is_empty());
        replace(&file, "user.x.", &BTreeMap::new()).unwrap();
        assert!(read_at(&path, "user.x.").is_empty());
    }
}
