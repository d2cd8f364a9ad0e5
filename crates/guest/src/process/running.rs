//! One process: its streams, its end, and whoever listens.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use casemate_envd::process::{
    EndEvent, ProcessConfig, ProcessInfo, ProcessSelector, PtySize, Signal,
};
use casemate_envd::{Code, RpcError};
use casemate_linux::{Child, Exit};
use rustix::process::{Signal as KernelSignal, pidfd_send_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::stream::{Listener, Listeners, Said};
use super::terminal::Terminal;
use crate::agent::Agent;
use crate::blocking::blocking;
use crate::launch::Program;
use crate::readiness::watched;
use crate::users::User;

/// Bytes of output in one message.
const CHUNK: usize = 32 << 10;
/// Bytes of a terminal's output in one message.
const TERMINAL_CHUNK: usize = 16 << 10;

/// What is to be started.
pub(crate) struct Starting {
    pub(crate) config: ProcessConfig,
    pub(crate) terminal: Option<PtySize>,
    pub(crate) tag: Option<String>,
    pub(crate) stdin: bool,
}

/// A process.
pub(crate) struct Running {
    pub(crate) pid: u32,
    config: ProcessConfig,
    tag: Option<String>,
    /// By descriptor, so that a number that is another's by now is never meant.
    pidfd: OwnedFd,
    stdin: Stdin,
    terminal: Option<Terminal>,
    listeners: Listeners,
    /// Raised when it has been waited for.
    waited_for: watch::Sender<bool>,
}

/// A process's standard input.
enum Stdin {
    /// It has none.
    None,
    /// A pipe, until it is closed. Writers wait for each other.
    Pipe(tokio::sync::Mutex<Option<pipe::Sender>>),
}

/// A pipe that a process writes to, and what its bytes are told as.
type Output = (pipe::Receiver, fn(bytes::Bytes) -> Said);

/// The agent's ends of a process's streams.
struct Ends {
    stdin: Stdin,
    outputs: Vec<Output>,
    terminal: Option<Terminal>,
}

/// The process's ends.
struct Streams([OwnedFd; 3]);

impl Running {
    /// Starts it. What is told of it is heard from its first byte on.
    pub(crate) async fn start(
        agent: &Arc<Agent>,
        user: &User,
        starting: Starting,
    ) -> Result<(Arc<Self>, Listener), RpcError> {
        let place = agent.processes.place()?;
        let Starting {
            config,
            terminal,
            tag,
            stdin,
        } = starting;
        if config.cmd.is_empty() {
            return Err(RpcError::new(Code::InvalidArgument, "there is no command"));
        }
        let cwd = agent.cwd(user, config.cwd.as_deref().unwrap_or_default())?;
        let env = agent.environment(user, &config.envs);
        let (ends, streams) = make(terminal, stdin, user).map_err(|error| {
            RpcError::new(Code::Internal, format!("making its streams: {error}"))
        })?;
        let argv: Vec<String> = std::iter::once(&config.cmd)
            .chain(&config.args)
            .cloned()
            .collect();
        let (user, with_terminal) = (user.clone(), ends.terminal.is_some());
        let child = blocking(move || {
            let Streams([stdin, stdout, stderr]) = &streams;
            let program = Program {
                user: &user,
                cwd: &cwd,
                argv: &argv,
                env: &env,
                streams: [stdin, stdout, stderr],
                terminal: with_terminal,
                channel: None,
            };
            program.start().map_err(|why| {
                let what = format!("error starting process '{}': {why}", argv.join(" "));
                RpcError::new(Code::InvalidArgument, what)
            })
        })
        .await?;
        let pidfd = duplicate(&child)?;
        let process = Arc::new(Self {
            pid: child.pid(),
            config,
            tag,
            pidfd,
            stdin: ends.stdin,
            terminal: ends.terminal,
            listeners: Listeners::default(),
            waited_for: watch::Sender::new(false),
        });
        let listener = process.listen()?;
        agent.processes.add(&process);
        drop(place);
        tokio::spawn(Arc::clone(&process).watch(Arc::clone(agent), child, ends.outputs));
        Ok((process, listener))
    }

    /// Reads what it writes, until it has ended and nobody holds its streams any more.
    async fn watch(self: Arc<Self>, agent: Arc<Agent>, child: Child, outputs: Vec<Output>) {
        let mut readers = tokio::task::JoinSet::new();
        for (output, said) in outputs {
            let process = Arc::clone(&self);
            readers.spawn(async move { process.read(output, said).await });
        }
        if self.terminal.is_some() {
            let process = Arc::clone(&self);
            readers.spawn(async move { process.read_terminal().await });
        }
        let exit = ended(child).await;
        self.waited_for.send_replace(true);
        while readers.join_next().await.is_some() {}
        agent.processes.ended(&self);
        self.listeners.end(end_of(exit)).await;
    }

    async fn read(&self, mut output: pipe::Receiver, said: fn(bytes::Bytes) -> Said) {
        let mut buffer = vec![0; CHUNK];
        // An error is an end: there is nothing more to be read.
        while let Ok(read @ 1..) = output.read(&mut buffer).await {
            let bytes = bytes::Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
            self.listeners.say(said(bytes)).await;
        }
    }

    async fn read_terminal(&self) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        let mut buffer = vec![0; TERMINAL_CHUNK];
        while let Ok(read @ 1..) = terminal.read(&mut buffer).await {
            let bytes = bytes::Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
            self.listeners.say(Said::Terminal(bytes)).await;
        }
    }

    pub(crate) fn is(&self, selector: &ProcessSelector) -> bool {
        selector.pid.is_some_and(|pid| pid == self.pid)
            || (selector.tag.is_some() && selector.tag == self.tag)
    }

    pub(crate) fn info(&self) -> ProcessInfo {
        ProcessInfo {
            config: Some(self.config.clone()),
            pid: self.pid,
            tag: self.tag.clone(),
        }
    }

    /// Hears what is told from now on.
    pub(crate) fn listen(&self) -> Result<Listener, RpcError> {
        self.listeners.add()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), RpcError> {
        let signal = match signal {
            Signal::Kill => KernelSignal::KILL,
            _ => KernelSignal::TERM,
        };
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(RpcError::new(Code::Internal, format!("signal: {error}"))),
        }
    }

    /// Waits until it is gone, and no longer than this.
    pub(crate) async fn gone(&self, within: Duration) {
        let mut waited_for = self.waited_for.subscribe();
        let gone = waited_for.wait_for(|gone| *gone);
        drop(tokio::time::timeout(within, gone).await);
    }

    pub(crate) fn resize(&self, size: PtySize) -> Result<(), RpcError> {
        let none = || RpcError::new(Code::FailedPrecondition, "the process has no terminal");
        let terminal = self.terminal.as_ref().ok_or_else(none)?;
        terminal
            .resize(size)
            .map_err(|error| RpcError::new(Code::Internal, format!("terminal: {error}")))
    }

    pub(crate) async fn write_stdin(&self, bytes: &[u8]) -> Result<(), RpcError> {
        let internal = |what: &str| RpcError::new(Code::Internal, what);
        if self.terminal.is_some() {
            return Err(internal("the process has a terminal: send it pty input"));
        }
        let Stdin::Pipe(pipe) = &self.stdin else {
            return Err(internal("the process has no standard input"));
        };
        let mut pipe = pipe.lock().await;
        let pipe = pipe
            .as_mut()
            .ok_or_else(|| internal("the standard input is closed"))?;
        let written = pipe.write_all(bytes).await;
        written.map_err(|error| internal(&format!("standard input: {error}")))
    }

    pub(crate) async fn write_terminal(&self, bytes: &[u8]) -> Result<(), RpcError> {
        let internal = |what: String| RpcError::new(Code::Internal, what);
        let none = || internal("the process has no terminal".to_owned());
        let terminal = self.terminal.as_ref().ok_or_else(none)?;
        let written = terminal.write_all(bytes).await;
        written.map_err(|error| internal(format!("terminal: {error}")))
    }

    pub(crate) async fn close_stdin(&self) -> Result<(), RpcError> {
        match &self.stdin {
            Stdin::Pipe(pipe) => {
                pipe.lock().await.take();
                Ok(())
            }
            Stdin::None if self.terminal.is_some() => Err(RpcError::new(
                Code::Unknown,
                "the standard input of a terminal cannot be closed: send it Ctrl+D (0x04)",
            )),
            Stdin::None => Ok(()),
        }
    }
}

