//! Watching folders: what the kernel tells, in the protocol's words.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use casemate_envd::filesystem::{EventType, FilesystemEvent, WatchRequest};
use casemate_envd::{Code, RpcError};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use super::entry::describe;
use super::failed;
use crate::users::Names;
use casemate_envd::server::paths::text;

/// Folders below one that is watched.
const FOLDERS_MAX: usize = 8192;
/// Bytes that are taken from the kernel at once.
const BUFFER: usize = 16 << 10;

const ASKED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// File systems that another machine serves: what happens there is not told here.
const NETWORKS: [(u64, &str); 7] = [
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xfe53_4d42, "smb2"),
    (0xff53_4d42, "cifs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
];

/// A folder that is being watched.
#[derive(Debug)]
pub(super) struct Watch {
    fd: OwnedFd,
    root: PathBuf,
    recursive: bool,
    with_entries: bool,
    names: Names,
    /// The folders, by the kernel's numbers, relative to the root.
    folders: HashMap<i32, PathBuf>,
}

/// One thing that the kernel told.
struct Raw {
    folder: i32,
    what: ReadFlags,
    name: Option<PathBuf>,
}

impl Watch {
    pub(super) fn begin(
        root: PathBuf,
        request: &WatchRequest,
        names: Names,
    ) -> Result<Self, RpcError> {
        let found = std::fs::metadata(&root).map_err(|error| failed(&error, &root))?;
        if !found.is_dir() {
            let what = format!("path is not a directory: {}", text(&root));
            return Err(RpcError::new(Code::InvalidArgument, what));
        }
        if !request.allow_network_mounts {
            refuse_networks(&root)?;
        }
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| cannot(error, &root))?;
        let mut watch = Self {
            fd,
            root,
            recursive: request.recursive,
            with_entries: request.include_entry,
            names,
            folders: HashMap::new(),
        };
        watch
            .add(Path::new(""), &mut |_| {})
            .map_err(|error| cannot(error, &watch.root))?;
        Ok(watch)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Watches a folder, and with it those in it; `seen` is told what is there already.
    fn add(&mut self, folder: &Path, seen: &mut dyn FnMut(PathBuf)) -> rustix::io::Result<()> {
        let mut left = VecDeque::from([folder.to_owned()]);
        while let Some(folder) = left.pop_front() {
            if self.folders.len() >= FOLDERS_MAX {
                return Err(rustix::io::Errno::NOSPC);
            }
            let path = self.root.join(&folder);
            let flags = if folder.as_os_str().is_empty() {
                ASKED
            } else {
                ASKED | WatchFlags::DONT_FOLLOW
            };
            match inotify::add_watch(&self.fd, &path, flags) {
                Ok(number) => drop(self.folders.insert(number, folder.clone())),
                // It has gone, or became something else.
                Err(_) if !folder.as_os_str().is_empty() && !path.is_dir() => continue,
                Err(error) => return Err(error),
            }
            if !self.recursive {
                continue;
            }
            let Ok(entries) = std::fs::read_dir(&path) else {
                continue;
            };
            for entry in entries.flatten() {
                let inner = folder.join(entry.file_name());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push_back(inner.clone());
                }
                seen(inner);
            }
        }
        Ok(())
    }

    /// What has happened up to now. Does not wait.
    pub(super) fn take(&mut self) -> Result<Vec<FilesystemEvent>, RpcError> {
        let mut events = Vec::new();
        for raw in self.read()? {
            if raw.what.contains(ReadFlags::QUEUE_OVERFLOW) {
                let what = "more happened than could be told: watch again, and list the folder";
                return Err(RpcError::new(Code::DataLoss, what));
            }
            self.tell(&raw, &mut events)?;
        }
        Ok(events)
    }

    fn read(&self) -> Result<Vec<Raw>, RpcError> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&self.fd, &mut buffer);
        let mut found = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => found.push(Raw {
                    folder: event.wd(),
                    what: event.events(),
                    name: event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()).into()),
                }),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(found),
                Err(error) => return Err(cannot(error, &self.root)),
            }
        }
    }

    fn tell(&mut self, raw: &Raw, events: &mut Vec<FilesystemEvent>) -> Result<(), RpcError> {
        if raw.what.contains(ReadFlags::IGNORED) {
            self.folders.remove(&raw.folder);
            return Ok(());
        }
        let Some(folder) = self.folders.get(&raw.folder) else {
            return Ok(());
        };
        let is_root = folder.as_os_str().is_empty();
        let Some(path) = raw.name.as_ref().map(|name| folder.join(name)) else {
            // Of itself: the folder above tells it, which the root does not have.
            if is_root && let Some(kind) = kind(raw.what) {
                events.push(self.event(kind, Path::new(".")));
            }
            return Ok(());
        };
        let Some(kind) = kind(raw.what) else {
            return Ok(());
        };
        events.push(self.event(kind, &path));
        if self.recursive && raw.what.contains(ReadFlags::ISDIR) {
            match kind {
                EventType::Create => self.found(&path, events)?,
                EventType::Rename => self.forget(&path),
                _ => {}
            }
        }
        Ok(())
    }

    /// A folder that is new, and what was put into it before it was watched.
    fn found(&mut self, folder: &Path, events: &mut Vec<FilesystemEvent>) -> Result<(), RpcError> {
        let mut there = Vec::new();
        self.add(folder, &mut |path| there.push(path))
            .map_err(|error| cannot(error, folder))?;
        for path in there {
            events.push(self.event(EventType::Create, &path));
            let found = std::fs::symlink_metadata(self.root.join(&path));
            if found.is_ok_and(|found| found.is_file() && found.len() > 0) {
                events.push(self.event(EventType::Write, &path));
            }
        }
        Ok(())
    }

    /// A folder that has moved away, with those in it.
    fn forget(&mut self, folder: &Path) {
        let gone: Vec<i32> = self
            .folders
            .iter()
            .filter(|(_, path)| path.starts_with(folder))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.folders.remove(&number);
            // It may be gone for the kernel too.
            inotify::remove_watch(&self.fd, number).ok();
        }
    }

    fn event(&self, kind: EventType, path: &Path) -> FilesystemEvent {
        let asked = matches!(
            kind,
            EventType::Create | EventType::Write | EventType::Chmod
        );
        let entry = (self.with_entries && asked)
            .then(|| describe(&self.root.join(path), &self.names).ok())
            .flatten();
        FilesystemEvent {
            name: text(path),
            r#type: kind.into(),
            entry,
        }
    }
}

