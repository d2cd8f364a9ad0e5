//! The signed result of an attack, one file a backend: what happened, and everything it depends on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use casemate_backend::contract::Backend;
use casemate_engine::{Record, Records};
use casemate_linux::file::{create_private, open_owned};
use casemate_server::{AttackCell, AttackColumn};
use serde::{Deserialize, Serialize};

use super::depends::Depends;
use super::oracle::Held;
use super::report::{Row, control_verdict, verdict};
use crate::sign::{ENVELOPE_MAX, Envelope, Key, PublicKey, data_root};

/// The type of the signed document.
pub(crate) const TYPE: &str = "application/vnd.casemate.attack-result+json";
/// Its schema.
const SCHEMA: &str = "casemate.attack-result/1";
/// The folder of results in the data folder.
const FOLDER: &str = "attacks";

/// What happened in one backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AttackResult {
    schema: String,
    /// The backend that was attacked.
    pub(crate) backend: String,
    /// When, as RFC 3339.
    pub(crate) made_at: String,
    /// The version of casemate.
    pub(crate) casemate: String,
    /// SHA-256 of its program.
    pub(crate) program_sha256: String,
    /// The public half of the key that signed this.
    pub(crate) public_key: String,
    /// What the walls rest on, by name. A result counts as long as all of it is as it was.
    pub(crate) depends_on: BTreeMap<String, String>,
    /// Every attack.
    pub(crate) attacks: Vec<Attacked>,
}

/// One attack in that backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attacked {
    /// Its name.
    pub(crate) attack: String,
    /// `stopped`, `got_through`, `unproven`, `not_run` or `not_promised`.
    pub(crate) verdict: String,
    /// The wall that stopped it.
    pub(crate) wall: Option<String>,
    /// `succeeded`, `impossible`, `failed` or `not_run`.
    pub(crate) control: String,
    /// What a covert channel carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bits_per_second: Option<f64>,
}

impl AttackResult {
    /// The column of the backend at this place of every row.
    pub(crate) fn of(
        rows: &[Row],
        at: usize,
        depends: &Depends,
        key: PublicKey,
    ) -> anyhow::Result<Self> {
        let first = rows.first().and_then(|row| row.runs.get(at));
        let backend = first.context("no backend was attacked")?.backend.clone();
        let attacks = rows.iter().filter_map(|row| {
            let run = row.runs.get(at)?;
            Some(Attacked {
                attack: row.header.attack.clone(),
                verdict: verdict(&run.held).0.to_owned(),
                wall: match run.held {
                    Held::NotPromised { .. } => None,
                    _ => run.wall.clone(),
                },
                control: control_verdict(&row.control).0.to_owned(),
                bits_per_second: run.channel.map(|channel| channel.rate()),
            })
        });
        Ok(Self {
            schema: SCHEMA.to_owned(),
            made_at: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            casemate: env!("CARGO_PKG_VERSION").to_owned(),
            program_sha256: depends.program_sha256()?,
            public_key: key.text(),
            depends_on: depends.of(&backend),
            attacks: attacks.collect(),
            backend,
        })
    }

    /// The names of the attacks with this verdict.
    fn with(&self, verdict: &str) -> Vec<String> {
        let attacks = self.attacks.iter();
        let attacks = attacks.filter(|attack| attack.verdict == verdict);
        attacks.map(|attack| attack.attack.clone()).collect()
    }

    /// The day it was made.
    pub(crate) fn day(&self) -> String {
        self.made_at.chars().take(10).collect()
    }

    /// What it says about its backend, whoever asks.
    pub(crate) fn record(&self) -> Record {
        let (on, through) = (self.day(), self.with("got_through"));
        if !through.is_empty() {
            return Record::Fell {
                on,
                attacks: through,
            };
        }
        let promised = self.attacks.len() - self.with("not_promised").len();
        let stopped = self.with("stopped").len();
        let unproven = |attack: &&Attacked| matches!(attack.control.as_str(), "failed" | "not_run");
        let open = promised - stopped + self.attacks.iter().filter(unproven).count();
        if open > 0 || stopped == 0 {
            let why = format!("the attack of {on} proves nothing in {open} cases");
            return Record::None { why };
        }
        Record::Stood {
            on,
            stopped,
            promised,
        }
    }

    /// The names of what has changed since.
    pub(crate) fn changed(&self, now: &BTreeMap<String, String>) -> Vec<String> {
        let names = self.depends_on.keys().chain(now.keys());
        let mut changed: Vec<String> = names
            .filter(|name| self.depends_on.get(*name) != now.get(*name))
            .cloned()
            .collect();
        changed.sort();
        changed.dedup();
        changed
    }
}

/// The user's results.
#[derive(Debug, Clone)]
pub(crate) struct Results {
    data: PathBuf,
}

impl Results {
    /// Those in the user's data folder.
    ///
    /// # Errors
    /// When there is no such folder.
    pub(crate) fn open() -> anyhow::Result<Self> {
        data_root().map(Self::at)
    }

    fn at(data: PathBuf) -> Self {
        Self { data }
    }

    /// The key that signs here, made if there is none.
    ///
    /// # Errors
    /// When it is not to be trusted or cannot be made.
    pub(crate) fn key(&self) -> anyhow::Result<Key> {
        Key::open_or_make(&self.data)
    }

