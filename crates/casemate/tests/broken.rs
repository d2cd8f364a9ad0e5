//! What is broken, slow, too large or gone: the documented error, and the others unharmed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use served::{Server, command, folder, heard, send, sha256, start, start_as, until};

#[test]
fn errors_say_what_why_and_what_to_do() {
    let server = start(&["--body", "1m"]);
    let long = vec![b' '; 2 << 20];
    let table: [(&str, &str, &[u8], u16, &str); 18] = [
        (
            "POST",
            "/v1/runs",
            b"{\"code\": \"print(1)\"",
            400,
            "not a request to run",
        ),
        ("POST", "/v1/runs", b"", 400, "not a request to run"),
        ("POST", "/v1/runs", b"\xff\xfe", 400, "not a request to run"),
        (
            "POST",
            "/v1/runs",
            br#"{"code": 1}"#,
            400,
            "not a request to run",
        ),
        (
            "POST",
            "/v1/runs",
            br#"{"code": "1", "cdoe": "2"}"#,
            400,
            "cdoe",
        ),
        (
            "POST",
            "/v1/runs",
            br#"{"code": "1", "language": "cobol"}"#,
            400,
            "cobol",
        ),
        (
            "POST",
            "/v1/runs",
            br#"{"code": "1", "policy": "lenient"}"#,
            404,
            "lenient",
        ),
        (
            "POST",
            "/v1/runs",
            br#"{"code": "1", "files": [{"path": "/etc/passwd", "text": ""}]}"#,
            400,
            "/data/",
        ),
        (
            "POST",
            "/v1/runs",
            br#"{"code": "1", "files": [{"path": "/data/x", "upload": "../../etc/passwd"}]}"#,
            404,
            "etc/passwd",
        ),
        ("POST", "/v1/runs", &long, 413, "larger"),
        (
            "GET",
            "/v1/runs/run-0000000000000000",
            b"",
            404,
            "run-0000000000000000",
        ),
        ("GET", "/v1/nothing", b"", 404, "/v1/nothing"),
        (
            "GET",
            "/v1/runs/..%2f..%2fetc%2fpasswd",
            b"",
            404,
            "etc/passwd",
        ),
        (
            "GET",
            "/v1/runs/run-0000000000000000/artifacts/..%2f0",
            b"",
            404,
            "../0",
        ),
        ("PATCH", "/v1/runs", b"", 405, "method"),
        (
            "PUT",
            "/v1/uploads/..%2f..%2fetc%2fpasswd",
            b"x",
            400,
            "SHA-256",
        ),
        (
            "POST",
            "/v1/runs",
            br#"{"code": "1", "limits": {"wall_time_ms": -1}}"#,
            400,
            "-1",
        ),
        (
            "POST",
            "/v1/runs",
            br#"{"code": "1", "files": [{"path": "/data/../x", "text": ""}]}"#,
            400,
            "/data/../x",
        ),
    ];
    for (method, path, body, status, word) in table {
        let answer = server.ask(method, path, &[], body);
        assert_eq!(
            answer.status,
            status,
            "{method} {path}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        let error = answer.json();
        assert_eq!(error["code"], status);
        assert!(error["message"].as_str().unwrap().contains(word), "{error}");
        for field in ["cause", "remediation"] {
            assert!(!error[field].as_str().unwrap().is_empty(), "{error}");
        }
        assert_eq!(error["request_id"], answer.header("x-request-id"));
    }
    // A refusal is an outcome, not an error: it says the rule and a better way.
    let refused = server
        .post("/v1/runs", &json!({"code": "open('/etc/shadow').read()"}))
        .json();
    assert_eq!(refused["ending"]["status"], "refused");
    assert!(!refused["ending"]["hint"].as_str().unwrap().is_empty());
}

/// The server still does its work.
fn works(server: &Server) {
    let outcome = server.post("/v1/runs", &json!({"code": "print('works')"}));
    assert_eq!(outcome.json()["stdout"], "works\n");
}

#[test]
fn a_body_that_breaks_off_or_does_not_come_harms_nobody() {
    let server = start(&["--body", "1m"]);
    // Cut off in the middle, of both lengths and kinds.
    for headers in [
        "Content-Length: 100\r\n",
        "Transfer-Encoding: chunked\r\nX-Content-Length: 0\r\n",
    ] {
        let socket = send(&server, "POST", "/v1/runs", headers, b"8\r\n{\"code\"");
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let (status, text) = heard(socket);
        assert!(status == 0 || status == 400, "{text}");
    }
    // More than is taken is refused by its length, before it is sent.
    let socket = send(
        &server,
        "POST",
        "/v1/runs",
        "Content-Length: 99999999999\r\n",
        b"{",
    );
    assert_eq!(heard(socket).0, 413);
    // And where there is none, when there is too much of it.
    let mut chunk = b"200000\r\n".to_vec();
    chunk.extend(vec![b' '; 2 << 20]);
    let socket = send(
        &server,
        "POST",
        "/v1/runs",
        "Transfer-Encoding: chunked\r\nX-Content-Length: 0\r\n",
        &chunk,
    );
    assert_eq!(heard(socket).0, 413);
    // A client that sends all of it before it reads anything hears why it was refused.
    for _ in 0..20 {
        let mut socket = send(
            &server,
            "POST",
            "/v1/runs",
            "Content-Length: 8388608\r\n",
            b"{",
        );
        for _ in 0..8 {
            socket.write_all(&vec![b' '; (1 << 20) - 1]).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        socket.write_all(b"       ").unwrap();
        assert_eq!(heard(socket).0, 413);
    }
    // No HTTP at all.
    let mut socket = std::net::TcpStream::connect(&server.address).unwrap();
    socket
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        .unwrap();
    assert_eq!(heard(socket).0, 400);
    works(&server);
}

#[test]
fn slow_clients_are_not_waited_for_and_hold_up_nobody() {
    let server = start(&[]);
    let begun = Instant::now();
    // Heads that never end, and bodies that never come, many at once.
    let heads: Vec<_> = (0..50)
        .map(|_| {
            let mut socket = std::net::TcpStream::connect(&server.address).unwrap();
            socket
                .write_all(b"POST /v1/runs HTTP/1.1\r\nHost: ")
                .unwrap();
            socket
        })
        .collect();
    let bodies: Vec<_> = (0..50)
        .map(|_| {
            send(
                &server,
                "POST",
                "/v1/runs",
                "Content-Length: 30\r\n",
                b"{\"code",
            )
        })
        .collect();
    works(&server);
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    for body in bodies {
        let (status, text) = heard(body);
        assert_eq!(status, 408, "{text}");
        assert!(text.contains("too_slow"), "{text}");
    }
    for head in heads {
        heard(head);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(45),
        "{:?}",
        begun.elapsed()
    );
    works(&server);
}

#[test]
fn a_reader_that_stops_reading_does_not_stop_the_run() {
    let server = start(&[]);
    // About a megabyte of answer, and nobody reads it.
    let body = json!({"code": "print('x' * 900000)"}).to_string();
    let deaf: Vec<_> = (0..8)
        .map(|_| {
            send(
                &server,
                "POST",
                "/v1/runs",
                "Accept: application/x-ndjson\r\n",
                body.as_bytes(),
            )
        })
        .collect();
    let ended = || {
        let runs = server.get("/v1/runs").json()["runs"]
            .as_array()
            .unwrap()
            .clone();
        let ended = runs.iter().filter(|run| run["state"] == "ended").count();
        (ended == 8).then_some(())
    };
    until(ended);
    works(&server);
    drop(deaf);
}

/// A server on a disk of a few MiB, in mounts of its own; none where such cannot be made. It offers no sandboxes that live
/// on: their agent, which is kept in the data folder, would fill the disk.
fn on_a_small_disk() -> Option<Server> {
    let data = folder();
    let mut probe = command("unshare");
    let made = probe
        .args(["--mount", "true"])
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: a file system of the test's own takes root");
        return None;
    }
    let mut unshare = command("unshare");
    unshare
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=6m,mode=700 none \"$1\" && exec \"$0\" serve --sessions off --listen 127.0.0.1:0 --data-dir \"$1\"")
        .arg(env!("CARGO_BIN_EXE_casemate"))
        .arg(data.path());
    Some(start_as(unshare, data))
}