fn kind(what: ReadFlags) -> Option<EventType> {
    let kinds = [
        (ReadFlags::CREATE | ReadFlags::MOVED_TO, EventType::Create),
        (ReadFlags::MODIFY, EventType::Write),
        (
            ReadFlags::DELETE | ReadFlags::DELETE_SELF,
            EventType::Remove,
        ),
        (
            ReadFlags::MOVED_FROM | ReadFlags::MOVE_SELF,
            EventType::Rename,
        ),
        (ReadFlags::ATTRIB, EventType::Chmod),
    ];
    let found = kinds.iter().find(|(flags, _)| what.intersects(*flags));
    found.map(|(_, kind)| *kind)
}

fn cannot(error: rustix::io::Errno, path: &Path) -> RpcError {
    use rustix::io::Errno;
    match error {
        Errno::NOSPC | Errno::MFILE | Errno::NFILE => RpcError::new(
            Code::ResourceExhausted,
            format!("'{}': too many folders are watched", text(path)),
        ),
        error => failed(&error.into(), path),
    }
}

fn refuse_networks(path: &Path) -> Result<(), RpcError> {
    let stat = rustix::fs::statfs(path).map_err(|error| failed(&error.into(), path))?;
    #[allow(clippy::cast_sign_loss, reason = "a magic number has no sign")]
    let magic = stat.f_type as u64 & 0xffff_ffff;
    match NETWORKS.iter().find(|(known, _)| *known == magic) {
        None => Ok(()),
        Some((_, name)) => {
            let what = format!(
                "cannot watch '{}': {name} is a network file system",
                text(path)
            );
            Err(RpcError::new(Code::InvalidArgument, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(root: &Path, recursive: bool) -> Watch {
        let request = WatchRequest {
            recursive,
            ..WatchRequest::default()
        };
        Watch::begin(root.to_owned(), &request, Names::default()).unwrap()
    }

    fn told(watch: &mut Watch) -> Vec<(String, EventType)> {
        let events = watch.take().unwrap();
        let pair = |event: FilesystemEvent| (event.name, event.r#type.try_into().unwrap());
        events.into_iter().map(pair).collect()
    }

    fn pair(name: &str, kind: EventType) -> (String, EventType) {
        (name.to_owned(), kind)
    }

    #[test]
    fn what_happens_to_a_file_is_told_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = watch(folder.path(), false);
        assert!(told(&mut watch).is_empty());
        let file = folder.path().join("f");
        std::fs::write(&file, "x").unwrap();
        std::fs::rename(&file, folder.path().join("g")).unwrap();
        std::fs::remove_file(folder.path().join("g")).unwrap();
        use EventType::*;
        let expected = [
            pair("f", Create),
            pair("f", Write),
            pair("f", Rename),
            pair("g", Create),
            pair("g", Remove),
        ];
        assert_eq!(told(&mut watch), expected);
    }

    #[test]
    fn folders_that_come_later_are_watched_with_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = watch(folder.path(), true);
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/f"), "x").unwrap();
        let events = told(&mut watch);
        for expected in [
            pair("a", EventType::Create),
            pair("a/b", EventType::Create),
            pair("a/b/f", EventType::Create),
            pair("a/b/f", EventType::Write),
        ] {
            assert!(events.contains(&expected), "{expected:?} in {events:?}");
        }
        std::fs::rename(folder.path().join("a"), folder.path().join("c")).unwrap();
        told(&mut watch);
        std::fs::write(folder.path().join("c/b/g"), "x").unwrap();
        let events = told(&mut watch);
        assert!(
            events.contains(&pair("c/b/g", EventType::Write)),
            "{events:?}"
        );
    }

    #[test]
    fn a_watched_folder_that_goes_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("w");
        std::fs::create_dir(&root).unwrap();
        let mut watch = watch(&root, false);
        std::fs::remove_dir(&root).unwrap();
        assert_eq!(told(&mut watch), [pair(".", EventType::Remove)]);
    }

    #[test]
    fn only_folders_are_watched() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "").unwrap();
        let request = WatchRequest::default();
        let begin = |path| Watch::begin(path, &request, Names::default()).unwrap_err();
        assert_eq!(begin(file).code, Code::InvalidArgument);
        assert_eq!(begin(folder.path().join("no")).code, Code::NotFound);
    }
}
