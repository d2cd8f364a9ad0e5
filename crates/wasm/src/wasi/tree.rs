//! The guest's files: an in-memory tree. No host directory is behind it, so no path can leave it.
//!
//! The parts that never change (the interpreter's library) are a shared base; everything a run makes
//! or is handed lives in nodes of its own and goes with the run. What the guest creates is counted
//! against the quotas before it exists.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::errno::Errno;
pub(crate) use super::nodes::{Base, Blob, Device, Ino, Kind, Node};

/// Symbolic links followed in one resolution before it is a loop.
const MAX_LINKS: u32 = 40;
/// Bytes in one name.
const MAX_NAME: usize = 255;

/// What the guest may still make, and has made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quota {
    pub(crate) bytes_allowed: u64,
    pub(crate) files_allowed: u64,
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    pub(crate) bytes_peak: u64,
    pub(crate) files_peak: u64,
    /// What was asked for when the quota first said no: bytes, files.
    pub(crate) bytes_refused: Option<u64>,
    pub(crate) files_refused: Option<u64>,
}

/// A file as handed back: its path and a view of its content.
pub(crate) struct Found {
    pub(crate) path: String,
    pub(crate) ino: Ino,
    pub(crate) size: u64,
}

/// Where a path leads: the folder, the last name, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) dir: Ino,
    pub(crate) name: String,
    pub(crate) found: Option<Ino>,
}

/// One run's files.
pub(crate) struct Tree {
    base: Arc<Base>,
    own: Vec<Option<Node>>,
    root: Ino,
    pub(crate) quota: Quota,
}

impl Tree {
    /// A tree over `base` with the writable folders /tmp and /work and the devices.
    pub(crate) fn new(base: Arc<Base>, quota: Quota) -> Result<Self, Errno> {
        let mut tree = Self {
            base,
            own: Vec::new(),
            root: 0,
            quota,
        };
        let mut entries = BTreeMap::new();
        if let Some(Kind::Dir(shared)) = tree.base.nodes.first().map(|node| &node.kind) {
            entries.clone_from(shared);
        }
        tree.root = tree.push(Node::new(Kind::Dir(entries), 0, false))?;
        let root = tree.root;
        tree.node_mut(root)?.parent = root;
        for (name, writable) in [
            ("data", false),
            ("dev", false),
            ("tmp", true),
            ("work", true),
        ] {
            tree.attach(root, name, Kind::Dir(BTreeMap::new()), writable)?;
        }
        let dev = tree.resolve(root, "dev", true)?;
        let devices = [
            ("null", Device::Null),
            ("zero", Device::Zero),
            ("urandom", Device::Random),
            ("random", Device::Random),
            ("casemate", Device::Casemate),
        ];
        for (name, device) in devices {
            tree.attach(dev, name, Kind::Device(device), false)?;
        }
        Ok(tree)
    }

    pub(crate) fn root(&self) -> Ino {
        self.root
    }

    /// Makes the home of a session's user.
    pub(crate) fn make_home(&mut self) -> Result<(), Errno> {
        let homes = self.attach(self.root, "home", Kind::Dir(BTreeMap::new()), false)?;
        let home = Kind::Dir(BTreeMap::new());
        self.attach(homes, "user", home, true).map(drop)
    }

    /// The path of a folder, from its root.
    pub(crate) fn path_of(&self, dir: Ino) -> Result<String, Errno> {
        let mut names = Vec::new();
        let mut at = dir;
        while at != self.root {
            let parent = self.parent(at)?;
            let mut entries = self.entries(parent)?.iter();
            // One that nothing leads to any more has no path.
            let name = entries.find(|(_, ino)| **ino == at);
            names.push(name.ok_or(Errno::NoEnt)?.0.as_str());
            at = parent;
        }
        names.reverse();
        Ok(format!("/{}", names.join("/")))
    }

    pub(crate) fn node(&self, ino: Ino) -> Result<&Node, Errno> {
        let index = ino as usize;
        match index.checked_sub(self.base.nodes.len()) {
            None => self.base.nodes.get(index).ok_or(Errno::Io),
            Some(own) => self.own.get(own).and_then(Option::as_ref).ok_or(Errno::Io),
        }
    }

    pub(crate) fn node_mut(&mut self, ino: Ino) -> Result<&mut Node, Errno> {
        let own = (ino as usize)
            .checked_sub(self.base.nodes.len())
            .ok_or(Errno::RoFs)?;
        self.own
            .get_mut(own)
            .and_then(Option::as_mut)
            .ok_or(Errno::Io)
    }

    fn push(&mut self, node: Node) -> Result<Ino, Errno> {
        let ino =
            Ino::try_from(self.base.nodes.len() + self.own.len()).map_err(|_| Errno::NoSpc)?;
        self.own.push(Some(node));
        Ok(ino)
    }

