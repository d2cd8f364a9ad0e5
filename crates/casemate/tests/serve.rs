//! The server as a client sees it: the real binary, the real WASM backend, a real socket.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::casemate;
use tempfile::TempDir;

/// One server of a test's own, stopped when it is dropped.
struct Server {
    child: Child,
    address: String,
    data: TempDir,
}

/// A status, a content type, a body.
struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

fn start_in(data: TempDir, more: &[&str]) -> Server {
    let mut child = casemate()
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data.path())
        .args(more)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().expect("a line with the address").unwrap();
        if let Some((_, rest)) = line.split_once("serving http://") {
            break rest.split(' ').next().unwrap().to_owned();
        }
    };
    // What it says later must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    Server {
        child,
        address,
        data,
    }
}

fn start(more: &[&str]) -> Server {
    start_in(tempfile::tempdir().unwrap(), more)
}

impl Server {
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = agent.run(request.body(body).unwrap()).unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response
                .body_mut()
                .with_config()
                .limit(1 << 28)
                .read_to_vec()
                .unwrap(),
        }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[], body.to_string().as_bytes())
    }

    fn key(&self, more: &[&str]) -> String {
        let output = casemate()
            .args(["key", "create", "--data-dir"])
            .arg(self.data.path())
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.kill();
        }
    }
}

