//! What the server remembers: runs, uploads, keys, the audit. SQLite by default, Postgres by URL.
//!
//! One statement a call, the same text for both. Every row that belongs to a tenant is asked for with
//! that tenant in the `WHERE`, so that a handler cannot forget it.

mod artifacts;
pub(crate) mod audit;
mod packed;
mod room;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests;
mod uploads;

use std::path::Path;
use std::time::Duration;

use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{Any, AnyPool, Row, Transaction};
use thiserror::Error;

pub(crate) use audit::Entry;
pub use audit::{EntryRow, Head, Looked};
pub(crate) use uploads::UploadRow;

/// What asks for runs with how they ended.
macro_rules! whole_run {
    ($which:literal) => {
        concat!(
            "SELECT id, created_ms, ended_ms, state, request_sha256, about, brief, outcome, packed FROM runs WHERE ",
            $which
        )
    };
}

/// Steps that brought the schema to where it is; one is never changed, only another added.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE runs (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_ms BIGINT NOT NULL, ended_ms BIGINT, \
     state TEXT NOT NULL, idempotency_key TEXT, request_sha256 TEXT NOT NULL, about TEXT NOT NULL, outcome TEXT, \
     bytes BIGINT NOT NULL)",
    "CREATE UNIQUE INDEX runs_idempotency ON runs (tenant, idempotency_key)",
    "CREATE INDEX runs_by_time ON runs (tenant, created_ms, id)",
    "CREATE INDEX runs_by_end ON runs (ended_ms)",
    "CREATE TABLE artifacts (run TEXT NOT NULL, number BIGINT NOT NULL, path TEXT NOT NULL, media_type TEXT NOT NULL, \
     sha256 TEXT NOT NULL, bytes BIGINT NOT NULL, PRIMARY KEY (run, number))",
    "CREATE INDEX artifacts_by_content ON artifacts (sha256)",
    "CREATE TABLE uploads (tenant TEXT NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL, bytes BIGINT NOT NULL, \
     created_ms BIGINT NOT NULL, PRIMARY KEY (tenant, sha256))",
    "CREATE INDEX uploads_by_content ON uploads (sha256)",
    "CREATE TABLE keys (id TEXT PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, name TEXT NOT NULL, \
     policy TEXT, backends TEXT NOT NULL, scopes TEXT NOT NULL, running BIGINT, per_minute BIGINT, stored_bytes BIGINT, created_ms BIGINT NOT NULL, \
     expires_ms BIGINT, revoked_ms BIGINT)",
    "CREATE TABLE audit (id TEXT PRIMARY KEY, at_ms BIGINT NOT NULL, tenant TEXT NOT NULL, who TEXT NOT NULL, \
     action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL)",
    "CREATE INDEX audit_by_time ON audit (tenant, at_ms, id)",
    "CREATE TABLE home (id TEXT NOT NULL)",
    "ALTER TABLE runs ADD COLUMN brief TEXT",
    "ALTER TABLE runs ADD COLUMN receipt TEXT",
    "ALTER TABLE audit ADD COLUMN seq BIGINT",
    "ALTER TABLE audit ADD COLUMN sha256 TEXT",
    "CREATE TABLE audit_head (tenant TEXT PRIMARY KEY, seq BIGINT NOT NULL, sha256 TEXT NOT NULL)",
    "CREATE UNIQUE INDEX audit_by_seq ON audit (tenant, seq)",
    "ALTER TABLE runs ADD COLUMN events TEXT",
    // What a tenant keeps is summed often, and outcomes lie before it in each row.
    "CREATE INDEX runs_kept ON runs (tenant, bytes)",
    // Instead of `outcome` and `receipt`, which are still read.
    "ALTER TABLE runs ADD COLUMN packed {bytes}",
];

/// Why something could not be remembered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room.
    #[error("the server's disk is full: {0}")]
    Full(String),
    /// Another program holds the database.
    #[error("the database is busy: {0}")]
    Busy(String),
    /// The database belongs to another data folder.
    #[error(
        "the database belongs to another data folder than {0}: name that one with --data-dir, or another database"
    )]
    Elsewhere(String),
    /// The database said no.
    #[error("the database: {0}")]
    Database(String),
    /// A file of the data folder.
    #[error("the data folder: {0}")]
    Files(#[from] std::io::Error),
    /// The database is of a later version.
    #[error(
        "the database is of schema {found}, this program knows up to {known}: it was used by a later version"
    )]
    Later {
        /// What it is of.
        found: i64,
        /// What is known.
        known: i64,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        if text.contains("database or disk is full") || text.contains("No space left") {
            Self::Full(text)
        } else if matches!(error, sqlx::Error::PoolTimedOut) || text.contains("is locked") {
            Self::Busy(text)
        } else {
            Self::Database(text)
        }
    }
}

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    /// For whatever writes. SQLite lets one at a time, and whoever comes meanwhile would sleep there and look again,
    /// ever longer and past others; so there it is one connection, which they take in the order they come.
    steps: AnyPool,
}

