//! Which request is answered by what; and what WebAssembly has not.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{Response, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use casemate_envd::interpreter::{ContextRequest, ExecuteRequest};
use casemate_envd::process::{Empty, ListResponse};
use casemate_envd::server::http::{self, FILES, health, hear_out, json};
use casemate_envd::server::lines::{Refusal, answer, parsed};
use casemate_envd::server::rpc::{self, Call, plain, response, unary};
use casemate_envd::{Code, Codec, RpcError, envelope};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::agent::{Agent, EXECUTIONS};
use super::files;

/// Lines that wait for a slow reader. After that the cell waits, and its time goes on.
const WAITING: usize = 256;
/// What is said to those who ask for a process, a terminal or its input.
const NO_PROCESSES: &str = "this sandbox is WebAssembly: programs in it start no processes and have no terminals; \
     run Python with /execute, or take a template of the jail backend, where there are processes";
/// What is said to those who watch folders.
const NO_WATCHES: &str = "this sandbox is WebAssembly: nothing tells when its files change; \
     list the folder again, or take a template of the jail backend, where folders can be watched";
/// What is said to those who want another context or another language.
const ONE_CONTEXT: &str = "this sandbox is WebAssembly: it has one interpreter and so one context, for python; \
     leave out the context, or take a template of the jail backend, where there are several and other languages";

macro_rules! rpc {
    ($method:path) => {
        post(|State(agent): State<Arc<Agent>>, request: Request| unary(agent, request, $method))
    };
}

/// All of them.
pub(super) fn router(agent: Arc<Agent>) -> Router {
    let processes = ["Update", "SendInput", "SendSignal", "CloseStdin"];
    let watches = ["CreateWatcher", "GetWatcherEvents", "RemoveWatcher"];
    let mut router = Router::new();
    for method in processes {
        let path = format!("/process.Process/{method}");
        router = router.route(&path, post(async || lacking(NO_PROCESSES)));
    }
    for method in ["Start", "Connect", "StreamInput"] {
        let path = format!("/process.Process/{method}");
        let refused = async |request: Request| lacking_stream(&request, NO_PROCESSES);
        router = router.route(&path, post(refused));
    }
    for method in watches {
        let path = format!("/filesystem.Filesystem/{method}");
        router = router.route(&path, post(async || lacking(NO_WATCHES)));
    }
    router
        .route("/process.Process/List", rpc!(no_processes))
        .route("/filesystem.Filesystem/Stat", rpc!(files::stat))
        .route("/filesystem.Filesystem/MakeDir", rpc!(files::make_dir))
        .route("/filesystem.Filesystem/Move", rpc!(files::rename))
        .route("/filesystem.Filesystem/ListDir", rpc!(files::list_dir))
        .route("/filesystem.Filesystem/Remove", rpc!(files::remove))
        .route(
            "/filesystem.Filesystem/WatchDir",
            post(async |request: Request| lacking_stream(&request, NO_WATCHES)),
        )
        .route(FILES, get(files::download).post(files::upload))
        .route("/files/compose", post(files::compose))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/envs", get(envs))
        .route("/init", post(init))
        .route("/execute", post(execute))
        .route("/contexts", get(contexts).post(create))
        .route("/contexts/{id}", delete(remove))
        .route("/contexts/{id}/restart", post(restart))
        .fallback(async || plain(StatusCode::NOT_FOUND, "404 page not found"))
        .layer(from_fn_with_state(Arc::clone(&agent), admit))
        .layer(from_fn(hear_out))
        .with_state(agent)
}

/// Lets through what shows the token, and what needs none.
async fn admit(State(agent): State<Arc<Agent>>, request: Request, next: Next) -> Response<Body> {
    http::admit(agent.token().as_deref(), request, next).await
}

/// The answer to a call for what there is not.
fn lacking(what: &str) -> Response<Body> {
    rpc::failed(&RpcError::new(Code::Unimplemented, what))
}

/// The same where the answer is a stream: it begins, and ends on the error.
fn lacking_stream(request: &Request, what: &str) -> Response<Body> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    match content_type.and_then(Codec::of_stream) {
        Some(codec) => {
            let end = envelope::end(Some(RpcError::new(Code::Unimplemented, what)));
            response(StatusCode::OK, codec.stream(), end)
        }
        None => lacking(what),
    }
}

/// There are none, ever.
async fn no_processes(
    _agent: Arc<Agent>,
    _call: Call,
    _request: Empty,
) -> Result<ListResponse, RpcError> {
    Ok(ListResponse::default())
}

async fn metrics(State(agent): State<Arc<Agent>>) -> Response<Body> {
    json(StatusCode::OK, &agent.metrics())
}

async fn envs(State(agent): State<Arc<Agent>>) -> Response<Body> {
    json(StatusCode::OK, &agent.envs())
}

async fn init(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    http::init(request, |init| agent.init(init)).await
}

async fn contexts(State(agent): State<Arc<Agent>>) -> Response<Body> {
    json(StatusCode::OK, &[&agent.context])
}

fn one_context() -> Refusal {
    Refusal(StatusCode::NOT_IMPLEMENTED, ONE_CONTEXT.to_owned())
}

async fn create(request: Request) -> Response<Body> {
    match parsed::<ContextRequest>(request).await {
        Ok(_) => one_context().response(),
        Err(refusal) => refusal.response(),
    }
}

/// The one context cannot be removed.
async fn remove(State(agent): State<Arc<Agent>>, Path(id): Path<String>) -> Response<Body> {
    if id == agent.context.id {
        return one_context().response();
    }
    Refusal::unknown(&id).response()
}

async fn restart(State(agent): State<Arc<Agent>>, Path(id): Path<String>) -> Response<Body> {
    if id != agent.context.id {
        return Refusal::unknown(&id).response();
    }
    match agent.restart().await {
        Ok(()) => json(StatusCode::OK, &()),
        Err(error) => Refusal::failed(error.message).response(),
    }
}

async fn execute(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    let begun = async {
        let request: ExecuteRequest = parsed(request).await?;
        let id = request.context_id.as_deref().filter(|id| !id.is_empty());
        match (id, request.language.as_deref()) {
            (Some(_), Some(_)) => {
                let what = "Only one of context_id or language can be provided";
                return Err(Refusal::bad(what));
            }
            (Some(id), None) if id != agent.context.id => return Err(Refusal::unknown(id)),
            (None, Some(language)) if !is_python(language) => return Err(one_context()),
            _ => {}
        }
        let place = Arc::clone(&agent.executions).try_acquire_owned();
        let place = place.map_err(|_| {
            let what = format!("{EXECUTIONS} executions run or wait already");
            Refusal(StatusCode::TOO_MANY_REQUESTS, what)
        })?;
        let (out, lines) = mpsc::channel(WAITING);
        let own = request.env_vars.unwrap_or_default();
        let sent = agent.execute(request.code, own, out).await;
        sent.map_err(|error| Refusal::failed(error.message))?;
        Ok(answer(lines).map(|body| {
            Body::new(Placed {
                body,
                _place: place,
            })
        }))
    };
    begun
        .await
        .unwrap_or_else(|refusal: Refusal| refusal.response())
}

/// An answer that has a place for as long as it is being read.
struct Placed {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl hyper::body::Body for Placed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }
}

fn is_python(language: &str) -> bool {
    matches!(language.trim().to_ascii_lowercase().as_str(), "" | "python")
}
