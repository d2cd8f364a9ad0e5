//! E2B's control plane: `/sandboxes` and `/v2/sandboxes`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use casemate_engine::{Opening, open};
use casemate_model::policy::Policy;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::filter::{Listing, page};
use super::model::{
    Connect, Detail, ENVD_VERSION, Fork, Lifecycle, Made, NewSandbox, OnTimeout, Pause, Refresh,
    SetTimeout, Shown,
};
use super::sandboxes::{Parts, Sandbox};
use super::{Template, snapshots};
use crate::body::Taken;
use crate::guard::Caller;
use crate::intake::bound_policy;
use crate::keys::hex;
use crate::state::State;
use crate::store::Entry;

/// The longest life that can be asked for.
const LONGEST_S: i64 = 24 * 3600;
/// Forks that can be asked for at once.
const FORKS: u32 = 20;

/// E2B's own form of an error: its SDKs read `code` and `message`.
pub(crate) struct E2bError(StatusCode, String);

impl E2bError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self(status, message.into())
    }

    pub(super) fn unknown(id: &str) -> Self {
        let id: String = id.chars().take(80).collect();
        Self::new(StatusCode::NOT_FOUND, format!("sandbox {id:?} not found"))
    }
}

impl From<crate::error::ApiError> for E2bError {
    fn from(error: crate::error::ApiError) -> Self {
        Self(error.status(), error.body("").message)
    }
}

impl std::fmt::Display for E2bError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.1)
    }
}

impl IntoResponse for E2bError {
    fn into_response(self) -> Response {
        let code = self.0.as_u16();
        (self.0, Json(json!({"code": code, "message": self.1}))).into_response()
    }
}

pub(crate) type Answer<T> = Result<T, E2bError>;

/// The paths.
pub(crate) fn router() -> Router<State> {
    Router::new()
        .route("/sandboxes", post(create_v1).get(list_v1))
        .route("/v2/sandboxes", post(create_v2).get(list_v2))
        .route("/sandboxes/{id}", get(show).delete(kill))
        .route("/sandboxes/{id}/connect", post(connect))
        .route("/v2/sandboxes/{id}/connect", post(connect))
        .route("/sandboxes/{id}/timeout", post(timeout))
        .route("/sandboxes/{id}/pause", post(pause))
        .route("/sandboxes/{id}/resume", post(resume))
        .route("/sandboxes/{id}/refreshes", post(refresh))
        .route("/sandboxes/{id}/metrics", get(metrics))
        .route("/v1/sandboxes/{id}/receipt", get(receipt))
        .route("/sandboxes/{id}/fork", post(fork))
        .route("/sandboxes/{id}/snapshots", post(snapshots::create))
        .route("/snapshots", get(snapshots::list))
        .route("/templates/aliases/{alias}", get(alias))
        .route("/templates", get(templates))
        .route("/templates/{id}", delete(snapshots::remove))
}

/// A JSON body; an empty one is the default.
pub(super) fn body<T: DeserializeOwned + Default>(bytes: &[u8]) -> Answer<T> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    required(bytes)
}

pub(super) fn required<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| E2bError::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}

async fn create_v1(
    Extract(state): Extract<State>,
    caller: Caller,
    taken: Taken,
) -> Answer<Response> {
    create(state, caller, &taken.bytes, 15).await
}

async fn create_v2(
    Extract(state): Extract<State>,
    caller: Caller,
    taken: Taken,
) -> Answer<Response> {
    create(state, caller, &taken.bytes, 300).await
}

pub(crate) fn seconds(asked: Option<i64>, default: i64) -> Answer<i64> {
    let seconds = asked.unwrap_or(default);
    if (1..=LONGEST_S).contains(&seconds) {
        return Ok(seconds * 1000);
    }
    Err(E2bError::new(
        StatusCode::BAD_REQUEST,
        format!("timeout is {seconds} s; a sandbox lives 1 to {LONGEST_S} s"),
    ))
}

pub(super) fn random(bytes: usize) -> Answer<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random)
        .map_err(|error| E2bError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(hex(&random))
}

