//! An archive's entries, one after another, onto a tree.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use casemate_linux::file::{Outside, Tree, set_modified};
use tar::{Archive, Entry, EntryType};

use super::{Bounds, Stop, Unpacked};

/// A name that begins with this takes away another of its folder.
const WHITEOUT: &[u8] = b".wh.";
/// The one that takes away all of them.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Words of an error that are repeated.
const WHY_MAX: usize = 300;

/// Counts what comes out of the decompressor, and ends there where it is too much.
struct Counted<'a, R> {
    inner: R,
    read: u64,
    bound: u64,
    told: &'a mut dyn FnMut(u64),
}

/// In an error of the reader's: the bound on bytes was met.
#[derive(Debug)]
struct TooMuch;

impl std::fmt::Display for TooMuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("more comes out than may")
    }
}

impl std::error::Error for TooMuch {}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read > self.bound {
            return Err(io::Error::other(TooMuch));
        }
        let count = self.inner.read(buffer)?;
        self.read = self.read.saturating_add(count as u64);
        (self.told)(self.read);
        Ok(count)
    }
}

/// Unpacks every entry. `layer`: names may take away what layers below have put there.
pub(super) fn apply(
    reader: impl Read,
    tree: &mut Tree,
    layer: bool,
    bounds: Bounds,
    told: &mut dyn FnMut(u64),
) -> Result<Unpacked, Stop> {
    let counted = Counted {
        inner: reader,
        read: 0,
        bound: bounds.bytes,
        told,
    };
    let mut archive = Archive::new(counted);
    let mut onto = Onto {
        tree,
        layer: layer.then(BTreeSet::new),
        bounds,
        made: Unpacked::default(),
        buffer: vec![0; 256 << 10],
    };
    let malformed = |error: io::Error| stop(error, bounds);
    let mut seen = 0;
    for entry in archive.entries().map_err(malformed)? {
        let mut entry = entry.map_err(malformed)?;
        seen += 1;
        if seen > bounds.entries {
            return Err(Stop::Entries {
                bound: bounds.entries,
            });
        }
        onto.entry(&mut entry)?;
    }
    if seen == 0 {
        return Err(Stop::Malformed {
            why: "there is nothing in it".to_owned(),
        });
    }
    Ok(onto.made)
}

/// An error of the archive's reader.
fn stop(error: io::Error, bounds: Bounds) -> Stop {
    let mut cause: Option<&(dyn std::error::Error + 'static)> =
        error.get_ref().map(|inner| inner as _);
    while let Some(inner) = cause {
        if inner.is::<TooMuch>() {
            return Stop::Bytes {
                bound: bounds.bytes,
            };
        }
        cause = match inner.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => inner.source(),
        };
    }
    let mut why = error.to_string();
    if why.contains(&TooMuch.to_string()) {
        return Stop::Bytes {
            bound: bounds.bytes,
        };
    }
    if why.len() > WHY_MAX {
        why = why.chars().take(WHY_MAX).collect();
    }
    Stop::Malformed { why }
}

struct Onto<'a> {
    tree: &'a mut Tree,
    /// What this layer has made, where it is one: nothing takes that away.
    layer: Option<BTreeSet<PathBuf>>,
    bounds: Bounds,
    made: Unpacked,
    buffer: Vec<u8>,
}