/// A run as a list shows it.
#[derive(Debug, Clone)]
pub(crate) struct RunRow {
    pub(crate) id: String,
    pub(crate) created_ms: i64,
    pub(crate) ended_ms: Option<i64>,
    pub(crate) state: String,
    pub(crate) request_sha256: String,
    pub(crate) about: String,
    pub(crate) outcome: Option<String>,
    /// The outcome in a few words, as a list shows it; none while there is no outcome.
    pub(crate) brief: Option<String>,
}

/// A run before it begins.
#[derive(Debug, Clone)]
pub(crate) struct Intent<'a> {
    pub(crate) id: &'a str,
    pub(crate) tenant: &'a str,
    pub(crate) who: &'a str,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) request_sha256: &'a str,
    /// What was asked for, as the receipt says it.
    pub(crate) about: &'a str,
}

/// Where in a list, the latest first: only what comes after this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct After {
    pub(crate) at_ms: i64,
    pub(crate) id: String,
}

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub(crate) id: &'a str,
    pub(crate) tenant: &'a str,
    /// The ending's word.
    pub(crate) status: &'a str,
    pub(crate) outcome: &'a str,
    /// The outcome in a few words, as a list shows it.
    pub(crate) brief: &'a str,
    /// The signed receipt.
    pub(crate) receipt: Option<&'a str>,
    /// Its events as JSON Lines, where they are to be kept.
    pub(crate) events: Option<&'a str>,
    pub(crate) artifacts: &'a [ArtifactRow],
}

