//! Runs: one call in, the outcome out; or told as it goes; or asked for later.

use std::io::{self, Read as _};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::page::Page;
use crate::body::Taken;
use crate::error::{ApiError, ErrorBody};
use crate::guard::Caller;
use crate::hearing::Hearing;
use crate::intake::{Read, RunRequest};
use crate::runs::{ACCEPTED, Accepted, Begun, CancelOnDrop, LOST, begin};
use crate::state::State;
use crate::store::{Entry, RunRow};
use crate::wire::{self, Ran};

/// What is read of a file at once.
const PIECE: usize = 64 << 10;

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
    (status = 408, description = "the body did not arrive in time", body = ErrorBody),
    (status = 413, description = "too large", body = ErrorBody),
    (status = 429, description = "too many at once", body = ErrorBody),
    (status = 503, description = "the server goes down, or its database is busy", body = ErrorBody),
    (status = 507, description = "no room", body = ErrorBody)))]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    caller: Caller,
    headers: HeaderMap,
    taken: Taken,
) -> Result<Response, ApiError> {
    let read = Read::of(taken).await?;
    let hearing = Hearing::of(&headers);
    let listened = hearing.is_stream();
    match begin(&state, &caller, &headers, read, listened).await? {
        Begun::Before(row) => before(&state, &caller, row, hearing).await,
        Begun::Now(run) => {
            let keyed = headers.contains_key("idempotency-key");
            now(run, hearing, keyed).await
        }
    }
}

async fn now(run: Accepted, hearing: Hearing, keyed: bool) -> Result<Response, ApiError> {
    match hearing {
        Hearing::Later => Ok(accepted(&run.id)),
        Hearing::Lines | Hearing::Events => Ok(stream(run, keyed, hearing)),
        Hearing::Waits => {
            let mut leaving = CancelOnDrop((!keyed).then_some(run.cancel));
            let ended = run.ended.await;
            leaving.0 = None;
            let ended = ended.map_err(|_| ApiError::fault("the run's end was lost"))??;
            Ok(json_text(ended.json))
        }
    }
}

/// An answer that is JSON already.
pub(super) fn json_text(text: String) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
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

/// The last line of a stream.
fn last(hearing: Hearing, ended: Result<String, ApiError>) -> String {
    match ended {
        Ok(outcome) => hearing.line(
            "outcome",
            &format!("{{\"type\":\"outcome\",\"outcome\":{outcome}}}"),
        ),
        Err(error) => hearing.failed(&error),
    }
}

/// Lines until the outcome's. What is queued for a slow client is bounded by the run's own limits.
fn stream(mut run: Accepted, keyed: bool, hearing: Hearing) -> Response {
    let (send, receive) = mpsc::channel::<String>(64);
    tokio::spawn(async move {
        let mut leaving = CancelOnDrop((!keyed).then(|| run.cancel.clone()));
        let lines = async {
            while let Some(value) = run.told.recv().await {
                let kind = value["type"].as_str().unwrap_or("message");
                // Nobody listens any more: the other arm sees it too.
                send.send(hearing.line(kind, &value.to_string())).await.ok();
            }
            let lost = |_| Err(ApiError::fault("the run's end was lost"));
            let ended = run.ended.await.unwrap_or_else(lost);
            last(hearing, ended.map(|ended| ended.json))
        };
        let last = tokio::select! {
            last = lines => last,
            // A program that says nothing is stopped too when its listener goes.
            () = send.closed() => return,
        };
        leaving.0 = None;
        send.send(last).await.ok();
    });
    hearing.stream(ReceiverStream::new(receive))
}

/// The run of an earlier request: its outcome, once it is there.
async fn before(
    state: &State,
    caller: &Caller,
    row: RunRow,
    hearing: Hearing,
) -> Result<Response, ApiError> {
    if hearing == Hearing::Later {
        return Ok(accepted(&row.id));
    }
    let row = end_of(state, caller, row).await?;
    let text = shown(&row);
    Ok(match hearing {
        Hearing::Lines | Hearing::Events => {
            let last = last(hearing, Ok(text));
            hearing.stream(futures_util::stream::once(async { last }))
        }
        Hearing::Waits | Hearing::Later => json_text(text),
    })
}

