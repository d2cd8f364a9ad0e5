//! Who did what: entries that are only ever added, and forgotten together when they are old.
//!
//! Each tenant's are a chain: an entry's hash is over what it says and the hash of the one before, and the last one's is
//! kept apart. So an entry that is changed, taken out or put in between leaves a link that does not fit; whoever has
//! written down a head of the chain, or had it signed, finds one that was made anew as well.

use serde_json::json;
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
pub struct EntryRow {
    pub(crate) id: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The key's id; empty for the server's own doing, and where no key is needed.
    pub who: String,
    /// Such as `run.accepted`.
    pub action: String,
    /// The run, upload, sandbox or key.
    pub subject: String,
    /// One more word.
    pub detail: String,
    /// Its place in the tenant's chain, from 1; none for entries of earlier versions.
    pub seq: Option<i64>,
    /// Its hash.
    pub sha256: Option<String>,
}

impl EntryRow {
    fn entry<'a>(&'a self, tenant: &'a str) -> Entry<'a> {
        Entry {
            tenant,
            who: &self.who,
            action: &self.action,
            subject: &self.subject,
            detail: &self.detail,
        }
    }
}

/// Where a tenant's chain ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Whose it is.
    pub tenant: String,
    /// How many entries there ever were.
    pub seq: i64,
    /// The last one's hash.
    pub sha256: String,
}

/// What looking through a tenant's chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Where it ends.
    pub head: Head,
    /// Entries that are there and fit.
    pub entries: u64,
    /// The first of them: those before were forgotten when they were old.
    pub first: i64,
    /// What does not fit, in words.
    pub trouble: Option<String>,
}

/// An entry's hash: SHA-256 of the JSON of these eight in a list.
fn link(before: &str, seq: i64, at_ms: i64, entry: &Entry<'_>) -> String {
    let Entry {
        tenant,
        who,
        action,
        subject,
        detail,
    } = *entry;
    let text = json!([before, seq, at_ms, tenant, who, action, subject, detail]).to_string();
    casemate_engine::sha256_hex(text.as_bytes())
}

