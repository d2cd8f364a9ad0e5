//! The container backends: the host's own Python in a container that `runc`, `crun` or gVisor's `runsc`
//! makes from one OCI bundle, or that a Docker daemon makes.
//!
//! `probe`, `lower` and `drive` are the backend as every backend has them; `bundle` and `filter` are the
//! parts of the bundle; `keeper` is the other process, which has the container made; `making` is the host's side of
//! that, `checkpoint` keeps an interpreter on gVisor's kernel as files, and `session` has a container made for an agent to live in; `measure` looks at what was made from outside, between the
//! runtime's `create` and its `start` and again before the program begins; `advisories` says which versions are not to be trusted. [`docker`] is the same once more
//! where a daemon drives the runtime.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod advisories;
mod bundle;
mod checkpoint;
pub mod docker;
mod drive;
mod filter;
pub mod keeper;
mod kind;
mod lower;
mod making;
mod measure;
mod probe;
mod session;
mod walls;

pub use casemate_driver::walls::LAYOUT;
pub use checkpoint::{Make, is_restored};
pub use drive::ContainerBackend;
pub use kind::{Kind, Platform};
pub use session::{ContainerSessions, Unfit};
