//! The process of a context: what it is sent, what it prints, what it tells.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use casemate_driver::Message;
use casemate_driver::handover::{MESSAGE_END, MESSAGE_PART, READY};
use casemate_driver::packets::{PACKET_MAX, Packets, Received};
use casemate_envd::RpcError;
use casemate_linux::{Child, Exit};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::deno::{Bridge, Meeting};
use super::language::Language;
use super::{bash, deno, python};
use crate::agent::Agent;
use crate::blocking::blocking;
use crate::launch::Program;
use crate::process::{duplicate, output};
use crate::readiness::watched;
use crate::users::User;

/// How long it may take to stand.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of one message; a longer one is dropped.
const MESSAGE_MAX: usize = 16 << 20;
/// Bytes of output that are read at once.
const CHUNK: usize = 32 << 10;
/// Bytes of what a process that did not start printed about it.
const SAID_MAX: usize = 4096;

/// What to start.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) language: Language,
    pub(super) user: User,
    pub(super) cwd: PathBuf,
}

/// How a language's process is started.
pub(super) struct Command {
    pub(super) argv: Vec<String>,
    /// Environment variables beside those of every process.
    pub(super) env: BTreeMap<String, String>,
}

/// One cell, as a process is sent it.
#[derive(Debug, serde::Serialize)]
pub(super) struct CellRequest<'a> {
    pub(super) code: &'a str,
    pub(super) name: &'a str,
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) max_result_bytes: u64,
}

/// What a process does.
#[derive(Debug)]
pub(super) enum Event {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Message(Vec<u8>),
    /// It stands: where that is no packet.
    Ready,
    /// A message that came another way.
    Told(Box<Message>),
    Ended(Exit),
}

/// A context's process.
pub(super) struct Kernel {
    language: Language,
    pid: u32,
    child: Option<Child>,
    pidfd: AsyncFd<OwnedFd>,
    channel: AsyncFd<Packets>,
    /// Requests of languages that cannot read packets.
    requests: pipe::Sender,
    /// The way to one that is a Jupyter kernel.
    bridge: Option<Bridge>,
    /// The end of the channel that is nobody's then.
    _unused: Option<OwnedFd>,
    stdout: Stream,
    stderr: Stream,
    /// The parts of a message that is not whole yet, and whether it became too long.
    parts: Vec<u8>,
    too_long: bool,
}

/// A stream until its end.
struct Stream(Option<pipe::Receiver>);

impl Stream {
    /// The next bytes; never comes back after the end.
    async fn read(&mut self) -> Vec<u8> {
        if let Some(pipe) = &mut self.0 {
            let mut buffer = vec![0; CHUNK];
            if let Ok(read @ 1..) = pipe.read(&mut buffer).await {
                buffer.truncate(read);
                return buffer;
            }
            self.0 = None;
        }
        std::future::pending().await
    }

    /// What is there now.
    fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; CHUNK];
        while let Some(pipe) = &self.0 {
            match pipe.try_read(&mut buffer) {
                Ok(read @ 1..) => all.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => self.0 = None,
            }
            // More than a pipe holds is being written now, and comes in its turn.
            if all.len() > 128 << 10 {
                break;
            }
        }
        all
    }
}

impl Kernel {
    /// Starts a process and waits until it stands.
    pub(super) async fn start(agent: &Arc<Agent>, recipe: &Recipe) -> Result<Self, String> {
        let mut kernel = Self::spawn(agent, recipe).await?;
        let stands = timeout(READY_WITHIN, kernel.stands()).await;
        match stands {
            Ok(Ok(())) => Ok(kernel),
            Ok(Err(why)) => Err(why),
            Err(_late) => Err(format!(
                "the {} context did not start within {} seconds",
                recipe.language.name(),
                READY_WITHIN.as_secs()
            )),
        }
    }

