//! What tells one file from another that takes its place, without reading it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file by its real path, its size and the moment of its last change, which no program can set. Installing
/// it again, even the same bytes, makes another.
///
/// # Errors
/// When it is not there or cannot be asked about.
pub fn identity(path: &Path) -> io::Result<String> {
    let real = std::fs::canonicalize(path)?;
    let meta = std::fs::metadata(path)?;
    Ok(format!(
        "{} of {} bytes, inode {}, changed {}.{:09}",
        real.display(),
        meta.size(),
        meta.ino(),
        meta.ctime(),
        meta.ctime_nsec()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_in_its_place_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "same").unwrap();
        std::fs::write(&two, "same").unwrap();
        let before = identity(&one).unwrap();
        assert_eq!(identity(&one).unwrap(), before);
        std::fs::rename(&two, &one).unwrap();
        assert_ne!(identity(&one).unwrap(), before);
        assert!(identity(&two).is_err());
    }
}
