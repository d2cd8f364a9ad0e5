//! The client against agents that lie, each in a way of its own: what a call ends with.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod liar;

use casemate_envd::client::{Client, ClientError};
use casemate_envd::filesystem::{EntryInfo, ListDirResponse};
use casemate_envd::process::{
    DataEvent, Empty, EndEvent, ProcessEvent, ProcessResponse, StartEvent,
};
use casemate_envd::{Code, Codec, envelope};
use liar::{Liar, Then, call, client};

const MIB: usize = 1 << 20;

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
        &[started(), ended(), out.clone()],
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