    async fn spawn(agent: &Arc<Agent>, recipe: &Recipe) -> Result<Self, String> {
        let wrong = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let (ours, theirs) = Packets::pair().map_err(wrong("a channel"))?;
        let theirs = OwnedFd::from(theirs);
        rustix::io::ioctl_fionbio(&ours, true).map_err(|error| format!("a channel: {error}"))?;
        let (reader, writer) = io::pipe().map_err(wrong("a pipe"))?;
        let (stdout, stdout_end) = output().map_err(wrong("a pipe"))?;
        let (stderr, stderr_end) = output().map_err(wrong("a pipe"))?;
        let (started, recipe_of) = (Arc::clone(agent), recipe.clone());
        let language = recipe.language;
        let meeting = language.has_kernel().then(Meeting::make).transpose()?;
        let met = meeting.clone();
        let (child, unused) = blocking(move || {
            let command = match language {
                Language::Python => python::command(&started.config)?,
                Language::Bash => bash::command(),
                Language::JavaScript | Language::TypeScript => deno::command(&started.config)?,
            };
            let env = started.environment(&recipe_of.user, &command.env);
            let stdin = match (&met, language) {
                (Some(meeting), _) => meeting.stdin(&recipe_of.user),
                (None, Language::Bash) => Ok(OwnedFd::from(reader)),
                (None, _) => std::fs::File::open("/dev/null").map(OwnedFd::from),
            };
            let stdin = stdin.map_err(|error| internal(&format!("standard input: {error}")))?;
            let program = Program {
                user: &recipe_of.user,
                cwd: &recipe_of.cwd,
                argv: &command.argv,
                env: &env,
                streams: [&stdin, &stdout_end, &stderr_end],
                terminal: false,
                channel: met.is_none().then_some(&theirs),
            };
            let child = program.start().map_err(|why| internal(&why))?;
            Ok((child, met.map(|_| theirs)))
        })
        .await
        .map_err(|error| error.message)?;
        let copy = duplicate(&child).map_err(|error| error.message)?;
        Ok(Self {
            language,
            pid: child.pid(),
            child: Some(child),
            pidfd: watched(copy).map_err(wrong("pidfd"))?,
            channel: watched(ours).map_err(wrong("a channel"))?,
            requests: pipe::Sender::from_owned_fd(writer.into()).map_err(wrong("a pipe"))?,
            stdout: Stream(Some(stdout)),
            stderr: Stream(Some(stderr)),
            bridge: meeting.map(Bridge::to),
            _unused: unused,
            parts: Vec::new(),
            too_long: false,
        })
    }

    /// Waits for its word that it stands; what it printed instead is why it does not.
    async fn stands(&mut self) -> Result<(), String> {
        let mut said = Vec::new();
        loop {
            let event = tokio::select! {
                packet = packet(&mut self.channel) => match packet {
                    Ok(Received::Packet(READY, _)) => return Ok(()),
                    _ => Event::Ended(self.end().await),
                },
                event = bridged(&mut self.bridge) => match event {
                    Some(Event::Ready) => return Ok(()),
                    _ => Event::Ended(self.end().await),
                },
                _ = self.pidfd.readable() => Event::Ended(self.end().await),
                bytes = self.stderr.read() => Event::Stderr(bytes),
                bytes = self.stdout.read() => Event::Stdout(bytes),
            };
            match event {
                Event::Stderr(bytes) | Event::Stdout(bytes) => said.extend(bytes),
                _ => {
                    said.extend(self.stderr.take());
                    let said = String::from_utf8_lossy(&said);
                    let from = said.len().saturating_sub(SAID_MAX);
                    let last = said.get(from..).unwrap_or(&said).trim();
                    return Err(format!(
                        "the {} context did not start: {last}",
                        self.language.name()
                    ));
                }
            }
        }
    }

