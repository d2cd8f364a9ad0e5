//! The guest protocol: what the host and the agent inside a sandbox say to each other.
//!
//! It is E2B's envd protocol (Connect RPC over HTTP/1.1, on any stream of bytes) and the code interpreter's
//! `/execute`. The agent, the client of our own sandboxes and the server that official SDKs talk to share the
//! types here.
//!
//! Bytes from a guest are hostile although we wrote the agent. Everything that reads them here is total
//! and bounded by [`Limits`]: headers, messages, entries of a list, lines, streams and time.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

pub mod client;
pub mod codec;
pub mod envelope;
pub mod error;
pub mod filesystem;
pub mod interpreter;
mod json;
pub mod limits;
pub mod process;
pub mod server;
mod shape;
pub mod signature;
pub mod text;

pub use client::{Client, ClientError};
pub use codec::Codec;
pub use error::{Code, RpcError};
pub use limits::Limits;

/// The port that stands for envd in the header [`PORT_HEADER`].
pub const ENVD_PORT: u16 = 49983;
/// The port that stands for the code interpreter.
pub const INTERPRETER_PORT: u16 = 49999;
/// Which of a sandbox's ports a request is for.
pub const PORT_HEADER: &str = "e2b-sandbox-port";
/// The token of a sandbox's data plane.
pub const TOKEN_HEADER: &str = "x-access-token";
/// How often, in seconds, a stream without data is to say that it lives.
pub const KEEPALIVE_HEADER: &str = "keepalive-ping-interval";
/// How long a call may take, in milliseconds.
pub const TIMEOUT_HEADER: &str = "connect-timeout-ms";
/// The protocol version that the agent speaks, as SDKs read it.
pub const VERSION: &str = "0.6.13";
