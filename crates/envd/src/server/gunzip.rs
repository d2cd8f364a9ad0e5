//! A compressed body as it was before.

use std::io::Write;

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use futures_util::{Stream, StreamExt};

/// Bytes that are taken at once. They can become a thousand times as many, and those are held.
const STEP: usize = 2 << 10;

/// Any body, and what goes wrong with it, in words.
pub type Parts = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

struct Gunzip {
    from: Parts,
    left: Bytes,
    decoder: MultiGzDecoder<Vec<u8>>,
    over: bool,
}

/// Decompresses gzip as it comes.
pub fn gunzip(from: Parts) -> Parts {
    let state = Gunzip {
        from,
        left: Bytes::new(),
        decoder: MultiGzDecoder::new(Vec::new()),
        over: false,
    };
    Box::pin(futures_util::stream::unfold(state, |mut state| async {
        let next = state.next().await.transpose()?;
        state.over |= next.is_err();
        Some((next, state))
    }))
}

impl Gunzip {
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let broken = |error: std::io::Error| format!("not gzip: {error}");
        while !self.over {
            if self.left.is_empty() {
                match self.from.next().await.transpose()? {
                    Some(more) => self.left = more,
                    None => {
                        self.over = true;
                        self.decoder.try_finish().map_err(broken)?;
                    }
                }
            }
            let step = self.left.len().min(STEP);
            self.decoder
                .write_all(self.left.get(..step).unwrap_or_default())
                .map_err(broken)?;
            self.left.advance(step);
            let out = std::mem::take(self.decoder.get_mut());
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn back(bytes: &[u8], step: usize) -> Result<(Vec<u8>, usize), String> {
        let parts: Vec<Result<Bytes, String>> = bytes
            .chunks(step)
            .map(|part| Ok(Bytes::copy_from_slice(part)))
            .collect();
        let mut parts = gunzip(Box::pin(futures_util::stream::iter(parts)));
        let (mut all, mut largest) = (Vec::new(), 0);
        while let Some(part) = parts.next().await {
            let part = part?;
            largest = largest.max(part.len());
            all.extend_from_slice(&part);
        }
        Ok((all, largest))
    }

    #[tokio::test]
    async fn it_comes_back_however_it_was_cut() {
        let text = b"text ".repeat(5000);
        let bytes = [zipped(&text), zipped(b"more")].concat();
        for step in [1, 7, bytes.len()] {
            let (all, _) = back(&bytes, step).await.unwrap();
            assert_eq!(all, [&text[..], b"more"].concat());
        }
    }

    #[tokio::test]
    async fn a_bomb_comes_in_parts() {
        let bytes = zipped(&vec![0; 64 << 20]);
        let (all, largest) = back(&bytes, bytes.len()).await.unwrap();
        assert_eq!(all.len(), 64 << 20);
        assert!(largest < 4 << 20, "{largest}");
    }

    #[tokio::test]
    async fn what_is_not_gzip_or_is_cut_is_an_error() {
        let bytes = zipped(b"some text that is long enough");
        assert!(back(b"no gzip at all", 5).await.is_err());
        assert!(back(&bytes[..bytes.len() - 9], 5).await.is_err());
    }
}
