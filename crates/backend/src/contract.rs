//! Traits `Backend` and `Sandbox`, and the words between them and the engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use casemate_model::event::Event;
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::job::Language;
use casemate_model::outcome::{Exit, Usage};
use casemate_model::receipt::Receipt;
use casemate_model::result::{Artifact, Displayed, ProgramError};
use casemate_model::unit::ByteSize;
use serde::Serialize;
use thiserror::Error;

use crate::plan::Plan;

/// Whether a backend can be used on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Usable {
    /// It can.
    Yes,
    /// It can once it has been set up, which `casemate run` does by itself.
    AfterSetup {
        /// What set-up will do.
        what: String,
    },
    /// It cannot.
    No {
        /// Why.
        why: String,
        /// What to do about it.
        fix: String,
    },
}

/// Guarantees that this machine, or the user that this process runs as, keeps a backend from giving: each with why, and
/// what helps.
pub type Lost = BTreeMap<Guarantee, String>;

/// What a backend says it can give here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// The backend's name.
    pub backend: String,
    /// Whether it can be used.
    pub usable: Usable,
    /// Whether it can be used with an image, which brings a system of its own.
    pub images: Usable,
    /// The languages it runs, where the system that a program is shown has them.
    pub languages: Vec<Language>,
    /// What it can guarantee on this machine.
    pub guarantees: Guarantees,
    /// What it could guarantee elsewhere.
    pub lost: Lost,
    /// The least memory a program can start with.
    pub memory_floor: ByteSize,
    /// The most memory a program can be given.
    pub memory_ceiling: ByteSize,
    /// Cost rank: the cheapest fitting backend is chosen.
    pub cost: u32,
    /// What it is, and what it lacks, for people.
    pub notes: Vec<String>,
}

/// A flag the caller raises to stop a run.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is down.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises it; a run ends within tens of milliseconds.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a sandbox tells while it runs.
#[derive(Debug, Clone)]
pub enum Signal {
    /// Bytes of standard output, already within the limit.
    Stdout(Vec<u8>),
    /// Bytes of standard error, already within the limit.
    Stderr(Vec<u8>),
    /// Something happened.
    Event(Event),
    /// The program displayed something.
    Displayed(Displayed),
    /// The program ended on an error.
    Error(ProgramError),
}

/// How a sandbox ended.
#[derive(Debug, Clone)]
pub struct Finish {
    /// The raw end.
    pub exit: Exit,
    /// What was used, measured.
    pub usage: Usage,
    /// Files left in /tmp and the working folder, within the limits.
    pub artifacts: Vec<Artifact>,
}

/// Why a sandbox could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The backend is not set up or cannot be used here.
    #[error("{why}; {fix}")]
    Unusable {
        /// Why.
        why: String,
        /// What to do about it.
        fix: String,
    },
    /// The plan cannot be carried out by this backend.
    #[error("{0}")]
    Plan(String),
    /// Something failed on our side.
    #[error("{0}")]
    Fault(String),
}

/// Something failed on our side while a sandbox ran.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// One kind of isolation.
pub trait Backend: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What this machine offers, found by trying where looking is not enough.
    fn probe(&self) -> Offer;

    /// Whether probing asks another program for its state: then it is done only where this backend is
    /// asked for by name, or no other fits.
    fn is_slow_to_probe(&self) -> bool {
        false
    }

    /// What its walls rest on beside the kernel and this program, each by name: a runtime's file and version, the
    /// guest. When one changes, what was found out about the walls no longer counts. Cheap: it is asked
    /// before every run.
    fn rests_on(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Processes of its live sandboxes that the kernel does not show below this one: those that another program's
    /// child started. Who looks at what a sandbox does from outside looks at these too.
    fn elsewhere(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Builds the walls for a plan. No guest instruction has run when this returns.
    ///
    /// # Errors
    /// [`CreateError`] when there is no sandbox; nothing is left behind.
    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError>;
}

/// One sandbox, made and not yet used.
pub trait Sandbox: Send {
    /// Runs the plan's program to its end, telling `sink` what happens.
    ///
    /// # Errors
    /// [`Fault`] when we failed; what the program did is in [`Finish`], whatever it was.
    fn run(
        self: Box<Self>,
        plan: &Plan,
        sink: &mut dyn FnMut(Signal),
        cancel: &Cancel,
    ) -> Result<Finish, Fault>;
}
