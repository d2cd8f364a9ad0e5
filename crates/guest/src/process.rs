//! The service `process.Process`.

pub(crate) mod running;
pub(crate) mod stream;
pub(crate) mod table;
mod terminal;

use std::sync::Arc;
use std::time::Duration;

use casemate_envd::process::{
    Empty, ListResponse, ProcessInput, ProcessResponse, SelectRequest, SendInputRequest,
    SendSignalRequest, Signal, StartRequest, StreamInputRequest, UpdateRequest,
};
use casemate_envd::{Code, RpcError};

use crate::agent::Agent;
use casemate_envd::server::rpc::{Call, In, Out};
use running::{Running, Starting};
pub(crate) use running::{duplicate, output};
use stream::subscribe;

/// How long a killed process may take to be gone before whoever killed it is answered.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// Bytes of a tag.
const TAG_MAX: usize = 256;

pub(crate) async fn list(
    agent: Arc<Agent>,
    _call: Call,
    _request: Empty,
) -> Result<ListResponse, RpcError> {
    Ok(ListResponse {
        processes: agent.processes.list(),
    })
}

/// Starts a process and tells what it says. It goes on when nobody listens any more; it is killed when the
/// time of this call is up.
pub(crate) async fn start(
    agent: Arc<Agent>,
    call: Call,
    request: StartRequest,
    out: Out<ProcessResponse>,
) -> Result<(), RpcError> {
    let config = request
        .process
        .ok_or_else(|| invalid("there is no process to start"))?;
    if request.tag.as_ref().is_some_and(|tag| tag.len() > TAG_MAX) {
        return Err(invalid("the tag is too long"));
    }
    let user = agent.user(call.user.as_deref())?;
    let starting = Starting {
        terminal: request.pty.map(|pty| pty.size.unwrap_or_default()),
        tag: request.tag,
        stdin: request.stdin.unwrap_or(true),
        config,
    };
    let (process, told) = Running::start(&agent, &user, starting).await?;
    tokio::select! {
        told = subscribe(&process, told, &call, &out) => told,
        () = call.late() => {
            process.signal(Signal::Kill)?;
            let what = "the process took longer than it may";
            Err(RpcError::new(Code::DeadlineExceeded, what))
        }
    }
}

/// Tells what a process says from now on.
pub(crate) async fn connect(
    agent: Arc<Agent>,
    call: Call,
    request: SelectRequest,
    out: Out<ProcessResponse>,
) -> Result<(), RpcError> {
    let process = agent.processes.known(request.process.as_ref())?;
    let told = process.listen()?;
    tokio::select! {
        told = subscribe(&process, told, &call, &out) => told,
        () = call.late() => Err(RpcError::new(Code::DeadlineExceeded, "the time is up")),
    }
}

pub(crate) async fn update(
    agent: Arc<Agent>,
    _call: Call,
    request: UpdateRequest,
) -> Result<Empty, RpcError> {
    let process = agent.processes.running(request.process.as_ref())?;
    if let Some(size) = request.pty.and_then(|pty| pty.size) {
        process.resize(size)?;
    }
    Ok(Empty {})
}

pub(crate) async fn send_input(
    agent: Arc<Agent>,
    _call: Call,
    request: SendInputRequest,
) -> Result<Empty, RpcError> {
    let process = agent.processes.running(request.process.as_ref())?;
    write(&process, request.input).await?;
    Ok(Empty {})
}

/// Writes what comes, as it comes.
pub(crate) async fn stream_input(
    agent: Arc<Agent>,
    mut messages: In<StreamInputRequest>,
) -> Result<Empty, RpcError> {
    let first = messages.next().await?.and_then(|message| message.start);
    let start = first.ok_or_else(|| invalid("the first message names the process"))?;
    let process = agent.processes.running(start.process.as_ref())?;
    while let Some(message) = messages.next().await? {
        match message {
            StreamInputRequest {
                data: Some(data), ..
            } => write(&process, data.input).await?,
            StreamInputRequest {
                keepalive: Some(_), ..
            } => {}
            _ => return Err(invalid("a message that is neither data nor a sign of life")),
        }
    }
    Ok(Empty {})
}

async fn write(process: &Running, input: Option<ProcessInput>) -> Result<(), RpcError> {
    match input {
        Some(ProcessInput {
            stdin: Some(bytes),
            pty: None,
        }) => process.write_stdin(&bytes).await,
        Some(ProcessInput {
            stdin: None,
            pty: Some(bytes),
        }) => process.write_terminal(&bytes).await,
        _ => Err(invalid("there is no input, or there are two")),
    }
}

pub(crate) async fn send_signal(
    agent: Arc<Agent>,
    _call: Call,
    request: SendSignalRequest,
) -> Result<Empty, RpcError> {
    let process = agent.processes.running(request.process.as_ref())?;
    match Signal::try_from(request.signal) {
        Ok(Signal::Kill) => {
            process.signal(Signal::Kill)?;
            // Whoever killed it may look for it next. It is gone when it has been waited for.
            process.gone(GONE_WITHIN).await;
        }
        Ok(Signal::Term) => process.signal(Signal::Term)?,
        _ => return Err(invalid("SIGTERM and SIGKILL can be sent")),
    }
    Ok(Empty {})
}

pub(crate) async fn close_stdin(
    agent: Arc<Agent>,
    _call: Call,
    request: SelectRequest,
) -> Result<Empty, RpcError> {
    let process = agent.processes.running(request.process.as_ref())?;
    process.close_stdin().await?;
    Ok(Empty {})
}

fn invalid(what: &str) -> RpcError {
    RpcError::new(Code::InvalidArgument, what)
}
