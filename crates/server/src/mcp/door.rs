//! `/mcp`: the protocol over HTTP (its "streamable HTTP"), behind the same guard as every other path.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Extract};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::protocol::{MOST, OPENING, Opening, Protocol};
use super::served::Served;
use super::tools::Tools;
use crate::body::{Taken, take};
use crate::error::ApiError;
use crate::guard::Caller;
use crate::state::State;

/// The header that names a session of the protocol.
const SESSION: &str = "mcp-session-id";
/// How long answers that are ready may take to be sent when the server goes down.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What answers at `/mcp`.
pub(crate) struct Door {
    service: StreamableHttpService<Tools<Served>, Protocol>,
    protocol: Arc<Protocol>,
    /// Held besides by each answer that is on its way.
    answers: Arc<()>,
}

impl Door {
    pub(crate) fn new(state: &State) -> Arc<Self> {
        let protocol = Arc::new(Protocol::new());
        let mut tools = Tools::new(Served::of(state));
        if super::sessions::template(state).is_some() {
            tools = tools.with(Tools::session_tools());
        }
        // Who may come from where is the guard's to say.
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .with_max_request_body_bytes(state.config.body_bytes);
        let make = move || Ok(tools.clone());
        Arc::new(Self {
            service: StreamableHttpService::new(make, Arc::clone(&protocol), config),
            protocol,
            answers: Arc::default(),
        })
    }

    pub(crate) fn router(self: &Arc<Self>) -> Router<State> {
        let door = Arc::clone(self);
        let answer = move |Extract(state): Extract<State>, caller: Caller, request: Request| {
            let door = Arc::clone(&door);
            async move { door.answer(&state, caller, request).await }
        };
        Router::new().route("/mcp", any(answer))
    }

    async fn answer(
        &self,
        state: &State,
        caller: Caller,
        request: Request,
    ) -> Result<Response, ApiError> {
        let (mut parts, body) = request.into_parts();
        let session = self.session(&parts, &caller)?;
        let Taken { bytes, room } = take(&parts.headers, body, state).await?;
        let method = parts.method.clone();
        let opening = Opening::by(&caller);
        // Whoever does what is asked has the request's parts until it is done.
        parts.extensions.insert(caller);
        parts.extensions.insert(Arc::new(room));
        let request = Request::from_parts(parts, Full::new(bytes));
        let answered = self.service.handle(request);
        let answer = OPENING.scope(opening.clone(), answered).await;
        if opening.was_refused() {
            return Err(ApiError::busy(
                format!("{MOST} MCP sessions of this tenant are at work"),
                1,
            ));
        }
        match method {
            Method::POST => self.held(answer, session).await,
            Method::DELETE if answer.status().is_success() => {
                let mut gone = Response::new(Body::empty());
                *gone.status_mut() = StatusCode::NO_CONTENT;
                Ok(gone)
            }
            _ => plain(answer).await,
        }
    }

    /// The session that a request names, which must be its caller's own.
    fn session(&self, parts: &Parts, caller: &Caller) -> Result<Option<Arc<()>>, ApiError> {
        let Some(id) = parts.headers.get(SESSION) else {
            return Ok(None);
        };
        let id = id.to_str().unwrap_or_default();
        let session = self.protocol.enter(id, caller);
        let session = session.ok_or_else(|| ApiError::unknown("MCP session", id))?;
        Ok(Some(session))
    }

    /// An answer that its session, and the server's end, wait for.
    async fn held(&self, answer: Answer, session: Option<Arc<()>>) -> Result<Response, ApiError> {
        let held = (session, Arc::clone(&self.answers));
        let answer = plain(answer).await?;
        Ok(answer.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _until_sent = &held;
                frame
            }))
        }))
    }

    /// Ends sessions that nobody uses, until the server stops.
    pub(crate) async fn look_after(
        self: Arc<Self>,
        idle: Duration,
        mut stopped: watch::Receiver<bool>,
    ) {
        let often = (idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            tokio::select! {
                () = sleep(often) => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            self.protocol.end_idle(idle).await;
        }
    }

    /// Lets what has an answer send it, and ends every session and stream.
    pub(crate) async fn shut(&self) {
        let deadline = Instant::now() + LAST_ANSWERS;
        while Arc::strong_count(&self.answers) > 1 && Instant::now() < deadline {
            sleep(Duration::from_millis(10)).await;
        }
        self.service.config.cancellation_token.cancel();
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// The library's answer; where it is an error in bare words, as one of ours.
async fn plain(answer: Answer) -> Result<Response, ApiError> {
    let status = answer.status();
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !(status.is_client_error() || status.is_server_error()) || is_json {
        return Ok(answer.map(Body::new));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        return Err(ApiError::method("GET, POST, DELETE"));
    }
    let said = Limited::new(answer.into_body(), 4096).collect().await;
    let said = said.map_or_else(|_| Bytes::new(), |said| said.to_bytes());
    Err(ApiError::protocol(status, String::from_utf8_lossy(&said)))
}
