//! E2B's control plane: `/sandboxes` and `/v2/sandboxes`.

use std::sync::Arc;

use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::filter::{Listing, page};
use super::model::{
    Connect, Detail, ENVD_VERSION, Fork, Lifecycle, Made, NewSandbox, OnTimeout, Pause, Refresh,
    SetTimeout, Shown,
};
use super::sandboxes::Sandbox;
use super::snapshots;
use crate::body::Taken;
use crate::guard::Caller;
use crate::making::{self, LONGEST_S, New, end, forks, make, seconds, source};
use crate::sleep::{self, pause as pause_as, waken};
use crate::state::State;

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
            keeps_memory: new.auto_pause_memory != Some(false),
        },
        timeout_ms,
        idle_ms: None,
    };
    let sandbox = make(&state, &caller, new).await?;
    Ok((StatusCode::CREATED, Json(made(&state, &sandbox))).into_response())
}

pub(super) fn fault(error: impl std::fmt::Display) -> E2bError {
    E2bError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// What cannot be together is refused, not left out in silence.
fn checked(new: &NewSandbox) -> Answer<()> {
    let bad = |message: &str| Err(E2bError::new(StatusCode::BAD_REQUEST, message));
    if new.auto_pause_memory != Some(false) {
        return Ok(());
    }
    if new.auto_pause != Some(true) {
        return bad("autoPauseMemory false says how to pause: it needs autoPause");
    }
    if new.auto_resume.is_some_and(|resume| resume.enabled) {
        return bad(
            "a sandbox of which files alone are kept is not woken by traffic: autoPauseMemory false and autoResume exclude each other",
        );
    }
    Ok(())
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
            pause_mode: sandbox.pause_mode(),
        }),
    }
}

/// One of the caller's, in E2B's words where it is not there.
pub(super) fn found(state: &State, caller: &Caller, id: &str) -> Answer<Arc<Sandbox>> {
    making::found(state, caller, id).map_err(|_| E2bError::unknown(id))
}

async fn show(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Shown>> {
    Ok(Json(shown(&*found(&state, &caller, &id)?, Some(&state))))
}

async fn kill(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    found(&state, &caller, &id)?;
    end(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
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
    if asked.memory == Some(false) {
        sleep::forget(&state, &sandbox).await?;
    }
    let (sandbox, resumed) = waken(&state, &sandbox, timeout_ms).await?;
    let status = if resumed {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(made(&state, &sandbox))).into_response())
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
    let sandbox = found(&state, &caller, &id)?;
    if pause_as(&state, &sandbox, asked.memory != Some(false)).await? {
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
    if asked.memory == Some(false) {
        sleep::forget(&state, &sandbox).await?;
    }
    let (sandbox, _) = waken(&state, &sandbox, timeout_ms).await?;
    Ok((StatusCode::CREATED, Json(made(&state, &sandbox))).into_response())
}

async fn fork(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Answer<Response> {
    caller.may("run")?;
    let asked: Fork = body(&taken.bytes)?;
    let timeout_ms = seconds(asked.timeout, 15)?;
    let sandbox = found(&state, &caller, &id)?;
    let count = asked.count.unwrap_or(1);
    let forks = forks(&state, &caller, &sandbox, count, timeout_ms).await?;
    let told = forks.into_iter().map(|fork| match fork {
        Ok(fork) => json!({"sandbox": made(&state, &fork)}),
        Err(error) => {
            let E2bError(status, message) = error.into();
            json!({"error": {"code": status.as_u16(), "message": message}})
        }
    });
    let told: Vec<_> = told.collect();
    Ok((StatusCode::CREATED, Json(told)).into_response())
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
    Ok(Json(sandbox.samples_of(span.start, span.end)).into_response())
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
        .map(|template| json!({"templateID": template.name, "aliases": [template.name], "public": false, "backend": template.sessions.name(), "image": template.image.name}))
        .collect();
    Json(all).into_response()
}
