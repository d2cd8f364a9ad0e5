//! `filesystem.Filesystem` and files over HTTP, on a real agent.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

use casemate_envd::Code;
use casemate_envd::client::{Init, Watched};
use casemate_envd::filesystem::{EventType, FileType, WatchRequest};
use casemate_envd::signature::{Operation, Signed};
use support::{Agent, As, bash, status, whole};

fn watch(path: &str, recursive: bool) -> WatchRequest {
    WatchRequest {
        path: path.to_owned(),
        recursive,
        ..WatchRequest::default()
    }
}

fn names(events: &[Watched]) -> Vec<(EventType, &str)> {
    events
        .iter()
        .map(|event| (event.what, event.name.as_str()))
        .collect()
}

#[tokio::test]
async fn a_file_is_written_read_told_moved_and_removed() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let metadata = BTreeMap::from([("author".to_owned(), "mish".to_owned())]);
    let written = client
        .upload("down/a b?.txt", "text", &metadata)
        .await
        .unwrap();
    let home = agent.home.to_str().unwrap();
    assert_eq!(written.path, format!("{home}/down/a b?.txt"));
    assert_eq!(
        (written.name.as_str(), written.r#type.as_str()),
        ("a b?.txt", "file")
    );
    assert_eq!(written.metadata, metadata);
    let entry = client.stat("~/down/a b?.txt").await.unwrap();
    assert_eq!(
        (entry.size, entry.mode, entry.permissions.as_str()),
        (4, 0o644, "-rw-r--r--")
    );
    assert_eq!(
        (entry.owner.as_str(), entry.group.as_str()),
        ("user", "user")
    );
    assert_eq!(entry.metadata, metadata);
    let moved = client
        .rename("down/a b?.txt", "other/place/b")
        .await
        .unwrap();
    assert_eq!(
        (moved.path, moved.metadata),
        (format!("{home}/other/place/b"), metadata)
    );
    let read = client
        .download("other/place/b", 100)
        .await
        .unwrap()
        .whole()
        .await
        .unwrap();
    assert_eq!(read, b"text");
    let again = client
        .upload("other/place/b", "", &BTreeMap::new())
        .await
        .unwrap();
    assert!(again.metadata.is_empty());
    assert!(
        client
            .stat("other/place/b")
            .await
            .unwrap()
            .metadata
            .is_empty()
    );
    let listed = client.list_dir("", 3).await.unwrap();
    let paths: Vec<&str> = listed
        .iter()
        .map(|entry| entry.path.strip_prefix(home).unwrap())
        .collect();
    assert_eq!(paths, ["/down", "/other", "/other/place", "/other/place/b"]);
    client.remove("other").await.unwrap();
    client.remove("other").await.unwrap();
    let error = client.stat("other").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    assert_eq!(
        error.to_string(),
        format!("path '{home}/other' does not exist")
    );
}

#[tokio::test]
async fn folders_are_made_once() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let made = client.make_dir("a/b/c").await.unwrap();
    assert_eq!(
        (made.name.as_str(), made.permissions.as_str()),
        ("c", "drwxr-xr-x")
    );
    assert_eq!(made.r#type, i32::from(FileType::Directory));
    let code = |error: casemate_envd::ClientError| error.code();
    assert_eq!(
        client.make_dir("a/b").await.map_err(code),
        Err(Some(Code::AlreadyExists))
    );
    client.upload("a/f", "", &BTreeMap::new()).await.unwrap();
    assert_eq!(
        client.make_dir("a/f").await.map_err(code),
        Err(Some(Code::InvalidArgument))
    );
    assert_eq!(
        client.list_dir("a/f", 1).await.map_err(code),
        Err(Some(Code::InvalidArgument))
    );
    assert_eq!(
        client.list_dir("no", 1).await.map_err(code),
        Err(Some(Code::NotFound))
    );
    assert_eq!(
        client.rename("no", "x").await.map_err(code),
        Err(Some(Code::NotFound))
    );
    assert_eq!(
        client
            .upload("a", "", &BTreeMap::new())
            .await
            .map(drop)
            .map_err(code),
        Err(Some(Code::InvalidArgument))
    );
    assert_eq!(
        client.download("a", 1).await.map(drop).map_err(code),
        Err(Some(Code::InvalidArgument))
    );
    assert_eq!(
        client.download("no", 1).await.map(drop).map_err(code),
        Err(Some(Code::NotFound))
    );
    assert!(client.stat("/root/x").await.is_err());
}

