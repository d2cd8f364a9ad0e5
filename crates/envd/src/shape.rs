//! What is counted in a protobuf message before it is decoded.
//!
//! Two bytes on the wire can be an element that takes hundreds in memory, so a limit on bytes alone is
//! none on memory. A walk over the message counts its repeated fields first.

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Which fields of a message may come many times, and the shapes of those that are messages.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    fields: &'static [(u32, Option<&'static Shape>)],
}

/// A message that a guest may send.
pub trait Bounded {
    /// What is counted in it.
    const SHAPE: Shape;
}

impl Shape {
    pub(crate) const fn new(fields: &'static [(u32, Option<&'static Shape>)]) -> Self {
        Self { fields }
    }

    /// Whether the message has at most `left` elements in all its counted fields, at every depth. Takes
    /// them off.
    pub(crate) fn admits(&self, mut bytes: &[u8], left: &mut usize) -> Result<(), Excess> {
        while bytes.has_remaining() {
            let (tag, wire) = decode_key(&mut bytes).map_err(|_| Excess::Malformed)?;
            let Some((_, inner)) = self.fields.iter().find(|(field, _)| *field == tag) else {
                skip_field(wire, tag, &mut bytes, DecodeContext::default())
                    .map_err(|_| Excess::Malformed)?;
                continue;
            };
            if wire != WireType::LengthDelimited {
                return Err(Excess::Malformed);
            }
            *left = left.checked_sub(1).ok_or(Excess::TooMany)?;
            let length = decode_varint(&mut bytes).map_err(|_| Excess::Malformed)?;
            let length = usize::try_from(length).map_err(|_| Excess::Malformed)?;
            let (element, rest) = bytes.split_at_checked(length).ok_or(Excess::Malformed)?;
            bytes = rest;
            if let Some(inner) = inner {
                inner.admits(element, left)?;
            }
        }
        Ok(())
    }
}

/// Why a message is not even decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    Malformed,
    TooMany,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::filesystem::{EntryInfo, ListDirResponse};

    #[test]
    fn elements_are_counted_at_every_depth() {
        let entry = EntryInfo {
            metadata: [("a".to_owned(), "b".to_owned())].into(),
            ..Default::default()
        };
        let message = ListDirResponse {
            entries: vec![entry; 3],
        };
        let bytes = message.encode_to_vec();
        let admits = |most: usize| ListDirResponse::SHAPE.admits(&bytes, &mut most.clone());
        assert_eq!(admits(6), Ok(()));
        assert_eq!(admits(5), Err(Excess::TooMany));
    }

    #[test]
    fn a_flood_of_empty_elements_is_refused() {
        let flood = [0x0a, 0x00].repeat(1 << 20);
        let refused = ListDirResponse::SHAPE.admits(&flood, &mut 20_000);
        assert_eq!(refused, Err(Excess::TooMany));
    }

    #[test]
    fn cut_and_lying_bytes_are_malformed() {
        for bytes in [
            &[0x0a, 0xff, 0xff, 0xff, 0x7f][..],
            &[0x0a],
            &[0x08, 0x01],
            &[
                0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
        ] {
            let refused = ListDirResponse::SHAPE.admits(bytes, &mut 10);
            assert_eq!(refused, Err(Excess::Malformed), "{bytes:?}");
        }
    }
}
