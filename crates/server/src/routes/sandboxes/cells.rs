//! Cells: code in an interpreter whose state lives from one to the next; and those interpreters.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use casemate_envd::ClientError;
use casemate_envd::client::Execution;
use casemate_envd::interpreter::{Context, ContextRequest, ExecuteRequest, Line, Shown};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::inside::{Heard, Listened, Speaks, agent, awake, environment, refused, time};
use super::{Errors, object, object_or_none};
use crate::body::Taken;
use crate::error::ApiError;
use crate::guard::Caller;
use crate::hearing::Hearing;
use crate::state::State;

/// The languages of cells.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CellLanguage {
    /// Python.
    Python,
    /// Bash.
    Bash,
    /// JavaScript, where the server has Deno.
    Javascript,
    /// TypeScript, where the server has Deno.
    Typescript,
}

impl CellLanguage {
    fn name(self) -> String {
        let name = match self {
            Self::Python => "python",
            Self::Bash => "bash",
            Self::Javascript => "javascript",
            Self::Typescript => "typescript",
        };
        name.to_owned()
    }
}

/// Code to run in a sandbox.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CellRequest {
    /// The code. The value of its last expression is shown, as in a notebook.
    code: String,
    /// The context it runs in; the language's own where none is named.
    context: Option<String>,
    /// Its language, where no context is named: Python where nothing is said.
    language: Option<CellLanguage>,
    /// Environment variables for this cell alone.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Seconds until it is interrupted, 60 where nothing is said. What it defined by then stays.
    #[schema(minimum = 1, maximum = 3600)]
    timeout_s: Option<u32>,
}

/// A context to be.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NewContext {
    /// Its language: Python where nothing is said.
    language: Option<CellLanguage>,
    /// Its working folder; the user's home where nothing is said.
    cwd: Option<String>,
}

/// An interpreter with a state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ContextBody {
    /// Its id.
    context: String,
    /// Its language.
    language: String,
    /// Where it began.
    cwd: String,
}

impl From<Context> for ContextBody {
    fn from(context: Context) -> Self {
        Self {
            context: context.id,
            language: context.language,
            cwd: context.cwd,
        }
    }
}

/// An error that a cell ended on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CellError {
    /// Its class.
    name: String,
    /// Its text.
    value: String,
    /// Where it came from.
    traceback: String,
}

/// What a cell said and showed. All of it is the guest's word.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct CellBody {
    /// How many cells its context has had, this one included.
    execution_count: Option<u64>,
    /// What it wrote to standard output.
    stdout: String,
    /// What it wrote to standard error.
    stderr: String,
    /// What it showed, each in the forms there are: `text`, `html`, `png` (base64), `data`, `chart` and others.
    #[schema(value_type = Vec<serde_json::Value>)]
    results: Vec<Shown>,
    /// The error it ended on.
    error: Option<CellError>,
    /// Why it was not heard to its end.
    cut_off: Option<String>,
}

impl CellBody {
    fn line(&mut self, line: Line) {
        match line {
            Line::NumberOfExecutions { execution_count } => {
                self.execution_count = Some(execution_count);
            }
            Line::Stdout { text, .. } => self.stdout.push_str(&text),
            Line::Stderr { text, .. } => self.stderr.push_str(&text),
            Line::Result(shown) => self.results.push(*shown),
            Line::Error {
                name,
                value,
                traceback,
            } => {
                let error = CellError {
                    name,
                    value,
                    traceback,
                };
                self.error.get_or_insert(error);
            }
            Line::Keepalive | Line::EndOfExecution | Line::Unknown => {}
        }
    }
}

/// Dropping it interrupts the code.
impl Speaks for Execution {
    type Says = Line;

    async fn next(&mut self) -> Result<Option<Line>, ClientError> {
        Self::next(self).await
    }

    fn cut(&self) -> &'static str {
        "interrupted"
    }
}

