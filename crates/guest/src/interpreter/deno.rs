//! JavaScript and TypeScript contexts: Deno's own Jupyter kernel, spoken to over the sandbox's loopback.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_backend::contract::Signal;
use casemate_driver::Message;
use casemate_envd::{Code, RpcError};
use casemate_model::result::{Displayed, Origin, ProgramError, Representation};
use futures_util::FutureExt as _;
use rustix::fs::{Gid, Uid};
use serde_json::{Map, Value, json};
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout_at};

use super::jupyter::{self, Requests, Said};
use super::kernel::{CellRequest, Command, Event};
use crate::agent::random_name;
use crate::config::Config;
use crate::users::User;
use casemate_envd::server::paths::text;

/// Prepares a context: the variables of one cell, the mark behind it, output of Node's in the order of the rest, and
/// `require`, which other kernels have.
const PRELUDE: &str = r#"Object.defineProperty(globalThis, Symbol.for("casemate"), { value: (() => {
    const { env, jupyter: { broadcast } } = Deno;
    let undo = [];
    for (const name of ["stdout", "stderr"]) {
        process[name].write = (chunk, encoding, done) => {
            const text = typeof chunk === "string" ? chunk : new TextDecoder().decode(chunk);
            broadcast("stream", { name, text });
            const call = typeof encoding === "function" ? encoding : done;
            if (call) queueMicrotask(() => call());
            return true;
        };
    }
    return {
        env(given) {
            for (const [name, value] of Object.entries(given)) {
                try { const before = env.get(name); env.set(name, value); undo.push([name, before]); } catch {}
            }
        },
        end(number) {
            for (const [name, before] of undo.reverse()) before === undefined ? env.delete(name) : env.set(name, before);
            undo = [];
            broadcast("casemate", { number });
        },
    };
})() });
Object.defineProperty(globalThis, "require", {
    configurable: true,
    get: () => process.getBuiltinModule("module").createRequire(`${process.cwd()}/`),
    set: (value) => Object.defineProperty(globalThis, "require", { value, configurable: true, writable: true }),
});"#;
/// How often a socket is tried that does not listen yet.
const AGAIN: Duration = Duration::from_millis(10);
/// How long what a cell said may be behind its end.
const MARK_WITHIN: Duration = Duration::from_secs(2);
/// Events that wait for whoever takes them.
const WAITING: usize = 16;

/// Its program: beside this one, else as found in `PATH`.
pub(crate) fn beside_this_program() -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.join("deno")));
    let found = beside.filter(|deno| deno.is_file());
    found.unwrap_or_else(|| PathBuf::from("deno"))
}

/// How it is started. It reads from its standard input where it is to listen.
pub(super) fn command(config: &Config) -> Result<Command, RpcError> {
    let program = super::language::path_of(&config.deno).ok_or_else(|| {
        let what = "there is no Deno here, which contexts for javascript and typescript need; \
                    `./dev serve` fetches it, and `casemate serve --deno FILE` takes one that is there";
        RpcError::new(Code::Unimplemented, what)
    })?;
    let folder = text(&std::env::temp_dir().join(".deno"));
    let argv = [
        &*text(&program),
        "jupyter",
        "--kernel",
        "--conn",
        "/proc/self/fd/0",
    ];
    let env = [
        ("DENO_DIR", folder.as_str()),
        ("DENO_NO_PROMPT", "1"),
        ("DENO_NO_UPDATE_CHECK", "1"),
        // Modules of Node's by their bare names, as its own programs have them.
        ("DENO_UNSTABLE_BARE_NODE_BUILTINS", "1"),
        ("LANG", "C.UTF-8"),
        ("NO_COLOR", "1"),
    ];
    Ok(Command {
        argv: argv.map(str::to_owned).into(),
        env: env
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    })
}

/// Where a kernel listens, and what its messages are signed with.
#[derive(Debug, Clone)]
pub(super) struct Meeting {
    ip: IpAddr,
    ports: [u16; 5],
    key: String,
}

