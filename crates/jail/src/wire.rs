//! What the host and the first process of a jail say to each other.
//!
//! The host believes nothing of what comes after `START` but that the jail's own first process, which is
//! not the guest, saw an end; and the end only decides what is shown of the guest.

use casemate_linux::{Exit, Step};
use serde::{Deserialize, Serialize};

/// Host to init: a part of the job, as JSON.
pub(crate) const JOB: u8 = 1;
/// Host to init: that was all of it; the contents follow.
pub(crate) const JOB_END: u8 = 2;
/// Host to init: the next bytes of the contents.
pub(crate) const DATA: u8 = 3;
/// Host to init: start Python.
pub(crate) const START: u8 = 4;
/// Init to host: a part of the list of walls, as JSON.
pub(crate) const WALLS: u8 = 10;
/// Init to host: that was all of it; the walls stand, and nothing has run.
pub(crate) const ARMED: u8 = 11;
/// Init to host: the program has ended.
pub(crate) const ENDED: u8 = 12;
/// Init to host: it failed, in words.
pub(crate) const FAILED: u8 = 13;

/// Guest to host: a part of a message.
pub(crate) const MESSAGE_PART: u8 = 0;
/// Guest to host: the last part of one.
pub(crate) const MESSAGE_END: u8 = 1;
/// Guest to host, once and first: the interpreter stands; the program is next.
pub(crate) const READY: u8 = 2;

/// Bytes of a job's description.
pub(crate) const JOB_MAX: usize = 4 << 20;
/// Bytes of a list of walls.
pub(crate) const WALLS_MAX: usize = 1 << 20;

/// What is to be built and run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireJob {
    /// The folder of the packages, on the host.
    pub(crate) packages: String,
    /// Files that are copied in, in the order of their contents.
    pub(crate) files: Vec<WireFile>,
    /// Plain names in the working folder, and the absolute paths they lead to.
    pub(crate) links: Vec<(String, String)>,
    /// Absent: no ceiling, by choice.
    pub(crate) scratch_bytes: Option<u64>,
    pub(crate) scratch_files: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) tasks: Option<u64>,
    pub(crate) processors: usize,
}

/// One file that is copied in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireFile {
    /// Relative: below `data` or below `run`.
    pub(crate) path: String,
    pub(crate) bytes: u64,
}

/// How the program ended, seen by the process that waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireEnd {
    pub(crate) exit: Exit,
}

/// One part of the wall list.
pub(crate) type WireWalls = Vec<Step>;
