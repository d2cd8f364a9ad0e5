//! The E2B door: the official Python SDKs, unchanged, against `casemate serve`, with jails behind it; what may not be
//! got through it; and E2B's own tests, wherever they are.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use served::{Server, command, start};

/// Where E2B's own tests lie.
const SUITE: &str = "CASEMATE_E2B_TESTS";

/// The environment of the SDKs. Only root has what a sandbox that lives on takes, and everything else `./dev test`
/// installs.
fn sdks() -> Option<PathBuf> {
    let wanted = include_bytes!("e2b/requirements.txt");
    let is_root = rustix::process::geteuid().is_root();
    let found = support::installed("e2b", wanted).filter(|_| is_root);
    if found.is_none() {
        let why = "E2B's SDKs are not installed, or this is not root; `./dev test` installs them";
        assert!(
            std::env::var_os("CI").is_none(),
            "with CI set this is not skipped: {why}"
        );
        eprintln!("skipped: {why}");
    }
    found
}

fn created(server: &Server, key: &str, template: &str) -> (u16, Value) {
    let body = json!({"templateID": template}).to_string();
    let answer = server.ask(
        "POST",
        "/v2/sandboxes",
        &[("x-api-key", key)],
        body.as_bytes(),
    );
    (answer.status, answer.json())
}

#[test]
fn the_official_sdks_work_unchanged() {
    let Some(environment) = sdks() else { return };
    let server = start(&[]);
    let url = format!("http://{}", server.address);
    let mut python = command(environment.join("bin/python"));
    python.env("E2B_API_URL", &url).env("E2B_SANDBOX_URL", &url);
    drive(python);
    assert_eq!(left_of(&server), Vec::<String>::new());
}

/// Goes over every verb with a Python that knows where the server is.
fn drive(mut python: Command) {
    let output = python
        .arg(support::repository("crates/casemate/tests/e2b/drive.py"))
        .env("E2B_API_KEY", format!("e2b_{}", "0".repeat(40)))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Ran ") && !said.contains("skipped"), "{said}");
}

/// The same by names alone, over HTTPS with a certificate of the server's own authority: the SDKs are told a domain.
#[test]
fn the_official_sdks_reach_sandboxes_by_their_names_over_https() {
    let Some(environment) = sdks() else { return };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let listen = format!("127.0.0.1:{port}");
    let server = start(&["--tls-listen", &listen, "--domain", "boxes.test"]);
    let domain = format!("boxes.test:{port}");
    let authority = server.data.path().join("tls/authority.pem");
    let mut python = command("python3");
    python
        .arg(support::repository("crates/casemate/tests/e2b/names.py"))
        .arg(&domain)
        .arg(environment.join("bin/python"))
        .env("E2B_DOMAIN", &domain)
        .env("SSL_CERT_FILE", authority);
    drive(python);
    // A page that came by another name is no page of this server's.
    for (host, status) in [
        ("api.boxes.test", 200),
        ("boxes.test", 200),
        ("evil.example", 403),
        ("notboxes.test", 403),
    ] {
        let answer = server.ask("GET", "/v2/sandboxes", &[("host", host)], b"");
        assert_eq!(answer.status, status, "{host}");
    }
}

