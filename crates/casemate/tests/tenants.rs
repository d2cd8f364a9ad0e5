//! Who may use the server, and what of whom.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use served::{folder, sha256, start, until};
use support::casemate;

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
    // A page's picture, link or form names no origin; its browser says where it is from.
    for (site, status) in [
        ("cross-site", 403),
        ("same-site", 403),
        ("same-origin", 200),
        ("none", 200),
    ] {
        let answer = server.ask("GET", "/v1/runs", &[("Sec-Fetch-Site", site)], b"");
        assert_eq!(answer.status, status, "{site}");
    }
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
    assert_eq!(ask("casemate_00", "GET", "/v1/runs", b"").status, 401);
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
        ("GET", &format!("{place}/receipt")),
        ("GET", &format!("{place}/receipt/signed")),
        ("GET", &format!("{place}/events")),
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
    assert_eq!(
        ask(&carol, "GET", "/v1/uploads", b"").json()["uploads"],
        json!([])
    );
    let audit = ask(&carol, "GET", "/v1/audit", b"").json();
    let of_carol = audit["entries"].as_array().unwrap();
    assert_eq!(of_carol.len(), 1, "the making of her key: {audit}");
    assert_eq!(of_carol[0]["action"], "key.created");
    // The word by which one finds her run again finds nobody else's.
    let twice = |key: &str| {
        let headers = [("X-API-Key", key), ("Idempotency-Key", "same-word")];
        server
            .ask("POST", "/v1/runs", &headers, br#"{"code": "print(1)"}"#)
            .json()
    };
    let (hers, carols) = (twice(&alice), twice(&carol));
    assert_ne!(hers["run"], carols["run"]);
    assert_eq!(twice(&alice)["run"], hers["run"]);
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
fn one_tenant_s_queue_is_full_and_another_s_is_not() {
    let server = start(&["--parallel", "2", "--waiting", "1"]);
    let alice = server.key(&["--tenant", "alice", "--running", "1"]);
    let bob = server.key(&["--tenant", "bob"]);
    let begin = |key: &str, code: &str| {
        let headers = [("X-API-Key", key), ("Prefer", "respond-async")];
        server.ask(
            "POST",
            "/v1/runs",
            &headers,
            json!({"code": code}).to_string().as_bytes(),
        )
    };
    let endless = "while True: pass";
    let first = begin(&alice, endless);
    assert_eq!(first.status, 202);
    let running = || {
        let metrics = String::from_utf8(server.get("/metrics").body).unwrap();
        metrics.contains("casemate_running 1\n").then_some(())
    };
    until(running);
    assert_eq!(begin(&alice, endless).status, 202, "one may wait");
    let third = begin(&alice, endless);
    assert_eq!(third.status, 429);
    assert_eq!(third.header("retry-after"), "1");
    let begun = Instant::now();
    let other = server.ask(
        "POST",
        "/v1/runs",
        &[("X-API-Key", &bob)],
        br#"{"code": "print(1)"}"#,
    );
    assert_eq!(other.json()["stdout"], "1\n");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let runs = server
        .ask("GET", "/v1/runs", &[("X-API-Key", &alice)], b"")
        .json();
    assert_eq!(
        runs["runs"].as_array().unwrap().len(),
        2,
        "none was accepted and forgotten"
    );
}

#[test]
fn a_key_ends_keeps_to_its_backends_and_to_its_quota() {
    let server = start(&[]);
    let brief = server.key(&["--tenant", "brief", "--expires", "1s"]);
    let bound = server.key(&["--backend", "jail", "--backend", "runc", "--quota", "64k"]);
    let run = |key: &str, body: &str| {
        server.ask("POST", "/v1/runs", &[("X-API-Key", key)], body.as_bytes())
    };
    assert_eq!(run(&brief, r#"{"code": "1"}"#).status, 200);
    let forbidden = run(&bound, r#"{"code": "1", "backend": "wasm"}"#);
    assert_eq!(forbidden.status, 403);
    assert!(
        forbidden.json()["message"]
            .as_str()
            .unwrap()
            .contains("jail, runc")
    );
    let put = |content: &[u8]| {
        let path = format!("/v1/uploads/{}", sha256(content));
        server
            .ask("PUT", &path, &[("X-API-Key", &bound)], content)
            .status
    };
    assert_eq!(put(&vec![b'a'; 60 << 10]), 201);
    assert_eq!(put(&vec![b'b'; 10 << 10]), 507);
    assert_eq!(
        put(&vec![b'a'; 60 << 10]),
        201,
        "what is there already is no more"
    );
    let path = format!("/v1/uploads/{}", sha256(&vec![b'a'; 60 << 10]));
    assert_eq!(
        server
            .ask("DELETE", &path, &[("X-API-Key", &bound)], b"")
            .status,
        204
    );
    assert_eq!(put(&vec![b'b'; 10 << 10]), 201, "deleting makes room");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(run(&brief, r#"{"code": "1"}"#).status, 401);
    for wrong in [
        ["--policy", "lenient"],
        ["--policy", "Cargo.toml"],
        ["--tenant", ""],
    ] {
        let output = casemate()
            .args(["key", "create", "--data-dir"])
            .arg(server.data.path())
            .args(wrong)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{wrong:?}");
    }
}

#[test]
fn a_data_folder_is_one_server_s_and_nobody_else_s_to_enter() {
    let mut server = start(&[]);
    let refused = |data: &std::path::Path| {
        let output = casemate()
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(server.data.path());
    assert!(said.contains("another server"), "{said}");
    let open = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(open.path(), mode).unwrap();
    let said = refused(open.path());
    assert!(said.contains("chmod 700"), "{said}");
    // A database that goes with another folder's contents.
    server.kill();
    let other = folder();
    for name in ["casemate.db", "casemate.db-wal"] {
        std::fs::copy(server.data.path().join(name), other.path().join(name)).unwrap();
    }
    let said = refused(other.path());
    assert!(said.contains("another data folder"), "{said}");
}

#[test]
fn no_other_address_without_a_key() {
    let data = folder();
    let output = casemate()
        .args(["serve", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(data.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("casemate key create"), "{said}");
}