async fn create(state: State, caller: Caller, bytes: &[u8], default_s: i64) -> Answer<Response> {
    caller.may("run")?;
    let new: NewSandbox = required(bytes)?;
    let timeout_ms = seconds(new.timeout, default_s)?;
    checked(&new)?;
    let (template, files) = source(&state, &caller, &new.template)?;
    let env = new.env.clone().unwrap_or_default();
    let public = new
        .network
        .as_ref()
        .and_then(|network| network.allow_public_traffic);
    let new = New {
        template,
        named: new.template,
        files,
        env,
        metadata: new.metadata.unwrap_or_default(),
        has_traffic_token: public == Some(false),
        masked_host: new.network.and_then(|network| network.mask_request_host),
        lifecycle: Lifecycle {
            auto_resume: new.auto_resume.unwrap_or_default().enabled,
            on_timeout: if new.auto_pause == Some(true) {
                OnTimeout::Pause
            } else {
                OnTimeout::Kill
            },
        },
        timeout_ms,
    };
    let sandbox = make(&state, &caller, new).await?;
    Ok((StatusCode::CREATED, Json(made(&state, &sandbox))).into_response())
}

/// A sandbox to be, checked.
pub(crate) struct New {
    pub(crate) template: Arc<Template>,
    /// What it was asked for by: the template's name or a snapshot's.
    pub(crate) named: String,
    /// A folder whose files are in it from the beginning.
    pub(crate) files: Option<OwnedFd>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) has_traffic_token: bool,
    pub(crate) masked_host: Option<String>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) timeout_ms: i64,
}

/// What a sandbox is made of, by the name that was asked for: a template, or one of the tenant's snapshots.
fn source(state: &State, caller: &Caller, name: &str) -> Answer<(Arc<Template>, Option<OwnedFd>)> {
    let template = |name: &str| {
        let mut all = state.templates.iter();
        all.find(|template| template.name == name).map(Arc::clone)
    };
    if let Some(template) = template(name) {
        return Ok((template, None));
    }
    let snapshot = state.snapshots.of(caller.name(), name);
    if let Some((made_of, files)) = snapshot.map_err(fault)?
        && let Some(template) = template(&made_of)
    {
        return Ok((template, Some(files)));
    }
    let known = state.templates.iter();
    let known = known.map(|template| template.name.as_str());
    let known = known.collect::<Vec<_>>().join(", ");
    let name: String = name.chars().take(80).collect();
    let has = if known.is_empty() {
        "this server has none, and says why where it was started".to_owned()
    } else {
        format!("this server has: {known}")
    };
    Err(E2bError::new(
        StatusCode::NOT_FOUND,
        format!("template {name:?} not found; {has}"),
    ))
}

