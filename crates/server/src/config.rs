//! What an operator sets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use casemate_model::policy::Policy;

/// How the server is run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
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
    /// How long uploads are kept; until they are deleted where nothing is said.
    pub keep_uploads: Option<Duration>,
    /// How long the audit is kept.
    pub keep_audit: Duration,
    /// How long running programs may take to end at shut-down.
    pub grace: Duration,
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
            keep_uploads: None,
            keep_audit: Duration::from_secs(90 * 24 * 3600),
            grace: Duration::from_secs(20),
        }
    }
}
