//! Paths as callers mean them.

use std::path::{Component, Path, PathBuf};

/// A path as a user means it: absolute, or below the user's home. `~` is the home, and so is no path at all unless
/// there is a working folder.
#[must_use]
pub fn resolve(home: &Path, workdir: Option<&str>, path: &str) -> PathBuf {
    let path = match path {
        "" => home.join(workdir.unwrap_or_default()),
        "~" => home.to_owned(),
        _ => home.join(path.strip_prefix("~/").unwrap_or(path)),
    };
    cleaned(&path)
}

/// An absolute path without `.`, `..` and empty parts, by its words alone.
fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// A path as text; what is no UTF-8 in it is shown as such.
#[must_use]
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The last part of a path: `/` has none but itself.
#[must_use]
pub fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_words() {
        for (path, clean) in [
            ("/home/u/./a//b/", "/home/u/a/b"),
            ("/home/u/../x", "/home/x"),
            ("/../../x", "/x"),
            ("/", "/"),
        ] {
            assert_eq!(cleaned(Path::new(path)), Path::new(clean));
        }
    }

    #[test]
    fn a_path_is_below_the_home_unless_it_says_otherwise() {
        let home = Path::new("/home/u");
        for (path, workdir, meant) in [
            ("", None, "/home/u"),
            ("", Some("w"), "/home/u/w"),
            ("", Some("/w"), "/w"),
            ("~", Some("w"), "/home/u"),
            ("~/a", None, "/home/u/a"),
            ("a/../b", Some("w"), "/home/u/b"),
            ("/a", None, "/a"),
        ] {
            assert_eq!(resolve(home, workdir, path), Path::new(meant), "{path}");
        }
    }
}
