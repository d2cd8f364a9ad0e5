//! The server on a Postgres of the test's own.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use served::{command, folder, sha256, start_in};
use tempfile::TempDir;

/// A Postgres in a folder, stopped when it is dropped.
struct Postgres {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An interrupt is its quick way of ending.
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.child.wait().unwrap();
    }
}

/// Debian's place for its programs, the latest version first.
fn programs() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .map(|entry| entry.unwrap().path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop()
}

fn postgres() -> Option<Postgres> {
    let programs = programs();
    let (Some(programs), true) = (programs, rustix::process::geteuid().is_root()) else {
        let why = "the server on Postgres: that takes root and Debian's package postgresql";
        assert!(
            std::env::var_os("CI").is_none(),
            "with CI set this is not skipped: {why}"
        );
        eprintln!("skipped: {why}");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    // It does not run as root.
    let as_postgres = |program: &str| {
        let mut run = command("setpriv");
        run.args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ])
        .arg(programs.join(program))
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
        run
    };
    let owned = command("chown").arg("postgres").arg(folder.path()).status();
    assert!(owned.unwrap().success());
    let data = folder.path().join("data");
    let made = as_postgres("initdb")
        .args([
            "--auth=trust",
            "--username=casemate",
            "--no-sync",
            "--pgdata",
        ])
        .arg(&data)
        .status();
    assert!(made.unwrap().success());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let child = as_postgres("postgres")
        .args(["-F", "-h", "127.0.0.1", "-p", &port, "-k", "", "-D"])
        .arg(&data)
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "it does not come up"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    // It takes connections a moment before it answers them.
    std::thread::sleep(Duration::from_millis(500));
    Some(Postgres {
        child,
        url: format!("postgres://casemate@127.0.0.1:{port}/postgres"),
        _folder: folder,
    })
}

#[test]
fn what_holds_on_sqlite_holds_on_postgres() {
    let Some(postgres) = postgres() else {
        return;
    };
    let database = ["--database", postgres.url.as_str()];
    let mut server = start_in(folder(), &database);
    let alice = server.key(&["--tenant", "alice", database[0], database[1]]);
    let bob = server.key(&["--tenant", "bob", database[0], database[1]]);
    assert!(!server.data.path().join("casemate.db").exists());
    let ask = |server: &served::Server, key: &str, method: &str, path: &str, body: &[u8]| {
        let headers = [("X-API-Key", key), ("Idempotency-Key", "one")];
        server.ask(method, path, &headers, body)
    };
    assert_eq!(server.get("/v1/runs").status, 401);
    let content = b"a,b\n1,2\n";
    let upload = format!("/v1/uploads/{}", sha256(content));
    for _ in 0..2 {
        assert_eq!(ask(&server, &alice, "PUT", &upload, content).status, 201);
    }
    let body = json!({
        "code": "open('/tmp/x.txt', 'w').write(open('/data/s.csv').read())\nprint('ran')",
        "files": [{"path": "/data/s.csv", "upload": sha256(content)}],
    });
    let body = body.to_string();
    let run = ask(&server, &alice, "POST", "/v1/runs", body.as_bytes()).json();
    assert_eq!(run["stdout"], "ran\n", "{run:#}");
    let again = ask(&server, &alice, "POST", "/v1/runs", body.as_bytes()).json();
    assert_eq!(again["run"], run["run"]);
    assert_eq!(
        ask(&server, &bob, "POST", "/v1/runs", body.as_bytes()).status,
        404
    );
    let artifact = run["artifacts"][0]["href"].as_str().unwrap().to_owned();
    assert_eq!(ask(&server, &alice, "GET", &artifact, b"").body, content);
    assert_eq!(ask(&server, &bob, "GET", &artifact, b"").status, 404);
    let audit = ask(&server, &alice, "GET", "/v1/audit?limit=2", b"").json();
    assert_eq!(audit["entries"][0]["action"], "run.ended");
    let next = format!(
        "/v1/audit?limit=2&after={}",
        audit["next"].as_str().unwrap()
    );
    let older = ask(&server, &alice, "GET", &next, b"").json();
    assert_eq!(older["entries"][0]["action"], "upload.stored");
    let data = server.data.path().to_str().unwrap().to_owned();
    let verify = [
        "audit",
        "verify",
        "--data-dir",
        &data,
        "--database",
        &postgres.url,
    ];
    let output = support::run(&verify);
    assert_eq!(support::code(&output), 0, "{}", support::stderr(&output));
    let said = support::stdout(&output);
    assert!(
        said.contains("alice: whole, ") && said.contains("bob: whole, "),
        "{said}"
    );

    // After a crash it is all there, and another folder's server does not take the database.
    let place = format!("/v1/runs/{}", run["run"].as_str().unwrap());
    server.kill();
    let elsewhere = other_folder(&postgres.url);
    assert!(elsewhere.contains("another data folder"), "{elsewhere}");
    let data = std::mem::replace(&mut server.data, folder());
    let server = start_in(data, &database);
    assert_eq!(
        ask(&server, &alice, "GET", &place, b"").json()["stdout"],
        "ran\n"
    );
    assert_eq!(ask(&server, &alice, "DELETE", &place, b"").status, 204);
    assert_eq!(ask(&server, &alice, "DELETE", &upload, b"").status, 204);
    assert_eq!(
        ask(&server, &alice, "GET", "/v1/runs", b"").json()["runs"],
        json!([])
    );
}

fn other_folder(url: &str) -> String {
    let data = folder();
    let output = support::casemate()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--database",
            url,
            "--data-dir",
        ])
        .arg(Path::new(data.path()))
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
