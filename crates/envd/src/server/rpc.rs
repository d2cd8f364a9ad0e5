//! The Connect protocol on the server's side: unary calls and streams, in both codecs.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Frame;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::envelope::{self, Envelope, Envelopes};
use crate::{Code, Codec, KEEPALIVE_HEADER, RpcError, TIMEOUT_HEADER};

/// Bytes of a request.
const REQUEST_MAX: usize = 8 << 20;
/// Messages that wait for a slow reader. After that the sender waits.
const WAITING: usize = 8;
/// How often a stream says that it lives, where nobody asks for less.
const KEEPALIVE: Duration = Duration::from_secs(90);

/// What a caller says about a call, beside the request.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// The user it is for.
    pub user: Option<String>,
    /// How often a stream is to say that it lives.
    pub keepalive: Option<Duration>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

impl Call {
    /// What the headers of a request say.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let number = |name| text(name).and_then(|text| text.parse::<u64>().ok());
        Self {
            user: text(header::AUTHORIZATION.as_str()).and_then(basic),
            keepalive: number(KEEPALIVE_HEADER).map(|s| Duration::from_secs(s.max(1))),
            timeout: number(TIMEOUT_HEADER).map(Duration::from_millis),
        }
    }

    /// A clock that ticks whenever a stream has to say that it lives.
    pub fn clock(&self) -> tokio::time::Interval {
        let every = self.keepalive.unwrap_or(KEEPALIVE).min(KEEPALIVE);
        let mut clock = tokio::time::interval(every);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        clock.reset();
        clock
    }

    /// When the call is late, if it can be.
    pub async fn late(&self) {
        match self.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    }
}

/// The user in `Basic base64("user:")`.
fn basic(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(rest.trim())
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let user = text.split(':').next().unwrap_or_default();
    (!user.is_empty()).then(|| user.to_owned())
}

/// Answers a unary call.
pub async fn unary<S, Q, A, F>(
    server: Arc<S>,
    request: Request<Body>,
    method: impl FnOnce(Arc<S>, Call, Q) -> F,
) -> Response<Body>
where
    Q: Message + Default + DeserializeOwned,
    A: Message + Serialize,
    F: Future<Output = Result<A, RpcError>>,
{
    let (parts, body) = request.into_parts();
    let Some(codec) = content_type(&parts.headers).and_then(Codec::of_unary) else {
        return plain(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "application/json is expected",
        );
    };
    let answer = async {
        uncompressed(&parts.headers)?;
        let bytes = read(body).await?;
        let request = codec.decode_ours(&bytes).map_err(malformed)?;
        method(server, Call::of(&parts.headers), request).await
    };
    match answer.await {
        Ok(answer) => response(StatusCode::OK, codec.unary(), codec.encode(&answer)),
        Err(error) => failed(&error),
    }
}

/// The codec of a call with a stream on either side.
fn stream_codec(headers: &HeaderMap) -> Option<Codec> {
    content_type(headers).and_then(Codec::of_stream)
}

/// The answer to one that names none.
fn no_stream() -> Response<Body> {
    plain(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "application/connect+json is expected",
    )
}

/// Answers a call with a stream, which the method fills.
pub async fn stream<S, Q, A, F>(
    server: Arc<S>,
    request: Request<Body>,
    method: impl FnOnce(Arc<S>, Call, Q, Out<A>) -> F,
) -> Response<Body>
where
    Q: Message + Default + DeserializeOwned,
    A: Message + Serialize + 'static,
    F: Future<Output = Result<(), RpcError>> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let Some(codec) = stream_codec(&parts.headers) else {
        return no_stream();
    };
    let (out, body_out) = Out::new(codec);
    let request = match one_message(codec, body).await {
        Ok(request) => request,
        Err(error) => return response(StatusCode::OK, codec.stream(), envelope::end(Some(error))),
    };
    let sender = out.sender.clone();
    let filled = method(server, Call::of(&parts.headers), request, out);
    tokio::spawn(async move {
        let end = envelope::end(filled.await.err());
        // A reader that has gone needs no end.
        sender.send(end).await.ok();
    });
    response(StatusCode::OK, codec.stream(), Body::new(body_out))
}

/// Answers a call whose request is a stream.
pub async fn client_stream<S, Q, A, F>(
    server: Arc<S>,
    request: Request<Body>,
    method: impl FnOnce(Arc<S>, In<Q>) -> F,
) -> Response<Body>
where
    Q: Message + Default + DeserializeOwned,
    A: Message + Serialize,
    F: Future<Output = Result<A, RpcError>>,
{
    let (parts, body) = request.into_parts();
    let Some(codec) = stream_codec(&parts.headers) else {
        return no_stream();
    };
    let answer = match method(server, In::new(codec, body)).await {
        Ok(answer) => {
            let message = envelope::message(&codec.encode(&answer));
            [message, envelope::end(None)].concat().into()
        }
        Err(error) => envelope::end(Some(error)),
    };
    response(StatusCode::OK, codec.stream(), answer)
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// Compression is never negotiated.
fn uncompressed(headers: &HeaderMap) -> Result<(), RpcError> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(value) if value != "identity" => {
            let what = format!("unknown compression {value:?}");
            Err(RpcError::new(Code::Unimplemented, what))
        }
        _ => Ok(()),
    }
}