impl Meeting {
    /// A place of its own on the loopback.
    pub(super) fn make() -> Result<Self, String> {
        let key = random_name().map_err(|error| error.message)?;
        // Not where servers listen: what is reached from outside by its port is at 127.0.0.1.
        let byte = |at: usize| u8::from_str_radix(key.get(at..at + 2).unwrap_or("1"), 16);
        let [a, b] = [byte(0), byte(2)].map(|byte| byte.unwrap_or(1));
        let ip = IpAddr::V4(Ipv4Addr::new(127, a | 1, b, 1));
        let free = || -> io::Result<_> {
            let listening: Vec<TcpListener> = (0..5)
                .map(|_| TcpListener::bind((ip, 0)))
                .collect::<io::Result<_>>()?;
            let mut ports = [0; 5];
            for (port, listener) in ports.iter_mut().zip(&listening) {
                *port = listener.local_addr()?.port();
            }
            Ok(ports)
        };
        let ports = free().map_err(|error| format!("the loopback: {error}"))?;
        Ok(Self { ip, ports, key })
    }

    /// A standard input that says so. It belongs to the user, who opens it by its name.
    pub(super) fn stdin(&self, user: &User) -> io::Result<OwnedFd> {
        let [shell, iopub, control, stdin, heartbeat] = self.ports;
        let told = json!({
            "transport": "tcp", "ip": self.ip, "key": self.key, "signature_scheme": "hmac-sha256",
            "shell_port": shell, "iopub_port": iopub, "control_port": control,
            "stdin_port": stdin, "hb_port": heartbeat, "kernel_name": "deno",
        });
        let (reader, mut writer) = io::pipe()?;
        // Far less than a pipe holds.
        writer.write_all(told.to_string().as_bytes())?;
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            rustix::fs::fchown(&reader, Some(uid), Some(gid))?;
        }
        Ok(reader.into())
    }

    async fn connect(&self, number: usize, kind: &str) -> io::Result<(OwnedReadHalf, Requests)> {
        let port = self.ports.get(number).copied().unwrap_or_default();
        let address = SocketAddr::new(self.ip, port);
        loop {
            match jupyter::connect(address, kind, &self.key).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    sleep(AGAIN).await;
                }
                other => return other,
            }
        }
    }
}

/// A cell for it.
struct Cell {
    code: String,
    env: BTreeMap<String, String>,
    most: u64,
}

/// The way to a kernel: cells there, events back.
pub(super) struct Bridge {
    cells: mpsc::Sender<Cell>,
    events: mpsc::Receiver<Event>,
    interrupt: Arc<Notify>,
}

impl Bridge {
    pub(super) fn to(meeting: Meeting) -> Self {
        let (cells, waiting) = mpsc::channel(1);
        let (sender, events) = mpsc::channel(WAITING);
        let interrupt = Arc::new(Notify::new());
        let raised = Arc::clone(&interrupt);
        tokio::spawn(async move {
            let gone = sender.clone();
            // What goes wrong ends the events, and with them the process.
            tokio::select! {
                () = gone.closed() => {}
                _ = bridged(&meeting, waiting, &sender, &raised) => {}
            }
        });
        Self {
            cells,
            events,
            interrupt,
        }
    }

    pub(super) async fn send(&self, cell: &CellRequest<'_>) -> io::Result<()> {
        let cell = Cell {
            code: cell.code.to_owned(),
            env: cell.env.clone(),
            most: cell.max_result_bytes,
        };
        let sent = self.cells.send(cell).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// The next event; none where there will be no more.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    pub(super) fn interrupt(&self) {
        self.interrupt.notify_one();
    }
}

async fn bridged(
    meeting: &Meeting,
    mut cells: mpsc::Receiver<Cell>,
    events: &mpsc::Sender<Event>,
    interrupt: &Notify,
) -> io::Result<()> {
    let (shell, requests) = meeting.connect(0, "DEALER").await?;
    let (iopub, mut subscribed) = meeting.connect(1, "SUB").await?;
    let (answers, control) = meeting.connect(2, "DEALER").await?;
    subscribed.subscribe().await?;
    let (sender, said) = mpsc::channel(WAITING);
    for read in [shell, iopub, answers] {
        tokio::spawn(pass_on(read, sender.clone()));
    }
    drop(sender);
    let mut talk = Talk {
        requests,
        control,
        said,
        events,
        interrupt,
        room: u64::MAX,
        marks: 0,
        came: 0,
        _subscribed: subscribed,
    };
    talk.begin().await?;
    // It stands.
    talk.tell(Event::Ready).await?;
    loop {
        tokio::select! {
            cell = cells.recv() => match cell {
                Some(cell) => talk.cell(&cell).await?,
                None => return Ok(()),
            },
            said = talk.said.recv() => talk.published(said.ok_or(io::ErrorKind::BrokenPipe)?).await?,
        }
    }
}

