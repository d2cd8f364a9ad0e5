//! One request, and the bounded body of its answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::{Client, ClientError};
use crate::TOKEN_HEADER;

/// The smallest buffer that the HTTP library takes.
const HEAD_MIN: usize = 8192;

/// An answer whose head has come.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers, none of which is about the connection.
    pub headers: HeaderMap,
    /// What follows.
    pub body: GuestBody,
}

/// Bytes of a guest as they come, within limits. Dropping it closes the connection, which the agent sees.
#[derive(Debug)]
pub struct GuestBody {
    incoming: Incoming,
    /// Bytes that may still come.
    left: u64,
    limit: u64,
    silence: Duration,
    clock: Pin<Box<Sleep>>,
    _connection: Connection,
}

/// The task that moves a connection's bytes; it ends with its call.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Headers that are about one connection and not about the message.
const OF_A_CONNECTION: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Client {
    /// Sends a request as it is and waits for the head of its answer: for a server that passes requests
    /// on. Headers that are about a connection are left out, both ways.
    ///
    /// # Errors
    /// When there is no answer in time, or it is none.
    pub async fn forward<B>(&self, mut request: Request<B>) -> Result<Answer, ClientError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        strip(request.headers_mut());
        if !request.headers().contains_key(header::HOST) {
            let host = header::HeaderValue::from_static("sandbox");
            request.headers_mut().insert(header::HOST, host);
        }
        let io = timeout(self.limits.connect, self.dial.dial())
            .await
            .map_err(|_| ClientError::Late("take a connection"))?
            .map_err(ClientError::Unreachable)?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(self.limits.head_bytes.max(HEAD_MIN))
            .max_headers(self.limits.headers)
            .handshake(TokioIo::new(io))
            .await
            .map_err(cut)?;
        let connection = Connection(tokio::spawn(async move {
            // What went wrong is told to whoever waits for the answer.
            drop(connection.await);
        }));
        let response = timeout(self.limits.respond, sender.send_request(request))
            .await
            .map_err(|_| ClientError::Late("answer"))?
            .map_err(cut)?;
        Ok(self.answer(response, connection))
    }

    fn answer(&self, response: Response<Incoming>, connection: Connection) -> Answer {
        let (mut parts, incoming) = response.into_parts();
        strip(&mut parts.headers);
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: GuestBody {
                incoming,
                left: self.limits.stream_bytes,
                limit: self.limits.stream_bytes,
                silence: self.limits.silence,
                clock: Box::pin(sleep(self.limits.silence)),
                _connection: connection,
            },
        }
    }

    /// A request with the token and the user of this client.
    pub(super) fn request(
        &self,
        method: hyper::Method,
        path: &str,
    ) -> hyper::http::request::Builder {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.token {
            request = request.header(TOKEN_HEADER, token);
        }
        request
    }
}

fn strip(headers: &mut HeaderMap) {
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
}

/// What the HTTP library says went wrong.
pub(super) fn cut(error: hyper::Error) -> ClientError {
    if error.is_parse() {
        return ClientError::Protocol(error.to_string());
    }
    ClientError::Cut(error.to_string())
}

impl GuestBody {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// When the stream breaks, is longer than it may be, or is silent for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = std::future::poll_fn(|context| Pin::new(&mut *self).poll_frame(context));
            match frame.await.transpose()? {
                None => return Ok(None),
                // Trailers say nothing that is asked here.
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// All of it, at most `max` bytes, before the deadline.
    pub(super) async fn whole(
        &mut self,
        max: usize,
        deadline: Instant,
    ) -> Result<Bytes, ClientError> {
        let mut all = bytes::BytesMut::new();
        loop {
            let chunk = tokio::time::timeout_at(deadline, self.chunk()).await;
            let Some(chunk) = chunk.map_err(|_| ClientError::Late("finish its answer"))?? else {
                return Ok(all.freeze());
            };
            if chunk.len() > max - all.len() {
                return Err(ClientError::TooMuch {
                    what: "an answer's bytes",
                    limit: max as u64,
                });
            }
            all.extend_from_slice(&chunk);
        }
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Pending => {
                let silent = self.clock.as_mut().poll(context).is_ready();
                if silent {
                    return Poll::Ready(Some(Err(ClientError::Late("say anything"))));
                }
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(cut(error)))),
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = self.left.checked_sub(length) else {
                    let limit = self.limit;
                    let what = "a stream's bytes";
                    return Poll::Ready(Some(Err(ClientError::TooMuch { what, limit })));
                };
                self.left = left;
                let until = Instant::now() + self.silence;
                self.clock.as_mut().reset(until);
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
