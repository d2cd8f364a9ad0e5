//! The door for E2B's SDKs: their control plane, and the way to the agent of each sandbox.
//!
//! With `E2B_API_URL` and `E2B_SANDBOX_URL` at this server an unmodified SDK finds everything on one port.
//! `proxy` looks at each request first: one that names a sandbox goes to that sandbox's agent, every other
//! to the paths of `control`.

pub(crate) mod agent;
pub(crate) mod control;
mod filter;
pub(crate) mod model;
pub(crate) mod proxy;
pub(crate) mod sandboxes;
pub(crate) mod snapshots;

use std::sync::Arc;

use casemate_backend::session::Sessions;
use casemate_model::job::ImageChoice;
use casemate_model::policy::Policy;

pub(crate) use control::router;

/// What an SDK names to get a sandbox: which backend makes it, what it shows, under which policy.
#[derive(Clone)]
pub struct Template {
    /// The name, such as `base`.
    pub name: String,
    /// Who makes it.
    pub sessions: Arc<dyn Sessions>,
    /// The system that it is shown.
    pub image: ImageChoice,
    /// Its ceilings and the walls it must have.
    pub policy: Policy,
    /// Whether an interpreter is ready in it for the first cell.
    pub warm: bool,
}
