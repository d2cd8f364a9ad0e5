//! Unary calls and streams of messages.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, header};
use prost::Message;
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::answer::GuestBody;
use super::{Client, ClientError};
use crate::codec::{BadMessage, Codec, decode_theirs};
use crate::envelope::{self, Envelope, Envelopes};
use crate::error::RpcError;
use crate::shape::Bounded;

/// Bytes of an error's body that are read.
const ERROR_MAX: usize = 64 << 10;

impl Client {
    /// One call of a method that answers once.
    pub(super) async fn unary<Q, A>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
    ) -> Result<A, ClientError>
    where
        Q: Message + Serialize,
        A: Message + Default + Bounded,
    {
        let deadline = Instant::now() + self.limits.unary;
        let request = self
            .rpc(service, method, Codec::Proto.unary())
            .body(Full::new(Codec::Proto.encode(request)))
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let mut answer = self.forward(request).await?;
        if answer.status != hyper::StatusCode::OK {
            return Err(refusal(answer.status, &mut answer.body, deadline).await);
        }
        let bytes = answer.body.whole(self.limits.unary_bytes, deadline).await?;
        decode_theirs(&bytes, self.limits.entries).map_err(bad_message)
    }

    /// Begins a call of a method that answers with a stream.
    pub(super) async fn stream<Q, A>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
        headers: &[(&str, String)],
    ) -> Result<Messages<A>, ClientError>
    where
        Q: Message + Serialize,
        A: Message + Default + Bounded,
    {
        let deadline = Instant::now() + self.limits.unary;
        let mut builder = self.rpc(service, method, Codec::Proto.stream());
        for (name, value) in headers {
            builder = builder.header(*name, value);
        }
        let payload = envelope::message(&Codec::Proto.encode(request));
        let request = builder
            .body(Full::new(payload))
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let mut answer = self.forward(request).await?;
        if answer.status != hyper::StatusCode::OK {
            return Err(refusal(answer.status, &mut answer.body, deadline).await);
        }
        let content_type = answer.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        if content_type.and_then(Codec::of_stream) != Some(Codec::Proto) {
            return Err(ClientError::Protocol(
                "the answer is not a stream".to_owned(),
            ));
        }
        Ok(Messages {
            body: answer.body,
            envelopes: Envelopes::new(self.limits.message_bytes),
            message_bytes: self.limits.message_bytes as u64,
            entries: self.limits.entries,
            silence: self.limits.silence,
            over: false,
            kind: PhantomData,
        })
    }

    fn rpc(
        &self,
        service: &str,
        method: &str,
        content_type: &str,
    ) -> hyper::http::request::Builder {
        let request = self
            .request(Method::POST, &format!("/{service}/{method}"))
            .header(header::CONTENT_TYPE, content_type)
            .header("connect-protocol-version", "1");
        match &self.user {
            Some(user) => request.header(header::AUTHORIZATION, basic(user)),
            None => request,
        }
    }
}

fn basic(user: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:"));
    format!("Basic {text}")
}

/// The error of an answer that is none.
pub(super) async fn refusal(
    status: hyper::StatusCode,
    body: &mut GuestBody,
    deadline: Instant,
) -> ClientError {
    // Whatever of it can be read; the status alone is an answer.
    let text = body.whole(ERROR_MAX, deadline).await.unwrap_or_default();
    ClientError::Refused(RpcError::of_response(status.as_u16(), &text))
}

pub(super) fn bad_message(error: BadMessage) -> ClientError {
    match error {
        BadMessage::Malformed(why) => ClientError::Protocol(why),
        BadMessage::TooMany(limit) => ClientError::TooMuch {
            what: "a list's entries",
            limit: limit as u64,
        },
    }
}

/// How a stream is asked to say that it lives.
pub(super) fn keepalive(silence: Duration) -> (&'static str, String) {
    // Twice in the time after which silence is an end.
    let seconds = (silence.as_secs() / 2).clamp(1, 60);
    (crate::KEEPALIVE_HEADER, seconds.to_string())
}

/// The messages of a stream.
#[derive(Debug)]
pub struct Messages<A> {
    body: GuestBody,
    envelopes: Envelopes,
    message_bytes: u64,
    entries: usize,
    silence: Duration,
    over: bool,
    kind: PhantomData<A>,
}

impl<A: Message + Default + Bounded> Messages<A> {
    /// The next message; none after the end.
    ///
    /// # Errors
    /// The error that the stream ended on, or what went wrong with it. There is nothing after one.
    pub async fn next(&mut self) -> Result<Option<A>, ClientError> {
        if self.over {
            return Ok(None);
        }
        // Of a whole message: bytes that never become one are silence too.
        let next = match timeout(self.silence, self.advance()).await {
            Ok(next) => next,
            Err(_late) => Err(ClientError::Late("say anything")),
        };
        self.over = !matches!(next, Ok(Some(_)));
        next
    }

    async fn advance(&mut self) -> Result<Option<A>, ClientError> {
        loop {
            match self.envelopes.next() {
                Ok(Some(Envelope::Message(payload))) => return self.decode(&payload).map(Some),
                Ok(Some(Envelope::End(None))) => return Ok(None),
                Ok(Some(Envelope::End(Some(error)))) => return Err(ClientError::Refused(error)),
                Ok(None) => {}
                Err(envelope::BadEnvelope::TooLarge(_)) => {
                    return Err(ClientError::TooMuch {
                        what: "a message's bytes",
                        limit: self.message_bytes,
                    });
                }
                Err(error) => return Err(ClientError::Protocol(error.to_string())),
            }
            match self.body.chunk().await? {
                Some(bytes) => self.envelopes.push(&bytes),
                None => return Err(ClientError::Cut("it ended without its end".to_owned())),
            }
        }
    }

    fn decode(&self, payload: &Bytes) -> Result<A, ClientError> {
        decode_theirs(payload, self.entries).map_err(bad_message)
    }
}