pub(super) fn fault(error: impl std::fmt::Display) -> E2bError {
    E2bError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// Makes a sandbox, with its agent ready.
pub(crate) async fn make(state: &State, caller: &Caller, new: New) -> Answer<Arc<Sandbox>> {
    let template = Arc::clone(&new.template);
    may_use(caller, template.sessions.name())?;
    state.count_start(caller)?;
    let policy = policy(state, caller, &template.policy)?;
    let limits = policy.limits.clone();
    let id = format!("i{}", random(10)?);
    let place = state
        .sandboxes
        .reserve(caller.name(), state.config.rules.sandboxes)
        .map_err(|most| {
            let why = format!("this tenant has {most} sandboxes, as many as it may");
            E2bError::new(StatusCode::TOO_MANY_REQUESTS, why)
        })?;
    let opening = Opening {
        id: id.clone(),
        tenant: caller.tenant.clone(),
        env: new.env.clone(),
        policy,
        warm: template.warm,
        files: new.files,
    };
    let backend = Arc::clone(&template.sessions);
    let opened = tokio::task::spawn_blocking(move || open(backend.as_ref(), &opening)).await;
    let (session, receipt) = opened
        .map_err(fault)?
        .map_err(|error| E2bError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let sandbox = Arc::new(Sandbox::new(Parts {
        id,
        tenant: caller.name().to_owned(),
        made_of: template.name.clone(),
        template: new.named,
        metadata: new.metadata,
        env: new.env,
        token: random(20)?,
        traffic_token: if new.has_traffic_token {
            Some(random(20)?)
        } else {
            None
        },
        masked_host: new.masked_host,
        limits,
        lifecycle: new.lifecycle,
        receipt,
        session,
        place,
        timeout_ms: new.timeout_ms,
    }));
    super::agent::begin(&sandbox).await.map_err(|why| {
        E2bError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the sandbox's agent: {why}"),
        )
    })?;
    note(state, caller, "sandbox.created", &sandbox).await?;
    state.sandboxes.insert(Arc::clone(&sandbox));
    Ok(sandbox)
}

/// A key may be bound to backends.
fn may_use(caller: &Caller, backend: &str) -> Answer<()> {
    let bound = caller.key.as_deref().map(|key| key.backends.as_slice());
    match bound {
        Some(own @ [_, ..]) if !own.iter().any(|name| name == backend) => Err(E2bError::new(
            StatusCode::FORBIDDEN,
            format!(
                "this key may use: {}; this template is of {backend}",
                own.join(", ")
            ),
        )),
        _ => Ok(()),
    }
}

/// Says in the audit what was done with a sandbox.
async fn note(state: &State, caller: &Caller, action: &str, sandbox: &Sandbox) -> Answer<()> {
    let entry = Entry {
        tenant: caller.name(),
        who: caller.who(),
        action,
        subject: &sandbox.id,
        detail: &sandbox.template,
    };
    let noted = state.store.note(&entry).await;
    noted.map_err(|error| E2bError::from(crate::error::ApiError::from(error)))
}

/// What no sandbox here can have is refused, not left out in silence.
fn checked(new: &NewSandbox) -> Answer<()> {
    let bad = |message: &str| Err(E2bError::new(StatusCode::BAD_REQUEST, message));
    if new.auto_pause_memory == Some(false) {
        return bad(
            "autoPauseMemory false needs a machine that can be booted again; this sandbox is frozen whole",
        );
    }
    Ok(())
}

/// The template's policy, narrowed by what the key is bound to where it is bound. One that screens programs opens
/// nothing then.
fn policy(state: &State, caller: &Caller, template: &Policy) -> Answer<Policy> {
    let bound = caller.key.as_deref().and_then(|key| key.policy.as_deref());
    if bound.is_none() {
        return Ok(template.clone());
    }
    Ok(template.narrowed(&bound_policy(state, caller)?))
}

pub(super) fn made(state: &State, sandbox: &Sandbox) -> Made {
    Made {
        template: sandbox.template.clone(),
        id: sandbox.id.clone(),
        client: "casemate",
        envd_version: ENVD_VERSION,
        envd_access_token: sandbox.token.clone(),
        traffic_access_token: sandbox.traffic_token.clone(),
        domain: state.config.domain.clone(),
    }
}

fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |at| at.to_string())
}

/// With the details where the server is given, which has some of them.
pub(crate) fn shown(sandbox: &Sandbox, detailed: Option<&State>) -> Shown {
    let life = *sandbox.life();
    let mebibytes = |limit: casemate_model::limit::Limit<casemate_model::unit::ByteSize>| {
        limit.or(casemate_model::unit::ByteSize(0)).0 >> 20
    };
    Shown {
        template: sandbox.template.clone(),
        id: sandbox.id.clone(),
        client: "casemate",
        started_at: rfc3339(sandbox.started_ms),
        end_at: rfc3339(life.end_ms),
        envd_version: ENVD_VERSION,
        cpu_count: sandbox.limits.cpu_millis.div_ceil(1000).max(1),
        memory_mb: mebibytes(sandbox.limits.memory),
        disk_mb: mebibytes(sandbox.limits.disk),
        state: if life.paused { "paused" } else { "running" },
        metadata: sandbox.metadata.clone(),
        detail: detailed.map(|state| Detail {
            envd_access_token: sandbox.token.clone(),
            allow_internet_access: false,
            domain: state.config.domain.clone(),
            lifecycle: sandbox.lifecycle,
        }),
    }
}

