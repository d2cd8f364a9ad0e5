//! The WASM backend: CPython with the scientific stack, compiled ahead of time, one guest at a time
//! in worker processes that are locked down before they touch anything of a guest's.
//!
//! `setup` makes the compiled snapshot; `probe`, `lower` and `drive` are the backend as every backend
//! has them, and `session` is it for sandboxes that live on; `process` and `listen` are the host's side of a worker,
//! `worker` is that process; `wasi` is everything the guest can see.

#![deny(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod asks;
mod drive;
mod guest;
mod guest_files;
mod library;
mod listen;
mod lower;
mod machine;
mod memory;
mod module;
mod probe;
mod process;
mod session;
pub mod setup;
mod walls;
mod wasi;
mod wire;
pub mod worker;

pub use drive::WasmBackend;
pub use probe::NAME;
pub use session::WasmSessions;
