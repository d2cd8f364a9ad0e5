//! Set-up: the packages for the system's own Python, from pinned wheels to a folder in the user's cache.
//!
//! pip installs what is pinned by hash, the driver is put beside it, everything is compiled and the list
//! of fonts is made once. The result appears under its final name in one rename, and is never written
//! again; the name is a hash of everything that matters.

mod install;
mod python;
mod store;

use casemate_backend::contract::Usable;
use casemate_backend::setup::{Progress, SetupError, Unit};

pub use install::{
    compile_all, last_lines, pinned_for_the_driver, run_to_end, with_users_environment,
};
pub use python::{PYTHON, guest, python};
pub use store::{Installed, Opened, Store};

/// Whether the machine's own system can be shown with the packages of this store.
#[must_use]
pub fn host_system(store: Option<&Store>) -> Usable {
    let Some(store) = store else {
        return Usable::No {
            why: "the machine's own system is not shown here".to_owned(),
            fix: "name an image".to_owned(),
        };
    };
    match (python(), store.installed()) {
        (Err((why, fix)), _) => Usable::No { why, fix },
        (_, Ok(_)) => Usable::Yes,
        _ if !store.dir().exists() => Usable::AfterSetup {
            what: "fetch pandas, numpy, matplotlib and IPython (about 50 MB) for the system's Python, for the jail and \
                   the containers: under a minute, once; `casemate setup --backend jail`"
                .to_owned(),
        },
        (_, Err(error)) => Usable::No {
            why: error.to_string(),
            fix: "run `casemate setup --backend jail --force`".to_owned(),
        },
    }
}

/// Makes sure that the packages are in the cache, and says where.
///
/// A second process waits here for the first.
///
/// # Errors
/// [`SetupError`], with the way out; nothing half-made is left under the final name.
pub fn set_up(
    store: &Store,
    force: bool,
    progress: &dyn Progress,
) -> Result<Installed, SetupError> {
    python().map_err(|(what, fix)| SetupError::Fetch { what, fix })?;
    let _lock = store.lock(progress)?;
    if force {
        store.remove()?;
    } else if let Ok(installed) = store.installed() {
        return Ok(installed);
    }
    let staging = store.fresh_staging()?;
    install::packages(&staging, progress)?;
    progress.stage("adding the driver and compiling", None, Unit::None);
    install::driver(&staging)?;
    install::compile(&staging)?;
    progress.done("");
    progress.stage("listing the fonts", None, Unit::None);
    install::fonts(&staging)?;
    progress.done("");
    let installed = store.publish(&staging)?;
    progress.say(&format!(
        "the jail's packages are ready in {}",
        installed.dir.display()
    ));
    Ok(installed)
}
