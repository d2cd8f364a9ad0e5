//! Finished trees of ours: copying them, and how much is in them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::ImageError;

/// Copies a tree of ours under a name that is not there yet. Files get a second name where the file system
/// can: neither is ever written again.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), ImageError> {
    copy_folder(from, to)
        .map_err(|error| ImageError::io(format!("copying into {}", to.display()), error))
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    match fs::create_dir(to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_folder(to) => {}
        other => other?,
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_folder(&old, &new)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&old)?, &new)?;
        } else if fs::hard_link(&old, &new).is_err() {
            fs::copy(&old, &new)?;
        }
    }
    Ok(())
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Lets everybody read a tree of ours, and nobody else write it, whatever the user's own mask says: a guest is
/// another user.
pub(crate) fn readable(folder: &Path) -> Result<(), ImageError> {
    readable_folder(folder).map_err(|error| {
        ImageError::io(format!("setting the rights of {}", folder.display()), error)
    })
}

fn readable_folder(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            readable_folder(&entry.path())?;
        } else if kind.is_file() {
            let runs = entry.metadata()?.permissions().mode() & 0o111 != 0;
            let mode = if runs { 0o755 } else { 0o644 };
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Bytes of all files below a folder; what cannot be read counts nothing.
pub(crate) fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
