//! The guest's descriptors. None of them stands for one of the host's.

use std::collections::BTreeMap;

use casemate_model::event::What;

use super::errno::Errno;
use super::tree::{Device, Ino};

/// The first preopened folder, `/`.
pub(crate) const ROOT_FD: u32 = 3;
/// The second preopened folder: matplotlib's data, which lies "inside" the library's archive.
pub(crate) const SECOND_FD: u32 = 4;

/// Where the second preopened folder appears: inside the archive, as the guest's zip importer expects.
pub(crate) const SECOND_PATH: &str = "/usr/local/lib/python315.zip/matplotlib/mpl-data";

/// What a descriptor stands for.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Stdin,
    /// Standard output (1) or standard error (2).
    Stream(u32),
    File(Ino),
    Dir(Ino),
    Device(Device, Ino),
}

/// One open descriptor.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) target: Target,
    /// The path it was opened by, for events.
    pub(crate) path: String,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) append: bool,
    pub(crate) at: u64,
    pub(crate) read_bytes: u64,
    pub(crate) read_calls: u64,
    pub(crate) written_bytes: u64,
    pub(crate) written_calls: u64,
    /// A folder's listing as it was when reading it began.
    pub(crate) listing: Option<Vec<(String, Ino)>>,
}

impl Open {
    pub(crate) fn new(target: Target, path: &str, read: bool, write: bool, append: bool) -> Self {
        Self {
            target,
            path: path.to_owned(),
            read,
            write,
            append,
            at: 0,
            read_bytes: 0,
            read_calls: 0,
            written_bytes: 0,
            written_calls: 0,
            listing: None,
        }
    }

    /// What was done to a file through this descriptor, for the log. Streams have counts of their own.
    pub(crate) fn account(&self) -> impl Iterator<Item = What> {
        let file = matches!(self.target, Target::File(_));
        let read = (file && self.read_calls > 0).then(|| What::FileRead {
            path: self.path.clone(),
            bytes: self.read_bytes,
            calls: self.read_calls,
        });
        let written = (file && self.written_calls > 0).then(|| What::FileWrite {
            path: self.path.clone(),
            bytes: self.written_bytes,
            calls: self.written_calls,
        });
        read.into_iter().chain(written)
    }
}

/// Descriptors by number.
pub(crate) struct Table(BTreeMap<u32, Open>);

impl Table {
    /// Standard streams and the two preopened folders.
    pub(crate) fn new(root: Ino, second: Ino) -> Self {
        let open = |target, path, read, write| Open::new(target, path, read, write, false);
        Self(BTreeMap::from([
            (0, open(Target::Stdin, "<stdin>", true, false)),
            (1, open(Target::Stream(1), "<stdout>", false, true)),
            (2, open(Target::Stream(2), "<stderr>", false, true)),
            (ROOT_FD, open(Target::Dir(root), "", true, false)),
            (
                SECOND_FD,
                open(Target::Dir(second), SECOND_PATH, true, false),
            ),
        ]))
    }

    pub(crate) fn get(&self, fd: u32) -> Result<&Open, Errno> {
        self.0.get(&fd).ok_or(Errno::BadF)
    }

    pub(crate) fn get_mut(&mut self, fd: u32) -> Result<&mut Open, Errno> {
        self.0.get_mut(&fd).ok_or(Errno::BadF)
    }

    /// Opens the lowest free number, as POSIX asks.
    pub(crate) fn insert(&mut self, open: Open) -> u32 {
        let fd = (0..)
            .zip(self.0.keys())
            .find(|(index, key)| index != *key)
            .map(|(index, _)| index);
        let fd = fd.unwrap_or_else(|| u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.insert(fd, open);
        fd
    }

    pub(crate) fn remove(&mut self, fd: u32) -> Result<Open, Errno> {
        self.0.remove(&fd).ok_or(Errno::BadF)
    }

    /// Descriptors open beyond the standard streams and the preopened folders.
    pub(crate) fn opened(&self) -> u64 {
        self.0.keys().filter(|&&fd| fd > SECOND_FD).count() as u64
    }

    /// All descriptors in order, taken out of the table.
    pub(crate) fn drain(&mut self) -> Vec<Open> {
        std::mem::take(&mut self.0).into_values().collect()
    }

    /// The paths of descriptors beyond the standard ones, for a complaint about what was left open.
    pub(crate) fn left_open(&self) -> Vec<String> {
        self.0
            .iter()
            .filter(|(fd, _)| **fd > SECOND_FD)
            .map(|(_, open)| open.path.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_given() {
        let mut table = Table::new(0, 1);
        let open = || Open::new(Target::File(9), "/tmp/a", true, false, false);
        assert_eq!(table.insert(open()), 5);
        assert_eq!(table.insert(open()), 6);
        assert!(table.remove(5).is_ok());
        assert_eq!(table.insert(open()), 5);
        assert_eq!(table.opened(), 2);
        assert!(matches!(table.remove(77), Err(Errno::BadF)));
    }
}
