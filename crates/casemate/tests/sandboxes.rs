//! Sandboxes that live on, by the native API: jails with an agent behind `casemate serve`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use served::{Answer, Server, send, start, until};

/// A server with sandboxes, where this machine can have them.
fn served(more: &[&str]) -> Option<Server> {
    let server = start(more);
    if server.get("/templates").json() != json!([]) {
        return Some(server);
    }
    let why = "this server has no sandboxes that live on: that takes root, the agent and the Python guest of jails";
    assert!(
        std::env::var_os("CI").is_none(),
        "with CI set this is not skipped: {why}"
    );
    eprintln!("skipped: {why}");
    None
}

fn made(server: &Server, body: &Value) -> String {
    let answer = server.post("/v1/sandboxes", body);
    assert_eq!(answer.status, 201, "{}", answer.json());
    let body = answer.json();
    let id = body["sandbox"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), format!("/v1/sandboxes/{id}"));
    id
}

fn at(id: &str, rest: &str) -> String {
    format!("/v1/sandboxes/{id}{rest}")
}

fn cell(server: &Server, id: &str, code: &str) -> Value {
    let answer = server.post(&at(id, "/cells"), &json!({"code": code}));
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()
}

fn lines(answer: &Answer) -> Vec<Value> {
    let text = String::from_utf8(answer.body.clone()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn streamed(server: &Server, path: &str, body: &Value, kind: &str) -> Answer {
    let headers = [("Accept", kind)];
    server.ask("POST", path, &headers, body.to_string().as_bytes())
}

/// One after the other on each backend that sandboxes can live on: a cell's state, a file, its walls, a fork, a nap.
#[test]
fn a_template_may_be_of_any_backend_that_sandboxes_live_on() {
    let templates = [("w", "wasm"), ("r", "runc"), ("c", "crun")];
    let told = templates.map(|(name, backend)| format!("{name}={backend}"));
    let more: Vec<&str> = told.iter().flat_map(|told| ["--template", told]).collect();
    let Some(server) = served(&more) else { return };
    for (template, backend) in templates {
        let id = made(&server, &json!({"template": template}));
        assert_eq!(server.get(&at(&id, "")).json()["backend"], backend);
        assert_eq!(cell(&server, &id, "x = 20")["error"], Value::Null);
        assert_eq!(cell(&server, &id, "x * 2 + 2")["results"][0]["text"], "42");
        // A cell whose time is over ends, and what there is by then stays.
        let late = json!({"code": "y = 1\nwhile True: pass", "timeout_s": 1});
        let late = server.post(&at(&id, "/cells"), &late).json();
        let cut_off = late["cut_off"].as_str().unwrap_or_default();
        assert!(cut_off.contains("interrupted after 1 s"), "{late}");
        let begun = Instant::now();
        assert_eq!(cell(&server, &id, "x + y")["results"][0]["text"], "21");
        assert!(begun.elapsed() < Duration::from_secs(10), "{backend}");
        let put = server.ask("PUT", &at(&id, "/files?path=a.txt"), &[], b"hello");
        assert_eq!(put.status, 201, "{backend}");
        let read = cell(&server, &id, "open('a.txt').read()");
        assert_eq!(read["results"][0]["text"], "hello", "{backend}: {read}");
        let receipt = server.get(&at(&id, "/receipt")).json();
        let walls = receipt["receipt"]["walls"].as_array().unwrap();
        assert_eq!(receipt["receipt"]["backend"], backend);
        assert!(walls.len() > 20, "{backend}: {walls:?}");
        // Processes, where there are any; a word on who has them where there are none.
        let said = server.post(&at(&id, "/commands"), &json!({"command": "id -un"}));
        if backend == "wasm" {
            assert_eq!(said.status, 422);
            let why = said.json()["message"].as_str().unwrap().to_owned();
            assert!(why.contains("a template of the jail backend"), "{why}");
        } else {
            assert_eq!(said.json()["stdout"], "user\n", "{backend}");
        }
        let forks = server.post(&at(&id, "/forks"), &json!({"count": 1})).json();
        let fork = forks[0]["sandbox"]["sandbox"].as_str().unwrap().to_owned();
        let file = server.get(&at(&fork, "/files?path=a.txt"));
        assert_eq!(file.body, b"hello", "{backend}");
        for (memory, kept) in [(true, "42"), (false, "")] {
            let paused = server.post(&at(&id, "/pause"), &json!({"memory": memory}));
            assert_eq!(paused.status, 200, "{backend}: {}", paused.json());
            assert_eq!(server.post(&at(&id, "/resume"), &json!({})).status, 200);
            let again = cell(&server, &id, "x * 2 + 2");
            let text = again["results"][0]["text"].as_str().unwrap_or_default();
            assert_eq!(text, kept, "{backend}: {again}");
            assert_eq!(server.get(&at(&id, "/files?path=a.txt")).body, b"hello");
        }
        for id in [&id, &fork] {
            assert_eq!(server.ask("DELETE", &at(id, ""), &[], b"").status, 204);
        }
    }
}

#[test]
fn cells_share_their_state_and_show_what_they_show() {
    let Some(server) = served(&[]) else { return };
    let id = made(
        &server,
        &json!({"env": {"TEAM": "blue"}, "metadata": {"for": "a test"}, "timeout_s": 120}),
    );
    let about = server.get(&at(&id, "")).json();
    assert_eq!(about["state"], "running");
    assert_eq!(about["backend"], "jail");
    assert_eq!(about["metadata"], json!({"for": "a test"}));
    assert_eq!(
        server.get("/v1/sandboxes").json()["sandboxes"][0]["sandbox"],
        json!(id)
    );

    assert_eq!(cell(&server, &id, "x = 20")["results"], json!([]));
    let said = cell(
        &server,
        &id,
        "import os, sys\nprint('out', os.environ['TEAM'])\nprint('err', file=sys.stderr)\nx * 2 + 2",
    );
    assert_eq!(said["stdout"], "out blue\n");
    assert_eq!(said["stderr"], "err\n");
    assert_eq!(said["results"][0]["text"], "42");
    assert_eq!(said["error"], Value::Null);
    assert_eq!(said["execution_count"], 2);

    let wrong = cell(&server, &id, "1 / 0");
    assert_eq!(wrong["error"]["name"], "ZeroDivisionError");
    let chart = cell(
        &server,
        &id,
        "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2])\nplt.title('Sales')\nplt.show()",
    );
    assert!(
        chart["results"][0]["png"]
            .as_str()
            .unwrap()
            .starts_with("iVBOR"),
        "{chart}"
    );
    assert_eq!(chart["results"][0]["chart"]["type"], "bar");

    // Other contexts have states of their own, and other languages.
    let context = server.post(&at(&id, "/contexts"), &json!({}));
    assert_eq!(context.status, 201);
    let context = context.json()["context"].as_str().unwrap().to_owned();
    let inside = json!({"code": "x", "context": context});
    let other = server.post(&at(&id, "/cells"), &inside).json();
    assert_eq!(other["error"]["name"], "NameError");
    let bash = json!({"code": "echo $((6 * 7))", "language": "bash"});
    assert_eq!(
        server.post(&at(&id, "/cells"), &bash).json()["stdout"],
        "42\n"
    );
    let restart = at(&id, &format!("/contexts/{context}/restart"));
    assert_eq!(server.post(&restart, &json!({})).status, 204);
    let remove = at(&id, &format!("/contexts/{context}"));
    assert_eq!(server.ask("DELETE", &remove, &[], b"").status, 204);
    assert_eq!(server.ask("DELETE", &remove, &[], b"").status, 404);
    assert_eq!(server.post(&at(&id, "/cells"), &inside).status, 404);

    let receipt = server.get(&at(&id, "/receipt")).json();
    assert!(!receipt["receipt"]["walls"].as_array().unwrap().is_empty());
    signed_receipt(&server, &id, &receipt["receipt"]);
    assert_eq!(server.ask("DELETE", &at(&id, ""), &[], b"").status, 204);
    for (method, rest) in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/pause"),
        ("GET", "/receipt"),
    ] {
        let gone = server.ask(method, &at(&id, rest), &[], b"{}");
        assert_eq!(gone.status, 404, "{method} {rest}");
        assert_eq!(gone.json()["cause"], "unknown_sandbox");
    }
    let audit = server.get("/v1/audit").json().to_string();
    assert!(audit.contains("sandbox.created") && audit.contains("sandbox.killed"));
}

/// What the server signs of a sandbox, whoever has the key's public half checks without it.
fn signed_receipt(server: &Server, id: &str, walls: &Value) {
    let signed = server.get(&at(id, "/receipt/signed"));
    assert_eq!(signed.status, 200);
    let key = server.get("/v1/receipts/key").json();
    let key = key["public_key"].as_str().unwrap();
    let kept = server.data.path().join("sandbox.json");
    std::fs::write(&kept, &signed.body).unwrap();
    let kept = kept.to_str().unwrap();
    let output = support::run(&["verify", "--json", "--key", key, kept]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(support::code(&output), 0, "{said}");
    assert_eq!(said["receipt"]["sandbox"], id);
    assert_eq!(&said["receipt"]["walls"], walls);
    let text = support::run(&["verify", "--key", key, kept]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(id) && text.contains(" stood, "), "{text}");

    let strange = support::run(&["verify", "--key", &"ab".repeat(32), kept]);
    assert_ne!(support::code(&strange), 0);
    let files = support::run(&["verify", "--key", key, "--has", kept, kept]);
    assert_ne!(support::code(&files), 0, "it names no files");
    let mut changed: Value = serde_json::from_slice(&signed.body).unwrap();
    changed["payload"] = json!(changed["payload"].as_str().unwrap().replacen('e', "f", 1));
    std::fs::write(kept, changed.to_string()).unwrap();
    let changed = support::run(&["verify", "--key", key, kept]);
    assert_ne!(support::code(&changed), 0);
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let Some(server) = served(&[]) else { return };
    let id = made(&server, &json!({}));
    let code = json!({"code": "print('é' * 3)\nprint(2)\n3"});
    let told = streamed(&server, &at(&id, "/cells"), &code, "application/x-ndjson");
    assert_eq!(told.header("content-type"), "application/x-ndjson");
    let told = lines(&told);
    assert_eq!(told[0]["type"], "number_of_executions");
    let stdout: String = told
        .iter()
        .filter(|line| line["type"] == "stdout")
        .map(|line| line["text"].as_str().unwrap())
        .collect();
    assert_eq!(stdout, "ééé\n2\n");
    assert_eq!(
        told.last().unwrap(),
        &json!({"type": "end", "cut_off": null})
    );
    let events = streamed(&server, &at(&id, "/cells"), &code, "text/event-stream");
    let events = String::from_utf8(events.body).unwrap();
    assert!(
        events.contains("event: result\ndata: {\"type\":\"result\""),
        "{events}"
    );
    let (_, end) = events.rsplit_once("event: end\ndata: ").unwrap();
    let end: Value = serde_json::from_str(end.trim_end()).unwrap();
    assert_eq!(end["cut_off"], Value::Null);

    // A character whose bytes come one by one is one character.
    let command =
        json!({"command": "for b in e2 82 ac; do printf \"\\\\x$b\"; sleep 0.1; done; exit 3"});
    let told = streamed(
        &server,
        &at(&id, "/commands"),
        &command,
        "application/x-ndjson",
    );
    let told = lines(&told);
    assert_eq!(told[0]["type"], "started");
    assert_eq!(told[1], json!({"type": "stdout", "text": "€"}));
    assert_eq!(told[2]["exit_code"], 3);
    assert_eq!(told[3]["type"], "end");
}

#[test]
fn commands_end_are_killed_or_go_on() {
    let Some(server) = served(&[]) else { return };
    let id = made(&server, &json!({}));
    let run = |body: Value| server.post(&at(&id, "/commands"), &body);
    let said = run(json!({
        "command": "cat; echo $WHO >&2; pwd; exit 7",
        "stdin": "given\n",
        "env": {"WHO": "me"},
        "cwd": "/tmp",
    }));
    let said = said.json();
    assert_eq!(said["exit_code"], 7, "{said}");
    assert_eq!(said["stdout"], "given\n/tmp\n");
    assert_eq!(said["stderr"], "me\n");
    // What it is given and what it says may be more than any pipe holds.
    let long = "0123456789abcde\n".repeat(128 << 10);
    let said = run(json!({"command": "cat", "stdin": long})).json();
    assert_eq!(said["exit_code"], 0);
    assert!(
        said["stdout"].as_str() == Some(&long),
        "not what it was given"
    );
    let begun = Instant::now();
    let late = run(json!({"command": "sleep 30", "timeout_s": 1})).json();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(
        late["exit_code"].is_null() || late["cut_off"].is_string(),
        "{late}"
    );

    let left = run(json!({"command": "sleep 77", "background": true}));
    assert_eq!(left.status, 202);
    let pid = left.json()["pid"].as_u64().unwrap();
    let running = || {
        let all = server.get(&at(&id, "/commands")).json();
        let all = all.as_array().unwrap().clone();
        all.iter()
            .filter_map(|process| process["pid"].as_u64())
            .collect::<Vec<_>>()
    };
    assert!(running().contains(&pid));
    let kill = at(&id, &format!("/commands/{pid}"));
    assert_eq!(server.ask("DELETE", &kill, &[], b"").status, 204);
    until(|| (!running().contains(&pid)).then_some(()));
    assert_eq!(server.ask("DELETE", &kill, &[], b"").status, 404);

    // Whoever goes away takes the command along.
    let body = json!({"command": "sleep 88"}).to_string();
    let mut socket = send(
        &server,
        "POST",
        &at(&id, "/commands"),
        "Accept: application/x-ndjson\r\n",
        body.as_bytes(),
    );
    let mut some = [0; 512];
    assert!(socket.read(&mut some).unwrap() > 0);
    until(|| (!running().is_empty()).then_some(()));
    drop(socket);
    until(|| running().is_empty().then_some(()));
}

#[test]
fn files_go_in_and_come_out() {
    let Some(server) = served(&[]) else { return };
    let id = made(&server, &json!({}));
    let content: Vec<u8> = (0..=255_u8).cycle().take(300_000).collect();
    let path = at(&id, "/files?path=data%2Fa%20b.bin");
    let written = server.ask("PUT", &path, &[], &content);
    assert_eq!(written.status, 201, "{}", written.json());
    assert_eq!(written.json()["path"], "/home/user/data/a b.bin");
    let read = server.get(&path);
    assert_eq!(read.header("content-disposition"), "attachment");
    assert!(read.body == content, "the bytes are others");
    let folder = at(&id, "/folders?path=%2Fhome%2Fuser%2Fmade%2Fdeep");
    assert_eq!(server.ask("PUT", &folder, &[], b"").status, 201);
    let listed = server
        .get(&at(&id, "/folders?path=%2Fhome%2Fuser&depth=3"))
        .json();
    let named = |name: &str| {
        let all = listed.as_array().unwrap().iter();
        all.clone()
            .find(|entry| entry["path"] == name)
            .unwrap_or_else(|| panic!("{name} is not in {listed}"))
            .clone()
    };
    assert_eq!(named("/home/user/data/a b.bin")["size_bytes"], 300_000);
    assert_eq!(named("/home/user/made/deep")["kind"], "folder");
    assert_eq!(server.ask("DELETE", &path, &[], b"").status, 204);
    assert_eq!(server.get(&path).status, 404);
    // What may not be written says so, and an answer is never a page.
    for (method, path, status) in [
        ("GET", "/files?path=", 400),
        ("GET", "/files", 400),
        ("GET", "/files?path=%00", 400),
        ("GET", "/files?path=%2Fetc%2Fshadow", 404),
        ("GET", "/folders?path=x&depth=99", 400),
        ("GET", "/folders?path=nothing-here", 404),
    ] {
        let answer = server.ask(method, &at(&id, path), &[], b"");
        assert!(
            answer.status == status || (path.contains("shadow") && answer.status == 403),
            "{method} {path}: {}",
            answer.status
        );
        let body = answer.json();
        assert!(
            body["remediation"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
    let system = server.ask("PUT", &at(&id, "/files?path=%2Fusr%2Fbin%2Fls"), &[], b"x");
    assert!(
        matches!(system.status, 400 | 403 | 502 | 507),
        "{}",
        system.json()
    );
    assert!(
        cell(&server, &id, "import os; os.path.getsize('/usr/bin/ls')")["results"][0]["text"]
            != "1"
    );
}

#[test]
fn a_sandbox_ends_when_its_time_is_over_or_it_is_left_alone() {
    let Some(server) = served(&[]) else { return };
    let state = |id: &str| {
        let answer = server.get(&at(id, ""));
        answer.json()["state"].as_str().map(str::to_owned)
    };
    let short = made(&server, &json!({"timeout_s": 1}));
    until(|| state(&short).is_none().then_some(()));

    // One that is used is not alone, however long that takes; a program that nobody listens to is no company.
    let alone = made(&server, &json!({"idle_s": 1, "timeout_s": 300}));
    let long = json!({"code": "import time; time.sleep(3); 'there'"});
    let said = server.post(&at(&alone, "/cells"), &long).json();
    assert_eq!(said["results"][0]["text"], "there", "{said}");
    let left = json!({"command": "sleep 60", "background": true});
    assert_eq!(server.post(&at(&alone, "/commands"), &left).status, 202);
    until(|| state(&alone).is_none().then_some(()));

    // One that is to be kept is frozen instead, and goes on where it was.
    let kept = made(
        &server,
        &json!({"idle_s": 1, "timeout_s": 300, "on_timeout": "pause"}),
    );
    cell(&server, &kept, "kept = 'still here'");
    until(|| (state(&kept).as_deref() == Some("paused")).then_some(()));
    let frozen = server.post(&at(&kept, "/cells"), &json!({"code": "kept"}));
    assert_eq!(frozen.status, 409);
    assert!(
        frozen.json()["remediation"]
            .as_str()
            .unwrap()
            .contains("resume")
    );
    assert_eq!(server.post(&at(&kept, "/resume"), &json!({})).status, 200);
    assert_eq!(
        cell(&server, &kept, "kept")["results"][0]["text"],
        "still here"
    );
    assert_eq!(server.post(&at(&kept, "/resume"), &json!({})).status, 409);
    assert_eq!(server.post(&at(&kept, "/pause"), &json!({})).status, 200);
    assert_eq!(server.post(&at(&kept, "/pause"), &json!({})).status, 409);
    let longer = server.post(&at(&kept, "/timeout"), &json!({"timeout_s": 3600}));
    assert_eq!(longer.status, 200);
}

#[test]
fn a_cell_is_interrupted_and_one_of_a_deleted_sandbox_is_cut_off() {
    let Some(server) = served(&[]) else { return };
    let id = made(&server, &json!({}));
    let late = json!({"code": "n = 5\nimport time\ntime.sleep(60)", "timeout_s": 1});
    let late = server.post(&at(&id, "/cells"), &late).json();
    assert!(
        late["cut_off"]
            .as_str()
            .unwrap()
            .contains("interrupted after 1 s"),
        "{late}"
    );
    assert_eq!(cell(&server, &id, "n")["results"][0]["text"], "5");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let long = json!({"code": "import time; time.sleep(60)"});
            let begun = Instant::now();
            let answer = server.post(&at(&id, "/cells"), &long);
            (answer.status, begun.elapsed())
        });
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(server.ask("DELETE", &at(&id, ""), &[], b"").status, 204);
        let (status, took) = waits.join().unwrap();
        assert_eq!(status, 404);
        assert!(took < Duration::from_secs(10), "{took:?}");
    });
}

#[test]
fn forks_have_the_files_and_nothing_that_runs() {
    let Some(server) = served(&[]) else { return };
    let id = made(&server, &json!({"env": {"KEY": "v"}}));
    cell(&server, &id, "x = 1\nopen('note.txt', 'w').write('kept')");
    let forks = server.post(&at(&id, "/forks"), &json!({"count": 2}));
    assert_eq!(forks.status, 201);
    for fork in forks.json().as_array().unwrap() {
        let fork = fork["sandbox"]["sandbox"].as_str().unwrap();
        let said = cell(
            &server,
            fork,
            "import os; open('note.txt').read() + os.environ['KEY']",
        );
        assert_eq!(said["results"][0]["text"], "keptv");
        assert_eq!(cell(&server, fork, "x")["error"]["name"], "NameError");
    }
    assert_eq!(
        server
            .post(&at(&id, "/forks"), &json!({"count": 21}))
            .status,
        400
    );
}

#[test]
fn nothing_of_a_sandbox_is_another_tenants_and_no_more_than_may_be_are_made() {
    let Some(server) = served(&["--sandboxes", "2"]) else {
        return;
    };
    let alice = server.key(&["--tenant", "alice"]);
    let bob = server.key(&["--tenant", "bob"]);
    let reads = server.key(&["--tenant", "alice", "--scope", "scan"]);
    let screened = server.key(&["--tenant", "alice", "--policy", "strict"]);
    let ask = |key: &str, method: &str, path: &str, body: &Value| {
        let headers = [("X-API-Key", key)];
        server.ask(method, path, &headers, body.to_string().as_bytes())
    };
    let first = ask(&alice, "POST", "/v1/sandboxes", &json!({}));
    assert_eq!(first.status, 201, "{}", first.json());
    let id = first.json()["sandbox"].as_str().unwrap().to_owned();
    for (method, rest) in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/timeout"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/forks"),
        ("GET", "/receipt"),
        ("GET", "/receipt/signed"),
        ("GET", "/metrics"),
        ("GET", "/contexts"),
        ("POST", "/contexts"),
        ("DELETE", "/contexts/x"),
        ("POST", "/contexts/x/restart"),
        ("GET", "/commands"),
        ("DELETE", "/commands/1"),
        ("GET", "/files?path=a"),
        ("PUT", "/files?path=a"),
        ("DELETE", "/files?path=a"),
        ("GET", "/folders?path=a"),
        ("PUT", "/folders?path=a"),
    ] {
        let answer = ask(&bob, method, &at(&id, rest), &json!({}));
        assert_eq!(answer.status, 404, "{method} {rest}");
        assert_eq!(
            answer.json()["cause"],
            "unknown_sandbox",
            "{method} {rest}: {}",
            answer.json()
        );
    }
    for (rest, body) in [
        ("/cells", json!({"code": "1"})),
        ("/commands", json!({"command": "id"})),
    ] {
        assert_eq!(ask(&bob, "POST", &at(&id, rest), &body).status, 404);
        assert_eq!(ask(&reads, "POST", &at(&id, rest), &body).status, 403);
    }
    assert_eq!(
        ask(&bob, "GET", "/v1/sandboxes", &json!({})).json()["sandboxes"],
        json!([])
    );
    assert_eq!(ask(&reads, "POST", "/v1/sandboxes", &json!({})).status, 403);
    // What runs in a sandbox that lives on is screened by nobody: a key whose policy screens gets none.
    let refused = ask(&screened, "POST", "/v1/sandboxes", &json!({}));
    assert_eq!(refused.status, 503);
    assert!(
        refused.json()["message"]
            .as_str()
            .unwrap()
            .contains("screened")
    );

    assert_eq!(ask(&alice, "POST", "/v1/sandboxes", &json!({})).status, 201);
    let third = ask(&alice, "POST", "/v1/sandboxes", &json!({}));
    assert_eq!(third.status, 429);
    assert!(!third.header("retry-after").is_empty());
    for (body, what) in [
        (json!({"template": "none-such"}), 404),
        (json!({"timeout_s": 0}), 400),
        (json!({"timeout_s": 86401}), 400),
        (json!({"idle_s": -1}), 400),
        (json!({"on_timeout": "burn"}), 400),
        (json!({"tmeplate": "base"}), 400),
        (json!([]), 400),
    ] {
        assert_eq!(
            ask(&bob, "POST", "/v1/sandboxes", &body).status,
            what,
            "{body}"
        );
    }
}

