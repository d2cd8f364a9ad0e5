//! Filling the folder: pip for what is pinned, the driver from this program, compiled once.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_backend::setup::{Progress, SetupError, Unit};
use casemate_linux::{Exit, Spawn};

use super::python::PYTHON;
use super::store::SHOWN;
use crate::guest;

/// Packages by version and hash.
const REQUIREMENTS: &str = include_str!("../../../../images/host/requirements.txt");
/// What the driver itself is made of, beside its own modules: plain Python for every version.
const FOR_THE_DRIVER: [&str; 6] = [
    "ipython",
    "ipython-pygments-lexers",
    "matplotlib-inline",
    "pygments",
    "traitlets",
    "typing-extensions",
];
/// About what the packages take on disk before they are compiled.
const PACKAGES_BYTES: u64 = 190 << 20;
/// How long one step of Python's may take.
const STEP_WITHIN: Duration = Duration::from_secs(600);

/// Everything that decides what a set-up holds, by name.
pub(super) fn pinned() -> impl Iterator<Item = (&'static str, &'static str)> {
    let driver = guest::SHARED.iter().chain(guest::NATIVE).copied();
    std::iter::once(("requirements.txt", REQUIREMENTS)).chain(driver)
}

/// What the driver needs on any Python, by version and hash: lines for pip.
#[must_use]
pub fn pinned_for_the_driver() -> String {
    let mut kept = String::new();
    let mut keep = false;
    for line in REQUIREMENTS.lines() {
        // A requirement begins a line; its hashes follow on lines that are set in.
        if !line.starts_with([' ', '#']) {
            let name = line.split("==").next().unwrap_or_default();
            keep = FOR_THE_DRIVER.contains(&name);
        }
        if keep && !line.starts_with('#') {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn site_packages(staging: &Path) -> PathBuf {
    staging.join(SHOWN).join("site-packages")
}

/// Installs what is pinned with the user's own index, mirrors, certificates and credentials.
pub(super) fn packages(staging: &Path, progress: &dyn Progress) -> Result<(), SetupError> {
    let io_error = |error| SetupError::io("writing the requirements", error);
    let requirements = staging.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(io_error)?;
    let target = site_packages(staging);
    fs::create_dir_all(&target).map_err(io_error)?;
    progress.stage(
        "installing pandas, numpy, matplotlib and IPython",
        Some(PACKAGES_BYTES),
        Unit::Bytes,
    );
    let options = [
        "-I",
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--no-compile",
        "--quiet",
        "--root-user-action=ignore",
        "--target",
    ];
    let spawn = options
        .iter()
        .fold(with_users_environment(staging), |spawn, option| {
            spawn.arg(option)
        });
    let spawn = spawn.arg(&target).arg("--requirement").arg(&requirements);
    let (exit, said) = run_to_end(spawn, |_| progress.at(size_of(staging).min(PACKAGES_BYTES)))?;
    if exit != Exit::Code(0) {
        return Err(pip_failed(&said));
    }
    // Programs and data for people; a guest imports.
    for name in ["bin", "share"] {
        remove_dir(&target.join(name))?;
    }
    fs::remove_file(requirements).map_err(io_error)?;
    progress.done("");
    Ok(())
}

/// Writes the driver beside the packages.
pub(super) fn driver(staging: &Path) -> Result<(), SetupError> {
    let io_error = |error| SetupError::io("writing the driver", error);
    let to = site_packages(staging);
    for (name, text) in guest::SHARED.iter().chain(guest::NATIVE) {
        let path = to.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io_error)?;
        }
        fs::write(path, text).map_err(io_error)?;
    }
    Ok(())
}

/// Compiles every module in a folder of ours that a guest sees at `shown`, with the machine's own Python: a guest
/// cannot keep what it compiles. Nothing is executed. Code 1 is a good end: files of other versions of Python that a
/// package carries do not compile and are not needed.
///
/// # Errors
/// Those of [`run_to_end`].
pub fn compile_all(work: &Path, folder: &Path, shown: &str) -> Result<(Exit, String), SetupError> {
    let options = [
        "-I",
        "-S",
        "-m",
        "compileall",
        "-q",
        "-j",
        "0",
        // By content: times are not kept, and nothing in the folder changes again.
        "--invalidation-mode",
        "unchecked-hash",
        // The path that a guest sees.
        "-s",
    ];
    let spawn = options
        .iter()
        .fold(with_users_environment(work), |spawn, option| {
            spawn.arg(option)
        });
    run_to_end(spawn.arg(folder).arg("-p").arg(shown).arg(folder), |_| {})
}

/// Compiles the packages and the driver.
pub(super) fn compile(staging: &Path) -> Result<(), SetupError> {
    let (exit, said) = compile_all(staging, &staging.join(SHOWN), "/opt/casemate")?;
    let made = site_packages(staging).join("casemate_guest/__pycache__");
    match exit {
        Exit::Code(0 | 1) if made.is_dir() => Ok(()),
        _ => Err(SetupError::Guest(format!(
            "compiling: {}",
            last_lines(&said)
        ))),
    }
}

const LIST_FONTS: &str = "import sys; sys.path.append(sys.argv[1]); import matplotlib.font_manager";

/// Lets matplotlib list the fonts, which takes longer than most programs, and keep the list.
pub(super) fn fonts(staging: &Path) -> Result<(), SetupError> {
    let list = staging.join(SHOWN).join("matplotlib");
    fs::create_dir_all(&list).map_err(|error| SetupError::io("listing the fonts", error))?;
    let spawn = Spawn::new(PYTHON)
        .env("PATH", "/usr/bin:/bin")
        // Fonts of the user's own are not in the guest.
        .env("HOME", "/nonexistent")
        .env("MPLCONFIGDIR", &list)
        .env("MPLBACKEND", "agg")
        .arg("-I")
        .arg("-S")
        .arg("-B")
        .arg("-c")
        .arg(LIST_FONTS)
        .arg(site_packages(staging));
    let (exit, said) = run_to_end(spawn, |_| {})?;
    if exit == Exit::Code(0) {
        Ok(())
    } else {
        Err(SetupError::Guest(format!(
            "matplotlib: {}",
            last_lines(&said)
        )))
    }
}

/// The system's Python with the user's environment, which holds pip's settings. It dies with this
/// process, so that an interrupted set-up leaves nothing running. `staging` is for its temporary files.
#[must_use]
pub fn with_users_environment(staging: &Path) -> Spawn {
    let ours = ["TMPDIR", "PYTHONHOME", "PYTHONPATH"];
    std::env::vars_os()
        .filter(|(name, _)| !ours.iter().any(|other| name == other))
        .fold(Spawn::new(PYTHON), |spawn, (name, value)| {
            spawn.env(name, value)
        })
        .env("TMPDIR", staging)
}

/// Runs a program to its end, ten minutes at most: how it ended and what it said on standard error,
/// at most 64 KiB. `look` is called ten times a second.
///
/// # Errors
/// When it cannot be started or waited for.
pub fn run_to_end(
    spawn: Spawn,
    mut look: impl FnMut(Duration),
) -> Result<(Exit, String), SetupError> {
    let io_error = |error| SetupError::io(format!("running {PYTHON}"), error);
    let (said, to_us) = io::pipe().map_err(io_error)?;
    let mut child = spawn.fd(&to_us, 2).spawn().map_err(io_error)?;
    drop(to_us);
    // Read apart, so that a full pipe cannot stop it while we watch. What it said is only shown; what
    // cannot be read of it is not missed.
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut said = said;
        (&mut said)
            .take(64 * 1024)
            .read_to_end(&mut text)
            .unwrap_or_default();
        io::copy(&mut said, &mut io::sink()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    });
    let begun = std::time::Instant::now();
    let finished = loop {
        if let Some(finished) = child
            .wait_timeout(Duration::from_millis(100))
            .map_err(io_error)?
        {
            break finished;
        }
        if begun.elapsed() > STEP_WITHIN {
            child.kill().map_err(io_error)?;
        }
        look(begun.elapsed());
    };
    Ok((finished.exit, reader.join().unwrap_or_default()))
}

