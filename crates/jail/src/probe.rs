//! What this machine offers for the jail backend, and why not more.

use casemate_backend::contract::{Offer, Usable};
use casemate_driver::lowered::{MEMORY_CEILING, MEMORY_FLOOR};
use casemate_driver::packages::{Store, guest, python};
use casemate_driver::walls::offered_here;
use casemate_model::unit::ByteSize;

use crate::walls::WALLS;

/// The backend's name.
pub const NAME: &str = "jail";
/// The offer. Whether the walls really stand is found out by each jail when it is built, and is in each
/// run's receipt; this says whether there is a guest, and leaves out what only control groups give where
/// none can be had.
pub(crate) fn offer(store: &Store, warm: bool) -> Offer {
    let usable = match (python(), store.installed()) {
        (Err((why, fix)), _) => Usable::No { why, fix },
        (_, Ok(_)) => Usable::Yes,
        _ if !store.dir().exists() => Usable::AfterSetup {
            what: "fetch pandas, numpy, matplotlib and IPython (about 50 MB) for the system's Python: under a minute, \
                   once; `casemate setup --backend jail`"
                .to_owned(),
        },
        (_, Err(error)) => Usable::No {
            why: error.to_string(),
            fix: "run `casemate setup --backend jail --force`".to_owned(),
        },
    };
    let (guarantees, lost) = offered_here(WALLS);
    let mut notes = vec![
        guest(),
        "real processes, threads and native code; clocks are as fine as the machine's".to_owned(),
        start(warm).to_owned(),
        "shares the host's kernel and shows its /usr, read-only: weaker than WebAssembly against a hole in the kernel"
            .to_owned(),
    ];
    if !lost.is_empty() {
        notes.push(format!("no control group here for: {}", lost.join(", ")));
    }
    Offer {
        backend: NAME.to_owned(),
        usable,
        guarantees,
        memory_floor: ByteSize(MEMORY_FLOOR),
        memory_ceiling: ByteSize(MEMORY_CEILING),
        cost: 20,
        notes,
    }
}

/// With which interpreter a program begins.
const fn start(warm: bool) -> &'static str {
    if warm {
        "starts in a child of its tenant's zygote, which shares a memory layout with the tenant's other runs; cold under a \
         policy that requires layout_fresh"
    } else {
        "starts cold: an interpreter of its own for each run"
    }
}