#[tokio::test]
async fn large_files_go_both_ways_and_take_little_memory() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let large: Vec<u8> = (0..40_000_000_u32).map(|n| (n % 251) as u8).collect();
    client
        .upload("large", large.clone(), &BTreeMap::new())
        .await
        .unwrap();
    let read = client
        .download("large", 50_000_000)
        .await
        .unwrap()
        .whole()
        .await
        .unwrap();
    assert!(read == large);
    let peak = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let peak = peak
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[tokio::test]
async fn what_is_no_file_does_not_hold_the_agent() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let made = client
        .start(bash("mkfifo pipe"), Default::default())
        .await
        .unwrap();
    assert_eq!(whole(made).await.end.exit_code, 0);
    for path in ["pipe", "/dev/zero"] {
        let error = client.download(path, 100).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
        assert!(client.upload(path, "x", &BTreeMap::new()).await.is_err());
    }
    // Made by the kernel as it is read, and of no size.
    let read = client.download("/proc/self/status", 100_000).await.unwrap();
    assert!(
        read.whole()
            .await
            .unwrap()
            .starts_with(b"Name:\tcasemate-guest\n")
    );
}

#[tokio::test]
async fn a_new_file_is_three_events_for_who_asks_and_for_who_listens() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    client.make_dir("w").await.unwrap();
    let watcher = client.create_watcher(&watch("w", false)).await.unwrap();
    let mut request = watch("w", false);
    request.include_entry = true;
    let mut watching = client.watch(&request).await.unwrap();
    client
        .upload("w/f", "text", &BTreeMap::new())
        .await
        .unwrap();
    let seen = client.watcher_events(&watcher).await.unwrap();
    use EventType::{Chmod, Create, Remove, Rename, Write};
    assert_eq!(names(&seen), [(Create, "f"), (Chmod, "f"), (Write, "f")]);
    assert!(seen.iter().all(|event| event.entry.is_none()));
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(watching.next().await.unwrap().unwrap());
    }
    assert_eq!(names(&told), names(&seen));
    assert_eq!(told[2].entry.as_ref().unwrap().size, 4);
    client.rename("w/f", "w/g").await.unwrap();
    client.remove("w/g").await.unwrap();
    let seen = client.watcher_events(&watcher).await.unwrap();
    assert_eq!(names(&seen), [(Rename, "f"), (Create, "g"), (Remove, "g")]);
    client.remove_watcher(&watcher).await.unwrap();
    for error in [
        client.watcher_events(&watcher).await.unwrap_err(),
        client.remove_watcher(&watcher).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Some(Code::NotFound));
    }
    for (path, code) in [
        ("w/none", Code::NotFound),
        ("/etc/passwd", Code::InvalidArgument),
    ] {
        let error = client
            .create_watcher(&watch(path, false))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(code));
        let error = client.watch(&watch(path, false)).await.unwrap_err();
        assert_eq!(error.code(), Some(code));
    }
}

#[tokio::test]
async fn folders_that_come_later_are_watched_too() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    client.make_dir("w").await.unwrap();
    let watcher = client.create_watcher(&watch("w", true)).await.unwrap();
    client.make_dir("w/new/deep").await.unwrap();
    client
        .upload("w/new/deep/f", "x", &BTreeMap::new())
        .await
        .unwrap();
    let seen = client.watcher_events(&watcher).await.unwrap();
    let seen = names(&seen);
    assert!(seen.contains(&(EventType::Create, "new")), "{seen:?}");
    assert!(seen.contains(&(EventType::Write, "new/deep/f")), "{seen:?}");
}

#[tokio::test]
async fn more_events_than_can_be_kept_are_told_as_lost() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    client.make_dir("w").await.unwrap();
    let watcher = client.create_watcher(&watch("w", false)).await.unwrap();
    let many = client.start(
        bash("cd w; for i in {1..12000}; do : > $i; done"),
        Default::default(),
    );
    whole(many.await.unwrap()).await;
    let error = client.watcher_events(&watcher).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::DataLoss));
    client.upload("w/f", "x", &BTreeMap::new()).await.unwrap();
    assert_eq!(client.watcher_events(&watcher).await.unwrap().len(), 3);
    let error = client.list_dir("w", 1).await.map(|all| all.len());
    assert_eq!(error.unwrap(), 12_001);
}