/// All bytes of a request's body. One that is too large is read to its end all the same, so that its sender
/// gets to read the answer.
///
/// # Errors
/// When it is too large, or its sender broke off.
pub async fn read(mut body: Body) -> Result<Bytes, RpcError> {
    let mut all = BytesMut::new();
    let mut fits = true;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| RpcError::new(Code::Canceled, error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            fits &= all.len() + data.len() <= REQUEST_MAX;
            if fits {
                all.extend_from_slice(&data);
            }
        }
    }
    if fits {
        return Ok(all.freeze());
    }
    let what = format!("a request has at most {REQUEST_MAX} bytes");
    Err(RpcError::new(Code::ResourceExhausted, what))
}

fn malformed(error: impl std::fmt::Display) -> RpcError {
    RpcError::new(Code::InvalidArgument, error.to_string())
}

/// The one message of a request whose answer is a stream.
async fn one_message<Q>(codec: Codec, body: Body) -> Result<Q, RpcError>
where
    Q: Message + Default + DeserializeOwned,
{
    let mut messages = In::new(codec, body);
    let first = messages.next().await?;
    let second = messages.next().await?;
    match (first, second) {
        (Some(message), None) => Ok(message),
        (None, _) => Err(malformed("there is no message")),
        (Some(_), Some(_)) => Err(malformed("there is more than one message")),
    }
}

/// An error of a unary call.
pub fn failed(error: &RpcError) -> Response<Body> {
    let status = StatusCode::from_u16(error.code.status());
    let body = serde_json::to_vec(error).unwrap_or_default();
    response(
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        Codec::Json.unary(),
        body,
    )
}

/// A response of text.
pub fn plain(status: StatusCode, text: &str) -> Response<Body> {
    response(status, "text/plain; charset=utf-8", text.to_owned())
}

/// A response.
pub fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// Where a stream's messages go.
pub struct Out<A> {
    codec: Codec,
    sender: mpsc::Sender<Bytes>,
    kind: PhantomData<fn(A)>,
}

/// Nobody reads the stream any more.
#[derive(Debug)]
pub struct Gone;

impl<A: Message + Serialize> Out<A> {
    fn new(codec: Codec) -> (Self, Chunks) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let out = Self {
            codec,
            sender,
            kind: PhantomData,
        };
        (out, Chunks(receiver))
    }

    /// Sends a message, once there is room for it.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn send(&self, message: &A) -> Result<(), Gone> {
        let framed = envelope::message(&self.codec.encode(message));
        self.sender.send(framed).await.map_err(|_| Gone)
    }

    /// Waits until nobody reads the stream any more.
    pub async fn gone(&self) {
        self.sender.closed().await;
    }
}

/// A body that is sent as its parts come.
pub struct Chunks(pub mpsc::Receiver<Bytes>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = self.0.poll_recv(context);
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The messages of a request.
pub struct In<Q> {
    codec: Codec,
    body: Body,
    envelopes: Envelopes,
    kind: PhantomData<fn() -> Q>,
}

impl<Q: Message + Default + DeserializeOwned> In<Q> {
    fn new(codec: Codec, body: Body) -> Self {
        Self {
            codec,
            body,
            envelopes: Envelopes::new(REQUEST_MAX),
            kind: PhantomData,
        }
    }

    /// The next message; none at the end, which a caller need not mark.
    ///
    /// # Errors
    /// When the bytes are no such messages, or their sender broke off.
    pub async fn next(&mut self) -> Result<Option<Q>, RpcError> {
        loop {
            match self.envelopes.next().map_err(malformed)? {
                Some(Envelope::Message(bytes)) => {
                    return self.codec.decode_ours(&bytes).map(Some).map_err(malformed);
                }
                Some(Envelope::End(_)) => return Ok(None),
                None => {}
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.envelopes.push(&data);
                    }
                }
                Some(Err(error)) => return Err(RpcError::new(Code::Canceled, error.to_string())),
                None if self.envelopes.is_cut() => return Err(malformed("a message is cut short")),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_in_the_authorization() {
        assert_eq!(basic("Basic dXNlcjo="), Some("user".to_owned()));
        assert_eq!(basic("basic cm9vdDpw"), Some("root".to_owned()));
        for none in ["Basic Og==", "Basic !", "Bearer dXNlcjo=", "Basic", ""] {
            assert_eq!(basic(none), None, "{none}");
        }
    }
}
