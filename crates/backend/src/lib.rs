//! The contract every isolation backend fulfils, and the plan it is given.
//!
//! A backend takes a [`Plan`], builds the walls, and hands back a [`Sandbox`] with a receipt. No guest
//! instruction runs before the engine has held that receipt against the plan. `suite` is the
//! conformance suite that every backend runs unchanged.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

pub mod contract;
pub mod plan;
pub mod session;
pub mod setup;
pub mod suite;

pub use contract::{Backend, Cancel, CreateError, Fault, Finish, Offer, Sandbox, Signal, Usable};
pub use plan::{Guest, Plan, PlannedFile, Start};
