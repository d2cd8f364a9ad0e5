//! What the server remembers: runs, uploads, keys, the audit. SQLite by default, Postgres by URL.
//!
//! One statement a call, the same text for both. Every row that belongs to a tenant is asked for with
//! that tenant in the `WHERE`, so that a handler cannot forget it.

use std::path::Path;
use std::time::Duration;

use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{AnyPool, Row};
use thiserror::Error;

/// Steps that brought the schema to where it is; one is never changed, only another added.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE runs (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_ms BIGINT NOT NULL, ended_ms BIGINT, \
     state TEXT NOT NULL, idempotency_key TEXT, request_sha256 TEXT NOT NULL, outcome TEXT, bytes BIGINT NOT NULL)",
    "CREATE UNIQUE INDEX runs_idempotency ON runs (tenant, idempotency_key)",
    "CREATE INDEX runs_by_time ON runs (tenant, created_ms)",
    "CREATE TABLE artifacts (run TEXT NOT NULL, number BIGINT NOT NULL, path TEXT NOT NULL, media_type TEXT NOT NULL, \
     sha256 TEXT NOT NULL, bytes BIGINT NOT NULL, PRIMARY KEY (run, number))",
    "CREATE INDEX artifacts_by_content ON artifacts (sha256)",
    "CREATE TABLE uploads (tenant TEXT NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL, bytes BIGINT NOT NULL, \
     created_ms BIGINT NOT NULL, PRIMARY KEY (tenant, sha256))",
    "CREATE INDEX uploads_by_content ON uploads (sha256)",
    "CREATE TABLE keys (id TEXT PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, name TEXT NOT NULL, \
     policy TEXT, backends TEXT, scopes TEXT NOT NULL, running BIGINT, per_minute BIGINT, created_ms BIGINT NOT NULL, \
     expires_ms BIGINT, revoked_ms BIGINT)",
    "CREATE TABLE audit (number BIGINT PRIMARY KEY, at_ms BIGINT NOT NULL, tenant TEXT NOT NULL, action TEXT NOT NULL, \
     subject TEXT NOT NULL, detail TEXT NOT NULL)",
];

/// Why something could not be remembered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room.
    #[error("the server's disk is full: {0}")]
    Full(String),
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
        } else {
            Self::Database(text)
        }
    }
}

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
}

/// A run as a list shows it.
#[derive(Debug, Clone)]
pub(crate) struct RunRow {
    pub(crate) id: String,
    pub(crate) created_ms: i64,
    pub(crate) ended_ms: Option<i64>,
    pub(crate) state: String,
    pub(crate) request_sha256: String,
    pub(crate) outcome: Option<String>,
}

/// A run before it begins.
#[derive(Debug, Clone)]
pub(crate) struct Intent<'a> {
    pub(crate) id: &'a str,
    pub(crate) tenant: &'a str,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) request_sha256: &'a str,
}

/// One artifact's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArtifactRow {
    pub(crate) path: String,
    pub(crate) media_type: String,
    pub(crate) sha256: String,
    pub(crate) bytes: i64,
}