#[test]
fn a_program_with_its_data_in_one_call() {
    let server = start(&[]);
    let answer = server.post(
        "/v1/runs",
        &json!({
            "code": "import pandas as pd\nd = pd.read_csv('/data/s.csv')\nd.sum().to_csv('/tmp/sum.csv')\nprint(len(d))\nd",
            "files": [{"path": "/data/s.csv", "text": "a,b\n1,2\n3,4\n"}],
        }),
    );
    assert_eq!(answer.status, 200);
    let outcome = answer.json();
    assert_eq!(outcome["schema"], "casemate.outcome/1");
    assert_eq!(outcome["ending"]["status"], "exited", "{outcome:#}");
    assert_eq!(outcome["stdout"], "2\n");
    assert_eq!(outcome["placement"]["backend"], "wasm");
    assert!(outcome["receipt"]["walls"].as_array().unwrap().len() > 10);
    assert!(!outcome["results"].as_array().unwrap().is_empty());

    let artifact = &outcome["artifacts"][0];
    assert_eq!(artifact["path"], "/tmp/sum.csv");
    assert!(artifact.get("base64").is_none(), "by reference alone");
    let file = server.get(artifact["href"].as_str().unwrap());
    assert_eq!(file.status, 200);
    assert!(
        String::from_utf8_lossy(&file.body).contains("a,4"),
        "{:?}",
        file.body
    );
    assert_eq!(file.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(file.header("x-content-type-options"), "nosniff");
    assert!(
        file.header("content-security-policy")
            .starts_with("sandbox")
    );

    // The same again by its number, and in the list.
    let id = outcome["run"].as_str().unwrap();
    assert_eq!(
        server.get(&format!("/v1/runs/{id}")).json()["stdout"],
        "2\n"
    );
    let listed = server.get("/v1/runs").json();
    assert_eq!(listed["runs"][0]["run"], id);
    assert_eq!(
        server
            .ask("DELETE", &format!("/v1/runs/{id}"), &[], b"")
            .status,
        204
    );
    assert_eq!(server.get(&format!("/v1/runs/{id}")).status, 404);
}

#[test]
fn a_run_is_told_as_it_goes_in_lines_or_events() {
    let server = start(&[]);
    let body = json!({"code": "print('one')\nprint('two')\n1/0"}).to_string();
    let lines = server.ask(
        "POST",
        "/v1/runs",
        &[("Accept", "application/x-ndjson")],
        body.as_bytes(),
    );
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    let text = String::from_utf8(lines.body).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&str> = lines
        .iter()
        .map(|line| line["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.first(), Some(&"started"));
    assert!(
        kinds.contains(&"stdout") && kinds.contains(&"error"),
        "{kinds:?}"
    );
    assert_eq!(kinds.last(), Some(&"outcome"));
    assert_eq!(
        lines.last().unwrap()["outcome"]["error"]["name"],
        "ZeroDivisionError"
    );

    let events = server.ask(
        "POST",
        "/v1/runs",
        &[("Accept", "text/event-stream")],
        body.as_bytes(),
    );
    assert_eq!(events.header("content-type"), "text/event-stream");
    let text = String::from_utf8(events.body).unwrap();
    assert!(text.starts_with("event: started\ndata: {"), "{text}");
    assert!(text.contains("\n\nevent: outcome\ndata: {"), "{text}");
}

#[test]
fn accepted_now_asked_for_later_and_cancelled() {
    let server = start(&[]);
    let body = json!({"code": "while True: pass"}).to_string();
    let answer = server.ask(
        "POST",
        "/v1/runs",
        &[("Prefer", "respond-async")],
        body.as_bytes(),
    );
    assert_eq!(answer.status, 202);
    let place = answer.header("location").to_owned();
    assert_eq!(server.get(&place).json()["state"], "accepted");
    assert_eq!(
        server.ask("DELETE", &place, &[], b"").status,
        409,
        "it has not ended"
    );
    assert_eq!(
        server
            .ask("POST", &format!("{place}/cancel"), &[], b"")
            .status,
        202
    );
    let outcome = until(|| {
        let run = server.get(&place).json();
        (run["ending"]["status"] == "cancelled").then_some(run)
    });
    assert_eq!(outcome["exit_code"], 130);
}

/// Asks until there is an answer.
fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing came");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_same_request_again_is_the_same_run() {
    let server = start(&[]);
    let body = json!({"code": "import random\nprint(random.random())"}).to_string();
    let keyed = [("Idempotency-Key", "chart-17")];
    let first = server
        .ask("POST", "/v1/runs", &keyed, body.as_bytes())
        .json();
    let again = server
        .ask("POST", "/v1/runs", &keyed, body.as_bytes())
        .json();
    assert_eq!(first["run"], again["run"]);
    assert_eq!(first["stdout"], again["stdout"]);
    let other = server.ask("POST", "/v1/runs", &keyed, br#"{"code": "print(2)"}"#);
    assert_eq!(other.status, 409);
    let bad = server.ask(
        "POST",
        "/v1/runs",
        &[("Idempotency-Key", "a b")],
        body.as_bytes(),
    );
    assert_eq!(bad.status, 400);
}

#[test]
fn a_client_that_goes_away_stops_its_run() {
    let server = start(&[]);
    let body = json!({"code": "while True: pass"}).to_string();
    let mut socket = TcpStream::connect(&server.address).unwrap();
    write!(
        socket,
        "POST /v1/runs HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    )
    .unwrap();
    let id = until(|| {
        let run = server.get("/v1/runs").json()["runs"][0]["run"].clone();
        run.as_str().map(str::to_owned)
    });
    drop(socket);
    until(|| {
        let run = server.get(&format!("/v1/runs/{id}")).json();
        (run["ending"]["status"] == "cancelled").then_some(())
    });
}

#[test]
fn a_request_narrows_and_never_widens() {
    let server = start(&["--policy", "strict"]);
    let strict = server.get("/v1/policies").json()["in_force"].clone();
    let wide = server.post(
        "/v1/runs",
        &json!({"code": "print(1)", "policy": "trusted", "limits": {"memory_bytes": 1_u64 << 40, "wall_time_ms": 1500}}),
    );
    let outcome = wide.json();
    assert_eq!(
        outcome["limits"]["memory_bytes"],
        strict["limits"]["memory_bytes"]
    );
    assert_eq!(outcome["limits"]["wall_time_ms"], 1500);
    let asked = outcome["asked"].as_array().unwrap();
    for wall in strict["require"].as_array().unwrap() {
        assert!(asked.contains(wall), "{wall} was dropped");
    }
}

#[test]
fn errors_say_what_why_and_what_to_do() {
    let server = start(&["--body", "1m"]);
    let long = vec![b' '; 2 << 20];
    let table: [(&str, &str, &[u8], u16, &str); 12] = [
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

#[test]
fn a_page_in_a_browser_cannot_reach_a_server_on_loopback() {
    let server = start(&[]);
    let host = server.address.clone();
    let own = format!("http://{host}");
    let ask = |host: &str, origin: Option<&str>| {
        let mut socket = TcpStream::connect(&server.address).unwrap();
        let origin = origin.map_or(String::new(), |origin| format!("Origin: {origin}\r\n"));
        write!(
            socket,
            "GET /v1/runs HTTP/1.1\r\nHost: {host}\r\n{origin}Connection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    assert_eq!(ask(&host, None), 200);
    assert_eq!(ask(&host, Some(&own)), 200);
    assert_eq!(ask("evil.example", None), 403, "a rebound name");
    assert_eq!(ask("127.0.0.1.evil.example", None), 403);
    assert_eq!(
        ask(&host, Some("https://evil.example")),
        403,
        "a cross-site request"
    );
    assert_eq!(ask(&host, Some("null")), 403, "a sandboxed frame");
    assert_eq!(
        ask(&host, Some("http://localhost:1")),
        403,
        "another server of this machine"
    );
}

#[test]
fn with_keys_there_is_nothing_without_one_and_nothing_of_another_tenants() {
    let server = start(&[]);
    let alice = server.key(&["--tenant", "alice"]);
    let bob = server.key(&["--tenant", "bob", "--policy", "strict", "--scope", "scan"]);
    let code = json!({"code": "open('/tmp/a.txt', 'w').write('hers')"}).to_string();
    let ask = |key: &str, method: &str, path: &str, body: &[u8]| {
        server.ask(
            method,
            path,
            &[("Authorization", &format!("Bearer {key}"))],
            body,
        )
    };
    assert_eq!(server.get("/v1/runs").status, 401);
    assert_eq!(ask("e2b_00", "GET", "/v1/runs", b"").status, 401);
    assert_eq!(server.get("/healthz").status, 200, "alive is no secret");

    let run = ask(&alice, "POST", "/v1/runs", code.as_bytes()).json();
    let id = run["run"].as_str().unwrap();
    let place = format!("/v1/runs/{id}");
    let artifact = run["artifacts"][0]["href"].as_str().unwrap();
    assert_eq!(ask(&alice, "GET", artifact, b"").body, b"hers");
    for (method, path) in [
        ("GET", place.as_str()),
        ("DELETE", &place),
        ("GET", artifact),
        ("POST", &format!("{place}/cancel")),
    ] {
        let status = ask(&bob, method, path, b"").status;
        assert!(matches!(status, 403 | 404), "{method} {path}: {status}");
    }
    assert_eq!(ask(&bob, "GET", "/v1/runs", b"").json()["runs"], json!([]));
    assert_eq!(
        ask(&bob, "POST", "/v1/runs", code.as_bytes()).status,
        403,
        "only scans"
    );
    assert_eq!(ask(&bob, "POST", "/v1/scans", code.as_bytes()).status, 200);

    // What one stored another has not, though the content is the same.
    let content = b"a,b\n1,2\n";
    let sha = sha256(content);
    let upload = format!("/v1/uploads/{sha}");
    assert_eq!(
        ask(&alice, "PUT", &format!("{upload}?name=s.csv"), content).status,
        201
    );
    let carol = server.key(&["--tenant", "carol"]);
    let uses = json!({"code": "print(open('/data/s.csv').read())", "files": [{"path": "/data/s.csv", "upload": sha}]});
    let uses = uses.to_string();
    assert_eq!(ask(&carol, "POST", "/v1/runs", uses.as_bytes()).status, 404);
    assert_eq!(
        ask(&alice, "POST", "/v1/runs", uses.as_bytes()).json()["stdout"],
        "a,b\n1,2\n\n"
    );
    assert_eq!(ask(&carol, "DELETE", &upload, b"").status, 404);

    // A revoked key is none, at once.
    let listed = casemate()
        .args(["key", "ls", "--json", "--data-dir"])
        .arg(server.data.path())
        .output()
        .unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    assert!(!text.contains(&alice), "a key is never shown again");
    let keys: Value = serde_json::from_str(&text).unwrap();
    let of_alice = keys
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["tenant"] == "alice")
        .unwrap();
    let revoked = casemate()
        .args([
            "key",
            "revoke",
            of_alice["id"].as_str().unwrap(),
            "--data-dir",
        ])
        .arg(server.data.path())
        .output()
        .unwrap();
    assert!(revoked.status.success());
    assert_eq!(ask(&alice, "GET", "/v1/runs", b"").status, 401);
    let database = std::fs::read(server.data.path().join("casemate.db")).unwrap();
    assert!(
        !contains(&database, bob.as_bytes()),
        "only a key's hash is kept"
    );
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn sha256(bytes: &[u8]) -> String {
    casemate_engine::sha256_hex(bytes)
}

#[test]
fn an_upload_is_checked_against_its_hash() {
    let server = start(&[]);
    let sha = sha256(b"whole");
    let put = |path: &str, body: &[u8]| server.ask("PUT", path, &[], body);
    assert_eq!(put(&format!("/v1/uploads/{sha}"), b"whol").status, 400);
    assert_eq!(put("/v1/uploads/..%2f..%2fetc%2fpasswd", b"x").status, 400);
    assert_eq!(
        put(&format!("/v1/uploads/{sha}?name=a"), b"whole").status,
        201
    );
    assert_eq!(
        put(&format!("/v1/uploads/{sha}?name=b"), b"whole").status,
        201
    );
    let listed = server.get("/v1/uploads").json();
    assert_eq!(
        listed["uploads"].as_array().unwrap().len(),
        1,
        "stored once: {listed}"
    );
    assert_eq!(listed["uploads"][0]["name"], "b");
}

#[test]
fn beyond_what_may_wait_the_answer_is_429_and_when_to_come_again() {
    let server = start(&[]);
    let key = server.key(&["--per-minute", "2"]);
    let ask = || {
        server.ask(
            "POST",
            "/v1/runs",
            &[("X-API-Key", &key)],
            br#"{"code": "1"}"#,
        )
    };
    assert_eq!((ask().status, ask().status), (200, 200));
    let third = ask();
    assert_eq!(third.status, 429);
    let seconds: u64 = third.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds));
}

#[test]
fn no_other_address_without_a_key() {
    let data = tempfile::tempdir().unwrap();
    let output = casemate()
        .args(["serve", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(data.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("casemate key create"), "{said}");
}

#[test]
fn a_killed_server_loses_nothing_that_was_accepted() {
    let mut server = start(&[]);
    let done = server
        .post("/v1/runs", &json!({"code": "print('kept')"}))
        .json();
    let body = json!({"code": "while True: pass"}).to_string();
    let cut = server.ask(
        "POST",
        "/v1/runs",
        &[("Prefer", "respond-async")],
        body.as_bytes(),
    );
    let cut = cut.header("location").to_owned();
    server.kill();
    let data = std::mem::replace(&mut server.data, tempfile::tempdir().unwrap());
    let server = start_in(data, &[]);
    let place = format!("/v1/runs/{}", done["run"].as_str().unwrap());
    assert_eq!(server.get(&place).json()["stdout"], "kept\n");
    assert_eq!(server.get(&cut).json()["state"], "lost");
}

#[test]
fn a_server_that_is_asked_to_stop_ends_what_runs() {
    let mut server = start(&[]);
    let body = json!({"code": "import time\nt = time.time()\nwhile time.time() - t < 1: pass\nprint('ended')"}).to_string();
    let mut socket = TcpStream::connect(&server.address).unwrap();
    write!(
        socket,
        "POST /v1/runs HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    )
    .unwrap();
    until(|| (server.get("/v1/runs").json()["runs"] != json!([])).then_some(()));
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    assert!(text.contains("ended"), "{text}");
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn the_description_is_the_one_that_is_written_down() {
    let server = start(&[]);
    let document = server.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    insta::assert_json_snapshot!("openapi", document);
    assert!(
        String::from_utf8(server.get("/docs").body)
            .unwrap()
            .contains("POST /v1/runs")
    );
    let metrics = String::from_utf8(server.get("/metrics").body).unwrap();
    assert!(
        metrics.contains("casemate_http_requests_total{"),
        "{metrics}"
    );
    assert_eq!(server.get("/readyz").json()["ready"], true);
    assert!(Path::new(server.data.path()).join("casemate.db").exists());
}
