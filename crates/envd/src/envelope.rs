//! Envelopes: the frames of a streaming call. One byte of flags, four of length, the message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::error::RpcError;

/// Flag of the last envelope.
const END: u8 = 2;
const HEADER: usize = 5;

/// What an envelope holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Envelope {
    /// A message.
    Message(Bytes),
    /// The end of the stream, and the error it ended on.
    End(Option<RpcError>),
}

/// The payload of the last envelope.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct EndOfStream {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RpcError>,
}

/// Bytes that are no envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvelope {
    /// Larger than messages may be.
    #[error("a message of {0} bytes is larger than messages may be")]
    TooLarge(u32),
    /// A flag that was not negotiated, such as compression.
    #[error("an envelope has the flags {0:#x}")]
    Flags(u8),
    /// The end of the stream is not what it should be.
    #[error("the end of the stream is not JSON")]
    End,
    /// More came after the end.
    #[error("more came after the end of the stream")]
    AfterEnd,
}

/// One message in an envelope.
#[must_use]
pub fn message(payload: &[u8]) -> Bytes {
    framed(0, payload)
}

/// The last envelope of a stream.
#[must_use]
pub fn end(error: Option<RpcError>) -> Bytes {
    let payload = serde_json::to_vec(&EndOfStream { error }).unwrap_or_else(|_| b"{}".to_vec());
    framed(END, &payload)
}

fn framed(flags: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + payload.len());
    out.put_u8(flags);
    // What is sent is ours and far below 4 GiB; a longer one would be cut and refused by its reader.
    out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_slice(payload);
    out.freeze()
}

/// Cuts bytes into envelopes as they come. Holds at most one message beyond what was pushed last.
#[derive(Debug)]
pub struct Envelopes {
    buffer: BytesMut,
    max: usize,
    ended: bool,
}

impl Envelopes {
    /// Of messages that have at most so many bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            max,
            ended: false,
        }
    }

    /// Takes bytes. Call [`next`](Self::next) until it has nothing more before pushing again.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether bytes are left that make no whole envelope.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole envelope.
    ///
    /// # Errors
    /// What is wrong with the bytes; what comes after them is lost.
    #[allow(
        clippy::should_implement_trait,
        reason = "it is not an iterator: nothing now can be followed by more later"
    )]
    pub fn next(&mut self) -> Result<Option<Envelope>, BadEnvelope> {
        if self.ended && !self.buffer.is_empty() {
            return Err(BadEnvelope::AfterEnd);
        }
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [flags, length @ ..] = *header;
        let length = u32::from_be_bytes(length);
        if !matches!(flags, 0 | END) {
            return Err(BadEnvelope::Flags(flags));
        }
        let whole = usize::try_from(length).map_err(|_| BadEnvelope::TooLarge(length))?;
        if whole > self.max {
            return Err(BadEnvelope::TooLarge(length));
        }
        if self.buffer.len() - HEADER < whole {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let payload = self.buffer.split_to(whole).freeze();
        if flags == 0 {
            return Ok(Some(Envelope::Message(payload)));
        }
        self.ended = true;
        let end: EndOfStream = serde_json::from_slice(&payload).map_err(|_| BadEnvelope::End)?;
        let error = end.error.map(|error| RpcError {
            message: crate::limits::plain(error.message.as_bytes()),
            ..error
        });
        Ok(Some(Envelope::End(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn envelopes_are_cut_wherever_the_bytes_were() {
        let error = RpcError::new(Code::NotFound, "gone");
        let bytes = [message(b"one"), message(b""), end(Some(error.clone()))].concat();
        for step in 1..=bytes.len() {
            let mut envelopes = Envelopes::new(64);
            let mut seen = Vec::new();
            for part in bytes.chunks(step) {
                envelopes.push(part);
                while let Some(envelope) = envelopes.next().unwrap() {
                    seen.push(envelope);
                }
            }
            let expected = [
                Envelope::Message(Bytes::from_static(b"one")),
                Envelope::Message(Bytes::new()),
                Envelope::End(Some(error.clone())),
            ];
            assert_eq!(seen, expected);
            assert!(!envelopes.is_cut());
        }
    }

    #[test]
    fn lies_are_refused_before_their_bytes_come() {
        let refused = |bytes: &[u8]| {
            let mut envelopes = Envelopes::new(64);
            envelopes.push(bytes);
            envelopes.next().unwrap_err()
        };
        assert_eq!(refused(&[0, 0, 0, 0, 65]), BadEnvelope::TooLarge(65));
        assert_eq!(
            refused(&[0, 255, 255, 255, 255]),
            BadEnvelope::TooLarge(u32::MAX)
        );
        assert_eq!(refused(&[1, 0, 0, 0, 0]), BadEnvelope::Flags(1));
        assert_eq!(refused(&[2, 0, 0, 0, 1, b'x']), BadEnvelope::End);
        let mut envelopes = Envelopes::new(64);
        envelopes.push(&[end(None), message(b"x")].concat());
        assert_eq!(envelopes.next(), Ok(Some(Envelope::End(None))));
        assert_eq!(envelopes.next(), Err(BadEnvelope::AfterEnd));
    }
}