/// Runs code in a sandbox of yours.
///
/// The answer is what it said and showed, up to 16 MiB. With `Accept: application/x-ndjson` or `text/event-stream` it
/// is told as it happens, `end` last. A client that goes away interrupts the code.
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/cells", tag = "cells", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")), request_body = CellRequest,
    responses((status = 200, description = "what it said and showed", body = CellBody), Errors))]
pub(crate) async fn run(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    taken: Taken,
) -> Result<Response, ApiError> {
    let asked: CellRequest = object(&taken)?;
    let (hearing, time) = (Hearing::of(&headers), time(asked.timeout_s)?);
    environment(&asked.env)?;
    let sandbox = awake(&state, &caller, &id)?;
    let place = state.place(&caller)?;
    state.count_start(&caller)?;
    let request = ExecuteRequest {
        code: asked.code,
        language: match asked.context {
            Some(_) => None,
            None => Some(asked.language.unwrap_or(CellLanguage::Python).name()),
        },
        context_id: asked.context,
        env_vars: Some(asked.env).filter(|env| !env.is_empty()),
    };
    let execution = agent(&sandbox, hearing).execute(&request).await;
    let execution = execution.map_err(|error| refused(&sandbox, &error))?;
    let mut listened = Listened::new(execution, sandbox, time, place);
    if hearing.is_stream() {
        return Ok(listened.stream(hearing));
    }
    let mut body = CellBody::default();
    while let Some(heard) = listened.next().await {
        match heard? {
            Heard::Said(line) => body.line(line),
            Heard::End(why) => body.cut_off = why,
        }
    }
    Ok(Json(body).into_response())
}

/// The contexts of a sandbox of yours.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/contexts", tag = "cells", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")),
    responses((status = 200, description = "the contexts", body = Vec<ContextBody>), Errors))]
pub(crate) async fn contexts(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Vec<ContextBody>>, ApiError> {
    let sandbox = awake(&state, &caller, &id)?;
    let all = agent(&sandbox, Hearing::Waits).contexts().await;
    let all = all.map_err(|error| refused(&sandbox, &error))?;
    Ok(Json(all.into_iter().map(ContextBody::from).collect()))
}

/// Makes a context in a sandbox of yours.
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/contexts", tag = "cells", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")), request_body = Option<NewContext>,
    responses((status = 201, description = "the context", body = ContextBody), Errors))]
pub(crate) async fn create_context(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Result<(StatusCode, Json<ContextBody>), ApiError> {
    let asked: NewContext = object_or_none(&taken)?;
    let sandbox = awake(&state, &caller, &id)?;
    let request = ContextRequest {
        language: asked.language.map(CellLanguage::name),
        cwd: asked.cwd,
    };
    let made = agent(&sandbox, Hearing::Waits)
        .create_context(&request)
        .await;
    let made = made.map_err(|error| refused(&sandbox, &error))?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Removes a context of a sandbox of yours.
#[utoipa::path(delete, path = "/v1/sandboxes/{sandbox}/contexts/{context}", tag = "cells", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id"),
           ("context" = String, Path, description = "the context's id")),
    responses((status = 204, description = "gone"), Errors))]
pub(crate) async fn remove_context(
    Extract(state): Extract<State>,
    caller: Caller,
    Path((id, context)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let sandbox = awake(&state, &caller, &id)?;
    let removed = agent(&sandbox, Hearing::Waits)
        .remove_context(&context)
        .await;
    removed.map_err(|error| refused(&sandbox, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts a context of a sandbox of yours anew: its state is lost.
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/contexts/{context}/restart", tag = "cells",
    security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id"),
           ("context" = String, Path, description = "the context's id")),
    responses((status = 204, description = "begun anew"), Errors))]
pub(crate) async fn restart_context(
    Extract(state): Extract<State>,
    caller: Caller,
    Path((id, context)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let sandbox = awake(&state, &caller, &id)?;
    let begun = agent(&sandbox, Hearing::Waits)
        .restart_context(&context)
        .await;
    begun.map_err(|error| refused(&sandbox, &error))?;
    Ok(StatusCode::NO_CONTENT)
}
