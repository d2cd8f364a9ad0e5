//! Uploads: a content stored once, by its hash, and read-only in as many runs as name it.

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::blobs::is_name;
use crate::body::Taken;
use crate::error::{ApiError, ErrorBody};
use crate::guard::Caller;
use crate::state::State;
use crate::store::{UploadRow, now_ms};

fn shown(upload: &UploadRow) -> Value {
    json!({
        "sha256": upload.sha256,
        "name": upload.name,
        "size_bytes": upload.bytes,
        "created_ms": upload.created_ms,
    })
}

/// Your uploads, the latest first.
#[utoipa::path(get, path = "/v1/uploads", tag = "uploads", security(("key" = [])), responses(
    (status = 200, description = "the uploads", body = Value),
    (status = 401, description = "no key", body = ErrorBody)))]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let uploads = state.store.uploads(caller.name()).await?;
    let uploads: Vec<Value> = uploads.iter().map(shown).collect();
    Ok(Json(json!({"uploads": uploads})))
}

/// What may be said of an upload.
#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct Named {
    /// A name for people.
    #[serde(default)]
    name: String,
}

/// Stores a content. The path's hash must be the content's: what arrives damaged is not stored.
#[utoipa::path(put, path = "/v1/uploads/{sha256}", tag = "uploads", security(("key" = [])),
    params(("sha256" = String, Path, description = "SHA-256 of the content, in lower-case hexadecimal", pattern = "^[0-9a-f]{64}$"), Named),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
    (status = 201, description = "stored", body = Value),
    (status = 400, description = "not understood", body = ErrorBody),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 403, description = "not with this key", body = ErrorBody),
    (status = 408, description = "the body did not arrive in time", body = ErrorBody),
    (status = 409, description = "the hash is another", body = ErrorBody),
    (status = 413, description = "too large", body = ErrorBody),
    (status = 429, description = "too many at once", body = ErrorBody),
    (status = 503, description = "the server goes down, or its database is busy", body = ErrorBody),
    (status = 507, description = "no room", body = ErrorBody)))]
pub(crate) async fn put(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(sha256): Path<String>,
    Query(named): Query<Named>,
    Taken { bytes, room }: Taken,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    caller.may("run")?;
    if !is_name(&sha256) {
        return Err(ApiError::bad(
            "the path's last part is no SHA-256",
            "name the content by its SHA-256: 64 lower-case hexadecimal digits",
        ));
    }
    let length = bytes.len() as u64;
    let again = state.store.upload(caller.name(), &sha256).await?.is_some();
    state.quota(&caller, if again { 0 } else { length }).await?;
    let until_stored = state.contents.read().await;
    let (blobs, tenant) = (state.blobs.clone(), caller.name().to_owned());
    let asked = sha256.clone();
    let stored = tokio::task::spawn_blocking(move || {
        let is = casemate_engine::sha256_hex(&bytes);
        if is != asked {
            return Err(ApiError::conflict(
                format!("the content's SHA-256 is {is}"),
                "send the content whole, under its own hash",
            ));
        }
        blobs.put(&tenant, &bytes)?;
        drop((bytes, room));
        Ok(())
    });
    stored
        .await
        .map_err(|error| ApiError::fault(error.to_string()))??;
    let upload = UploadRow {
        sha256,
        name: named
            .name
            .chars()
            .filter(|c| !c.is_control())
            .take(255)
            .collect(),
        bytes: i64::try_from(length).unwrap_or(i64::MAX),
        created_ms: now_ms(),
    };
    let who = caller.who();
    state.store.add_upload(caller.name(), who, &upload).await?;
    drop(until_stored);
    if !again {
        state.keeps(caller.name(), length);
    }
    state.metrics.uploaded_bytes.inc_by(length);
    Ok((StatusCode::CREATED, Json(shown(&upload))))
}

/// Forgets an upload of yours.
#[utoipa::path(delete, path = "/v1/uploads/{sha256}", tag = "uploads", security(("key" = [])),
    params(("sha256" = String, Path, description = "SHA-256 of the content", pattern = "^[0-9a-f]{64}$")),
    responses(
    (status = 204, description = "forgotten"),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 403, description = "not with this key", body = ErrorBody),
    (status = 404, description = "you have none such", body = ErrorBody)))]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(sha256): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.may("run")?;
    let (tenant, who) = (caller.name(), caller.who());
    if state.store.delete_upload(tenant, who, &sha256).await? {
        state.deleted(tenant, vec![sha256]).await?;
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::unknown("upload", &sha256))
    }
}
