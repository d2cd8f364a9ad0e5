//! The file tree: nothing leaves it, nothing read-only changes, everything made is counted.

use super::*;

fn tree(bytes: u64, files: u64) -> Tree {
    let mut base = Base::new();
    base.add(0, "/usr/local/lib/x.zip", Blob::from_vec(b"zip".to_vec()))
        .unwrap();
    let quota = Quota {
        bytes_allowed: bytes,
        files_allowed: files,
        ..Quota::default()
    };
    let mut tree = Tree::new(Arc::new(base), quota).unwrap();
    tree.place("/data/in.csv", Blob::from_vec(b"a,b".to_vec()))
        .unwrap();
    tree
}

fn make(tree: &mut Tree, path: &str, kind: Kind) -> Result<Ino, Errno> {
    let spot = tree.spot(tree.root(), path, false)?;
    tree.create(&spot, kind, 1)
}

fn file(tree: &mut Tree, path: &str) -> Result<Ino, Errno> {
    make(tree, path, Kind::Written(Vec::new()))
}

fn link(tree: &mut Tree, target: &str, path: &str) {
    make(tree, path, Kind::Link(target.to_owned())).unwrap();
}

#[test]
fn no_path_leaves_the_tree() {
    let mut tree = tree(1000, 100);
    let root = tree.root();
    for path in ["..", "../..", "/../../..", "tmp/../..", "usr/../.."] {
        assert_eq!(tree.resolve(root, path, true), Ok(root), "{path}");
    }
    link(&mut tree, "../../../../../..", "tmp/up");
    assert_eq!(tree.resolve(root, "tmp/up", true), Ok(root));
    assert_eq!(
        tree.resolve(root, "tmp/up/etc/passwd", true),
        Err(Errno::NoEnt)
    );
}

#[test]
fn loops_of_links_end() {
    let mut tree = tree(1000, 100);
    link(&mut tree, "/tmp/b", "tmp/a");
    link(&mut tree, "/tmp/a", "tmp/b");
    link(&mut tree, "self/self/self", "tmp/self");
    for path in ["tmp/a", "tmp/a/x", "tmp/self"] {
        assert_eq!(
            tree.resolve(tree.root(), path, true),
            Err(Errno::Loop),
            "{path}"
        );
    }
}

#[test]
fn inputs_and_library_cannot_be_changed_by_any_call() {
    let mut tree = tree(1000, 100);
    let root = tree.root();
    for path in ["data/in.csv", "usr/local/lib/x.zip"] {
        let spot = tree.spot(root, path, false).unwrap();
        let ino = spot.found.unwrap();
        assert_eq!(tree.write(ino, 0, b"x", 1), Err(Errno::RoFs), "{path}");
        assert_eq!(tree.resize(ino, 0, 1), Err(Errno::RoFs), "{path}");
        assert_eq!(tree.unlink(&spot, false, 1), Err(Errno::RoFs), "{path}");
        let away = tree.spot(root, "tmp/away", false).unwrap();
        assert_eq!(tree.rename(&spot, &away, 1), Err(Errno::RoFs), "{path}");
        assert_eq!(tree.hard_link(ino, &away), Err(Errno::RoFs), "{path}");
        let made = file(&mut tree, "tmp/over").unwrap();
        let over = tree.spot(root, "tmp/over", false).unwrap();
        assert_eq!(tree.rename(&over, &spot, 1), Err(Errno::RoFs), "{path}");
        tree.unlink(&over, false, 1).unwrap();
        assert!(tree.node(made).is_err());
    }
    assert_eq!(file(&mut tree, "data/new"), Err(Errno::RoFs));
    assert_eq!(file(&mut tree, "new"), Err(Errno::RoFs));
    assert_eq!(
        tree.content(tree.resolve(root, "data/in.csv", true).unwrap()),
        Ok(&b"a,b"[..])
    );
}

#[test]
fn an_input_by_its_second_name_is_as_fixed_as_by_its_first() {
    let mut tree = tree(1000, 100);
    let root = tree.root();
    let (work, ino) = (
        tree.resolve(root, "work", false).unwrap(),
        tree.resolve(root, "data/in.csv", false).unwrap(),
    );
    tree.alias(work, "in.csv", ino).unwrap();
    let second = tree.resolve(root, "work/in.csv", true).unwrap();
    assert_eq!(tree.write(second, 0, b"x", 1), Err(Errno::RoFs));
    let spot = tree.spot(root, "work/in.csv", false).unwrap();
    tree.unlink(&spot, false, 1).unwrap();
    assert_eq!(tree.content(ino), Ok(&b"a,b"[..]));
    assert!(tree.left_behind().is_empty());
}

