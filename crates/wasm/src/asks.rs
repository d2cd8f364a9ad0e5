//! What the host asks about a session's files, answered by its worker from the tree that the guest's calls work on. No
//! guest instruction runs for it.

use std::collections::BTreeMap;

use crate::wasi::{Errno, Ino, Kind, Spot, Tree};
use crate::wire::{WireAnswer, WireAsk, WireEntry, WireIs};

/// Bytes of what is said of all entries in one list.
const LIST_MAX: usize = 8 << 20;
/// What an entry takes in a list beside its texts.
const ENTRY_COST: usize = 200;

/// Answers one question: the answer, and the bytes of a file that follow it. `now` is what is stamped on files.
pub(crate) fn answer(
    tree: &mut Tree,
    now: u64,
    ask: &WireAsk,
    data: &[u8],
) -> (WireAnswer, Vec<u8>) {
    let mut files = Files { tree, now };
    match files.answer(ask, data) {
        Ok(answered) => answered,
        Err(errno) => {
            let errno = errno.symbol().to_owned();
            (WireAnswer::Failed { errno }, Vec::new())
        }
    }
}

struct Files<'a> {
    tree: &'a mut Tree,
    now: u64,
}

impl Files<'_> {
    fn answer(&mut self, ask: &WireAsk, data: &[u8]) -> Result<(WireAnswer, Vec<u8>), Errno> {
        let path = match ask {
            WireAsk::Read { path, at, len } => return self.read(path, *at, *len),
            WireAsk::List { path, depth, most } => {
                return Ok((self.list(path, *depth, *most)?, Vec::new()));
            }
            WireAsk::Remove { path } => {
                self.remove(path)?;
                return Ok((self.entries(Vec::new()), Vec::new()));
            }
            WireAsk::Stat { path } => path,
            WireAsk::MakeDir { path } => {
                self.make_folders(path)?;
                path
            }
            WireAsk::Move { from, to } => {
                self.rename(from, to)?;
                to
            }
            WireAsk::Write {
                path, at, metadata, ..
            } => {
                self.write(path, *at, metadata.as_ref(), data)?;
                path
            }
            WireAsk::Compose { from, to } => {
                self.compose(from, to)?;
                to
            }
            WireAsk::Mark {
                path,
                mtime,
                metadata,
            } => {
                self.mark(path, *mtime, metadata)?;
                path
            }
            WireAsk::Link { path, target } => {
                self.make_folders(above(path))?;
                let spot = self.spot(path, false)?;
                let link = Kind::Link(target.clone());
                self.tree.create(&spot, link, self.now)?;
                path
            }
        };
        let entry = self.entry(path)?;
        Ok((self.entries(vec![entry]), Vec::new()))
    }

    fn entries(&self, entries: Vec<WireEntry>) -> WireAnswer {
        WireAnswer::Entries {
            entries,
            disk_bytes: self.tree.quota.bytes,
        }
    }

    fn spot(&self, path: &str, follow: bool) -> Result<Spot, Errno> {
        self.tree.spot(self.tree.root(), path, follow)
    }

    fn entry(&self, path: &str) -> Result<WireEntry, Errno> {
        let found = self.spot(path, false)?.found;
        self.describe(path, found.ok_or(Errno::NoEnt)?)
    }

    fn describe(&self, path: &str, ino: Ino) -> Result<WireEntry, Errno> {
        let node = self.tree.node(ino)?;
        let target = match &node.kind {
            Kind::Link(target) => Some(target.clone()),
            _ => None,
        };
        Ok(WireEntry {
            path: path.to_owned(),
            is: is(&node.kind),
            leads_to: target.as_ref().and_then(|_| self.end_of(path)),
            target,
            bytes: node.size(),
            mtime: node.mtime,
            writable: node.writable,
            metadata: node.metadata.clone(),
        })
    }

    /// Where a link leads in the end, where something is there.
    fn end_of(&self, path: &str) -> Option<(String, WireIs)> {
        let spot = self.spot(path, true).ok()?;
        let node = self.tree.node(spot.found?).ok()?;
        let mut path = self.tree.path_of(spot.dir).ok()?;
        if spot.name != "." {
            if !path.ends_with('/') {
                path.push('/');
            }
            path.push_str(&spot.name);
        }
        Some((path, is(&node.kind)))
    }

    fn list(&self, path: &str, depth: u32, most: u64) -> Result<WireAnswer, Errno> {
        let top = self.spot(path, true)?.found.ok_or(Errno::NoEnt)?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        let mut waiting = Vec::new();
        self.open(path, top, 1, &mut waiting)?;
        while let Some((path, ino, level)) = waiting.pop() {
            let entry = self.describe(&path, ino)?;
            bytes += cost(&entry);
            if found.len() as u64 >= most || bytes > LIST_MAX {
                return Ok(WireAnswer::TooMany);
            }
            if entry.is == WireIs::Folder && level < depth {
                self.open(&path, ino, level + 1, &mut waiting)?;
            }
            found.push(entry);
        }
        Ok(self.entries(found))
    }

    /// What is in a folder, the last name first.
    fn open(
        &self,
        path: &str,
        dir: Ino,
        level: u32,
        waiting: &mut Vec<(String, Ino, u32)>,
    ) -> Result<(), Errno> {
        // The first two are the folder itself and the one above it.
        let names = self.tree.list(dir)?.into_iter().skip(2).rev();
        let prefix = path.trim_end_matches('/');
        waiting.extend(names.map(|(name, ino)| (format!("{prefix}/{name}"), ino, level)));
        Ok(())
    }

    fn make_folders(&mut self, path: &str) -> Result<(), Errno> {
        let ends = path.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([path.len()]).filter(|end| *end > 0) {
            let part = path.get(..end).unwrap_or_default();
            let spot = self.spot(part, true)?;
            match spot.found {
                Some(ino) => drop(self.tree.list(ino)?),
                None => {
                    let folder = Kind::Dir(BTreeMap::new());
                    self.tree.create(&spot, folder, self.now)?;
                }
            }
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Errno> {
        self.spot(from, false)?.found.ok_or(Errno::NoEnt)?;
        self.make_folders(above(to))?;
        let from = self.spot(from, false)?;
        let to = self.spot(to, false)?;
        self.tree.rename(&from, &to, self.now)
    }

    fn remove(&mut self, path: &str) -> Result<(), Errno> {
        let spot = self.spot(path, false)?;
        spot.found.ok_or(Errno::NoEnt)?;
        // Before anything in it goes.
        self.tree.writable_dir(spot.dir)?;
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            let spot = self.spot(&path, false)?;
            let ino = spot.found.ok_or(Errno::NoEnt)?;
            let names = match &self.tree.node(ino)?.kind {
                Kind::Dir(entries) => Some(entries.keys().cloned().collect::<Vec<_>>()),
                _ => None,
            };
            match names {
                Some(names) if !names.is_empty() => {
                    let below = names.iter().map(|name| format!("{path}/{name}"));
                    let below: Vec<String> = below.collect();
                    waiting.push(path);
                    waiting.extend(below);
                }
                other => self.tree.unlink(&spot, other.is_some(), self.now)?,
            }
        }
        Ok(())
    }

    fn read(&self, path: &str, at: u64, len: u32) -> Result<(WireAnswer, Vec<u8>), Errno> {
        let ino = self.spot(path, true)?.found.ok_or(Errno::NoEnt)?;
        let content = self.tree.content(ino)?;
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
        let end = start.saturating_add(len as usize).min(content.len());
        let part = content.get(start..end).unwrap_or_default().to_vec();
        let size = content.len() as u64;
        Ok((WireAnswer::Part { size }, part))
    }

    fn write(
        &mut self,
        path: &str,
        at: u64,
        metadata: Option<&BTreeMap<String, String>>,
        data: &[u8],
    ) -> Result<(), Errno> {
        let ino = match metadata {
            Some(metadata) => self.begin(path, metadata)?,
            None => self.spot(path, true)?.found.ok_or(Errno::NoEnt)?,
        };
        if !data.is_empty() {
            self.tree.write(ino, at, data, self.now)?;
        }
        Ok(())
    }

    /// Nothing is written where one of them is missing, or is the file itself.
    fn compose(&mut self, from: &[String], to: &str) -> Result<(), Errno> {
        let mut sources = Vec::with_capacity(from.len());
        for path in from {
            let ino = self.spot(path, true)?.found.ok_or(Errno::NoEnt)?;
            self.tree.content(ino)?;
            sources.push(ino);
        }
        let there = self.spot(to, true).ok().and_then(|spot| spot.found);
        if there.is_some_and(|there| sources.contains(&there)) {
            return Err(Errno::Inval);
        }
        let made = self.begin(to, &BTreeMap::new())?;
        let mut at = 0;
        for ino in sources {
            let part = self.tree.content(ino)?.to_vec();
            if !part.is_empty() {
                self.tree.write(made, at, &part, self.now)?;
                at += part.len() as u64;
            }
        }
        Ok(())
    }

    /// Of what the guest may change alone.
    fn mark(
        &mut self,
        path: &str,
        mtime: u64,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), Errno> {
        let spot = self.spot(path, false)?;
        let ino = spot.found.ok_or(Errno::NoEnt)?;
        self.tree.writable_dir(spot.dir)?;
        let node = self.tree.node_mut(ino)?;
        node.mtime = mtime;
        node.metadata.clone_from(metadata);
        Ok(())
    }

    /// An empty file of this name, whether there was one or not.
    fn begin(&mut self, path: &str, metadata: &BTreeMap<String, String>) -> Result<Ino, Errno> {
        self.make_folders(above(path))?;
        let spot = self.spot(path, true)?;
        let ino = match spot.found {
            Some(ino) => {
                self.tree.resize(ino, 0, self.now)?;
                ino
            }
            None => self
                .tree
                .create(&spot, Kind::Written(Vec::new()), self.now)?,
        };
        self.tree.node_mut(ino)?.metadata.clone_from(metadata);
        Ok(ino)
    }
}

