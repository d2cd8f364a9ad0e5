//! Commands: a shell's line in a sandbox, waited for, listened to, or left to run.

use std::collections::{BTreeMap, VecDeque};

use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use casemate_envd::client::{ProcessStream, ProcessTold, StartOptions};
use casemate_envd::process::{ProcessConfig, ProcessInfo, ProcessSelector, Signal};
use casemate_envd::text::Utf8;
use casemate_envd::{Client, ClientError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::inside::{Heard, Listened, Speaks, agent, awake, environment, refused, time};
use super::{Errors, object};
use crate::body::Taken;
use crate::error::ApiError;
use crate::guard::Caller;
use crate::hearing::Hearing;
use crate::state::State;

/// A command to run in a sandbox.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandRequest {
    /// A line for bash.
    #[schema(min_length = 1)]
    command: String,
    /// Its working folder; the user's home where nothing is said.
    cwd: Option<String>,
    /// Environment variables of its own.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Its standard input; it has none where nothing is said.
    stdin: Option<String>,
    /// Whether it is left to run: the answer is its number at once, and it lives until it ends, is ended, or the
    /// sandbox is.
    #[serde(default)]
    background: bool,
    /// Seconds until it is killed, 60 where nothing is said; for one in the background none where nothing is said.
    #[schema(minimum = 1, maximum = 3600)]
    timeout_s: Option<u32>,
}

/// How a command ended, and what it said. All of it is the guest's word.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct CommandBody {
    /// Its exit code; none where it was killed.
    exit_code: Option<i32>,
    /// How it ended, in words.
    status: String,
    /// What it wrote to standard output.
    stdout: String,
    /// What it wrote to standard error.
    stderr: String,
    /// Why it was not heard to its end.
    cut_off: Option<String>,
}

/// A process of a sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProcessBody {
    /// Its number in the sandbox.
    pid: u32,
    /// Its program and arguments.
    argv: Vec<String>,
    /// Its working folder.
    cwd: Option<String>,
}

impl From<ProcessInfo> for ProcessBody {
    fn from(info: ProcessInfo) -> Self {
        let config = info.config.unwrap_or_default();
        let argv = std::iter::once(config.cmd).chain(config.args);
        Self {
            pid: info.pid,
            argv: argv.collect(),
            cwd: config.cwd,
        }
    }
}

/// One thing that a command did.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Did {
    Started {
        pid: u32,
    },
    Stdout {
        text: String,
    },
    Stderr {
        text: String,
    },
    Exited {
        exit_code: Option<i32>,
        status: String,
    },
}

/// A command that is listened to. Dropping it before its end kills it.
struct Command {
    agent: Client,
    stream: ProcessStream,
    ended: bool,
    stdout: Utf8,
    stderr: Utf8,
    /// What it did and nobody was told of yet.
    did: VecDeque<Did>,
}

impl Command {
    fn did(&mut self, told: ProcessTold) {
        match told {
            ProcessTold::Stdout(bytes) => {
                let text = self.stdout.push(&bytes);
                self.did.push_back(Did::Stdout { text });
            }
            ProcessTold::Stderr(bytes) => {
                let text = self.stderr.push(&bytes);
                self.did.push_back(Did::Stderr { text });
            }
            // It has none.
            ProcessTold::Terminal(_) => {}
            ProcessTold::Ended(event) => {
                self.ended = true;
                let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
                self.did.extend([
                    Did::Stdout { text: stdout },
                    Did::Stderr { text: stderr },
                    Did::Exited {
                        exit_code: event.exited.then_some(event.exit_code),
                        status: event.status,
                    },
                ]);
            }
        }
    }
}

impl Speaks for Command {
    type Says = Did;

    async fn next(&mut self) -> Result<Option<Did>, ClientError> {
        let says_nothing = |did: &Did| match did {
            Did::Stdout { text } | Did::Stderr { text } => text.is_empty(),
            Did::Started { .. } | Did::Exited { .. } => false,
        };
        loop {
            match self.did.pop_front() {
                Some(did) if says_nothing(&did) => {}
                Some(did) => return Ok(Some(did)),
                None => match self.stream.next().await? {
                    Some(told) => self.did(told),
                    None => return Ok(None),
                },
            }
        }
    }

    fn cut(&self) -> &'static str {
        "killed"
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (agent, pid) = (self.agent.clone(), self.stream.pid());
        tokio::spawn(async move {
            // It may have ended meanwhile.
            let it = ProcessSelector::by_pid(pid);
            agent.signal(it, Signal::Kill).await.ok();
        });
    }
}

/// Runs a command in a sandbox of yours.
///
/// The answer is how it ended and what it said, up to 16 MiB. With `Accept: application/x-ndjson` or
/// `text/event-stream` it is told as it happens, `end` last. A client that goes away kills it, unless it is in the
/// background.
#[utoipa::path(post, path = "/v1/sandboxes/{sandbox}/commands", tag = "commands", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")), request_body = CommandRequest,
    responses((status = 200, description = "how it ended, and what it said", body = CommandBody),
              (status = 202, description = "it runs in the background", body = ProcessBody), Errors))]
