//! Screening alone: what a program would need and what is wrong with it, without running it.

use axum::Json;
use axum::extract::State as Extract;
use casemate_model::policy::ScreenMode;
use casemate_model::screening::Screening;
use serde_json::{Value, json};

use crate::body::Taken;
use crate::error::{ApiError, ErrorBody};
use crate::guard::Caller;
use crate::intake::{Read, RunRequest};
use crate::state::State;

/// Screens a program.
#[utoipa::path(post, path = "/v1/scans", tag = "scans", security(("key" = [])),
    request_body = RunRequest,
    responses(
    (status = 200, description = "the findings, the manifest and the verdict", body = Value),
    (status = 400, description = "not understood", body = ErrorBody),
    (status = 401, description = "no key", body = ErrorBody),
    (status = 403, description = "not with this key", body = ErrorBody),
    (status = 404, description = "an upload or policy that is not there", body = ErrorBody),
    (status = 408, description = "the body did not arrive in time", body = ErrorBody),
    (status = 413, description = "too large", body = ErrorBody),
    (status = 429, description = "too many at once", body = ErrorBody),
    (status = 503, description = "the server goes down, or its database is busy", body = ErrorBody)))]
pub(crate) async fn scan(
    Extract(state): Extract<State>,
    caller: Caller,
    taken: Taken,
) -> Result<Json<Value>, ApiError> {
    let screened = screened(&state, &caller, Read::of(taken).await?).await?;
    Ok(Json(json!({
        "policy": screened.policy,
        "refused": screened.refused,
        "screening": screened.screening,
    })))
}

/// What became of a program that was screened.
pub(crate) struct Screened {
    /// Under which policy.
    policy: String,
    refused: bool,
    pub(crate) screening: Screening,
}

/// Screens a program when its turn has come.
pub(crate) async fn screened(
    state: &State,
    caller: &Caller,
    read: Read,
) -> Result<Screened, ApiError> {
    caller.may("scan")?;
    let intake = read.job(state, caller).await?;
    let place = state.place(caller)?;
    state.count_start(caller)?;
    let turn = state.turn(place).await?;
    let blobs = state.blobs.clone();
    let screened = tokio::task::spawn_blocking(move || {
        let (job, room) = intake.ready(&blobs)?;
        let policy = job.policy.name.clone();
        let (refused, screening) = match casemate_screen::clear(job, ScreenMode::Enforce) {
            Ok(cleared) => (false, cleared.into_parts().1),
            Err(refused) => (true, refused.1),
        };
        drop((turn, room));
        Ok(Screened {
            policy,
            refused,
            screening,
        })
    });
    screened
        .await
        .map_err(|error| ApiError::fault(error.to_string()))?
}