    fn entries(&self, dir: Ino) -> Result<&BTreeMap<String, Ino>, Errno> {
        match &self.node(dir)?.kind {
            Kind::Dir(entries) => Ok(entries),
            _ => Err(Errno::NotDir),
        }
    }

    fn entries_mut(&mut self, dir: Ino) -> Result<&mut BTreeMap<String, Ino>, Errno> {
        match &mut self.node_mut(dir)?.kind {
            Kind::Dir(entries) => Ok(entries),
            _ => Err(Errno::NotDir),
        }
    }

    /// Puts a node of ours under a folder, outside the quotas.
    fn attach(&mut self, dir: Ino, name: &str, kind: Kind, writable: bool) -> Result<Ino, Errno> {
        let ino = self.push(Node::new(kind, dir, writable))?;
        self.entries_mut(dir)?.insert(name.to_owned(), ino);
        Ok(ino)
    }

    /// Places a read-only file of ours at an absolute path, making the folders above it.
    pub(crate) fn place(&mut self, path: &str, blob: Blob) -> Result<Ino, Errno> {
        let mut at = self.root;
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            at = match (self.entries(at)?.get(part).copied(), parts.peek()) {
                (Some(found), Some(_)) => found,
                (None, Some(_)) => self.attach(at, part, Kind::Dir(BTreeMap::new()), false)?,
                (_, None) => self.attach(at, part, Kind::Fixed(blob.clone()), false)?,
            };
        }
        Ok(at)
    }

    /// A second name for a file of ours.
    pub(crate) fn alias(&mut self, dir: Ino, name: &str, ino: Ino) -> Result<(), Errno> {
        self.node_mut(ino)?.links += 1;
        self.entries_mut(dir)?.insert(name.to_owned(), ino);
        Ok(())
    }

    /// The folder above; the base's own root is this tree's root.
    fn parent(&self, dir: Ino) -> Result<Ino, Errno> {
        match self.node(dir)?.parent {
            0 => Ok(self.root),
            parent => Ok(parent),
        }
    }

    /// Walks `path` from `start` to an existing node.
    pub(crate) fn resolve(&self, start: Ino, path: &str, follow: bool) -> Result<Ino, Errno> {
        self.spot(start, path, follow)?.found.ok_or(Errno::NoEnt)
    }

    /// Walks `path` from `start` to its last name, which need not exist.
    pub(crate) fn spot(&self, start: Ino, path: &str, follow: bool) -> Result<Spot, Errno> {
        let mut at = if path.starts_with('/') {
            self.root
        } else {
            start
        };
        let mut todo: Vec<String> = split_reversed(path);
        let mut links = 0;
        let mut last = Spot {
            dir: at,
            name: ".".to_owned(),
            found: Some(at),
        };
        let slash = path.ends_with('/');
        while let Some(part) = todo.pop() {
            let entries = self.entries(at)?;
            match part.as_str() {
                "." => {
                    last = Spot {
                        dir: at,
                        name: part,
                        found: Some(at),
                    }
                }
                ".." => {
                    at = self.parent(at)?;
                    last = Spot {
                        dir: at,
                        name: ".".to_owned(),
                        found: Some(at),
                    };
                }
                name if name.len() > MAX_NAME => return Err(Errno::NameTooLong),
                name => {
                    let found = entries.get(name).copied();
                    let is_last = todo.is_empty();
                    if let Some(ino) = found
                        && let Kind::Link(target) = &self.node(ino)?.kind
                        && (!is_last || follow || slash)
                    {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Errno::Loop);
                        }
                        if target.starts_with('/') {
                            at = self.root;
                        }
                        todo.extend(split_reversed(target));
                        last = Spot {
                            dir: at,
                            name: ".".to_owned(),
                            found: Some(at),
                        };
                        continue;
                    }
                    last = Spot {
                        dir: at,
                        name: part,
                        found,
                    };
                    match found {
                        Some(ino) => at = ino,
                        None if is_last => {}
                        None => return Err(Errno::NoEnt),
                    }
                }
            }
        }
        if slash && let Some(ino) = last.found {
            self.entries(ino)?;
        }
        Ok(last)
    }

    /// Names and nodes of a folder, in order.
    pub(crate) fn list(&self, dir: Ino) -> Result<Vec<(String, Ino)>, Errno> {
        let parent = self.parent(dir)?;
        let mut names = vec![(".".to_owned(), dir), ("..".to_owned(), parent)];
        names.extend(
            self.entries(dir)?
                .iter()
                .map(|(name, ino)| (name.clone(), *ino)),
        );
        Ok(names)
    }

    /// Whether names may be made and removed in a folder.
    pub(crate) fn writable_dir(&self, dir: Ino) -> Result<(), Errno> {
        self.entries(dir)?;
        if self.node(dir)?.writable {
            Ok(())
        } else {
            Err(Errno::RoFs)
        }
    }

    /// Makes a file, folder or link of the guest's.
    pub(crate) fn create(&mut self, spot: &Spot, kind: Kind, now: u64) -> Result<Ino, Errno> {
        if spot.found.is_some() || spot.name == "." {
            return Err(Errno::Exist);
        }
        self.writable_dir(spot.dir)?;
        if self.quota.files >= self.quota.files_allowed {
            self.quota.files_refused.get_or_insert(self.quota.files + 1);
            return Err(Errno::NoSpc);
        }
        let mut node = Node::new(kind, spot.dir, true);
        node.counted = true;
        node.mtime = now;
        self.charge(node.size())?;
        self.quota.files += 1;
        self.quota.files_peak = self.quota.files_peak.max(self.quota.files);
        let ino = self.push(node)?;
        self.entries_mut(spot.dir)?.insert(spot.name.clone(), ino);
        self.node_mut(spot.dir)?.mtime = now;
        Ok(ino)
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Errno> {
        let asked = self.quota.bytes.saturating_add(bytes);
        if asked > self.quota.bytes_allowed {
            self.quota.bytes_refused.get_or_insert(asked);
            return Err(Errno::NoSpc);
        }
        self.quota.bytes = asked;
        self.quota.bytes_peak = self.quota.bytes_peak.max(asked);
        Ok(())
    }

    /// Sets a written file's length, counting it first.
    pub(crate) fn resize(&mut self, ino: Ino, len: u64, now: u64) -> Result<(), Errno> {
        let old = match &self.node(ino)?.kind {
            Kind::Written(bytes) => bytes.len() as u64,
            Kind::Fixed(_) => return Err(Errno::RoFs),
            Kind::Dir(_) => return Err(Errno::IsDir),
            Kind::Link(_) | Kind::Device(_) => return Err(Errno::Inval),
        };
        if len > old {
            self.charge(len - old)?;
        } else {
            self.quota.bytes -= old - len;
        }
        let node = self.node_mut(ino)?;
        node.mtime = now;
        if let Kind::Written(bytes) = &mut node.kind {
            let len = usize::try_from(len).map_err(|_| Errno::FBig)?;
            // A quota may be unlimited by choice; the machine's memory is not.
            bytes
                .try_reserve(len.saturating_sub(bytes.len()))
                .map_err(|_| Errno::NoSpc)?;
            bytes.resize(len, 0);
            if (len as u64) < old / 2 {
                bytes.shrink_to_fit();
            }
        }
        Ok(())
    }

    /// Writes at a place, growing the file when needed; what does not fit the quota is not written.
    pub(crate) fn write(&mut self, ino: Ino, at: u64, data: &[u8], now: u64) -> Result<u32, Errno> {
        let end = at.checked_add(data.len() as u64).ok_or(Errno::FBig)?;
        let size = self.node(ino)?.size();
        if end > size {
            self.resize(ino, end, now)?;
        }
        let node = self.node_mut(ino)?;
        node.mtime = now;
        let Kind::Written(bytes) = &mut node.kind else {
            return Err(Errno::RoFs);
        };
        let start = usize::try_from(at).map_err(|_| Errno::FBig)?;
        let target = bytes.get_mut(start..start + data.len()).ok_or(Errno::Io)?;
        target.copy_from_slice(data);
        u32::try_from(data.len()).map_err(|_| Errno::FBig)
    }

    /// Content of a file.
    pub(crate) fn content(&self, ino: Ino) -> Result<&[u8], Errno> {
        match &self.node(ino)?.kind {
            Kind::Fixed(blob) => Ok(blob.as_slice()),
            Kind::Written(bytes) => Ok(bytes),
            Kind::Dir(_) => Err(Errno::IsDir),
            Kind::Link(_) | Kind::Device(_) => Err(Errno::Inval),
        }
    }

    /// Removes a name; the node goes when nothing points to it and nobody has it open.
    pub(crate) fn unlink(&mut self, spot: &Spot, folder: bool, now: u64) -> Result<(), Errno> {
        let ino = spot.found.ok_or(Errno::NoEnt)?;
        match (&self.node(ino)?.kind, folder) {
            (Kind::Dir(_), false) => return Err(Errno::IsDir),
            (Kind::Dir(entries), true) if !entries.is_empty() => return Err(Errno::NotEmpty),
            (Kind::Dir(_), true) if spot.name == "." || ino == self.root => {
                return Err(Errno::Inval);
            }
            (Kind::Dir(_), true) => {}
            (_, true) => return Err(Errno::NotDir),
            (_, false) => {}
        }
        self.writable_dir(spot.dir)?;
        self.entries_mut(spot.dir)?.remove(&spot.name);
        self.node_mut(spot.dir)?.mtime = now;
        self.drop_link(ino)
    }

    fn drop_link(&mut self, ino: Ino) -> Result<(), Errno> {
        let Ok(node) = self.node_mut(ino) else {
            return Ok(());
        };
        node.links = node.links.saturating_sub(1);
        self.reap(ino)
    }

    /// Notes an open descriptor.
    pub(crate) fn opened(&mut self, ino: Ino) {
        if let Ok(node) = self.node_mut(ino) {
            node.opens += 1;
        }
    }

    /// Notes a closed descriptor.
    pub(crate) fn closed(&mut self, ino: Ino) -> Result<(), Errno> {
        let Ok(node) = self.node_mut(ino) else {
            return Ok(());
        };
        node.opens = node.opens.saturating_sub(1);
        self.reap(ino)
    }

    fn reap(&mut self, ino: Ino) -> Result<(), Errno> {
        let node = self.node(ino)?;
        if node.links > 0 || node.opens > 0 {
            return Ok(());
        }
        if node.counted {
            self.quota.bytes -= node.size();
            self.quota.files -= 1;
        }
        let own = ino as usize - self.base.nodes.len();
        self.own[own] = None;
        Ok(())
    }

    /// A second name for a file the guest made.
    pub(crate) fn hard_link(&mut self, ino: Ino, spot: &Spot) -> Result<(), Errno> {
        if spot.found.is_some() {
            return Err(Errno::Exist);
        }
        self.writable_dir(spot.dir)?;
        match &self.node(ino)?.kind {
            Kind::Written(_) => {}
            Kind::Fixed(_) => return Err(Errno::RoFs),
            _ => return Err(Errno::Perm),
        }
        self.alias(spot.dir, &spot.name, ino)
    }

    /// Moves a name, replacing what POSIX lets it replace.
    pub(crate) fn rename(&mut self, from: &Spot, to: &Spot, now: u64) -> Result<(), Errno> {
        let ino = from.found.ok_or(Errno::NoEnt)?;
        self.writable_dir(from.dir)?;
        self.writable_dir(to.dir)?;
        if from.name == "." || to.name == "." {
            return Err(Errno::Inval);
        }
        if to.found == Some(ino) {
            return Ok(());
        }
        let moving_dir = matches!(self.node(ino)?.kind, Kind::Dir(_));
        if moving_dir && (to.dir == ino || self.is_inside(to.dir, ino)?) {
            return Err(Errno::Inval);
        }
        if let Some(target) = to.found {
            match (&self.node(target)?.kind, moving_dir) {
                (Kind::Dir(entries), true) if entries.is_empty() => {}
                (Kind::Dir(_), true) => return Err(Errno::NotEmpty),
                (Kind::Dir(_), false) => return Err(Errno::IsDir),
                (_, true) => return Err(Errno::NotDir),
                (_, false) => {}
            }
        }
        self.entries_mut(from.dir)?.remove(&from.name);
        let replaced = self.entries_mut(to.dir)?.insert(to.name.clone(), ino);
        for dir in [from.dir, to.dir] {
            self.node_mut(dir)?.mtime = now;
        }
        if moving_dir {
            self.node_mut(ino)?.parent = to.dir;
        }
        replaced.map_or(Ok(()), |old| self.drop_link(old))
    }

    fn is_inside(&self, mut at: Ino, dir: Ino) -> Result<bool, Errno> {
        while at != self.root {
            if at == dir {
                return Ok(true);
            }
            let parent = self.node(at)?.parent;
            if parent == at {
                break;
            }
            at = parent;
        }
        Ok(false)
    }

    /// Files the guest made and left, by path. Links are not followed.
    pub(crate) fn left_behind(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let mut todo = Vec::new();
        for top in ["tmp", "work"] {
            if let Ok(ino) = self.resolve(self.root, top, false) {
                todo.push((format!("/{top}"), ino));
            }
        }
        while let Some((path, ino)) = todo.pop() {
            let Ok(entries) = self.entries(ino) else {
                continue;
            };
            for (name, &child) in entries {
                let path = format!("{path}/{name}");
                match self.node(child).map(|node| &node.kind) {
                    Ok(Kind::Dir(_)) => todo.push((path, child)),
                    Ok(Kind::Written(bytes)) => {
                        found.push(Found {
                            path,
                            ino: child,
                            size: bytes.len() as u64,
                        });
                    }
                    _ => {}
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }
}

fn split_reversed(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|part| !part.is_empty())
        .rev()
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
