//! gVisor with its checkpoints: programs that need the libraries go on from a Python that has loaded them.

use std::path::{Path, PathBuf};

use casemate_backend::contract::{Backend, CreateError, Offer, Sandbox};
use casemate_backend::plan::Plan;
use casemate_backend::setup::cache_root;
use casemate_container::{ContainerBackend, Kind, Make, Platform};
use casemate_engine::Records;
use casemate_model::receipt::Receipt;

use crate::warm::counts_only_with;

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
pub(crate) struct OnlyRestored(ContainerBackend);

impl OnlyRestored {
    /// # Errors
    /// Those of [`gvisor`].
    pub(crate) fn new(program: &Path) -> anyhow::Result<Self> {
        Ok(Self(gvisor(program, Make::First)?))
    }
}

impl Backend for OnlyRestored {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self) -> Offer {
        let backend = NAME.to_owned();
        Offer {
            backend,
            ..self.0.probe()
        }
    }

    fn rests_on(&self) -> Vec<(String, String)> {
        self.0.rests_on()
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        let mut plan = plan.clone();
        // As of a program of which nothing is known.
        plan.loads = None;
        let (sandbox, receipt) = self.0.create(&plan)?;
        if !casemate_container::is_restored(&receipt) {
            return Err(CreateError::Fault(
                "the program would have started cold".to_owned(),
            ));
        }
        let backend = NAME.to_owned();
        Ok((sandbox, Receipt { backend, ..receipt }))
    }
}