async fn pass_on(mut read: OwnedReadHalf, said: mpsc::Sender<Said>) {
    while let Ok(one) = jupyter::receive(&mut read).await {
        if said.send(one).await.is_err() {
            return;
        }
    }
}

/// One side of the talk with a kernel.
struct Talk<'a> {
    requests: Requests,
    control: Requests,
    said: mpsc::Receiver<Said>,
    events: &'a mpsc::Sender<Event>,
    interrupt: &'a Notify,
    /// How many bytes this cell may still show.
    room: u64,
    /// Marks that were asked for.
    marks: u64,
    /// The last one that came.
    came: u64,
    /// Held, since publishing ends with it.
    _subscribed: Requests,
}

impl Talk<'_> {
    /// Asks until something is published: before a subscription is known nothing is.
    async fn begin(&mut self) -> io::Result<()> {
        self.request(PRELUDE, true).await?;
        loop {
            self.mark().await?;
            let until = Instant::now() + AGAIN * 10;
            if self.until_mark(until).await? {
                return Ok(());
            }
        }
    }

    async fn cell(&mut self, cell: &Cell) -> io::Result<()> {
        self.room = cell.most;
        // One that was meant for the cell before.
        self.interrupt.notified().now_or_never();
        if !cell.env.is_empty() {
            let given = json!(cell.env);
            let code = format!("globalThis[Symbol.for(\"casemate\")].env({given})");
            self.request(&code, true).await?;
        }
        let reply = self.request(&cell.code, false).await?;
        self.mark().await?;
        self.until_mark(Instant::now() + MARK_WITHIN).await?;
        if reply.content.get("status").and_then(Value::as_str) == Some("error") {
            let error = Message::Signal(Signal::Error(error(&reply.content)));
            self.tell(Event::Told(Box::new(error))).await?;
        }
        self.tell(Event::Told(Box::new(Message::End(0)))).await
    }

    /// Runs code, and tells of what is published meanwhile; its reply.
    async fn request(&mut self, code: &str, silent: bool) -> io::Result<Said> {
        let content = execute(code, silent);
        let id = self.requests.send("execute_request", &content).await?;
        loop {
            tokio::select! {
                said = self.said.recv() => {
                    let said = said.ok_or(io::ErrorKind::BrokenPipe)?;
                    if said.kind == "execute_reply" && said.parent == id {
                        return Ok(said);
                    }
                    self.published(said).await?;
                }
                // What is of ours between cells is short, and must not be cut off.
                () = self.interrupt.notified(), if !silent => {
                    self.control.send("interrupt_request", &json!({})).await?;
                }
            }
        }
    }

    /// Asks for a mark behind everything that was said: replies and states overtake what a cell printed.
    async fn mark(&mut self) -> io::Result<()> {
        self.marks += 1;
        let code = format!("globalThis[Symbol.for(\"casemate\")].end({})", self.marks);
        self.request(&code, true).await.map(drop)
    }

    /// Tells of what is published before the last mark; whether it came.
    async fn until_mark(&mut self, until: Instant) -> io::Result<bool> {
        while self.came < self.marks {
            let Ok(said) = timeout_at(until, self.said.recv()).await else {
                return Ok(false);
            };
            self.published(said.ok_or(io::ErrorKind::BrokenPipe)?)
                .await?;
        }
        Ok(true)
    }

    async fn published(&mut self, said: Said) -> io::Result<()> {
        let text = |name: &str| said.content.get(name).and_then(Value::as_str);
        let origin = match said.kind.as_str() {
            "stream" => {
                let bytes = text("text").unwrap_or_default().as_bytes().to_vec();
                let event = match text("name") {
                    Some("stderr") => Event::Stderr(bytes),
                    _ => Event::Stdout(bytes),
                };
                return self.tell(event).await;
            }
            "casemate" => {
                let number = said.content.get("number").and_then(Value::as_u64);
                self.came = number.unwrap_or(self.came);
                return Ok(());
            }
            "execute_result" => Origin::Expression,
            "display_data" | "update_display_data" => Origin::Display,
            _ => return Ok(()),
        };
        let Some(Value::Object(forms)) = said.content.get("data") else {
            return Ok(());
        };
        let displayed = displayed(origin, forms);
        let forms = displayed.representations.iter();
        let bytes: usize = forms.map(|form| form.content.len()).sum();
        let event = match self.room.checked_sub(bytes as u64) {
            Some(left) => {
                self.room = left;
                let signal = Message::Signal(Signal::Displayed(displayed));
                Event::Told(Box::new(signal))
            }
            None => Event::Stderr(b"a result is left out: it is too large\n".to_vec()),
        };
        self.tell(event).await
    }

    async fn tell(&self, event: Event) -> io::Result<()> {
        let told = self.events.send(event).await;
        told.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn execute(code: &str, silent: bool) -> Value {
    json!({
        "code": code, "silent": silent, "store_history": !silent,
        "user_expressions": {}, "allow_stdin": false, "stop_on_error": false,
    })
}

fn displayed(origin: Origin, forms: &Map<String, Value>) -> Displayed {
    let form = |(mime, value): (&String, &Value)| Representation {
        content: content(mime, value),
        mime: mime.clone(),
    };
    Displayed {
        origin,
        representations: forms.iter().map(form).collect(),
    }
}

/// Pictures are told in base64, texts as texts, everything else as JSON.
fn content(mime: &str, value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) if is_binary(mime) => {
            let decoded = STANDARD.decode(text.trim_ascii());
            decoded.unwrap_or_default()
        }
        Value::String(text) if !mime.ends_with("json") => text.as_bytes().to_vec(),
        other => other.to_string().into_bytes(),
    }
}

