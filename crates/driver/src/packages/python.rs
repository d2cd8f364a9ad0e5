//! The system's own Python.

use std::path::Path;

/// The interpreter of the guest: the system's own.
pub const PYTHON: &str = "/usr/bin/python3";
/// The oldest Python that the pinned packages and the driver run on.
const OLDEST: (u32, u32) = (3, 11);

/// The guest, by version.
pub fn guest() -> String {
    match python() {
        Ok((major, minor)) => format!(
            "CPython {major}.{minor} of the host, with pandas 3.1.1, numpy, matplotlib 3.11.2 and IPython 9.18.1"
        ),
        Err((why, _)) => why,
    }
}

/// The version of the system's Python, or why there is none to use and what to do.
pub fn python() -> Result<(u32, u32), (String, String)> {
    let fix = "install Python 3.11 or newer as the system's own (Debian 12 or newer: apt-get install python3)";
    let found = version(Path::new(PYTHON))
        .ok_or_else(|| (format!("there is no Python at {PYTHON}"), fix.to_owned()))?;
    if found < OLDEST {
        let (major, minor) = found;
        let why = format!("{PYTHON} is {major}.{minor}; the guest's packages need 3.11 or newer");
        return Err((why, fix.to_owned()));
    }
    Ok(found)
}

/// Every distribution names the file that `python3` leads to after its version.
fn version(path: &Path) -> Option<(u32, u32)> {
    let real = std::fs::canonicalize(path).ok()?;
    let name = real.file_name()?.to_str()?;
    let (major, minor) = name.strip_prefix("python")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("python3");
        assert_eq!(version(&link), None);
        std::fs::write(dir.path().join("python3.9"), "").unwrap();
        std::os::unix::fs::symlink("python3.9", &link).unwrap();
        assert_eq!(version(&link), Some((3, 9)));
        assert!((3, 9) < OLDEST);
    }
}
