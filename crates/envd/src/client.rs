//! The host's side of the protocol, over any stream of bytes.
//!
//! One connection a call: streams to an agent on the same machine cost little, and what one call's bytes
//! do to its connection is nothing to the next. Everything that is read is bounded by [`Limits`].

mod answer;
mod execute;
mod files;
mod http;
mod process;
mod rpc;
mod watch;

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

pub use answer::{Answer, GuestBody};
pub use execute::Execution;
pub use files::{Download, Uploaded};
pub use http::{Init, Metrics};
pub use process::{ProcessStream, ProcessTold, StartOptions};
pub use rpc::Messages;
pub use watch::{Watched, Watching};

use crate::error::RpcError;
use crate::limits::Limits;

/// A stream of bytes to an agent.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream that is being made.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

/// What makes streams to one agent.
pub trait Dial: Send + Sync {
    /// Makes one.
    fn dial(&self) -> Dialling<'_>;
}

/// An agent that listens on a unix socket.
impl Dial for PathBuf {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async move {
            let stream = UnixStream::connect(self).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// Why a call did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no stream to the agent.
    #[error("the agent cannot be reached: {0}")]
    Unreachable(io::Error),
    /// The agent took too long.
    #[error("the agent did not {0} in time")]
    Late(&'static str),
    /// The agent sent more than it may.
    #[error("the agent sent more than {limit} of {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much it may send.
        limit: u64,
    },
    /// The agent broke the protocol.
    #[error("the agent broke the protocol: {0}")]
    Protocol(String),
    /// The stream ended before it was over: the sandbox may be gone.
    #[error("the stream to the agent broke: {0}")]
    Cut(String),
    /// The agent says that it cannot be done.
    #[error("{0}")]
    Refused(RpcError),
    /// The request itself cannot be sent.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

impl ClientError {
    /// The code that the agent answered with.
    #[must_use]
    pub const fn code(&self) -> Option<crate::Code> {
        match self {
            Self::Refused(error) => Some(error.code),
            _ => None,
        }
    }
}

/// A client of one agent.
#[derive(Clone)]
pub struct Client {
    dial: Arc<dyn Dial>,
    limits: Limits,
    token: Option<String>,
    user: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        out.debug_struct("Client")
            .field("limits", &self.limits)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client over streams made by `dial`, with the default limits.
    pub fn new(dial: impl Dial + 'static) -> Self {
        Self {
            dial: Arc::new(dial),
            limits: Limits::default(),
            token: None,
            user: None,
        }
    }

    /// With these limits instead.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// With the token that the agent was given.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// As this user of the sandbox, instead of its default one.
    #[must_use]
    pub fn as_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The limits.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }
}