/// A run's row when it has ended.
async fn end_of(state: &State, caller: &Caller, mut row: RunRow) -> Result<RunRow, ApiError> {
    while row.state == ACCEPTED && state.is_live(&row.id) {
        let ended = state.ended.notified();
        // Told at each end of a run; and looked at again for one that ended in between.
        let moment = std::time::Duration::from_millis(200);
        tokio::time::timeout(moment, ended).await.ok();
        row = found(state, caller, &row.id).await?;
    }
    found(state, caller, &row.id).await
}

/// A run of the caller's. One that goes on nowhere, and whose end is not stored, is lost.
async fn found(state: &State, caller: &Caller, id: &str) -> Result<RunRow, ApiError> {
    // First whether it goes on: its end is stored before it no longer does.
    let live = state.is_live(id);
    let row = state.store.run(caller.name(), id).await?;
    let mut row = row.ok_or_else(|| ApiError::unknown("run", id))?;
    if row.state == ACCEPTED && !live {
        LOST.clone_into(&mut row.state);
    }
    Ok(row)
}

/// A stored run: its outcome, or how it stands.
fn shown(row: &RunRow) -> String {
    let outcome = row.outcome.clone();
    outcome.unwrap_or_else(|| summary(row).to_string())
}

fn summary(row: &RunRow) -> Value {
    json!({
        "run": row.id,
        "state": row.state,
        "created_ms": row.created_ms,
        "ended_ms": row.ended_ms,
        "href": format!("/v1/runs/{}", row.id),
        "about": parsed(Some(&row.about)),
        "brief": parsed(row.brief.as_deref()),
    })
}

/// What was asked for and how it ended, in a few words; null for a run that has none yet.
fn parsed(text: Option<&str>) -> Value {
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Your runs, the latest first.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", security(("key" = [])), params(Page), responses(
    (status = 200, description = "the runs; `next` asks for the next page", body = Value),
    (status = 400, description = "not understood", body = ErrorBody),
    (status = 401, description = "no key", body = ErrorBody)))]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<Value>, ApiError> {
    let rows = state
        .store
        .runs(caller.name(), &page.after()?, page.limit())
        .await?;
    let next = page.next(&rows, |row| (row.created_ms, &row.id));
    let runs: Vec<Value> = rows.iter().map(summary).collect();
    Ok(Json(json!({"runs": runs, "next": next})))
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
) -> Result<Response, ApiError> {
    let row = found(&state, &caller, &id).await?;
    Ok(json_text(shown(&row)))
}

/// What is known of a run of yours, in short: what was run on what, under which policy, which walls were asked
/// for and which stood, what was used, how it ended and what it left, by hashes.
#[utoipa::path(get, path = "/v1/runs/{run}/receipt", tag = "runs", security(("key" = [])),
    params(("run" = String, Path, description = "the run's id")), responses(
    (status = 200, description = "`casemate.receipt/1`", body = Value),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 404, description = "you have none such", body = ErrorBody),
    (status = 409, description = "it has not ended, or nobody knows how", body = ErrorBody)))]
pub(crate) async fn receipt(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let row = found(&state, &caller, &id).await?;
    let Some(outcome) = row.outcome.as_deref() else {
        return Err(ApiError::conflict(
            format!("the run is {}: there is no receipt", row.state),
            "ask again when it has ended",
        ));
    };
    let parsed = |text| serde_json::from_str(text).map_err(ApiError::fault);
    let (about, outcome): (Value, Value) = (parsed(&row.about)?, parsed(outcome)?);
    let ran = Ran {
        about: &about,
        created_ms: row.created_ms,
        ended_ms: row.ended_ms.unwrap_or_default(),
    };
    Ok(Json(wire::receipt(ran, &outcome)))
}

/// The same as it was signed when the run had ended: an envelope (DSSE) around `casemate.receipt/1`, which
/// `casemate verify` checks without this server.
#[utoipa::path(get, path = "/v1/runs/{run}/receipt/signed", tag = "runs", security(("key" = [])),
    params(("run" = String, Path, description = "the run's id")), responses(
    (status = 200, description = "the envelope", body = Value),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 404, description = "you have none such", body = ErrorBody),
    (status = 409, description = "it has not ended, or was not signed", body = ErrorBody)))]
