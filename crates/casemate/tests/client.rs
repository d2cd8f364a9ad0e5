//! The Python client of `sdk/python`: its own tests, its examples, its types and its generated part, against a real server.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod served;
mod support;

use served::{command, start};

#[test]
fn its_tests_and_examples_pass_against_a_server_with_keys() {
    let wanted = include_bytes!("../../../sdk/python/tests/requirements.txt");
    let Some(environment) = support::installed("client", wanted) else {
        let why = "what tests the client is not installed; `./dev test` does it";
        assert!(
            std::env::var_os("CI").is_none(),
            "with CI set this is not skipped: {why}"
        );
        eprintln!("skipped: {why}");
        return;
    };
    let server = start(&[]);
    let key = server.key(&[]);
    let output = command(environment.join("bin/python"))
        .current_dir(support::repository("sdk/python"))
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .env("CASEMATE_URL", format!("http://{}", server.address))
        .env("CASEMATE_API_KEY", key)
        // Nothing is left in the repository.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // With a server and a key there is nothing to skip.
    assert!(
        said.contains(" passed") && !said.contains("skipped"),
        "{said}"
    );
    assert_eq!(server.get("/healthz").status, 200);
}
