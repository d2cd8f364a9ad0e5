//! Files of a sandbox.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use casemate_envd::filesystem::{EntryInfo, FileType};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Errors;
use super::inside::{agent, awake, refused};
use crate::body::Taken;
use crate::error::ApiError;
use crate::guard::Caller;
use crate::hearing::Hearing;
use crate::state::State;

/// Bytes of one file that is read.
const FILE: u64 = 1 << 30;

/// Which file or folder.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct At {
    /// Its path; one that is not absolute is below the user's home.
    #[param(min_length = 1, max_length = 4096)]
    path: String,
}

/// Which folder, and how far down.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Below {
    /// Its path; one that is not absolute is below the user's home.
    #[param(min_length = 1, max_length = 4096)]
    path: String,
    /// How many folders deep: 1, its own entries, where nothing is said.
    #[param(minimum = 1, maximum = 16)]
    depth: Option<u32>,
}

/// A file or a folder.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EntryBody {
    /// Its absolute path.
    path: String,
    /// `file`, `folder` or `other`.
    kind: &'static str,
    /// Its bytes.
    size_bytes: u64,
    /// Its permission bits.
    mode: u32,
    /// Where a link leads.
    link_to: Option<String>,
}

impl From<EntryInfo> for EntryBody {
    fn from(entry: EntryInfo) -> Self {
        let kind = if entry.r#type == FileType::File as i32 {
            "file"
        } else if entry.r#type == FileType::Directory as i32 {
            "folder"
        } else {
            "other"
        };
        Self {
            path: entry.path,
            kind,
            size_bytes: u64::try_from(entry.size).unwrap_or_default(),
            mode: entry.mode,
            link_to: entry.symlink_target,
        }
    }
}

/// A file that was written.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WrittenBody {
    /// Its absolute path.
    path: String,
    /// Its bytes.
    size_bytes: usize,
}

fn checked(path: &str) -> Result<(), ApiError> {
    if !path.is_empty() && path.len() <= 4096 && !path.contains('\0') {
        return Ok(());
    }
    Err(ApiError::bad(
        "the path is empty, longer than 4096 bytes, or has a zero byte in it",
        "name a file or folder of the sandbox",
    ))
}

/// Reads a file of a sandbox of yours.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/files", tag = "files", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id"), At),
    responses((status = 200, description = "its content", content_type = "application/octet-stream"), Errors))]
pub(crate) async fn read(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    Query(at): Query<At>,
) -> Result<Response, ApiError> {
    checked(&at.path)?;
    let sandbox = awake(&state, &caller, &id)?;
    let file = agent(&sandbox, Hearing::Lines)
        .download(&at.path, FILE)
        .await;
    let file = file.map_err(|error| refused(&sandbox, &error))?;
    let chunks = stream::unfold(Some((file, sandbox)), |held| async {
        let (mut file, sandbox) = held?;
        let chunk = tokio::select! {
            chunk = file.chunk() => chunk.map_err(axum::Error::new),
            () = sandbox.gone() => Err(axum::Error::new("the sandbox has ended")),
        };
        match chunk {
            Ok(None) => None,
            Ok(Some(chunk)) => Some((Ok(chunk), Some((file, sandbox)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        // A page of the guest's is no page of ours.
        (header::CONTENT_DISPOSITION, "attachment"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    Ok((headers, Body::from_stream(chunks)).into_response())
}

/// Writes a file of a sandbox of yours, and the folders above it.
#[utoipa::path(put, path = "/v1/sandboxes/{sandbox}/files", tag = "files", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id"), At),
    request_body(content_type = "application/octet-stream", description = "its content"),
    responses((status = 201, description = "written", body = WrittenBody), Errors))]
pub(crate) async fn write(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    Query(at): Query<At>,
    Taken { bytes, room }: Taken,
) -> Result<(StatusCode, Json<WrittenBody>), ApiError> {
    checked(&at.path)?;
    let sandbox = awake(&state, &caller, &id)?;
    let size_bytes = bytes.len();
    let written = agent(&sandbox, Hearing::Waits)
        .upload(&at.path, bytes, &BTreeMap::new())
        .await;
    let written = written.map_err(|error| refused(&sandbox, &error))?;
    drop(room);
    let body = WrittenBody {
        path: written.path,
        size_bytes,
    };
    Ok((StatusCode::CREATED, Json(body)))
}

/// Removes a file or a folder of a sandbox of yours, with all that is in it.
#[utoipa::path(delete, path = "/v1/sandboxes/{sandbox}/files", tag = "files", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id"), At),
    responses((status = 204, description = "gone"), Errors))]
pub(crate) async fn remove(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    Query(at): Query<At>,
) -> Result<StatusCode, ApiError> {
    checked(&at.path)?;
    let sandbox = awake(&state, &caller, &id)?;
    let removed = agent(&sandbox, Hearing::Waits).remove(&at.path).await;
    removed.map_err(|error| refused(&sandbox, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is in a folder of a sandbox of yours.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/folders", tag = "files", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id"), Below),
    responses((status = 200, description = "its entries", body = Vec<EntryBody>), Errors))]
pub(crate) async fn folder(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    Query(below): Query<Below>,
) -> Result<Json<Vec<EntryBody>>, ApiError> {
    checked(&below.path)?;
    let depth = below.depth.unwrap_or(1);
    if !(1..=16).contains(&depth) {
        return Err(ApiError::bad(
            format!("depth is {depth}; it is 1 to 16"),
            "ask for fewer folders at once",
        ));
    }
    let sandbox = awake(&state, &caller, &id)?;
    let all = agent(&sandbox, Hearing::Waits)
        .list_dir(&below.path, depth)
        .await;
    let all = all.map_err(|error| refused(&sandbox, &error))?;
    Ok(Json(all.into_iter().map(EntryBody::from).collect()))
}

/// Makes a folder of a sandbox of yours, and those above it.
#[utoipa::path(put, path = "/v1/sandboxes/{sandbox}/folders", tag = "files", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id"), At),
    responses((status = 201, description = "it is there", body = EntryBody), Errors))]
pub(crate) async fn make_folder(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    Query(at): Query<At>,
) -> Result<(StatusCode, Json<EntryBody>), ApiError> {
    checked(&at.path)?;
    let sandbox = awake(&state, &caller, &id)?;
    let made = agent(&sandbox, Hearing::Waits).make_dir(&at.path).await;
    let made = made.map_err(|error| refused(&sandbox, &error))?;
    Ok((StatusCode::CREATED, Json(made.into())))
}
