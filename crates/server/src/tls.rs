//! HTTPS: the names under which sandboxes are reached, and the certificate that stands for them.
//!
//! A certificate is the operator's own, or is made here: an authority of this data folder's, made at its first use, signs one for
//! the domain and every name directly below it at each start.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::config::{Certificate, Tls};

/// The certificate of the authority, in the data folder.
pub const AUTHORITY: &str = "tls/authority.pem";
const AUTHORITY_KEY: &str = "tls/authority.key";
/// How long a certificate made here is good: what browsers and clients take at most.
const DAYS: i64 = 397;
const AUTHORITY_DAYS: i64 = 3650;

/// Why there is no HTTPS.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file of the operator's.
    #[error("{path}: {why}; it must hold {what} in PEM")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What belongs in it.
        what: &'static str,
    },
    /// The certificate and the key do not belong together, or are of a kind that is not taken.
    #[error("the certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// None could be made.
    #[error(
        "making a certificate for {domain:?}: {source}; a domain is letters, digits, `-` and `.`"
    )]
    Made {
        /// For which domain.
        domain: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// The folder of the authority.
    #[error("the authority in {path}: {source}")]
    Authority {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What greets clients on the port of HTTPS.
pub(crate) fn acceptor(tls: &Tls, domain: &str, data: &Path) -> Result<TlsAcceptor, TlsError> {
    let (chain, key) = match &tls.certificate {
        Some(files) => read(files)?,
        None => make(domain, data)?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read(files: &Certificate) -> Result<Pair, TlsError> {
    let bad = |path: &Path, what, why: String| TlsError::File {
        path: path.to_owned(),
        why,
        what,
    };
    let chain = CertificateDer::pem_file_iter(&files.chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(&files.chain, "certificates", error.to_string()))?;
    if chain.is_empty() {
        let none = "there is none in it".to_owned();
        return Err(bad(&files.chain, "certificates", none));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| bad(&files.key, "a private key", error.to_string()))?;
    Ok((chain, key))
}

/// A certificate for the domain, all names directly below it, and this machine's own.
fn make(domain: &str, data: &Path) -> Result<Pair, TlsError> {
    let failed = |source| TlsError::Made {
        domain: domain.to_owned(),
        source,
    };
    let (issuer, authority) = authority(data)?;
    let names = [
        domain.to_owned(),
        format!("*.{domain}"),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = named(domain);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    lasts(&mut params, DAYS);
    let key = KeyPair::generate().map_err(failed)?;
    let made = params.signed_by(&key, &issuer).map_err(failed)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok((vec![made.into(), authority], key))
}

/// The authority of this data folder.
fn authority(data: &Path) -> Result<(Issuer<'static, KeyPair>, CertificateDer<'static>), TlsError> {
    let (path, key_path) = (data.join(AUTHORITY), data.join(AUTHORITY_KEY));
    let failed = |source: io::Error| TlsError::Authority {
        path: path.clone(),
        source,
    };
    if !path.exists() {
        make_authority(&path, &key_path).map_err(failed)?;
    }
    let read = |path: &Path| fs::read_to_string(path).map_err(failed);
    let other = |error: &dyn std::error::Error| failed(io::Error::other(error.to_string()));
    let key = KeyPair::from_pem(&read(&key_path)?).map_err(|error| other(&error))?;
    let certificate =
        CertificateDer::from_pem_slice(read(&path)?.as_bytes()).map_err(|error| other(&error))?;
    let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| other(&error))?;
    Ok((issuer, certificate))
}

fn make_authority(path: &Path, key_path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Casemate, an authority of this machine's own");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, AUTHORITY_DAYS);
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let made = params.self_signed(&key).map_err(io::Error::other)?;
    write(key_path, &key.serialize_pem(), 0o600)?;
    // The last, since its being there says that all of it is.
    write(path, &made.pem(), 0o644)
}

/// There whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(part, path)
}

fn named(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

fn lasts(params: &mut CertificateParams, days: i64) {
    let now = jiff::Timestamp::now().as_second();
    let day = 24 * 3600;
    let at = |seconds: i64| {
        let at = jiff::Timestamp::from_second(seconds).unwrap_or_default();
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        let part = |part: i8| u8::try_from(part).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    // Clocks differ by a little.
    params.not_before = at(now - day);
    params.not_after = at(now - day + days * day);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(certificate: Option<Certificate>) -> Tls {
        Tls {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificate,
        }
    }

    #[test]
    fn an_authority_is_made_once_and_its_key_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        acceptor(&with(None), "sandboxes.test", dir.path()).unwrap();
        let first = fs::read(dir.path().join(AUTHORITY)).unwrap();
        acceptor(&with(None), "sandboxes.test", dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join(AUTHORITY)).unwrap(), first);
        let key = fs::metadata(dir.path().join(AUTHORITY_KEY)).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&key.permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn files_that_are_no_certificate_are_told_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("empty"), "").unwrap();
        fs::write(at("words"), "no certificate").unwrap();
        make_authority(&at("a.pem"), &at("a.key")).unwrap();
        make_authority(&at("b.pem"), &at("b.key")).unwrap();
        for (chain, key, part) in [
            ("missing", "a.key", "missing"),
            ("empty", "a.key", "there is none in it"),
            ("words", "a.key", "there is none in it"),
            ("a.pem", "words", "a private key"),
            ("a.pem", "b.key", "cannot be used"),
        ] {
            let files = Certificate {
                chain: at(chain),
                key: at(key),
            };
            let error = acceptor(&with(Some(files)), "x", dir.path()).err().unwrap();
            let why = error.to_string();
            assert!(why.contains(part), "{chain} {key}: {why}");
        }
        assert!(acceptor(&with(None), "ä b", dir.path()).is_err());
    }
}
