//! The machine's own pip, for the Python of an image: it fetches and unpacks wheels. Nothing of the image and
//! nothing of a package is executed.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use casemate_driver::packages::{
    PYTHON, compile_all, last_lines, python, run_to_end, with_users_environment,
};
use casemate_linux::Exit;
use serde::Deserialize;

use crate::{ImageError, Package};

/// Bytes of pip's report that are read.
const REPORT_MAX: u64 = 64 << 20;

/// What is to be installed.
pub(crate) struct Pip<'a> {
    /// The version of the image's Python.
    pub(crate) python: (u32, u32),
    /// Lines of a requirements file.
    pub(crate) requirements: &'a str,
    /// Whether every one comes with its hash, and nothing else is to be fetched.
    pub(crate) pinned: bool,
    /// What they are, in words.
    pub(crate) what: &'a str,
}

impl Pip<'_> {
    /// Installs into a folder, with the user's own index, mirrors, certificates and credentials. `work` is for
    /// files that are needed meanwhile.
    pub(crate) fn install(
        &self,
        work: &Path,
        to: &Path,
        look: &dyn Fn(),
    ) -> Result<Vec<Package>, ImageError> {
        python().map_err(|(why, fix)| ImageError::failed("installing packages", why, fix))?;
        let failed = |error| ImageError::io("writing the requirements", error);
        let requirements = work.join("requirements.txt");
        let report = work.join("report.json");
        fs::write(&requirements, self.requirements).map_err(failed)?;
        let version = format!("{}.{}", self.python.0, self.python.1);
        let mut options = vec![
            "-I",
            "-m",
            "pip",
            "install",
            // No package's own program runs here.
            "--only-binary=:all:",
            "--implementation=cp",
            "--disable-pip-version-check",
            "--no-compile",
            "--quiet",
            "--root-user-action=ignore",
            "--python-version",
            &version,
        ];
        if self.pinned {
            options.extend(["--no-deps", "--require-hashes"]);
        }
        let spawn = options
            .iter()
            .fold(with_users_environment(work), |spawn, option| {
                spawn.arg(option)
            });
        let spawn = spawn
            .arg("--target")
            .arg(to)
            .arg("--report")
            .arg(&report)
            .arg("--requirement")
            .arg(&requirements);
        let (exit, said) = run_to_end(spawn, |_| look()).map_err(|error| {
            ImageError::failed(
                "running pip",
                error.to_string(),
                "check the system's Python",
            )
        })?;
        if exit != Exit::Code(0) {
            return Err(self.failed(&said));
        }
        packages(&report)
    }

    fn failed(&self, said: &str) -> ImageError {
        let has = |text: &str| said.contains(text);
        let fix = if has("DO NOT MATCH THE HASHES") {
            "the index gave another file than the one that was pinned; nothing of it was used: check your package index"
        } else if has("No module named pip") {
            "install pip for the system's Python (Debian: apt-get install python3-pip)"
        } else if has("No space left on device") {
            "free some space, or name another folder with CASEMATE_CACHE"
        } else if has("No matching distribution") {
            "check the name and the version; a package needs a wheel for the image's Python and this machine: nothing is \
             built from source, because that would run its own program here"
        } else {
            "check the network and pip's index settings (`pip config list`)"
        };
        let why = without_credentials(&last_lines(said));
        ImageError::failed(format!("pip could not install {}", self.what), why, fix)
    }
}

/// Pinned requirements for one version of Python: pip holds their conditions against the Python that it runs on
/// itself.
pub(crate) fn for_python(text: &str, python: (u32, u32)) -> String {
    let mut kept = String::new();
    let mut keep = true;
    for line in text.lines() {
        let Some((named, condition)) = line.split_once(" ; python_full_version ") else {
            // A requirement begins a line; its hashes follow on lines that are set in.
            keep |= !line.starts_with(' ');
            if keep {
                kept.push_str(line);
                kept.push('\n');
            }
            continue;
        };
        let older = condition.starts_with("< '3.12'");
        keep = older == (python < (3, 12));
        if keep {
            kept.push_str(named);
            kept.push_str(" \\\n");
        }
    }
    kept
}

/// Text with whatever stands between `//` and `@` in an address taken out.
pub(crate) fn without_credentials(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || "/?#\"'<>".contains(c))
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        clean.push_str(authority.rsplit('@').next().unwrap_or_default());
        rest = tail;
    }
    clean.push_str(rest);
    clean
}

#[derive(Deserialize)]
struct Report {
    install: Vec<Installed>,
}

