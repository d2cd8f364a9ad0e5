//! The code interpreter.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, StatusCode, header};
use tokio::time::{Instant, timeout};

use super::answer::GuestBody;
use super::http::{json, parse};
use super::rpc::refusal;
use super::{Client, ClientError};
use crate::interpreter::{BadLine, Context, ContextRequest, ExecuteRequest, Line, Lines};
use crate::{INTERPRETER_PORT, PORT_HEADER};

/// Code that is running. Dropping it interrupts the code, and keeps its context.
#[derive(Debug)]
pub struct Execution {
    body: GuestBody,
    lines: Lines,
    silence: Duration,
    over: bool,
}

impl Client {
    /// Runs code in a context.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a stream.
    pub async fn execute(&self, request: &ExecuteRequest) -> Result<Execution, ClientError> {
        let request = self
            .request(Method::POST, "/execute")
            .header(header::CONTENT_TYPE, "application/json")
            .header(PORT_HEADER, INTERPRETER_PORT)
            .body(Full::new(json(request)?))
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let mut answer = self.forward(request).await?;
        if answer.status != StatusCode::OK {
            let deadline = Instant::now() + self.limits.unary;
            return Err(refusal(answer.status, &mut answer.body, deadline).await);
        }
        Ok(Execution {
            body: answer.body,
            lines: Lines::new(self.limits.line_bytes),
            silence: self.limits.silence,
            over: false,
        })
    }

    /// Makes a context.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a call.
    pub async fn create_context(&self, request: &ContextRequest) -> Result<Context, ClientError> {
        let body = json(request)?;
        let max = self.limits.unary_bytes;
        parse(&self.http(Method::POST, "/contexts", body, max).await?)
    }

    /// The contexts there are, the newest last.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a call.
    pub async fn contexts(&self) -> Result<Vec<Context>, ClientError> {
        let max = self.limits.unary_bytes;
        let none = Bytes::new();
        let all: Vec<Context> = parse(&self.http(Method::GET, "/contexts", none, max).await?)?;
        if all.len() > self.limits.entries {
            return Err(ClientError::TooMuch {
                what: "a list's entries",
                limit: self.limits.entries as u64,
            });
        }
        Ok(all)
    }

    /// Starts a context anew: its state is lost, its name stays.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a call.
    pub async fn restart_context(&self, id: &str) -> Result<(), ClientError> {
        self.context(Method::POST, id, "/restart").await
    }

    /// Removes a context.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a call.
    pub async fn remove_context(&self, id: &str) -> Result<(), ClientError> {
        self.context(Method::DELETE, id, "").await
    }

    async fn context(&self, method: Method, id: &str, verb: &str) -> Result<(), ClientError> {
        let name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if id.is_empty() || !id.chars().all(name) {
            return Err(ClientError::Request(format!("{id:?} names no context")));
        }
        let path = format!("/contexts/{id}{verb}");
        let none = Bytes::new();
        // It answers with nothing worth reading.
        self.http(method, &path, none, 4096).await.map(drop)
    }
}

impl Execution {
    /// The next line; none after the last. Signs of life are left out, and what this version has no
    /// word for.
    ///
    /// # Errors
    /// What went wrong with the stream. There is nothing after it.
    pub async fn next(&mut self) -> Result<Option<Line>, ClientError> {
        if self.over {
            return Ok(None);
        }
        let next = self.advance().await;
        self.over = !matches!(next, Ok(Some(_)));
        next
    }

    async fn advance(&mut self) -> Result<Option<Line>, ClientError> {
        loop {
            // Of a whole line: bytes that never become one are silence too.
            let line = timeout(self.silence, self.line()).await;
            let line = line.map_err(|_| ClientError::Late("say anything"))??;
            match Line::read(&line).map_err(bad_line)? {
                Line::Keepalive | Line::Unknown => {}
                Line::EndOfExecution => return Ok(None),
                line => return Ok(Some(line)),
            }
        }
    }

    async fn line(&mut self) -> Result<Bytes, ClientError> {
        loop {
            if let Some(line) = self.lines.next().map_err(bad_line)? {
                return Ok(line);
            }
            match self.body.chunk().await? {
                Some(bytes) => self.lines.push(&bytes),
                None => return Err(ClientError::Cut("it ended without its end".to_owned())),
            }
        }
    }
}

fn bad_line(error: BadLine) -> ClientError {
    match error {
        BadLine::TooLong(limit) => ClientError::TooMuch {
            what: "a line's bytes",
            limit: limit as u64,
        },
        BadLine::Malformed(why) => ClientError::Protocol(why),
    }
}
