//! The real agent on a unix socket in a folder of its own, and what talks to it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "each test uses a part of this; a failed unwrap is a failed test; tests start the agent"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use casemate_envd::client::{Client, ProcessStream, ProcessTold};
use casemate_envd::process::{EndEvent, ProcessConfig};
use tempfile::TempDir;

/// One agent is started at a time.
static STARTING: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// A number that no user has.
const NOBODY_ELSE: u32 = 42_424;

/// An agent that runs.
pub(crate) struct Agent {
    child: Child,
    folder: TempDir,
    pub(crate) home: PathBuf,
}

/// As whom it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// Somebody without rights, also where the tests run as root.
    Nobody,
    /// Whoever runs the tests.
    Us,
}

impl Agent {
    pub(crate) fn start(who: As, options: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("casemate-agent-")
            .tempdir()
            .unwrap();
        let home = folder.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let becomes = own == 0 && who == As::Nobody;
        let uid = if becomes { NOBODY_ELSE } else { own };
        let passwd = format!(
            "user:x:{uid}:{uid}::{}:/bin/bash\nother:x:1:1::/:/bin/sh\n",
            home.display()
        );
        std::fs::write(folder.path().join("passwd"), passwd).unwrap();
        std::fs::write(folder.path().join("group"), format!("user:x:{uid}:\n")).unwrap();
        // A program that is still open for writing, here or in a process just forked, cannot be started.
        let _one = STARTING
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Where the build lies may be nobody else's business.
        let program = folder.path().join("casemate-guest");
        std::fs::copy(program_path(), &program).unwrap();
        if becomes {
            for path in [folder.path(), &home] {
                std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
            }
        }
        let mut command = if becomes {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
            command.args(["--clear-groups", "--"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        let child = command
            .arg("--socket")
            .arg(folder.path().join("socket"))
            .arg("--passwd")
            .arg(folder.path().join("passwd"))
            .arg("--group")
            .arg(folder.path().join("group"))
            .args(options)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self {
            child,
            folder,
            home,
        };
        agent.wait();
        agent
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.socket())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request as it is and returns the whole answer: its head, and its body without chunks.
    pub(crate) fn raw(&self, request: impl AsRef<[u8]>) -> (String, Vec<u8>) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream.write_all(request.as_ref()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        split(&all)
    }

    /// A request with a body; the connection is closed after the answer.
    pub(crate) fn http(
        &self,
        line: &str,
        headers: &str,
        body: impl AsRef<[u8]>,
    ) -> (String, Vec<u8>) {
        let body = body.as_ref();
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.raw([head.as_bytes(), body].concat())
    }

    /// A unary call in JSON: its status and its body.
    pub(crate) fn rpc(&self, method: &str, body: &str) -> (u16, String) {
        let line = format!("POST /{method}");
        let (head, body) = self.http(&line, "content-type: application/json\r\n", body);
        (status(&head), String::from_utf8(body).unwrap())
    }

    /// A streaming call in JSON: the payloads of its envelopes, and the last one's.
    pub(crate) fn stream(&self, method: &str, headers: &str, body: &str) -> (Vec<String>, String) {
        let line = format!("POST /{method}");
        let headers = format!("content-type: application/connect+json\r\n{headers}");
        let (head, body) = self.http(&line, &headers, envelope(0, body));
        assert_eq!(status(&head), 200, "{head}");
        assert!(
            head.contains("content-type: application/connect+json\r\n"),
            "{head}"
        );
        let mut messages = envelopes(&body);
        let (flags, end) = messages.pop().unwrap();
        assert_eq!(flags, 2);
        assert!(messages.iter().all(|(flags, _)| *flags == 0));
        (messages.into_iter().map(|(_, text)| text).collect(), end)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The agent as it is shipped, where `./dev` has built it, else as cargo builds it.
pub(crate) fn program_path() -> PathBuf {
    std::env::var_os("CASEMATE_GUEST_AGENT").map_or_else(
        || env!("CARGO_BIN_EXE_casemate-guest").into(),
        PathBuf::from,
    )
}

pub(crate) fn envelope(flags: u8, payload: &str) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[flags][..], &length, payload.as_bytes()].concat()
}

pub(crate) fn envelopes(mut bytes: &[u8]) -> Vec<(u8, String)> {
    let mut all = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        let (payload, rest) = rest.split_at(length);
        all.push((header[0], String::from_utf8(payload.to_vec()).unwrap()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "{bytes:?}");
    all
}

pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn split(all: &[u8]) -> (String, Vec<u8>) {
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(all[..end].to_vec())
        .unwrap()
        .to_lowercase();
    let mut body = &all[end..];
    if !head.contains("transfer-encoding: chunked") {
        return (head, body.to_vec());
    }
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n").unwrap();
        let length = std::str::from_utf8(&body[..line]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return (head, whole);
        }
        whole.extend_from_slice(&body[line + 2..line + 2 + length]);
        body = &body[line + 2 + length + 2..];
    }
}

/// A command of bash.
pub(crate) fn bash(code: &str) -> ProcessConfig {
    ProcessConfig {
        cmd: "/bin/bash".to_owned(),
        args: vec!["-c".to_owned(), code.to_owned()],
        ..ProcessConfig::default()
    }
}

/// Everything a process said, and its end.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) terminal: Vec<u8>,
    pub(crate) end: EndEvent,
}

pub(crate) async fn whole(mut process: ProcessStream) -> Said {
    let mut said = Said::default();
    while let Some(told) = process.next().await.unwrap() {
        match told {
            ProcessTold::Stdout(bytes) => said.stdout.extend(bytes),
            ProcessTold::Stderr(bytes) => said.stderr.extend(bytes),
            ProcessTold::Terminal(bytes) => said.terminal.extend(bytes),
            ProcessTold::Ended(end) => said.end = end,
        }
    }
    said
}

/// A Python with IPython, pandas and matplotlib, or why there is none: with CI set that is a failure.
pub(crate) fn python() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache");
    let default = cache
        .unwrap_or_else(home)
        .join("casemate/peers/native/bin/python");
    let path = std::env::var_os("CASEMATE_GUEST_PYTHON").map_or(default, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is missing",
        path.display()
    );
    eprintln!(
        "skipped: {} is missing; ./dev test makes it",
        path.display()
    );
    None
}