#[derive(Deserialize)]
struct Installed {
    download_info: Download,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Download {
    url: String,
    archive_info: Option<Archive>,
}

#[derive(Deserialize)]
struct Archive {
    hash: Option<String>,
    hashes: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

/// What pip says it installed, and from where.
fn packages(report: &Path) -> Result<Vec<Package>, ImageError> {
    let odd = |why: String| {
        ImageError::failed(
            "reading what pip installed",
            why,
            "pip 22.2 or newer is needed",
        )
    };
    let file = File::open(report).map_err(|error| odd(error.to_string()))?;
    let report: Report = serde_json::from_reader(BufReader::new(file.take(REPORT_MAX)))
        .map_err(|error| odd(error.to_string()))?;
    let packages = report.install.into_iter().map(|installed| {
        let archive = installed.download_info.archive_info;
        let hash = archive.and_then(|archive| {
            let hashes = archive.hashes.and_then(|mut all| all.remove("sha256"));
            let old = archive.hash.map(|hash| hash.replace("sha256=", ""));
            hashes.or(old)
        });
        Package {
            name: installed.metadata.name,
            version: installed.metadata.version,
            sha256: hash.unwrap_or_default(),
            index: host(&installed.download_info.url),
        }
    });
    let mut packages: Vec<Package> = packages.collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

/// The host of an address; no path, user or password.
fn host(url: &str) -> String {
    let Some((scheme, after)) = url.split_once("://") else {
        return "unknown".to_owned();
    };
    if scheme == "file" {
        return "a folder of this machine".to_owned();
    }
    let authority = after.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default().to_owned()
}

/// Compiles every module in a folder of ours, where the machine's own Python writes what the image's reads.
/// `shown` is where the image has the folder. Nothing is executed.
pub(crate) fn compile(
    work: &Path,
    folder: &Path,
    shown: &str,
    version: (u32, u32),
) -> Result<(), ImageError> {
    if python().ok() != Some(version) {
        return Ok(());
    }
    let (exit, said) = compile_all(work, folder, shown).map_err(|error| {
        ImageError::failed("compiling", error.to_string(), "check the system's Python")
    })?;
    match exit {
        Exit::Code(0 | 1) => Ok(()),
        _ => Err(ImageError::failed(
            format!("compiling with {PYTHON}"),
            last_lines(&said),
            "check the disk and the system's Python",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_address_but_its_host_is_kept() {
        for (url, kept) in [
            ("https://files.example/a/b.whl", "files.example"),
            (
                "https://user:pass@mirror.example:8443/x",
                "mirror.example:8443",
            ),
            ("http://token@h/", "h"),
            ("file:///home/me/wheels/a.whl", "a folder of this machine"),
            ("nonsense", "unknown"),
        ] {
            assert_eq!(host(url), kept);
        }
    }

    #[test]
    fn what_pip_says_is_shown_without_passwords() {
        let said = "Looking in indexes: https://me:s3cret@pypi.example/simple\nERROR at http://tok@x/y and https://z";
        let clean = without_credentials(said);
        assert!(
            !clean.contains("s3cret") && !clean.contains("tok"),
            "{clean}"
        );
        assert!(clean.contains("https://pypi.example/simple"), "{clean}");
        assert!(clean.ends_with("http://x/y and https://z"), "{clean}");
    }

    #[test]
    fn pinned_requirements_are_those_of_one_python() {
        let text = "a==1 ; python_full_version < '3.12' \\\n    --hash=sha256:1\n\
                    a==2 ; python_full_version >= '3.12' \\\n    --hash=sha256:2\n\
                    b==1 \\\n    --hash=sha256:3\n";
        let b = "b==1 \\\n    --hash=sha256:3\n";
        assert_eq!(
            for_python(text, (3, 11)),
            format!("a==1 \\\n    --hash=sha256:1\n{b}")
        );
        assert_eq!(
            for_python(text, (3, 13)),
            format!("a==2 \\\n    --hash=sha256:2\n{b}")
        );
        for pinned in [
            casemate_driver::packages::pinned_for_the_driver(),
            include_str!("../../../images/python-data/requirements.txt").to_owned(),
        ] {
            let all = for_python(&pinned, (3, 11));
            let mut lines = all.lines().filter(|line| !line.starts_with('#'));
            assert!(
                !lines.any(|line| line.contains(';')),
                "a condition that is not known here"
            );
        }
    }

    #[test]
    fn pips_report_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        let text = r#"{"install":[{"download_info":{"url":"https://u:p@i.example/b.whl","archive_info":
            {"hash":"sha256=ab","hashes":{"sha256":"ab"}}},"metadata":{"name":"b","version":"2"}},
            {"download_info":{"url":"file:///x/a.whl"},"metadata":{"name":"a","version":"1"}}]}"#;
        fs::write(&path, text).unwrap();
        let packages = packages(&path).unwrap();
        assert_eq!(packages[0].name, "a");
        assert_eq!(
            (packages[1].sha256.as_str(), packages[1].index.as_str()),
            ("ab", "i.example")
        );
        fs::write(&path, "{}").unwrap();
        assert!(super::packages(&path).is_err());
    }
}
