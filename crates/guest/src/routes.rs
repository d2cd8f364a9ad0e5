//! Which request is answered by what.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::routing::{get, post};
use casemate_envd::server::http::{self, FILES, health, hear_out, json};
use casemate_envd::server::rpc::{client_stream, plain, stream, unary};

use crate::agent::Agent;
use crate::{files, interpreter, process};

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
        .route(FILES, get(files::download).post(files::upload))
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
        .layer(from_fn(hear_out))
        .with_state(agent)
}

/// Lets through what shows the token, and what needs none.
async fn admit(State(agent): State<Arc<Agent>>, request: Request, next: Next) -> Response<Body> {
    http::admit(agent.token().as_deref(), request, next).await
}

async fn metrics(State(agent): State<Arc<Agent>>) -> Response<Body> {
    json(StatusCode::OK, &agent.meter.read(&agent))
}

async fn envs(State(agent): State<Arc<Agent>>) -> Response<Body> {
    json(StatusCode::OK, &agent.envs())
}

async fn init(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    let taken = |init| {
        agent.init(init)?;
        if agent.config.warm {
            agent.contexts.warm(&agent);
        }
        Ok(())
    };
    http::init(request, taken).await
}
