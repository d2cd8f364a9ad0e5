//! What the last attacks on this machine's backends did.

use axum::Json;
use axum::extract::State as Extract;
use serde_json::{Value, json};

use crate::error::{ApiError, ErrorBody};
use crate::guard::Caller;
use crate::state::State;

/// The attacks, and what each backend's last attack result says, as both were when the server started.
#[utoipa::path(get, path = "/v1/attacks", tag = "attacks", security(("key" = [])), responses(
    (status = 200, description = "the attacks and a column for each backend", body = Value),
    (status = 401, description = "no key", body = ErrorBody)))]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    _caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let matrix = &state.config.attacks;
    Ok(Json(
        json!({"attacks": matrix.attacks, "backends": matrix.backends}),
    ))
}