/// One upload's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UploadRow {
    pub(crate) sha256: String,
    pub(crate) name: String,
    pub(crate) bytes: i64,
    pub(crate) created_ms: i64,
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
        let pool = AnyPoolOptions::new()
            .max_connections(if sqlite { 4 } else { 16 })
            .acquire_timeout(Duration::from_secs(10))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if sqlite {
                        // Waits for another process's write, and does not wait for the disk at each of ours.
                        for pragma in ["busy_timeout = 5000", "synchronous = NORMAL"] {
                            let text = format!("PRAGMA {pragma}");
                            sqlx::raw_sql(sqlx::AssertSqlSafe(text))
                                .execute(&mut *connection)
                                .await?;
                        }
                    }
                    Ok(())
                })
            })
            .connect(url.unwrap_or(&own))
            .await?;
        if sqlite {
            sqlx::raw_sql("PRAGMA journal_mode = WAL")
                .execute(&pool)
                .await?;
        }
        let store = Self { pool };
        store.migrate().await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let known = MIGRATIONS.len() as i64;
        let mut step = self.pool.begin().await?;
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
        for migration in MIGRATIONS.iter().skip(done) {
            sqlx::query(*migration).execute(&mut *step).await?;
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

    pub(crate) const fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Whether it answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Writes that a run will begin. With a key that was used before nothing is written, and the answer
    /// is false.
    pub(crate) async fn intend(&self, intent: &Intent<'_>) -> Result<bool, StoreError> {
        let written = sqlx::query(
            "INSERT INTO runs (id, tenant, created_ms, state, idempotency_key, request_sha256, bytes) \
             VALUES ($1, $2, $3, 'accepted', $4, $5, 0) ON CONFLICT DO NOTHING",
        )
        .bind(intent.id)
        .bind(intent.tenant)
        .bind(now_ms())
        .bind(intent.idempotency_key)
        .bind(intent.request_sha256)
        .execute(&self.pool)
        .await?;
        Ok(written.rows_affected() == 1)
    }

    /// A run that never began: nobody was told its number.
    pub(crate) async fn forget_intent(&self, id: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM runs WHERE id = $1 AND state = 'accepted'")
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Writes how a run ended, with its artifacts, all or nothing.
    pub(crate) async fn finish(
        &self,
        id: &str,
        state: &str,
        outcome: &str,
        artifacts: &[ArtifactRow],
    ) -> Result<(), StoreError> {
        let mut step = self.pool.begin().await?;
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
        let bytes = i64::try_from(outcome.len())
            .unwrap_or(i64::MAX)
            .saturating_add(files);
        sqlx::query(
            "UPDATE runs SET state = $1, outcome = $2, ended_ms = $3, bytes = $4 WHERE id = $5",
        )
        .bind(state)
        .bind(outcome)
        .bind(now_ms())
        .bind(bytes)
        .bind(id)
        .execute(&mut *step)
        .await?;
        step.commit().await?;
        Ok(())
    }

    /// Runs that a crash of this server cut off: their end will never be known.
    pub(crate) async fn mark_lost(&self) -> Result<u64, StoreError> {
        let changed =
            sqlx::query("UPDATE runs SET state = 'lost', ended_ms = $1 WHERE state = 'accepted'")
                .bind(now_ms())
                .execute(&self.pool)
                .await?;
        Ok(changed.rows_affected())
    }

    pub(crate) async fn run(&self, tenant: &str, id: &str) -> Result<Option<RunRow>, StoreError> {
        let row = sqlx::query(
            "SELECT id, created_ms, ended_ms, state, request_sha256, outcome FROM runs WHERE tenant = $1 AND id = $2",
        )
        .bind(tenant)
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(run_row).transpose()?)
    }

    pub(crate) async fn run_by_key(
        &self,
        tenant: &str,
        key: &str,
    ) -> Result<Option<RunRow>, StoreError> {
        let row = sqlx::query(
            "SELECT id, created_ms, ended_ms, state, request_sha256, outcome FROM runs \
             WHERE tenant = $1 AND idempotency_key = $2",
        )
        .bind(tenant)
        .bind(key)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(run_row).transpose()?)
    }

    /// The latest runs that began before a time, without their outcomes.
    pub(crate) async fn runs(
        &self,
        tenant: &str,
        before_ms: i64,
        limit: i64,
    ) -> Result<Vec<RunRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, created_ms, ended_ms, state, request_sha256, NULL AS outcome FROM runs \
             WHERE tenant = $1 AND created_ms < $2 ORDER BY created_ms DESC, id LIMIT $3",
        )
        .bind(tenant)
        .bind(before_ms)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(run_row).collect::<Result<_, _>>()?)
    }

    /// Forgets a finished run; its artifacts' contents that nothing else holds are named in the answer.
    pub(crate) async fn delete_run(&self, tenant: &str, id: &str) -> Result<bool, StoreError> {
        let mut step = self.pool.begin().await?;
        let gone = sqlx::query("DELETE FROM runs WHERE tenant = $1 AND id = $2")
            .bind(tenant)
            .bind(id)
            .execute(&mut *step)
            .await?
            .rows_affected();
        if gone > 0 {
            sqlx::query("DELETE FROM artifacts WHERE run = $1")
                .bind(id)
                .execute(&mut *step)
                .await?;
        }
        step.commit().await?;
        Ok(gone > 0)
    }

    /// Forgets runs that ended before a time.
    pub(crate) async fn expire(&self, before_ms: i64) -> Result<u64, StoreError> {
        let mut step = self.pool.begin().await?;
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

    pub(crate) async fn artifact(
        &self,
        tenant: &str,
        run: &str,
        number: i64,
    ) -> Result<Option<ArtifactRow>, StoreError> {
        let row = sqlx::query(
            "SELECT a.path, a.media_type, a.sha256, a.bytes FROM artifacts a JOIN runs r ON r.id = a.run \
             WHERE r.tenant = $1 AND a.run = $2 AND a.number = $3",
        )
        .bind(tenant)
        .bind(run)
        .bind(number)
        .fetch_optional(&self.pool)
        .await?;
        let artifact = |row: &AnyRow| -> Result<ArtifactRow, sqlx::Error> {
            Ok(ArtifactRow {
                path: row.try_get(0)?,
                media_type: row.try_get(1)?,
                sha256: row.try_get(2)?,
                bytes: row.try_get(3)?,
            })
        };
        Ok(row.as_ref().map(artifact).transpose()?)
    }

    /// Remembers an upload. The same content again only gets its new name.
    pub(crate) async fn add_upload(
        &self,
        tenant: &str,
        upload: &UploadRow,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO uploads (tenant, sha256, name, bytes, created_ms) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (tenant, sha256) DO UPDATE SET name = excluded.name",
        )
        .bind(tenant)
        .bind(&upload.sha256)
        .bind(&upload.name)
        .bind(upload.bytes)
        .bind(upload.created_ms)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub(crate) async fn upload(
        &self,
        tenant: &str,
        sha256: &str,
    ) -> Result<Option<UploadRow>, StoreError> {
        let row = sqlx::query(
            "SELECT sha256, name, bytes, created_ms FROM uploads WHERE tenant = $1 AND sha256 = $2",
        )
        .bind(tenant)
        .bind(sha256)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(upload_row).transpose()?)
    }

    pub(crate) async fn uploads(&self, tenant: &str) -> Result<Vec<UploadRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT sha256, name, bytes, created_ms FROM uploads WHERE tenant = $1 \
             ORDER BY created_ms DESC, sha256 LIMIT 1000",
        )
        .bind(tenant)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(upload_row).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn delete_upload(
        &self,
        tenant: &str,
        sha256: &str,
    ) -> Result<bool, StoreError> {
        let gone = sqlx::query("DELETE FROM uploads WHERE tenant = $1 AND sha256 = $2")
            .bind(tenant)
            .bind(sha256)
            .execute(&self.pool)
            .await?;
        Ok(gone.rows_affected() > 0)
    }

    /// Bytes a tenant's uploads and runs hold.
    pub(crate) async fn stored_bytes(&self, tenant: &str) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM uploads WHERE tenant = $1) + \
             (SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM runs WHERE tenant = $1)",
        )
        .bind(tenant)
        .fetch_one(&self.pool)
        .await?;
        Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0))
    }

    /// Whether some row still refers to a content.
    pub(crate) async fn refers_to(&self, sha256: &str) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM uploads WHERE sha256 = $1) + \
             (SELECT COUNT(*) FROM artifacts WHERE sha256 = $1)",
        )
        .bind(sha256)
        .fetch_one(&self.pool)
        .await?;
        Ok(row.try_get::<i64, _>(0)? > 0)
    }
}

fn run_row(row: &AnyRow) -> Result<RunRow, sqlx::Error> {
    Ok(RunRow {
        id: row.try_get(0)?,
        created_ms: row.try_get(1)?,
        ended_ms: row.try_get(2)?,
        state: row.try_get(3)?,
        request_sha256: row.try_get(4)?,
        outcome: row.try_get(5)?,
    })
}

fn upload_row(row: &AnyRow) -> Result<UploadRow, sqlx::Error> {
    Ok(UploadRow {
        sha256: row.try_get(0)?,
        name: row.try_get(1)?,
        bytes: row.try_get(2)?,
        created_ms: row.try_get(3)?,
    })
}
