//! Who runs what the tools are asked for.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use casemate_backend::contract::Cancel;
use casemate_model::job::{Input, Program};
use casemate_model::outcome::Outcome;
use casemate_model::result::Artifact;
use rmcp::RoleServer;
use rmcp::service::RequestContext;

use super::address::Address;
use super::answer::mime;
use crate::error::ApiError;
use crate::runs::CancelOnDrop;

/// One call of a tool: who calls, and whether it still waits.
pub type Call = RequestContext<RoleServer>;

/// Bytes of a file that is read as a whole: it becomes text in one message.
pub(super) const READ_MAX: u64 = 16 << 20;

/// A program as a tool was given it. Which policy it has is not the tool's to say.
#[derive(Debug)]
pub struct Wanted {
    /// The program.
    pub program: Program,
    /// Its arguments.
    pub args: Vec<String>,
    /// Files that came with the call.
    pub inputs: Vec<Input>,
    /// A shorter time than the policy's.
    pub timeout: Option<Duration>,
}

/// A file that an earlier run handed back.
#[derive(Debug, Clone)]
pub struct Listed {
    pub(super) address: Address,
    pub(super) path: String,
    pub(super) mime: String,
    pub(super) bytes: u64,
}

impl Listed {
    /// A run's file, by its place in the run's list.
    pub fn of(run: &str, index: usize, artifact: &Artifact) -> Self {
        let run = run.to_owned();
        Self {
            address: Address::Artifact { run, index },
            path: artifact.path.clone(),
            mime: mime(artifact).to_owned(),
            bytes: artifact.bytes.len() as u64,
        }
    }
}

/// Why a call cannot be done, in words that whoever called can act on.
#[derive(Debug, Clone)]
pub struct ToolError(String);

impl ToolError {
    /// Says why.
    pub fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }

    /// A file that is not there, or is another's: the two look the same.
    pub fn unknown(uri: &str) -> Self {
        let uri: String = uri.chars().take(200).collect();
        Self(format!(
            "{uri:?} is not kept: `list_artifacts` says what is; older runs make room for newer ones"
        ))
    }

    pub(super) fn too_large(path: &str, bytes: u64) -> Self {
        Self(format!(
            "{path} has {bytes} bytes, and at most {READ_MAX} are read: have the program write less, or in parts"
        ))
    }
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ApiError> for ToolError {
    fn from(error: ApiError) -> Self {
        let body = error.body("");
        Self(format!("{}: {}", body.message, body.remediation))
    }
}

/// An engine of this process, or a server.
pub trait Host: Send + Sync + 'static {
    /// What a client is told of it beside its tools.
    fn instructions(&self) -> String;

    /// Runs a program, and stops it when the client no longer waits.
    ///
    /// # Errors
    /// Why there is no outcome.
    fn run(
        &self,
        call: &Call,
        wanted: Wanted,
    ) -> impl Future<Output = Result<Outcome, ToolError>> + Send;

    /// Takes back the outcome of a run that was told: its files are read later.
    fn told(&self, outcome: Outcome);

    /// Screens a program without running it, and says what was found.
    ///
    /// # Errors
    /// Why it cannot be screened.
    fn scan(
        &self,
        call: &Call,
        wanted: Wanted,
    ) -> impl Future<Output = Result<String, ToolError>> + Send;

    /// The files of earlier runs, the latest run's first.
    ///
    /// # Errors
    /// Why they cannot be listed.
    fn list(&self, call: &Call) -> impl Future<Output = Result<Vec<Listed>, ToolError>> + Send;

    /// A file, where it is the caller's.
    ///
    /// # Errors
    /// When it is not there, or not to be read.
    fn read(
        &self,
        call: &Call,
        address: &Address,
    ) -> impl Future<Output = Result<Artifact, ToolError>> + Send;
}

/// Waits for a run's end, and brings it about when the client no longer waits for it.
pub async fn until_ended<T>(run: impl Future<Output = T>, cancel: Cancel, call: &Call) -> T {
    // Where this is dropped nobody is told of the end any more.
    let leaving = CancelOnDrop(Some(cancel));
    let mut run = pin!(run);
    tokio::select! {
        ended = &mut run => ended,
        () = call.ct.cancelled() => {
            drop(leaving);
            run.await
        }
    }
}
