//! The channel between the host and a worker: frames with a kind, a length and a bound.
//!
//! What a worker sends is hostile bytes, because a guest that broke out of the engine would be the one
//! sending. The host bounds every frame before it reads it, decodes totally, and counts what the
//! limits allow once more by itself.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use casemate_model::limit::LimitKind;
use serde::{Deserialize, Serialize};

/// The largest frame; larger contents are sent in several.
pub(crate) const FRAME_MAX: usize = 1 << 20;
/// Bytes before a frame's payload: its kind and its length.
pub(crate) const HEADER: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Host to worker: what is to be run; its contents follow as `Data`.
    Job = 1,
    /// Host to worker: the next bytes of the contents.
    Data = 2,
    /// Host to worker: run. A session begins to wait for what follows.
    Start = 3,
    /// Host to a session: the next cell; what the driver reads of it follows as `Data`.
    Cell = 4,
    /// Host to a session: something about its files; what is to be written follows as `Data`.
    Ask = 5,
    /// Host to a session in the middle of a cell: its interpreter is interrupted.
    Interrupt = 6,
    /// Host to a session: another interpreter takes the place of its own, also in the middle of a cell. Files stay.
    Renew = 7,
    /// Worker to host: locked down, loaded, sealed; the walls.
    Ready = 10,
    /// Worker to host: an instance stands; the walls of this run.
    Armed = 11,
    Stdout = 12,
    Stderr = 13,
    /// Worker to host: events.
    Events = 14,
    /// Worker to host: a part of a message of the guest's driver.
    MessagePart = 15,
    /// Worker to host: the last part.
    MessageEnd = 16,
    /// Worker to host: a file that was left begins.
    File = 17,
    /// Worker to host: its next bytes.
    FileData = 18,
    /// Worker to host: how it ended; of a session, how a cell did.
    End = 19,
    /// Session to host: a part of what was asked for.
    AnswerPart = 20,
    /// Session to host: the last part.
    AnswerEnd = 21,
    /// Session to host: there is another interpreter.
    Renewed = 22,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Kind; 20] = [
            Kind::Job,
            Kind::Data,
            Kind::Start,
            Kind::Cell,
            Kind::Ask,
            Kind::Interrupt,
            Kind::Renew,
            Kind::Ready,
            Kind::Armed,
            Kind::Stdout,
            Kind::Stderr,
            Kind::Events,
            Kind::MessagePart,
            Kind::MessageEnd,
            Kind::File,
            Kind::FileData,
            Kind::End,
            Kind::AnswerPart,
            Kind::AnswerEnd,
            Kind::Renewed,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What a worker is to run. The contents follow in this order: job, standard input, files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireJob {
    pub(crate) job_bytes: u64,
    pub(crate) stdin_bytes: u64,
    pub(crate) files: Vec<WireFile>,
    pub(crate) limits: WireLimits,
    pub(crate) clock_granularity_us: u64,
    /// Whether the instance serves cell after cell; then there is no job and no input, and the limits on time and
    /// output are each cell's.
    pub(crate) session: bool,
}

#[cfg(test)]
impl WireJob {
    /// A job with nothing in it.
    pub(crate) fn empty() -> Self {
        Self {
            job_bytes: 0,
            stdin_bytes: 0,
            files: Vec::new(),
            limits: WireLimits {
                memory_bytes: 0,
                cpu_millis: 1000,
                cpu_time_ms: Some(1000),
                wall_time_ms: Some(1000),
                disk_bytes: 0,
                disk_files: 0,
                output_bytes: 0,
                result_bytes: 0,
                open_files: 0,
                artifacts: 0,
                artifact_bytes: 0,
            },
            clock_granularity_us: 1000,
            session: false,
        }
    }
}

/// A read-only file of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireFile {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// A second name in the working folder.
    pub(crate) alias: Option<String>,
}

/// Ceilings as plain numbers; an absent one is unlimited by choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireLimits {
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_millis: u32,
    pub(crate) cpu_time_ms: Option<u64>,
    pub(crate) wall_time_ms: Option<u64>,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_files: u64,
    pub(crate) output_bytes: u64,
    pub(crate) result_bytes: u64,
    pub(crate) open_files: u64,
    pub(crate) artifacts: u64,
    pub(crate) artifact_bytes: u64,
}

/// One wall as the worker saw it built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireWall {
    pub(crate) wall: String,
    pub(crate) asked: String,
    pub(crate) got: Result<String, String>,
}

impl WireWall {
    pub(crate) fn standing(wall: &str, asked: impl Into<String>, got: impl Into<String>) -> Self {
        Self {
            wall: wall.to_owned(),
            asked: asked.into(),
            got: Ok(got.into()),
        }
    }
}

/// A file that was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireLeft {
    pub(crate) path: String,
    pub(crate) bytes: u64,
}

/// How a run ended, as the worker tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireEnd {
    pub(crate) end: WireExit,
    pub(crate) wall_us: u64,
    pub(crate) cpu_us: u64,
    pub(crate) memory_peak_bytes: u64,
    /// Bytes of files at the end.
    pub(crate) disk_bytes: u64,
    pub(crate) disk_peak_bytes: u64,
    pub(crate) disk_peak_files: u64,
    pub(crate) open_files_peak: u64,
    pub(crate) stdout_bytes: u64,
    pub(crate) stderr_bytes: u64,
}

