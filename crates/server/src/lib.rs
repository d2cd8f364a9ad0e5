//! The server: what products build on. Runs and scans in one call, files stored once, keys that an
//! operator binds to a policy.
//!
//! `serve` wires it: [`Config`] in, an open port out. A request passes `guard` (who asks, from where),
//! then its handler; what a handler needs of the world is in `State`. Everything a program does is the
//! engine's: no handler runs, compiles or imports submitted code.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod blobs;
mod body;
mod config;
mod console;
mod docs;
mod e2b;
mod error;
mod guard;
mod hearing;
mod intake;
mod keys;
mod listen;
mod making;
pub mod mcp;
mod metrics;
mod openapi;
mod routes;
mod runs;
mod serve;
mod sleep;
mod spares;
mod state;
mod store;
pub mod text;
pub mod tls;
pub mod wire;

pub use config::{
    AttackCell, AttackColumn, AttackMatrix, AttackTry, Certificate, Config, KeyRules, Sign, Tls,
};
pub use e2b::Template;
pub use keys::{KeyInfo, NewKey};
pub use openapi::document;
pub use serve::{Inside, Running, ServeError, start};
pub use store::{EntryRow, Head, Looked, Store, StoreError};
