//! The guest's driver: Python of ours that runs a program inside a sandbox and tells the host what
//! came of it. And the host's side of that: hostile bytes, decoded totally and counted.
//!
//! Whoever sends a message is the guest, whatever it looks like. Nothing in one is believed beyond
//! what it shows of the guest itself; every limit is counted here, whatever the guest counted.

//!
//! Where processes, threads and native code are real, backends share more: `packages` makes what
//! the system's Python needs, `lowered` is a plan in plain numbers, `handover` and `packets` carry it to the
//! process that builds the sandbox, `listen`, `watch` and `collect` see the run to its end, measured at the
//! pace of `pace`; `session` looks after a sandbox that an agent lives in; `walls` are those that all of them have.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

pub mod collect;
pub mod guest;
pub mod handover;
mod job;
pub mod listen;
pub mod lowered;
mod messages;
pub mod outside;
pub mod pace;
pub mod packages;
pub mod packets;
pub mod session;
pub mod system;
mod tally;
pub mod walls;
pub mod watch;

pub use job::{alias, job_json, plain_job_json};
pub use messages::{Message, decode};
pub use tally::{Ceilings, Over, TOLD_MAX, Tally};
