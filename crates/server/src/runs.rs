//! A run from its request to its stored outcome.

use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use casemate_backend::contract::{Cancel, Signal};
use casemate_envd::text::Utf8;
use casemate_model::outcome::Outcome;
use casemate_watch::events_jsonl;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::error::ApiError;
use crate::guard::Caller;
use crate::intake::{Intake, Read};
use crate::state::{Place, State, Turn};
use crate::store::{ArtifactRow, Ended, Intent, RunRow, StoreError, now_ms};
use crate::wire::{self, Places, Ran, outcome as outcome_json};

/// How a stored run stands.
pub(crate) const ACCEPTED: &str = "accepted";
/// Nobody knows how it ended.
pub(crate) const LOST: &str = "lost";
/// Tries to store an outcome while another program holds the database; each waits some seconds for it.
const TRIES: u32 = 6;

/// A run that was accepted: its row is written, and it goes on whoever listens.
pub(crate) struct Accepted {
    pub(crate) id: String,
    pub(crate) cancel: Cancel,
    /// What it tells while it runs; empty for one that nobody listens to.
    pub(crate) told: mpsc::UnboundedReceiver<Value>,
    /// Its end, once that is stored.
    pub(crate) ended: oneshot::Receiver<Result<Finished, ApiError>>,
}

/// A run's end.
pub(crate) struct Finished {
    /// The outcome's JSON, as it is stored.
    pub(crate) json: String,
    /// The same as a value, with the contents of what it left; none where the engine itself failed.
    pub(crate) outcome: Option<Outcome>,
}

/// A client that no longer listens has no use for the rest of its run.
pub(crate) struct CancelOnDrop(pub(crate) Option<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(cancel) = &self.0 {
            cancel.cancel();
        }
    }
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