/// A process by a descriptor of its own.
pub(crate) fn duplicate(child: &Child) -> Result<OwnedFd, RpcError> {
    let copy = rustix::io::fcntl_dupfd_cloexec(child.pidfd(), 3);
    copy.map_err(|error| RpcError::new(Code::Internal, format!("pidfd: {error}")))
}

/// Waits for the end of a process.
pub(crate) async fn ended(mut child: Child) -> io::Result<Exit> {
    let copy = rustix::io::fcntl_dupfd_cloexec(child.pidfd(), 3)?;
    let pidfd = watched(copy)?;
    loop {
        let mut ready = pidfd.readable().await?;
        if let Some(finished) = child.try_wait()? {
            return Ok(finished.exit);
        }
        ready.clear_ready();
    }
}

/// The end, in the protocol's words.
fn end_of(exit: io::Result<Exit>) -> EndEvent {
    let failed = |status: String| EndEvent {
        exit_code: -1,
        exited: false,
        error: Some(status.clone()),
        status,
    };
    match exit {
        Ok(Exit::Code(code)) => {
            let status = format!("exit status {code}");
            EndEvent {
                exit_code: code,
                exited: true,
                error: (code != 0).then(|| status.clone()),
                status,
            }
        }
        Ok(Exit::Signal(signal)) => failed(format!("signal: {}", signal_name(signal))),
        Err(error) => failed(format!("its end was not seen: {error}")),
    }
}