pub(crate) async fn signed_receipt(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let row = found(&state, &caller, &id).await?;
    let receipt = state.store.receipt(caller.name(), &id).await?;
    receipt.map(json_text).ok_or_else(|| {
        ApiError::conflict(
            format!("the run is {}: there is no signed receipt", row.state),
            "ask again when it has ended; runs of servers without a key have none",
        )
    })
}

/// What happened in a run of yours that was sent with `keep_events`, a line of JSON each, in the order of time. What it
/// used is among them as events `usage`.
#[utoipa::path(get, path = "/v1/runs/{run}/events", tag = "runs", security(("key" = [])),
    params(("run" = String, Path, description = "the run's id")), responses(
    (status = 200, description = "the events", body = String, content_type = "application/x-ndjson"),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 404, description = "you have none such", body = ErrorBody),
    (status = 409, description = "it has not ended, or its events were not kept", body = ErrorBody)))]
pub(crate) async fn events(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let row = found(&state, &caller, &id).await?;
    let events = state.store.events(caller.name(), &id).await?;
    let events = events.ok_or_else(|| {
        ApiError::conflict(
            format!("the run is {}: there are no events of it", row.state),
            "send a program with \"keep_events\": true, and ask when it has ended",
        )
    })?;
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, kind)], events).into_response())
}

/// The public half of the key that signs receipts here.
#[utoipa::path(get, path = "/v1/receipts/key", tag = "runs", security(("key" = [])), responses(
    (status = 200, description = "`algorithm`, and `public_key` as 64 hexadecimal digits; null where nothing is signed", body = Value),
    (status = 401, description = "no key", body = ErrorBody)))]
pub(crate) async fn receipt_key(Extract(state): Extract<State>, _caller: Caller) -> Json<Value> {
    let key = state
        .config
        .signer
        .as_deref()
        .map(|signer| signer.public_key());
    Json(json!({"algorithm": "ed25519", "public_key": key}))
}

/// Forgets an ended run of yours and what it left.
#[utoipa::path(delete, path = "/v1/runs/{run}", tag = "runs", security(("key" = [])),
    params(("run" = String, Path, description = "the run's id")), responses(
    (status = 204, description = "forgotten"),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 403, description = "not with this key", body = ErrorBody),
    (status = 404, description = "you have none such", body = ErrorBody),
    (status = 409, description = "it has not ended", body = ErrorBody)))]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.may("run")?;
    let row = found(&state, &caller, &id).await?;
    if row.state == ACCEPTED {
        return Err(ApiError::conflict(
            "the run has not ended",
            "POST to its /cancel first",
        ));
    }
    state.store.mark_lost(caller.name(), &id).await?;
    let who = caller.who();
    let contents = state.store.delete_run(caller.name(), who, &id).await?;
    state.deleted(caller.name(), contents).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stops a run of yours. One that has ended already stays as it is.
#[utoipa::path(post, path = "/v1/runs/{run}/cancel", tag = "runs", security(("key" = [])),
    params(("run" = String, Path, description = "the run's id")), responses(
    (status = 202, description = "it will end", body = Value),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 403, description = "not with this key", body = ErrorBody),
    (status = 404, description = "you have none such", body = ErrorBody)))]
pub(crate) async fn cancel(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    caller.may("run")?;
    let row = found(&state, &caller, &id).await?;
    state.cancel(&id, caller.name());
    state
        .store
        .note(&Entry {
            tenant: caller.name(),
            who: caller.who(),
            action: "run.cancelled",
            subject: &id,
            detail: "",
        })
        .await?;
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
    let (blobs, tenant) = (state.blobs.clone(), caller.name().to_owned());
    let sha256 = row.sha256.clone();
    let file = tokio::task::spawn_blocking(move || blobs.open_one(&tenant, &sha256)).await;
    let file = file.map_err(|error| ApiError::fault(error.to_string()))??;
    let mut response = Response::new(Body::from_stream(pieces(file)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(row.bytes));
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

/// A file piece by piece, so that nobody's slow download holds it in memory.
fn pieces(file: std::fs::File) -> impl Stream<Item = io::Result<Bytes>> {
    futures_util::stream::try_unfold(file, |mut file| async {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE];
            let length = file.read(&mut piece)?;
            piece.truncate(length);
            Ok::<_, io::Error>((Bytes::from(piece), file))
        });
        let (piece, file) = read.await.map_err(io::Error::other)??;
        Ok((!piece.is_empty()).then_some((piece, file)))
    })
}
