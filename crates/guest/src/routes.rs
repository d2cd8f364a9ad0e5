//! Which request is answered by what.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{get, post};
use casemate_envd::client::Init;
use casemate_envd::signature::same;
use casemate_envd::{INTERPRETER_PORT, PORT_HEADER, RpcError, TOKEN_HEADER};
use serde::Serialize;

use crate::agent::Agent;
use crate::rpc::{self, client_stream, plain, read, response, stream, unary};
use crate::{files, interpreter, process};

const UNAUTHORIZED: &str =
    "unauthorized access, please provide a valid access token or method signing if supported";

/// Paths that look at tokens and signatures themselves, or that carry neither by the protocol.
const OPEN: [&str; 4] = ["/health", "/files", "/execute", "/contexts"];

macro_rules! rpc {
    ($kind:ident, $method:path) => {
        post(|State(agent): State<Arc<Agent>>, request: Request| $kind(agent, request, $method))
    };
}

/// All of them.
pub(crate) fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/process.Process/List", rpc!(unary, process::list))
        .route("/process.Process/Start", rpc!(stream, process::start))
        .route("/process.Process/Connect", rpc!(stream, process::connect))
        .route("/process.Process/Update", rpc!(unary, process::update))
        .route(
            "/process.Process/SendInput",
            rpc!(unary, process::send_input),
        )
        .route(
            "/process.Process/StreamInput",
            rpc!(client_stream, process::stream_input),
        )
        .route(
            "/process.Process/SendSignal",
            rpc!(unary, process::send_signal),
        )
        .route(
            "/process.Process/CloseStdin",
            rpc!(unary, process::close_stdin),
        )
        .route("/filesystem.Filesystem/Stat", rpc!(unary, files::stat))
        .route(
            "/filesystem.Filesystem/MakeDir",
            rpc!(unary, files::make_dir),
        )
        .route("/filesystem.Filesystem/Move", rpc!(unary, files::rename))
        .route(
            "/filesystem.Filesystem/ListDir",
            rpc!(unary, files::list_dir),
        )
        .route("/filesystem.Filesystem/Remove", rpc!(unary, files::remove))
        .route(
            "/filesystem.Filesystem/WatchDir",
            rpc!(stream, files::watch_dir),
        )
        .route(
            "/filesystem.Filesystem/CreateWatcher",
            rpc!(unary, files::create_watcher),
        )
        .route(
            "/filesystem.Filesystem/GetWatcherEvents",
            rpc!(unary, files::watcher_events),
        )
        .route(
            "/filesystem.Filesystem/RemoveWatcher",
            rpc!(unary, files::remove_watcher),
        )
        .route("/files", get(files::download).post(files::upload))
        .route("/files/compose", post(files::compose))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/envs", get(envs))
        .route("/init", post(init))
        .route("/execute", post(interpreter::execute))
        .route(
            "/contexts",
            get(interpreter::list).post(interpreter::create),
        )
        .route("/contexts/{id}", axum::routing::delete(interpreter::remove))
        .route("/contexts/{id}/restart", post(interpreter::restart))
        .fallback(async || plain(StatusCode::NOT_FOUND, "404 page not found"))
        .layer(from_fn_with_state(Arc::clone(&agent), admit))
        .with_state(agent)
}

/// Lets through what shows the token, and what needs none.
async fn admit(State(agent): State<Arc<Agent>>, request: Request, next: Next) -> Response<Body> {
    let path = request.uri().path();
    let open = OPEN.iter().any(|known| {
        let rest = path.strip_prefix(known);
        rest.is_some_and(|rest| rest.is_empty() || (*known == "/contexts" && rest.starts_with('/')))
    });
    if open || has_token(&agent, request.headers()) {
        return next.run(request).await;
    }
    refuse(StatusCode::UNAUTHORIZED, UNAUTHORIZED)
}

/// Whether a request shows the token, or none is needed.
pub(crate) fn has_token(agent: &Agent, headers: &header::HeaderMap) -> bool {
    let Some(token) = agent.token() else {
        return true;
    };
    let shown = headers.get(TOKEN_HEADER);
    shown.is_some_and(|shown| shown.to_str().is_ok_and(|shown| same(shown, &token)))
}

/// An error outside the RPC services: the status as a number, and words.
pub(crate) fn refuse(status: StatusCode, message: &str) -> Response<Body> {
    #[derive(Serialize)]
    struct Refused<'a> {
        code: u16,
        message: &'a str,
    }
    let code = status.as_u16();
    json(status, &Refused { code, message })
}

/// The same for an error of what both share.
pub(crate) fn refuse_as(error: &RpcError) -> Response<Body> {
    let status = StatusCode::from_u16(error.code.status());
    refuse(
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        &error.message,
    )
}

/// A response of JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    response(status, "application/json", body)
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Both servers have this path; the port tells which is meant.
async fn health(request: Request) -> Response<Body> {
    let port = request.headers().get(PORT_HEADER);
    if port.is_some_and(|port| *port == INTERPRETER_PORT.to_string()) {
        return json(StatusCode::OK, &"OK");
    }
    empty(StatusCode::NO_CONTENT)
}

async fn metrics(State(agent): State<Arc<Agent>>) -> Response<Body> {
    json(StatusCode::OK, &agent.meter.read(&agent))
}

async fn envs(State(agent): State<Arc<Agent>>) -> Response<Body> {
    json(StatusCode::OK, &agent.envs())
}

async fn init(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    let bytes = match read(request.into_body()).await {
        Ok(bytes) => bytes,
        Err(error) => return rpc::failed(&error),
    };
    let init: Init = match serde_json::from_slice(&bytes) {
        Ok(init) => init,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match agent.init(init) {
        Ok(()) => empty(StatusCode::NO_CONTENT),
        Err(error) => refuse_as(&error),
    }
}
