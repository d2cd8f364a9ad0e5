//! The vocabulary of Casemate: what a job is, what it may use, which walls it asks for, what happened.
//!
//! Nothing here reads a file, starts a process or waits. Every other crate speaks in these words, so
//! that no library's types leak into the core and a receipt means the same in every backend.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

pub mod event;
pub mod finding;
pub mod guarantee;
pub mod job;
pub mod known;
pub mod limit;
pub mod manifest;
pub mod outcome;
pub mod policy;
pub mod receipt;
pub mod result;
pub mod screening;
pub mod unit;