#[test]
fn a_full_disk_is_said_and_what_is_there_stays() {
    let Some(server) = on_a_small_disk() else {
        return;
    };
    let put = |byte: u8, size: usize| {
        let content = vec![byte; size];
        let path = format!("/v1/uploads/{}", sha256(&content));
        server.ask("PUT", &path, &[], &content)
    };
    let kept = server
        .post("/v1/runs", &json!({"code": "print('kept')"}))
        .json();
    assert_eq!(put(b'a', 2 << 20).status, 201);
    let full = put(b'b', 8 << 20);
    assert_eq!(
        (full.status, &full.json()["cause"]),
        (507, &json!("no_space"))
    );
    // A run whose file does not fit: its client is told, and nobody else.
    let big = server.post(
        "/v1/runs",
        &json!({"code": "open('/tmp/big', 'w').write('x' * (8 << 20))"}),
    );
    assert_eq!(
        (big.status, &big.json()["cause"]),
        (507, &json!("no_space"))
    );
    assert!(
        big.json()["remediation"]
            .as_str()
            .unwrap()
            .contains("delete")
    );
    let listed = server.get("/v1/runs").json();
    assert_eq!(listed["runs"][0]["state"], "lost");
    let place = format!("/v1/runs/{}", kept["run"].as_str().unwrap());
    assert_eq!(server.get(&place).json()["stdout"], "kept\n");
    works(&server);
    // As it says: deleting makes room.
    let path = format!("/v1/uploads/{}", sha256(&vec![b'a'; 2 << 20]));
    assert_eq!(server.ask("DELETE", &path, &[], b"").status, 204);
    assert_eq!(put(b'c', 2 << 20).status, 201);
}

