//! Signing: an Ed25519 key of the user's own, made at first use, and DSSE envelopes around what it signs.
//!
//! DSSE (Dead Simple Signing Envelope, <https://github.com/secure-systems-lab/dsse>) signs the type of a
//! payload together with its bytes, so that a signed document of one kind cannot pass for another.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_linux::file::{create_private, open_owned};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The key's file in the data folder: 32 bytes as hexadecimal digits.
const KEY: &str = "signing.key";
/// Bytes of a key's file and of an envelope that are read.
const KEY_MAX: u64 = 1024;
pub(crate) const ENVELOPE_MAX: u64 = 4 << 20;

/// A signed document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Envelope {
    /// What kind of document it is.
    payload_type: String,
    /// The document, in base64.
    payload: String,
    /// Who signed it; we write one and take one.
    signatures: Vec<Signed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    keyid: String,
    sig: String,
}

/// The key that signs for this user.
pub(crate) struct Key(SigningKey);

/// A public key, as hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublicKey(VerifyingKey);

impl PublicKey {
    /// From 64 hexadecimal digits.
    ///
    /// # Errors
    /// When they are not a key.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let bytes = unhex(text.trim()).context("a public key is 64 hexadecimal digits")?;
        let key = VerifyingKey::from_bytes(&bytes).context("these digits are no Ed25519 key")?;
        Ok(Self(key))
    }

    /// As 64 hexadecimal digits.
    pub(crate) fn text(self) -> String {
        hex(self.0.as_bytes())
    }

    fn id(self) -> String {
        hex(&Sha256::digest(self.0.as_bytes()))
    }
}

impl Key {
    /// The user's key in this folder, made if there is none.
    ///
    /// # Errors
    /// When the folder or the key is not the user's own, others may read it, or it is no key.
    pub(crate) fn open_or_make(folder: &Path) -> anyhow::Result<Self> {
        create_private(folder)?;
        match Self::open(folder)? {
            Some(key) => Ok(key),
            None => {
                make(folder)?;
                Self::open(folder)?.context("the key that was just made is gone")
            }
        }
    }

    /// The user's key in this folder, if there is one.
    ///
    /// # Errors
    /// As [`Key::open_or_make`].
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(KEY);
        let file = match open_owned(&path) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error).context("the key that signs results"),
        };
        let mode = file.metadata()?.mode() & 0o777;
        ensure!(
            mode & 0o077 == 0,
            "others may read {} (mode {mode:o}): it can no longer be trusted; remove it, and the next use makes another",
            path.display()
        );
        let mut text = String::new();
        file.take(KEY_MAX).read_to_string(&mut text)?;
        let seed = unhex(text.trim()).with_context(|| {
            format!(
                "{} is no key; remove it, and the next use makes another",
                path.display()
            )
        })?;
        Ok(Some(Self(SigningKey::from_bytes(&seed))))
    }

    /// Its public half.
    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a document of this type.
    pub(crate) fn sign(&self, payload_type: &str, payload: &[u8]) -> Envelope {
        let signature = self.0.sign(&encoded(payload_type, payload));
        Envelope {
            payload_type: payload_type.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: vec![Signed {
                keyid: self.public().id(),
                sig: STANDARD.encode(signature.to_bytes()),
            }],
        }
    }
}

/// Complete in one step, readable by the user alone; one that another process made meanwhile is kept.
fn make(folder: &Path) -> anyhow::Result<()> {
    let mut seed = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut seed))
        .context("/dev/urandom")?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(hex(&seed).as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(folder.join(KEY)) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error).context("keeping the key that signs results"),
    }
}

impl Envelope {
    /// Reads one.
    ///
    /// # Errors
    /// When it is none, in words.
    pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(bytes).context("it is no signed document of casemate's")
    }

    /// Whether it says that its document is of this type.
    pub(crate) fn is_of(&self, payload_type: &str) -> bool {
        self.payload_type == payload_type
    }

    /// The document, if it is of this type and this key signed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn opened(&self, payload_type: &str, key: PublicKey) -> anyhow::Result<Vec<u8>> {
        let payload = self.unverified(payload_type)?;
        let [signed] = self.signatures.as_slice() else {
            bail!("it has {} signatures, not one", self.signatures.len());
        };
        let bytes = STANDARD
            .decode(&signed.sig)
            .context("its signature is no base64")?;
        let signature =
            Signature::from_slice(&bytes).context("its signature is no Ed25519 signature")?;
        ensure!(
            signed.keyid == key.id(),
            "it is signed by another key than {}",
            key.text()
        );
        key.0
            .verify_strict(&encoded(payload_type, &payload), &signature)
            .context("its signature does not fit: it was changed after it was signed")?;
        Ok(payload)
    }

    /// The document, whoever signed it: to be shown, never to be relied on.
    ///
    /// # Errors
    /// When it is of another type, or cannot be decoded.
    pub(crate) fn unverified(&self, payload_type: &str) -> anyhow::Result<Vec<u8>> {
        ensure!(
            self.payload_type == payload_type,
            "it is a document of another kind: {}",
            crate::text::line(&self.payload_type, 100)
        );
        STANDARD
            .decode(&self.payload)
            .context("its content is no base64")
    }
}