fn pip_failed(said: &str) -> SetupError {
    let fix = if said.contains("DO NOT MATCH THE HASHES") {
        "the index gave another file than the one that was pinned; nothing of it was used: check your package index"
    } else if said.contains("No module named pip") {
        "install pip for the system's Python (Debian: apt-get install python3-pip)"
    } else {
        "check the network and pip's index settings (`pip config list`)"
    };
    SetupError::Fetch {
        what: format!(
            "pip could not install the jail's packages:\n    {}",
            last_lines(said)
        ),
        fix: fix.into(),
    }
}

/// The last lines of what a program said.
#[must_use]
pub fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(6)..].join("\n    ")
}

fn remove_dir(dir: &Path) -> Result<(), SetupError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SetupError::io(format!("removing {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}

fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_is_pinned_by_version_and_hash() {
        let joined = REQUIREMENTS.replace("\\\n", " ");
        let lines: Vec<&str> = joined
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
            .collect();
        for name in ["pandas==", "numpy==", "matplotlib==", "ipython=="] {
            assert!(lines.iter().any(|line| line.starts_with(name)), "{name}");
        }
        for line in lines {
            assert!(
                line.contains("==") && line.contains("--hash=sha256:"),
                "{line}"
            );
        }
    }

    #[test]
    fn the_driver_s_own_requirements_are_whole() {
        let kept = pinned_for_the_driver();
        for name in FOR_THE_DRIVER {
            let line = kept
                .lines()
                .find(|line| line.starts_with(&format!("{name}==")));
            assert!(line.is_some(), "{name}");
        }
        let requirements = kept.lines().filter(|line| line.contains("=="));
        assert_eq!(requirements.count(), FOR_THE_DRIVER.len());
        assert!(kept.matches("--hash=sha256:").count() >= FOR_THE_DRIVER.len());
        assert!(!kept.contains("numpy"));
    }

    #[test]
    fn what_pip_said_leads_to_a_way_out() {
        for (said, fix) in [
            ("No module named pip", "python3-pip"),
            (
                "THESE PACKAGES DO NOT MATCH THE HASHES",
                "nothing of it was used",
            ),
            ("connection refused", "pip config list"),
        ] {
            assert!(pip_failed(said).to_string().contains(fix), "{said}");
        }
    }
}
