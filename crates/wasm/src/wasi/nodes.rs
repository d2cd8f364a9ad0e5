//! Nodes of the guest's file tree, and the base of them that every run shares.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::errno::Errno;

/// A node's number.
pub(crate) type Ino = u32;

/// Bytes that are shared and never change: a mapped file or a copy of an input.
#[derive(Clone)]
pub(crate) struct Blob {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Blob {
    /// A part of `owner`; an out-of-range part is empty.
    pub(crate) fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Self {
        let whole = (*owner).as_ref().len();
        let range = if range.start <= range.end && range.end <= whole {
            range
        } else {
            0..0
        };
        Self { owner, range }
    }

    /// All of `bytes`.
    pub(crate) fn from_vec(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self::new(Arc::new(bytes), 0..len)
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        (*self.owner)
            .as_ref()
            .get(self.range.clone())
            .unwrap_or_default()
    }
}

/// A device the host answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    Null,
    Zero,
    Random,
    /// The channel of the guest's driver: the job is read from it, messages are written to it.
    Casemate,
}

/// What a node is.
pub(crate) enum Kind {
    /// Read-only by construction: there is no way to write to a blob.
    Fixed(Blob),
    /// A file the guest made.
    Written(Vec<u8>),
    Dir(BTreeMap<String, Ino>),
    Link(String),
    Device(Device),
}

/// One file, folder, link or device.
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) parent: Ino,
    /// Whether entries may be made and removed here.
    pub(crate) writable: bool,
    /// Nanoseconds since 1970.
    pub(crate) mtime: u64,
    /// What was said about it when it was uploaded.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Names that point here.
    pub(super) links: u32,
    /// Descriptors that are open on it.
    pub(super) opens: u32,
    /// Whether it counts against the quotas.
    pub(super) counted: bool,
}

impl Node {
    pub(super) fn new(kind: Kind, parent: Ino, writable: bool) -> Self {
        Self {
            kind,
            parent,
            writable,
            mtime: 0,
            metadata: BTreeMap::new(),
            links: 1,
            opens: 0,
            counted: false,
        }
    }

    /// Bytes in it.
    pub(crate) fn size(&self) -> u64 {
        match &self.kind {
            Kind::Fixed(blob) => blob.as_slice().len() as u64,
            Kind::Written(bytes) => bytes.len() as u64,
            Kind::Link(target) => target.len() as u64,
            Kind::Dir(_) | Kind::Device(_) => 0,
        }
    }

    /// Names that point here.
    pub(crate) fn links(&self) -> u32 {
        self.links
    }
}

/// The part of the tree that every run shares.
#[derive(Default)]
pub(crate) struct Base {
    pub(super) nodes: Vec<Node>,
}

impl Base {
    /// A base with an empty root.
    pub(crate) fn new() -> Self {
        Self {
            nodes: vec![Node::new(Kind::Dir(BTreeMap::new()), 0, false)],
        }
    }

    /// Adds a file, with the folders above it, below `root`.
    pub(crate) fn add(&mut self, root: Ino, path: &str, blob: Blob) -> Result<(), Errno> {
        let mut at = root;
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            let next = Ino::try_from(self.nodes.len()).map_err(|_| Errno::NoSpc)?;
            let kind = if parts.peek().is_some() {
                Kind::Dir(BTreeMap::new())
            } else {
                Kind::Fixed(blob.clone())
            };
            let Some(Kind::Dir(entries)) =
                self.nodes.get_mut(at as usize).map(|node| &mut node.kind)
            else {
                return Err(Errno::NotDir);
            };
            if let Some(&found) = entries.get(part) {
                at = found;
                continue;
            }
            entries.insert(part.to_owned(), next);
            self.nodes.push(Node::new(kind, at, false));
            at = next;
        }
        Ok(())
    }

    /// Adds a root of its own, which no path leads to: a second preopened folder.
    pub(crate) fn add_root(&mut self) -> Result<Ino, Errno> {
        let ino = Ino::try_from(self.nodes.len()).map_err(|_| Errno::NoSpc)?;
        self.nodes
            .push(Node::new(Kind::Dir(BTreeMap::new()), ino, false));
        Ok(ino)
    }
}
