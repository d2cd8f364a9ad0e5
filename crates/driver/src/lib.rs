//! The guest's driver: Python of ours that runs a program inside a sandbox and tells the host what
//! came of it. And the host's side of that: hostile bytes, decoded totally and counted.
//!
//! Whoever sends a message is the guest, whatever it looks like. Nothing in one is believed beyond
//! what it shows of the guest itself; every limit is counted here, whatever the guest counted.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

pub mod guest;
mod job;
mod messages;
mod tally;

pub use job::{alias, job_json};
pub use tally::{Ceilings, Over, TOLD_MAX, Tally};
