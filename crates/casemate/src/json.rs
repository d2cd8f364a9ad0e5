//! The outcome as JSON, with what was saved by its path. `casemate-server` says the same of its runs.

use casemate_model::outcome::Outcome;
use casemate_server::wire::{self, Places};
use serde_json::Value;

use crate::out::Saved;

/// The whole outcome. Files are by content, or by path where they were saved.
pub(crate) fn outcome(outcome: &Outcome, saved: Option<&Saved>) -> Value {
    let places = Places {
        field: "saved_to",
        pictures: saved
            .map(|saved| saved.pictures.as_slice())
            .unwrap_or_default(),
        artifacts: saved
            .map(|saved| saved.artifacts.as_slice())
            .unwrap_or_default(),
    };
    wire::outcome(outcome, places)
}
