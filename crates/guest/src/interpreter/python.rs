//! Python contexts: the driver's own interpreter, served cell after cell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_driver::guest::{NATIVE, SHARED};
use casemate_envd::{Code, RpcError};

use super::kernel::Command;
use crate::agent::random_name;
use crate::config::Config;
use casemate_envd::server::paths::text;

/// Where the driver lies below a folder of packages.
const DRIVER: &str = "casemate_guest/session.py";

/// How it is started: isolated from the environment, without what it does not need.
pub(super) fn command(config: &Config) -> Result<Command, RpcError> {
    let mut folders = config.packages.clone();
    if !folders.iter().any(|folder| folder.join(DRIVER).is_file()) {
        folders.push(unpacked()?);
    }
    let folders: Vec<String> = folders.iter().map(|folder| text(folder)).collect();
    let list = serde_json::to_string(&folders).unwrap_or_default();
    // A list of texts is written in Python as it is in JSON.
    let boot = format!(
        "import sys; sys.path.extend({list}); from casemate_guest.session import main; main()"
    );
    let mut argv = vec![text(&config.python), "-I".to_owned(), "-B".to_owned()];
    if !config.packages.is_empty() {
        // Everything is in the folders that were named.
        argv.push("-S".to_owned());
    }
    argv.extend(["-c".to_owned(), boot]);
    let env = [
        ("LANG", "C.UTF-8"),
        ("MPLBACKEND", "agg"),
        ("PYTHONIOENCODING", "utf-8"),
    ];
    let env: BTreeMap<String, String> = env
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    Ok(Command { argv, env })
}

/// The driver that this program carries, in a folder of its own: for images that do not have it.
fn unpacked() -> Result<PathBuf, RpcError> {
    use std::sync::OnceLock;
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder.clone());
    }
    let folder = std::env::temp_dir().join(format!(".casemate-{}", random_name()?));
    unpack(&folder).map_err(|error| {
        let what = format!("writing the driver to {}: {error}", folder.display());
        RpcError::new(Code::Internal, what)
    })?;
    Ok(FOLDER.get_or_init(|| folder).clone())
}

fn unpack(folder: &Path) -> std::io::Result<()> {
    // A name that nobody can guess, and that must not be there.
    std::fs::create_dir(folder)?;
    for (name, text) in SHARED.iter().chain(NATIVE) {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}
