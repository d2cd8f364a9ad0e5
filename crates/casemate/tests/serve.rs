//! The server as a client sees it: the real binary, the real WASM backend, a real socket.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use served::{Server, folder, send, sha256, start, start_in, until, until_within};

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
    assert_eq!(listed["runs"][0]["about"]["policy"], "data-analysis");
    assert_eq!(
        listed["runs"][0]["about"]["inputs"][0]["path"],
        "/data/s.csv"
    );
    let brief =
        json!({"status": "exited", "exit_code": 0, "backend": "wasm", "alerts": 0, "denials": 0});
    assert_eq!(listed["runs"][0]["brief"], brief);

    // Its receipt, by hashes.
    let receipt = server.get(&format!("/v1/runs/{id}/receipt")).json();
    assert_eq!(receipt["schema"], "casemate.receipt/1");
    assert_eq!(receipt["policy"], "data-analysis");
    assert_eq!(receipt["inputs"][0]["path"], "/data/s.csv");
    assert_eq!(receipt["inputs"][0]["sha256"], sha256(b"a,b\n1,2\n3,4\n"));
    assert_eq!(receipt["stdout_sha256"], sha256(b"2\n"));
    assert_eq!(receipt["artifacts"][0]["sha256"], artifact["sha256"]);
    assert_eq!(receipt["walls"], outcome["receipt"]);
    // The same signed, for whoever does not believe this server later.
    let signed = server.get(&format!("/v1/runs/{id}/receipt/signed"));
    assert_eq!(signed.status, 200);
    let key = server.get("/v1/receipts/key").json();
    let key = key["public_key"].as_str().unwrap();
    let kept = server.data.path().join("receipt.json");
    std::fs::write(&kept, &signed.body).unwrap();
    let verify = |key: &str| {
        let kept = kept.to_str().unwrap();
        let output = support::run(&["verify", "--json", "--key", key, kept]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        (support::code(&output), said)
    };
    let (code, said) = verify(key);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said["receipt"]["run"], id);
    assert_eq!(said["receipt"]["inputs"], receipt["inputs"]);
    assert_eq!(said["receipt"]["artifacts"], receipt["artifacts"]);
    let other = format!(
        "{}{}",
        &key[..62],
        if key.ends_with("00") { "01" } else { "00" }
    );
    let strange = support::run(&["verify", "--key", &other, kept.to_str().unwrap()]);
    assert_ne!(support::code(&strange), 0);

    // Deleted it is gone, and what it left with it.
    let gone = server.ask("DELETE", &format!("/v1/runs/{id}"), &[], b"");
    assert_eq!(gone.status, 204);
    for path in [
        format!("/v1/runs/{id}"),
        format!("/v1/runs/{id}/receipt"),
        format!("/v1/runs/{id}/receipt/signed"),
        artifact["href"].as_str().unwrap().to_owned(),
    ] {
        assert_eq!(server.get(&path).status, 404, "{path}");
    }
    assert_eq!(contents(&server), Vec::<String>::new());

    // Who did what is remembered.
    let audit = server.get("/v1/audit").json();
    let entries = audit["entries"].as_array().unwrap();
    let actions: Vec<&str> = entries
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["run.deleted", "run.ended", "run.accepted"]);
    assert_eq!(entries[1]["detail"], "exited");
    assert!(entries.iter().all(|entry| entry["subject"] == id));
}

#[test]
fn what_happened_is_kept_of_runs_that_ask_for_it() {
    let server = start(&[]);
    let code = "import time\nx = bytearray(16 << 20)\nend = time.time() + 0.3\nwhile time.time() < end: pass\nopen('/tmp/a', 'w').write('x')";
    let kept = server
        .post("/v1/runs", &json!({"code": code, "keep_events": true}))
        .json();
    let id = kept["run"].as_str().unwrap();
    let events = server.get(&format!("/v1/runs/{id}/events"));
    assert_eq!(events.header("content-type"), "application/x-ndjson");
    let text = String::from_utf8(events.body).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |name: &'static str| events.iter().filter(move |event| event["event"] == name);
    assert_eq!(events.len(), kept["summary"]["events"]);
    assert!(
        of("file_write").any(|event| event["path"] == "/tmp/a"),
        "{text}"
    );
    let used: Vec<&Value> = of("usage").collect();
    let peak = kept["usage"]["memory_peak_bytes"].as_u64().unwrap();
    assert!(used.len() >= 4, "{text}");
    assert!(
        peak >= 8 << 20 && used.last().unwrap()["memory_bytes"] == peak,
        "{text}"
    );

    // Of one that does not, nothing is: that is said, and it is not somebody's fault.
    let plain = server.post("/v1/runs", &json!({"code": "print(1)"})).json();
    let id = plain["run"].as_str().unwrap();
    let none = server.get(&format!("/v1/runs/{id}/events"));
    assert_eq!(none.status, 409);
    assert!(
        none.json()["remediation"]
            .as_str()
            .unwrap()
            .contains("keep_events")
    );
    assert_eq!(server.get("/v1/runs/run-none/events").status, 404);
}

