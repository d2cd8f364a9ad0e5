//! The jail backend: the host's own Python behind namespaces, a root of its own, Landlock, seccomp and
//! control groups, with real processes, threads and native code.
//!
//! `probe`, `lower` and `drive` are the backend as every backend has them; `init` is the other process,
//! which builds the walls and then starts Python. `spare` keeps some of them waiting, which `maker` forks; `zygote`
//! keeps interpreters that are forked into jails, and `measure` looks at what came of that. What is not peculiar to a
//! jail is in `casemate-driver`.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod drive;
pub mod init;
mod lower;
pub mod maker;
mod measure;
mod probe;
mod session;
mod shown;
mod spare;
mod walls;
pub mod zygote;

pub use casemate_driver::packages as setup;
pub use drive::{JailBackend, Warm};
pub use probe::NAME;
pub use session::JailSessions;
pub use walls::is_warm;
