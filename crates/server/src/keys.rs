//! Keys: who may use the server, under which policy. Only a key's hash is kept.

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use crate::store::{Entry, Store, StoreError, audit, now_ms};

/// What a key is made with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewKey {
    /// Whom it belongs to: what keys of one tenant make, all of them see.
    pub tenant: String,
    /// What it is for.
    pub name: String,
    /// The policy that every run has; a request may only narrow it.
    pub policy: Option<String>,
    /// The backends that may be asked for; all where none is named.
    pub backends: Vec<String>,
    /// What it may do: `run` and `scan`; both where none is named.
    pub scopes: Vec<String>,
    /// Programs at once.
    pub running: Option<u32>,
    /// Programs and scans started a minute.
    pub per_minute: Option<u32>,
    /// Bytes its tenant may keep, as far as this key is concerned.
    pub stored_bytes: Option<u64>,
    /// When it stops being one, in milliseconds since 1970.
    pub expires_ms: Option<i64>,
}

/// A key as it is shown; what it is nobody can say again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyInfo {
    /// Its name for people and for revoking.
    pub id: String,
    /// Whom it belongs to.
    pub tenant: String,
    /// What it is for.
    pub name: String,
    /// The policy it is bound to.
    pub policy: Option<String>,
    /// The backends it may ask for; empty is all.
    pub backends: Vec<String>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Programs at once.
    pub running: Option<i64>,
    /// Programs and scans started a minute.
    pub per_minute: Option<i64>,
    /// Bytes its tenant may keep, as far as this key is concerned.
    pub stored_bytes: Option<i64>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it ends.
    pub expires_ms: Option<i64>,
    /// When it was revoked.
    pub revoked_ms: Option<i64>,
}

const COLUMNS: &str = "id, tenant, name, policy, backends, scopes, running, per_minute, stored_bytes, created_ms, expires_ms, revoked_ms";

/// A key's hash. A key is 256 random bits, so that a plain hash is enough: there is nothing to guess.
fn hash(key: &str) -> String {
    casemate_engine::sha256_hex(key.as_bytes())
}

impl Store {
    /// Makes a key and gives it once, with its id.
    ///
    /// # Errors
    /// When it cannot be remembered, or the system has no random bytes.
    pub async fn create_key(&self, new: &NewKey) -> Result<(String, KeyInfo), StoreError> {
        let mut secret = [0_u8; 32];
        getrandom::fill(&mut secret).map_err(|error| StoreError::Files(error.into()))?;
        let key = format!("casemate_{}", hex(&secret));
        let digest = Sha256::digest(key.as_bytes());
        let id = format!("key-{}", hex(&digest[..6]));
        let mut step = self.step().await?;
        sqlx::query(
            "INSERT INTO keys (id, sha256, tenant, name, policy, backends, scopes, running, per_minute, stored_bytes, created_ms, expires_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(&id)
        .bind(hash(&key))
        .bind(&new.tenant)
        .bind(&new.name)
        .bind(new.policy.as_deref())
        .bind(new.backends.join(","))
        .bind(new.scopes.join(","))
        .bind(new.running.map(i64::from))
        .bind(new.per_minute.map(i64::from))
        .bind(new.stored_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)))
        .bind(now_ms())
        .bind(new.expires_ms)
        .execute(&mut *step)
        .await?;
        let entry = Entry {
            tenant: &new.tenant,
            who: "",
            action: "key.created",
            subject: &id,
            detail: &new.name,
        };
        audit::write(&mut step, &entry).await?;
        step.commit().await?;
        let info = self.key_by("id", &id).await?;
        let info = info.ok_or_else(|| StoreError::Database("the new key is gone".to_owned()))?;
        Ok((key, info))
    }

    /// Every key, revoked ones too.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn keys(&self) -> Result<Vec<KeyInfo>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM keys ORDER BY created_ms, id");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .fetch_all(self.pool())
            .await?;
        Ok(rows.iter().map(info).collect::<Result<_, _>>()?)
    }

    /// A tenant's keys, revoked ones too.
    pub(crate) async fn keys_of(&self, tenant: &str) -> Result<Vec<KeyInfo>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM keys WHERE tenant = $1 ORDER BY created_ms, id");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(tenant)
            .fetch_all(self.pool())
            .await?;
        Ok(rows.iter().map(info).collect::<Result<_, _>>()?)
    }

    /// Takes a key away for good. False when there is none of this id.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
        let Some(key) = self.key_by("id", id).await? else {
            return Ok(false);
        };
        let mut step = self.step().await?;
        let done =
            sqlx::query("UPDATE keys SET revoked_ms = $1 WHERE id = $2 AND revoked_ms IS NULL")
                .bind(now_ms())
                .bind(id)
                .execute(&mut *step)
                .await?
                .rows_affected();
        if done > 0 {
            let entry = Entry {
                tenant: &key.tenant,
                who: "",
                action: "key.revoked",
                subject: id,
                detail: "",
            };
            audit::write(&mut step, &entry).await?;
        }
        step.commit().await?;
        Ok(done > 0)
    }

    /// Whether any key was ever made: from then on none but those is taken.
    pub(crate) async fn has_keys(&self) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT COUNT(*) FROM keys")
            .fetch_one(self.pool())
            .await?;
        Ok(row.try_get::<i64, _>(0)? > 0)
    }

    /// The key that a client sent, where it is one and still is.
    pub(crate) async fn key(&self, sent: &str) -> Result<Option<KeyInfo>, StoreError> {
        let found = self.key_by("sha256", &hash(sent)).await?;
        let stands = |key: &KeyInfo| {
            key.revoked_ms.is_none() && key.expires_ms.is_none_or(|end| end > now_ms())
        };
        Ok(found.filter(stands))
    }

    async fn key_by(
        &self,
        column: &'static str,
        value: &str,
    ) -> Result<Option<KeyInfo>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM keys WHERE {column} = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(value)
            .fetch_optional(self.pool())
            .await?;
        Ok(row.as_ref().map(info).transpose()?)
    }
}

fn info(row: &AnyRow) -> Result<KeyInfo, sqlx::Error> {
    let list = |text: Option<String>| -> Vec<String> {
        let text = text.unwrap_or_default();
        let words = text.split(',').filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    Ok(KeyInfo {
        id: row.try_get(0)?,
        tenant: row.try_get(1)?,
        name: row.try_get(2)?,
        policy: row.try_get(3)?,
        backends: list(row.try_get(4)?),
        scopes: list(row.try_get(5)?),
        running: row.try_get(6)?,
        per_minute: row.try_get(7)?,
        stored_bytes: row.try_get(8)?,
        created_ms: row.try_get(9)?,
        expires_ms: row.try_get(10)?,
        revoked_ms: row.try_get(11)?,
    })
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random word of our own, such as for a request.
pub(crate) fn random_word(prefix: &str, bytes: usize) -> Result<String, StoreError> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| StoreError::Files(error.into()))?;
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random);
    Ok(format!("{prefix}{text}"))
}
