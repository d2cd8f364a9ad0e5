//! The tools as the official Python client of the Model Context Protocol sees them, over both transports, and what
//! `/mcp` refuses.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use std::path::PathBuf;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use served::{Server, command, start, until};

/// Sessions of the protocol that a tenant may have at `/mcp`.
const MOST: usize = 64;

/// The environment of the client.
fn client() -> Option<PathBuf> {
    let found = support::installed("mcp", include_bytes!("mcp/requirements.txt"));
    if found.is_none() {
        skipped("the client is not installed; `./dev test` does it");
    }
    found
}

fn skipped(why: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "with CI set this is not skipped: {why}"
    );
    eprintln!("skipped: {why}");
}

/// Only root has the jails that other languages and sessions take.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skipped("this is not root, which jails take");
    }
    is_root
}

/// Lets the client do a part of what it has, and be content with it.
fn drive(environment: &std::path::Path, part: &str, arguments: &Value) {
    let output = command(environment.join("bin/python"))
        .arg(support::repository("crates/casemate/tests/mcp/client.py"))
        .arg(part)
        .arg(arguments.to_string())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{part}: {}",
        support::stderr(&output)
    );
}

fn url(server: &Server) -> String {
    format!("http://{}", server.address)
}

#[test]
fn the_official_client_runs_reads_and_is_refused_over_stdio() {
    let Some(client) = client() else { return };
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table.csv");
    std::fs::write(&table, "day,n\n1,2\n2,3\n3,5\n").unwrap();
    let program = env!("CARGO_BIN_EXE_casemate");
    drive(
        &client,
        "stdio",
        &json!({"program": program, "table": table, "has_sessions": is_root()}),
    );
}

#[test]
fn the_official_client_runs_reads_and_is_refused_over_http() {
    let Some(client) = client() else { return };
    let server = start(&["--sessions", "off"]);
    let arguments = json!({"server": url(&server), "has_sessions": false});
    drive(&client, "http", &arguments);
    drive(&client, "leaving", &json!({"server": url(&server)}));
}

#[test]
fn a_tenant_has_its_own_and_a_session_its_key() {
    let Some(client) = client() else { return };
    let server = start(&["--sessions", "off"]);
    let arguments = json!({
        "server": url(&server),
        "one": server.key(&["--tenant", "one"]),
        "colleague": server.key(&["--tenant", "one"]),
        "other": server.key(&["--tenant", "other"]),
        "bound": server.key(&["--tenant", "bound", "--scope", "scan", "--per-minute", "1"]),
    });
    drive(&client, "tenants", &arguments);
}

#[test]
fn other_languages_run_where_the_policy_lets_them() {
    let Some(client) = client().filter(|_| is_root()) else {
        return;
    };
    let server = start(&["--sessions", "off", "--policy", "native"]);
    drive(&client, "languages", &json!({"server": url(&server)}));
}

#[test]
fn a_session_keeps_its_state_and_is_its_tenants() {
    let Some(client) = client().filter(|_| is_root()) else {
        return;
    };
    let server = start(&["--sandboxes", "1"]);
    let arguments = json!({
        "server": url(&server),
        "one": server.key(&["--tenant", "one"]),
        "other": server.key(&["--tenant", "other"]),
    });
    drive(&client, "sessions", &arguments);
}

#[test]
fn a_server_that_stops_sends_the_answers_it_has() {
    let Some(client) = client() else { return };
    let mut server = start(&["--sessions", "off"]);
    let arguments = json!({"server": url(&server), "pid": server.child.id()});
    drive(&client, "last_answer", &arguments);
    let status = until(|| server.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

const ACCEPT: (&str, &str) = ("accept", "application/json, text/event-stream");
const JSON: (&str, &str) = ("content-type", "application/json");

fn hello() -> Vec<u8> {
    let client = json!({"name": "raw", "version": "1"});
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client});
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    hello.to_string().into_bytes()
}