/// The end in a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WireExit {
    /// The turn returned; the driver's own message has the exit code.
    Returned { status: i32 },
    /// `os._exit` or an abort.
    Exited { code: i32 },
    /// A limit that ends a run.
    Over {
        limit: LimitKind,
        allowed: u64,
        seen: u64,
    },
    /// The host wanted another interpreter.
    Renewed,
    /// The guest broke a rule of WebAssembly.
    Trapped { trap: String },
    /// Something failed on our side.
    Failed { reason: String },
}

/// The next cell of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireCell {
    pub(crate) job_bytes: u64,
}

/// What is asked about a session's files. Every path is absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum WireAsk {
    /// What is there.
    Stat { path: String },
    /// What is in a folder, so many levels deep: at most so many entries.
    List { path: String, depth: u32, most: u64 },
    /// A folder and those above it.
    MakeDir { path: String },
    /// Another name, and the folders above that.
    Move { from: String, to: String },
    /// Nothing there any more, nor in it.
    Remove { path: String },
    /// A part of a file.
    Read { path: String, at: u64, len: u32 },
    /// A part of a file that is written; its first makes the file anew, and the folders above it.
    Write {
        path: String,
        at: u64,
        bytes: u64,
        metadata: Option<BTreeMap<String, String>>,
    },
    /// A file of what these have, one after another.
    Compose { from: Vec<String>, to: String },
    /// When a file was written, and what was said about it.
    Mark {
        path: String,
        mtime: u64,
        metadata: BTreeMap<String, String>,
    },
    /// A symbolic link.
    Link { path: String, target: String },
}

/// The answer. Bytes of a file follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WireAnswer {
    /// What there is, and the bytes of the session's files altogether.
    Entries {
        entries: Vec<WireEntry>,
        disk_bytes: u64,
    },
    /// A part of a file of so many bytes.
    Part { size: u64 },
    /// What the file system says against it.
    Failed { errno: String },
    /// More than may be listed at once.
    TooMany,
}

/// One entry of the guest's file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireEntry {
    pub(crate) path: String,
    pub(crate) is: WireIs,
    /// What a link leads to, in the end, is.
    pub(crate) leads_to: Option<(String, WireIs)>,
    /// What a link says.
    pub(crate) target: Option<String>,
    pub(crate) bytes: u64,
    /// Nanoseconds since 1970.
    pub(crate) mtime: u64,
    pub(crate) writable: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WireIs {
    File,
    Folder,
    Link,
    #[default]
    Other,
}

/// Writes frames.
pub(crate) fn send(to: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    debug_assert!(payload.len() <= FRAME_MAX, "callers split what is larger");
    let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.push(kind as u8);
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(payload);
    to.write_all(&frame)
}

/// Writes a value as JSON in one frame.
pub(crate) fn send_json(to: &mut impl Write, kind: Kind, value: &impl Serialize) -> io::Result<()> {
    let payload = serde_json::to_vec(value)?;
    if payload.len() > FRAME_MAX {
        return Err(io::Error::other(
            "the description of the run is larger than 1 MiB",
        ));
    }
    send(to, kind, &payload)
}

/// Writes bytes in as many frames as they need.
pub(crate) fn send_split(to: &mut impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    bytes
        .chunks(FRAME_MAX)
        .try_for_each(|chunk| send(to, kind, chunk))
}

/// A frame's header, checked.
pub(crate) fn header(bytes: [u8; HEADER]) -> io::Result<(Kind, usize)> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let kind =
        Kind::from_byte(bytes[0]).ok_or_else(|| bad(format!("unknown frame {}", bytes[0])))?;
    let len = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    if len > FRAME_MAX {
        Err(bad(format!("a frame of {len} bytes")))
    } else {
        Ok((kind, len))
    }
}

/// Reads one frame; none at a clean end.
pub(crate) fn receive(from: &mut impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; HEADER];
    let first = from.read(&mut head)?;
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[first..])?;
    let (kind, len) = header(head)?;
    let mut payload = vec![0; len];
    from.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_channel() {
        let mut bytes = Vec::new();
        send(&mut bytes, Kind::Stdout, b"hello").unwrap();
        send_split(&mut bytes, Kind::Data, &vec![7; FRAME_MAX + 1]).unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(
            receive(&mut from).unwrap(),
            Some((Kind::Stdout, b"hello".to_vec()))
        );
        assert_eq!(receive(&mut from).unwrap().unwrap().1.len(), FRAME_MAX);
        assert_eq!(receive(&mut from).unwrap().unwrap().1, [7]);
        assert_eq!(receive(&mut from).unwrap(), None);
    }

    #[test]
    fn unknown_kinds_and_large_lengths_are_refused_before_anything_is_read() {
        assert!(header([0, 1, 0, 0, 0]).is_err());
        assert!(header([99, 1, 0, 0, 0]).is_err());
        assert!(header([12, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(header([12, 0, 0, 0x10, 0]).is_ok());
    }

    #[test]
    fn every_cut_of_a_frame_is_an_error_and_no_panic() {
        let mut bytes = Vec::new();
        send(&mut bytes, Kind::Events, b"[]").unwrap();
        for cut in 1..bytes.len() {
            assert!(receive(&mut &bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
