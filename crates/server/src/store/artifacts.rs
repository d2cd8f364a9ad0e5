//! What runs left, as the database knows it.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::{ArtifactRow, Store, StoreError};

impl Store {
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
        Ok(row.as_ref().map(artifact_row).transpose()?)
    }

    /// A tenant's artifacts with their runs and numbers, the latest run's first, no more than so many.
    pub(crate) async fn artifacts(
        &self,
        tenant: &str,
        most: i64,
    ) -> Result<Vec<(String, i64, ArtifactRow)>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.path, a.media_type, a.sha256, a.bytes, a.run, a.number FROM artifacts a JOIN runs r ON r.id = a.run \
             WHERE r.tenant = $1 ORDER BY r.created_ms DESC, r.id DESC, a.number LIMIT $2",
        )
        .bind(tenant)
        .bind(most)
        .fetch_all(&self.pool)
        .await?;
        let one = |row: &AnyRow| -> Result<_, sqlx::Error> {
            Ok((row.try_get(4)?, row.try_get(5)?, artifact_row(row)?))
        };
        Ok(rows.iter().map(one).collect::<Result<_, _>>()?)
    }
}

fn artifact_row(row: &AnyRow) -> Result<ArtifactRow, sqlx::Error> {
    Ok(ArtifactRow {
        path: row.try_get(0)?,
        media_type: row.try_get(1)?,
        sha256: row.try_get(2)?,
        bytes: row.try_get(3)?,
    })
}
