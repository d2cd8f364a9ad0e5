//! Speaking HTTP to a sandbox's agent over a stream of the session's.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, Response, header};
use casemate_backend::session::Session;
use casemate_envd::client::{Dial, Dialling, Io};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::UnixStream;

use super::sandboxes::Sandbox;

/// How long the agent may take to be there.
const THERE_WITHIN: Duration = Duration::from_secs(10);

/// Whom a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The agent.
    Agent,
    /// Whoever listens at a port of the sandbox's loopback.
    Port(u16),
}

/// A stream of bytes to somebody in a sandbox.
async fn stream(session: &Arc<dyn Session>, to: To) -> io::Result<UnixStream> {
    let making = Arc::clone(session);
    let made = tokio::task::spawn_blocking(move || match to {
        To::Agent => making.connect(),
        To::Port(port) => making.connect_to(port),
    });
    let stream = StdStream::from(made.await.map_err(io::Error::other)??);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// The agent of a sandbox, to be spoken to as a client.
pub(crate) struct AgentOf(pub(crate) Arc<Sandbox>);

impl Dial for AgentOf {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let stream = stream(&self.0.session, To::Agent).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// A connection, ready for one request.
async fn connected<B>(session: &Arc<dyn Session>, to: To) -> Result<SendRequest<B>, String>
where
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = stream(session, to)
        .await
        .map_err(|error| error.to_string())?;
    let made = http1::Builder::new()
        .max_buf_size(64 << 10)
        .max_headers(64)
        // As most servers and proxies write them, and as programs that look without care expect them.
        .title_case_headers(true)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = made.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        // It ends with its request; what went wrong the request says.
        connection.with_upgrades().await.ok();
    });
    Ok(sender)
}

/// Passes a request on.
pub(super) async fn send(
    sandbox: &Arc<Sandbox>,
    to: To,
    request: Request<Body>,
) -> Result<Response<Incoming>, String> {
    let mut sender = connected::<Body>(&sandbox.session, to).await?;
    let sent = sender.send_request(request).await;
    sent.map_err(|error| error.to_string())
}

/// Waits until the agent is there, and tells it the token and the environment.
pub(crate) async fn begin(
    session: &Arc<dyn Session>,
    env: &BTreeMap<String, String>,
    token: &str,
) -> Result<(), String> {
    let mut all = env.clone();
    all.insert("E2B_SANDBOX".to_owned(), "true".to_owned());
    let told = json!({"envVars": all, "accessToken": token});
    let body = Bytes::from(told.to_string());
    let asked = async {
        let mut sender = connected::<Full<Bytes>>(session, To::Agent).await?;
        let request = Request::post("/init")
            .header(header::HOST, "sandbox")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        let said = http_body_util::Limited::new(answer.into_body(), 4096)
            .collect()
            .await;
        let said = said.map(|said| String::from_utf8_lossy(&said.to_bytes()).into_owned());
        Err(format!("{status}: {}", said.unwrap_or_default()))
    };
    tokio::time::timeout(THERE_WITHIN, asked)
        .await
        .map_err(|_| format!("it was not there within {} s", THERE_WITHIN.as_secs()))?
}
