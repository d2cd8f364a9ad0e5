//! The folder with our driver that is shown beside an image's own tree.

use std::fs;
use std::path::{Path, PathBuf};

use casemate_backend::setup::{Progress, Unit};
use casemate_driver::guest;
use casemate_driver::packages::pinned_for_the_driver;
use sha2::{Digest, Sha256};

use crate::ImageError;
use crate::digest::hex;
use crate::pip::{Pip, compile, for_python};
use crate::store::{create_folder, remove_tree};
use crate::tree::{copy, readable};

/// Counted up when what is in the folder, or how it is made, changes.
const FORMAT: u32 = 1;
/// The oldest Python that the driver runs on.
const OLDEST: (u32, u32) = (3, 11);

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

/// Makes the folder in an image that is being put together, for its Python. What the driver is made of is
/// fetched once for all images of a version of Python.
pub(crate) fn make(
    image: &Path,
    stages: &Path,
    python: Option<(u32, u32)>,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let to = folder(image, &key());
    create_folder(&to)?;
    readable(&to)?;
    let Some(python) = python else {
        return Ok(());
    };
    if python < OLDEST {
        return Err(ImageError::refused(
            format!("its Python {}.{}", python.0, python.1),
            "results are shown by a driver that needs Python 3.11 or newer",
            "take an image with a newer Python",
        ));
    }
    let stage = stages.join(format!("driver-{}-{}.{}", key(), python.0, python.1));
    if !stage.is_dir() {
        fetch(&stage, python, progress)?;
    }
    copy(&stage, &to.join("site-packages"))
}

fn fetch(stage: &Path, python: (u32, u32), progress: &dyn Progress) -> Result<(), ImageError> {
    progress.stage(
        "fetching what the driver is made of (IPython)",
        None,
        Unit::None,
    );
    let part = stage.with_extension("part");
    remove_tree(&part)?;
    create_folder(&part)?;
    let site = part.join("site");
    let pip = Pip {
        python,
        requirements: &for_python(&pinned_for_the_driver(), python),
        pinned: true,
        what: "the driver's packages",
    };
    pip.install(&part, &site, &|| {})?;
    let failed = |error| ImageError::io("writing the driver", error);
    for (name, text) in guest::SHARED.iter().chain(guest::NATIVE) {
        let path = site.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        fs::write(path, text).map_err(failed)?;
    }
    compile(&part, &site, "/opt/casemate/site-packages", python)?;
    readable(&site)?;
    fs::rename(&site, stage).map_err(failed)?;
    remove_tree(&part)?;
    progress.done("");
    Ok(())
}
