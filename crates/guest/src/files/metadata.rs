//! What is said about a file when it is uploaded: kept in extended attributes.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use casemate_linux::file::attributes;

/// The names of ours among the attributes.
const PREFIX: &str = "user.e2b.";

/// What is known of a file. A file system without attributes knows nothing.
pub(super) fn read(path: &Path) -> BTreeMap<String, String> {
    attributes::read_at(path, PREFIX)
}

/// Replaces what is known of an open file.
pub(super) fn replace(file: impl AsFd, new: &BTreeMap<String, String>) -> rustix::io::Result<()> {
    attributes::replace(file, PREFIX, new)
}
