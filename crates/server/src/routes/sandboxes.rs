//! Sandboxes that live on: their life. What is done in one is below.

pub(super) mod cells;
pub(super) mod commands;
pub(super) mod files;
mod inside;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use casemate_model::limit::Limit;
use casemate_model::unit::ByteSize;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::page::Page;
use super::runs::json_text;
use crate::body::Taken;
use crate::e2b::model::{Lifecycle, OnTimeout, PauseMode, Sample};
use crate::e2b::sandboxes::Sandbox;
use crate::error::ApiError;
use crate::guard::Caller;
use crate::intake::{few, named};
use crate::making::{LONGEST_S, New, end, forks, found, make, seconds, source};
use crate::sleep::{pause as pause_as, waken};
use crate::state::State;
use crate::store::now_ms;
use crate::wire;

/// How long a sandbox lives where nothing is said.
const LIFE_S: i64 = 300;

/// What any of these paths may answer instead, as the description says it.
pub(super) struct Errors;

impl IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let all = [
            ("400", "not understood"),
            ("401", "no key"),
            ("403", "not with this key, or not in this sandbox"),
            ("404", "you have none such, or it is not in the sandbox"),
            ("408", "the body did not arrive in time"),
            ("409", "not as the sandbox is now"),
            ("413", "too large"),
            ("422", "the sandbox's agent could not do it, and says why"),
            ("429", "too many at once"),
            ("500", "we failed"),
            ("502", "the sandbox's agent did not answer as it should"),
            ("503", "the sandbox cannot be had, or the server goes down"),
            ("504", "the sandbox's agent did not answer in time"),
            ("507", "no room"),
        ];
        let body = || {
            let schema = Ref::from_schema_name("ErrorBody");
            ContentBuilder::new().schema(Some(schema)).build()
        };
        let one = |why: &str| {
            ResponseBuilder::new()
                .description(why)
                .content("application/json", body())
                .build()
        };
        all.into_iter()
            .map(|(status, why)| (status.to_owned(), one(why).into()))
            .collect()
    }
}

/// A sandbox to be.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SandboxRequest {
    /// What it is made of: a template, or a snapshot of yours. The first with an interpreter where nothing is said.
    template: Option<String>,
    /// Seconds until its end, 300 where nothing is said.
    #[schema(minimum = 1, maximum = 86400)]
    timeout_s: Option<i64>,
    /// Seconds that it may be left alone before its end comes. A request to it that goes on is company; a program in
    /// it that nobody listens to is not.
    #[schema(minimum = 1, maximum = 86400)]
    idle_s: Option<i64>,
    /// What its end is: gone, or frozen until it is resumed. Gone where nothing is said.
    on_timeout: Option<OnTimeout>,
    /// Environment variables of everything in it.
    env: BTreeMap<String, String>,
    /// What you want to find it by.
    metadata: BTreeMap<String, String>,
}

/// A pause.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PauseRequest {
    /// Whether what runs and what is in memory is kept, frozen. With `false` the files alone are: all else ends, and its
    /// memory is given back. True where nothing is said.
    memory: Option<bool>,
}

/// A time.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TimeRequest {
    /// Seconds from now until its end, 300 where nothing is said.
    #[schema(minimum = 1, maximum = 86400)]
    timeout_s: Option<i64>,
}

/// Copies to be.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ForkRequest {
    /// How many, 1 where nothing is said.
    #[schema(minimum = 1, maximum = 20)]
    count: Option<u32>,
    /// Seconds until their end, 300 where nothing is said.
    #[schema(minimum = 1, maximum = 86400)]
    timeout_s: Option<i64>,
}

/// A sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SandboxBody {
    /// Its id.
    sandbox: String,
    /// What it was asked for by.
    template: String,
    /// Who makes its walls.
    backend: String,
    /// `running` or `paused`.
    state: &'static str,
    /// What is kept of it while it is paused: all of it, frozen, or its files.
    pause_mode: Option<PauseMode>,
    /// When it began, in milliseconds since 1970.
    started_ms: i64,
    /// When its walls were built, which its receipt tells of: before it was yours, where it waited for you.
    made_ms: i64,
    /// When its time is over.
    ends_ms: i64,
    /// Seconds that it may be left alone.
    idle_s: Option<i64>,
    /// What its end is.
    on_timeout: OnTimeout,
    /// What it can be found by.
    metadata: BTreeMap<String, String>,
    /// Thousandths of a processor.
    cpu_millis: u32,
    /// Bytes of memory; none where there is no such limit.
    memory_bytes: Option<u64>,
    /// Bytes of files.
    disk_bytes: Option<u64>,
    /// Where it is found.
    href: String,
}

