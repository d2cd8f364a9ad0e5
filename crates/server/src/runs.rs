//! A run from its request to its stored outcome.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use axum::http::HeaderMap;
use casemate_backend::contract::{Cancel, Signal};
use casemate_model::job::Job;
use casemate_model::outcome::Outcome;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::error::ApiError;
use crate::guard::Caller;
use crate::intake::{self, RunRequest};
use crate::state::{Live, State, Turn};
use crate::store::{ArtifactRow, Intent, RunRow};
use crate::wire::{Places, outcome as outcome_json};

/// How a stored run stands.
pub(crate) const ACCEPTED: &str = "accepted";
/// It ended, however.
pub(crate) const ENDED: &str = "ended";

/// A run that was accepted: its row is written, and it goes on whoever listens.
pub(crate) struct Accepted {
    pub(crate) id: String,
    pub(crate) cancel: Cancel,
    /// What it tells while it runs; empty for one that nobody listens to.
    pub(crate) told: mpsc::UnboundedReceiver<Value>,
    /// The outcome's JSON, once it is stored.
    pub(crate) ended: oneshot::Receiver<Result<Value, ApiError>>,
}

/// What became of a request to run.
pub(crate) enum Begun {
    /// It runs.
    Now(Accepted),
    /// The same request was sent before, with the same key: this is that run.
    Before(RunRow),
}

/// The client's word for one request, however often it is sent: 1 to 255 printable characters.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = value.to_str().ok().filter(|text| {
        (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    let text = text.ok_or_else(|| {
        ApiError::bad(
            "the Idempotency-Key is none",
            "send 1 to 255 visible ASCII characters",
        )
    })?;
    Ok(Some(text.to_owned()))
}

/// Takes a request in: checks it, writes the intent, starts it behind those that wait.
///
/// # Errors
/// What is wrong with the request; 409 for a key that another request had; 429 and 507.
pub(crate) async fn begin(
    state: &State,
    caller: &Caller,
    headers: &HeaderMap,
    request: &RunRequest,
    listened: bool,
) -> Result<Begun, ApiError> {
    caller.may("run")?;
    let idempotency_key = idempotency_key(headers)?;
    let text = serde_json::to_vec(request).map_err(|error| ApiError::fault(error.to_string()))?;
    let sha = casemate_engine::sha256_hex(&text);
    if let Some(key) = &idempotency_key
        && let Some(row) = state.store.run_by_key(caller.name(), key).await?
    {
        return same(row, &sha);
    }
    quota(state, caller).await?;
    let job = intake::job(state, caller, request).await?;
    let running = running(state, caller);
    let per_minute = caller.key.as_deref().and_then(|key| key.per_minute);
    let per_minute = per_minute.map(|rate| usize::try_from(rate).unwrap_or(0));
    state.count_start(caller.name(), running, per_minute)?;
    let id = job.id.as_str().to_owned();
    let intent = Intent {
        id: &id,
        tenant: caller.name(),
        idempotency_key: idempotency_key.as_deref(),
        request_sha256: &sha,
    };
    if !state.store.intend(&intent).await? {
        // Sent twice at the same time: the other one was first.
        let key = idempotency_key.as_deref().unwrap_or_default();
        let row = state.store.run_by_key(caller.name(), key).await?;
        return same(row.ok_or_else(ApiError::stopping)?, &sha);
    }
    Ok(Begun::Now(start(state, caller, job, running, listened)))
}

fn same(row: RunRow, sha: &str) -> Result<Begun, ApiError> {
    if row.request_sha256 == sha {
        return Ok(Begun::Before(row));
    }
    Err(ApiError::conflict(
        format!(
            "this Idempotency-Key belongs to another request, {}",
            row.id
        ),
        "use a new key for a new request",
    ))
}

/// How many programs of a caller run at once.
fn running(state: &State, caller: &Caller) -> usize {
    let own = caller.key.as_deref().and_then(|key| key.running);
    own.and_then(|count| usize::try_from(count).ok())
        .unwrap_or(state.config.rules.running)
}

/// Refuses more to a tenant that already keeps what it may.
pub(crate) async fn quota(state: &State, caller: &Caller) -> Result<(), ApiError> {
    let allowed = state.config.rules.stored_bytes;
    let stored = state.store.stored_bytes(caller.name()).await?;
    if stored < allowed {
        return Ok(());
    }
    Err(ApiError::full(format!(
        "this tenant keeps {stored} bytes of {allowed} allowed"
    )))
}

fn start(state: &State, caller: &Caller, job: Job, running: usize, listened: bool) -> Accepted {
    let id = job.id.as_str().to_owned();
    let cancel = Cancel::new();
    let live = Live {
        tenant: caller.name().to_owned(),
        cancel: cancel.clone(),
    };
    let mut all = state.live.lock().unwrap_or_else(PoisonError::into_inner);
    all.insert(id.clone(), live);
    drop(all);
    let (tell, told) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel();
    let going = Going {
        state: Arc::clone(state),
        tenant: caller.name().to_owned(),
        id: id.clone(),
        cancel: cancel.clone(),
        tell: listened.then_some(tell),
    };
    // Detached: a client that goes away does not take back what was accepted.
    tokio::spawn(async move {
        let result = going.run(job, running).await;
        // Nobody may be waiting any more; the outcome is stored.
        end.send(result).ok();
    });
    Accepted {
        id,
        cancel,
        told,
        ended,
    }
}

