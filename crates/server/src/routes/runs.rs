//! Runs: one call in, the outcome out; or told as it goes; or asked for later.

use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use crate::error::{ApiError, ErrorBody};
use crate::guard::Caller;
use crate::intake::RunRequest;
use crate::runs::{ACCEPTED, Accepted, Begun, begin};
use crate::state::State;
use crate::store::RunRow;

/// How a client wants to hear of its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearing {
    /// The outcome when it is there.
    Waits,
    /// A line of JSON for each thing that happens.
    Lines,
    /// The same as server-sent events.
    Events,
    /// Where to ask later.
    Later,
}

impl Hearing {
    fn of(headers: &HeaderMap) -> Self {
        let says = |name: header::HeaderName, word: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.is_some_and(|value| value.contains(word))
        };
        if says(header::HeaderName::from_static("prefer"), "respond-async") {
            Self::Later
        } else if says(header::ACCEPT, "text/event-stream") {
            Self::Events
        } else if says(header::ACCEPT, "application/x-ndjson") {
            Self::Lines
        } else {
            Self::Waits
        }
    }
}

/// Runs a program.
///
/// The answer is the outcome. With `Accept: application/x-ndjson` or `text/event-stream` it is told as
/// it happens, the outcome last; with `Prefer: respond-async` the answer is 202 and where to ask. A
/// client that waits and goes away cancels its run, unless it sent an `Idempotency-Key`: then the same
/// request gets the same run.
#[utoipa::path(post, path = "/v1/runs", tag = "runs", security(("key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "the same request again is the same run"),
           ("Prefer" = Option<String>, Header, description = "`respond-async` answers at once with 202")),
    request_body = RunRequest,
    responses(
    (status = 200, description = "how it ended: `casemate.outcome/1`", body = Value),
    (status = 202, description = "accepted; ask at Location", body = Value),
    (status = 400, description = "not understood", body = ErrorBody),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 403, description = "not with this key", body = ErrorBody),
    (status = 404, description = "an upload or policy that is not there", body = ErrorBody),
    (status = 409, description = "the Idempotency-Key is another request's", body = ErrorBody),
    (status = 413, description = "too large", body = ErrorBody),
    (status = 415, description = "not JSON", body = ErrorBody),
    (status = 422, description = "a field is wrong", body = ErrorBody),
    (status = 429, description = "too many at once", body = ErrorBody),
    (status = 507, description = "no room", body = ErrorBody)))]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request: RunRequest = serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad(
            format!("the body is not a request to run: {error}"),
            "send JSON such as {\"code\": \"print(1)\"}; GET /openapi.json has every field",
        )
    })?;
    let hearing = Hearing::of(&headers);
    let listened = matches!(hearing, Hearing::Lines | Hearing::Events);
    match begin(&state, &caller, &headers, &request, listened).await? {
        Begun::Before(row) => before(&state, &caller, row).await,
        Begun::Now(run) => {
            let keyed = headers.contains_key("idempotency-key");
            now(run, hearing, keyed).await
        }
    }
}

async fn now(run: Accepted, hearing: Hearing, keyed: bool) -> Result<Response, ApiError> {
    match hearing {
        Hearing::Later => Ok(accepted(&run.id)),
        Hearing::Lines => Ok(stream(run, keyed, "application/x-ndjson", |value| {
            format!("{value}\n")
        })),
        Hearing::Events => Ok(stream(run, keyed, "text/event-stream", |value| {
            let kind = value["type"].as_str().unwrap_or("message");
            format!("event: {kind}\ndata: {value}\n\n")
        })),
        Hearing::Waits => {
            let mut leaving = CancelOnDrop((!keyed).then_some(run.cancel));
            let ended = run.ended.await;
            leaving.0 = None;
            let value = ended.map_err(|_| ApiError::fault("the run's end was lost"))??;
            Ok(Json(value).into_response())
        }
    }
}

/// A client that no longer listens has no use for the rest.
struct CancelOnDrop(Option<casemate_backend::contract::Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(cancel) = &self.0 {
            cancel.cancel();
        }
    }
}

