//! Folders: making, listing, moving and removing them with what is in them.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use casemate_envd::filesystem::EntryInfo;
use casemate_envd::{Code, RpcError};
use rustix::fs::{Gid, Uid, chown};

use super::entry::describe;
use super::failed;
use crate::users::{Names, User};

/// Entries of one list.
const ENTRIES_MAX: usize = 20_000;

/// Makes a folder and those above it, all the user's. One that is there is left as it is.
pub(super) fn make_folders(path: &Path, user: &User) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    for folder in missing.into_iter().rev() {
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => {
                other?;
                give(folder, user)?;
            }
        }
    }
    if path.is_dir() {
        return Ok(());
    }
    Err(io::ErrorKind::NotADirectory.into())
}

/// Makes something that is new the user's. What is made is the agent's own user's already.
fn give(path: &Path, user: &User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    Ok(chown(path, Some(uid), Some(gid))?)
}

/// What is in a folder, each folder before what is in it, names in order of their bytes. Links are listed and
/// not followed; paths begin as the caller wrote them.
pub(super) fn list(root: &Path, depth: u32, names: &Names) -> Result<Vec<EntryInfo>, RpcError> {
    let mut found = Vec::new();
    let mut open = vec![sorted(root).map_err(|error| failed(&error, root))?];
    while let Some(level) = open.last_mut() {
        let Some(path) = level.pop() else {
            open.pop();
            continue;
        };
        // What has gone in the meantime is not there.
        let Ok(entry) = describe(&path, names) else {
            continue;
        };
        if found.len() >= ENTRIES_MAX {
            let what = format!("more than {ENTRIES_MAX} entries; list a smaller folder");
            return Err(RpcError::new(Code::ResourceExhausted, what));
        }
        let goes_down = path.is_dir() && !path.is_symlink();
        found.push(entry);
        if goes_down && open.len() < usize::try_from(depth).unwrap_or(usize::MAX) {
            // A folder that may not be read is listed all the same.
            open.push(sorted(&path).unwrap_or_default());
        }
    }
    Ok(found)
}

/// The entries of a folder, the last one first.
fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)?
        .take(ENTRIES_MAX + 1)
        .map(|entry| Ok(folder.join(entry?.file_name())))
        .collect::<io::Result<_>>()?;
    entries.sort_by(|a, b| b.as_os_str().as_bytes().cmp(a.as_os_str().as_bytes()));
    Ok(entries)
}

/// Removes what is at a path, and everything in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        return std::fs::remove_dir_all(path);
    }
    std::fs::remove_file(path)
}

/// Moves what is at a path, from one file system to another too: then it is copied and removed.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy(from, to)?;
            remove(from)
        }
        other => other,
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut left = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = left.pop() {
        let found = std::fs::symlink_metadata(&from)?;
        if found.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&from)?, &to)?;
        } else if found.is_dir() {
            std::fs::create_dir(&to)?;
            std::fs::set_permissions(&to, found.permissions())?;
            for entry in std::fs::read_dir(&from)? {
                let name = entry?.file_name();
                left.push((from.join(&name), to.join(&name)));
            }
        } else if found.is_file() {
            std::fs::copy(&from, &to)?;
            let known = super::metadata::read(&from);
            super::metadata::replace(&std::fs::File::open(&to)?, &known)?;
        } else {
            let what = format!("{} is neither file, folder nor link", from.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path, depth: u32) -> Vec<String> {
        let entries = list(root, depth, &Names::default()).unwrap();
        let strip = |entry: EntryInfo| {
            let path = PathBuf::from(entry.path);
            path.strip_prefix(root).unwrap().display().to_string()
        };
        entries.into_iter().map(strip).collect()
    }

    #[test]
    fn a_folder_comes_before_what_is_in_it_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("b/deep")).unwrap();
        for name in ["c", "a", "b/y", "b/deep/z", "B"] {
            std::fs::write(root.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink(root, root.join("loop")).unwrap();
        assert_eq!(names(root, 1), ["B", "a", "b", "c", "loop"]);
        assert_eq!(
            names(root, 2),
            ["B", "a", "b", "b/deep", "b/y", "c", "loop"]
        );
        assert_eq!(names(root, 9).len(), 8);
    }

    #[test]
    fn a_tree_is_copied_with_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::create_dir_all(from.join("down")).unwrap();
        std::fs::write(from.join("down/f"), "text").unwrap();
        std::os::unix::fs::symlink("/nowhere", from.join("link")).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(std::fs::read(to.join("down/f")).unwrap(), b"text");
        assert_eq!(
            std::fs::read_link(to.join("link")).unwrap(),
            Path::new("/nowhere")
        );
    }
}
