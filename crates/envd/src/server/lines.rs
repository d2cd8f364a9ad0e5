//! The interpreter's answers: lines as they come, and why a request about contexts is not done.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::rpc::{Chunks, plain, read, response};
use crate::interpreter::Line;
use crate::text::Utf8;

/// How long an execution may say nothing before it says that it runs.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Lines that wait for a slow reader. After that the code waits.
pub const WAITING: usize = 16;

/// Why a request about contexts is not done.
#[derive(Debug)]
pub struct Refusal(pub StatusCode, pub String);

impl Refusal {
    /// The request makes no sense.
    pub fn bad(what: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, what.into())
    }

    /// It cannot be done.
    pub fn failed(what: impl Into<String>) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, what.into())
    }

    /// There is no context of this name.
    #[must_use]
    pub fn unknown(id: &str) -> Self {
        Self(StatusCode::NOT_FOUND, format!("Context {id} not found"))
    }

    /// As a response.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        plain(self.0, &self.1)
    }
}

/// A request's JSON.
///
/// # Errors
/// When it is none.
pub async fn parsed<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    let bytes = read(request.into_body()).await;
    let bytes = bytes.map_err(|error| Refusal::bad(error.message))?;
    serde_json::from_slice(&bytes).map_err(|error| Refusal::bad(error.to_string()))
}

/// The answer to an execution: its lines, and now and then that it runs. When nobody reads it any more the lines are
/// taken by nobody either.
#[must_use]
pub fn answer(lines: mpsc::Receiver<Line>) -> Response<Body> {
    let (out, chunks) = mpsc::channel(WAITING);
    tokio::spawn(pass_on(lines, out));
    let body = Body::new(Chunks(chunks));
    response(StatusCode::OK, "application/x-ndjson", body)
}

async fn pass_on(mut lines: mpsc::Receiver<Line>, out: mpsc::Sender<Bytes>) {
    let mut clock = tokio::time::interval(KEEPALIVE);
    clock.reset();
    loop {
        let line = tokio::select! {
            line = lines.recv() => match line {
                Some(line) => line,
                None => return,
            },
            _ = clock.tick() => Line::Keepalive,
            () = out.closed() => return,
        };
        if out.send(line.write()).await.is_err() {
            return;
        }
        clock.reset();
    }
}

/// What one cell prints, as lines.
#[derive(Debug, Default)]
pub struct Printed {
    stdout: Utf8,
    stderr: Utf8,
}

impl Printed {
    /// The lines of these bytes of standard output and standard error.
    pub fn push(&mut self, stdout: &[u8], stderr: &[u8]) -> impl Iterator<Item = Line> + use<> {
        lines(self.stdout.push(stdout), self.stderr.push(stderr))
    }

    /// What was held back, at the end.
    pub fn finish(&mut self) -> impl Iterator<Item = Line> + use<> {
        lines(self.stdout.finish(), self.stderr.finish())
    }
}

fn lines(stdout: String, stderr: String) -> impl Iterator<Item = Line> {
    let timestamp = jiff::Timestamp::now().to_string();
    let out = (!stdout.is_empty()).then(|| Line::Stdout {
        text: stdout,
        timestamp: timestamp.clone(),
    });
    let err = (!stderr.is_empty()).then_some(Line::Stderr {
        text: stderr,
        timestamp,
    });
    out.into_iter().chain(err)
}
