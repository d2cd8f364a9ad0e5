//! Speaking HTTP to a sandbox's agent over a stream of the session's.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, header};
use casemate_backend::session::Session;
use casemate_envd::client::{Dial, Dialling, Io};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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

/// A stream to somebody who may answer a request before having read all of it, and close. hyper would give the answer
/// up with the first write that fails; here what can no longer be written is dropped, and the answer is read.
struct Patient(UnixStream);

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.0).poll_write(context, bytes);
        written.map(|written| match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            other => other,
        })
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
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
async fn connected<B, S>(stream: S) -> Result<SendRequest<B>, String>
where
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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

/// Whether a request asks to go on in another protocol.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// Passes a request on.
pub(super) async fn send(
    sandbox: &Arc<Sandbox>,
    to: To,
    request: Request<Body>,
) -> Result<Response<Incoming>, String> {
    let stream = stream(&sandbox.session, to).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let mut sender = if is_upgrade(request.headers()) {
        // What has changed to another protocol breaks off on both sides at once.
        connected(stream).await?
    } else {
        connected(Patient(stream)).await?
    };
    let sent = sender.send_request(request).await;
    sent.map_err(|error| in_full(&error))
}

/// An error with what it comes from: hyper's own text leaves that out.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
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
        let stream = stream(session, To::Agent).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let mut sender = connected::<Full<Bytes>, _>(stream).await?;
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

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A body that goes on after its receiver has answered and closed.
    fn late_body(closed: tokio::sync::oneshot::Receiver<()>) -> Body {
        let first = futures_util::stream::once(async { Ok::<_, io::Error>(Bytes::from("some")) });
        let rest = futures_util::stream::once(async {
            closed.await.ok();
            Ok(Bytes::from("more"))
        });
        Body::from_stream(first.chain(rest))
    }

    #[tokio::test]
    async fn an_answer_that_comes_before_the_request_has_ended_is_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (closing, closed) = tokio::sync::oneshot::channel();
        let mut sender = connected(Patient(ours)).await.unwrap();
        let request = Request::post("/").body(late_body(closed)).unwrap();
        let answering = tokio::spawn(async move {
            let mut head = vec![0; 1024];
            let read = theirs.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"POST / HTTP/1.1\r\n"));
            let answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n";
            theirs.write_all(answer).await.unwrap();
            drop(theirs);
            closing.send(()).unwrap();
        });
        let answer = sender.send_request(request).await.unwrap();
        answering.await.unwrap();
        assert_eq!(answer.status(), 413);
        let said = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(said, "no\n");
    }

    #[tokio::test]
    async fn somebody_who_closes_without_an_answer_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut sender = connected(Patient(ours)).await.unwrap();
        drop(theirs);
        let request = Request::post("/")
            .body(Body::from("x".repeat(1 << 20)))
            .unwrap();
        let sent = sender.send_request(request);
        let sent = tokio::time::timeout(Duration::from_secs(10), sent).await;
        assert!(sent.unwrap().is_err());
    }
}
