//! What tenants stored, to be read by many runs.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Entry, Store, StoreError, audit};

/// One upload's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UploadRow {
    pub(crate) sha256: String,
    pub(crate) name: String,
    pub(crate) bytes: i64,
    pub(crate) created_ms: i64,
}

impl Store {
    /// Remembers an upload. The same content again gets its new name, and is as young as a new one.
    pub(crate) async fn add_upload(
        &self,
        tenant: &str,
        who: &str,
        upload: &UploadRow,
    ) -> Result<(), StoreError> {
        let mut step = self.step().await?;
        sqlx::query(
            "INSERT INTO uploads (tenant, sha256, name, bytes, created_ms) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (tenant, sha256) DO UPDATE SET name = excluded.name, created_ms = excluded.created_ms",
        )
        .bind(tenant)
        .bind(&upload.sha256)
        .bind(&upload.name)
        .bind(upload.bytes)
        .bind(upload.created_ms)
        .execute(&mut *step)
        .await?;
        let entry = Entry {
            tenant,
            who,
            action: "upload.stored",
            subject: &upload.sha256,
            detail: &upload.name,
        };
        audit::write(&mut step, &entry).await?;
        step.commit().await?;
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
        who: &str,
        sha256: &str,
    ) -> Result<bool, StoreError> {
        let mut step = self.step().await?;
        let gone = sqlx::query("DELETE FROM uploads WHERE tenant = $1 AND sha256 = $2")
            .bind(tenant)
            .bind(sha256)
            .execute(&mut *step)
            .await?
            .rows_affected();
        if gone > 0 {
            let entry = Entry {
                tenant,
                who,
                action: "upload.deleted",
                subject: sha256,
                detail: "",
            };
            audit::write(&mut step, &entry).await?;
        }
        step.commit().await?;
        Ok(gone > 0)
    }

    /// Forgets uploads that were stored before a time.
    pub(crate) async fn expire_uploads(&self, before_ms: i64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM uploads WHERE created_ms < $1")
            .bind(before_ms)
            .execute(&self.steps)
            .await?;
        Ok(())
    }
}

fn upload_row(row: &AnyRow) -> Result<UploadRow, sqlx::Error> {
    Ok(UploadRow {
        sha256: row.try_get(0)?,
        name: row.try_get(1)?,
        bytes: row.try_get(2)?,
        created_ms: row.try_get(3)?,
    })
}
