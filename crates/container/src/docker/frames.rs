//! What process 1 of a container says on the one stream that a daemon passes on: frames, each with a
//! kind and a length. It is ours, and what it passes on is the guest's: all of it is bounded and decoded
//! totally.

use casemate_driver::packets::PACKET_MAX;

/// The guest's standard output.
pub(crate) const OUT: u8 = 1;
/// The guest's standard error.
pub(crate) const ERR: u8 = 2;
/// One packet of the driver's.
pub(crate) const TOLD: u8 = 3;
/// How the program ended.
pub(crate) const ENDED: u8 = 4;

const HEADER: usize = 5;
/// A packet and its own kind.
const CONTENT_MAX: usize = PACKET_MAX + 1;

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) content: Vec<u8>,
}

/// It is not frames.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Frames out of bytes, however they come.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Takes bytes.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    pub(crate) fn pop(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *header;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Malformed)?;
        if length > CONTENT_MAX || !(OUT..=ENDED).contains(&kind) {
            return Err(Malformed);
        }
        let Some(content) = rest.get(..length) else {
            return Ok(None);
        };
        let content = content.to_vec();
        self.bytes.drain(..HEADER + length);
        Ok(Some(Frame { kind, content }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[kind], length.as_slice(), content].concat()
    }

    #[test]
    fn frames_come_out_however_they_are_cut() {
        let all = [bytes(OUT, b"hello"), bytes(TOLD, b""), bytes(ENDED, b"x")].concat();
        for size in [1, 3, 7, all.len()] {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for part in all.chunks(size) {
                frames.take(part);
                while let Some(frame) = frames.pop().unwrap() {
                    seen.push((frame.kind, frame.content));
                }
            }
            assert_eq!(
                seen,
                [
                    (OUT, b"hello".to_vec()),
                    (TOLD, Vec::new()),
                    (ENDED, b"x".to_vec())
                ]
            );
            assert!(frames.bytes.is_empty());
        }
    }

    #[test]
    fn what_is_no_frame_is_told_at_once() {
        for bad in [
            bytes(0, b""),
            bytes(5, b""),
            vec![OUT, 0xff, 0xff, 0xff, 0xff],
            [vec![OUT], 65_538_u32.to_be_bytes().to_vec()].concat(),
        ] {
            let mut frames = Frames::default();
            frames.take(&bad);
            assert_eq!(frames.pop(), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn any_bytes_are_frames_or_malformed() {
        let mut state = 1_u64;
        for _ in 0..2000 {
            let mut frames = Frames::default();
            for _ in 0..8 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                frames.take(&state.to_le_bytes()[..(state % 8) as usize]);
                while let Ok(Some(frame)) = frames.pop() {
                    assert!(frame.content.len() <= CONTENT_MAX);
                }
            }
        }
    }
}
