//! Who did what.

use axum::Json;
use axum::extract::{Query, State as Extract};
use axum::response::Response;
use serde_json::{Value, json};

use super::page::Page;
use super::runs::json_text;
use crate::error::{ApiError, ErrorBody};
use crate::guard::Caller;
use crate::state::State;
use crate::store::now_ms;
use crate::wire;

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
                "seq": row.seq,
                "sha256": row.sha256,
            })
        })
        .collect();
    Ok(Json(json!({"entries": entries, "next": next})))
}

/// Where the chain of your entries ends, signed now: keep it, and `casemate audit verify --head FILE` finds later whether what
/// there was until now is still there.
#[utoipa::path(get, path = "/v1/audit/head", tag = "audit", security(("key" = [])), responses(
    (status = 200, description = "an envelope (DSSE) around `casemate.audit-head/1`", body = Value),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 409, description = "there is no entry yet, or this server has no key to sign with", body = ErrorBody)))]
pub(crate) async fn head(
    Extract(state): Extract<State>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let head = state.store.audit_head(caller.name()).await?;
    let (Some(head), Some(signer)) = (head, state.config.signer.as_deref()) else {
        return Err(ApiError::conflict(
            "there is nothing to sign, or no key to sign it with",
            "ask again when something was done",
        ));
    };
    let text = json!({
        "schema": wire::AUDIT_HEAD,
        "tenant": head.tenant,
        "seq": head.seq,
        "sha256": head.sha256,
        "at_ms": now_ms(),
    });
    let envelope = signer.sign(wire::AUDIT_HEAD_TYPE, text.to_string().as_bytes());
    Ok(json_text(envelope))
}
