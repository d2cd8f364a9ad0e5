//! What an earlier process left behind because it was killed together with its keeper: containers by their
//! label, staged files by the name of their folder.

use std::path::Path;

use casemate_linux::keeper::clear;
use casemate_linux::owner::{Owner, stale_in};

use super::PLACES;
use super::daemon::Daemon;
use super::lower::LABEL;
use super::trouble::Trouble;

/// Takes away what belongs to processes that are surely gone; what could not be is tried at the next start.
pub(crate) fn reclaim(daemon: &Daemon) -> Result<(), Trouble> {
    let mut result = Ok(());
    for container in daemon.with_label(LABEL)? {
        let name = container
            .labels
            .and_then(|mut labels| labels.remove(LABEL))
            .unwrap_or_default();
        if Owner::of_name(&name).is_some_and(Owner::is_gone) {
            result = result.and(daemon.remove(&name));
        }
    }
    for place in stale_in(Path::new(PLACES)) {
        result = result.and(clear(&place).map_err(Trouble::Other));
    }
    result
}