/// Takes a request in: checks it, finds it a place, writes the intent, starts it behind those that wait.
///
/// # Errors
/// What is wrong with the request; 409 for a key that another request had; 429 and 507.
pub(crate) async fn begin(
    state: &State,
    caller: &Caller,
    headers: &HeaderMap,
    read: Read,
    listened: bool,
) -> Result<Begun, ApiError> {
    caller.may("run")?;
    let idempotency_key = idempotency_key(headers)?;
    let sha = read.sha256.clone();
    if let Some(key) = &idempotency_key
        && let Some(row) = state.store.run_by_key(caller.name(), key).await?
    {
        return same(row, &sha);
    }
    state.quota(caller, 0).await?;
    let intake = read.job(state, caller).await?;
    // What is accepted has a place: it cannot be turned away after that.
    let place = state.place(caller)?;
    state.count_start(caller)?;
    let id = intake.id().to_owned();
    let intent = Intent {
        id: &id,
        tenant: caller.name(),
        who: caller.who(),
        idempotency_key: idempotency_key.as_deref(),
        request_sha256: &sha,
        about: &intake.about,
    };
    let cancel = Cancel::new();
    // Before the intent is written: whoever sees the row sees a run that goes on.
    state.goes_on(&id, caller.name(), &cancel);
    let written = state.store.intend(&intent).await;
    if !matches!(written, Ok(true)) {
        state.has_ended(&id);
    }
    if !written? {
        // Sent twice at the same time: the other one was first.
        let key = idempotency_key.as_deref().unwrap_or_default();
        let row = state.store.run_by_key(caller.name(), key).await?;
        return same(row.ok_or_else(ApiError::stopping)?, &sha);
    }
    Ok(Begun::Now(start(
        state, caller, intake, place, cancel, listened,
    )))
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

fn start(
    state: &State,
    caller: &Caller,
    intake: Intake,
    place: Place,
    cancel: Cancel,
    listened: bool,
) -> Accepted {
    let id = intake.id().to_owned();
    let (tell, told) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel();
    let going = Going {
        state: Arc::clone(state),
        tenant: caller.name().to_owned(),
        id: id.clone(),
        about: intake.about.clone(),
        keep_events: intake.keep_events,
        created_ms: now_ms(),
        cancel: cancel.clone(),
        tell: listened.then_some(tell),
    };
    // Detached: a client that goes away does not take back what was accepted.
    tokio::spawn(async move {
        let result = going.run(intake, place).await;
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
    /// What was asked for, as the row has it.
    about: String,
    keep_events: bool,
    created_ms: i64,
    cancel: Cancel,
    tell: Option<mpsc::UnboundedSender<Value>>,
}

impl Going {
    async fn run(mut self, intake: Intake, place: Place) -> Result<Finished, ApiError> {
        let result = match self.state.turn(place).await {
            Ok(turn) => self.with_turn(intake, turn).await,
            Err(stopping) => Err(stopping),
        };
        if let Err(error) = &result {
            eprintln!("casemate: {} is lost: {}", self.id, error.body("").message);
            // Where this cannot be written either, the next start does it.
            self.state
                .store
                .mark_lost(&self.tenant, &self.id)
                .await
                .ok();
        }
        self.state.has_ended(&self.id);
        result
    }

    async fn with_turn(&mut self, intake: Intake, turn: Turn) -> Result<Finished, ApiError> {
        let (engine, cancel) = (Arc::clone(&self.state.engine), self.cancel.clone());
        let blobs = self.state.blobs.clone();
        let tell = self.tell.take();
        if let Some(tell) = &tell {
            tell.send(json!({"type": "started", "run": self.id})).ok();
        }
        self.state.metrics.running.inc();
        let begun = Instant::now();
        let ran = tokio::task::spawn_blocking(move || {
            let (job, room) = intake.ready(&blobs)?;
            let mut lines = Lines::default();
            let mut hear = |signal: &Signal| {
                if let Some(tell) = &tell
                    && let Some(value) = lines.told(signal)
                {
                    tell.send(value).ok();
                }
            };
            let outcome = engine.run(job, &mut hear, &cancel);
            if let Some(tell) = &tell {
                lines.rest().for_each(|value| drop(tell.send(value)));
            }
            drop((turn, room));
            Ok::<_, ApiError>(outcome)
        })
        .await;
        self.state.metrics.running.dec();
        let outcome = match ran {
            Ok(outcome) => outcome?,
            Err(error) => return self.faulted(&error.to_string()).await,
        };
        let placed = outcome.placement.as_ref();
        let backend = placed.map_or("none", |placement| placement.backend.as_str());
        let status = serde_json::to_value(&outcome.ending).unwrap_or_default();
        let status = status["status"].as_str().unwrap_or("unknown");
        self.state.metrics.ran(backend, status, begun.elapsed());
        self.keep(outcome, status).await
    }

    /// The engine panicked: the run's end is ours to answer for.
    async fn faulted(&self, why: &str) -> Result<Finished, ApiError> {
        let value = json!({
            "schema": wire::SCHEMA,
            "run": self.id,
            "ending": {"status": "faulted", "reason": why, "cause": "Casemate failed", "hint": null},
            "exit_code": 125,
        });
        Ok(Finished {
            json: self.finish("faulted", &value, &[], None).await?,
            outcome: None,
        })
    }

    /// Contents first, then the row that refers to them.
    async fn keep(&self, outcome: Outcome, status: &str) -> Result<Finished, ApiError> {
        let (blobs, id, tenant) = (
            self.state.blobs.clone(),
            self.id.clone(),
            self.tenant.clone(),
        );
        let _until_stored = self.state.contents.read().await;
        let kept = tokio::task::spawn_blocking(move || {
            let (value, rows) = keep(&blobs, &tenant, &id, &outcome)?;
            Ok::<_, ApiError>((value, rows, outcome))
        });
        let kept = kept.await;
        let (value, rows, outcome) = kept.map_err(|error| ApiError::fault(error.to_string()))??;
        let events = self.keep_events.then(|| events_jsonl(&outcome.events));
        Ok(Finished {
            json: self
                .finish(status, &value, &rows, events.as_deref())
                .await?,
            outcome: Some(outcome),
        })
    }

    /// What is known of the run, signed where this server signs.
    fn receipt(&self, outcome: &Value) -> Result<Option<String>, ApiError> {
        let Some(signer) = &self.state.config.signer else {
            return Ok(None);
        };
        let about = serde_json::from_str(&self.about).map_err(ApiError::fault)?;
        let ran = Ran {
            about: &about,
            created_ms: self.created_ms,
            ended_ms: now_ms(),
        };
        let receipt = wire::receipt(ran, outcome).to_string();
        Ok(Some(signer.sign(wire::RECEIPT_TYPE, receipt.as_bytes())))
    }

    async fn finish(
        &self,
        status: &str,
        outcome: &Value,
        artifacts: &[ArtifactRow],
        events: Option<&str>,
    ) -> Result<String, ApiError> {
        let brief = brief(outcome).to_string();
        let receipt = self.receipt(outcome)?;
        let outcome = outcome.to_string();
        let ended = Ended {
            id: &self.id,
            tenant: &self.tenant,
            status,
            outcome: &outcome,
            brief: &brief,
            receipt: receipt.as_deref(),
            events,
            artifacts,
        };
        let mut tries = 0;
        let bytes = loop {
            tries += 1;
            match self.state.store.finish(&ended).await {
                Err(StoreError::Busy(_)) if tries < TRIES => {}
                done => break done?,
            }
        };
        self.state.keeps(&self.tenant, bytes);
        Ok(outcome)
    }
}

/// Stores what a run left, and says the outcome with references to it.
fn keep(
    blobs: &crate::blobs::Blobs,
    tenant: &str,
    id: &str,
    outcome: &Outcome,
) -> Result<(Value, Vec<ArtifactRow>), ApiError> {
    let mut rows = Vec::with_capacity(outcome.artifacts.len());
    let mut places: Vec<Option<std::path::PathBuf>> = Vec::with_capacity(outcome.artifacts.len());
    for (number, artifact) in outcome.artifacts.iter().enumerate() {
        rows.push(ArtifactRow {
            path: artifact.path.clone(),
            media_type: media_type(&artifact.path).to_owned(),
            sha256: blobs.put(tenant, &artifact.bytes)?,
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

/// An outcome as a list shows it.
fn brief(outcome: &Value) -> Value {
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    json!({
        "status": outcome["ending"]["status"],
        "exit_code": outcome["exit_code"],
        "backend": outcome["placement"]["backend"],
        "alerts": count(&outcome["alerts"]),
        "denials": count(&outcome["summary"]["denials"]),
    })
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

/// A run's signals as lines of a stream.
#[derive(Default)]
struct Lines {
    stdout: Utf8,
    stderr: Utf8,
}

impl Lines {
    fn told(&mut self, signal: &Signal) -> Option<Value> {
        match signal {
            Signal::Stdout(bytes) => written("stdout", &self.stdout.push(bytes)),
            Signal::Stderr(bytes) => written("stderr", &self.stderr.push(bytes)),
            Signal::Displayed(result) => Some(json!({"type": "result", "result": result})),
            Signal::Error(error) => Some(json!({"type": "error", "error": error})),
            Signal::Event(event) => Some(json!({"type": "event", "event": event})),
        }
    }

    /// Characters that the program began and never ended.
    fn rest(&mut self) -> impl Iterator<Item = Value> {
        let stdout = written("stdout", &self.stdout.finish());
        let stderr = written("stderr", &self.stderr.finish());
        stdout.into_iter().chain(stderr)
    }
}

/// Nothing where a piece is but the beginning of a character.
fn written(stream: &str, text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| json!({"type": stream, "text": text}))
}