impl Onto<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), Stop> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let Some(path) = plain(&entry.path_bytes())? else {
            // The root itself, which is ours.
            return Ok(());
        };
        if self.takes_away(&path)? {
            return Ok(());
        }
        let mode = entry
            .header()
            .mode()
            .map_err(|error| stop(error, self.bounds))?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(entry, &path, mode)?;
            }
            EntryType::Directory => {
                let made = self.tree.make_folder(&path, mode | 0o700);
                made.map_err(|error| refused(&path, error))?;
            }
            EntryType::Symlink => {
                let target = target(entry, &path)?;
                let made = self.tree.make_link(&path, &target);
                made.map_err(|error| refused(&path, error))?;
            }
            EntryType::Link => self.hard_link(entry, &path)?,
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.made.left_out += 1;
                return Ok(());
            }
            other => {
                return Err(Stop::Kind {
                    name: shown(&path),
                    kind: other.as_byte(),
                });
            }
        }
        let gives_rights = mode & 0o6000 != 0 && !matches!(kind, EntryType::Symlink);
        self.made.stripped += u64::from(gives_rights);
        self.made.entries += 1;
        if let Some(made) = &mut self.layer {
            made.insert(path);
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        mode: u32,
    ) -> Result<(), Stop> {
        let left = self.bounds.bytes.saturating_sub(self.made.bytes);
        if entry.size() > left {
            return Err(Stop::Bytes {
                bound: self.bounds.bytes,
            });
        }
        let mut file = self
            .tree
            .make_file(path, mode | 0o400)
            .map_err(|error| refused(path, error))?;
        let system = |error: io::Error| Stop::System {
            what: shown(path),
            code: error.raw_os_error().unwrap_or_default(),
        };
        loop {
            let count = entry
                .read(&mut self.buffer)
                .map_err(|error| stop(error, self.bounds))?;
            let Some(part) = self.buffer.get(..count).filter(|part| !part.is_empty()) else {
                break;
            };
            // A sparse file's holes come out of nothing, so that they are counted here too.
            self.made.bytes = self.made.bytes.saturating_add(count as u64);
            if self.made.bytes > self.bounds.bytes {
                return Err(Stop::Bytes {
                    bound: self.bounds.bytes,
                });
            }
            file.write_all(part).map_err(system)?;
        }
        let seconds = entry.header().mtime().unwrap_or_default();
        // No further than what every file system can keep.
        let seconds = i64::try_from(seconds).unwrap_or_default().min(1 << 32);
        set_modified(&file, seconds).map_err(system)
    }

    fn hard_link<R: Read>(&mut self, entry: &Entry<'_, R>, path: &Path) -> Result<(), Stop> {
        let given = target(entry, path)?;
        let lost = || Stop::Link {
            name: shown(path),
            target: shown(&given),
        };
        let existing = plain(given.as_os_str().as_bytes())?.ok_or_else(lost)?;
        match self.tree.make_hard_link(path, &existing) {
            Ok(()) => Ok(()),
            Err(Outside::InTheWay(_)) => Err(lost()),
            Err(Outside::Failed { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Err(lost())
            }
            Err(error) => Err(refused(path, error)),
        }
    }

    /// Whether the name is a layer's way to take another away; then that is done.
    fn takes_away(&mut self, path: &Path) -> Result<bool, Stop> {
        let Some(made) = &self.layer else {
            return Ok(false);
        };
        let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new(""));
        if name == OPAQUE {
            let filled = made
                .range(parent.join("\0")..)
                .next()
                .is_some_and(|next| next.starts_with(parent) && next != parent);
            if filled {
                return Err(Stop::Whiteout {
                    name: shown(parent),
                });
            }
            let cleared = self.tree.clear(parent);
            cleared.map_err(|error| refused(path, error))?;
            return Ok(true);
        }
        let Some(rest) = name.strip_prefix(WHITEOUT) else {
            return Ok(false);
        };
        let gone = parent.join(OsStr::from_bytes(rest));
        // `.wh...` would name the folder itself or the one above.
        let Some(gone) = plain(gone.as_os_str().as_bytes())? else {
            return Err(Stop::Name {
                name: shown(path),
                why: "it takes away the root".to_owned(),
            });
        };
        if !made.contains(&gone) {
            let removed = self.tree.remove(&gone);
            removed.map_err(|error| refused(&gone, error))?;
        }
        Ok(true)
    }
}

fn target<R: Read>(entry: &Entry<'_, R>, path: &Path) -> Result<PathBuf, Stop> {
    let bytes = entry.link_name_bytes().unwrap_or_default();
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() > 4095 {
        return Err(Stop::Name {
            name: shown(path),
            why: "it is a link to no name".to_owned(),
        });
    }
    Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
}

/// A name as it is in an archive, `./` before it and `/` behind it: relative and plain; none is the root.
fn plain(bytes: &[u8]) -> Result<Option<PathBuf>, Stop> {
    let given = Path::new(OsStr::from_bytes(bytes));
    let bad = |why: &str| {
        Err(Stop::Name {
            name: shown(given),
            why: why.to_owned(),
        })
    };
    if bytes.contains(&0) {
        return bad("it holds a zero byte");
    }
    let mut path = PathBuf::new();
    for part in given.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return bad("it leads out with `..`"),
            Component::RootDir | Component::Prefix(_) => return bad("it is absolute"),
        }
    }
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().chars().take(WHY_MAX).collect()
}

