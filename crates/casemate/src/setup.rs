//! `casemate setup`.

use casemate_backend::contract::Usable;
use casemate_backend::setup::SetupError;
use casemate_wasm::setup::{Installed, Source, Store, set_up};

use crate::cli::{SetupArgs, SetupBackend};
use crate::progress::Bars;

/// Runs set-up, or verifies it.
pub(crate) fn command(args: SetupArgs) -> anyhow::Result<i32> {
    let both = args.backend == SetupBackend::All;
    if both || args.backend == SetupBackend::Wasm {
        wasm(&args)?;
    }
    if args.backend == SetupBackend::Jail || (both && args.from.is_none()) {
        jail(&args, both)?;
    }
    Ok(0)
}

fn wasm(args: &SetupArgs) -> anyhow::Result<()> {
    let store = Store::open()?;
    if args.verify {
        store.verify()?;
        println!("{} is as it was made", store.dir().display());
        return Ok(());
    }
    let known = !args.force && store.installed().is_ok();
    let source = args.from.clone().map_or(Source::Index, Source::Path);
    let installed = set_up(&store, &source, args.force, &Bars::new())?;
    if known {
        println!("already set up: {}", installed.dir.display());
    }
    Ok(())
}

/// `optional`: a machine without a Python to put in a jail is told so, and that is all.
fn jail(args: &SetupArgs, optional: bool) -> anyhow::Result<()> {
    let store = casemate_jail::setup::Store::open()?;
    if args.verify {
        match store.verify() {
            Err(_) if optional && !store.dir().exists() => {
                println!("the jail is not set up: `casemate setup --backend jail`");
                return Ok(());
            }
            other => other?,
        }
        println!("{} is as it was made", store.dir().display());
        return Ok(());
    }
    if let (Usable::No { why, fix }, true) = (usable(&store), optional)
        && !store.dir().exists()
    {
        eprintln!("the jail is not set up: {why}; {fix}");
        return Ok(());
    }
    let known = !args.force && store.installed().is_ok();
    let installed = casemate_jail::setup::set_up(&store, args.force, &Bars::new())?;
    if known {
        println!("already set up: {}", installed.dir.display());
    }
    Ok(())
}

fn usable(store: &casemate_jail::setup::Store) -> Usable {
    use casemate_backend::contract::Backend;
    casemate_jail::JailBackend::new(store.clone(), "/proc/self/exe")
        .probe()
        .usable
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

/// The same for the jail.
///
/// # Errors
/// Those of its set-up.
pub(crate) fn ensure_jail() -> Result<casemate_jail::setup::Installed, SetupError> {
    let store = casemate_jail::setup::Store::open()?;
    match store.installed() {
        Ok(installed) => Ok(installed),
        Err(error) if store.dir().exists() => Err(error),
        Err(_) => {
            eprintln!(
                "the jail's packages are not set up yet; doing it now, once (under a minute)"
            );
            casemate_jail::setup::set_up(&store, false, &Bars::new())
        }
    }
}