#[test]
fn bytes_are_counted_before_they_exist_and_given_back() {
    let mut tree = tree(100, 10);
    let ino = file(&mut tree, "tmp/a").unwrap();
    assert_eq!(tree.write(ino, 0, &[1; 100], 1), Ok(100));
    assert_eq!(tree.write(ino, 100, b"x", 1), Err(Errno::NoSpc));
    assert_eq!(tree.quota.bytes_refused, Some(101));
    // A hole costs what it seems to hold.
    assert_eq!(tree.resize(ino, u64::MAX, 1), Err(Errno::NoSpc));
    assert_eq!(tree.write(ino, u64::MAX, b"x", 1), Err(Errno::FBig));
    tree.resize(ino, 10, 1).unwrap();
    assert_eq!((tree.quota.bytes, tree.quota.bytes_peak), (10, 100));
    let spot = tree.spot(tree.root(), "tmp/a", false).unwrap();
    tree.opened(ino);
    tree.unlink(&spot, false, 1).unwrap();
    assert_eq!(tree.quota.bytes, 10, "an open file still holds its bytes");
    tree.closed(ino).unwrap();
    assert_eq!((tree.quota.bytes, tree.quota.files), (0, 0));
}

#[test]
fn files_folders_and_links_are_counted() {
    let mut tree = tree(1000, 3);
    file(&mut tree, "tmp/a").unwrap();
    make(&mut tree, "tmp/d", Kind::Dir(BTreeMap::new())).unwrap();
    link(&mut tree, "x", "tmp/l");
    assert_eq!(file(&mut tree, "tmp/b"), Err(Errno::NoSpc));
    assert_eq!(tree.quota.files_refused, Some(4));
    let spot = tree.spot(tree.root(), "tmp/d", false).unwrap();
    tree.unlink(&spot, true, 1).unwrap();
    assert!(file(&mut tree, "tmp/b").is_ok());
}

#[test]
fn renaming_follows_posix() {
    let mut tree = tree(1000, 100);
    let root = tree.root();
    make(&mut tree, "tmp/d", Kind::Dir(BTreeMap::new())).unwrap();
    make(&mut tree, "tmp/d/e", Kind::Dir(BTreeMap::new())).unwrap();
    file(&mut tree, "tmp/d/e/f").unwrap();
    file(&mut tree, "tmp/g").unwrap();
    let at = |tree: &Tree, path: &str| tree.spot(root, path, false).unwrap();
    let (d, inside, e, g) = (
        at(&tree, "tmp/d"),
        at(&tree, "tmp/d/e/d"),
        at(&tree, "tmp/d/e"),
        at(&tree, "tmp/g"),
    );
    assert_eq!(
        tree.rename(&d, &inside, 1),
        Err(Errno::Inval),
        "a folder into itself"
    );
    assert_eq!(tree.rename(&d, &g, 1), Err(Errno::NotDir));
    assert_eq!(tree.rename(&g, &d, 1), Err(Errno::IsDir));
    let moved = at(&tree, "work/e");
    tree.rename(&e, &moved, 1).unwrap();
    assert!(tree.resolve(root, "work/e/f", true).is_ok());
    assert_eq!(
        tree.resolve(root, "work/e/..", true),
        tree.resolve(root, "work", true)
    );
    let over = at(&tree, "work/e/f");
    tree.rename(&g, &over, 1).unwrap();
    assert_eq!(tree.quota.files, 3, "what was replaced is gone");
}

#[test]
fn what_was_left_is_found_without_following_links() {
    let mut tree = tree(1000, 100);
    let ino = file(&mut tree, "tmp/a").unwrap();
    tree.write(ino, 0, b"12345", 1).unwrap();
    make(&mut tree, "work/d", Kind::Dir(BTreeMap::new())).unwrap();
    file(&mut tree, "work/d/b").unwrap();
    link(&mut tree, "/data/in.csv", "tmp/l");
    link(&mut tree, "/", "tmp/all");
    let left: Vec<(String, u64)> = tree
        .left_behind()
        .into_iter()
        .map(|file| (file.path, file.size))
        .collect();
    assert_eq!(
        left,
        [("/tmp/a".to_owned(), 5), ("/work/d/b".to_owned(), 0)]
    );
}

#[test]
fn names_and_ends_that_are_not_folders_are_refused() {
    let mut tree = tree(1000, 100);
    file(&mut tree, "tmp/a").unwrap();
    let root = tree.root();
    assert_eq!(tree.resolve(root, "tmp/a/b", true), Err(Errno::NotDir));
    assert_eq!(tree.resolve(root, "tmp/a/", true), Err(Errno::NotDir));
    assert_eq!(
        tree.resolve(root, &"x".repeat(256), true),
        Err(Errno::NameTooLong)
    );
    assert_eq!(file(&mut tree, "tmp/a"), Err(Errno::Exist));
    assert_eq!(file(&mut tree, "tmp/none/a"), Err(Errno::NoEnt));
}
