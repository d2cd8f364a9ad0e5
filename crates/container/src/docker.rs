//! The Docker backends: the same container, made by a daemon of this machine's with `runc` or with gVisor's
//! `runsc`.
//!
//! `probe`, `lower` and `drive` are the backend as every backend has them; `daemon` is all that is asked of
//! the daemon and `trouble` what can be wrong with it; `image` is the empty root; `keeper` is the other
//! process, which stages the files and takes everything away; `bridge` and `frames` are the way from the
//! daemon's streams to the host's channels; `reclaim` is for what crashed.
//!
//! The daemon's word decides nothing: the container's processes are looked at in `/proc` before the program
//! begins, as those of every other container.

mod bridge;
mod daemon;
mod drive;
mod frames;
mod image;
pub mod keeper;
mod lower;
mod probe;
mod reclaim;
mod trouble;

pub use drive::DockerBackend;

use crate::bundle::Ids;
use crate::walls::Family;

/// Where containers' files are staged, each in a folder of its own.
const PLACES: &str = "/run/casemate/docker";

/// Which of the daemon's runtimes is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// runc: the host's kernel.
    Native,
    /// gVisor's runsc, under that name in the daemon's settings.
    Gvisor,
}

/// What a daemon's containers cannot be given, and the way out.
fn no_images() -> (String, String) {
    (
        "a daemon's containers show the machine's own system and run Python; they take no image, no virtual environment and \
         no other language yet"
            .to_owned(),
        "take --backend jail, crun, runc or gvisor, which take all three".to_owned(),
    )
}

impl Variant {
    /// The backend's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "docker",
            Self::Gvisor => "docker-runsc",
        }
    }

    /// The runtime's name in the daemon's settings.
    const fn runtime(self) -> &'static str {
        match self {
            Self::Native => "runc",
            Self::Gvisor => "runsc",
        }
    }

    const fn family(self) -> Family {
        match self {
            Self::Native => Family::Docker,
            Self::Gvisor => Family::DockerGvisor,
        }
    }
}
