//! The jail backend: the host's own Python behind namespaces, a root of its own, Landlock, seccomp and
//! control groups, with real processes, threads and native code.
//!
//! `setup` makes the packages; `probe`, `lower` and `drive` are the backend as every backend has them;
//! `init` is the other process, which builds the walls and then starts Python; `watch` looks at the
//! limits from outside while it runs.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod collect;
mod drive;
pub mod init;
mod lower;
mod packets;
mod probe;
pub mod setup;
mod walls;
mod watch;
mod wire;

pub use drive::JailBackend;
pub use probe::NAME;
