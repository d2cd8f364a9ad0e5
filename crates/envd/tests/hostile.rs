//! The client against agents that lie: whatever comes, a call ends in time, with an error or an answer, and
//! holds no more memory than its limits say.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod liar;

use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_envd::client::{Client, ClientError, StartOptions};
use casemate_envd::filesystem::{EntryInfo, ListDirResponse, WatchRequest};
use casemate_envd::interpreter::ExecuteRequest;
use casemate_envd::process::{
    DataEvent, Empty, EndEvent, ProcessConfig, ProcessEvent, ProcessResponse, ProcessSelector,
    StartEvent,
};
use casemate_envd::{Code, Codec, Limits, envelope};
use liar::{Liar, Random, Then};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// Limits that a test can wait for.
fn limits() -> Limits {
    Limits {
        head_bytes: 8 << 10,
        headers: 32,
        unary_bytes: 256 << 10,
        entries: 1000,
        message_bytes: 32 << 10,
        line_bytes: 128 << 10,
        stream_bytes: 2 << 20,
        connect: Duration::from_millis(300),
        respond: Duration::from_millis(300),
        unary: Duration::from_millis(600),
        silence: Duration::from_millis(300),
        transfer: Duration::from_millis(900),
    }
}

fn client(liar: Liar) -> Client {
    Client::new(liar).with_limits(limits())
}

fn execute() -> ExecuteRequest {
    ExecuteRequest {
        code: "1".to_owned(),
        ..ExecuteRequest::default()
    }
}

/// Calls a verb and takes everything it gives.
async fn call(client: &Client, verb: usize) -> Result<(), ClientError> {
    let none = Default::default();
    match verb {
        0 => client.processes().await.map(drop),
        1 => client.stat("/x").await.map(drop),
        2 => client.list_dir("/x", 3).await.map(drop),
        3 => client.watcher_events("w").await.map(drop),
        4 => {
            let mut watching = client.watch(&WatchRequest::default()).await?;
            while watching.next().await?.is_some() {}
            Ok(())
        }
        5 => {
            let start = client.start(ProcessConfig::default(), StartOptions::default());
            let mut process = start.await?;
            while process.next().await?.is_some() {}
            Ok(())
        }
        6 => {
            let mut execution = client.execute(&execute()).await?;
            while execution.next().await?.is_some() {}
            Ok(())
        }
        7 => client.contexts().await.map(drop),
        8 => client
            .download("/x", 1 << 20)
            .await?
            .whole()
            .await
            .map(drop),
        9 => client.upload("/x", "bytes", &none).await.map(drop),
        10 => client.metrics().await.map(drop),
        11 => client.envs().await.map(drop),
        12 => {
            client
                .write_stdin(ProcessSelector::by_pid(1), vec![0; 99])
                .await
        }
        _ => client.health().await,
    }
}

const VERBS: usize = 14;

/// How many cases, and the first seed: `CASEMATE_FUZZ=COUNT:SEED`.
fn asked() -> (u64, u64) {
    let text = std::env::var("CASEMATE_FUZZ").unwrap_or_default();
    let (count, seed) = text.split_once(':').unwrap_or((&text, "1"));
    (count.parse().unwrap_or(3000), seed.parse().unwrap_or(1))
}