fn accepted(id: &str) -> Response {
    let place = format!("/v1/runs/{id}");
    let body = json!({"run": id, "state": ACCEPTED, "href": place});
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

/// Lines until the outcome's. What is queued for a slow client is bounded by the run's own limits.
fn stream(
    mut run: Accepted,
    keyed: bool,
    kind: &'static str,
    line: fn(&Value) -> String,
) -> Response {
    let (send, receive) = mpsc::channel::<String>(64);
    tokio::spawn(async move {
        let mut leaving = CancelOnDrop((!keyed).then(|| run.cancel.clone()));
        while let Some(value) = run.told.recv().await {
            if send.send(line(&value)).await.is_err() {
                return;
            }
        }
        let last = match run.ended.await {
            Ok(Ok(outcome)) => json!({"type": "outcome", "outcome": outcome}),
            Ok(Err(error)) => json!({"type": "failed", "error": error.body("")}),
            Err(_) => {
                json!({"type": "failed", "error": ApiError::fault("the run's end was lost").body("")})
            }
        };
        leaving.0 = None;
        send.send(line(&last)).await.ok();
    });
    let lines = ReceiverStream::new(receive).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The run of an earlier request: its outcome, once it is there.
async fn before(state: &State, caller: &Caller, row: RunRow) -> Result<Response, ApiError> {
    let id = row.id.clone();
    let mut row = Some(row);
    loop {
        let ended = state.ended.notified();
        match row.take().filter(|row| row.state != ACCEPTED) {
            Some(row) => return Ok(Json(shown(&row)).into_response()),
            None => {
                let found = state.store.run(caller.name(), &id).await?;
                let found = found.ok_or_else(|| ApiError::unknown("run", &id))?;
                if found.state == ACCEPTED {
                    // Told at each end of a run; and looked at again for one that ended in between.
                    let moment = std::time::Duration::from_millis(200);
                    tokio::time::timeout(moment, ended).await.ok();
                } else {
                    row = Some(found);
                }
            }
        }
    }
}

/// A stored run: its outcome, or how it stands.
fn shown(row: &RunRow) -> Value {
    let outcome = row.outcome.as_deref();
    let outcome = outcome.and_then(|text| serde_json::from_str::<Value>(text).ok());
    outcome.unwrap_or_else(|| summary(row))
}

fn summary(row: &RunRow) -> Value {
    json!({
        "run": row.id,
        "state": row.state,
        "created_ms": row.created_ms,
        "ended_ms": row.ended_ms,
        "href": format!("/v1/runs/{}", row.id),
    })
}

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct Page {
    /// Only runs that began before this, in milliseconds since 1970.
    before_ms: Option<i64>,
    /// How many, 100 at most.
    limit: Option<i64>,
}

/// Your runs, the latest first.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", security(("key" = [])), params(Page), responses(
    (status = 200, description = "the runs; `next_before_ms` asks for the next page", body = Value),
    (status = 400, description = "not understood", body = ErrorBody),
    (status = 401, description = "no key", body = ErrorBody)))]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<Value>, ApiError> {
    let limit = page.limit.unwrap_or(50).clamp(1, 100);
    let before = page.before_ms.unwrap_or(i64::MAX);
    let rows = state.store.runs(caller.name(), before, limit).await?;
    let full = rows.len() as i64 == limit;
    let next = rows.last().filter(|_| full).map(|row| row.created_ms);
    let runs: Vec<Value> = rows.iter().map(summary).collect();
    Ok(Json(json!({"runs": runs, "next_before_ms": next})))
}

/// A run of yours: its outcome, or how it stands.
#[utoipa::path(get, path = "/v1/runs/{run}", tag = "runs", security(("key" = [])),
    params(("run" = String, Path, description = "the run's id")), responses(
    (status = 200, description = "the outcome, or `state` while there is none", body = Value),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 404, description = "you have none such", body = ErrorBody)))]
pub(crate) async fn get(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let row = state.store.run(caller.name(), &id).await?;
    let row = row.ok_or_else(|| ApiError::unknown("run", &id))?;
    Ok(Json(shown(&row)))
}

/// Forgets an ended run of yours and what it left.
#[utoipa::path(delete, path = "/v1/runs/{run}", tag = "runs", security(("key" = [])),
    params(("run" = String, Path, description = "the run's id")), responses(
    (status = 204, description = "forgotten"),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 404, description = "you have none such", body = ErrorBody),
    (status = 409, description = "it has not ended", body = ErrorBody)))]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.may("run")?;
    let row = state.store.run(caller.name(), &id).await?;
    let row = row.ok_or_else(|| ApiError::unknown("run", &id))?;
    if row.state == ACCEPTED {
        return Err(ApiError::conflict(
            "the run has not ended",
            "POST to its /cancel first",
        ));
    }
    state.store.delete_run(caller.name(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stops a run of yours. One that has ended already stays as it is.
#[utoipa::path(post, path = "/v1/runs/{run}/cancel", tag = "runs", security(("key" = [])),
    params(("run" = String, Path, description = "the run's id")), responses(
    (status = 202, description = "it will end", body = Value),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 404, description = "you have none such", body = ErrorBody)))]
pub(crate) async fn cancel(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    caller.may("run")?;
    let row = state.store.run(caller.name(), &id).await?;
    let row = row.ok_or_else(|| ApiError::unknown("run", &id))?;
    let live = state
        .live
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(live) = live.get(&id).filter(|live| live.tenant == caller.name()) {
        live.cancel.cancel();
    }
    drop(live);
    Ok((StatusCode::ACCEPTED, Json(summary(&row))))
}

/// A file that a run of yours left.
#[utoipa::path(get, path = "/v1/runs/{run}/artifacts/{number}", tag = "runs", security(("key" = [])),
    params(("run" = String, Path, description = "the run's id"),
           ("number" = i64, Path, description = "its place in the outcome's list, from 0")), responses(
    (status = 200, description = "its content", body = Vec<u8>),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 404, description = "you have none such", body = ErrorBody)))]
pub(crate) async fn artifact(
    Extract(state): Extract<State>,
    caller: Caller,
    Path((id, number)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let place = number
        .parse()
        .map_err(|_| ApiError::unknown("artifact", &number))?;
    let row = state.store.artifact(caller.name(), &id, place).await?;
    let row = row.ok_or_else(|| ApiError::unknown("artifact", &number))?;
    let (blobs, name) = (state.blobs.clone(), row.sha256.clone());
    let bytes = tokio::task::spawn_blocking(move || blobs.get(&name)).await;
    let bytes = bytes.map_err(|error| ApiError::fault(error.to_string()))??;
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(&row.media_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    // A guest's file is never a page of ours.
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox; default-src 'none'"),
    );
    let last = row.path.rsplit('/').next().unwrap_or("artifact");
    let plain: String = last
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{plain}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}