#[test]
fn lists_come_in_pages_and_metrics_from_outside() {
    let Some(server) = served(&[]) else { return };
    let all: Vec<String> = (0..3).map(|_| made(&server, &json!({}))).collect();
    let mut seen = Vec::new();
    let mut path = "/v1/sandboxes?limit=2".to_owned();
    loop {
        let page = server.get(&path).json();
        let page_ids = page["sandboxes"].as_array().unwrap().iter();
        seen.extend(page_ids.map(|one| one["sandbox"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/sandboxes?limit=2&after={next}"),
            None => break,
        }
    }
    let mut known = all.clone();
    known.reverse();
    assert_eq!(seen, known);
    let sample = until(|| {
        let samples = server.get(&at(&all[0], "/metrics")).json();
        samples.as_array().unwrap().first().cloned()
    });
    assert!(sample["memory_bytes"].as_u64().unwrap() > 0, "{sample}");
    assert_eq!(server.get(&at(&all[0], "/metrics?end=1")).json(), json!([]));
}

#[test]
fn one_that_waits_is_whoever_s_asks_first_and_has_nothing_of_anybody_s() {
    let Some(server) = served(&[]) else { return };
    let about = |body: &Value| {
        let id = made(&server, body);
        let about = server.get(&at(&id, "")).json();
        let waited = about["started_ms"].as_i64().unwrap() - about["made_ms"].as_i64().unwrap();
        (id, waited)
    };
    // The first is made when it is asked for. Then one waits, and is as good as any.
    let (first, _) = about(&json!({}));
    std::thread::sleep(Duration::from_millis(1500));
    let (second, waited) = about(&json!({}));
    assert!(waited > 500, "it did not wait: {waited} ms");
    assert_ne!(first, second);
    let walls = |id: &str| server.get(&at(id, "/receipt")).json()["receipt"]["walls"].clone();
    let names = |walls: &Value| {
        let walls = walls.as_array().unwrap().iter();
        walls
            .map(|wall| (wall["name"].clone(), wall["missing"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&walls(&first)), names(&walls(&second)));
    let said = cell(
        &server,
        &second,
        "import os; sorted(os.listdir(os.environ['HOME'])), os.environ.get('E2B_SANDBOX')",
    );
    assert_eq!(said["results"][0]["text"], "([], 'true')");
    // One with variables of its own is never one that waited.
    std::thread::sleep(Duration::from_millis(1500));
    let (own, waited) = about(&json!({"env": {"MINE": "1"}}));
    assert!(waited < 500, "{waited} ms");
    let mine = cell(&server, &own, "import os; os.environ['MINE']");
    assert_eq!(mine["results"][0]["text"], "1");
    let none = served(&["--ready", "0"]).unwrap();
    made(&none, &json!({}));
    std::thread::sleep(Duration::from_millis(1500));
    let id = made(&none, &json!({}));
    let about = none.get(&at(&id, "")).json();
    assert!(about["started_ms"].as_i64().unwrap() - about["made_ms"].as_i64().unwrap() < 500);
}

/// Tries every name that it is given, and says what could be read, and that nothing could be written.
const TRIES: &str = r#"
import json, os
read, written, names = {}, [], json.loads(open('names.json').read())
for name in names:
    path = '/proc/' + name
    for way in (path, '/proc/self/../' + name, '/proc/self/root/proc/' + name, f'/proc/{os.getpid()}/cwd/../proc/' + name):
        try:
            if os.path.isdir(way):
                read[name] = sorted(os.listdir(way))
            else:
                with open(way, 'rb') as file:
                    read[name] = file.read(65536).decode(errors='replace')
        except OSError:
            pass
        for mode in ('wb', 'r+b', 'ab'):
            try:
                open(way, mode).close()
                written.append(way)
            except OSError:
                pass
processes = [name for name in os.listdir('/proc') if name.isdigit()]
others = [name for name in processes if not os.access(f'/proc/{name}/environ', os.R_OK)]
print(json.dumps({'top': sorted(set(os.listdir('/proc')) - set(processes)), 'read': read, 'written': written, 'others': others,
    'own': str(os.getpid()) in processes, 'mounts': open('/proc/mounts').read(), 'net': sorted(name for name in os.listdir('/proc/net') if os.access('/proc/net/' + name, os.R_OK))}))
"#;

/// What no program in a sandbox has any business with, whether this kernel has it or not.
const NOT_FOR_PROGRAMS: [&str; 22] = [
    "kcore",
    "kallsyms",
    "keys",
    "key-users",
    "sysrq-trigger",
    "timer_list",
    "sched_debug",
    "sys/kernel/core_pattern",
    "sys/kernel/modprobe",
    "sys/vm/drop_caches",
    "kmsg",
    "modules",
    "interrupts",
    "diskstats",
    "vmallocinfo",
    "slabinfo",
    "pressure/cpu",
    "1/environ",
    "1/mem",
    "fs/nfsd",
    "bus/pci",
    "acpi",
];

#[test]
fn its_proc_tells_of_the_sandbox_and_not_of_the_machine() {
    let Some(server) = served(&[]) else { return };
    let id = made(&server, &json!({}));
    let mut names: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(|first: char| first.is_ascii_digit()))
        .filter(|name| !["self", "thread-self", "net", "mounts"].contains(&name.as_str()))
        .collect();
    names.extend(NOT_FOR_PROGRAMS.map(str::to_owned));
    let asked = server.ask(
        "PUT",
        &at(&id, "/files?path=names.json"),
        &[],
        json!(names).to_string().as_bytes(),
    );
    assert!(asked.status < 300, "{}", asked.json());
    let said = cell(&server, &id, TRIES);
    let said = said["stdout"].as_str().unwrap_or_else(|| panic!("{said}"));
    let said: Value = serde_json::from_str(said).unwrap();
    assert_eq!(said["top"], json!(["self", "thread-self"]));
    assert_eq!(said["written"], json!([]));
    assert_eq!(
        said["others"],
        json!([]),
        "what may not be read is not seen"
    );
    assert_eq!(said["own"], true);
    let mounts = said["mounts"].as_str().unwrap();
    assert!(mounts.contains("subset=pid"), "{mounts}");
    // Of the network what is its own, and no queues and memory of the machine's.
    for name in said["net"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        let own = [
            "arp",
            "dev",
            "if_inet6",
            "ipv6_route",
            "raw",
            "raw6",
            "route",
            "tcp",
            "tcp6",
            "udp",
            "udp6",
        ];
        assert!(own.contains(&name), "/proc/net/{name}");
    }
    let read = said["read"].as_object().unwrap();
    let mut shown: Vec<&str> = read.keys().map(String::as_str).collect();
    shown.sort_unstable();
    let ours = [
        "cpuinfo",
        "filesystems",
        "loadavg",
        "meminfo",
        "stat",
        "sys",
        "uptime",
        "version",
    ];
    assert_eq!(shown, ours);
    assert_eq!(read["sys"], json!(["kernel"]));
    for name in ["loadavg", "meminfo", "stat", "version", "filesystems"] {
        let machine = std::fs::read_to_string(format!("/proc/{name}")).unwrap();
        assert_ne!(read[name], json!(machine), "{name}");
    }
    let memory = server.get(&at(&id, "")).json()["memory_bytes"].as_u64();
    let total = format!("MemTotal: {:>14} kB\n", memory.unwrap() >> 10);
    assert!(
        read["meminfo"].as_str().unwrap().starts_with(&total),
        "{}",
        read["meminfo"]
    );
}

fn boot_id(server: &Server, id: &str) -> String {
    let file = at(id, "/files?path=/proc/sys/kernel/random/boot_id");
    let answer = server.get(&file);
    assert_eq!(answer.status, 200);
    String::from_utf8(answer.body).unwrap()
}

#[test]
fn ordinary_tools_find_what_they_read() {
    let Some(server) = served(&[]) else { return };
    let id = made(&server, &json!({}));
    let tools = [
        ("ps", "ps -o comm= -p $$; true", "bash"),
        ("free", "free -m | awk '/^Mem/ { print ($2 > 0) }'", "1"),
        ("uptime", "uptime | grep -c 'load average: 0.00'", "1"),
        ("top", "top -b -n 1 | grep -c 'Tasks:'", "1"),
        (
            "node",
            "node -p 'const os = require(\"os\"); os.totalmem() > 0 && os.cpus().length > 0 && os.uptime() > 0'",
            "true",
        ),
    ];
    for (tool, line, expected) in tools {
        let there = server.post(
            &at(&id, "/commands"),
            &json!({"command": format!("command -v {tool}")}),
        );
        if there.json()["exit_code"] != 0 {
            eprintln!("skipped: this machine has no {tool}");
            continue;
        }
        let said = server
            .post(&at(&id, "/commands"), &json!({"command": line}))
            .json();
        assert_eq!(
            said["stdout"].as_str().map(str::trim),
            Some(expected),
            "{tool}: {said}"
        );
    }
    // It is of one start of one sandbox.
    let own = boot_id(&server, &id);
    assert_eq!(own, boot_id(&server, &id));
    assert_eq!((own.len(), own.matches('-').count()), (37, 4));
    let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let other = boot_id(&server, &made(&server, &json!({})));
    assert!(own != machine && own != other);
}

#[test]
fn one_that_sleeps_keeps_its_files_and_is_made_anew_when_it_is_woken() {
    let Some(server) = served(&["--sandboxes", "1"]) else {
        return;
    };
    let id = made(
        &server,
        &json!({"env": {"KEY": "v"}, "metadata": {"for": "sleep"}}),
    );
    cell(&server, &id, "x = 1\nopen('note.txt', 'w').write('kept')");
    let booted = boot_id(&server, &id);
    // Whoever listens to what runs in it is cut off.
    let body = json!({"command": "sleep 60"}).to_string();
    let mut listening = send(&server, "POST", &at(&id, "/commands"), "", body.as_bytes());
    until(|| {
        let running = server.get(&at(&id, "/commands")).json().to_string();
        running.contains("sleep 60").then_some(())
    });
    // One that cannot be saved goes on.
    let place = server.data.path().join("asleep");
    std::fs::write(&place, "in the way").unwrap();
    let failed = server.post(&at(&id, "/pause"), &json!({"memory": false}));
    assert_eq!(failed.status, 500, "{}", failed.json());
    std::fs::remove_file(&place).unwrap();
    assert_eq!(cell(&server, &id, "x")["results"][0]["text"], "1");

    let paused = server.post(&at(&id, "/pause"), &json!({"memory": false}));
    assert_eq!(paused.status, 200, "{}", paused.json());
    assert_eq!(paused.json()["state"], "paused");
    assert_eq!(paused.json()["pause_mode"], "filesystem");
    let mut rest = Vec::new();
    listening.read_to_end(&mut rest).ok();
    for (path, body) in [
        ("/pause", json!({"memory": false})),
        ("/pause", json!({})),
        ("/cells", json!({"code": "x"})),
        ("/forks", json!({})),
    ] {
        let answer = server.post(&at(&id, path), &body);
        assert_eq!(answer.status, 409, "{path}: {}", answer.json());
    }
    // It is still one of as many as its tenant may have.
    assert_eq!(server.post("/v1/sandboxes", &json!({})).status, 429);
    assert_eq!(
        server.get("/v1/sandboxes").json()["sandboxes"][0]["sandbox"],
        json!(id)
    );

    // One that cannot be made anew sleeps on.
    let away = server.data.path().join("away");
    std::fs::rename(&place, &away).unwrap();
    let failed = server.post(&at(&id, "/resume"), &json!({}));
    assert_eq!(failed.status, 500, "{}", failed.json());
    std::fs::rename(&away, &place).unwrap();
    let detail = server.get(&format!("/sandboxes/{id}")).json();
    assert_eq!(
        (&detail["state"], &detail["pauseMode"]),
        (&json!("paused"), &json!("filesystem"))
    );

    let woken = server.post(&at(&id, "/resume"), &json!({"timeout_s": 100}));
    assert_eq!(woken.status, 200, "{}", woken.json());
    let woken = woken.json();
    assert_eq!(
        (&woken["state"], &woken["pause_mode"]),
        (&json!("running"), &Value::Null)
    );
    assert_eq!(woken["metadata"], json!({"for": "sleep"}));
    let said = cell(
        &server,
        &id,
        "import os; open('note.txt').read() + os.environ['KEY']",
    );
    assert_eq!(said["results"][0]["text"], "keptv");
    assert_eq!(cell(&server, &id, "x")["error"]["name"], "NameError");
    assert_ne!(booted, boot_id(&server, &id));
    let files =
        || std::fs::read_dir(server.data.path().join("asleep")).map_or(0, |all| all.count());
    until(|| (files() == 0).then_some(()));

    // A frozen one is the same one afterwards; and what sleeps can be ended, and leaves nothing.
    let booted = boot_id(&server, &id);
    let frozen = server.post(&at(&id, "/pause"), &json!({}));
    assert_eq!(frozen.json()["pause_mode"], "full");
    assert_eq!(server.post(&at(&id, "/resume"), &json!({})).status, 200);
    assert_eq!(booted, boot_id(&server, &id));
    assert_eq!(
        server
            .post(&at(&id, "/pause"), &json!({"memory": false}))
            .status,
        200
    );
    assert_eq!(files(), 1);
    assert_eq!(server.ask("DELETE", &at(&id, ""), &[], b"").status, 204);
    until(|| (files() == 0).then_some(()));
    until(|| (server.post("/v1/sandboxes", &json!({})).status == 201).then_some(()));
}

#[test]
fn what_cannot_be_together_with_files_alone_is_refused() {
    let Some(server) = served(&[]) else { return };
    for (more, status) in [
        (json!({"autoPauseMemory": false}), 400),
        (
            json!({"autoPauseMemory": false, "autoPause": true, "autoResume": {"enabled": true}}),
            400,
        ),
        (json!({"autoPauseMemory": false, "autoPause": true}), 201),
        (json!({"autoPauseMemory": true}), 201),
    ] {
        let mut body = more.clone();
        body["templateID"] = json!("base");
        let answer = server.post("/v2/sandboxes", &body);
        assert_eq!(answer.status, status, "{more}: {}", answer.json());
    }
    // Traffic wakes one that is frozen, and none that sleeps.
    let body = json!({"templateID": "base", "autoPause": true, "autoResume": {"enabled": true}});
    let made = server.post("/v2/sandboxes", &body).json();
    let id = made["sandboxID"].as_str().unwrap();
    let asked = || {
        let port = [("e2b-sandbox-id", id), ("e2b-sandbox-port", "49983")];
        server.ask("GET", "/health", &port, b"").status
    };
    let pause = |body: Value| server.post(&format!("/sandboxes/{id}/pause"), &body).status;
    assert_eq!(pause(json!({})), 204);
    assert_eq!(asked(), 204);
    assert_eq!(pause(json!({"memory": false})), 204);
    assert_eq!((asked(), pause(json!({}))), (502, 409));
    let connected = server.post(&format!("/sandboxes/{id}/connect"), &json!({"timeout": 60}));
    assert_eq!(connected.status, 201);
    assert_eq!(connected.json()["envdAccessToken"], made["envdAccessToken"]);
    assert_eq!(asked(), 204);
    // A frozen one is made anew where that is asked for.
    let first = boot_id(&server, id);
    assert_eq!(pause(json!({})), 204);
    let cold = json!({"timeout": 60, "memory": false});
    assert_eq!(
        server
            .post(&format!("/sandboxes/{id}/connect"), &cold)
            .status,
        201
    );
    assert_ne!(first, boot_id(&server, id));
}
