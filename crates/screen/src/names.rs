//! Names: one spelling for what has several, and the builtins.

use std::borrow::Cow;
use std::rc::Rc;

use smallvec::SmallVec;

/// The longest qualified name, in bytes.
const MAX_NAME: usize = 200;

pub(crate) fn member(base: &str, name: &str) -> Option<Rc<str>> {
    joined(&[base, ".", name], |name| canonical(name).into())
}

pub(crate) fn join(base: &str, suffix: &str) -> Option<Rc<str>> {
    joined(&[base, suffix], |name| name.into())
}

/// What is made of a name that is put together, without the heap; nothing where it is too long.
fn joined<T>(parts: &[&str], make: impl FnOnce(&str) -> T) -> Option<T> {
    let mut name = SmallVec::<[u8; 256]>::new();
    for part in parts {
        if name.len() + part.len() > MAX_NAME {
            return None;
        }
        name.extend_from_slice(part.as_bytes());
    }
    str::from_utf8(&name).ok().map(make)
}

pub(crate) fn cut(name: &str) -> String {
    name.chars().take(MAX_NAME / 4).collect()
}

/// Whether a module's functions matter wherever they are reached from: `queue.threading._os.system` is
/// `os.system`.
fn matters(module: &str) -> bool {
    matches!(
        module,
        "os" | "sys"
            | "subprocess"
            | "socket"
            | "ctypes"
            | "importlib"
            | "posix"
            | "nt"
            | "builtins"
            | "__builtins__"
            | "pty"
    )
}

/// One spelling for what has several.
pub(crate) fn canonical(name: &str) -> Cow<'_, str> {
    let mut name = name
        .strip_prefix("builtins.__builtins__")
        .map_or(Cow::Borrowed(name), |rest| {
            ["builtins", rest].concat().into()
        });
    if let Some(start) = reached(&name) {
        name = from(name, start);
    }
    if let Some(rest) = name.strip_prefix("builtins__") {
        name = ["builtins", rest].concat().into();
    }
    const PREFIXES: &[(&str, &str)] = &[
        ("posixpath", "os.path"),
        ("ntpath", "os.path"),
        ("genericpath", "os.path"),
        ("posix", "os"),
        ("nt", "os"),
        ("_io", "io"),
        ("_socket", "socket"),
        ("_ctypes", "ctypes"),
        ("_pickle", "pickle"),
        ("cPickle", "pickle"),
        ("urllib2", "urllib.request"),
        ("importlib._bootstrap", "importlib"),
    ];
    let first = name.as_bytes().first();
    for (from, to) in PREFIXES {
        if from.as_bytes().first() == first
            && let Some(rest) = name.strip_prefix(from)
            && (rest.is_empty() || rest.starts_with('.'))
        {
            name = [to, rest].concat().into();
            break;
        }
    }
    match &*name {
        "io.open" => "builtins.open".into(),
        "pathlib.PosixPath" | "pathlib.WindowsPath" | "pathlib.PurePosixPath" => {
            "pathlib.Path".into()
        }
        _ => name,
    }
}

/// A name from an offset on, without the underscores there.
fn from(name: Cow<'_, str>, start: usize) -> Cow<'_, str> {
    match name {
        Cow::Borrowed(name) => tail(name, start).into(),
        Cow::Owned(name) => tail(&name, start).to_owned().into(),
    }
}

fn tail(name: &str, start: usize) -> &str {
    name.get(start..).unwrap_or("").trim_start_matches('_')
}

/// Where the last segment that names a module that [`matters`] starts, when it is not the first.
fn reached(name: &str) -> Option<usize> {
    let mut start = 0;
    let mut found = None;
    let mut before = "";
    for segment in name.split('.') {
        let bare = segment.trim_start_matches('_');
        // `socket.socket` is a class of the module, not the module reached through itself.
        let module = bare != before && (matters(bare) || matters(segment));
        if start > 0 && module {
            found = Some(start);
        }
        before = bare;
        start += segment.len() + 1;
    }
    found
}

/// Builtins that are known by their names.
pub(crate) fn is_builtin(name: &str) -> bool {
    matches!(
        name,
        "__import__"
            | "__builtins__"
            | "__loader__"
            | "__spec__"
            | "open"
            | "eval"
            | "exec"
            | "execfile"
            | "compile"
            | "delattr"
            | "setattr"
            | "globals"
            | "locals"
            | "object"
            | "input"
            | "breakpoint"
            | "help"
            | "exit"
            | "quit"
            | "memoryview"
            | "print"
            | "super"
            | "staticmethod"
            | "classmethod"
            | "get_ipython"
    ) || is_plain(name)
}

/// Builtins that only compute. They are followed and not worth a fact.
pub(crate) fn is_plain(name: &str) -> bool {
    matches!(
        name,
        "getattr"
            | "vars"
            | "chr"
            | "ord"
            | "str"
            | "bytes"
            | "bytearray"
            | "type"
            | "int"
            | "hex"
            | "oct"
            | "bin"
            | "len"
            | "range"
            | "list"
            | "tuple"
            | "set"
            | "frozenset"
            | "dict"
            | "sorted"
            | "reversed"
            | "enumerate"
            | "zip"
            | "map"
            | "filter"
            | "iter"
            | "next"
            | "format"
            | "repr"
            | "abs"
            | "any"
            | "all"
            | "sum"
            | "min"
            | "max"
            | "bool"
            | "ascii"
            | "isinstance"
            | "hasattr"
            | "callable"
            | "id"
            | "hash"
            | "pow"
            | "divmod"
            | "slice"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_has_one_spelling() {
        for (name, expected) in [
            ("posix.system", "os.system"),
            ("queue.threading._os.system", "os.system"),
            ("builtins.__builtins__.eval", "builtins.eval"),
            ("a.__builtins__.eval", "builtins.eval"),
            ("io.open", "builtins.open"),
            ("posixpath.join", "os.path.join"),
            ("os.path.join", "os.path.join"),
            ("ntplib.x", "ntplib.x"),
            ("socket.socket", "socket.socket"),
            ("http.client.socket.socket", "socket.socket"),
            ("pandas.io.common.os.system", "os.system"),
        ] {
            assert_eq!(canonical(name), expected, "{name}");
        }
    }
}
