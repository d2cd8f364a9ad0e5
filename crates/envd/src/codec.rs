//! The two forms of a message: protobuf's bytes and its JSON.

use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::json::without_nulls;
use crate::shape::{Bounded, Excess};

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// What official SDKs speak.
    Json,
    /// What our own client speaks.
    Proto,
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadMessage {
    /// Not of this form, or not this message.
    #[error("not the message that was expected: {0}")]
    Malformed(String),
    /// More elements than a message may have.
    #[error("more than {0} entries")]
    TooMany(usize),
}

impl Codec {
    /// The codec of a unary content type, such as `application/json; charset=utf-8`.
    #[must_use]
    pub fn of_unary(content_type: &str) -> Option<Self> {
        match media_type(content_type).as_str() {
            "application/json" => Some(Self::Json),
            "application/proto" => Some(Self::Proto),
            _ => None,
        }
    }

    /// The codec of a streaming content type.
    #[must_use]
    pub fn of_stream(content_type: &str) -> Option<Self> {
        match media_type(content_type).as_str() {
            "application/connect+json" => Some(Self::Json),
            "application/connect+proto" => Some(Self::Proto),
            _ => None,
        }
    }

    /// The content type of a unary call.
    #[must_use]
    pub const fn unary(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Proto => "application/proto",
        }
    }

    /// The content type of a streaming call.
    #[must_use]
    pub const fn stream(self) -> &'static str {
        match self {
            Self::Json => "application/connect+json",
            Self::Proto => "application/connect+proto",
        }
    }

    /// Writes a message.
    #[must_use]
    pub fn encode<T: Message + Serialize>(self, message: &T) -> Bytes {
        match self {
            Self::Proto => message.encode_to_vec().into(),
            // The messages are plain structures with text keys, which JSON can always say.
            Self::Json => serde_json::to_vec(message).unwrap_or_default().into(),
        }
    }

    /// Reads a request. The bytes are bounded by whoever received them; the server is in the sandbox.
    ///
    /// # Errors
    /// When they are no such message.
    pub fn decode_ours<T>(self, bytes: &[u8]) -> Result<T, BadMessage>
    where
        T: Message + Default + DeserializeOwned,
    {
        match self {
            Self::Proto => T::decode(bytes).map_err(|e| BadMessage::Malformed(e.to_string())),
            Self::Json => {
                let bad = |error: serde_json::Error| BadMessage::Malformed(error.to_string());
                let value: serde_json::Value = serde_json::from_slice(bytes).map_err(bad)?;
                // A structure could be read from a list as well.
                if !value.is_object() {
                    return Err(BadMessage::Malformed("not a JSON object".to_owned()));
                }
                serde_json::from_value(without_nulls(value)).map_err(bad)
            }
        }
    }
}

/// Reads what a guest sent, in protobuf's bytes: at most `entries` elements in all.
///
/// # Errors
/// When the bytes are no such message, or hold more.
pub fn decode_theirs<T: Message + Default + Bounded>(
    bytes: &[u8],
    entries: usize,
) -> Result<T, BadMessage> {
    let admitted = T::SHAPE.admits(bytes, &mut entries.clone());
    admitted.map_err(|excess| match excess {
        Excess::Malformed => BadMessage::Malformed("not protobuf".to_owned()),
        Excess::TooMany => BadMessage::TooMany(entries),
    })?;
    T::decode(bytes).map_err(|error| BadMessage::Malformed(error.to_string()))
}

fn media_type(content_type: &str) -> String {
    let plain = content_type.split(';').next().unwrap_or_default();
    plain.trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_compared_without_their_parameters() {
        let json = "Application/JSON; charset=utf-8";
        assert_eq!(Codec::of_unary(json), Some(Codec::Json));
        assert_eq!(Codec::of_stream(json), None);
        assert_eq!(
            Codec::of_stream("application/connect+proto"),
            Some(Codec::Proto)
        );
    }
}