/// A run on its way.
struct Going {
    state: State,
    tenant: String,
    id: String,
    cancel: Cancel,
    tell: Option<mpsc::UnboundedSender<Value>>,
}

impl Going {
    async fn run(mut self, job: Job, running: usize) -> Result<Value, ApiError> {
        let turn = self.state.turn(&self.tenant, running).await;
        let result = match turn {
            Ok(turn) => self.with_turn(job, turn).await,
            Err(busy) => {
                // It never began, and the client is told so: there is nothing to remember.
                self.state.store.forget_intent(&self.id).await?;
                Err(busy)
            }
        };
        let mut live = self
            .state
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        live.remove(&self.id);
        drop(live);
        self.state.ended.notify_waiters();
        result
    }

    async fn with_turn(&mut self, job: Job, turn: Turn) -> Result<Value, ApiError> {
        let (engine, cancel) = (Arc::clone(&self.state.engine), self.cancel.clone());
        let tell = self.tell.take();
        if let Some(tell) = &tell {
            tell.send(json!({"type": "started", "run": self.id})).ok();
        }
        self.state.metrics.running.inc();
        let begun = Instant::now();
        let ran = tokio::task::spawn_blocking(move || {
            let mut hear = |signal: &Signal| {
                if let (Some(tell), Some(value)) = (&tell, told(signal)) {
                    tell.send(value).ok();
                }
            };
            let outcome = engine.run(job, &mut hear, &cancel);
            drop(turn);
            outcome
        })
        .await;
        self.state.metrics.running.dec();
        let outcome = match ran {
            Ok(outcome) => outcome,
            Err(error) => return self.faulted(&error.to_string()).await,
        };
        let placed = outcome.placement.as_ref();
        let backend = placed.map_or("none", |placement| placement.backend.as_str());
        let status = serde_json::to_value(&outcome.ending).unwrap_or_default();
        let status = status["status"].as_str().unwrap_or("unknown");
        self.state.metrics.ran(backend, status, begun.elapsed());
        self.store(outcome).await
    }

    /// The engine panicked: the run's end is ours to answer for.
    async fn faulted(&self, why: &str) -> Result<Value, ApiError> {
        let value = json!({
            "schema": crate::wire::SCHEMA,
            "run": self.id,
            "ending": {"status": "faulted", "reason": why, "cause": "Casemate failed", "hint": null},
            "exit_code": 125,
        });
        let text = value.to_string();
        self.state.store.finish(&self.id, ENDED, &text, &[]).await?;
        Ok(value)
    }

    /// Contents first, then the row that refers to them.
    async fn store(&self, outcome: Outcome) -> Result<Value, ApiError> {
        let (blobs, id) = (self.state.blobs.clone(), self.id.clone());
        let kept = tokio::task::spawn_blocking(move || keep(&blobs, &id, &outcome)).await;
        let (value, rows) = kept.map_err(|error| ApiError::fault(error.to_string()))??;
        let text = value.to_string();
        self.state
            .store
            .finish(&self.id, ENDED, &text, &rows)
            .await?;
        Ok(value)
    }
}

/// Stores what a run left, and says the outcome with references to it.
fn keep(
    blobs: &crate::blobs::Blobs,
    id: &str,
    outcome: &Outcome,
) -> Result<(Value, Vec<ArtifactRow>), ApiError> {
    let mut rows = Vec::with_capacity(outcome.artifacts.len());
    let mut places: Vec<Option<std::path::PathBuf>> = Vec::with_capacity(outcome.artifacts.len());
    for (number, artifact) in outcome.artifacts.iter().enumerate() {
        rows.push(ArtifactRow {
            path: artifact.path.clone(),
            media_type: media_type(&artifact.path).to_owned(),
            sha256: blobs.put(&artifact.bytes)?,
            bytes: i64::try_from(artifact.bytes.len()).unwrap_or(i64::MAX),
        });
        places.push(Some(format!("/v1/runs/{id}/artifacts/{number}").into()));
    }
    let places = Places {
        field: "href",
        pictures: &[],
        artifacts: &places,
    };
    Ok((outcome_json(outcome, places), rows))
}

/// A few kinds that a browser can show without running anything; all else is bytes.
fn media_type(path: &str) -> &'static str {
    let extension = path
        .rsplit_once('.')
        .map(|(_, end)| end.to_ascii_lowercase());
    match extension.as_deref() {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("webp") => "image/webp",
        Some("csv") => "text/csv; charset=utf-8",
        Some("txt" | "log" | "md") => "text/plain; charset=utf-8",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

/// A signal as one line of a stream.
fn told(signal: &Signal) -> Option<Value> {
    Some(match signal {
        Signal::Stdout(bytes) => json!({"type": "stdout", "text": String::from_utf8_lossy(bytes)}),
        Signal::Stderr(bytes) => json!({"type": "stderr", "text": String::from_utf8_lossy(bytes)}),
        Signal::Displayed(result) => json!({"type": "result", "result": result}),
        Signal::Error(error) => json!({"type": "error", "error": error}),
        Signal::Event(event) => json!({"type": "event", "event": event}),
    })
}