pub(crate) async fn run(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    taken: Taken,
) -> Result<Response, ApiError> {
    let asked: CommandRequest = object(&taken)?;
    if asked.command.is_empty() || asked.command.contains('\0') {
        return Err(ApiError::bad(
            "there is no command, or a zero byte in it",
            "send {\"command\": \"ls -l\"}",
        ));
    }
    environment(&asked.env)?;
    let (hearing, limit) = (Hearing::of(&headers), time(asked.timeout_s)?);
    let sandbox = awake(&state, &caller, &id)?;
    let place = state.place(&caller)?;
    state.count_start(&caller)?;
    let agent = agent(&sandbox, hearing);
    let is_limited = !asked.background || asked.timeout_s.is_some();
    let options = StartOptions {
        stdin: asked.stdin.is_some(),
        timeout: is_limited.then_some(limit),
        ..StartOptions::default()
    };
    let process = ProcessConfig {
        cmd: "/bin/bash".to_owned(),
        args: vec!["-l".to_owned(), "-c".to_owned(), asked.command],
        envs: asked.env,
        cwd: asked.cwd,
    };
    let (argv, cwd) = (process.args.clone(), process.cwd.clone());
    let stream = agent.start(process, options).await;
    let stream = stream.map_err(|error| refused(&sandbox, &error))?;
    let pid = stream.pid();
    let mut command = Command {
        agent: agent.clone(),
        stream,
        ended: false,
        stdout: Utf8::default(),
        stderr: Utf8::default(),
        did: VecDeque::from([Did::Started { pid }]),
    };
    if let Some(stdin) = asked.stdin {
        // Beside: one that writes while it reads waits until somebody hears it.
        tokio::spawn(feed(agent, pid, stdin));
    }
    if asked.background {
        command.ended = true;
        let argv = std::iter::once("/bin/bash".to_owned()).chain(argv);
        let argv = argv.collect();
        return Ok((StatusCode::ACCEPTED, Json(ProcessBody { pid, argv, cwd })).into_response());
    }
    let mut listened = Listened::new(command, sandbox, limit, place);
    if hearing.is_stream() {
        return Ok(listened.stream(hearing));
    }
    let mut body = CommandBody::default();
    while let Some(heard) = listened.next().await {
        match heard? {
            Heard::Said(did) => body.did(did),
            Heard::End(why) => body.cut_off = why,
        }
    }
    Ok(Json(body).into_response())
}

/// Bytes of standard input in one message.
const PIECE: usize = 128 << 10;

/// Writes all of its standard input, and closes it. One that reads no more, or has ended, is no error; what else goes
/// wrong with the agent whoever listens to the command sees too.
async fn feed(agent: Client, pid: u32, stdin: String) {
    let it = || ProcessSelector::by_pid(pid);
    for piece in stdin.into_bytes().chunks(PIECE) {
        if agent.write_stdin(it(), piece.to_vec()).await.is_err() {
            return;
        }
    }
    agent.close_stdin(it()).await.ok();
}

impl CommandBody {
    fn did(&mut self, did: Did) {
        match did {
            Did::Started { .. } => {}
            Did::Stdout { text } => self.stdout.push_str(&text),
            Did::Stderr { text } => self.stderr.push_str(&text),
            Did::Exited { exit_code, status } => {
                self.exit_code = exit_code;
                self.status = status;
            }
        }
    }
}

/// The processes that were started in a sandbox of yours and run.
#[utoipa::path(get, path = "/v1/sandboxes/{sandbox}/commands", tag = "commands", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id")),
    responses((status = 200, description = "the processes", body = Vec<ProcessBody>), Errors))]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Vec<ProcessBody>>, ApiError> {
    let sandbox = awake(&state, &caller, &id)?;
    let all = agent(&sandbox, Hearing::Waits).processes().await;
    let all = all.map_err(|error| refused(&sandbox, &error))?;
    Ok(Json(all.into_iter().map(ProcessBody::from).collect()))
}

/// Kills a process of a sandbox of yours.
#[utoipa::path(delete, path = "/v1/sandboxes/{sandbox}/commands/{pid}", tag = "commands", security(("key" = [])),
    params(("sandbox" = String, Path, description = "the sandbox's id"),
           ("pid" = u32, Path, description = "its number in the sandbox")),
    responses((status = 204, description = "killed"), Errors))]
pub(crate) async fn kill(
    Extract(state): Extract<State>,
    caller: Caller,
    Path((id, pid)): Path<(String, u32)>,
) -> Result<StatusCode, ApiError> {
    let sandbox = awake(&state, &caller, &id)?;
    let it = ProcessSelector::by_pid(pid);
    let killed = agent(&sandbox, Hearing::Waits)
        .signal(it, Signal::Kill)
        .await;
    killed.map_err(|error| refused(&sandbox, &error))?;
    Ok(StatusCode::NO_CONTENT)
}