/// Writes an entry in the same step as what it tells of.
pub(crate) async fn write(step: &mut AnyConnection, entry: &Entry<'_>) -> Result<(), StoreError> {
    // Whoever adds to the same chain waits here until this step has ended.
    let head = sqlx::query(
        "INSERT INTO audit_head (tenant, seq, sha256) VALUES ($1, 1, '') \
         ON CONFLICT (tenant) DO UPDATE SET seq = audit_head.seq + 1 RETURNING seq, sha256",
    )
    .bind(entry.tenant)
    .fetch_one(&mut *step)
    .await?;
    let (seq, before): (i64, String) = (head.try_get(0)?, head.try_get(1)?);
    let at_ms = now_ms();
    let sha256 = link(&before, seq, at_ms, entry);
    sqlx::query("UPDATE audit_head SET sha256 = $1 WHERE tenant = $2")
        .bind(&sha256)
        .bind(entry.tenant)
        .execute(&mut *step)
        .await?;
    sqlx::query(
        "INSERT INTO audit (id, at_ms, tenant, who, action, subject, detail, seq, sha256) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(random_word("audit-", 12)?)
    .bind(at_ms)
    .bind(entry.tenant)
    .bind(entry.who)
    .bind(entry.action)
    .bind(entry.subject)
    .bind(entry.detail)
    .bind(seq)
    .bind(&sha256)
    .execute(&mut *step)
    .await?;
    Ok(())
}

/// Entries that are looked at together.
const TOGETHER: i64 = 1000;

impl Store {
    /// Writes an entry about what is in no row of its own.
    pub(crate) async fn note(&self, entry: &Entry<'_>) -> Result<(), StoreError> {
        let mut step = self.step().await?;
        write(&mut step, entry).await?;
        Ok(step.commit().await?)
    }

    /// A tenant's entries, the latest first.
    pub(crate) async fn audit(
        &self,
        tenant: &str,
        after: &After,
        limit: i64,
    ) -> Result<Vec<EntryRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, at_ms, who, action, subject, detail, seq, sha256 FROM audit \
             WHERE tenant = $1 AND (at_ms < $2 OR (at_ms = $2 AND id < $3)) ORDER BY at_ms DESC, id DESC LIMIT $4",
        )
        .bind(tenant)
        .bind(after.at_ms)
        .bind(&after.id)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        Ok(rows.iter().map(entry_row).collect::<Result<_, _>>()?)
    }

    /// A tenant's latest entries, the latest last.
    ///
    /// # Errors
    /// What the database says.
    pub async fn audit_tail(&self, tenant: &str, lines: i64) -> Result<Vec<EntryRow>, StoreError> {
        let end = After {
            at_ms: i64::MAX,
            id: String::new(),
        };
        let mut rows = self.audit(tenant, &end, lines).await?;
        rows.reverse();
        Ok(rows)
    }

    /// Where the chains end, every tenant's.
    ///
    /// # Errors
    /// What the database says.
    pub async fn audit_heads(&self) -> Result<Vec<Head>, StoreError> {
        let rows = sqlx::query("SELECT tenant, seq, sha256 FROM audit_head ORDER BY tenant")
            .fetch_all(self.pool())
            .await?;
        Ok(rows.iter().map(head).collect::<Result<_, _>>()?)
    }

    /// Where a tenant's chain ends.
    pub(crate) async fn audit_head(&self, tenant: &str) -> Result<Option<Head>, StoreError> {
        let row = sqlx::query("SELECT tenant, seq, sha256 FROM audit_head WHERE tenant = $1")
            .bind(tenant)
            .fetch_optional(self.pool())
            .await?;
        Ok(row.as_ref().map(head).transpose()?)
    }

    /// The entry at a place of a tenant's chain.
    ///
    /// # Errors
    /// What the database says.
    pub async fn audit_at(&self, tenant: &str, seq: i64) -> Result<Option<EntryRow>, StoreError> {
        Ok(self
            .chain(tenant, seq - 1, 1)
            .await?
            .pop()
            .filter(|row| row.seq == Some(seq)))
    }

    /// A tenant's entries behind a place of its chain.
    async fn chain(
        &self,
        tenant: &str,
        behind: i64,
        limit: i64,
    ) -> Result<Vec<EntryRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, at_ms, who, action, subject, detail, seq, sha256 FROM audit \
             WHERE tenant = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        )
        .bind(tenant)
        .bind(behind)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        Ok(rows.iter().map(entry_row).collect::<Result<_, _>>()?)
    }

    /// Looks through a tenant's chain.
    ///
    /// # Errors
    /// What the database says.
    pub async fn look_through(&self, head: Head) -> Result<Looked, StoreError> {
        let mut looked = Looked {
            first: 0,
            entries: 0,
            trouble: None,
            head,
        };
        let mut last: Option<(i64, String)> = None;
        loop {
            let behind = last.as_ref().map_or(0, |(seq, _)| *seq);
            let rows = self.chain(&looked.head.tenant, behind, TOGETHER).await?;
            // What was added since the head was read is the next look's.
            let rows = rows
                .into_iter()
                .filter(|row| row.seq <= Some(looked.head.seq));
            let before = looked.entries;
            for row in rows {
                match fits(last.as_ref(), &row, &looked.head.tenant) {
                    Ok(next) => last = Some(next),
                    Err(trouble) => {
                        looked.trouble = Some(trouble);
                        return Ok(looked);
                    }
                }
                if looked.entries == 0 {
                    looked.first = row.seq.unwrap_or_default();
                }
                looked.entries += 1;
            }
            if looked.entries == before {
                break;
            }
        }
        let end = last.unwrap_or((0, String::new()));
        if end != (looked.head.seq, looked.head.sha256.clone()) {
            looked.trouble = Some(format!(
                "it ends at entry {} and should at {}, or that one is another",
                end.0, looked.head.seq
            ));
        }
        Ok(looked)
    }

    /// Forgets entries from before a time, but the last of each chain.
    pub(crate) async fn expire_audit(&self, before_ms: i64) -> Result<(), StoreError> {
        sqlx::query(
            "DELETE FROM audit WHERE at_ms < $1 AND \
             (seq IS NULL OR seq < (SELECT head.seq FROM audit_head head WHERE head.tenant = audit.tenant))",
        )
            .bind(before_ms)
            .execute(&self.steps)
            .await?;
        Ok(())
    }
}

/// The place and hash of an entry that follows the last one; the first that there still is follows what was forgotten,
/// and the one behind it vouches for its hash.
fn fits(
    last: Option<&(i64, String)>,
    row: &EntryRow,
    tenant: &str,
) -> Result<(i64, String), String> {
    let (Some(seq), Some(sha256)) = (row.seq, row.sha256.clone()) else {
        return Err("an entry has no place in it".to_owned());
    };
    let before = match last {
        Some((before, _)) if before + 1 != seq => {
            return Err(format!("entry {} is missing", before + 1));
        }
        Some((_, sha256)) => sha256.as_str(),
        None if seq == 1 => "",
        None => return Ok((seq, sha256)),
    };
    if link(before, seq, row.at_ms, &row.entry(tenant)) != sha256 {
        return Err(format!("entry {seq} was changed, or the one before it"));
    }
    Ok((seq, sha256))
}

fn head(row: &sqlx::any::AnyRow) -> Result<Head, sqlx::Error> {
    Ok(Head {
        tenant: row.try_get(0)?,
        seq: row.try_get(1)?,
        sha256: row.try_get(2)?,
    })
}

fn entry_row(row: &sqlx::any::AnyRow) -> Result<EntryRow, sqlx::Error> {
    Ok(EntryRow {
        id: row.try_get(0)?,
        at_ms: row.try_get(1)?,
        who: row.try_get(2)?,
        action: row.try_get(3)?,
        subject: row.try_get(4)?,
        detail: row.try_get(5)?,
        seq: row.try_get(6)?,
        sha256: row.try_get(7)?,
    })
}