    /// Sends it a cell. Waits until it has taken it.
    pub(super) async fn send(&mut self, cell: &CellRequest<'_>) -> io::Result<()> {
        if let Some(bridge) = &self.bridge {
            return bridge.send(cell).await;
        }
        match self.language {
            Language::Bash => self.requests.write_all(&bash::request(cell)).await,
            _ => {
                let bytes = serde_json::to_vec(cell)?;
                let parts = bytes.len().div_ceil(PACKET_MAX).max(1);
                for (number, part) in bytes.chunks(PACKET_MAX).enumerate() {
                    let kind = if number + 1 == parts {
                        MESSAGE_END
                    } else {
                        MESSAGE_PART
                    };
                    let send = |channel: &Packets| channel.send(kind, part);
                    self.channel.async_io(Interest::WRITABLE, send).await?;
                }
                Ok(())
            }
        }
    }

    /// What it does next. Nothing is lost when this is given up halfway.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            let packet = tokio::select! {
                packet = packet(&mut self.channel) => packet,
                event = bridged(&mut self.bridge) => match event {
                    Some(event) => return event,
                    None => Ok(Received::Closed),
                },
                bytes = self.stdout.read() => return Event::Stdout(bytes),
                bytes = self.stderr.read() => return Event::Stderr(bytes),
                _ = self.pidfd.readable() => Ok(Received::Closed),
            };
            match packet {
                Ok(Received::Packet(kind @ (MESSAGE_PART | MESSAGE_END), bytes)) => {
                    if let Some(message) = self.assemble(kind, &bytes) {
                        return Event::Message(message);
                    }
                }
                // Another kind, or larger than packets are: its own doing, and dropped.
                Ok(Received::Packet(..) | Received::Nothing) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Ok(Received::Closed) | Err(_) => {
                    return Event::Ended(self.end().await);
                }
            }
        }
    }

    fn assemble(&mut self, kind: u8, part: &[u8]) -> Option<Vec<u8>> {
        self.too_long |= self.parts.len() + part.len() > MESSAGE_MAX;
        if self.too_long {
            self.parts.clear();
        } else {
            self.parts.extend_from_slice(part);
        }
        if kind != MESSAGE_END {
            return None;
        }
        let whole = !std::mem::take(&mut self.too_long);
        let message = std::mem::take(&mut self.parts);
        whole.then_some(message)
    }

    /// What it printed up to now and was not read yet: standard output, standard error.
    pub(super) fn printed(&mut self) -> (Vec<u8>, Vec<u8>) {
        (self.stdout.take(), self.stderr.take())
    }

    /// Interrupts what runs in it, with everything that was started by it.
    pub(super) fn interrupt(&self) {
        match &self.bridge {
            // A signal would end it.
            Some(bridge) => bridge.interrupt(),
            None => self.signal(Signal::INT),
        }
    }

    fn signal(&self, signal: Signal) {
        // It leads a group of its own; that it has ended is seen elsewhere.
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let (Some(pid), Some(_)) = (pid, &self.child) {
            kill_process_group(pid, signal).ok();
        }
    }

    /// Kills it, with everything that was started by it, and says how it ended.
    async fn end(&mut self) -> Exit {
        self.signal(Signal::KILL);
        let Some(mut child) = self.child.take() else {
            return Exit::Signal(9);
        };
        let waited = tokio::task::spawn_blocking(move || child.wait()).await;
        match waited {
            Ok(Ok(finished)) => finished.exit,
            _ => Exit::Signal(9),
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(child) = self.child.take() {
            // Killing waits for its end, and nobody here has the time.
            tokio::task::spawn_blocking(move || drop(child));
        }
    }
}

fn internal(what: &str) -> RpcError {
    RpcError::new(casemate_envd::Code::Internal, what)
}

/// The next event of a Jupyter kernel; never comes back where there is none.
async fn bridged(bridge: &mut Option<Bridge>) -> Option<Event> {
    match bridge {
        Some(bridge) => bridge.next().await,
        None => std::future::pending().await,
    }
}

/// The next packet.
async fn packet(channel: &mut AsyncFd<Packets>) -> io::Result<Received> {
    loop {
        let mut ready = channel.readable_mut().await?;
        match ready.get_inner_mut().receive(false)? {
            Received::Nothing => ready.clear_ready(),
            other => return Ok(other),
        }
    }
}
