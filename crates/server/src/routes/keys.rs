//! The keys of a tenant. They are made and revoked on the command line alone.

use axum::Json;
use axum::extract::State as Extract;
use serde_json::{Value, json};

use crate::error::{ApiError, ErrorBody};
use crate::guard::Caller;
use crate::state::State;

/// Whose key this is, and the keys of that tenant, without what they are.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", security(("key" = [])), responses(
    (status = 200, description = "the keys, revoked ones too; `key` is the id of the one that asks, null where none is needed", body = Value),
    (status = 401, description = "no key", body = ErrorBody)))]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let keys = state.store.keys_of(caller.name()).await?;
    let own = caller.key.as_deref().map(|key| key.id.as_str());
    Ok(Json(
        json!({"tenant": caller.name(), "key": own, "keys": keys}),
    ))
}