    /// The public half of the key that is here, if one is.
    ///
    /// # Errors
    /// When it is not to be trusted.
    pub(crate) fn public_key(&self) -> anyhow::Result<Option<PublicKey>> {
        Ok(Key::open(&self.data)?.map(|key| key.public()))
    }

    /// Where the result of a backend is kept.
    pub(crate) fn path(&self, backend: &str) -> PathBuf {
        self.data.join(FOLDER).join(format!("{backend}.json"))
    }

    /// Signs a result and keeps it in one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep(&self, result: &AttackResult, key: &Key) -> anyhow::Result<PathBuf> {
        let path = self.path(&result.backend);
        let folder = path.parent().context("a result without a folder")?;
        create_private(folder)?;
        let envelope = key.sign(TYPE, &serde_json::to_vec(result)?);
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(&envelope)?)?;
        file.write_all(b"\n")?;
        file.persist(&path)
            .map_err(|error| error.error)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// What the last attack on a backend says, as long as nothing that it depends on has changed.
    pub(crate) fn record(&self, backend: &str, now: &BTreeMap<String, String>) -> Record {
        match self.read(backend) {
            Ok(None) => Record::None {
                why: "not attacked on this machine".to_owned(),
            },
            Ok(Some(result)) => match result.changed(now).as_slice() {
                [] => result.record(),
                changed => Record::None {
                    why: format!(
                        "not attacked since what it rests on changed: {}",
                        changed.join(", ")
                    ),
                },
            },
            Err(error) => Record::None {
                why: crate::text::line(
                    &format!("its attack result does not count: {error:#}"),
                    300,
                ),
            },
        }
    }

    /// A backend's column of the table, for a page: a result that counts no longer is shown too, and said to be none.
    pub(crate) fn column(&self, backend: &str, now: &BTreeMap<String, String>) -> AttackColumn {
        let record = self.record(backend, now);
        let standing = match record {
            Record::Stood { .. } => "stood",
            Record::Fell { .. } => "fell",
            Record::None { .. } => "none",
        };
        // One that cannot be read is none; the record says why.
        let result = self.read(backend).ok().flatten();
        let made_at = result.as_ref().map(|result| result.made_at.clone());
        let attacks = result.map(|result| result.attacks).unwrap_or_default();
        let cells = attacks.into_iter().map(|attacked| AttackCell {
            attack: attacked.attack,
            verdict: attacked.verdict,
            wall: attacked.wall,
            control: attacked.control,
            bits_per_second: attacked.bits_per_second,
        });
        AttackColumn {
            backend: backend.to_owned(),
            standing: standing.to_owned(),
            says: record.describe(),
            made_at,
            cells: cells.collect(),
        }
    }

    /// The result of a backend, if this user's key signed it.
    fn read(&self, backend: &str) -> anyhow::Result<Option<AttackResult>> {
        let path = self.path(backend);
        let file = match open_owned(&path) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let key = self
            .public_key()?
            .context("there is no key of this user's to check it with")?;
        let envelope = Envelope::parse(&bounded(file)?)?;
        let result = parsed(&envelope.opened(TYPE, key)?)?;
        ensure!(
            result.backend == backend,
            "it is about {}",
            crate::text::line(&result.backend, 40)
        );
        Ok(Some(result))
    }

    /// The records of those of these backends that have a result. Only they are asked what they rest on, which
    /// may start their runtimes: this is done before every run.
    pub(crate) fn records<'a>(&self, backends: impl Iterator<Item = &'a dyn Backend>) -> Records {
        let attacked: Vec<&dyn Backend> = backends
            .filter(|backend| self.may_have(backend.name()))
            .collect();
        if attacked.is_empty() {
            return Records::new();
        }
        let depends = Depends::look(attacked.iter().copied());
        let names = attacked.iter().map(|backend| backend.name());
        names
            .map(|name| (name.to_owned(), self.record(name, &depends.of(name))))
            .collect()
    }

    /// Whether there is a result, or something in its place that cannot be looked at and must be told of.
    fn may_have(&self, backend: &str) -> bool {
        let found = fs::symlink_metadata(self.path(backend));
        !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }
}

/// A result from a file that anybody may have written.
///
/// # Errors
/// When it cannot be read, is too long or is no envelope.
pub(crate) fn envelope_in(path: &Path) -> anyhow::Result<Envelope> {
    Envelope::parse(&bounded(fs::File::open(path)?)?)
}

fn bounded(file: fs::File) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(ENVELOPE_MAX + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= ENVELOPE_MAX,
        "it is larger than {ENVELOPE_MAX} bytes"
    );
    Ok(bytes)
}

/// The document in an envelope.
///
/// # Errors
/// When it is of another schema or no such document.
pub(crate) fn parsed(payload: &[u8]) -> anyhow::Result<AttackResult> {
    let result: AttackResult =
        serde_json::from_slice(payload).context("its content is no result of an attack")?;
    ensure!(
        result.schema == SCHEMA,
        "its schema is {}, not {SCHEMA}",
        crate::text::line(&result.schema, 60)
    );
    Ok(result)
}

#[cfg(test)]
#[path = "result_tests.rs"]
mod tests;
