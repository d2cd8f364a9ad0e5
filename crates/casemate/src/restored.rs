//! gVisor with its checkpoints: programs that need the libraries go on from a Python that has loaded them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_backend::contract::Backend;
use casemate_backend::setup::cache_root;
use casemate_container::{ContainerBackend, Kind, Make, Platform};
use casemate_engine::Records;

use crate::only::{Only, counts_only_with};

/// The name under which such starts are attacked, and under which the result is kept.
const NAME: &str = "gvisor-restored";

/// Where the checkpoints are.
///
/// # Errors
/// When there is no cache folder.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    Ok(cache_root()?.join("gvisor"))
}

/// gVisor over this machine's systems.
///
/// # Errors
/// When there is no cache folder.
pub(crate) fn gvisor(program: &Path, make: Make) -> anyhow::Result<ContainerBackend> {
    let kind = Kind::Gvisor(Platform::Systrap);
    let backend = ContainerBackend::new(kind, crate::run::systems()?, program);
    Ok(backend.with_checkpoints(folder()?, make))
}

/// What is known of attacks on gVisor counts only where starts from a checkpoint were attacked too.
pub(crate) fn all_starts(records: &mut Records) {
    counts_only_with(records, Kind::Gvisor(Platform::Systrap).name(), NAME);
}

/// gVisor with nothing but starts from a checkpoint, under a name of its own.
///
/// # Errors
/// Those of [`gvisor`].
pub(crate) fn only_restored(program: &Path) -> anyhow::Result<Arc<dyn Backend>> {
    Ok(Arc::new(Only {
        name: NAME,
        backend: gvisor(program, Make::First)?,
        // As of a program of which nothing is known.
        ready: |_, plan| {
            plan.loads = None;
            Ok(())
        },
        began: casemate_container::is_restored,
    }))
}
