//! The server itself: does it live, can it work, what does it count, what is there.

use axum::Json;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use casemate_backend::contract::Usable;
use casemate_engine::policies as presets;
use serde_json::{Value, json};

use crate::error::{ApiError, ErrorBody};
use crate::guard::Caller;
use crate::intake::bound_policy;
use crate::state::State;

/// Whether the server lives.
#[utoipa::path(get, path = "/healthz", tag = "server", responses((status = 200, description = "it does", body = Value)))]
pub(crate) async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Whether it can work: its database answers and a backend is usable.
#[utoipa::path(get, path = "/readyz", tag = "server", responses(
    (status = 200, description = "it can", body = Value),
    (status = 503, description = "it cannot, and why", body = Value)))]
pub(crate) async fn readyz(Extract(state): Extract<State>) -> impl IntoResponse {
    let database = state
        .store
        .ping()
        .await
        .err()
        .map(|error| error.to_string());
    let offers = state.offers().await.unwrap_or_default();
    let usable: Vec<&str> = offers
        .iter()
        .filter(|offer| matches!(offer.usable, Usable::Yes))
        .map(|offer| offer.backend.as_str())
        .collect();
    let ready = database.is_none() && !usable.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({"ready": ready, "backends": usable, "database": database.unwrap_or_else(|| "ok".to_owned())});
    (status, Json(body))
}

/// What the server counts, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "server", responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text")))]
pub(crate) async fn metrics(Extract(state): Extract<State>) -> Result<impl IntoResponse, ApiError> {
    let text = state
        .metrics
        .text()
        .map_err(|error| ApiError::fault(error.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

/// The policies, and the one that is in force for this key.
#[utoipa::path(get, path = "/v1/policies", tag = "policies", security(("key" = [])), responses(
    (status = 200, description = "the policies", body = Value),
    (status = 401, description = "no key", body = ErrorBody)))]
pub(crate) async fn policies(
    Extract(state): Extract<State>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let bound = bound_policy(&state, &caller)?;
    let mut all = Vec::new();
    for name in presets::names() {
        let preset = presets::preset(name).map_err(|error| ApiError::fault(error.to_string()))?;
        all.extend(preset.map(|policy| json!(policy)));
    }
    Ok(Json(json!({"in_force": bound, "presets": all})))
}

/// What each backend offers on this machine.
#[utoipa::path(get, path = "/v1/backends", tag = "policies", security(("key" = [])), responses(
    (status = 200, description = "the offers", body = Value),
    (status = 401, description = "no key", body = ErrorBody)))]
pub(crate) async fn backends(
    Extract(state): Extract<State>,
    _caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let offers = state.offers().await?;
    Ok(Json(json!({"backends": *offers})))
}