/// What is still there of a server's sandboxes once it has been told to stop: processes of agents below it.
fn left_of(server: &Server) -> Vec<String> {
    let agent = format!("{}/agent", server.data.path().display());
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let mut left = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let path = entry.path();
            let mounts = std::fs::read_to_string(path.join("mountinfo")).unwrap_or_default();
            if mounts.contains("/opt/agent") && mounts.contains(&agent) {
                left.push(path.display().to_string());
            }
        }
        if left.is_empty() || std::time::Instant::now() > deadline {
            return left;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_sandbox_is_its_tenants_and_its_receipt_says_what_stands() {
    if sdks().is_none() {
        return;
    }
    let server = start(&["--sandboxes", "1"]);
    let key = server.key(&["--tenant", "one"]);
    let other = server.key(&["--tenant", "other"]);
    let bound = server.key(&["--tenant", "bound", "--backend", "wasm"]);
    let scans = server.key(&["--tenant", "scans", "--scope", "scan"]);
    let (status, sandbox) = created(&server, &key, "base");
    assert_eq!(status, 201, "{sandbox}");
    let id = sandbox["sandboxID"].as_str().unwrap();
    let token = sandbox["envdAccessToken"].as_str().unwrap();

    // One more than it may have, and one that its key may not have at all.
    let (status, refused) = created(&server, &key, "base");
    assert_eq!((status, &refused["code"]), (429, &json!(429)), "{refused}");
    let (status, refused) = created(&server, &bound, "base");
    assert_eq!(status, 403, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("wasm"));
    assert_eq!(created(&server, &scans, "base").0, 403);
    assert_eq!(created(&server, "none", "base").0, 401);
    let (status, refused) = created(&server, &other, "no-such-template");
    assert_eq!(status, 404, "{refused}");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("code-interpreter-v1")
    );

    // Nobody else sees it, ends it or copies it.
    let as_other = [("x-api-key", other.as_str())];
    for (method, path) in [
        ("GET", format!("/sandboxes/{id}")),
        ("DELETE", format!("/sandboxes/{id}")),
        ("POST", format!("/sandboxes/{id}/pause")),
        ("POST", format!("/sandboxes/{id}/fork")),
        ("POST", format!("/sandboxes/{id}/snapshots")),
        ("POST", format!("/v2/sandboxes/{id}/connect")),
        ("GET", format!("/v1/sandboxes/{id}/receipt")),
    ] {
        let answer = server.ask(method, &path, &as_other, b"");
        assert_eq!(answer.status, 404, "{method} {path}");
    }
    let listed = server.ask("GET", "/v2/sandboxes", &as_other, b"").json();
    assert_eq!(listed, json!([]));

    // Its agent answers to its token alone, and to what only the host may say not at all.
    let agent = |token: &str, method: &str, path: &str| {
        let headers = [
            ("e2b-sandbox-id", id),
            ("e2b-sandbox-port", "49983"),
            ("x-access-token", token),
        ];
        server.ask(method, path, &headers, b"").status
    };
    assert_eq!(agent(token, "GET", "/files?path=/etc/passwd"), 200);
    assert_eq!(agent("wrong", "GET", "/files?path=/etc/passwd"), 401);
    assert_eq!(agent(token, "GET", "/files?path=/etc/shadow"), 404);
    for port in ["49983", "49999"] {
        let headers = [("e2b-sandbox-id", id), ("e2b-sandbox-port", port)];
        let answer = server.ask("POST", "/init", &headers, b"{}");
        assert_eq!(answer.status, 404, "{port}");
    }

    // The walls, each of which stands but what is said to be missing.
    let own = [("x-api-key", key.as_str())];
    let told = server.ask("GET", &format!("/v1/sandboxes/{id}/receipt"), &own, b"");
    let receipt = &told.json()["receipt"];
    assert_eq!(receipt["backend"], "jail");
    let walls = receipt["walls"].as_array().unwrap();
    let wall = |name: &str| {
        let mut named = walls.iter().filter(|wall| wall["name"] == name);
        named.next().unwrap_or_else(|| panic!("no wall {name}"))
    };
    for name in [
        "seccomp",
        "network_namespace",
        "root",
        "pid_namespace",
        "cgroup_memory",
    ] {
        assert!(wall(name)["got"].is_string(), "{name}: {receipt}");
    }
    let guarantees = wall("seccomp")["guarantees"].to_string();
    assert!(!guarantees.contains("network_absent"), "{guarantees}");
    let audit = server.ask("GET", "/v1/audit", &own, b"").json().to_string();
    assert!(audit.contains("sandbox.created"), "{audit}");
    let gone = server.ask("DELETE", &format!("/sandboxes/{id}"), &own, b"");
    assert_eq!(gone.status, 204);
    assert_eq!(agent(token, "GET", "/health"), 502);
}

#[test]
fn a_policy_that_asks_for_more_than_there_is_opens_nothing() {
    if sdks().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let refusals = [
        (
            "attacked = \"required\"\nscreen = \"off\"\nrequire = [\"network_absent\"]\n",
            "attacked",
        ),
        // What runs in a sandbox is not screened: a policy that says otherwise would not be kept.
        ("require = [\"network_absent\"]\n", "screened"),
        // A jail's clocks are not coarse.
        (
            "screen = \"off\"\nrequire = [\"network_absent\", \"clock_coarse\"]\n",
            "clock coarse",
        ),
    ];
    for (number, (text, why)) in refusals.into_iter().enumerate() {
        let policy = folder.path().join(format!("{number}.toml"));
        std::fs::write(&policy, format!("name = \"own\"\n{text}")).unwrap();
        let server = start(&["--sessions", policy.to_str().unwrap()]);
        let (status, refused) = created(&server, "", "base");
        assert_eq!(status, 503, "{refused}");
        assert!(
            refused["message"].as_str().unwrap().contains(why),
            "{refused}"
        );
    }
    // Nor does a key's own policy get less than it says, or more sandboxes a minute.
    let server = start(&[]);
    let screened = server.key(&["--tenant", "a", "--policy", "native"]);
    let (status, refused) = created(&server, &screened, "base");
    assert_eq!(status, 503, "{refused}");
    let seldom = server.key(&["--tenant", "b", "--per-minute", "1"]);
    assert_eq!(created(&server, &seldom, "base").0, 201);
    assert_eq!(created(&server, &seldom, "base").0, 429);
    let server = start(&["--sessions", "off"]);
    assert_eq!(created(&server, "", "base").0, 404);
}

/// E2B's own tests of its SDKs. What cannot be served here is named in a list, each with its reason; a test that
/// is not on it must pass, if not the first time then the second.
#[test]
fn the_tests_that_e2b_has_pass_but_for_those_that_are_listed() {
    let Some(suite) = std::env::var_os(SUITE) else {
        eprintln!("skipped: E2B's own tests are not here; {SUITE} names their folder");
        return;
    };
    let Some(environment) = sdks() else { return };
    let modules = environment.with_file_name("e2b-js").join("node_modules");
    assert!(
        modules.join("vitest").is_dir(),
        "what runs the JavaScript ones is not there; `./dev test` installs it"
    );
    let output = command("bash")
        .arg(support::repository("crates/casemate/tests/e2b/suite.sh"))
        .arg(env!("CARGO_BIN_EXE_casemate"))
        .arg(environment.join("bin/python"))
        .arg(modules)
        .arg(suite)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
