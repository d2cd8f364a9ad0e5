//! What an operator sets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use casemate_model::policy::Policy;
use serde::Serialize;

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
    /// What is known of attacks on this machine, to be shown.
    pub attacks: AttackMatrix,
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
            attacks: AttackMatrix::default(),
        }
    }
}