#[tokio::test]
async fn whatever_comes_a_call_ends_and_holds_little() {
    let (count, first) = asked();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let at_once = Arc::new(tokio::sync::Semaphore::new(16));
    let mut running = tokio::task::JoinSet::new();
    let answered = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for seed in first..first + count {
        let place = Arc::clone(&at_once).acquire_owned().await.unwrap();
        let answered = Arc::clone(&answered);
        running.spawn(async move {
            let mut random = Random::new(seed);
            let verb = random.below(VERBS);
            let client = client(Liar::random(&mut random, verb));
            let begun = Instant::now();
            let done = call(&client, verb).await;
            // Silence counts anew with every message, and a stream of them has an end by its bytes.
            assert!(begun.elapsed() < Duration::from_secs(20), "seed {seed}");
            if let Err(error) = &done {
                let text = error.to_string();
                assert!(text.len() < 4096, "seed {seed}: {} bytes", text.len());
                assert!(!text.contains(char::is_control), "seed {seed}: {text:?}");
            }
            if done.is_ok() {
                answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            drop(place);
        });
        while let Some(done) = running.try_join_next() {
            done.unwrap();
        }
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    let held = MEMORY.peak_usage().saturating_sub(before);
    let answered = answered.load(std::sync::atomic::Ordering::Relaxed);
    println!(
        "{count} liars, {answered} calls answered, at most {held} bytes held by 16 calls and 16 liars"
    );
    assert!(held < 64 * MIB, "{held} bytes");
    assert!(answered > 0, "the generator makes no whole answer");
}

/// Calls a verb of a liar that answers with these bytes.
async fn refused(verb: usize, answer: Vec<u8>, then: Then) -> ClientError {
    let client = client(Liar::fixed(answer, then));
    call(&client, verb).await.unwrap_err()
}

fn head(content_type: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n").into()
}

fn unary(body: &[u8]) -> Vec<u8> {
    [&head(Codec::Proto.unary())[..], body].concat()
}

fn stream(body: &[u8]) -> Vec<u8> {
    [&head(Codec::Proto.stream())[..], body].concat()
}

fn events(events: &[ProcessEvent]) -> Vec<u8> {
    let mut body = Vec::new();
    for event in events {
        let response = ProcessResponse {
            event: Some(event.clone()),
        };
        body.extend(envelope::message(&Codec::Proto.encode(&response)));
    }
    body.extend(envelope::end(None));
    stream(&body)
}

fn started() -> ProcessEvent {
    ProcessEvent {
        start: Some(StartEvent { pid: 7 }),
        ..ProcessEvent::default()
    }
}

fn ended() -> ProcessEvent {
    ProcessEvent {
        end: Some(EndEvent::default()),
        ..ProcessEvent::default()
    }
}

#[tokio::test]
async fn heads_that_do_not_end_are_refused() {
    let many = "x: y\r\n".repeat(100);
    let error = refused(
        0,
        format!("HTTP/1.1 200 OK\r\n{many}\r\n").into(),
        Then::Close,
    )
    .await;
    assert!(matches!(error, ClientError::Protocol(_)), "{error:?}");
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20));
    let error = refused(0, long.into(), Then::Close).await;
    assert!(matches!(error, ClientError::Protocol(_)), "{error:?}");
    let error = refused(0, b"HTTP/1.1 200 OK\r\nx: ".to_vec(), Then::Drip).await;
    assert!(matches!(error, ClientError::Late("answer")), "{error:?}");
    let again = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    let error = refused(0, again.into(), Then::Hang).await;
    assert!(matches!(error, ClientError::Late("answer")), "{error:?}");
    let error = refused(0, b"SSH-2.0-x\r\n".to_vec(), Then::Close).await;
    assert!(matches!(error, ClientError::Protocol(_)), "{error:?}");
    let error = refused(0, Vec::new(), Then::Close).await;
    assert!(matches!(error, ClientError::Cut(_)), "{error:?}");
    let error = refused(0, Vec::new(), Then::Hang).await;
    assert!(matches!(error, ClientError::Late("answer")), "{error:?}");
}

#[tokio::test]
async fn bodies_that_lie_about_their_length_are_refused() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\n";
    let short = format!("{head}content-length: 99\r\n\r\nx");
    let error = refused(0, short.into(), Then::Close).await;
    assert!(matches!(error, ClientError::Cut(_)), "{error:?}");
    for length in ["-1", "99999999999999999999", "1, 2"] {
        let wrong = format!("{head}content-length: {length}\r\n\r\nx");
        let error = refused(0, wrong.into(), Then::Close).await;
        assert!(matches!(error, ClientError::Protocol(_)), "{error:?}");
    }
    for chunk in ["zz\r\n", "ffffffffffffffffff\r\n", "5\r\nhello"] {
        let wrong = format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}");
        let error = refused(0, wrong.into(), Then::Close).await;
        let fits = matches!(error, ClientError::Protocol(_) | ClientError::Cut(_));
        assert!(fits, "{error:?}");
    }
    let hanging = format!("{head}content-length: 99\r\n\r\nx");
    let error = refused(0, hanging.into(), Then::Hang).await;
    assert!(matches!(error, ClientError::Late(_)), "{error:?}");
}

