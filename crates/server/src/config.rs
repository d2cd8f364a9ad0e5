//! What an operator sets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use casemate_model::policy::Policy;
use serde::Serialize;

/// How the server is run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to listen for HTTPS beside it; nowhere where nothing is said.
    pub tls: Option<Tls>,
    /// The domain under whose names sandboxes are reached (`PORT-ID.DOMAIN`), perhaps with a port; clients are told it.
    pub domain: Option<String>,
    /// The folder for the database, uploads and artifacts; made when it is missing.
    pub data: PathBuf,
    /// A database by URL (`postgres://...`); `casemate.db` in the data folder where none is named.
    pub database: Option<String>,
    /// The policy of requests whose key names none.
    pub policy: Policy,
    /// Programs that run at once.
    pub parallel: usize,
    /// What a tenant may use.
    pub rules: KeyRules,
    /// The largest body of a request, in bytes; an upload's included.
    pub body_bytes: usize,
    /// What all requests in hand may hold together, in bytes.
    pub room_bytes: usize,
    /// What the files of one run may hold together, in bytes.
    pub input_bytes: u64,
    /// How long finished runs and their artifacts are kept.
    pub keep: Duration,
    /// How long a finished run is kept at least: after that it goes, the oldest first, where its tenant has no more room.
    pub keep_least: Duration,
    /// How long uploads are kept; until they are deleted where nothing is said.
    pub keep_uploads: Option<Duration>,
    /// How long the audit is kept.
    pub keep_audit: Duration,
    /// How long a session of the Model Context Protocol may be idle.
    pub mcp_idle: Duration,
    /// Sandboxes of each template that are made in advance, once one of it was asked for.
    pub ready: usize,
    /// What signs receipts; without it they are not signed.
    pub signer: Option<Arc<dyn Sign>>,
    /// How long running programs may take to end at shut-down.
    pub grace: Duration,
    /// What is known of attacks on this machine, to be shown.
    pub attacks: AttackMatrix,
}

/// HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The operator's own certificate; one is made for the domain where there is none.
    pub certificate: Option<Certificate>,
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate, and those between it and its authority.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The attacks, and what became of them in each backend.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AttackMatrix {
    /// Every attack of this build.
    pub attacks: Vec<AttackTry>,
    /// A column for each backend.
    pub backends: Vec<AttackColumn>,
}

/// What an attack is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttackTry {
    /// Its name.
    pub attack: String,
    /// What it threatens.
    pub threat: String,
    /// What it does, in a sentence.
    pub tries: String,
}

/// The last attack on one backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttackColumn {
    /// The backend.
    pub backend: String,
    /// `stood`, `fell`, or `none` where nothing is known that counts.
    pub standing: String,
    /// The same in words, with the reason.
    pub says: String,
    /// When it was attacked, as RFC 3339; none where there is no result.
    pub made_at: Option<String>,
    /// What became of each attack, also where the result counts no longer.
    pub cells: Vec<AttackCell>,
}

/// One attack on one backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttackCell {
    /// Its name.
    pub attack: String,
    /// `stopped`, `got_through`, `unproven`, `not_run` or `not_promised`.
    pub verdict: String,
    /// The wall that stopped it.
    pub wall: Option<String>,
    /// What became of it with no sandbox: `succeeded`, `impossible`, `failed` or `not_run`.
    pub control: String,
    /// What a covert channel carried.
    pub bits_per_second: Option<f64>,
}

/// A key of the operator's.
pub trait Sign: Send + Sync {
    /// Its public half, as hexadecimal digits.
    fn public_key(&self) -> String;

    /// A document of a type in an envelope with its signature (DSSE, as JSON).
    fn sign(&self, payload_type: &str, payload: &[u8]) -> String;
}

impl std::fmt::Debug for dyn Sign {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.public_key())
    }
}

/// What a tenant may use where its key says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRules {
    /// Programs at once.
    pub running: usize,
    /// Programs that may wait; beyond them requests get 429.
    pub waiting: usize,
    /// Bytes of uploads and artifacts kept.
    pub stored_bytes: u64,
    /// Sandboxes that live at once.
    pub sandboxes: usize,
}

impl Config {
    /// The defaults for an address and a folder: as many programs at once as there are processors.
    pub fn new(listen: SocketAddr, data: PathBuf) -> Self {
        let parallel = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            listen,
            tls: None,
            domain: None,
            data,
            database: None,
            policy: Policy::default(),
            parallel,
            rules: KeyRules {
                running: parallel,
                waiting: 256,
                stored_bytes: 4 << 30,
                sandboxes: 20,
            },
            body_bytes: 64 << 20,
            room_bytes: 1 << 30,
            input_bytes: 256 << 20,
            keep: Duration::from_secs(24 * 3600),
            keep_least: Duration::from_secs(600),
            keep_uploads: None,
            keep_audit: Duration::from_secs(90 * 24 * 3600),
            mcp_idle: Duration::from_secs(3600),
            ready: 1,
            signer: None,
            grace: Duration::from_secs(20),
            attacks: AttackMatrix::default(),
        }
    }

    /// An address of it that other machines reach.
    pub(crate) fn exposed(&self) -> Option<SocketAddr> {
        let tls = self.tls.as_ref().map(|tls| tls.listen);
        let mut all = std::iter::once(self.listen).chain(tls);
        all.find(|address| !address.ip().is_loopback())
    }

    /// Whether nobody but this machine reaches it.
    pub(crate) fn is_local(&self) -> bool {
        self.exposed().is_none()
    }

    /// The domain without its port.
    pub(crate) fn domain_name(&self) -> Option<&str> {
        self.domain.as_deref()?.split(':').next()
    }

    /// Whether a host is the domain, or a name below it.
    pub(crate) fn is_of_domain(&self, host: &str) -> bool {
        let domain = self.domain_name().unwrap_or_default();
        let host = host.to_ascii_lowercase();
        let below = host.strip_suffix(&domain.to_ascii_lowercase());
        !domain.is_empty() && below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_domain_are_told_from_others() {
        let mut config = Config::new("127.0.0.1:0".parse().unwrap(), PathBuf::new());
        assert!(!config.is_of_domain("") && !config.is_of_domain("a"));
        config.domain = Some("boxes.test:8443".to_owned());
        for name in ["boxes.test", "api.boxes.test", "API.Boxes.Test"] {
            assert!(config.is_of_domain(name), "{name}");
        }
        for name in ["", "test", "evilboxes.test", "boxes.test.evil.example"] {
            assert!(!config.is_of_domain(name), "{name}");
        }
    }

    #[test]
    fn one_address_that_others_reach_is_enough() {
        let mut config = Config::new("127.0.0.1:0".parse().unwrap(), PathBuf::new());
        assert!(config.is_local());
        config.tls = Some(Tls {
            listen: "0.0.0.0:443".parse().unwrap(),
            certificate: None,
        });
        assert_eq!(config.exposed(), Some("0.0.0.0:443".parse().unwrap()));
        assert!(!config.is_local());
    }
}
