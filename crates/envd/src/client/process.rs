//! The verbs of `process.Process`.

use std::time::Duration;

use super::rpc::{Messages, keepalive};
use super::{Client, ClientError};
use crate::TIMEOUT_HEADER;
use crate::process::{
    DataEvent, Empty, EndEvent, ListResponse, ProcessConfig, ProcessEvent, ProcessInfo,
    ProcessInput, ProcessResponse, ProcessSelector, Pty, PtySize, SERVICE, SelectRequest,
    SendInputRequest, SendSignalRequest, Signal, StartRequest, UpdateRequest,
};

/// How a process is started, beside what it is.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// With a terminal of this size.
    pub terminal: Option<PtySize>,
    /// A name to find it by.
    pub tag: Option<String>,
    /// Whether it has a standard input that can be written to.
    pub stdin: bool,
    /// How long it may run before it is killed.
    pub timeout: Option<Duration>,
}

/// What is told of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessTold {
    /// It wrote to standard output.
    Stdout(Vec<u8>),
    /// It wrote to standard error.
    Stderr(Vec<u8>),
    /// It wrote to its terminal.
    Terminal(Vec<u8>),
    /// It has ended. Nothing comes after this.
    Ended(EndEvent),
}

/// What a process says, from when it was started or connected to.
#[derive(Debug)]
pub struct ProcessStream {
    pid: u32,
    messages: Messages<ProcessResponse>,
    ended: bool,
}

impl Client {
    /// Starts a process and listens to it. It goes on when the stream is dropped.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a stream.
    pub async fn start(
        &self,
        process: ProcessConfig,
        options: StartOptions,
    ) -> Result<ProcessStream, ClientError> {
        let request = StartRequest {
            process: Some(process),
            pty: options.terminal.map(|size| Pty { size: Some(size) }),
            tag: options.tag,
            stdin: Some(options.stdin),
        };
        let mut headers = vec![keepalive(self.limits.silence)];
        if let Some(timeout) = options.timeout {
            headers.push((TIMEOUT_HEADER, timeout.as_millis().to_string()));
        }
        let messages = self.stream(SERVICE, "Start", &request, &headers).await?;
        ProcessStream::begin(messages).await
    }

    /// Listens to a process that runs, or that ended a moment ago.
    ///
    /// # Errors
    /// As [`Client::start`].
    pub async fn connect(&self, process: ProcessSelector) -> Result<ProcessStream, ClientError> {
        let headers = [keepalive(self.limits.silence)];
        let request = select(process);
        let messages = self.stream(SERVICE, "Connect", &request, &headers).await?;
        ProcessStream::begin(messages).await
    }

    /// The processes that run.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>, ClientError> {
        let answer: ListResponse = self.unary(SERVICE, "List", &Empty {}).await?;
        Ok(answer.processes)
    }

    /// Writes to a process's standard input.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn write_stdin(
        &self,
        process: ProcessSelector,
        bytes: Vec<u8>,
    ) -> Result<(), ClientError> {
        let input = ProcessInput {
            stdin: Some(bytes),
            pty: None,
        };
        self.send_input(process, input).await
    }

    /// Writes to a process's terminal.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn write_terminal(
        &self,
        process: ProcessSelector,
        bytes: Vec<u8>,
    ) -> Result<(), ClientError> {
        let input = ProcessInput {
            stdin: None,
            pty: Some(bytes),
        };
        self.send_input(process, input).await
    }

    async fn send_input(
        &self,
        process: ProcessSelector,
        input: ProcessInput,
    ) -> Result<(), ClientError> {
        let request = SendInputRequest {
            process: Some(process),
            input: Some(input),
        };
        let Empty {} = self.unary(SERVICE, "SendInput", &request).await?;
        Ok(())
    }

    /// Closes a process's standard input.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn close_stdin(&self, process: ProcessSelector) -> Result<(), ClientError> {
        let Empty {} = self.unary(SERVICE, "CloseStdin", &select(process)).await?;
        Ok(())
    }

    /// Sends a signal to a process itself, not to what it started.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn signal(
        &self,
        process: ProcessSelector,
        signal: Signal,
    ) -> Result<(), ClientError> {
        let request = SendSignalRequest {
            process: Some(process),
            signal: signal.into(),
        };
        let Empty {} = self.unary(SERVICE, "SendSignal", &request).await?;
        Ok(())
    }

    /// Changes the size of a process's terminal.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn resize(&self, process: ProcessSelector, size: PtySize) -> Result<(), ClientError> {
        let request = UpdateRequest {
            process: Some(process),
            pty: Some(Pty { size: Some(size) }),
        };
        let Empty {} = self.unary(SERVICE, "Update", &request).await?;
        Ok(())
    }
}

const fn select(process: ProcessSelector) -> SelectRequest {
    SelectRequest {
        process: Some(process),
    }
}

impl ProcessStream {
    async fn begin(mut messages: Messages<ProcessResponse>) -> Result<Self, ClientError> {
        let first = messages.next().await?.and_then(|message| message.event);
        match first {
            Some(ProcessEvent {
                start: Some(start),
                data: None,
                end: None,
                keepalive: None,
            }) => Ok(Self {
                pid: start.pid,
                messages,
                ended: false,
            }),
            _ => Err(ClientError::Protocol(
                "a process that was not started says something".to_owned(),
            )),
        }
    }

    /// The process's number in the sandbox.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// The process, for other calls.
    #[must_use]
    pub const fn selector(&self) -> ProcessSelector {
        ProcessSelector::by_pid(self.pid)
    }

    /// What is told next; none after the end.
    ///
    /// # Errors
    /// The error that the stream ended on, or what went wrong with it. There is nothing after one.
    pub async fn next(&mut self) -> Result<Option<ProcessTold>, ClientError> {
        loop {
            let Some(message) = self.messages.next().await? else {
                let cut = || ClientError::Protocol("a process without an end".to_owned());
                return self.ended.then_some(None).ok_or_else(cut);
            };
            let told = told(message.event.unwrap_or_default())?;
            if self.ended {
                let after = "a process says something after its end";
                return Err(ClientError::Protocol(after.to_owned()));
            }
            self.ended = matches!(told, Some(ProcessTold::Ended(_)));
            if let Some(told) = told {
                return Ok(Some(told));
            }
        }
    }
}

/// One of the forms that an event has after the first, or none for a sign of life.
fn told(event: ProcessEvent) -> Result<Option<ProcessTold>, ClientError> {
    match event {
        ProcessEvent {
            start: None,
            data: Some(data),
            end: None,
            keepalive: None,
        } => written(data).map(Some),
        ProcessEvent {
            start: None,
            data: None,
            end: Some(end),
            keepalive: None,
        } => Ok(Some(ProcessTold::Ended(end))),
        ProcessEvent {
            start: None,
            data: None,
            end: None,
            keepalive: Some(_),
        } => Ok(None),
        _ => Err(ClientError::Protocol(
            "an event that is none or several".to_owned(),
        )),
    }
}

fn written(data: DataEvent) -> Result<ProcessTold, ClientError> {
    match (data.stdout, data.stderr, data.pty) {
        (Some(bytes), None, None) => Ok(ProcessTold::Stdout(bytes)),
        (None, Some(bytes), None) => Ok(ProcessTold::Stderr(bytes)),
        (None, None, Some(bytes)) => Ok(ProcessTold::Terminal(bytes)),
        _ => Err(ClientError::Protocol(
            "output that is none or several".to_owned(),
        )),
    }
}
