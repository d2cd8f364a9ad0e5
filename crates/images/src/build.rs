//! Building an image: Debian packages by mmdebstrap, Python packages by pip, each with the user's own settings
//! for where they come from. Every stage that is finished is kept, and the next build takes it up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use casemate_backend::setup::Unit;
use casemate_driver::packages::{last_lines, run_to_end};
use casemate_linux::{Exit, Spawn};

use crate::make::{Made, stage};
use crate::pip::{Pip, compile, for_python, without_credentials};
use crate::store::{ROOT, create_folder, remove_tree};
use crate::tree::{copy, readable, size};
use crate::{ImageError, ImageFile, ImageName, Maker, Package, Source};

/// The name of the image whose contents are chosen here.
pub const PYTHON_DATA: &str = "python-data";
/// Its packages, by version and hash.
const PYTHON_DATA_PACKAGES: &str = include_str!("../../../images/python-data/requirements.txt");
/// What every built image has of Debian: Python, bash, and what scripts in them expect.
const DEBIAN: [&str; 13] = [
    "base-files",
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "mawk",
    "python3",
    "sed",
    "tar",
    "tzdata",
];
const MMDEBSTRAP: &str = "/usr/bin/mmdebstrap";
/// Documentation and translations, which no program reads, except whose work it is and its version.
const FILTERS: [&str; 6] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-include=/usr/share/doc/*/changelog.Debian*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
];
/// Bytes of a requirements file.
const REQUIREMENTS_MAX: u64 = 4 << 20;

/// Which Python packages an image gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packages {
    /// Those of [`PYTHON_DATA`]: pandas, numpy, scipy, scikit-learn, matplotlib and IPython.
    PythonData,
    /// These, each by name and perhaps version, with what they depend on.
    Named(Vec<String>),
    /// Those of a requirements file.
    File(PathBuf),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Packages of Debian beyond those that every image has.
    pub debian: Vec<String>,
    /// The release of Debian by its code name; none is this machine's own.
    pub suite: Option<String>,
    /// Packages of Python.
    pub packages: Packages,
    /// Whether finished stages of earlier builds are left aside.
    pub fresh: bool,
}

impl Maker<'_> {
    /// Builds an image.
    ///
    /// # Errors
    /// What of the request is not taken, or the stage that failed, with what its program said.
    pub fn build(&self, name: &ImageName, request: &Request) -> Result<ImageFile, ImageError> {
        self.check_free(name)?;
        let (requirements, pinned) = requirements(&request.packages)?;
        let suite = suite(request.suite.as_deref())?;
        let debian = debian(&request.debian)?;
        self.in_staging(name, |staging| {
            let stages = self.images.stages()?;
            let root = staging.join(ROOT);
            let archive = self.debian(&stages, &suite, &debian, request.fresh)?;
            let mut archive = File::open(&archive)
                .map_err(|error| ImageError::io("opening the finished stage", error))?;
            self.unpack(&mut archive, &root, "Debian's packages")?;
            without_the_machine(&root)?;
            let python = python_of(&root)?;
            self.compile_library(staging, &root, python)?;
            let mut packages = Vec::new();
            if !requirements.is_empty() {
                let requirements = match pinned {
                    true => for_python(&requirements, python),
                    false => requirements.clone(),
                };
                let pip = Pip {
                    python,
                    requirements: &requirements,
                    pinned,
                    what: "the image's packages",
                };
                packages = self.packages(&stages, &root, &pip, request.fresh)?;
            }
            let made = Made {
                source: Source::Debian {
                    packages: versions(&root),
                    suite,
                },
                env: BTreeMap::new(),
                packages,
                request: Some(format!("{} {requirements}", debian.join(","))).map(|text| {
                    let whole = stage(Path::new(""), "request", &[&text]);
                    whole.display().to_string()
                }),
            };
            self.finish(name, staging, made, name.as_str())
        })
    }

    /// The archive of Debian's packages: unpacked by mmdebstrap, none of their programs run.
    fn debian(
        &self,
        stages: &Path,
        suite: &str,
        packages: &[String],
        fresh: bool,
    ) -> Result<PathBuf, ImageError> {
        let sources = sources(suite);
        let include = packages.join(",");
        let parts = [suite, &include, &FILTERS.join(" "), std::env::consts::ARCH];
        let finished = stage(stages, "debian", &parts).with_extension("tar");
        if finished.is_file() && !fresh {
            self.progress.say(
                "Debian's packages are there from an earlier build (--fresh fetches them again)",
            );
            return Ok(finished);
        }
        if !Path::new(MMDEBSTRAP).exists() {
            return Err(ImageError::failed(
                "fetching Debian's packages",
                format!("there is no {MMDEBSTRAP}"),
                "install it (Debian: apt-get install mmdebstrap); elsewhere take `casemate image import`",
            ));
        }
        self.progress.stage(
            &format!(
                "fetching and unpacking {} packages of Debian {suite}",
                packages.len()
            ),
            None,
            Unit::Bytes,
        );
        let part = finished.with_extension("part.tar");
        remove_tree(&part)?;
        let mut spawn = std::env::vars_os().fold(Spawn::new(MMDEBSTRAP), |spawn, (name, value)| {
            spawn.env(name, value)
        });
        spawn = spawn
            .arg("--variant=extract")
            .arg(format!("--include={include}"));
        for filter in FILTERS {
            spawn = spawn.arg(format!("--dpkgopt={filter}"));
        }
        spawn = spawn.arg(suite).arg(&part);
        for source in sources {
            spawn = spawn.arg(source);
        }
        let look = |_| {
            let at = fs::metadata(&part).map(|meta| meta.len());
            self.progress.at(at.unwrap_or_default());
        };
        let (exit, said) = run_to_end(spawn, look).map_err(|error| {
            ImageError::failed(
                "running mmdebstrap",
                error.to_string(),
                "check that it runs by hand",
            )
        })?;
        if exit != Exit::Code(0) {
            remove_tree(&part)?;
            return Err(mmdebstrap_failed(&said));
        }
        fs::rename(&part, &finished)
            .map_err(|error| ImageError::io("keeping the finished stage", error))?;
        self.progress.done("");
        Ok(finished)
    }

    /// A library that comes without compiled files would be compiled at each start.
    fn compile_library(
        &self,
        staging: &Path,
        root: &Path,
        python: (u32, u32),
    ) -> Result<(), ImageError> {
        let library = format!("usr/lib/python{}.{}", python.0, python.1);
        let folder = root.join(&library);
        if !folder.is_dir() {
            return Ok(());
        }
        self.progress
            .stage("compiling Python's library", None, Unit::None);
        let work = staging.join("work");
        create_folder(&work)?;
        compile(&work, &folder, &format!("/{library}"), python)?;
        readable(&folder)?;
        remove_tree(&work)?;
        self.progress.done("");
        Ok(())
    }

    /// Python packages, put where Debian's Python looks for them.
    fn packages(
        &self,
        stages: &Path,
        root: &Path,
        pip: &Pip<'_>,
        fresh: bool,
    ) -> Result<Vec<Package>, ImageError> {
        let version = format!("{}.{}", pip.python.0, pip.python.1);
        let parts = [&version, pip.requirements, std::env::consts::ARCH];
        let finished = stage(stages, "pip", &parts);
        let place = format!("usr/local/lib/python{version}/dist-packages");
        if fresh {
            remove_tree(&finished)?;
        }
        if finished.is_dir() {
            self.progress.say(
                "the Python packages are there from an earlier build (--fresh fetches them again)",
            );
        } else {
            self.install(&finished, &format!("/{place}"), pip)?;
        }
        let failed = |error: std::io::Error| ImageError::io("installing the packages", error);
        let mut tree = casemate_linux::file::Tree::new(File::open(root).map_err(failed)?.into());
        tree.make_folder(Path::new(&place), 0o755)
            .map_err(|error| failed(std::io::Error::other(error)))?;
        copy(&finished.join("site"), &root.join(&place))?;
        let list = fs::read(finished.join("packages.json")).map_err(failed)?;
        serde_json::from_slice(&list).map_err(|error| failed(error.into()))
    }

    fn install(&self, finished: &Path, shown: &str, pip: &Pip<'_>) -> Result<(), ImageError> {
        self.progress
            .stage("fetching and unpacking Python packages", None, Unit::Bytes);
        let part = finished.with_extension("part");
        remove_tree(&part)?;
        create_folder(&part)?;
        let (site, work) = (part.join("site"), part.join("work"));
        create_folder(&work)?;
        let packages = pip.install(&work, &site, &|| self.progress.at(size(&part)))?;
        self.progress.done(&format!("{} packages", packages.len()));
        self.progress.stage("compiling them", None, Unit::None);
        compile(&work, &site, shown, pip.python)?;
        readable(&site)?;
        let failed = |error: std::io::Error| ImageError::io("keeping the finished stage", error);
        let list = serde_json::to_vec(&packages).map_err(|error| failed(error.into()))?;
        fs::write(part.join("packages.json"), list).map_err(failed)?;
        remove_tree(&work)?;
        fs::rename(&part, finished).map_err(failed)?;
        self.progress.done("");
        Ok(())
    }
}

/// Debian's packages: names and nothing else, for they become words of a command line.
fn debian(more: &[String]) -> Result<Vec<String>, ImageError> {
    let plain = |name: &str| {
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        begins && name.len() > 1 && name.chars().all(rest)
    };
    if let Some(bad) = more.iter().find(|name| !plain(name)) {
        return Err(ImageError::refused(
            format!("the package {bad:?}"),
            "it is not the name of a Debian package",
            "names have small letters, digits, `+`, `-` and `.`: --debian nodejs,jq",
        ));
    }
    let mut all: Vec<String> = DEBIAN.map(str::to_owned).into();
    all.extend(more.iter().cloned());
    all.sort();
    all.dedup();
    Ok(all)
}

fn suite(asked: Option<&str>) -> Result<String, ImageError> {
    let own = || {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            let line = release.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        field("VERSION_CODENAME=").filter(|_| field("ID=").as_deref() == Some("debian"))
    };
    let suite = asked.map(str::to_owned).or_else(own);
    let plain = |name: &String| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !name.starts_with('-')
    };
    suite.filter(plain).ok_or_else(|| {
        ImageError::refused(
            "the release",
            "this machine is no Debian, or what was named is no code name",
            "name a release of Debian: --suite bookworm",
        )
    })
}

/// The user's own lists of sources that know the release; none is Debian's own mirror.
fn sources(suite: &str) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten();
    files.extend(parts.flatten().map(|entry| entry.path()));
    files.retain(|path| {
        let known = path
            .extension()
            .is_some_and(|ending| ending == "list" || ending == "sources");
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut words = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(str::split_whitespace);
        known && words.any(|word| word == suite)
    });
    files.sort();
    files
}

fn mmdebstrap_failed(said: &str) -> ImageError {
    let fix = if said.contains("Unable to locate package")
        || said.contains("has no installation candidate")
    {
        "check the names given to --debian"
    } else if said.contains("No space left") {
        "free some space in /tmp and in the cache, or set TMPDIR and CASEMATE_CACHE"
    } else {
        "check the network and apt's settings (`apt-get update` must work); without root it needs subordinate user numbers"
    };
    let why = without_credentials(&last_lines(said));
    ImageError::failed("mmdebstrap failed", why, fix)
}

/// mmdebstrap copies what names this machine and its network.
fn without_the_machine(root: &Path) -> Result<(), ImageError> {
    let failed = |error: std::io::Error| ImageError::io("cleaning the image", error);
    let mut tree = casemate_linux::file::Tree::new(File::open(root).map_err(failed)?.into());
    for name in ["etc/hostname", "etc/hosts", "etc/resolv.conf"] {
        tree.remove(Path::new(name))
            .map_err(|error| failed(std::io::Error::other(error)))?;
    }
    Ok(())
}

fn python_of(root: &Path) -> Result<(u32, u32), ImageError> {
    let (_, version) = crate::make::found(root, "/usr/bin")?;
    version.ok_or_else(|| {
        ImageError::failed(
            "building the image",
            "it has no Python",
            "check the release: it must be one that has python3",
        )
    })
}

/// What Debian's packages say their versions are.
fn versions(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("usr/share/doc"));
    let mut all: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = version(&entry.path().join("changelog.Debian.gz"));
            Some(match version {
                Some(version) => format!("{name} {version}"),
                None => name,
            })
        })
        .collect();
    all.sort();
    all
}

/// The first version in a changelog: `bash (5.2.15-2) unstable; urgency=medium`.
fn version(changelog: &Path) -> Option<String> {
    let meta = fs::symlink_metadata(changelog).ok()?;
    let file = meta
        .is_file()
        .then(|| File::open(changelog).ok())
        .flatten()?;
    let mut begin = Vec::new();
    flate2::read::GzDecoder::new(file)
        .take(4096)
        .read_to_end(&mut begin)
        .ok()?;
    let begin = String::from_utf8_lossy(&begin);
    let (_, rest) = begin.lines().next()?.split_once('(')?;
    let (version, _) = rest.split_once(')')?;
    Some(version.to_owned())
}

/// The lines for pip, and whether they are our own pinned ones.
fn requirements(packages: &Packages) -> Result<(String, bool), ImageError> {
    match packages {
        Packages::PythonData => Ok((PYTHON_DATA_PACKAGES.to_owned(), true)),
        Packages::Named(names) => {
            let text = names.join("\n");
            check(&text)?;
            Ok((text, false))
        }
        Packages::File(path) => {
            let failed = |error| ImageError::io(format!("reading {}", path.display()), error);
            let mut text = String::new();
            File::open(path)
                .map_err(failed)?
                .take(REQUIREMENTS_MAX)
                .read_to_string(&mut text)
                .map_err(failed)?;
            check(&text)?;
            Ok((text, false))
        }
    }
}

/// Packages of an index by name and version, and nothing else: a folder or an address would be built here, by a
/// program of its own.
fn check(text: &str) -> Result<(), ImageError> {
    for line in text.replace("\\\n", " ").lines() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let named = line.starts_with(|c: char| c.is_ascii_alphanumeric());
        let plain = !line.contains(['@', '/', '\\', '\0']);
        let options = line
            .split_whitespace()
            .filter(|word| word.starts_with('-'))
            .all(|word| word.starts_with("--hash=sha256:"));
        if !(named && plain && options) {
            return Err(ImageError::refused(
                format!("the requirement {line:?}"),
                "it is not a package of an index by its name",
                "name packages and versions alone, such as `requests>=2,<3`; the index is set in pip's own settings \
                 (`pip config set global.index-url ...`)",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_packages_of_an_index_and_nothing_else() {
        for line in [
            "requests",
            "requests[socks]>=2,<3 ; python_version < '4'",
            "# a comment\n\nsix==1.17.0  # why",
            "six==1.17.0 \\\n    --hash=sha256:abc \\\n    --hash=sha256:def",
        ] {
            check(line).unwrap();
        }
        for line in [
            "-r other.txt",
            "-e .",
            "./folder",
            "/folder",
            "folder/",
            "x @ file:///folder",
            "https://h/x.whl",
            "--index-url https://u:p@h/simple",
            "six --no-binary=:all:",
            "six \\\n --config-settings=a=b",
        ] {
            assert!(check(line).is_err(), "{line}");
        }
    }

    #[test]
    fn names_of_debian_packages_cannot_be_options() {
        assert!(debian(&["nodejs".into(), "libstdc++6".into()]).is_ok());
        for bad in ["--x", "a,b", "a b", "/etc", "A", "?priority(required)", ""] {
            assert!(debian(&[bad.to_owned()]).is_err(), "{bad}");
        }
        for bad in ["-x", "a b", "", "../x"] {
            assert!(suite(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_chosen_here_is_pinned_by_version_and_hash() {
        let joined = PYTHON_DATA_PACKAGES.replace("\\\n", " ");
        let lines = || {
            joined
                .lines()
                .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        };
        for name in [
            "pandas==",
            "numpy==",
            "scipy==",
            "scikit-learn==",
            "matplotlib==",
            "ipython==",
        ] {
            assert!(lines().any(|line| line.starts_with(name)), "{name}");
        }
        assert!(lines().all(|line| line.contains("--hash=sha256:")));
    }
}
