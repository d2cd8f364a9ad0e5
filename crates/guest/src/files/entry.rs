//! One entry of the file system, as the protocol tells it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use casemate_envd::filesystem::{EntryInfo, FileType, Timestamp};

use super::metadata;
use crate::users::Names;
use casemate_envd::server::paths::{name, text};

/// What is at a path. Of a link, the type and the mode are those of what it leads to.
pub(super) fn describe(path: &Path, names: &Names) -> io::Result<EntryInfo> {
    let own = std::fs::symlink_metadata(path)?;
    let is_link = own.is_symlink();
    let target = is_link.then(|| std::fs::metadata(path).ok());
    let seen = match &target {
        None => Some(&own),
        Some(target) => target.as_ref(),
    };
    Ok(EntryInfo {
        name: name(path),
        r#type: seen.map_or(FileType::Unspecified, kind).into(),
        path: text(path),
        size: i64::try_from(own.size()).unwrap_or(i64::MAX),
        mode: seen.map_or(0, |seen| seen.mode() & 0o777),
        permissions: permissions(&own),
        owner: names.user(own.uid()),
        group: names.group(own.gid()),
        modified_time: Some(Timestamp {
            seconds: own.mtime(),
            nanos: i32::try_from(own.mtime_nsec()).unwrap_or_default(),
        }),
        symlink_target: is_link.then(|| leads_to(path)),
        metadata: metadata::read(path),
    })
}

fn kind(found: &Metadata) -> FileType {
    let kind = found.file_type();
    if kind.is_dir() {
        FileType::Directory
    } else if kind.is_file() {
        FileType::File
    } else {
        FileType::Unspecified
    }
}

/// Where a link leads in the end, or what it says where that is not there.
fn leads_to(path: &Path) -> String {
    let end = std::fs::canonicalize(path).or_else(|_| std::fs::read_link(path));
    end.map(|end| text(&end)).unwrap_or_default()
}

/// The mode as text, in the letters that the protocol's first server used.
fn permissions(found: &Metadata) -> String {
    let (kind, mode) = (found.file_type(), found.mode());
    let letters = [
        (kind.is_dir(), 'd'),
        (kind.is_symlink(), 'L'),
        (kind.is_block_device() || kind.is_char_device(), 'D'),
        (kind.is_fifo(), 'p'),
        (kind.is_socket(), 'S'),
        (mode & 0o4000 != 0, 'u'),
        (mode & 0o2000 != 0, 'g'),
        (kind.is_char_device(), 'c'),
        (mode & 0o1000 != 0, 't'),
    ];
    let mut text: String = letters
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, letter)| *letter)
        .collect();
    if text.is_empty() {
        text.push('-');
    }
    let bits = (0..9).rev().zip("rwxrwxrwx".chars());
    text.extend(bits.map(|(bit, letter)| if mode >> bit & 1 == 1 { letter } else { '-' }));
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn described(path: &Path) -> EntryInfo {
        describe(path, &Names::default()).unwrap()
    }

    #[test]
    fn modes_are_written_in_the_protocols_letters() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "four").unwrap();
        for (mode, text) in [
            (0o644, "-rw-r--r--"),
            (0o755, "-rwxr-xr-x"),
            (0o4711, "urwx--x--x"),
        ] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let entry = described(&file);
            assert_eq!(entry.permissions, text);
            assert_eq!((entry.mode, entry.size), (mode & 0o777, 4));
        }
        let down = folder.path().join("d");
        std::fs::create_dir(&down).unwrap();
        std::fs::set_permissions(&down, std::fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(described(&down).permissions, "dtrwxrwxrwx");
        assert_eq!(described(Path::new("/dev/null")).permissions, "Dcrw-rw-rw-");
    }

    #[test]
    fn a_link_is_told_by_what_it_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link, lost) = ["f", "l", "n"].map(|n| folder.path().join(n)).into();
        std::fs::write(&file, "four").unwrap();
        symlink("f", &link).unwrap();
        symlink("nowhere", &lost).unwrap();
        let entry = described(&link);
        assert_eq!(entry.r#type, i32::from(FileType::File));
        assert_eq!(entry.permissions, "Lrwxrwxrwx");
        let end = std::fs::canonicalize(&file).unwrap();
        assert_eq!(entry.symlink_target, Some(text(&end)));
        let entry = described(&lost);
        assert_eq!((entry.r#type, entry.mode), (0, 0));
        assert_eq!(entry.symlink_target.as_deref(), Some("nowhere"));
    }
}
