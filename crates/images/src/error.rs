//! Why something with an image did not work, and the way out.

use std::io;

use thiserror::Error;

/// Why not, and what to do. Each is whole sentences for the person who asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It cannot be a name.
    #[error("{name:?} cannot be the name of an image: {reason}")]
    Name {
        /// What was given.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// There is none of that name.
    #[error(
        "there is no image {name}{}\n  make it with `casemate image build {name}`, `casemate image pull REF --name {name}` or `casemate image import {name} TAR`",
        among(known)
    )]
    Missing {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// One of that name is there.
    #[error(
        "there is an image {0} already\n  remove it with `casemate image rm {0}`, or say --force to replace it"
    )]
    Taken(String),
    /// It is there and cannot be used as it is.
    #[error("the image {name} cannot be used: {why}\n  {fix}")]
    Broken {
        /// Its name.
        name: String,
        /// Why.
        why: String,
        /// The way out.
        fix: String,
    },
    /// What it is to be made from is not taken.
    #[error("{what} is not taken: {why}\n  {fix}")]
    Refused {
        /// The archive, the reference or the request.
        what: String,
        /// Why not.
        why: String,
        /// The way out.
        fix: String,
    },
    /// A step of making it failed.
    #[error("{what}: {why}\n  {fix}")]
    Failed {
        /// The step.
        what: String,
        /// What went wrong.
        why: String,
        /// The way out.
        fix: String,
    },
    /// The file system refused.
    #[error("{what}: {cause}\n  {fix}")]
    Io {
        /// What was being done.
        what: String,
        /// The error.
        cause: io::Error,
        /// The way out.
        fix: &'static str,
    },
    /// The folder of images belongs to somebody else or can be written by others.
    #[error("{0}")]
    Untrusted(String),
}

fn among(known: &[String]) -> String {
    if known.is_empty() {
        return ", and no other either".to_owned();
    }
    format!("; there are {}", known.join(", "))
}

impl ImageError {
    /// The file system refused while `what` was being done; the way out depends on how.
    pub(crate) fn io(what: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        let cause = cause.into();
        let fix = match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free some space, or name another folder with CASEMATE_CACHE"
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "name a folder you may write to with CASEMATE_CACHE"
            }
            io::ErrorKind::NotFound => "check the name",
            _ => "check the disk, or name another folder with CASEMATE_CACHE",
        };
        Self::Io {
            what: what.into(),
            cause,
            fix,
        }
    }

    pub(crate) fn failed(
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::Failed {
            what: what.into(),
            why: why.into(),
            fix: fix.into(),
        }
    }

    pub(crate) fn refused(
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::Refused {
            what: what.into(),
            why: why.into(),
            fix: fix.into(),
        }
    }

    /// The reason and the way out apart, for those who show them apart.
    #[must_use]
    pub fn parts(&self) -> (String, String) {
        let text = self.to_string();
        match text.split_once("\n  ") {
            Some((why, fix)) => (why.to_owned(), fix.to_owned()),
            None => (text, "`casemate image ls` says what there is".to_owned()),
        }
    }
}