/// One artifact's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArtifactRow {
    pub(crate) path: String,
    pub(crate) media_type: String,
    pub(crate) sha256: String,
    pub(crate) bytes: i64,
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl Store {
    /// The database in a data folder, or the one at a URL, at this version's schema.
    ///
    /// # Errors
    /// When it cannot be opened, or is of a later version.
    pub async fn open(data: &Path, url: Option<&str>) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let own = format!("sqlite://{}?mode=rwc", data.join("casemate.db").display());
        let sqlite = url.is_none_or(|url| url.starts_with("sqlite:"));
        let url = url.unwrap_or(&own);
        let pool = pool(url, if sqlite { 4 } else { 16 }, sqlite).await?;
        let steps = if sqlite {
            sqlx::raw_sql("PRAGMA journal_mode = WAL")
                .execute(&pool)
                .await?;
            self::pool(url, 1, sqlite).await?
        } else {
            pool.clone()
        };
        let store = Self { pool, steps };
        store.migrate().await?;
        store.belongs_to(data).await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let known = MIGRATIONS.len() as i64;
        let mut step = self.step().await?;
        sqlx::query("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
            .execute(&mut *step)
            .await?;
        let found: i64 = sqlx::query("SELECT COALESCE(MAX(version), 0) FROM schema_version")
            .fetch_one(&mut *step)
            .await?
            .try_get(0)?;
        if found > known {
            return Err(StoreError::Later { found, known });
        }
        let done = usize::try_from(found).unwrap_or(0);
        let bytes = match step.backend_name() {
            "PostgreSQL" => "BYTEA",
            _ => "BLOB",
        };
        for migration in MIGRATIONS.iter().skip(done) {
            let text = migration.replace("{bytes}", bytes);
            sqlx::query(sqlx::AssertSqlSafe(text))
                .execute(&mut *step)
                .await?;
        }
        if found < known {
            sqlx::query("INSERT INTO schema_version (version) VALUES ($1)")
                .bind(known)
                .execute(&mut *step)
                .await?;
        }
        step.commit().await?;
        Ok(())
    }

    /// A database goes with one data folder, which has the contents it refers to; and one server works in a
    /// data folder at a time, so that one works on a database.
    async fn belongs_to(&self, data: &Path) -> Result<(), StoreError> {
        let file = data.join("home");
        let ours = match std::fs::read_to_string(&file) {
            Ok(id) => id,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let id = crate::keys::random_word("home-", 12)?;
                std::fs::write(&file, &id)?;
                id
            }
            Err(error) => return Err(error.into()),
        };
        sqlx::query(
            "INSERT INTO home (id) SELECT CAST($1 AS TEXT) WHERE NOT EXISTS (SELECT 1 FROM home)",
        )
        .bind(&ours)
        .execute(&self.steps)
        .await?;
        let theirs: String = sqlx::query("SELECT MIN(id) FROM home")
            .fetch_one(&self.pool)
            .await?
            .try_get(0)?;
        if theirs == ours {
            return Ok(());
        }
        Err(StoreError::Elsewhere(data.display().to_string()))
    }

    pub(crate) const fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Begins a step: several statements that hold together or not at all.
    pub(crate) async fn step(&self) -> Result<Transaction<'static, Any>, StoreError> {
        Ok(self.steps.begin().await?)
    }

    /// Whether it answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Writes that a run will begin. With a key that was used before nothing is written, and the answer
    /// is false.
    pub(crate) async fn intend(&self, intent: &Intent<'_>) -> Result<bool, StoreError> {
        let mut step = self.step().await?;
        let written = sqlx::query(
            "INSERT INTO runs (id, tenant, created_ms, state, idempotency_key, request_sha256, about, bytes) \
             VALUES ($1, $2, $3, 'accepted', $4, $5, $6, 0) ON CONFLICT DO NOTHING",
        )
        .bind(intent.id)
        .bind(intent.tenant)
        .bind(now_ms())
        .bind(intent.idempotency_key)
        .bind(intent.request_sha256)
        .bind(intent.about)
        .execute(&mut *step)
        .await?
        .rows_affected()
            == 1;
        if written {
            let entry = Entry {
                tenant: intent.tenant,
                who: intent.who,
                action: "run.accepted",
                subject: intent.id,
                detail: "",
            };
            audit::write(&mut step, &entry).await?;
        }
        step.commit().await?;
        Ok(written)
    }

    /// Writes how a run ended, with its artifacts, all or nothing. The answer is the bytes that it keeps.
    pub(crate) async fn finish(&self, ended: &Ended<'_>) -> Result<u64, StoreError> {
        let Ended {
            id,
            outcome,
            brief,
            receipt,
            events,
            artifacts,
            ..
        } = *ended;
        let packed = packed::pack_aside(outcome, receipt).await?;
        let mut step = self.step().await?;
        for (number, artifact) in artifacts.iter().enumerate() {
            sqlx::query(
                "INSERT INTO artifacts (run, number, path, media_type, sha256, bytes) VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(id)
            .bind(number as i64)
            .bind(&artifact.path)
            .bind(&artifact.media_type)
            .bind(&artifact.sha256)
            .bind(artifact.bytes)
            .execute(&mut *step)
            .await?;
        }
        let files: i64 = artifacts.iter().map(|artifact| artifact.bytes).sum();
        let texts = packed.len() + events.map_or(0, str::len);
        let bytes = i64::try_from(texts)
            .unwrap_or(i64::MAX)
            .saturating_add(files);
        sqlx::query(
            "UPDATE runs SET state = 'ended', packed = $1, ended_ms = $2, bytes = $3, brief = $5, events = $6 WHERE id = $4",
        )
        .bind(packed)
        .bind(now_ms())
        .bind(bytes)
        .bind(id)
        .bind(brief)
        .bind(events)
        .execute(&mut *step)
        .await?;
        let entry = Entry {
            tenant: ended.tenant,
            who: "",
            action: "run.ended",
            subject: id,
            detail: ended.status,
        };
        audit::write(&mut step, &entry).await?;
        step.commit().await?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    /// Runs that a crash of this server cut off: their end will never be known.
    pub(crate) async fn mark_all_lost(&self) -> Result<(), StoreError> {
        let rows = sqlx::query("SELECT id, tenant FROM runs WHERE state = 'accepted'")
            .fetch_all(&self.pool)
            .await?;
        for row in rows {
            self.mark_lost(&row.try_get::<String, _>(1)?, &row.try_get::<String, _>(0)?)
                .await?;
        }
        Ok(())
    }

    /// A run whose end nobody will know.
    pub(crate) async fn mark_lost(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let mut step = self.step().await?;
        let changed = sqlx::query(
            "UPDATE runs SET state = 'lost', ended_ms = $1 WHERE tenant = $2 AND id = $3 AND state = 'accepted'",
        )
        .bind(now_ms())
        .bind(tenant)
        .bind(id)
        .execute(&mut *step)
        .await?
        .rows_affected();
        if changed > 0 {
            let entry = Entry {
                tenant,
                who: "",
                action: "run.lost",
                subject: id,
                detail: "",
            };
            audit::write(&mut step, &entry).await?;
        }
        step.commit().await?;
        Ok(())
    }

    /// A run's signed receipt, where it has one.
    pub(crate) async fn receipt(
        &self,
        tenant: &str,
        id: &str,
    ) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT receipt, packed FROM runs WHERE tenant = $1 AND id = $2")
            .bind(tenant)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        match row.try_get::<Option<Vec<u8>>, _>(1)? {
            Some(packed) => Ok(packed::unpack(&packed)?.1),
            None => Ok(row.try_get(0)?),
        }
    }

    /// A run's events as JSON Lines, where they were kept.
    pub(crate) async fn events(
        &self,
        tenant: &str,
        id: &str,
    ) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT events FROM runs WHERE tenant = $1 AND id = $2")
            .bind(tenant)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.flatten())
    }

    pub(crate) async fn run(&self, tenant: &str, id: &str) -> Result<Option<RunRow>, StoreError> {
        let row = sqlx::query(whole_run!("tenant = $1 AND id = $2"))
            .bind(tenant)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(whole_row).transpose()
    }

    pub(crate) async fn run_by_key(
        &self,
        tenant: &str,
        key: &str,
    ) -> Result<Option<RunRow>, StoreError> {
        let row = sqlx::query(whole_run!("tenant = $1 AND idempotency_key = $2"))
            .bind(tenant)
            .bind(key)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(whole_row).transpose()
    }

    /// The latest runs, without their outcomes.
    pub(crate) async fn runs(
        &self,
        tenant: &str,
        after: &After,
        limit: i64,
    ) -> Result<Vec<RunRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, created_ms, ended_ms, state, request_sha256, about, brief FROM runs \
             WHERE tenant = $1 AND (created_ms < $2 OR (created_ms = $2 AND id < $3)) \
             ORDER BY created_ms DESC, id DESC LIMIT $4",
        )
        .bind(tenant)
        .bind(after.at_ms)
        .bind(&after.id)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(run_row).collect::<Result<_, _>>()?)
    }

    /// Forgets runs that ended before a time.
    pub(crate) async fn expire(&self, before_ms: i64) -> Result<u64, StoreError> {
        let mut step = self.step().await?;
        sqlx::query("DELETE FROM artifacts WHERE run IN (SELECT id FROM runs WHERE ended_ms < $1)")
            .bind(before_ms)
            .execute(&mut *step)
            .await?;
        let gone = sqlx::query("DELETE FROM runs WHERE ended_ms < $1")
            .bind(before_ms)
            .execute(&mut *step)
            .await?
            .rows_affected();
        step.commit().await?;
        Ok(gone)
    }

    /// The tenants of whom some upload or artifact has this content.
    pub(crate) async fn owners(&self, sha256: &str) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query(
            "SELECT tenant FROM uploads WHERE sha256 = $1 UNION \
             SELECT r.tenant FROM artifacts a JOIN runs r ON r.id = a.run WHERE a.sha256 = $1",
        )
        .bind(sha256)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()?)
    }
}