impl SandboxBody {
    fn of(sandbox: &Sandbox) -> Self {
        let life = *sandbox.life();
        let bytes = |limit: Limit<ByteSize>| match limit {
            Limit::At(size) => Some(size.0),
            Limit::Unlimited => None,
        };
        Self {
            sandbox: sandbox.id.clone(),
            template: sandbox.template.clone(),
            backend: sandbox.receipt.backend.clone(),
            state: if life.paused { "paused" } else { "running" },
            pause_mode: sandbox.pause_mode(),
            started_ms: sandbox.started_ms,
            made_ms: sandbox.made_ms,
            ends_ms: life.end_ms,
            idle_s: sandbox.idle_ms.map(|ms| ms / 1000),
            on_timeout: sandbox.lifecycle.on_timeout,
            metadata: sandbox.metadata.clone(),
            cpu_millis: sandbox.limits.cpu_millis,
            memory_bytes: bytes(sandbox.limits.memory),
            disk_bytes: bytes(sandbox.limits.disk),
            href: format!("/v1/sandboxes/{}", sandbox.id),
        }
    }
}

/// A page of a list of sandboxes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SandboxPage {
    /// The sandboxes, the latest first.
    sandboxes: Vec<SandboxBody>,
    /// The `after` of the next page.
    next: Option<String>,
}

/// A copy, or why there is none.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ForkBody {
    /// The copy.
    sandbox: Option<SandboxBody>,
    /// Why there is none.
    error: Option<crate::error::ErrorBody>,
}

/// A body that is an object; an empty one is the default.
fn object_or_none<T>(taken: &Taken) -> Result<T, ApiError>
where
    T: Default + for<'de> Deserialize<'de>,
{
    if taken.bytes.is_empty() {
        return Ok(T::default());
    }
    object(taken)
}

/// A body that is an object.
fn object<T: for<'de> Deserialize<'de>>(taken: &Taken) -> Result<T, ApiError> {
    let read = serde_json::from_slice(&taken.bytes).and_then(named);
    read.map_err(|error| {
        ApiError::bad(
            format!("the body is not what this path takes: {error}"),
            "GET /openapi.json has every field",
        )
    })
}

/// Makes a sandbox that lives on, with its agent ready.
#[utoipa::path(post, path = "/v1/sandboxes", tag = "sandboxes", security(("key" = [])),
    request_body = Option<SandboxRequest>,
    responses((status = 201, description = "the sandbox", body = SandboxBody), Errors))]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    caller: Caller,
    taken: Taken,
) -> Result<Response, ApiError> {
    caller.may("run")?;
    let asked: SandboxRequest = object_or_none(&taken)?;
    few(asked.env.len().max(asked.metadata.len()), "env or metadata")?;
    let name = match asked.template {
        Some(name) => name,
        None => default_template(&state)?,
    };
    let (template, files) = source(&state, &caller, &name)?;
    let new = New {
        template,
        named: name,
        files,
        env: asked.env,
        metadata: asked.metadata,
        // Servers in it are reached with its token alone: whoever asks here was told of no other way.
        has_traffic_token: true,
        masked_host: None,
        lifecycle: Lifecycle {
            auto_resume: false,
            on_timeout: asked.on_timeout.unwrap_or(OnTimeout::Kill),
            keeps_memory: true,
        },
        timeout_ms: seconds(asked.timeout_s, LIFE_S)?,
        idle_ms: asked
            .idle_s
            .map(|idle| seconds(Some(idle), LIFE_S))
            .transpose()?,
    };
    let body = SandboxBody::of(&*make(&state, &caller, new).await?);
    let place = HeaderValue::from_str(&body.href).map_err(ApiError::fault)?;
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json(body)).into_response())
}

