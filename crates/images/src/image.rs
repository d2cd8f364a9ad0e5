//! One image: what its file says of it, and its opened folders.

use std::collections::BTreeMap;

use casemate_driver::packages::Opened;
use casemate_driver::system::{Interpreters, System};
use casemate_model::job::Language;
use serde::{Deserialize, Serialize};

use crate::ImageName;

/// Counted up when the layout or the meaning of a field changes.
pub(crate) const FORMAT: u32 = 1;

/// `image.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// Of the layout.
    pub format: u32,
    /// Its name.
    pub name: ImageName,
    /// When it was made: RFC 3339, UTC.
    pub created: String,
    /// What it was made from.
    pub source: Source,
    /// `sha256:` and the hash over every name, mode and content below `root`.
    pub digest: String,
    /// Bytes of all files below `root`.
    pub size_bytes: u64,
    /// Files, folders and links below `root`.
    pub entries: u64,
    /// Its Python.
    pub python: Option<Python>,
    /// Absolute paths of the interpreters in it, each of which was started in a sandbox once.
    pub languages: BTreeMap<Language, String>,
    /// Environment variables that it brings, `PATH` among them.
    pub env: BTreeMap<String, String>,
    /// Python packages that were installed when it was built.
    pub packages: Vec<Package>,
    /// The folder with our driver, by the hash of what decides what is in it.
    pub pack: String,
    /// The hash of what was asked for, where it was built.
    pub request: Option<String>,
}

/// What an image was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// Debian packages, fetched with this machine's own settings.
    Debian {
        /// The release's name.
        suite: String,
        /// Packages and versions.
        packages: Vec<String>,
    },
    /// An archive on this machine.
    Archive {
        /// Its file's name.
        file: String,
        /// `sha256:` and the hash of the file.
        digest: String,
    },
    /// A registry.
    Registry {
        /// The reference, as it was given.
        reference: String,
        /// The digest of the manifest.
        digest: String,
    },
}

/// The Python of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Python {
    /// The interpreter's absolute path in the image.
    pub path: String,
    /// Its version, such as `3.11.2`.
    pub version: String,
}

/// A Python package in an image, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the wheel.
    pub sha256: String,
    /// The host that it was fetched from; no path, user or password.
    pub index: String,
}

/// An image, opened and checked: nobody but this user can have put it there.
#[derive(Debug)]
pub struct Image {
    /// What its file says.
    pub file: ImageFile,
    /// The tree that a sandbox shows.
    pub root: Opened,
    /// What a sandbox shows at `/opt/casemate`.
    pub packages: Opened,
}

impl Image {
    /// The languages that it can run.
    #[must_use]
    pub fn languages(&self) -> Vec<Language> {
        self.file.languages.keys().copied().collect()
    }

    /// What it is, for a receipt: name, digest, Python.
    #[must_use]
    pub fn described(&self) -> String {
        described(&self.file)
    }

    /// The same as a system to run programs in.
    #[must_use]
    pub fn into_system(self) -> System {
        System {
            described: self.described(),
            root: Some(self.root),
            packages: self.packages,
            venv: None,
            interpreters: interpreters(&self.file.languages),
            env: self.file.env.into_iter().collect(),
        }
    }
}

fn described(file: &ImageFile) -> String {
    let python = file.python.as_ref();
    let python = python.map(|python| format!(", Python {}", python.version));
    format!(
        "image {} ({}){}",
        file.name,
        file.digest,
        python.unwrap_or_default()
    )
}

pub(crate) fn interpreters(languages: &BTreeMap<Language, String>) -> Interpreters {
    let of = |language| languages.get(&language).cloned();
    Interpreters {
        python: of(Language::Python),
        bash: of(Language::Bash),
        javascript: of(Language::JavaScript),
    }
}