fn is_binary(mime: &str) -> bool {
    mime == "application/pdf" || (mime.starts_with("image/") && mime != "image/svg+xml")
}

fn error(reply: &Value) -> ProgramError {
    let text = |name: &str| reply.get(name).and_then(Value::as_str).map(str::to_owned);
    let lines = reply.get("traceback").and_then(Value::as_array);
    let lines: Vec<&str> = lines
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let (name, value) = match (text("ename"), text("evalue")) {
        // Its words for code that did not begin, whose own error it keeps to itself.
        (_, Some(value)) if value == "Execution failed" && lines.is_empty() => (
            "SyntaxError".to_owned(),
            "the code cannot be parsed, or was interrupted".to_owned(),
        ),
        (name, value) => (
            name.unwrap_or_else(|| "Error".to_owned()),
            value.unwrap_or_default(),
        ),
    };
    ProgramError {
        name,
        value,
        traceback: lines.join("\n"),
        line: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_what_their_types_say() {
        assert_eq!(content("text/plain", &json!("a")), b"a");
        assert_eq!(content("image/png", &json!("iVA=\n")), b"\x89P");
        assert_eq!(content("image/svg+xml", &json!("<svg/>")), b"<svg/>");
        assert_eq!(content("application/json", &json!({"a": 1})), b"{\"a\":1}");
        assert_eq!(content("application/json", &json!("a")), b"\"a\"");
        assert_eq!(content("image/png", &json!("?")), b"");
    }

    #[test]
    fn an_error_has_its_lines() {
        let reply = json!({"ename": "TypeError", "evalue": "no", "traceback": ["TypeError: no", "    at x"]});
        let told = error(&reply);
        assert_eq!((&*told.name, &*told.value), ("TypeError", "no"));
        assert_eq!(told.traceback, "TypeError: no\n    at x");
        assert_eq!(error(&json!([])).name, "Error");
    }

    #[test]
    fn meetings_are_not_where_servers_listen() {
        let meeting = Meeting::make().unwrap();
        assert!(meeting.ip.is_loopback() && meeting.ip != IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(meeting.key.len(), 32);
    }
}
