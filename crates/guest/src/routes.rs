//! Which request is answered by what.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::routing::{get, post};
use bytes::Bytes;
use casemate_envd::client::Init;
use casemate_envd::signature::same;
use casemate_envd::{INTERPRETER_PORT, PORT_HEADER, RpcError, TOKEN_HEADER};
use http_body_util::BodyExt;
use serde::Serialize;

use crate::agent::Agent;
use crate::rpc::{self, client_stream, plain, read, response, stream, unary};
use crate::{files, interpreter, process};

const UNAUTHORIZED: &str =
    "unauthorized access, please provide a valid access token or method signing if supported";

/// Where files are read and written.
const FILES: &str = "/files";
/// Paths that look at tokens and signatures themselves, or that carry neither by the protocol.
const OPEN: [&str; 4] = ["/health", FILES, "/execute", "/contexts"];

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

/// How much of a body is read that nobody wants, and for how long.
const HEARD_MAX: u64 = 256 << 20;
const HEARD_FOR: Duration = Duration::from_secs(20);

/// Reads the rest of a request that was refused, so that its sender comes to read why: a connection that is
/// closed over unread bytes takes the answer with it. A form goes on after its last part too, if only with the word
/// that it ends.
async fn hear_out(request: Request, next: Next) -> Response<Body> {
    let is_form = request.uri().path() == FILES && request.method() == axum::http::Method::POST;
    let (parts, body) = request.into_parts();
    let body = Shared(Arc::new(Mutex::new(body)));
    let mut rest = body.clone();
    let answer = next.run(Request::from_parts(parts, Body::new(body))).await;
    if is_form || answer.status().is_client_error() || answer.status().is_server_error() {
        // What cannot be read in this time, or at all, is not missed.
        drop(tokio::time::timeout(HEARD_FOR, rest.drain()).await);
    }
    answer
}

/// A body that two hold. Only one reads it at a time.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Shared {
    async fn drain(&mut self) {
        let mut heard = 0;
        while let Some(Ok(frame)) = self.frame().await {
            heard += frame.data_ref().map_or(0, |data| data.len() as u64);
            if heard > HEARD_MAX {
                return;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl hyper::body::Body for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.lock().size_hint()
    }
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
        Ok(()) => {
            if agent.config.warm {
                agent.contexts.warm(&agent);
            }
            empty(StatusCode::NO_CONTENT)
        }
        Err(error) => refuse_as(&error),
    }
}
