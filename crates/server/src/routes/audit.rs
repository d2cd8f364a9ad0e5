//! Who did what.

use axum::Json;
use axum::extract::{Query, State as Extract};
use serde_json::{Value, json};

use super::page::Page;
use crate::error::{ApiError, ErrorBody};
use crate::guard::Caller;
use crate::state::State;

/// What was done in your tenant's name, the latest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", security(("key" = [])), params(Page), responses(
    (status = 200, description = "the entries; `next` asks for the next page", body = Value),
    (status = 400, description = "not understood", body = ErrorBody),
    (status = 401, description = "no key", body = ErrorBody)))]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<Value>, ApiError> {
    let rows = state
        .store
        .audit(caller.name(), &page.after()?, page.limit())
        .await?;
    let next = page.next(&rows, |row| (row.at_ms, &row.id));
    let entries: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "at_ms": row.at_ms,
                "key": row.who,
                "action": row.action,
                "subject": row.subject,
                "detail": row.detail,
            })
        })
        .collect();
    Ok(Json(json!({"entries": entries, "next": next})))
}