/// A tenant's history gives way to what it does now, the oldest first, and the audit says so.
#[test]
fn a_full_room_loses_the_oldest_runs_and_no_upload() {
    let code = "import os\nopen('/tmp/left', 'wb').write(os.urandom(20_000))";
    let run = |server: &Server| server.post("/v1/runs", &json!({"code": code}));
    let server = start(&["--quota", "200k", "--keep-least", "0s"]);
    let upload = format!("/v1/uploads/{}", sha256(b"kept"));
    assert_eq!(server.ask("PUT", &upload, &[], b"kept").status, 201);
    let runs: Vec<String> = (0..12)
        .map(|_| {
            let answer = run(&server);
            assert_eq!(answer.status, 200, "{}", answer.json());
            answer.json()["run"].as_str().unwrap().to_owned()
        })
        .collect();
    let status = |run: &String| server.get(&format!("/v1/runs/{run}")).status;
    assert_eq!((status(&runs[0]), status(&runs[1])), (404, 404));
    assert_eq!((status(&runs[10]), status(&runs[11])), (200, 200));
    let left = server.get("/v1/runs").json()["runs"]
        .as_array()
        .unwrap()
        .len();
    assert!((3..12).contains(&left), "{left} runs are left");
    let file = server.get(&format!("/v1/runs/{}/artifacts/0", runs[11]));
    assert_eq!((file.status, file.body.len()), (200, 20_000));
    let uploads = server.get("/v1/uploads").json();
    assert_eq!(uploads["uploads"].as_array().unwrap().len(), 1);
    assert_eq!(
        contents(&server).len(),
        left + 1,
        "nothing stays of what was forgotten"
    );
    let audit = server.get("/v1/audit").json().to_string();
    assert!(
        audit.contains("runs.forgotten") && audit.contains("for room"),
        "{audit}"
    );
    let whole = support::casemate()
        .args(["audit", "verify", "--data-dir"])
        .arg(server.data.path())
        .output()
        .unwrap();
    assert!(whole.status.success(), "{whole:?}");

    // Those who come at once find room for each of them.
    let server = start(&["--quota", "1m", "--keep-least", "0s"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let answer = run(&server);
                    assert_eq!(answer.status, 200, "{}", answer.json());
                }
            });
        }
    });

    // One that ended a moment ago may still be asked for: it stays, and the next one is refused.
    let server = start(&["--quota", "200k"]);
    let refused = (0..12)
        .map(|_| run(&server))
        .find(|answer| answer.status != 200);
    let refused = refused.unwrap();
    assert_eq!(refused.status, 507);
    assert!(!refused.json()["remediation"].as_str().unwrap().is_empty());

    // What a key is bound to is no reason to forget what others of its tenant did.
    let server = start(&["--keep-least", "0s"]);
    let (wide, narrow) = (server.key(&[]), server.key(&["--quota", "10k"]));
    let by = |key: &str| {
        let body = json!({"code": code}).to_string();
        server.ask("POST", "/v1/runs", &[("X-API-Key", key)], body.as_bytes())
    };
    let first = by(&wide).json()["run"].as_str().unwrap().to_owned();
    assert_eq!(by(&narrow).status, 507);
    let still = server.ask(
        "GET",
        &format!("/v1/runs/{first}"),
        &[("X-API-Key", &wide)],
        b"",
    );
    assert_eq!(still.status, 200);
}

/// The first run of a tenant starts cold while its zygote loads; none waits for that.
#[test]
fn jails_are_warm_in_a_server() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root has zygotes");
        return;
    }
    let server = start(&["--policy", "native"]);
    let layout = || shared_layout(&server, "jail", "print(6 * 7)");
    assert_eq!(layout(), "", "the first run waits for nothing");
    until(|| layout().starts_with("forked from zygote").then_some(()));
}

/// Runs a program that prints 42 and says for whose memory layout it shares, if it shares one.
fn shared_layout(server: &Server, backend: &str, code: &str) -> String {
    let body = json!({"code": code, "backend": backend});
    let outcome = server.post("/v1/runs", &body).json();
    assert_eq!(outcome["stdout"], "42\n", "{outcome:#}");
    assert_eq!(outcome["receipt"]["backend"], backend);
    let walls = outcome["receipt"]["walls"].as_array().unwrap();
    let layout = walls.iter().find(|wall| wall["name"] == "memory_layout");
    let why = layout.unwrap()["missing"].as_str().unwrap_or_default();
    why.to_owned()
}

