//! What a tenant keeps, and what goes where that is too much.

use sqlx::{AnyConnection, Row};

use super::{Entry, Store, StoreError, audit};

/// Runs that are forgotten at once to make room.
const AT_ONCE: i64 = 500;

impl Store {
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

    /// Forgets a run, and gives the contents of what it left.
    pub(crate) async fn delete_run(
        &self,
        tenant: &str,
        who: &str,
        id: &str,
    ) -> Result<Vec<String>, StoreError> {
        let mut step = self.step().await?;
        let left = take_away(&mut step, tenant, id).await?;
        if left.is_some() {
            let entry = Entry {
                tenant,
                who,
                action: "run.deleted",
                subject: id,
                detail: "",
            };
            audit::write(&mut step, &entry).await?;
        }
        step.commit().await?;
        Ok(left.unwrap_or_default())
    }

    /// Forgets the oldest runs of a tenant that ended before a time, until they kept this many bytes together or there
    /// are many of them. The answer is their number, and the contents of what they left.
    pub(crate) async fn forget_oldest(
        &self,
        tenant: &str,
        bytes: u64,
        before_ms: i64,
    ) -> Result<(u64, Vec<String>), StoreError> {
        let oldest = sqlx::query(
            "SELECT id, bytes FROM runs WHERE tenant = $1 AND ended_ms < $2 ORDER BY created_ms, id LIMIT $3",
        )
        .bind(tenant)
        .bind(before_ms)
        .bind(AT_ONCE)
        .fetch_all(&self.pool)
        .await?;
        let (mut freed, mut count, mut contents) = (0_u64, 0_u64, Vec::new());
        let mut step = self.step().await?;
        let mut last = String::new();
        for row in oldest {
            if freed >= bytes {
                break;
            }
            let (id, kept): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            let Some(left) = take_away(&mut step, tenant, &id).await? else {
                // Somebody else was faster.
                continue;
            };
            contents.extend(left);
            freed = freed.saturating_add(u64::try_from(kept).unwrap_or(0));
            count += 1;
            last = id;
        }
        if count > 0 {
            let entry = Entry {
                tenant,
                who: "",
                action: "runs.forgotten",
                subject: &last,
                detail: &format!("for room: the {count} oldest, of which this was the last"),
            };
            audit::write(&mut step, &entry).await?;
        }
        step.commit().await?;
        Ok((count, contents))
    }
}

/// Takes a run that goes on no more away, and gives the contents of what it left; none where there is no such run.
async fn take_away(
    step: &mut AnyConnection,
    tenant: &str,
    id: &str,
) -> Result<Option<Vec<String>>, StoreError> {
    let gone =
        sqlx::query("DELETE FROM runs WHERE tenant = $1 AND id = $2 AND state <> 'accepted'")
            .bind(tenant)
            .bind(id)
            .execute(&mut *step)
            .await?
            .rows_affected();
    if gone == 0 {
        return Ok(None);
    }
    let left = sqlx::query("DELETE FROM artifacts WHERE run = $1 RETURNING sha256")
        .bind(id)
        .fetch_all(step)
        .await?;
    let left = left.iter().map(|row| row.try_get(0));
    Ok(Some(left.collect::<Result<_, _>>()?))
}