/// A signal in the words that SDKs show.
fn signal_name(signal: i32) -> String {
    let known = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        31 => "bad system call",
        other => return format!("signal {other}"),
    };
    known.to_owned()
}

/// The streams of a process: a terminal, or pipes.
fn make(terminal: Option<PtySize>, stdin: bool, user: &User) -> io::Result<(Ends, Streams)> {
    if let Some(size) = terminal {
        let (terminal, other) = Terminal::make(size, user)?;
        let streams = [other.try_clone()?, other.try_clone()?, other];
        let ends = Ends {
            stdin: Stdin::None,
            outputs: Vec::new(),
            terminal: Some(terminal),
        };
        return Ok((ends, Streams(streams)));
    }
    let (stdin, stdin_end) = if stdin {
        let (reader, writer) = io::pipe()?;
        let sender = pipe::Sender::from_owned_fd(writer.into())?;
        let pipe = tokio::sync::Mutex::new(Some(sender));
        (Stdin::Pipe(pipe), OwnedFd::from(reader))
    } else {
        let null = std::fs::File::open("/dev/null")?;
        (Stdin::None, null.into())
    };
    let (stdout, stdout_end) = output()?;
    let (stderr, stderr_end) = output()?;
    let ends = Ends {
        stdin,
        outputs: vec![(stdout, Said::Stdout as fn(_) -> _), (stderr, Said::Stderr)],
        terminal: None,
    };
    Ok((ends, Streams([stdin_end, stdout_end, stderr_end])))
}

/// A pipe that a process writes to.
pub(crate) fn output() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let receiver = pipe::Receiver::from_owned_fd(reader.into())?;
    Ok((receiver, writer.into()))
}

impl std::fmt::Debug for Running {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "process {}", self.pid)
    }
}