/// It makes one itself where there is none.
#[test]
fn programs_on_gvisor_go_on_from_a_checkpoint_in_a_server() {
    let can = rustix::process::geteuid().is_root() && Path::new("/usr/bin/runsc").exists();
    if !can && std::env::var_os("CI").is_none() {
        eprintln!("SKIPPED: gVisor takes root and runsc (Debian: of bookworm-backports)");
        return;
    }
    let server = start(&["--policy", "native"]);
    let layout = |code| shared_layout(&server, "gvisor", code);
    let needs = "import pandas\nprint(pandas.Series([40, 2]).sum())";
    until_within(Duration::from_secs(60), || {
        layout(needs)
            .starts_with("restored from checkpoint")
            .then_some(())
    });
    assert_eq!(layout("print(6 * 7)"), "", "it needs nothing of that");
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
fn lists_come_in_pages_without_gaps() {
    let server = start(&[]);
    for count in 0..7 {
        server.post("/v1/runs", &json!({"code": format!("print({count})")}));
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/runs?limit=3{after}")).json();
        let runs = page["runs"].as_array().unwrap().clone();
        seen.extend(
            runs.iter()
                .map(|run| run["run"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    assert_eq!(seen.len(), 7);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 7, "each once");
    for bad in ["after=x", "limit=0", "limit=101", "limit=x", "limits=3"] {
        assert_eq!(server.get(&format!("/v1/runs?{bad}")).status, 400, "{bad}");
    }
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
    // As a stream it is that run's outcome alone, and later it is where to ask.
    let lines = [keyed[0], ("Accept", "application/x-ndjson")];
    let lines = server
        .ask("POST", "/v1/runs", &lines, body.as_bytes())
        .json();
    assert_eq!(lines["outcome"]["run"], first["run"]);
    let later = [keyed[0], ("Prefer", "respond-async")];
    let later = server.ask("POST", "/v1/runs", &later, body.as_bytes());
    assert_eq!((later.status, &later.json()["run"]), (202, &first["run"]));
    // Sent many times at once it is one run, and all of them get its outcome.
    let slow = json!({"code": "import time\nt = time.time()\nwhile time.time() - t < 0.5: pass\nprint('once')"}).to_string();
    let (server, slow) = (&server, slow.as_bytes());
    let runs = std::thread::scope(|scope| {
        let ask = || {
            server
                .ask("POST", "/v1/runs", &[("Idempotency-Key", "at-once")], slow)
                .json()
        };
        let all: Vec<_> = (0..6).map(|_| scope.spawn(ask)).collect();
        let all = all.into_iter().map(|one| one.join().unwrap());
        all.map(|run| (run["run"].clone(), run["stdout"].clone()))
            .collect::<Vec<_>>()
    });
    assert_eq!(runs[0].1, "once\n");
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
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

    // In the middle of a stream too, of a program that says nothing.
    let mut socket = send(
        &server,
        "POST",
        "/v1/runs",
        "Accept: text/event-stream\r\n",
        body.as_bytes(),
    );
    let mut some = [0; 512];
    let mut text = String::new();
    while !text.contains("event: started") {
        let length = socket.read(&mut some).unwrap();
        text.push_str(&String::from_utf8_lossy(&some[..length]));
    }
    let id = server.get("/v1/runs").json()["runs"][0]["run"]
        .as_str()
        .unwrap()
        .to_owned();
    drop(socket);
    until(|| {
        let run = server.get(&format!("/v1/runs/{id}")).json();
        (run["ending"]["status"] == "cancelled").then_some(())
    });
}

#[test]
fn an_upload_is_checked_against_its_hash() {
    let server = start(&[]);
    let sha = sha256(b"whole");
    let put = |path: &str, body: &[u8]| server.ask("PUT", path, &[], body);
    assert_eq!(put(&format!("/v1/uploads/{sha}"), b"whol").status, 409);
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
    assert_eq!(contents(&server), std::slice::from_ref(&sha));

    // In many runs, in two places of one, and none of them can change it.
    let uses = json!({
        "code": "for p in ['/data/a', '/data/b/c']:\n    print(open(p).read())\ntry:\n    open('/data/a', 'w')\nexcept OSError as e:\n    print('no')",
        "files": [{"path": "/data/a", "upload": sha}, {"path": "/data/b/c", "upload": sha}],
    });
    for _ in 0..2 {
        let outcome = server.post("/v1/runs", &uses).json();
        assert_eq!(outcome["stdout"], "whole\nwhole\nno\n", "{outcome:#}");
    }
    let path = format!("/v1/uploads/{sha}");
    assert_eq!(server.ask("DELETE", &path, &[], b"").status, 204);
    assert_eq!(server.ask("DELETE", &path, &[], b"").status, 404);
    assert_eq!(contents(&server), Vec::<String>::new());
    assert_eq!(server.post("/v1/runs", &uses).status, 404);
}

/// The contents in the server's folder.
fn contents(server: &Server) -> Vec<String> {
    walkdir::WalkDir::new(server.data.path().join("blobs"))
        .into_iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.file_name().to_str().unwrap().to_owned())
        .collect()
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
    let data = std::mem::replace(&mut server.data, folder());
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
            .contains("<b>post</b> <code>/v1/runs</code>")
    );
    let metrics = String::from_utf8(server.get("/metrics").body).unwrap();
    assert!(
        metrics.contains("casemate_http_requests_total{"),
        "{metrics}"
    );
    assert_eq!(server.get("/readyz").json()["ready"], true);
    assert!(Path::new(server.data.path()).join("casemate.db").exists());
}