/// Opens a session of the protocol.
fn opened(server: &Server) -> String {
    let answer = server.ask("POST", "/mcp", &[ACCEPT, JSON], &hello());
    assert_eq!(answer.status, 200, "{:?}", String::from_utf8(answer.body));
    answer.header("mcp-session-id").to_owned()
}

/// How a session of the protocol answers.
fn asked(server: &Server, session: &str) -> u16 {
    let ping = json!({"jsonrpc": "2.0", "id": 2, "method": "ping"}).to_string();
    let headers = [ACCEPT, JSON, ("mcp-session-id", session)];
    server.ask("POST", "/mcp", &headers, ping.as_bytes()).status
}

#[test]
fn what_is_no_request_of_a_clients_is_refused() {
    let server = start(&["--sessions", "off", "--body", "4k"]);
    for (headers, status) in [
        (vec![("origin", "http://evil.example")], 403),
        (vec![("origin", "null")], 403),
        (vec![("sec-fetch-site", "cross-site")], 403),
        (vec![("host", "evil.example")], 403),
        (vec![("mcp-session-id", "none")], 404),
        (vec![], 200),
    ] {
        let all = [&headers[..], &[ACCEPT, JSON]].concat();
        let answer = server.ask("POST", "/mcp", &all, &hello());
        assert_eq!(answer.status, status, "{headers:?}");
    }
    for (method, headers, body, status) in [
        ("POST", vec![JSON], hello(), 406),
        ("POST", vec![ACCEPT], hello(), 415),
        ("POST", vec![ACCEPT, JSON], b"{".to_vec(), 415),
        ("POST", vec![ACCEPT, JSON], vec![b' '; 5000], 413),
        ("PUT", vec![ACCEPT, JSON], hello(), 405),
        ("GET", vec![ACCEPT], Vec::new(), 400),
    ] {
        let answer = server.ask(method, "/mcp", &headers, &body);
        assert_eq!(answer.status, status, "{method} {headers:?}");
        let told = answer.json();
        assert_eq!(told["code"], json!(status), "{told}");
        assert!(told["request_id"].as_str().unwrap().starts_with("req-"));
    }
}

#[test]
fn sessions_of_the_protocol_are_bounded_and_end_when_they_are_idle() {
    let server = start(&["--sessions", "off", "--mcp-idle", "5s"]);
    let first = opened(&server);
    let second = opened(&server);
    // The second was used last: the first makes room.
    assert_eq!(
        (asked(&server, &first), asked(&server, &second)),
        (200, 200)
    );
    assert_eq!(asked(&server, &second), 200);
    let others: Vec<String> = (0..MOST - 1).map(|_| opened(&server)).collect();
    assert_eq!(
        (asked(&server, &first), asked(&server, &second)),
        (404, 200)
    );
    // A client that says that it is done is.
    let last = others.last().unwrap();
    let headers = [("mcp-session-id", last.as_str())];
    assert_eq!(server.ask("DELETE", "/mcp", &headers, b"").status, 204);
    assert_eq!(asked(&server, last), 404);
    // One that says nothing is, in time; to ask whether it is would be to use it.
    std::thread::sleep(std::time::Duration::from_secs(9));
    assert_eq!(asked(&server, &second), 404);
    assert_eq!(asked(&server, &opened(&server)), 200);
}

#[test]
fn a_stream_that_only_listens_keeps_no_server_up() {
    let mut server = start(&["--sessions", "off"]);
    let session = opened(&server);
    let headers = format!("Accept: text/event-stream\r\nMcp-Session-Id: {session}\r\n");
    let listening = served::send(&server, "GET", "/mcp", &headers, b"");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let begun = std::time::Instant::now();
    let pid = rustix::process::Pid::from_child(&server.child);
    kill_process(pid, Signal::TERM).unwrap();
    let (status, _) = served::heard(listening);
    assert_eq!(status, 200);
    assert!(until(|| server.child.try_wait().unwrap()).success());
    assert!(begun.elapsed() < std::time::Duration::from_secs(4));
}
