//! The interpreter's library as one file: packed at set-up, mapped read-only by every worker.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use casemate_linux::memory::Resident;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::wasi::{Base, Blob, Ino};

const MAGIC: &[u8; 8] = b"CSMLIB1\n";
/// Bytes of the index; a larger one is not ours.
const INDEX_MAX: usize = 16 << 20;

/// One file of the library.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// 0: below `/`; 1: below the second preopened folder; 2: for the worker itself.
    root: u8,
    path: String,
    offset: u64,
    len: u64,
}

/// A library file that is not one.
#[derive(Debug, Error)]
#[error("the guest's library is damaged ({0}); run `casemate setup --force`")]
pub(crate) struct Damaged(&'static str);

/// The guest's read-only files.
pub(crate) struct Library {
    pub(crate) base: Arc<Base>,
    pub(crate) second_root: Ino,
    /// Parts of the snapshot's memory that every guest reads and writes, as set-up saw it.
    pub(crate) hot: Resident,
}

/// Below what a packed file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// `/`.
    Guest = 0,
    /// The second preopened folder.
    Second = 1,
    /// Nothing: the worker reads it, the guest does not see it.
    Worker = 2,
}

/// The name of the list of pages that every guest touches.
pub(crate) const HOT: &str = "hot.json";

/// A file to be packed.
pub(crate) struct Packed {
    pub(crate) root: Root,
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
}

/// Writes a library.
///
/// # Errors
/// Those of the file system.
pub(crate) fn pack(to: &Path, files: &[Packed]) -> io::Result<()> {
    let mut offset = 0_u64;
    let mut index = Vec::new();
    for file in files {
        let len = file.bytes.len() as u64;
        index.push(Entry {
            root: file.root as u8,
            path: file.path.clone(),
            offset,
            len,
        });
        offset += len;
    }
    let index = serde_json::to_vec(&index)?;
    let file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(to)?;
    let mut out = io::BufWriter::new(file);
    out.write_all(MAGIC)?;
    out.write_all(&(index.len() as u64).to_le_bytes())?;
    out.write_all(&index)?;
    for file in files {
        out.write_all(&file.bytes)?;
    }
    out.into_inner()?.sync_all()
}

impl Library {
    /// Maps a library from a file that [`casemate_linux::file::open_owned`] opened.
    ///
    /// # Errors
    /// [`Damaged`] when it is not a whole library.
    pub(crate) fn map(file: &File) -> anyhow::Result<Self> {
        let map: Arc<Mmap> = Arc::new(crate::module::map_read_only(file)?);
        let index_len = map
            .get(8..16)
            .filter(|_| map.starts_with(MAGIC))
            .ok_or(Damaged("no header"))?;
        let index_len = usize::try_from(u64::from_le_bytes(index_len.try_into()?))?;
        if index_len > INDEX_MAX {
            return Err(Damaged("index too large").into());
        }
        let start = 16 + index_len;
        let index: Vec<Entry> =
            serde_json::from_slice(map.get(16..start).ok_or(Damaged("short index"))?)?;
        let mut base = Base::new();
        let tree_error = |_| Damaged("two entries want one place");
        let second_root = base.add_root().map_err(tree_error)?;
        let mut hot = Resident::default();
        for entry in index {
            let from = usize::try_from(entry.offset)?.saturating_add(start);
            let to = from.saturating_add(usize::try_from(entry.len)?);
            if to > map.len() {
                return Err(Damaged("short file").into());
            }
            let root = match entry.root {
                0 => 0,
                1 => second_root,
                _ => {
                    hot = serde_json::from_slice(&map[from..to])?;
                    continue;
                }
            };
            base.add(
                root,
                &entry.path,
                Blob::new(Arc::new(Shared(map.clone())), from..to),
            )
            .map_err(tree_error)?;
        }
        Ok(Self {
            base: Arc::new(base),
            second_root,
            hot,
        })
    }
}

/// A mapped file that many blobs share.
struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