fn refused(path: &Path, error: Outside) -> Stop {
    match error {
        Outside::BadName(_) => Stop::Name {
            name: shown(path),
            why: "it is too long, too deep or none".to_owned(),
        },
        Outside::InTheWay(_) => Stop::Name {
            name: shown(path),
            why: "it lies behind a link that leads nowhere in the archive, or behind a file"
                .to_owned(),
        },
        Outside::Failed { cause, .. } => Stop::System {
            what: shown(path),
            code: cause.raw_os_error().unwrap_or_default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Cursor;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use tar::{Builder, Header};

    use super::*;

    /// An archive under way: names are written as they are given, however bad.
    #[derive(Default)]
    struct Packed(Vec<u8>);

    impl Packed {
        fn with(mut self, kind: EntryType, name: &str, mode: u32, link: &str, text: &[u8]) -> Self {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(text.len() as u64);
            header.set_mtime(1_000_000_000);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            let mut builder = Builder::new(&mut self.0);
            builder.append(&header, text).unwrap();
            // What ends an archive is written by `whole`.
            std::mem::forget(builder);
            self
        }

        fn file(self, name: &str, text: &str) -> Self {
            self.with(EntryType::Regular, name, 0o644, "", text.as_bytes())
        }

        fn link(self, name: &str, target: &str) -> Self {
            self.with(EntryType::Symlink, name, 0o777, target, b"")
        }

        fn whole(mut self) -> Vec<u8> {
            self.0.extend([0; 1024]);
            self.0
        }
    }

    struct Place {
        temp: tempfile::TempDir,
        tree: Tree,
    }

    impl Place {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            fs::create_dir(temp.path().join("root")).unwrap();
            fs::write(temp.path().join("secret"), "secret").unwrap();
            let tree = Tree::new(File::open(temp.path().join("root")).unwrap().into());
            Self { temp, tree }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.temp.path().join("root").join(name)
        }

        fn unpack(&mut self, archive: Packed, layer: bool) -> Result<Unpacked, Stop> {
            let bounds = Bounds {
                bytes: 1 << 20,
                entries: 100,
            };
            let done = apply(
                Cursor::new(archive.whole()),
                &mut self.tree,
                layer,
                bounds,
                &mut |_| {},
            );
            let secret = self.temp.path().join("secret");
            assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
            assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
            assert_eq!(fs::read_dir(self.temp.path()).unwrap().count(), 2);
            done
        }
    }

    #[test]
    fn an_archive_comes_out_as_it_went_in_without_rights_and_devices() {
        let mut place = Place::new();
        let archive = Packed::default()
            .with(EntryType::Directory, "./", 0o700, "", b"")
            .with(EntryType::Directory, "./usr/", 0o555, "", b"")
            .file("./usr/a", "one")
            .with(EntryType::Regular, "usr/su", 0o6755, "", b"x")
            .with(EntryType::Link, "usr/b", 0o644, "./usr/a", b"")
            .link("bin", "usr")
            .file("bin/c", "through a link inside")
            .with(EntryType::Char, "dev/null", 0o666, "", b"")
            .with(EntryType::Fifo, "pipe", 0o666, "", b"");
        let unpacked = place.unpack(archive, false).unwrap();
        assert_eq!((unpacked.left_out, unpacked.stripped), (2, 1));
        assert_eq!(fs::read_to_string(place.at("usr/b")).unwrap(), "one");
        assert!(place.at("usr/c").is_file());
        assert!(!place.at("dev").exists() && !place.at("pipe").exists());
        let meta = fs::metadata(place.at("usr/su")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o755);
        assert_eq!(meta.mtime(), 1_000_000_000);
        assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        let outside = "/tmp/casemate-escape";
        for name in [outside, "../secret", "a/../../secret", "usr/.."] {
            let archive = Packed::default().file(name, "mine");
            let stop = Place::new().unpack(archive, false).unwrap_err();
            assert!(matches!(stop, Stop::Name { .. }), "{name}: {stop:?}");
        }
        assert!(!Path::new(outside).exists());
    }

    #[test]
    fn links_that_lead_out_are_links_and_nothing_is_written_behind_them() {
        for target in ["/tmp", "../..", "..", "/"] {
            let mut place = Place::new();
            let archive = Packed::default()
                .link("out", target)
                .file("out/secret", "mine");
            // Either it lands inside, where the link leads in a root of its own, or it is refused.
            match place.unpack(archive, false) {
                Ok(_) => assert!(place.at("secret").is_file(), "{target}"),
                Err(stop) => assert!(matches!(stop, Stop::Name { .. }), "{target}: {stop:?}"),
            }
        }
        assert!(!Path::new("/tmp/secret").exists());
    }

    #[test]
    fn second_names_are_of_files_in_the_archive() {
        for target in ["/etc/passwd", "../secret", "none", "usr", ""] {
            let archive = Packed::default()
                .with(EntryType::Directory, "usr", 0o755, "", b"")
                .with(EntryType::Link, "mine", 0o644, target, b"");
            let stop = Place::new().unpack(archive, false).unwrap_err();
            let known = matches!(stop, Stop::Name { .. } | Stop::Link { .. });
            assert!(known, "{target}: {stop:?}");
        }
        // A link first, then a second name behind it.
        let archive = Packed::default().link("out", "../").with(
            EntryType::Link,
            "mine",
            0o644,
            "out/secret",
            b"",
        );
        assert!(Place::new().unpack(archive, false).is_err());
    }

    #[test]
    fn bombs_are_stopped_by_count_and_by_bytes() {
        let mut many = Packed::default();
        for number in 0..101 {
            many = many.file(&format!("f{number}"), "");
        }
        let stop = Place::new().unpack(many, false).unwrap_err();
        assert_eq!(stop, Stop::Entries { bound: 100 });
        let stop = Stop::Bytes { bound: 1 << 20 };
        let large = Packed::default().file("f", &"x".repeat((1 << 20) + 1));
        assert_eq!(Place::new().unpack(large, false).unwrap_err(), stop);
        // Says that it is an exabyte, and ends.
        let mut huge = Packed::default().file("f", "x");
        let mut header = Header::from_byte_slice(&huge.0[..512]).clone();
        header.set_size(1 << 60);
        header.set_cksum();
        huge.0[..512].copy_from_slice(header.as_bytes());
        assert_eq!(Place::new().unpack(huge, false).unwrap_err(), stop);
    }

    #[test]
    fn a_sparse_file_counts_with_its_holes() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_size(0);
        header.set_path("sparse").unwrap();
        let gnu = header.as_gnu_mut().unwrap();
        gnu.realsize = *b"77777777777\0";
        gnu.sparse[0].offset = *b"77777777777\0";
        gnu.sparse[0].numbytes = *b"00000000000\0";
        header.set_cksum();
        let archive = Packed(header.as_bytes().to_vec());
        let stop = Place::new().unpack(archive, false).unwrap_err();
        assert_eq!(stop, Stop::Bytes { bound: 1 << 20 });
    }

    #[test]
    fn what_is_no_archive_is_said_to_be_none() {
        let bounds = Bounds::default();
        for bytes in [&b""[..], &[7; 2000], b"hello", &[0; 10_240]] {
            let mut place = Place::new();
            let stop = apply(bytes, &mut place.tree, false, bounds, &mut |_| {});
            assert!(matches!(stop, Err(Stop::Malformed { .. })), "{stop:?}");
        }
        let mut cut = Packed::default().file("f", &"x".repeat(5000)).whole();
        cut.truncate(3000);
        let stop = apply(&cut[..], &mut Place::new().tree, false, bounds, &mut |_| {});
        assert!(matches!(stop, Err(Stop::Malformed { .. })), "{stop:?}");
        let odd = Packed::default().with(EntryType::new(b'Z'), "f", 0o644, "", b"");
        let stop = Place::new().unpack(odd, false).unwrap_err();
        assert!(matches!(stop, Stop::Kind { kind: b'Z', .. }), "{stop:?}");
    }

    #[test]
    fn layers_take_away_what_lies_below_and_nothing_of_their_own() {
        let mut place = Place::new();
        let below = Packed::default()
            .file("a/old", "1")
            .file("b/x", "1")
            .file("c", "1");
        place.unpack(below, true).unwrap();
        let above = Packed::default()
            .file("a/.wh..wh..opq", "")
            .file("a/new", "2")
            .file("b/.wh.x", "")
            .file("c", "2")
            .file(".wh.c", "");
        place.unpack(above, true).unwrap();
        assert!(!place.at("a/old").exists() && place.at("a/new").exists());
        assert!(!place.at("b/x").exists());
        assert_eq!(fs::read_to_string(place.at("c")).unwrap(), "2");
        for name in [".wh...", "a/.wh...", ".wh..", ".wh."] {
            let archive = Packed::default().file(name, "");
            let done = place.unpack(archive, true);
            assert!(place.at("a/new").exists(), "{name}: {done:?}");
        }
        let filled = Packed::default()
            .file("d/f", "1")
            .file("d/.wh..wh..opq", "");
        let stop = place.unpack(filled, true).unwrap_err();
        assert!(matches!(stop, Stop::Whiteout { .. }), "{stop:?}");
        // In a whole system they are files like others.
        let whole = Packed::default().file(".wh.c", "");
        place.unpack(whole, false).unwrap();
        assert!(place.at("c").exists() && place.at(".wh.c").exists());
    }
}
