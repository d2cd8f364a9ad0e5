//! A backend with one of the starts that it has and no other: to attack that start.

use casemate_backend::contract::{Backend, CreateError, Offer, Sandbox};
use casemate_backend::plan::Plan;
use casemate_engine::{Record, Records};
use casemate_model::receipt::Receipt;

/// A backend under another name. A run that would start otherwise does not start.
pub(crate) struct Only<B> {
    /// The name under which such starts are attacked, and under which the result is kept.
    pub(crate) name: &'static str,
    pub(crate) backend: B,
    /// Makes of a plan one that starts so, once it can.
    pub(crate) ready: fn(&B, &mut Plan) -> Result<(), String>,
    /// Whether a run with this receipt began so.
    pub(crate) began: fn(&Receipt) -> bool,
}

/// A backend counts as attacked only where another start of its own, which has this name, was attacked too.
pub(crate) fn counts_only_with(records: &mut Records, backend: &str, start: &str) {
    if matches!(Record::of(records, backend), Record::Stood { .. }) {
        let other = match Record::of(records, start) {
            Record::None { why } => Record::None {
                why: format!("its starts as {start} (`casemate attack --backend {start}`): {why}"),
            },
            other => other,
        };
        records.insert(backend.to_owned(), other);
    }
}

impl<B: Backend> Backend for Only<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn probe(&self) -> Offer {
        Offer {
            backend: self.name.to_owned(),
            ..self.backend.probe()
        }
    }

    fn rests_on(&self) -> Vec<(String, String)> {
        self.backend.rests_on()
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        let mut plan = plan.clone();
        (self.ready)(&self.backend, &mut plan).map_err(CreateError::Fault)?;
        let (sandbox, receipt) = self.backend.create(&plan)?;
        if !(self.began)(&receipt) {
            return Err(CreateError::Fault(
                "the program would have started cold".to_owned(),
            ));
        }
        let backend = self.name.to_owned();
        Ok((sandbox, Receipt { backend, ..receipt }))
    }
}