fn default_template(state: &State) -> Result<String, ApiError> {
    let mut all = state.templates.iter();
    let warm = all.find(|template| template.warm);
    warm.map(|template| template.name.clone()).ok_or_else(|| {
        ApiError::missing(
            "unknown_template",
            "this server has no sandboxes that live on, and says why where it was started",
            "use POST /v1/runs, or start the server with --sessions",
        )
    })
}

/// Your sandboxes, the latest first.
#[utoipa::path(get, path = "/v1/sandboxes", tag = "sandboxes", security(("key" = [])), params(Page),
    responses((status = 200, description = "the sandboxes", body = SandboxPage), Errors))]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<SandboxPage>, ApiError> {
    let after = page.after()?;
    let mut own = state.sandboxes.list();
    own.retain(|sandbox| sandbox.tenant == caller.name());
    let place = |sandbox: &Sandbox| (sandbox.started_ms, sandbox.id.clone());
    own.sort_by_key(|sandbox| std::cmp::Reverse(place(sandbox)));
    let from = (after.at_ms, after.id);
    own.retain(|sandbox| after.at_ms == i64::MAX || place(sandbox) < from);
    own.truncate(usize::try_from(page.limit()).unwrap_or_default());
    let next = page.next(&own, |sandbox| (sandbox.started_ms, &sandbox.id));
    let sandboxes = own.iter().map(|sandbox| SandboxBody::of(sandbox)).collect();
    Ok(Json(SandboxPage { sandboxes, next }))
}

/// A sandbox of yours.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}", tag = "sandboxes", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")),
    responses((status = 200, description = "the sandbox", body = SandboxBody), Errors))]
pub(crate) async fn get(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<SandboxBody>, ApiError> {
    Ok(Json(SandboxBody::of(&*found(&state, &caller, &id)?)))
}

/// Ends a sandbox of yours, and everything in it.
#[utoipa::path(delete, path = "/v1/sandboxes/{sandbox}", tag = "sandboxes", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")),
    responses((status = 204, description = "gone"), Errors))]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    end(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets when a sandbox of yours ends: sooner or later than it would have.
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/timeout", tag = "sandboxes", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")), request_body = Option<TimeRequest>,
    responses((status = 200, description = "the sandbox", body = SandboxBody), Errors))]
pub(crate) async fn timeout(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Result<Json<SandboxBody>, ApiError> {
    caller.may("run")?;
    let asked: TimeRequest = object_or_none(&taken)?;
    let ms = seconds(asked.timeout_s, LIFE_S)?;
    let sandbox = found(&state, &caller, &id)?;
    sandbox.life().end_ms = now_ms().saturating_add(ms);
    Ok(Json(SandboxBody::of(&sandbox)))
}

/// Freezes a sandbox of yours with everything in it, or keeps its files alone, until it is resumed.
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/pause", tag = "sandboxes", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")), request_body = Option<PauseRequest>,
    responses((status = 200, description = "the sandbox", body = SandboxBody), Errors))]
pub(crate) async fn pause(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Result<Json<SandboxBody>, ApiError> {
    caller.may("run")?;
    let asked: PauseRequest = object_or_none(&taken)?;
    let sandbox = found(&state, &caller, &id)?;
    if pause_as(&state, &sandbox, asked.memory.unwrap_or(true)).await? {
        return Ok(Json(SandboxBody::of(&*found(&state, &caller, &id)?)));
    }
    Err(ApiError::conflict(
        format!("sandbox {} is paused already", sandbox.id),
        "resume it, or leave it as it is",
    ))
}

/// Lets a paused sandbox of yours go on: where it was, or from its files alone.
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/resume", tag = "sandboxes", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")), request_body = Option<TimeRequest>,
    responses((status = 200, description = "the sandbox", body = SandboxBody), Errors))]
pub(crate) async fn resume(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Result<Json<SandboxBody>, ApiError> {
    caller.may("run")?;
    let asked: TimeRequest = object_or_none(&taken)?;
    let ms = seconds(asked.timeout_s, LIFE_S)?;
    let sandbox = found(&state, &caller, &id)?;
    let (sandbox, resumed) = waken(&state, &sandbox, ms).await?;
    if resumed {
        return Ok(Json(SandboxBody::of(&sandbox)));
    }
    Err(ApiError::conflict(
        format!("sandbox {} is running already", sandbox.id),
        "POST …/timeout sets its end",
    ))
}

/// Sandboxes with the files of this one. What runs in it is not in them.
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/forks", tag = "sandboxes", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")), request_body = Option<ForkRequest>,
    responses((status = 201, description = "each copy, or why it could not be made", body = Vec<ForkBody>), Errors))]
