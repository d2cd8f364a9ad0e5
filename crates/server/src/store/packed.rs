//! How a run ended, as the database keeps it: the outcome and the signed receipt, which say much the same, packed
//! together. A run that prints a word keeps less than half of what they are as texts; a receipt's payload is base64, which
//! packs badly.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

use super::StoreError;

/// Between the two. JSON has none.
const BETWEEN: u8 = 0;
/// Bytes that are packed in less than a millisecond.
const AT_ONCE: usize = 128 << 10;

/// Both, packed.
pub(super) fn pack(outcome: &str, receipt: Option<&str>) -> Result<Vec<u8>, StoreError> {
    // Runs wait for one another to be written, and the fastest finds most of it.
    let mut packer = DeflateEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(outcome.as_bytes())?;
    if let Some(receipt) = receipt {
        packer.write_all(&[BETWEEN])?;
        packer.write_all(receipt.as_bytes())?;
    }
    Ok(packer.finish()?)
}

/// The same away from the server's own threads, where it takes as long as other answers do.
pub(super) async fn pack_aside(
    outcome: &str,
    receipt: Option<&str>,
) -> Result<Vec<u8>, StoreError> {
    if outcome.len() + receipt.map_or(0, str::len) <= AT_ONCE {
        return pack(outcome, receipt);
    }
    let (outcome, receipt) = (outcome.to_owned(), receipt.map(str::to_owned));
    tokio::task::spawn_blocking(move || pack(&outcome, receipt.as_deref()))
        .await
        .map_err(|error| StoreError::Database(format!("packing an outcome: {error}")))?
}

/// The outcome, and the receipt where there is one.
pub(super) fn unpack(packed: &[u8]) -> Result<(String, Option<String>), StoreError> {
    let mut text = String::new();
    DeflateDecoder::new(packed)
        .read_to_string(&mut text)
        .map_err(|error| {
            StoreError::Database(format!("an outcome that cannot be read: {error}"))
        })?;
    Ok(match text.split_once(char::from(BETWEEN)) {
        Some((outcome, receipt)) => (outcome.to_owned(), Some(receipt.to_owned())),
        None => (text, None),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn both_come_back_as_they_were() {
        let long = "{\"stdout\":\"\u{e9}\\u0000\"}".repeat(10_000);
        for (outcome, receipt) in [
            ("{}", Some("{\"a\":1}\n")),
            (long.as_str(), None),
            ("", Some("")),
        ] {
            let packed = pack(outcome, receipt).unwrap();
            let (back, signed) = unpack(&packed).unwrap();
            assert_eq!((back.as_str(), signed.as_deref()), (outcome, receipt));
        }
        assert!(pack(&long, Some(&long)).unwrap().len() < long.len() / 10);
    }

    #[test]
    fn what_was_cut_off_is_an_error() {
        let packed = pack(&"an outcome ".repeat(100), None).unwrap();
        let error = unpack(packed.get(..packed.len() - 4).unwrap()).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
}
