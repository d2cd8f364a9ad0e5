//! What this machine offers for the jail backend, and why not more.

use casemate_backend::contract::{Offer, Usable};
use casemate_driver::lowered::{MEMORY_CEILING, MEMORY_FLOOR};
use casemate_driver::packages::{guest, host_system};
use casemate_driver::walls::offered_here;
use casemate_images::Systems;
use casemate_model::job::Language;
use casemate_model::unit::ByteSize;

use crate::walls::WALLS;

/// The backend's name.
pub const NAME: &str = "jail";
/// The offer. Whether the walls really stand is found out by each jail when it is built, and is in each
/// run's receipt; this says whether there is a guest, and leaves out what this machine
/// cannot have.
pub(crate) fn offer(systems: &Systems, warm: bool) -> Offer {
    let usable = host_system(systems.store());
    let (guarantees, lost) = offered_here(WALLS);
    let notes = vec![
        guest(),
        "real processes, threads and native code; clocks are as fine as the machine's".to_owned(),
        start(warm).to_owned(),
        "shares the host's kernel and shows its /usr, read-only: weaker than WebAssembly against a hole in the kernel"
            .to_owned(),
    ];
    Offer {
        backend: NAME.to_owned(),
        usable,
        images: Usable::Yes,
        languages: Language::ALL.to_vec(),
        guarantees,
        lost,
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