/// DSSE's pre-authentication encoding.
fn encoded(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    );
    [head.as_bytes(), payload].concat()
}

/// The folder for what is the user's own and no cache: `CASEMATE_DATA`, else `XDG_DATA_HOME/casemate`, else
/// `~/.local/share/casemate`.
///
/// # Errors
/// When none of them names an absolute folder.
pub(crate) fn data_root() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    absolute("CASEMATE_DATA")
        .or_else(|| absolute("XDG_DATA_HOME").map(|path| path.join("casemate")))
        .or_else(|| absolute("HOME").map(|path| path.join(".local/share/casemate")))
        .context("no data folder: set CASEMATE_DATA to an absolute path")
}

/// SHA-256 of a file, as hexadecimal digits.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn file_sha256(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut fs::File::open(path)?, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const TYPE: &str = "application/vnd.casemate.test+json";

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("data");
        (dir, own)
    }

    #[test]
    fn a_key_is_made_once_for_the_user_alone() {
        let (_dir, own) = folder();
        assert!(Key::open(&own).unwrap().is_none());
        let made = Key::open_or_make(&own).unwrap().public();
        assert_eq!(Key::open_or_make(&own).unwrap().public(), made);
        let mode = fs::metadata(own.join(KEY)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(PublicKey::parse(&made.text()).unwrap(), made);
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_none_is_not_used() {
        let (_dir, own) = folder();
        Key::open_or_make(&own).unwrap();
        let path = own.join(KEY);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Key::open(&own).err().unwrap().to_string();
        assert!(error.contains("others may read"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "no key").unwrap();
        let error = Key::open_or_make(&own).err().unwrap().to_string();
        assert!(
            error.contains("is no key") && error.contains("remove it"),
            "{error}"
        );
    }

    #[test]
    fn what_was_signed_is_opened_by_its_key_and_type_alone() {
        let (_dir, own) = folder();
        let key = Key::open_or_make(&own).unwrap();
        let envelope = key.sign(TYPE, b"{}");
        let text = serde_json::to_vec(&envelope).unwrap();
        let envelope = Envelope::parse(&text).unwrap();
        assert_eq!(envelope.opened(TYPE, key.public()).unwrap(), b"{}");
        assert!(envelope.opened("application/other", key.public()).is_err());
        let (_dir, other) = folder();
        let foreign = Key::open_or_make(&other).unwrap().public();
        let error = envelope.opened(TYPE, foreign).unwrap_err().to_string();
        assert!(error.contains("another key"), "{error}");
    }

    #[test]
    fn every_change_to_an_envelope_is_noticed() {
        let (_dir, own) = folder();
        let key = Key::open_or_make(&own).unwrap();
        let whole = key.sign(TYPE, br#"{"stopped":70}"#);
        let refused = |change: &dyn Fn(&mut Envelope)| {
            let mut changed = whole.clone();
            change(&mut changed);
            changed.opened(TYPE, key.public()).is_err()
        };
        assert!(refused(
            &|e| e.payload = STANDARD.encode(br#"{"stopped":71}"#)
        ));
        assert!(refused(&|e| e.payload = "?".to_owned()));
        assert!(refused(&|e| e.signatures.clear()));
        assert!(refused(&|e| e.signatures.push(e.signatures[0].clone())));
        assert!(refused(&|e| e.signatures[0].sig = STANDARD.encode([0; 64])));
        assert!(refused(&|e| e.signatures[0].sig = STANDARD.encode([0; 3])));
        assert!(refused(&|e| e.signatures[0].keyid.clear()));
    }

    #[test]
    fn the_encoding_is_that_of_dsse() {
        // The example of its specification.
        let encoded = encoded("http://example.com/HelloWorld", b"hello world");
        assert_eq!(
            encoded,
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn what_is_no_envelope_is_said_so() {
        for bytes in [&b""[..], b"{}", b"[]", b"\xff"] {
            assert!(Envelope::parse(bytes).is_err());
        }
    }
}