pub(crate) fn found(state: &State, caller: &Caller, id: &str) -> Answer<Arc<Sandbox>> {
    let sandbox = state.sandboxes.of(caller.name(), id);
    sandbox.ok_or_else(|| E2bError::unknown(id))
}

async fn show(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Shown>> {
    Ok(Json(shown(&*found(&state, &caller, &id)?, Some(&state))))
}

/// Which walls stand around a sandbox: what an SDK does not ask for, and an operator does.
async fn receipt(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Response> {
    let sandbox = found(&state, &caller, &id)?;
    Ok(Json(json!({"sandbox": sandbox.id, "receipt": sandbox.receipt})).into_response())
}

async fn kill(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    end(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends one of the caller's sandboxes.
pub(crate) async fn end(state: &State, caller: &Caller, id: &str) -> Answer<()> {
    caller.may("run")?;
    let sandbox = found(state, caller, id)?;
    if state.sandboxes.remove(&sandbox.id) {
        return note(state, caller, "sandbox.killed", &sandbox).await;
    }
    Err(E2bError::unknown(id))
}

async fn connect(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Answer<Response> {
    caller.may("run")?;
    let asked: Connect = body(&taken.bytes)?;
    let timeout_ms = seconds(asked.timeout, 300)?;
    let sandbox = found(&state, &caller, &id)?;
    let resumed = waken(&sandbox, timeout_ms).await?;
    let status = if resumed {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(made(&state, &sandbox))).into_response())
}

/// Wakes a sandbox away from the threads that serve.
pub(crate) async fn waken(sandbox: &Arc<Sandbox>, timeout_ms: i64) -> Answer<bool> {
    let waking = Arc::clone(sandbox);
    let woken = tokio::task::spawn_blocking(move || waking.wake(timeout_ms)).await;
    let fault = |why: String| E2bError::new(StatusCode::SERVICE_UNAVAILABLE, why);
    woken
        .map_err(|error| fault(error.to_string()))?
        .map_err(fault)
}

async fn timeout(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Answer<StatusCode> {
    caller.may("run")?;
    let asked: SetTimeout = required(&taken.bytes)?;
    let sandbox = found(&state, &caller, &id)?;
    let ms = asked.timeout.clamp(0, LONGEST_S) * 1000;
    sandbox.life().end_ms = crate::store::now_ms() + ms;
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Answer<StatusCode> {
    caller.may("run")?;
    let asked: Pause = body(&taken.bytes)?;
    if asked.memory == Some(false) {
        return Err(E2bError::new(
            StatusCode::BAD_REQUEST,
            "memory false needs a machine that can be booted again; this sandbox is frozen whole",
        ));
    }
    let sandbox = found(&state, &caller, &id)?;
    let paused = tokio::task::spawn_blocking(move || sandbox.pause()).await;
    let fault = |why: String| E2bError::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let paused = paused
        .map_err(|error| fault(error.to_string()))?
        .map_err(fault)?;
    if paused {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(E2bError::new(
        StatusCode::CONFLICT,
        format!("sandbox {id} is already paused"),
    ))
}

async fn resume(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Answer<Response> {
    caller.may("run")?;
    let asked: Connect = body(&taken.bytes)?;
    let timeout_ms = seconds(asked.timeout, 15)?;
    let sandbox = found(&state, &caller, &id)?;
    if !sandbox.life().paused {
        return Err(E2bError::new(
            StatusCode::CONFLICT,
            format!("sandbox {id} is already running"),
        ));
    }
    waken(&sandbox, timeout_ms).await?;
    Ok((StatusCode::CREATED, Json(made(&state, &sandbox))).into_response())
}

/// More sandboxes with the files of this one. Its processes and what they have in memory are not in them: a jail
/// cannot be copied while it runs.
async fn fork(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Answer<Response> {
    caller.may("run")?;
    let asked: Fork = body(&taken.bytes)?;
    let timeout_ms = seconds(asked.timeout, 15)?;
    let count = asked.count.unwrap_or(1);
    if !(1..=FORKS).contains(&count) {
        return Err(E2bError::new(
            StatusCode::BAD_REQUEST,
            format!("count is {count}; it is 1 to {FORKS}"),
        ));
    }
    let sandbox = found(&state, &caller, &id)?;
    if sandbox.life().paused {
        return Err(E2bError::new(
            StatusCode::CONFLICT,
            format!("sandbox {id} is paused"),
        ));
    }
    let template = state
        .templates
        .iter()
        .find(|template| template.name == sandbox.made_of);
    let template = template.ok_or_else(|| fault("its template is gone"))?;
    let _still = sandbox.still().await.map_err(fault)?;
    let mut all = Vec::new();
    for _ in 0..count {
        let new = New {
            template: Arc::clone(template),
            named: sandbox.template.clone(),
            files: Some(sandbox.session.files().map_err(fault)?),
            env: sandbox.env.clone(),
            metadata: sandbox.metadata.clone(),
            has_traffic_token: sandbox.traffic_token.is_some(),
            masked_host: sandbox.masked_host.clone(),
            lifecycle: sandbox.lifecycle,
            timeout_ms,
        };
        all.push(match make(&state, &caller, new).await {
            Ok(fork) => json!({"sandbox": made(&state, &fork)}),
            Err(E2bError(status, message)) => {
                json!({"error": {"code": status.as_u16(), "message": message}})
            }
        });
    }
    Ok((StatusCode::CREATED, Json(all)).into_response())
}

async fn refresh(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Answer<StatusCode> {
    caller.may("run")?;
    let asked: Refresh = body(&taken.bytes)?;
    let sandbox = found(&state, &caller, &id)?;
    let ms = asked.duration.unwrap_or(15).clamp(15, 3600) * 1000;
    let mut life = sandbox.life();
    life.end_ms = life.end_ms.max(crate::store::now_ms() + ms);
    Ok(StatusCode::NO_CONTENT)
}

async fn list_v1(
    Extract(state): Extract<State>,
    caller: Caller,
    Query(listing): Query<Listing>,
) -> Answer<Json<Vec<Shown>>> {
    let listing = Listing {
        state: Some("running".to_owned()),
        limit: None,
        next: None,
        ..listing
    };
    let page = page(&state.sandboxes.list(), caller.name(), &listing, usize::MAX)?;
    Ok(Json(page.shown))
}

async fn list_v2(
    Extract(state): Extract<State>,
    caller: Caller,
    Query(listing): Query<Listing>,
) -> Answer<Response> {
    let page = page(&state.sandboxes.list(), caller.name(), &listing, 100)?;
    let mut response = Json(page.shown).into_response();
    let headers = response.headers_mut();
    if let Some(next) = page.next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        headers.insert("x-next-token", next);
    }
    headers.insert("x-total-running", HeaderValue::from(page.running));
    Ok(response)
}

/// Which samples.
#[derive(Debug, Deserialize)]
struct Span {
    start: Option<i64>,
    end: Option<i64>,
}

async fn metrics(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    Query(span): Query<Span>,
) -> Answer<Response> {
    let sandbox = found(&state, &caller, &id)?;
    let (start, end) = (span.start.unwrap_or(i64::MIN), span.end.unwrap_or(i64::MAX));
    let samples = sandbox.samples();
    let asked: Vec<_> = samples
        .iter()
        .filter(|sample| (start..=end).contains(&sample.timestamp_unix))
        .cloned()
        .collect();
    drop(samples);
    Ok(Json(asked).into_response())
}

async fn alias(
    Extract(state): Extract<State>,
    _caller: Caller,
    Path(alias): Path<String>,
) -> Answer<Response> {
    let known = state
        .templates
        .iter()
        .find(|template| template.name == alias);
    let known = known.ok_or_else(|| {
        let alias: String = alias.chars().take(80).collect();
        E2bError::new(
            StatusCode::NOT_FOUND,
            format!("template {alias:?} not found"),
        )
    })?;
    Ok(Json(json!({"templateID": known.name, "public": false})).into_response())
}

async fn templates(Extract(state): Extract<State>, _caller: Caller) -> Response {
    let all: Vec<_> = state
        .templates
        .iter()
        .map(|template| json!({"templateID": template.name, "aliases": [template.name], "public": false, "backend": template.sessions.name()}))
        .collect();
    Json(all).into_response()
}
