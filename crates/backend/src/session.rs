//! Sandboxes with a life: an agent in them is spoken to, again and again, until they are dropped.
//!
//! A run has a program and an end; a session has neither. Its walls are a run's: they are built from a
//! [`Plan`], and the receipt is in hand before the agent starts anything. What the agent says is the
//! guest's word.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use casemate_model::outcome::Exit;
use casemate_model::receipt::Receipt;

use crate::contract::{CreateError, Fault};
use crate::plan::Plan;

/// A backend that can keep a sandbox alive.
pub trait Sessions: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Builds the walls for a plan, whose program is not looked at. Nothing but our agent will have started
    /// when the caller has the receipt, and nothing of the guest's starts before the first [`Session::connect`].
    /// With `warm` the agent has an interpreter ready for the first cell. The files in a folder are copied into the
    /// scratch before: those of another session ([`Session::files`]), or that were saved ([`Session::save`]).
    ///
    /// # Errors
    /// [`CreateError`] when there is no sandbox; nothing is left behind.
    fn open(
        &self,
        plan: &Plan,
        warm: bool,
        files: Option<&OwnedFd>,
    ) -> Result<(Box<dyn Session>, Receipt), CreateError>;
}

/// What a session holds at one moment, measured from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Processor time since it began, in microseconds.
    pub cpu_us: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Of it what the kernel could take back, in bytes.
    pub cache_bytes: u64,
    /// Bytes of scratch.
    pub disk_bytes: u64,
}

/// One sandbox that lives. Dropping it ends everything in it.
pub trait Session: Send + Sync {
    /// A new stream to the agent, connected.
    ///
    /// # Errors
    /// When the sandbox has ended.
    fn connect(&self) -> io::Result<OwnedFd>;

    /// A new stream that the agent carries on to a port of the sandbox's loopback. It ends at once where nobody
    /// listens there.
    ///
    /// # Errors
    /// When the sandbox has ended.
    fn connect_to(&self, port: u16) -> io::Result<OwnedFd>;

    /// The top of its scratch, to be copied from.
    ///
    /// # Errors
    /// When there are no more descriptors.
    fn files(&self) -> io::Result<OwnedFd>;

    /// Copies all files of its scratch into an empty folder, and says how many bytes they have.
    ///
    /// # Errors
    /// When they cannot be read or written. What was written by then stays.
    fn save(&self, to: &Path) -> Result<u64, Fault>;

    /// Freezes everything in it, where it is.
    ///
    /// # Errors
    /// When the sandbox cannot be frozen here, or has ended.
    fn pause(&self) -> Result<(), Fault>;

    /// Thaws it.
    ///
    /// # Errors
    /// When the sandbox has ended.
    fn resume(&self) -> Result<(), Fault>;

    /// What it holds now.
    fn held(&self) -> Held;

    /// Ends everything in it, as dropping it does, while others still hold it. Blocking, and not for long.
    fn end(&self);

    /// Why it is no longer, where it is not: a limit that was reached, or how its first process ended.
    fn ended(&self) -> Option<String>;
}

/// How a session ended, in words: what [`Session::ended`] says.
#[must_use]
pub fn in_words(exit: &Exit) -> String {
    match exit {
        Exit::Cancelled => "it was ended".to_owned(),
        Exit::Limit {
            limit,
            allowed,
            seen,
        } => format!(
            "it reached its limit of {limit}: {} of {} allowed; its state is lost",
            limit.show(*seen),
            limit.show(*allowed)
        ),
        Exit::Code(code) => format!("what it lived in ended with exit code {code}"),
        Exit::Signal(signal) => format!("what it lived in ended by signal {signal}"),
        Exit::Wall { wall, reason } => format!("{wall} ended it: {reason}"),
        Exit::Fault(why) => why.clone(),
    }
}
