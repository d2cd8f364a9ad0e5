//! `casemate setup`.

use casemate_wasm::setup::{Installed, SetupError, Source, Store, set_up};

use crate::cli::SetupArgs;
use crate::progress::Bars;

/// Runs set-up, or verifies it.
pub(crate) fn command(args: SetupArgs) -> anyhow::Result<i32> {
    let store = Store::open()?;
    if args.verify {
        store.verify()?;
        println!("{} is as it was made", store.dir().display());
        return Ok(0);
    }
    let known = !args.force && store.installed().is_ok();
    let source = args.from.map_or(Source::Index, Source::Path);
    let installed = set_up(&store, &source, args.force, &Bars::new())?;
    if known {
        println!("already set up: {}", installed.dir.display());
    }
    Ok(0)
}

/// Sets up when that has not been done, saying so.
///
/// # Errors
/// Those of set-up.
pub(crate) fn ensure(store: &Store) -> Result<Installed, SetupError> {
    match store.installed() {
        Ok(installed) => Ok(installed),
        // Something is there and is not right: the user hears what, rather than two minutes of repair.
        Err(error) if store.dir().exists() => Err(error),
        Err(_) => {
            eprintln!(
                "the Python guest is not set up yet; doing it now, once (two to four minutes)"
            );
            set_up(store, &Source::Index, false, &Bars::new())
        }
    }
}