pub(crate) async fn fork(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Result<(StatusCode, Json<Vec<ForkBody>>), ApiError> {
    caller.may("run")?;
    let asked: ForkRequest = object_or_none(&taken)?;
    let ms = seconds(asked.timeout_s, LIFE_S)?;
    let sandbox = found(&state, &caller, &id)?;
    let count = asked.count.unwrap_or(1);
    let made = forks(&state, &caller, &sandbox, count, ms).await?;
    let told = made.into_iter().map(|made| match made {
        Ok(made) => ForkBody {
            sandbox: Some(SandboxBody::of(&made)),
            error: None,
        },
        Err(error) => ForkBody {
            sandbox: None,
            error: Some(error.body("")),
        },
    });
    Ok((StatusCode::CREATED, Json(told.collect())))
}

/// Which walls stand around a sandbox of yours.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/receipt", tag = "sandboxes", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")),
    responses((status = 200, description = "the receipt", body = Value), Errors))]
pub(crate) async fn receipt(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let sandbox = found(&state, &caller, &id)?;
    Ok(Json(json!({
        "sandbox": sandbox.id,
        "limits": sandbox.limits,
        "receipt": sandbox.receipt,
    })))
}

/// The same signed now: an envelope (DSSE) around `casemate.sandbox-receipt/1`, which `casemate verify` checks without
/// this server.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/receipt/signed", tag = "sandboxes", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")),
    responses((status = 200, description = "the envelope", body = Value), Errors))]
pub(crate) async fn signed_receipt(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let sandbox = found(&state, &caller, &id)?;
    let signer = state.config.signer.as_deref().ok_or_else(|| {
        ApiError::conflict(
            "this server signs nothing",
            "ask for its receipt without /signed, or start the server with a key",
        )
    })?;
    let receipt = json!({
        "schema": wire::SANDBOX_RECEIPT,
        "casemate": env!("CARGO_PKG_VERSION"),
        "sandbox": sandbox.id,
        "template": sandbox.template,
        "made_ms": sandbox.made_ms,
        "started_ms": sandbox.started_ms,
        "signed_ms": now_ms(),
        "limits": sandbox.limits,
        "walls": sandbox.receipt,
    });
    let signed = signer.sign(wire::SANDBOX_RECEIPT_TYPE, receipt.to_string().as_bytes());
    Ok(json_text(signed))
}

/// What a sandbox held at one moment, measured from outside.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SampleBody {
    /// When, in seconds since 1970.
    at_s: i64,
    /// Of the processor time that it might have had since it began, in percent.
    cpu_used_percent: f64,
    /// Bytes of memory.
    memory_bytes: u64,
    /// Of it what the kernel could take back.
    cache_bytes: u64,
    /// Bytes of files.
    disk_bytes: u64,
}

impl From<Sample> for SampleBody {
    fn from(sample: Sample) -> Self {
        Self {
            at_s: sample.timestamp_unix,
            cpu_used_percent: sample.cpu_used_pct,
            memory_bytes: sample.mem_used,
            cache_bytes: sample.mem_cache,
            disk_bytes: sample.disk_used,
        }
    }
}

/// From when to when.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Span {
    /// Seconds since 1970.
    start: Option<i64>,
    /// The same.
    end: Option<i64>,
}

/// What a sandbox of yours held, measured from outside every five seconds.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/metrics", tag = "sandboxes", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id"), Span),
    responses((status = 200, description = "the samples, the oldest first", body = Vec<SampleBody>), Errors))]
pub(crate) async fn metrics(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    Query(span): Query<Span>,
) -> Result<Json<Vec<SampleBody>>, ApiError> {
    let sandbox = found(&state, &caller, &id)?;
    let samples = sandbox.samples_of(span.start, span.end);
    Ok(Json(samples.into_iter().map(SampleBody::from).collect()))
}

const _: () = assert!(LONGEST_S == 86400, "what the description says");
