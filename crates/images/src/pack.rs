//! The folder with our driver that is shown beside an image's own tree.

use std::path::{Path, PathBuf};

use casemate_driver::guest;
use casemate_driver::packages::pinned_for_the_driver;
use sha2::{Digest, Sha256};

use crate::digest::hex;

/// Counted up when what is in the folder, or how it is made, changes.
const FORMAT: u32 = 1;

/// The hash of everything that decides what is in the folder, beside the image itself.
pub(crate) fn key() -> String {
    let mut hash = Sha256::new();
    hash.update(FORMAT.to_le_bytes());
    let requirements = pinned_for_the_driver();
    let driver = guest::SHARED.iter().chain(guest::NATIVE).copied();
    for (name, text) in std::iter::once(("requirements.txt", requirements.as_str())).chain(driver) {
        for part in [name, text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hex(&hash.finalize()[..12])
}

/// The folder in an image's.
pub(crate) fn folder(image: &Path, key: &str) -> PathBuf {
    image.join(format!("opt-{key}"))
}
