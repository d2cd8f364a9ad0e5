//! A tree that is put together below a directory under names that somebody else chose, links among them.
//!
//! Here links in the middle of a name are followed, as they will be when the tree is a root: by the kernel,
//! which takes the directory for the root (`RESOLVE_IN_ROOT`). No name leads out, whatever the links say.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Timespec, Timestamps, fchmod, futimens,
    linkat, mkdirat, openat2, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::Outside;
use super::beneath::failed;

/// Deeper names are refused.
const DEEPEST: usize = 100;
/// Longer ones too: a root of its own has no longer path.
const LONGEST: usize = 4000;

/// The directory that becomes a root.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// The folder that was last used: names come folder by folder.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Tree {
    /// Below a directory that is open.
    #[must_use]
    pub const fn new(root: OwnedFd) -> Self {
        Self { root, last: None }
    }

    /// Makes a folder with these permission bits. What else has the name is removed; a folder stays, with
    /// what is in it.
    ///
    /// # Errors
    /// [`Outside`].
    pub fn make_folder(&mut self, path: &Path, mode: u32) -> Result<(), Outside> {
        let (folder, name) = self.place(path)?;
        match kind(folder, name) {
            Some(FileType::Directory) | None => {}
            Some(_) => remove(folder, name, path)?,
        }
        match mkdirat(folder, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(path, error)),
        }
        let made = open(folder, name, OFlags::RDONLY | OFlags::DIRECTORY, path)?;
        fchmod(&made, Mode::from_raw_mode(mode & 0o777)).map_err(|e| failed(path, e))
    }

    /// Makes a new file with these permission bits and opens it for writing. What else has the name is
    /// removed.
    ///
    /// # Errors
    /// [`Outside`].
    pub fn make_file(&mut self, path: &Path, mode: u32) -> Result<File, Outside> {
        let (folder, name) = self.place(path)?;
        if kind(folder, name).is_some() {
            remove(folder, name, path)?;
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o777);
        let file = openat2(folder, name, flags, Mode::from_raw_mode(0o600), beneath())
            .map_err(|e| failed(path, e))?;
        fchmod(&file, mode).map_err(|e| failed(path, e))?;
        Ok(File::from(file))
    }

    /// Makes a symbolic link, whatever it leads to. What else has the name is removed.
    ///
    /// # Errors
    /// [`Outside`].
    pub fn make_link(&mut self, path: &Path, target: &Path) -> Result<(), Outside> {
        let (folder, name) = self.place(path)?;
        if kind(folder, name).is_some() {
            remove(folder, name, path)?;
        }
        symlinkat(target, folder, name).map_err(|e| failed(path, e))
    }

    /// Gives a file or a link that is in the tree another name in it. What else has the name is removed.
    ///
    /// # Errors
    /// [`Outside`]; also when there is no such file, or it is of another kind.
    pub fn make_hard_link(&mut self, path: &Path, existing: &Path) -> Result<(), Outside> {
        let (from, old) = self.place(existing)?;
        let from = from.try_clone().map_err(|cause| Outside::Failed {
            path: existing.to_owned(),
            cause,
        })?;
        let found = kind(&from, old);
        if !matches!(found, Some(FileType::RegularFile | FileType::Symlink)) {
            return Err(Outside::InTheWay(existing.to_owned()));
        }
        let (folder, name) = self.place(path)?;
        if same(&from, old, folder, name) {
            return Ok(());
        }
        if kind(folder, name).is_some() {
            remove(folder, name, path)?;
        }
        linkat(&from, old, folder, name, AtFlags::empty()).map_err(|e| failed(path, e))
    }

    /// Removes whatever has the name, with what is in it; nothing of that name is fine.
    ///
    /// # Errors
    /// [`Outside`].
    pub fn remove(&mut self, path: &Path) -> Result<(), Outside> {
        self.last = None;
        if !self.is_there(path)? {
            return Ok(());
        }
        let (folder, name) = self.place(path)?;
        let removed = match kind(folder, name) {
            None => Ok(()),
            Some(_) => remove(folder, name, path),
        };
        self.last = None;
        removed
    }

    /// Removes everything in a folder, which stays; the root itself is the empty path.
    ///
    /// # Errors
    /// [`Outside`].
    pub fn clear(&mut self, path: &Path) -> Result<(), Outside> {
        self.last = None;
        if path.as_os_str().is_empty() {
            let root = open_in(&self.root, Path::new("."), path)?;
            return clear(&root, path);
        }
        if !self.is_there(path)? {
            return Ok(());
        }
        let (folder, name) = self.place(path)?;
        match kind(folder, name) {
            Some(FileType::Directory) => {
                let inside = open(folder, name, OFlags::RDONLY | OFlags::DIRECTORY, path)?;
                clear(&inside, path)
            }
            _ => Ok(()),
        }
    }

    /// Opens the file that a path of the finished tree leads to, links followed: for reading, and where it
    /// really lies below the root.
    ///
    /// # Errors
    /// [`Outside`]; also when it is no regular file.
    pub fn open_file(&self, path: &Path) -> Result<(File, PathBuf), Outside> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = again(|| openat2(&self.root, path, flags, Mode::empty(), in_root()))
            .map_err(|e| failed(path, e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| failed(path, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Outside::InTheWay(path.to_owned()));
        }
        let name = |fd: &OwnedFd| {
            std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(|cause| {
                Outside::Failed {
                    path: path.to_owned(),
                    cause,
                }
            })
        };
        let (whole, root) = (name(&file)?, name(&self.root)?);
        let below = whole
            .strip_prefix(&root)
            .map_err(|_| Outside::InTheWay(path.to_owned()))?;
        Ok((File::from(file), Path::new("/").join(below)))
    }

    /// Whether the folder that the name lies in is there.
    fn is_there(&self, path: &Path) -> Result<bool, Outside> {
        checked(path)?;
        let parent = parent(path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match again(|| openat2(&self.root, parent, flags, Mode::empty(), in_root())) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(failed(path, error)),
        }
    }

    /// The folder that a name lies in, made if it is not there, and the name in it.
    fn place<'p>(&mut self, path: &'p Path) -> Result<(&OwnedFd, &'p OsStr), Outside> {
        let name = checked(path)?;
        let parent = parent(path);
        let known = self.last.as_ref().is_some_and(|(last, _)| last == parent);
        if !known {
            let fd = self.folder(parent, path)?;
            self.last = Some((parent.to_owned(), fd));
        }
        match &self.last {
            Some((_, fd)) => Ok((fd, name)),
            None => Err(Outside::BadName(path.to_owned())),
        }
    }

    fn folder(&self, parent: &Path, whole: &Path) -> Result<OwnedFd, Outside> {
        match open_in(&self.root, parent, whole) {
            Err(Outside::Failed { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut here = PathBuf::new();
        let mut fd = open_in(&self.root, Path::new("."), whole)?;
        for part in parent.components() {
            here.push(part);
            fd = match open_in(&self.root, &here, whole) {
                Err(Outside::Failed { cause, .. })
                    if cause.kind() == std::io::ErrorKind::NotFound =>
                {
                    // Also when a link of that name leads nowhere: then there is something in the way.
                    mkdirat(&fd, part.as_os_str(), Mode::from_raw_mode(0o755)).map_err(
                        |error| match error {
                            Errno::EXIST => Outside::InTheWay(whole.to_owned()),
                            error => failed(whole, error),
                        },
                    )?;
                    open_in(&self.root, &here, whole)?
                }
                other => other?,
            };
        }
        Ok(fd)
    }
}

/// Sets the time at which a file was last written, in seconds since 1970.
///
/// # Errors
/// Those of `utimensat`.
pub fn set_modified(file: &File, seconds: i64) -> std::io::Result<()> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(futimens(file, &times)?)
}

/// The last name of a path that has only plain names.
fn checked(path: &Path) -> Result<&OsStr, Outside> {
    let bytes = path.as_os_str().as_bytes();
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let tidy = !bytes.is_empty()
        && bytes
            .split(|byte| *byte == b'/')
            .all(|name| !name.is_empty() && name != b"." && name.len() <= 255);
    let short = bytes.len() <= LONGEST && path.components().count() <= DEEPEST;
    match path.file_name() {
        Some(name) if plain && tidy && short => Ok(name),
        _ => Err(Outside::BadName(path.to_owned())),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn in_root() -> ResolveFlags {
    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// A rename elsewhere that raced with the walk makes the kernel ask to try again.
fn again(call: impl Fn() -> rustix::io::Result<OwnedFd>) -> rustix::io::Result<OwnedFd> {
    loop {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn open_in(root: &OwnedFd, path: &Path, whole: &Path) -> Result<OwnedFd, Outside> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    again(|| openat2(root, path, flags, Mode::empty(), in_root())).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => Outside::InTheWay(whole.to_owned()),
        error => failed(whole, error),
    })
}

/// Opens one name in a folder, which is no link.
fn open(folder: &OwnedFd, name: &OsStr, flags: OFlags, whole: &Path) -> Result<OwnedFd, Outside> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    again(|| openat2(folder, name, flags, Mode::empty(), beneath())).map_err(|e| failed(whole, e))
}

fn kind(folder: &OwnedFd, name: &OsStr) -> Option<FileType> {
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

fn same(one: &OwnedFd, name: &OsStr, other: &OwnedFd, second: &OsStr) -> bool {
    let of = |fd: &OwnedFd, name| {
        let stat = statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    let first = of(one, name);
    first.is_some() && first == of(other, second)
}

/// Removes one name in a folder with everything below it, following nothing.
fn remove(folder: &OwnedFd, name: &OsStr, whole: &Path) -> Result<(), Outside> {
    match kind(folder, name) {
        None => Ok(()),
        Some(FileType::Directory) => {
            let inside = open(folder, name, OFlags::RDONLY | OFlags::DIRECTORY, whole)?;
            clear(&inside, whole)?;
            unlinkat(folder, name, AtFlags::REMOVEDIR).map_err(|e| failed(whole, e))
        }
        Some(_) => unlinkat(folder, name, AtFlags::empty()).map_err(|e| failed(whole, e)),
    }
}

/// Removes what is in an open folder. Folders lie as deep as names may be, so that this ends.
fn clear(folder: &OwnedFd, whole: &Path) -> Result<(), Outside> {
    for name in names(folder, whole)? {
        remove(folder, &name, whole)?;
    }
    Ok(())
}

fn names(folder: &OwnedFd, whole: &Path) -> Result<Vec<std::ffi::OsString>, Outside> {
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(folder.as_fd(), &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|e| failed(whole, e))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    struct Made {
        temp: tempfile::TempDir,
        tree: Tree,
    }

    impl Made {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            std::fs::create_dir(temp.path().join("root")).unwrap();
            std::fs::create_dir(temp.path().join("outside")).unwrap();
            std::fs::write(temp.path().join("outside/secret"), "secret").unwrap();
            let root = File::open(temp.path().join("root")).unwrap();
            Self {
                temp,
                tree: Tree::new(root.into()),
            }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.temp.path().join("root").join(name)
        }

        fn file(&mut self, name: &str, text: &str) {
            let mut file = self.tree.make_file(Path::new(name), 0o644).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        /// Nothing outside was touched.
        fn untouched(&self) {
            let outside = self.temp.path().join("outside");
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
            assert_eq!(
                std::fs::read_to_string(outside.join("secret")).unwrap(),
                "secret"
            );
            assert_eq!(
                std::fs::metadata(outside.join("secret")).unwrap().nlink(),
                1
            );
            assert_eq!(std::fs::read_dir(self.temp.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn files_folders_and_links_are_made_and_replaced() {
        let mut made = Made::new();
        made.file("a/b/c", "one");
        made.file("a/b/c", "two");
        assert_eq!(std::fs::read_to_string(made.at("a/b/c")).unwrap(), "two");
        made.tree
            .make_link(Path::new("a/l"), Path::new("b"))
            .unwrap();
        made.file("a/l/d", "through a link inside");
        assert!(made.at("a/b/d").is_file());
        made.tree.make_folder(Path::new("a/l"), 0o750).unwrap();
        assert!(made.at("a/l").is_dir() && !made.at("a/l").is_symlink());
        assert_eq!(
            std::fs::metadata(made.at("a/l")).unwrap().mode() & 0o777,
            0o750
        );
        made.file("a", "a file where a folder was");
        assert!(made.at("a").is_file());
        made.untouched();
    }

    #[test]
    fn a_link_that_leads_out_leads_to_the_root() {
        let mut made = Made::new();
        let outside = made.temp.path().join("outside");
        for target in [outside.to_str().unwrap(), "../outside", "/../../outside"] {
            made.tree.remove(Path::new("out")).unwrap();
            symlink(target, made.at("out")).unwrap();
            // In a root of its own this is a name that is not there.
            assert!(matches!(
                made.tree.make_file(Path::new("out/new"), 0o644),
                Err(Outside::InTheWay(_))
            ));
            made.tree.clear(Path::new("out")).unwrap();
            made.tree.remove(Path::new("out/secret")).unwrap();
            let link = made
                .tree
                .make_hard_link(Path::new("mine"), Path::new("out/secret"));
            assert!(link.is_err());
            made.untouched();
        }
        symlink("/", made.at("top")).unwrap();
        made.file("top/x", "below the root");
        assert!(made.at("x").is_file());
        made.untouched();
    }

    #[test]
    fn a_name_that_is_a_link_is_replaced_and_not_written_through() {
        let mut made = Made::new();
        let secret = made.temp.path().join("outside/secret");
        symlink(&secret, made.at("f")).unwrap();
        made.file("f", "mine");
        assert!(!made.at("f").is_symlink());
        symlink(&secret, made.at("g")).unwrap();
        made.tree.make_folder(Path::new("g"), 0o777).unwrap();
        symlink(&secret, made.at("h")).unwrap();
        made.tree
            .make_hard_link(Path::new("i"), Path::new("h"))
            .unwrap();
        assert!(made.at("i").is_symlink(), "the link itself has two names");
        made.file("i", "mine");
        made.untouched();
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let mut made = Made::new();
        let deep = "d/".repeat(100) + "d";
        let long = "n".repeat(256);
        for name in [
            "",
            ".",
            "..",
            "../x",
            "/x",
            "a/../../x",
            "a/",
            "a//b",
            "./a",
            &deep,
            &long,
        ] {
            let path = Path::new(name);
            assert!(
                matches!(made.tree.make_file(path, 0o644), Err(Outside::BadName(_))),
                "{name}"
            );
            assert!(
                matches!(made.tree.make_folder(path, 0o755), Err(Outside::BadName(_))),
                "{name}"
            );
            assert!(matches!(
                made.tree.make_link(path, Path::new("x")),
                Err(Outside::BadName(_))
            ));
            assert!(matches!(made.tree.remove(path), Err(Outside::BadName(_))));
            let link = made.tree.make_hard_link(Path::new("mine"), path);
            assert!(matches!(link, Err(Outside::BadName(_))), "{name}");
        }
        made.untouched();
    }

    #[test]
    fn no_bit_that_gives_rights_is_set() {
        let mut made = Made::new();
        drop(made.tree.make_file(Path::new("s"), 0o6755).unwrap());
        made.tree.make_folder(Path::new("d"), 0o3777).unwrap();
        for name in ["s", "d"] {
            let mode = std::fs::metadata(made.at(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7000, 0, "{name}");
        }
    }

    #[test]
    fn what_is_removed_goes_whole_and_follows_nothing() {
        let mut made = Made::new();
        made.file("a/b/c", "x");
        symlink(made.temp.path().join("outside"), made.at("a/b/out")).unwrap();
        made.tree.clear(Path::new("a")).unwrap();
        assert!(made.at("a").is_dir() && !made.at("a/b").exists());
        made.file("a/b/c", "x");
        made.tree.remove(Path::new("a")).unwrap();
        assert!(!made.at("a").exists());
        made.tree.remove(Path::new("never/was")).unwrap();
        made.file("top", "x");
        made.tree.clear(Path::new("")).unwrap();
        assert_eq!(std::fs::read_dir(made.at("")).unwrap().count(), 0);
        made.untouched();
    }

    #[test]
    fn a_file_is_found_as_it_will_be_in_the_root() {
        let mut made = Made::new();
        made.file("usr/bin/python3.11", "x");
        symlink("python3.11", made.at("usr/bin/python3")).unwrap();
        symlink("/usr/bin", made.at("bin")).unwrap();
        let (_, real) = made.tree.open_file(Path::new("bin/python3")).unwrap();
        assert_eq!(real, Path::new("/usr/bin/python3.11"));
        symlink(made.temp.path().join("outside/secret"), made.at("out")).unwrap();
        assert!(made.tree.open_file(Path::new("out")).is_err());
        assert!(made.tree.open_file(Path::new("usr")).is_err());
    }
}