fn form(parts: &[(&str, &str)]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (disposition, content) in parts {
        write!(
            body,
            "--b\r\ncontent-disposition: form-data; {disposition}\r\n\r\n{content}\r\n"
        )
        .unwrap();
    }
    body.extend(b"--b--\r\n");
    (
        "content-type: multipart/form-data; boundary=b\r\n".to_owned(),
        body,
    )
}

fn text(body: Vec<u8>) -> String {
    String::from_utf8(body).unwrap()
}

#[test]
fn forms_are_taken_as_sdks_send_them() {
    let agent = Agent::start(As::Nobody, &[]);
    let home = agent.home.to_str().unwrap();
    let (headers, body) = form(&[
        (r#"name="file"; filename="one.txt""#, "1"),
        (r#"name="other""#, "ignored"),
        (r#"name="file"; filename="/tmp/../../../home-not/x""#, ""),
    ]);
    let (head, answer) = agent.http("POST /files?username=user", &headers, &body[..body.len()]);
    // The second leads to a folder that may not be made.
    assert_ne!(status(&head), 200, "{}", text(answer));
    let (headers, body) = form(&[
        (r#"name="file"; filename="one.txt""#, "1"),
        (r#"name="file"; filename="down/two.txt""#, "22"),
    ]);
    let (head, answer) = agent.http("POST /files", &headers, &body);
    assert_eq!(status(&head), 200);
    let expected = format!(
        r#"[{{"name":"one.txt","type":"file","path":"{home}/one.txt"}},{{"name":"two.txt","type":"file","path":"{home}/down/two.txt"}}]"#
    );
    assert_eq!(text(answer), expected);
    assert_eq!(
        std::fs::read(agent.home.join("down/two.txt")).unwrap(),
        b"22"
    );
    // A plain field, whose path is in the query.
    let (headers, body) = form(&[(r#"name="file""#, "plain")]);
    let (head, answer) = agent.http("POST /files?path=a+b%2Fc", &headers, &body);
    assert_eq!(status(&head), 200, "{}", text(answer));
    assert_eq!(std::fs::read(agent.home.join("a b/c")).unwrap(), b"plain");
    let same = [
        (r#"name="file"; filename="x""#, "1"),
        (r#"name="file"; filename="./x""#, "2"),
    ];
    for (query, parts) in [
        ("", &same[..]),
        ("", &[(r#"name="file""#, "1")]),
        ("?path=a+b", &[(r#"name="file""#, "1")]),
    ] {
        let (headers, body) = form(parts);
        let (head, answer) = agent.http(&format!("POST /files{query}"), &headers, &body);
        assert_eq!(status(&head), 400, "{}", text(answer));
    }
    let endless = [&b"--b\r\nx: "[..], &vec![b'y'; 200_000]].concat();
    let headers = "content-type: multipart/form-data; boundary=b\r\n";
    let (head, answer) = agent.http("POST /files?path=x", headers, endless);
    assert_eq!(status(&head), 400);
    assert!(text(answer).contains("between two parts"));
    for (headers, body) in [("content-type: text/plain\r\n", "x"), ("", "x")] {
        let (head, _) = agent.http("POST /files?path=x", headers, body);
        assert_eq!(status(&head), 400);
    }
}

/// A connection that is closed before the sender has sent all takes the answer with it.
#[test]
fn a_form_is_answered_when_it_has_ended() {
    let agent = Agent::start(As::Nobody, &[]);
    let (kind, form) = form(&[(r#"name="file"; filename="late.txt""#, "late")]);
    let mut stream = std::os::unix::net::UnixStream::connect(agent.socket()).unwrap();
    let head = format!(
        "POST /files HTTP/1.1\r\nhost: x\r\n{kind}transfer-encoding: chunked\r\n\r\n{:x}\r\n",
        form.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&form).unwrap();
    stream.write_all(b"\r\n").unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut answer = [0; 512];
    assert!(stream.read(&mut answer).is_err(), "it is not over yet");
    stream.write_all(b"0\r\n\r\n").unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let read = stream.read(&mut answer).unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn many_small_files_fit_into_one_form() {
    let agent = Agent::start(As::Nobody, &[]);
    let names: Vec<String> = (0..2000)
        .map(|n| format!(r#"name="file"; filename="m/{n}""#))
        .collect();
    let parts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let (headers, body) = form(&parts);
    let (head, answer) = agent.http("POST /files", &headers, body);
    assert_eq!(status(&head), 200, "{}", text(answer));
    assert_eq!(
        std::fs::read_dir(agent.home.join("m")).unwrap().count(),
        2000
    );
}

#[test]
fn bodies_may_be_compressed_and_chunked() {
    let agent = Agent::start(As::Nobody, &[]);
    let zip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let octets = "content-type: application/octet-stream\r\n";
    let long = "Streamed. ".repeat(50_000);
    let headers = format!("{octets}content-encoding: gzip\r\n");
    let (head, _) = agent.http("POST /files?path=z", &headers, zip(long.as_bytes()));
    assert_eq!(status(&head), 200);
    assert_eq!(
        std::fs::read(agent.home.join("z")).unwrap(),
        long.as_bytes()
    );
    let (headers, body) = form(&[(r#"name="file"; filename="y""#, "form")]);
    let headers = format!("{headers}content-encoding: gzip\r\n");
    let (head, _) = agent.http("POST /files", &headers, zip(&body));
    assert_eq!(status(&head), 200);
    assert_eq!(std::fs::read(agent.home.join("y")).unwrap(), b"form");
    let (head, answer) = agent.http(
        "POST /files?path=q",
        &format!("{octets}content-encoding: gzip\r\n"),
        "no gzip",
    );
    assert_eq!(status(&head), 400, "{}", text(answer));
    let (head, _) = agent.http(
        "POST /files?path=q",
        &format!("{octets}content-encoding: br\r\n"),
        "x",
    );
    assert_eq!(status(&head), 400);
    let chunked = format!(
        "POST /files?path=c HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{octets}transfer-encoding: chunked\r\n\r\n\
         3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    );
    assert_eq!(status(&agent.raw(chunked).0), 200);
    assert_eq!(std::fs::read(agent.home.join("c")).unwrap(), b"abcde");
    let (head, body) = agent.http("GET /files?path=z", "accept-encoding: gzip\r\n", "");
    assert!(
        head.contains("content-encoding: gzip\r\n") && head.contains("vary: accept-encoding\r\n")
    );
    let mut decoder = flate2::write::MultiGzDecoder::new(Vec::new());
    decoder.write_all(&body).unwrap();
    assert_eq!(decoder.finish().unwrap(), long.as_bytes());
    let (head, body) = agent.http(
        "GET /files?path=z",
        "accept-encoding: gzip, deflate, br\r\n",
        "",
    );
    assert!(head.contains(&format!("content-length: {}\r\n", long.len())));
    assert_eq!(body, long.as_bytes());
    let (head, _) = agent.http("GET /files?path=z", "accept-encoding: identity;q=0\r\n", "");
    assert_eq!(status(&head), 406);
    std::fs::write(agent.home.join("empty"), "").unwrap();
    let (head, body) = agent.http("GET /files?path=empty", "accept-encoding: gzip\r\n", "");
    assert!(head.contains("content-length: 0\r\n") && body.is_empty());
}

#[test]
fn metadata_is_checked() {
    let agent = Agent::start(As::Nobody, &[]);
    let octets = "content-type: application/octet-stream\r\n";
    let headers = format!("{octets}X-Metadata-Author: mish\r\n");
    let (_, answer) = agent.http("POST /files?path=f", &headers, "");
    assert!(text(answer).ends_with(r#","metadata":{"author":"mish"}}]"#));
    for wrong in [
        "X-Metadata-A: caf\u{e9}\r\n".to_owned(),
        format!("X-Metadata-A: {}\r\n", "x".repeat(4096)),
    ] {
        let (head, _) = agent.http("POST /files?path=f", &format!("{octets}{wrong}"), "");
        assert_eq!(status(&head), 400);
    }
}

#[test]
fn files_are_put_together() {
    let agent = Agent::start(As::Nobody, &[]);
    for (name, content) in [("a", "one"), ("b", "two")] {
        std::fs::write(agent.home.join(name), content).unwrap();
    }
    let json = "content-type: application/json\r\n";
    let body = r#"{"source_paths":["a","b"],"destination":"down/c"}"#;
    let (head, answer) = agent.http("POST /files/compose", json, body);
    assert_eq!(status(&head), 200);
    assert!(text(answer).contains(r#""size":"6""#));
    assert_eq!(std::fs::read(agent.home.join("down/c")).unwrap(), b"onetwo");
    for body in [
        r#"{"source_paths":["a","no"],"destination":"down/c"}"#,
        r#"{"source_paths":["a"],"destination":"./a"}"#,
        "{}",
    ] {
        let (head, _) = agent.http("POST /files/compose", json, body);
        assert_ne!(status(&head), 200);
    }
    assert_eq!(std::fs::read(agent.home.join("a")).unwrap(), b"one");
    assert_eq!(std::fs::read(agent.home.join("down/c")).unwrap(), b"onetwo");
}

#[tokio::test]
async fn with_a_token_calls_show_it_and_files_show_it_or_a_signature() {
    let agent = Agent::start(As::Nobody, &[]);
    let token = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";
    let client = agent.client();
    client
        .upload("hello.txt", "hello", &BTreeMap::new())
        .await
        .unwrap();
    let init = Init {
        access_token: Some(token.to_owned()),
        ..Init::default()
    };
    client.init(&init).await.unwrap();
    for error in [
        client.processes().await.map(drop).unwrap_err(),
        client.stat("hello.txt").await.map(drop).unwrap_err(),
        client.envs().await.map(drop).unwrap_err(),
        client.metrics().await.map(drop).unwrap_err(),
        client.init(&Init::default()).await.unwrap_err(),
        client
            .clone()
            .with_token("other")
            .processes()
            .await
            .map(drop)
            .unwrap_err(),
        client.download("hello.txt", 9).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.code(), Some(Code::Unauthenticated), "{error}");
    }
    client.health().await.unwrap();
    let with = client.clone().with_token(token);
    with.processes().await.unwrap();
    assert_eq!(
        with.download("hello.txt", 9)
            .await
            .unwrap()
            .whole()
            .await
            .unwrap(),
        b"hello"
    );
    let (status_line, body) = agent.rpc("process.Process/List", "{}");
    assert_eq!(status_line, 401);
    assert_eq!(
        body,
        r#"{"code":401,"message":"unauthorized access, please provide a valid access token or method signing if supported"}"#
    );
    let signed = Signed {
        path: "hello.txt",
        operation: Operation::Read,
        username: "user",
        expiration: None,
    };
    let quoted = |signature: String| signature.replace('+', "%2B").replace('/', "%2F");
    let get = |query: &str| {
        let (head, body) = agent.http(&format!("GET /files?{query}"), "", "");
        (status(&head), text(body))
    };
    let signature = quoted(signed.sign(token));
    let query = format!("path=hello.txt&username=user&signature={signature}");
    assert_eq!(get(&query), (200, "hello".to_owned()));
    let refused = |message: &str| (401, format!(r#"{{"code":401,"message":"{message}"}}"#));
    assert_eq!(
        get("path=hello.txt"),
        refused("missing signature query parameter")
    );
    for wrong in [
        format!("path=hello.txt&signature={signature}"),
        format!("path=./hello.txt&username=user&signature={signature}"),
        format!(
            "path=hello.txt&username=user&signature={signature}&signature_expiration=99999999999"
        ),
        "path=hello.txt&username=user&signature=v1_x".to_owned(),
    ] {
        assert_eq!(get(&wrong), refused("invalid signature"), "{wrong}");
    }
    let (head, _) = agent.http(
        &format!("POST /files?{query}"),
        "content-type: application/octet-stream\r\n",
        "x",
    );
    assert_eq!(status(&head), 401, "a signature for reading does not write");
    for (end, expected) in [
        ("1000", refused("signature is already expired")),
        ("99999999999", (200, "hello".to_owned())),
    ] {
        let signature = quoted(
            Signed {
                expiration: Some(end),
                ..signed
            }
            .sign(token),
        );
        let query = format!(
            "path=hello.txt&username=user&signature={signature}&signature_expiration={end}"
        );
        assert_eq!(get(&query), expected);
    }
}

#[tokio::test]
async fn one_caller_does_not_keep_the_agent_from_the_others() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    // Callers that say half of something and stay.
    let mut stuck = Vec::new();
    for _ in 0..100 {
        let mut stream = std::os::unix::net::UnixStream::connect(agent.socket()).unwrap();
        stream.write_all(b"POST /files?path=s HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\ncontent-length: 99\r\n\r\nx").unwrap();
        stuck.push(stream);
    }
    let none = BTreeMap::new();
    let done = tokio::time::timeout(Duration::from_secs(10), client.upload("f", "x", &none));
    done.await.unwrap().unwrap();
    let (code, _) = agent.rpc(
        "filesystem.Filesystem/Stat",
        &format!(r#"{{"path":"{}"}}"#, "x".repeat(9 << 20)),
    );
    assert_eq!(code, 429);
    client.health().await.unwrap();
}
