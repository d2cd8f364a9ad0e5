//! The console in a browser: the real binary, the real page, Debian's Chromium. What is looked at is in
//! `console/test/console.mjs`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use std::path::{Path, PathBuf};

use served::{Server, command, start};
use support::repository;

const CHROMIUM: &str = "/usr/bin/chromium";

/// Why the page cannot be tried here, if it cannot.
fn missing(server: &Server) -> Option<&'static str> {
    let page = server.get("/");
    if String::from_utf8_lossy(&page.body).contains("built without the console") {
        Some("this build has no console")
    } else if !Path::new(CHROMIUM).exists() {
        Some("there is no Chromium")
    } else if !repository("console/node_modules/playwright-core").exists() {
        Some("what drives the browser is not installed")
    } else {
        None
    }
}

/// Where pictures of the views are left: below cargo's own folder for tests.
fn pictures() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Whether the page can be tried; where it cannot, that is said, and with CI set it is a failure.
fn can_drive(server: &Server) -> bool {
    let Some(why) = missing(server) else {
        return true;
    };
    assert!(
        std::env::var_os("CI").is_none(),
        "with CI set this is not skipped: {why}"
    );
    eprintln!("skipped: {why}; `./dev test` does it");
    false
}

#[test]
fn a_person_runs_reads_searches_and_is_refused() {
    let server = start(&[]);
    if !can_drive(&server) {
        return;
    }
    let said = drive(&server, "");
    assert!(said.matches("ok: ").count() >= 10, "{said}");
}

/// Does every step in the browser, or those that there are for a server with keys.
fn drive(server: &Server, key: &str) -> String {
    let output = command("node")
        .arg("test/console.mjs")
        .arg(&server.address)
        .arg(repository("").canonicalize().unwrap())
        .arg(pictures())
        .env("CASEMATE_KEY", key)
        .current_dir(repository("console"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

#[test]
fn a_key_is_typed_in_and_forgotten() {
    let server = start(&[]);
    let key = server.key(&["--tenant", "acme", "--name", "first"]);
    if can_drive(&server) {
        assert!(drive(&server, &key).contains("ok: a key is typed in"));
    }
}

/// Keys are needed from the first on; the page is there without one, and says what the API says.
#[test]
fn the_page_needs_no_key_and_the_api_does() {
    let server = start(&[]);
    let key = server.key(&["--tenant", "acme", "--name", "first"]);
    let other = server.key(&["--tenant", "other"]);
    assert_eq!(server.get("/").status, 200);
    assert_eq!(server.get("/v1/keys").status, 401);
    assert_eq!(server.get("/v1/attacks").status, 401);
    let listed = server
        .ask("GET", "/v1/keys", &[("X-API-Key", &key)], b"")
        .json();
    assert_eq!(listed["tenant"], "acme");
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1, "no other tenant's: {listed:#}");
    assert_eq!(keys[0]["name"], "first");
    assert_eq!(keys[0]["id"], listed["key"]);
    for secret in [&key, &other] {
        assert!(!listed.to_string().contains(secret.as_str()));
    }
    let matrix = server
        .ask("GET", "/v1/attacks", &[("X-API-Key", &key)], b"")
        .json();
    assert!(matrix["attacks"].as_array().unwrap().len() >= 60);
    let backends = matrix["backends"].as_array().unwrap();
    assert!(backends.iter().any(|column| column["backend"] == "wasm"));
    // A page of another site gets neither the page nor its parts.
    let strange = [("Origin", "http://evil.example")];
    assert_eq!(server.ask("GET", "/", &strange, b"").status, 403);
    assert_eq!(server.ask("GET", "/assets/x.js", &strange, b"").status, 403);
    assert_eq!(server.get("/assets/x.js").status, 404);
    assert_eq!(server.get("/assets/..%2Findex.html").status, 404);
}