async fn pool(url: &str, connections: u32, sqlite: bool) -> Result<AnyPool, sqlx::Error> {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(10))
        // A file does not go away while nobody asks, as a server does.
        .test_before_acquire(!sqlite)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if sqlite {
                    // Waits for another process's write, does not wait for the disk at each of ours, and lets the log
                    // grow to 16 MiB before what it has goes to the file, waiting for the disk.
                    for pragma in [
                        "busy_timeout = 5000",
                        "synchronous = NORMAL",
                        "wal_autocheckpoint = 4096",
                    ] {
                        let text = format!("PRAGMA {pragma}");
                        sqlx::raw_sql(sqlx::AssertSqlSafe(text))
                            .execute(&mut *connection)
                            .await?;
                    }
                }
                Ok(())
            })
        })
        .connect(url)
        .await
}

/// A run without its outcome.
fn run_row(row: &AnyRow) -> Result<RunRow, sqlx::Error> {
    Ok(RunRow {
        id: row.try_get(0)?,
        created_ms: row.try_get(1)?,
        ended_ms: row.try_get(2)?,
        state: row.try_get(3)?,
        request_sha256: row.try_get(4)?,
        about: row.try_get(5)?,
        brief: row.try_get(6)?,
        outcome: None,
    })
}

/// The same with it, of what `whole_run` asks for.
fn whole_row(row: &AnyRow) -> Result<RunRow, StoreError> {
    let outcome = match row.try_get::<Option<Vec<u8>>, _>(8)? {
        Some(packed) => Some(packed::unpack(&packed)?.0),
        None => row.try_get(7)?,
    };
    Ok(RunRow {
        outcome,
        ..run_row(row)?
    })
}
