//! Who did what: entries that are only ever added, and forgotten together when they are old.

use sqlx::AnyConnection;
use sqlx::Row;

use super::{After, Store, StoreError, now_ms};
use crate::keys::random_word;

/// One entry before it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) tenant: &'a str,
    /// The key's id; empty for the server's own doing, and where no key is needed.
    pub(crate) who: &'a str,
    /// Such as `run.accepted`.
    pub(crate) action: &'a str,
    /// The run, upload or key.
    pub(crate) subject: &'a str,
    /// One more word, such as how a run ended.
    pub(crate) detail: &'a str,
}

/// One entry as it was written.
#[derive(Debug, Clone)]
pub(crate) struct EntryRow {
    pub(crate) id: String,
    pub(crate) at_ms: i64,
    pub(crate) who: String,
    pub(crate) action: String,
    pub(crate) subject: String,
    pub(crate) detail: String,
}

/// Writes an entry in the same step as what it tells of.
pub(crate) async fn write(step: &mut AnyConnection, entry: &Entry<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit (id, at_ms, tenant, who, action, subject, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(random_word("audit-", 12)?)
    .bind(now_ms())
    .bind(entry.tenant)
    .bind(entry.who)
    .bind(entry.action)
    .bind(entry.subject)
    .bind(entry.detail)
    .execute(step)
    .await?;
    Ok(())
}

impl Store {
    /// Writes an entry about what is in no row of its own.
    pub(crate) async fn note(&self, entry: &Entry<'_>) -> Result<(), StoreError> {
        let mut connection = self.pool().acquire().await?;
        write(&mut connection, entry).await
    }

    /// A tenant's entries, the latest first.
    pub(crate) async fn audit(
        &self,
        tenant: &str,
        after: &After,
        limit: i64,
    ) -> Result<Vec<EntryRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, at_ms, who, action, subject, detail FROM audit \
             WHERE tenant = $1 AND (at_ms < $2 OR (at_ms = $2 AND id < $3)) ORDER BY at_ms DESC, id DESC LIMIT $4",
        )
        .bind(tenant)
        .bind(after.at_ms)
        .bind(&after.id)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        let entry = |row: &sqlx::any::AnyRow| -> Result<EntryRow, sqlx::Error> {
            Ok(EntryRow {
                id: row.try_get(0)?,
                at_ms: row.try_get(1)?,
                who: row.try_get(2)?,
                action: row.try_get(3)?,
                subject: row.try_get(4)?,
                detail: row.try_get(5)?,
            })
        };
        Ok(rows.iter().map(entry).collect::<Result<_, _>>()?)
    }

    /// Forgets entries from before a time.
    pub(crate) async fn expire_audit(&self, before_ms: i64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM audit WHERE at_ms < $1")
            .bind(before_ms)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}
