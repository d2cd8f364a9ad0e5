//! The host's own system, and a virtual environment of the user's beside it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Interpreters, System};
use crate::packages::{Opened, PYTHON, Store, guest, python};

/// Where the host's interpreters are.
const BASH: &str = "/usr/bin/bash";
const NODE: [&str; 2] = ["/usr/bin/node", "/usr/bin/nodejs"];

/// The interpreters that the host's own system has.
#[must_use]
pub fn interpreters() -> Interpreters {
    let there = |path: &str| is_program(Path::new(path)).then(|| path.to_owned());
    Interpreters {
        python: python().is_ok().then(|| PYTHON.to_owned()),
        bash: there(BASH),
        javascript: NODE.into_iter().find_map(there),
    }
}

/// A file that can be executed, and is seen in a sandbox: what an operator installed by hand is not.
fn is_program(path: &Path) -> bool {
    let real = std::fs::canonicalize(path);
    real.is_ok_and(|real| {
        let shown = real.starts_with("/usr") && !real.starts_with("/usr/local");
        let meta = real.metadata();
        shown && meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// The host's own system with our packages, and with those of a virtual environment.
///
/// # Errors
/// Why it cannot be had, and what to do.
pub fn host(store: &Store, venv: Option<&Path>) -> Result<System, (String, String)> {
    let version = python()?;
    let packages = store.opened().map_err(|error| {
        let fix = "run `casemate setup --backend jail`".to_owned();
        (error.to_string(), fix)
    })?;
    let venv = venv.map(|dir| open_venv(dir, version)).transpose()?;
    let beside = venv.as_ref().map(|venv| format!(", and {}", venv.path));
    Ok(System {
        described: format!("{}{}", guest(), beside.unwrap_or_default()),
        root: None,
        packages,
        venv,
        interpreters: interpreters(),
        env: Vec::new(),
    })
}

/// The packages of a virtual environment, opened and checked.
fn open_venv(dir: &Path, version: (u32, u32)) -> Result<Opened, (String, String)> {
    let (major, minor) = version;
    let again = format!("make one with {PYTHON} -m venv DIR");
    let lack = |why: String| (format!("--venv {}: {why}", dir.display()), again.clone());
    let real = std::fs::canonicalize(dir).map_err(|error| lack(error.to_string()))?;
    if !real.join("pyvenv.cfg").is_file() {
        return Err(lack(
            "it is not a virtual environment: it has no pyvenv.cfg".to_owned(),
        ));
    }
    let packages = real.join(format!("lib/python{major}.{minor}/site-packages"));
    if !packages.is_dir() {
        let has = pythons(&real).join(", ");
        return Err(lack(format!(
            "it is for another Python ({has}); sandboxes run {PYTHON}, which is {major}.{minor}"
        )));
    }
    Opened::open(&packages, true).map_err(|why| {
        let fix = "a folder that others can write is no place for code: chmod go-w it, after a look at it";
        (why, fix.to_owned())
    })
}

fn pythons(venv: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(venv.join("lib")).into_iter().flatten();
    let names = entries
        .flatten()
        .map(|entry| PathBuf::from(entry.file_name()));
    let mut names: Vec<String> = names.map(|name| name.display().to_string()).collect();
    if names.is_empty() {
        names.push("none".to_owned());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_environment_is_taken_for_the_same_python_and_from_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |part: &str| {
            let (why, fix) = open_venv(dir.path(), (3, 11)).unwrap_err();
            assert!(why.contains(part), "{why}");
            assert!(!fix.is_empty());
        };
        refused("no pyvenv.cfg");
        std::fs::write(dir.path().join("pyvenv.cfg"), "home = /usr/bin\n").unwrap();
        std::fs::create_dir_all(dir.path().join("lib/python3.9/site-packages")).unwrap();
        refused("python3.9");
        let packages = dir.path().join("lib/python3.11/site-packages");
        std::fs::create_dir_all(&packages).unwrap();
        assert!(open_venv(dir.path(), (3, 11)).is_ok());
        std::fs::set_permissions(&packages, std::fs::Permissions::from_mode(0o777)).unwrap();
        refused("others may write");
        assert!(open_venv(&dir.path().join("none"), (3, 11)).is_err());
    }

    #[test]
    fn programs_are_those_that_a_sandbox_shows() {
        assert!(is_program(Path::new("/usr/bin/env")));
        assert!(!is_program(Path::new("/usr/bin")));
        assert!(!is_program(Path::new("/etc/hostname")));
        assert!(!is_program(Path::new("/nonexistent")));
    }
}
