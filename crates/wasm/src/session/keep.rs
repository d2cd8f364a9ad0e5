//! A session's files as a folder of the host's, and back: every name is the guest's.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use casemate_linux::file::{CopyTo, Tree, Wait, attributes, lock_exclusive};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::desk::{Answered, Question, Task};
use super::files::kind_of;
use super::state::State;
use crate::wire::{WireAnswer, WireAsk, WireEntry, WireIs};

/// The guest's own folders, and what they are called in a folder of the host's, as those of a jail's scratch are.
const TOPS: [(&str, &str); 3] = [("/home/user", "home"), ("/tmp", "tmp"), ("/work", "work")];
/// The names of what is said about a file among a copy's attributes, as the agent of a Linux sandbox has them.
const METADATA: &str = "user.e2b.";
/// Folders in one another.
const DEEPEST: usize = 64;
/// Bytes of a file that are carried at once.
const STEP: u32 = 512 << 10;
/// How often a question is tried again while too many wait.
const RETRY: Duration = Duration::from_millis(2);

/// Asks about files, and waits for the answer.
#[derive(Clone)]
pub(super) struct Asking {
    tasks: mpsc::Sender<Task>,
    state: Arc<State>,
}

impl Asking {
    pub(super) fn new(tasks: mpsc::Sender<Task>, state: Arc<State>) -> Self {
        Self { tasks, state }
    }

    fn ask(&self, ask: WireAsk, data: Bytes) -> io::Result<Answered> {
        if self.state.is_frozen() {
            let what = "a cell was stopped in it; its files can be copied once that has ended";
            return Err(io::Error::other(what));
        }
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let mut task = Task::Ask(Question {
            ask,
            data,
            // Nobody waits any more where it cannot be told.
            answer: Box::new(move |told| drop(answer.send(told))),
        });
        let gone = || {
            let why = self.state.ended();
            io::Error::other(why.unwrap_or_else(|| "the session has ended".to_owned()))
        };
        loop {
            task = match self.tasks.try_send(task) {
                Ok(()) => break,
                Err(mpsc::error::TrySendError::Full(task)) => task,
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(gone()),
            };
            std::thread::sleep(RETRY);
        }
        answered.recv().map_err(|_| gone())
    }

    fn entries(&self, ask: WireAsk, data: Bytes) -> io::Result<Vec<WireEntry>> {
        match self.ask(ask, data)?.0 {
            WireAnswer::Entries { entries, .. } => Ok(entries),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(answer: &WireAnswer) -> io::Error {
    match answer {
        WireAnswer::Failed { errno } => kind_of(errno).into(),
        WireAnswer::TooMany => io::Error::other("a folder has more entries than can be listed"),
        _ => lie("an answer to something else"),
    }
}

fn lie(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the worker sent {what}"),
    )
}

/// Copies all files of a session into an empty folder. Links are copied as they are; devices are left out.
///
/// # Errors
/// When there is more than may be copied, folders lie too deep, a name is none, or something cannot be written. What
/// was copied by then stays.
pub(super) fn save(asking: &Asking, to: OwnedFd, most: &CopyTo) -> io::Result<u64> {
    let mut saving = Saving {
        asking,
        tree: Tree::new(to),
        most,
        bytes: 0,
        files: 0,
    };
    for (top, name) in TOPS {
        saving.folder(top, Path::new(name), 0)?;
    }
    Ok(saving.bytes)
}

struct Saving<'a> {
    asking: &'a Asking,
    tree: Tree,
    most: &'a CopyTo,
    bytes: u64,
    files: u64,
}

impl Saving<'_> {
    fn folder(&mut self, from: &str, to: &Path, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!(
                "there are more than {DEEPEST} folders in one another"
            )));
        }
        self.tree.make_folder(to, 0o755).map_err(io::Error::other)?;
        let list = WireAsk::List {
            path: from.to_owned(),
            depth: 1,
            most: self.most.files,
        };
        for entry in self.asking.entries(list, Bytes::new())? {
            let to = to.join(own_name(from, &entry.path)?);
            self.files += 1;
            if self.files > self.most.files {
                return Err(too_much(&format!("{} files", self.most.files)));
            }
            match (entry.is, &entry.target) {
                (WireIs::Folder, _) => self.folder(&entry.path, &to, depth + 1)?,
                (WireIs::File, _) => self.file(&entry, &to)?,
                (WireIs::Link, Some(target)) if !target.is_empty() && !target.contains('\0') => {
                    let made = self.tree.make_link(&to, Path::new(target));
                    made.map_err(io::Error::other)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, entry: &WireEntry, to: &Path) -> io::Result<()> {
        let mut file = self.tree.make_file(to, 0o644).map_err(io::Error::other)?;
        let mut at = 0;
        loop {
            let read = WireAsk::Read {
                path: entry.path.clone(),
                at,
                len: STEP,
            };
            let (answer, part) = self.asking.ask(read, Bytes::new())?;
            let WireAnswer::Part { size } = answer else {
                return Err(unexpected(&answer));
            };
            self.bytes = self.bytes.saturating_add(part.len() as u64);
            if self.bytes > self.most.bytes {
                return Err(too_much(&format!("{} bytes", self.most.bytes)));
            }
            file.write_all(&part)?;
            at += part.len() as u64;
            // A file that became shorter ends earlier than it said.
            if part.is_empty() || at >= size {
                return marked(&file, entry);
            }
        }
    }
}

/// Says of a copy when its file was written, and what was said about it.
fn marked(file: &File, entry: &WireEntry) -> io::Result<()> {
    match attributes::replace(file, METADATA, &entry.metadata) {
        // A file system without attributes can be told nothing.
        Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
        Err(error) => return Err(error.into()),
    }
    file.set_modified(UNIX_EPOCH + Duration::from_nanos(entry.mtime))
}

fn too_much(most: &str) -> io::Error {
    io::Error::other(format!("there are more than {most}"))
}

/// The plain name of an entry of a folder, as it was said.
fn own_name<'a>(folder: &str, path: &'a str) -> io::Result<&'a str> {
    let name = path
        .strip_prefix(folder)
        .and_then(|rest| rest.strip_prefix('/'));
    let plain = |name: &&str| {
        !name.is_empty() && !matches!(*name, "." | "..") && !name.contains(['/', '\0'])
    };
    name.filter(plain).ok_or_else(|| lie("a name that is none"))
}

