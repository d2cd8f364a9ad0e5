//! The wire, byte by byte: what SDKs send and what they expect to read.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::{Duration, Instant};

use support::{Agent, As, envelope, envelopes, status};

#[test]
fn unary_calls_answer_in_the_callers_codec() {
    let agent = Agent::start(As::Nobody, &[]);
    assert_eq!(
        agent.rpc("process.Process/List", "{}"),
        (200, "{}".to_owned())
    );
    let (head, body) = agent.http(
        "POST /process.Process/List",
        "content-type: application/proto\r\nconnect-protocol-version: 1\r\n",
        "",
    );
    assert!(head.contains("content-type: application/proto\r\n"));
    assert_eq!((status(&head), body), (200, Vec::new()));
    let (head, _) = agent.http(
        "POST /process.Process/List",
        "content-type: text/plain\r\n",
        "{}",
    );
    assert_eq!(status(&head), 415);
    let headers = "content-type: application/json; charset=utf-8\r\ncontent-encoding: gzip\r\n";
    let (head, body) = agent.http("POST /process.Process/List", headers, "{}");
    assert_eq!(status(&head), 501);
    assert!(
        String::from_utf8(body)
            .unwrap()
            .starts_with(r#"{"code":"unimplemented","#)
    );
    let (head, _) = agent.http("GET /process.Process/List", "", "");
    assert_eq!(status(&head), 405);
    let (head, _) = agent.http("POST /process.Process/Nothing", "", "");
    assert_eq!(status(&head), 404);
}

#[test]
fn errors_have_the_protocols_code_and_status() {
    let agent = Agent::start(As::Nobody, &[]);
    let json = |method, body| agent.rpc(method, body);
    assert_eq!(
        json(
            "process.Process/SendSignal",
            r#"{"process":{"pid":77},"signal":"SIGNAL_SIGKILL"}"#
        ),
        (
            404,
            r#"{"code":"not_found","message":"process with pid 77 not found"}"#.to_owned()
        )
    );
    assert_eq!(
        json("filesystem.Filesystem/MakeDir", r#"{"path":"/"}"#).0,
        409
    );
    assert_eq!(json("filesystem.Filesystem/Stat", "[]").0, 400);
    assert_eq!(json("filesystem.Filesystem/Stat", r#"{"path":7}"#).0, 400);
    assert_eq!(json("filesystem.Filesystem/Stat", "{").0, 400);
    assert_eq!(
        json("process.Process/SendInput", r#"{"process":{}}"#).0,
        400
    );
    let (messages, end) = agent.stream("process.Process/Connect", "", r#"{"process":{"pid":77}}"#);
    assert!(messages.is_empty());
    assert_eq!(
        end,
        r#"{"error":{"code":"not_found","message":"process with pid 77 not found"}}"#
    );
    let (messages, end) = agent.stream("process.Process/Start", "", "nonsense");
    assert!(
        messages.is_empty() && end.contains("invalid_argument"),
        "{end}"
    );
}

#[test]
fn a_stream_is_start_data_end_and_the_end_of_the_stream() {
    let agent = Agent::start(As::Nobody, &[]);
    let body = r#"{"process":{"cmd":"/bin/sh","args":["-c","echo hi"]},"stdin":false}"#;
    let (messages, end) = agent.stream("process.Process/Start", "", body);
    assert_eq!(end, "{}");
    let [start, data, ended] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert!(start.starts_with(r#"{"event":{"start":{"pid":"#), "{start}");
    assert_eq!(data, r#"{"event":{"data":{"stdout":"aGkK"}}}"#);
    assert_eq!(
        ended,
        r#"{"event":{"end":{"exited":true,"status":"exit status 0"}}}"#
    );
}

#[test]
fn a_silent_stream_says_that_it_lives_as_often_as_it_is_asked() {
    let agent = Agent::start(As::Nobody, &[]);
    let body = r#"{"process":{"cmd":"sleep","args":["2.5"]},"stdin":false}"#;
    let begun = Instant::now();
    let (messages, _) = agent.stream(
        "process.Process/Start",
        "keepalive-ping-interval: 1\r\n",
        body,
    );
    assert!(begun.elapsed() > Duration::from_secs(2));
    let alive = messages
        .iter()
        .filter(|text| *text == r#"{"event":{"keepalive":{}}}"#);
    assert_eq!(alive.count(), 2, "{messages:?}");
}

#[test]
fn the_user_is_in_the_authorization() {
    let agent = Agent::start(As::Nobody, &[]);
    let body = r#"{"process":{"cmd":"sh","args":["-c","echo $USER"]}}"#;
    let user = "authorization: Basic dXNlcjo=\r\n";
    let (messages, _) = agent.stream("process.Process/Start", user, body);
    assert!(messages[1].contains("dXNlcgo="), "{messages:?}");
    let stranger = "authorization: Basic c3RyYW5nZXI6\r\n";
    let (_, end) = agent.stream("process.Process/Start", stranger, body);
    assert_eq!(
        end,
        r#"{"error":{"code":"unauthenticated","message":"invalid username: 'stranger'"}}"#
    );
}

#[test]
fn health_is_told_by_its_port() {
    let agent = Agent::start(As::Nobody, &[]);
    let (head, body) = agent.http("GET /health", "", "");
    assert_eq!((status(&head), body), (204, Vec::new()));
    let (head, body) = agent.http("GET /health", "E2b-Sandbox-Port: 49999\r\n", "");
    assert_eq!((status(&head), body), (200, b"\"OK\"".to_vec()));
}

#[test]
fn what_the_host_says_is_kept_and_what_it_does_not_say_stays() {
    let agent = Agent::start(As::Nobody, &[]);
    let init = |body: &str| {
        status(
            &agent
                .http("POST /init", "content-type: application/json\r\n", body)
                .0,
        )
    };
    let envs = || String::from_utf8(agent.http("GET /envs", "", "").1).unwrap();
    assert_eq!(envs(), "{}");
    assert_eq!(
        init(r#"{"envVars":{"A":"b"},"timestamp":"2026-01-01T00:00:00Z","volumeMounts":[]}"#),
        204
    );
    assert_eq!(envs(), r#"{"A":"b"}"#);
    assert_eq!(
        init(r#"{"defaultUser":"user","defaultWorkdir":"/usr"}"#),
        204
    );
    assert_eq!(envs(), r#"{"A":"b"}"#);
    let (messages, _) = agent.stream("process.Process/Start", "", r#"{"process":{"cmd":"pwd"}}"#);
    assert!(messages[1].contains("L3Vzcgo="), "{messages:?}");
    assert_eq!(init(r#"{"defaultUser":"stranger"}"#), 401);
    assert_eq!(init("[1"), 400);
}

#[test]
fn many_requests_go_over_one_connection() {
    use std::io::{Read, Write};
    let agent = Agent::start(As::Nobody, &[]);
    let mut stream = std::os::unix::net::UnixStream::connect(agent.socket()).unwrap();
    let list = "POST /process.Process/List HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let body = envelope(0, r#"{"process":{"cmd":"true"},"stdin":false}"#);
    let start = format!(
        "POST /process.Process/Start HTTP/1.1\r\nhost: x\r\ncontent-type: application/connect+json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
        body.len()
    );
    stream.write_all(list.repeat(3).as_bytes()).unwrap();
    stream
        .write_all(&[start.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat())
        .unwrap();
    stream
        .write_all(
            list.replace("host: x", "host: x\r\nconnection: close")
                .as_bytes(),
        )
        .unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let all = String::from_utf8_lossy(&all);
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 5);
    assert!(all.contains(r#""exited":true"#));
}

#[test]
fn a_version_and_help_are_printed_and_nonsense_is_refused() {
    #[allow(clippy::disallowed_methods, reason = "the program under test")]
    let run = |args: &[&str]| {
        std::process::Command::new(support::program_path())
            .args(args)
            .output()
            .unwrap()
    };
    assert!(
        String::from_utf8(run(&["--version"]).stdout)
            .unwrap()
            .starts_with("casemate-guest ")
    );
    assert!(
        String::from_utf8(run(&["--help"]).stdout)
            .unwrap()
            .contains("--handoff-fd")
    );
    for wrong in [
        &[][..],
        &["--socket"],
        &["launch"],
        &["launch", "x"],
        &["--listen-fd", "77"],
    ] {
        let out = run(wrong);
        assert_eq!(out.status.code(), Some(125), "{wrong:?}");
        assert!(out.stderr.starts_with(b"casemate-guest: "));
    }
}

#[test]
fn two_agents_do_not_share_a_socket_and_a_left_one_is_replaced() {
    let agent = Agent::start(As::Us, &[]);
    #[allow(clippy::disallowed_methods, reason = "the program under test")]
    let second = std::process::Command::new(support::program_path())
        .arg("--socket")
        .arg(agent.socket())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(125));
    assert_eq!(agent.rpc("process.Process/List", "{}").0, 200);
    assert!(envelopes(&[]).is_empty());
}

#[test]
fn the_agent_that_is_shipped_is_static() {
    let Some(path) = std::env::var_os("CASEMATE_GUEST_AGENT") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "CASEMATE_GUEST_AGENT is not set"
        );
        eprintln!("skipped: CASEMATE_GUEST_AGENT is not set; ./dev test sets it");
        return;
    };
    let elf = std::fs::read(path).unwrap();
    let number = |at: usize, bytes: usize| {
        let all = &elf[at..at + bytes];
        all.iter()
            .rev()
            .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    assert_eq!(&elf[..5], b"\x7fELF\x02");
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    // PT_INTERP: the program that would have to load this one.
    let kinds: Vec<usize> = (0..count)
        .map(|index| number(table + index * size, 4))
        .collect();
    assert!(!kinds.is_empty() && !kinds.contains(&3), "{kinds:?}");
}
