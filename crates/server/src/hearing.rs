//! How a client hears of what takes a while: at its end, as it happens, or later.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures_util::{Stream, StreamExt};
use serde_json::json;

use crate::error::ApiError;

/// How a client wants to hear of its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// The outcome when it is there.
    Waits,
    /// A line of JSON for each thing that happens.
    Lines,
    /// The same as server-sent events.
    Events,
    /// Where to ask later.
    Later,
}

impl Hearing {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let says = |name: header::HeaderName, word: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.is_some_and(|value| value.contains(word))
        };
        if says(header::HeaderName::from_static("prefer"), "respond-async") {
            Self::Later
        } else if says(header::ACCEPT, "text/event-stream") {
            Self::Events
        } else if says(header::ACCEPT, "application/x-ndjson") {
            Self::Lines
        } else {
            Self::Waits
        }
    }

    /// Whether it is told as it happens.
    pub(crate) const fn is_stream(self) -> bool {
        matches!(self, Self::Lines | Self::Events)
    }

    /// One thing that happened, as this kind of stream says it.
    pub(crate) fn line(self, kind: &str, value: &str) -> String {
        match self {
            Self::Events => format!("event: {kind}\ndata: {value}\n\n"),
            _ => format!("{value}\n"),
        }
    }

    /// The last line of what failed.
    pub(crate) fn failed(self, error: &ApiError) -> String {
        let value = json!({"type": "failed", "error": error.body("")});
        self.line("failed", &value.to_string())
    }

    /// The answer that these lines are.
    pub(crate) fn stream(self, lines: impl Stream<Item = String> + Send + 'static) -> Response {
        let kind = match self {
            Self::Events => "text/event-stream",
            _ => "application/x-ndjson",
        };
        let mut response = Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