/// Puts the files of such a folder into a session. Nothing is followed.
///
/// # Errors
/// When they cannot be read, or are more than the session may have.
pub(super) fn fill(asking: &Asking, from: &OwnedFd) -> io::Result<()> {
    for (top, name) in TOPS {
        let name = std::ffi::CString::new(name)?;
        match open(from.as_fd(), &name, OFlags::DIRECTORY) {
            Ok(folder) => fill_folder(asking, folder.as_fd(), top, 0)?,
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn open(folder: BorrowedFd<'_>, name: &CStr, more: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    openat(folder, name, flags, Mode::empty())
}

fn fill_folder(asking: &Asking, folder: BorrowedFd<'_>, to: &str, depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!(
            "there are more than {DEEPEST} folders in one another"
        )));
    }
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // The guest's names are UTF-8, and these were its own.
        let text = name.to_str().map_err(io::Error::other)?;
        let path = format!("{to}/{text}");
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let make = WireAsk::MakeDir { path: path.clone() };
                asking.entries(make, Bytes::new())?;
                let folder = open(folder, name, OFlags::DIRECTORY)?;
                fill_folder(asking, folder.as_fd(), &path, depth + 1)?;
            }
            FileType::RegularFile => {
                let file = File::from(open(folder, name, OFlags::empty())?);
                fill_file(asking, file, &path)?;
            }
            FileType::Symlink => {
                let target = readlinkat(folder, name, Vec::new())?;
                let target = target.into_string().map_err(io::Error::other)?;
                asking.entries(WireAsk::Link { path, target }, Bytes::new())?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn fill_file(asking: &Asking, mut file: File, path: &str) -> io::Result<()> {
    let mark = WireAsk::Mark {
        path: path.to_owned(),
        mtime: nanos(file.metadata()?.modified()?),
        metadata: attributes::read(&file, METADATA),
    };
    let mut at = 0;
    let mut metadata = Some(BTreeMap::new());
    loop {
        let mut part = Vec::with_capacity(STEP as usize);
        (&mut file).take(u64::from(STEP)).read_to_end(&mut part)?;
        if part.is_empty() && metadata.is_none() {
            return asking.entries(mark, Bytes::new()).map(drop);
        }
        let bytes = part.len() as u64;
        let write = WireAsk::Write {
            path: path.to_owned(),
            at,
            bytes,
            metadata: metadata.take(),
        };
        asking.entries(write, part.into())?;
        at += bytes;
    }
}

/// A time as nanoseconds since 1970; one before that is the beginning.
fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Copies that were handed out as descriptors. Each has a lock for as long as anybody has it.
#[derive(Default)]
pub(super) struct Kept(Mutex<Vec<TempDir>>);

impl Kept {
    /// A copy of all files of a session.
    pub(super) fn copy(&self, asking: &Asking, most: &CopyTo) -> io::Result<OwnedFd> {
        let folder = tempfile::Builder::new()
            .prefix("casemate-wasm-")
            .tempdir()?;
        save(asking, File::open(folder.path())?.into(), most)?;
        let copy = File::open(folder.path())?;
        copy.lock_shared()?;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|folder| is_held(folder.path()));
        kept.push(folder);
        Ok(copy.into())
    }
}

/// Whether somebody still has a copy. One that cannot be looked at is nobody's.
fn is_held(folder: &Path) -> bool {
    let looked = File::open(folder).and_then(|folder| lock_exclusive(&folder, Wait::No));
    !looked.unwrap_or(true)
}

impl Drop for Kept {
    fn drop(&mut self) {
        let kept = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for folder in std::mem::take(kept) {
            if !is_held(folder.path()) {
                continue;
            }
            let path: PathBuf = folder.path().to_owned();
            let waiting = std::thread::Builder::new().spawn(move || {
                let held = File::open(&path);
                held.and_then(|held| lock_exclusive(&held, Wait::Forever))
                    .ok();
                drop(folder);
            });
            // Without a thread it goes at once: the folder went with what it was to be given to.
            drop(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_name_in_the_folder_that_was_asked_for_is_one() {
        assert_eq!(own_name("/tmp", "/tmp/a").unwrap(), "a");
        assert_eq!(own_name("/tmp", "/tmp/..a b").unwrap(), "..a b");
        for path in [
            "/tmp", "/tmp/", "/tmp/.", "/tmp/..", "/tmp/a/b", "/tmp/a\0", "/work/a", "a", "",
            "/tmpa", "/tmp//a",
        ] {
            assert!(own_name("/tmp", path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_copy_is_held_while_anybody_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let copy = File::open(folder.path()).unwrap();
        copy.lock_shared().unwrap();
        let other = copy.try_clone().unwrap();
        drop(copy);
        assert!(is_held(folder.path()));
        drop(other);
        assert!(!is_held(folder.path()));
    }
}