#[tokio::test]
async fn more_than_the_limits_allow_is_refused() {
    let error = refused(0, unary(&vec![0x2a; 4 * MIB]), Then::Close).await;
    let ClientError::TooMuch { limit, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(limit, 256 << 10);
    let flood = [0x0a, 0x00].repeat(2000);
    let error = refused(2, unary(&flood), Then::Close).await;
    assert!(
        matches!(error, ClientError::TooMuch { limit: 1000, .. }),
        "{error:?}"
    );
    let entry = EntryInfo {
        metadata: (0..2000).map(|n| (n.to_string(), String::new())).collect(),
        ..EntryInfo::default()
    };
    let list = ListDirResponse {
        entries: vec![entry],
    };
    let error = refused(2, unary(&Codec::Proto.encode(&list)), Then::Close).await;
    assert!(
        matches!(error, ClientError::TooMuch { limit: 1000, .. }),
        "{error:?}"
    );
    let error = refused(4, stream(&[0, 255, 255, 255, 255]), Then::Hang).await;
    assert!(
        matches!(error, ClientError::TooMuch { limit: 32768, .. }),
        "{error:?}"
    );
    let alive = envelope::message(&[0x1a, 0x00]);
    let start = envelope::message(&[0x0a, 0x00]);
    let endless = [start.to_vec(), alive.repeat(MIB)].concat();
    let error = refused(4, stream(&endless), Then::Close).await;
    assert!(
        matches!(
            error,
            ClientError::TooMuch {
                what: "a stream's bytes",
                ..
            }
        ),
        "{error:?}"
    );
    let line = [&head("application/x-ndjson")[..], &vec![b'x'; MIB]].concat();
    let error = refused(6, line, Then::Close).await;
    assert!(
        matches!(error, ClientError::TooMuch { limit: 131_072, .. }),
        "{error:?}"
    );
    let file = [&head("x/y")[..], &vec![b'x'; 2 * MIB]].concat();
    let error = refused(8, file, Then::Close).await;
    assert!(
        matches!(
            error,
            ClientError::TooMuch {
                what: "a file's bytes",
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_process_is_told_in_its_order_or_not_at_all() {
    let data = |data| ProcessEvent {
        data: Some(data),
        ..ProcessEvent::default()
    };
    let out = data(DataEvent {
        stdout: Some(vec![1]),
        ..DataEvent::default()
    });
    let alive = ProcessEvent {
        keepalive: Some(Empty {}),
        ..ProcessEvent::default()
    };
    let client = client(Liar::fixed(
        events(&[started(), alive.clone(), out.clone(), ended()]),
        Then::Close,
    ));
    call(&client, 5).await.unwrap();
    let both = ProcessEvent {
        start: Some(StartEvent { pid: 7 }),
        ..ended()
    };
    for wrong in [
        &[][..],
        std::slice::from_ref(&out),
        &[alive.clone(), started(), ended()],
        &[both.clone()],
        &[started(), both],
        &[started(), ProcessEvent::default(), ended()],
        &[started(), data(DataEvent::default()), ended()],
        &[started(), ended(), out],
        &[started(), started(), ended()],
        &[started()],
    ] {
        let error = refused(5, events(wrong), Then::Close).await;
        assert!(
            matches!(error, ClientError::Protocol(_)),
            "{wrong:?}: {error:?}"
        );
    }
}

#[tokio::test]
async fn streams_that_break_off_or_say_nothing_are_told_from_ends() {
    let cut = stream(&envelope::message(&[0x0a, 0x00]));
    let error = refused(4, cut.clone(), Then::Close).await;
    assert!(matches!(error, ClientError::Cut(_)), "{error:?}");
    let error = refused(4, cut, Then::Hang).await;
    assert!(
        matches!(error, ClientError::Late("say anything")),
        "{error:?}"
    );
    let line = b"{\"type\":\"stdout\",\"text\":\"x\",\"timestamp\":\"\"}\n";
    let lines = [&head("application/x-ndjson")[..], line].concat();
    let error = refused(6, lines, Then::Close).await;
    assert!(matches!(error, ClientError::Cut(_)), "{error:?}");
    let error = refused(4, head("text/html"), Then::Close).await;
    assert!(matches!(error, ClientError::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn errors_are_read_and_cut_to_size() {
    let json = r#"{"code":"not_found","message":"no such\u001b[31m thing"}"#;
    let answer = format!(
        "HTTP/1.1 404 X\r\ncontent-length: {}\r\n\r\n{json}",
        json.len()
    );
    let error = refused(1, answer.into(), Then::Close).await;
    assert_eq!(error.code(), Some(Code::NotFound));
    assert_eq!(error.to_string(), "no such [31m thing");
    let long = "y".repeat(MIB);
    let answer = format!("HTTP/1.1 502 X\r\ncontent-length: {MIB}\r\n\r\n{long}");
    let error = refused(1, answer.into(), Then::Close).await;
    assert_eq!(error.code(), Some(Code::Unavailable));
    assert!(error.to_string().len() <= 2048);
    let end = envelope::end(Some(casemate_envd::RpcError::new(Code::Internal, long)));
    let error = refused(4, stream(&end), Then::Close).await;
    assert!(matches!(error, ClientError::TooMuch { .. }), "{error:?}");
}

#[tokio::test]
async fn what_the_caller_says_cannot_leave_its_place() {
    let client = client(Liar::fixed(Vec::new(), Then::Close));
    for id in ["../x", "a/b", "a b", "", "a?b"] {
        let error = client.remove_context(id).await.unwrap_err();
        assert!(matches!(error, ClientError::Request(_)), "{error:?}");
    }
    let metadata = [("a\r\nb".to_owned(), "x".to_owned())].into();
    let error = client.upload("/x", "", &metadata).await.unwrap_err();
    assert!(matches!(error, ClientError::Request(_)), "{error:?}");
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let client = Client::new(std::path::PathBuf::from("/nowhere/socket"));
    let error = client.health().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable(_)), "{error:?}");
}