/// Another program that holds the database until its input ends.
struct Holder(Child);

impl Holder {
    fn of(server: &Server) -> Self {
        let hold = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                    c.execute('BEGIN EXCLUSIVE')\nprint('held', flush=True)\nsys.stdin.read()";
        let mut python = command("python3");
        let mut child = python
            .args(["-c", hold])
            .arg(server.data.path().join("casemate.db"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }

    fn lets_go(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn a_database_that_another_program_holds_is_waited_for_and_then_said() {
    let server = start(&[]);
    let code = "import time\nt = time.time()\nwhile time.time() - t < 1: pass\nprint('ended')";
    let body = json!({"code": code}).to_string();
    let begun = server.ask(
        "POST",
        "/v1/runs",
        &[("Prefer", "respond-async")],
        body.as_bytes(),
    );
    let place = begun.header("location").to_owned();
    let holder = Holder::of(&server);
    let refused = server.post("/v1/runs", &json!({"code": "print(1)"}));
    assert_eq!(
        (refused.status, &refused.json()["cause"]),
        (503, &json!("database_busy"))
    );
    assert_eq!(refused.header("retry-after"), "2");
    assert_eq!(
        server.get(&place).json()["state"],
        "accepted",
        "reading goes on"
    );
    holder.lets_go();
    // What ended in the meantime is not lost.
    let ended = until(|| {
        let run = server.get(&place).json();
        (run["ending"]["status"] == "exited").then_some(run)
    });
    assert_eq!(ended["stdout"], "ended\n");
    works(&server);
}
