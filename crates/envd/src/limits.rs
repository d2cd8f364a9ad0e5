//! How much a guest may make the host read, keep and wait for.

use std::time::Duration;

/// Bounds on everything that comes from a guest. Every one is finite by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a response's head, trailers and chunk sizes; the HTTP library counts. At least 8 KiB.
    pub head_bytes: usize,
    /// Headers of a response.
    pub headers: usize,
    /// Bytes of a unary response.
    pub unary_bytes: usize,
    /// Entries of one list: processes, files, events, contexts.
    pub entries: usize,
    /// Bytes of one message of a stream.
    pub message_bytes: usize,
    /// Bytes of one line of an execution, which holds a whole result.
    pub line_bytes: usize,
    /// Bytes of one stream from its start to its end.
    pub stream_bytes: u64,
    /// How long a connection may take to be made.
    pub connect: Duration,
    /// How long a response may take to begin.
    pub respond: Duration,
    /// How long a unary call may take altogether.
    pub unary: Duration,
    /// How long a stream may take over its next message, even if that only says that it lives.
    pub silence: Duration,
    /// How long a file may take on its way.
    pub transfer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 16 << 10,
            headers: 64,
            unary_bytes: 16 << 20,
            entries: 20_000,
            message_bytes: 256 << 10,
            line_bytes: 24 << 20,
            stream_bytes: 1 << 30,
            connect: Duration::from_secs(5),
            respond: Duration::from_secs(30),
            unary: Duration::from_secs(60),
            silence: Duration::from_secs(150),
            transfer: Duration::from_secs(600),
        }
    }
}

/// Bytes of a text that a guest may put into an error.
pub(crate) const TEXT_MAX: usize = 2048;

/// A guest's text for people: as UTF-8, without control characters, at most [`TEXT_MAX`] bytes.
pub(crate) fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
