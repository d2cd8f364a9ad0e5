//! The sandbox as tools of a model, by the Model Context Protocol.
//!
//! `tools` says what there is, once: over standard input and output it is a [`Host`] of the command's that runs
//! ([`stdio`]), at `/mcp` the server itself (`door`, `served`). Sessions are a server's in both cases (`sessions`), over
//! standard input and output those of one without a door. What a tool takes is written by a model, which may have been talked into anything: none has a way to choose a policy, a backend or
//! a larger limit.

mod address;
mod answer;
mod door;
mod host;
mod protocol;
mod served;
mod sessions;
mod tools;

pub use address::Address;
pub(crate) use door::Door;
pub use host::{Call, Host, Listed, ToolError, Wanted, until_ended};
pub use tools::stdio;
