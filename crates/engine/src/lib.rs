//! The engine: one function is the product.
//!
//! `Job -> Screening -> Cleared -> Placement -> Plan -> (Sandbox, Receipt) -> Trace -> Outcome`
//!
//! [`Engine::run`] is that line, stage by stage. The stages that decide (`choose`, `plan`, `settle`) are
//! pure functions with tables of tests; those that do are the backends'.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod attacked;
mod choose;
mod open;
mod pipeline;
mod plan;
pub mod policies;
mod settle;

pub use attacked::{Record, Records};
pub use choose::{Lack, NoPlace, choose, needs};
pub use open::{Opening, open, session_plan};
pub use pipeline::{Engine, Prepared};
pub use plan::{plan, sha256_hex};
pub use settle::{Refusal, Settled, refuse, settle};