/// What an entry takes in a list.
fn cost(entry: &WireEntry) -> usize {
    let leads_to = entry.leads_to.as_ref().map_or(0, |(path, _)| path.len());
    let target = entry.target.as_ref().map_or(0, String::len);
    let metadata = entry.metadata.iter();
    let metadata: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
    ENTRY_COST + entry.path.len() + leads_to + target + metadata
}

fn is(kind: &Kind) -> WireIs {
    match kind {
        Kind::Fixed(_) | Kind::Written(_) => WireIs::File,
        Kind::Dir(_) => WireIs::Folder,
        Kind::Link(_) => WireIs::Link,
        Kind::Device(_) => WireIs::Other,
    }
}

/// The path of the folder that this is in.
fn above(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(above, _)| above)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::wasi::{Base, Quota};

    fn tree(bytes: u64) -> Tree {
        let quota = Quota {
            bytes_allowed: bytes,
            files_allowed: 20,
            ..Quota::default()
        };
        let mut tree = Tree::new(Arc::new(Base::new()), quota).unwrap();
        tree.make_home().unwrap();
        tree
    }

    fn ask(tree: &mut Tree, ask: &WireAsk, data: &[u8]) -> Result<Vec<WireEntry>, String> {
        match answer(tree, 7, ask, data).0 {
            WireAnswer::Entries { entries, .. } => Ok(entries),
            WireAnswer::Failed { errno } => Err(errno),
            other => Err(format!("{other:?}")),
        }
    }

    fn write(tree: &mut Tree, path: &str, data: &[u8]) -> Result<Vec<WireEntry>, String> {
        let write = WireAsk::Write {
            path: path.into(),
            at: 0,
            bytes: data.len() as u64,
            metadata: Some(BTreeMap::new()),
        };
        ask(tree, &write, data)
    }

    fn paths(tree: &mut Tree, path: &str, depth: u32) -> Result<Vec<String>, String> {
        let list = WireAsk::List {
            path: path.into(),
            depth,
            most: 5,
        };
        let listed = ask(tree, &list, &[])?;
        Ok(listed.into_iter().map(|entry| entry.path).collect())
    }

    #[test]
    fn files_are_written_read_moved_and_removed() {
        let mut tree = tree(100);
        let made = write(&mut tree, "/home/user/a/b/f", b"four").unwrap();
        assert_eq!((made[0].bytes, made[0].is), (4, WireIs::File));
        write(&mut tree, "/home/user/a/b/f", b"two").unwrap();
        let next = WireAsk::Write {
            path: "/home/user/a/b/f".into(),
            at: 3,
            bytes: 1,
            metadata: None,
        };
        assert_eq!(ask(&mut tree, &next, b"!").unwrap()[0].bytes, 4);
        let read = WireAsk::Read {
            path: "/home/user/a/b/f".into(),
            at: 1,
            len: 9,
        };
        let (part, bytes) = answer(&mut tree, 7, &read, &[]);
        assert_eq!(part, WireAnswer::Part { size: 4 });
        assert_eq!(bytes, b"wo!");
        let there = paths(&mut tree, "/home/user", 9).unwrap();
        assert_eq!(
            there,
            ["/home/user/a", "/home/user/a/b", "/home/user/a/b/f"]
        );
        let rename = WireAsk::Move {
            from: "/home/user/a/b".into(),
            to: "/home/user/c/d".into(),
        };
        ask(&mut tree, &rename, &[]).unwrap();
        assert_eq!(paths(&mut tree, "/home/user/c/d", 1).unwrap().len(), 1);
        let remove = |path: &str| WireAsk::Remove { path: path.into() };
        ask(&mut tree, &remove("/home/user/c"), &[]).unwrap();
        assert_eq!(paths(&mut tree, "/home/user", 9).unwrap(), ["/home/user/a"]);
        assert_eq!(tree.quota.bytes, 0);
        assert_eq!(tree.quota.files, 1);
        let gone = ask(&mut tree, &remove("/home/user/c"), &[]);
        assert_eq!(gone, Err("ENOENT".into()));
    }

    #[test]
    fn files_are_put_together_or_nothing_is_written() {
        let mut tree = tree(20);
        write(&mut tree, "/work/a", b"one").unwrap();
        write(&mut tree, "/tmp/b", b"two!").unwrap();
        let mut put = |from: &[&str], to: &str| {
            let compose = WireAsk::Compose {
                from: from.iter().map(|path| (*path).to_owned()).collect(),
                to: to.into(),
            };
            let made = ask(&mut tree, &compose, &[])?;
            Ok::<u64, String>(made[0].bytes)
        };
        assert_eq!(put(&["/tmp/b", "/work/a", "/tmp/b"], "/work/d/c"), Ok(11));
        assert_eq!(put(&[], "/work/none"), Ok(0));
        assert_eq!(put(&["/work/a"], "/work/d/c"), Ok(3));
        for (from, to, refused) in [
            ("/work/x", "/work/a", "ENOENT"),
            ("/work/../work/a", "/work/a", "EINVAL"),
            ("/work/d", "/work/a", "EISDIR"),
            ("/work/a", "/etc/a", "EROFS"),
        ] {
            assert_eq!(put(&[from], to), Err(refused.into()), "{from} {to}");
        }
        let read = |path: &str| WireAsk::Read {
            path: path.into(),
            at: 0,
            len: 99,
        };
        assert_eq!(answer(&mut tree, 7, &read("/work/d/c"), &[]).1, b"one");
        assert_eq!(answer(&mut tree, 7, &read("/work/a"), &[]).1, b"one");
        assert_eq!(tree.quota.bytes, 10);
    }

    #[test]
    fn a_file_is_marked_where_the_guest_could_write_it() {
        let mut tree = tree(20);
        write(&mut tree, "/work/a", b"one").unwrap();
        let metadata = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
        let mark = |path: &str| WireAsk::Mark {
            path: path.into(),
            mtime: 99,
            metadata: metadata.clone(),
        };
        let marked = ask(&mut tree, &mark("/work/a"), &[]).unwrap().remove(0);
        assert_eq!((marked.mtime, marked.metadata), (99, metadata.clone()));
        let refused = ask(&mut tree, &mark("/dev/null"), &[]);
        assert_eq!(refused, Err("EROFS".into()));
        let missing = ask(&mut tree, &mark("/work/b"), &[]);
        assert_eq!(missing, Err("ENOENT".into()));
    }

    #[test]
    fn a_folder_comes_before_what_is_in_it_and_a_list_is_bounded() {
        let mut tree = tree(100);
        for name in ["c", "a", "b/y", "b/deep/z", "B"] {
            write(&mut tree, &format!("/work/{name}"), b"").unwrap();
        }
        let one = paths(&mut tree, "/work", 1).unwrap();
        assert_eq!(one, ["/work/B", "/work/a", "/work/b", "/work/c"]);
        let all = paths(&mut tree, "/work", 9).unwrap_err();
        assert_eq!(all, "TooMany");
        assert_eq!(paths(&mut tree, "/work/a", 1), Err("ENOTDIR".into()));
    }

    #[test]
    fn links_are_told_by_where_they_lead() {
        let mut tree = tree(100);
        write(&mut tree, "/work/down/f", b"four").unwrap();
        let mut link = |path: &str, target: &str| {
            let link = WireAsk::Link {
                path: path.into(),
                target: target.into(),
            };
            ask(&mut tree, &link, &[]).unwrap().remove(0)
        };
        let one = link("/work/one", "down/f");
        assert_eq!(one.leads_to, Some(("/work/down/f".into(), WireIs::File)));
        let two = link("/tmp/two", "../work/down");
        assert_eq!(two.leads_to, Some(("/work/down".into(), WireIs::Folder)));
        assert_eq!(link("/tmp/lost", "nowhere").leads_to, None);
        assert_eq!(link("/tmp/loop", "/tmp/loop").leads_to, None);
    }

    #[test]
    fn quotas_and_what_is_not_the_guests_hold_for_the_host_too() {
        let mut tree = tree(3);
        assert_eq!(write(&mut tree, "/work/f", b"four"), Err("ENOSPC".into()));
        for path in ["/etc/f", "/f", "/home/other/f"] {
            assert_eq!(write(&mut tree, path, b""), Err("EROFS".into()), "{path}");
        }
        assert_eq!(write(&mut tree, "/work", b""), Err("EISDIR".into()));
        assert_eq!(write(&mut tree, "/dev/zero", b""), Err("EINVAL".into()));
        write(&mut tree, "/tmp/f", b"").unwrap();
        for path in ["/tmp", "/", "/home/user"] {
            let remove = WireAsk::Remove { path: path.into() };
            assert_eq!(ask(&mut tree, &remove, &[]), Err("EROFS".into()), "{path}");
        }
        assert_eq!(paths(&mut tree, "/tmp", 1).unwrap(), ["/tmp/f"]);
        for at in [4, u64::MAX] {
            let beyond = WireAsk::Write {
                path: "/tmp/f".into(),
                at,
                bytes: 1,
                metadata: None,
            };
            assert!(ask(&mut tree, &beyond, b"x").is_err(), "{at}");
        }
    }
}
