//! The host against a worker that lies.

use std::io::Write;

use casemate_driver::TOLD_MAX;
use casemate_model::event::What;
use casemate_model::result::Artifact;

use super::*;
use crate::wire::{WireJob, send};

fn limits() -> WireLimits {
    WireLimits {
        output_bytes: 10,
        result_bytes: 100,
        artifacts: 1,
        artifact_bytes: 8,
        wall_time_ms: Some(300),
        ..WireJob::empty().limits
    }
}

/// What the host makes of bytes a worker sent before it closed the channel.
fn hear(bytes: &[u8]) -> (io::Result<Ended>, Vec<Signal>, Vec<Artifact>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(bytes).unwrap();
    drop(theirs);
    let mut channel = Frames::new(ours).unwrap();
    let (limits, mut signals) = (limits(), Vec::new());
    let mut sink = |signal| signals.push(signal);
    let mut run = Run::new(&limits, &mut sink);
    let ended = run.listen(&mut channel, &Cancel::new());
    let artifacts = run.tally.take_artifacts();
    drop(run);
    (ended, signals, artifacts)
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    send(&mut bytes, kind, payload).unwrap();
    bytes
}

fn refused(bytes: &[u8]) -> String {
    hear(bytes)
        .0
        .err()
        .expect("the host must not believe this")
        .to_string()
}

#[test]
fn a_worker_that_sends_more_than_the_limits_is_not_believed() {
    assert!(refused(&frame(Kind::Stdout, b"12345678901")).contains("standard output"));
    assert!(refused(&frame(Kind::MessagePart, &[b'x'; 101])).contains("results"));
    assert!(
        refused(&frame(Kind::File, br#"{"path":"/tmp/a","bytes":9}"#)).contains("bytes of files")
    );
    let one = frame(Kind::File, br#"{"path":"/tmp/a","bytes":0}"#);
    assert!(refused(&[one.clone(), one].concat()).contains("more files"));
}

#[test]
fn a_worker_that_breaks_the_order_is_not_believed() {
    assert!(refused(&frame(Kind::FileData, b"x")).contains("file"));
    assert!(refused(&frame(Kind::Ready, b"[]")).contains("in the middle"));
    let inside = [
        frame(Kind::File, br#"{"path":"/tmp/a","bytes":4}"#),
        frame(Kind::File, br#"{"path":"b","bytes":1}"#),
    ];
    assert!(refused(&inside.concat()).contains("inside another"));
}

#[test]
fn nonsense_is_an_error_and_no_panic() {
    for bytes in [
        &b"\xff\xff\xff\xff\xff"[..],
        &frame(Kind::End, b"{}"),
        &frame(Kind::Events, b"[[[["),
    ] {
        assert!(hear(bytes).0.is_err(), "{bytes:?}");
    }
    let deep = frame(Kind::Events, "[".repeat(200_000).as_bytes());
    assert!(hear(&deep).0.is_err());
}

#[test]
fn a_closed_channel_is_told_apart_from_an_end() {
    assert!(matches!(
        hear(&frame(Kind::Stdout, b"hi")).0,
        Ok(Ended::Closed)
    ));
}

#[test]
fn a_malformed_message_is_an_event_and_the_run_goes_on() {
    let bytes = [
        frame(Kind::MessagePart, b"rubbish"),
        frame(Kind::MessageEnd, b""),
        frame(Kind::Stdout, b"ok"),
    ];
    let (_, signals, _) = hear(&bytes.concat());
    assert!(
        matches!(&signals[0], Signal::Event(Event { what: What::Denied { wall, .. }, .. }) if wall == "driver messages")
    );
    assert!(matches!(&signals[1], Signal::Stdout(bytes) if bytes == b"ok"));
}

#[test]
fn a_silent_worker_is_late() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut channel = Frames::new(ours).unwrap();
    let (limits, mut sink) = (limits(), |_| {});
    let begun = Instant::now();
    let ended = Run::new(&limits, &mut sink)
        .listen(&mut channel, &Cancel::new())
        .unwrap();
    assert!(matches!(ended, Ended::Late { allowed: 300, seen } if seen >= 2300));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_raised_flag_ends_the_waiting() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut channel = Frames::new(ours).unwrap();
    let (limits, mut sink, cancel) = (limits(), |_| {}, Cancel::new());
    cancel.cancel();
    let ended = Run::new(&limits, &mut sink)
        .listen(&mut channel, &cancel)
        .unwrap();
    assert!(matches!(ended, Ended::Cancelled));
}

#[test]
fn what_the_guest_tells_does_not_crowd_out_what_was_seen_of_it() {
    let told = [
        frame(
            Kind::MessagePart,
            b"{\"kind\":\"event\",\"what\":\"env_read\",\"detail\":\"A\"}\n",
        ),
        frame(Kind::MessageEnd, b""),
    ]
    .concat();
    let seen = frame(
        Kind::Events,
        br#"[{"at_us":1,"witness":"host","event":"missing","path":"/etc/shadow"}]"#,
    );
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let writer = std::thread::spawn(move || {
        for _ in 0..60_000 {
            theirs.write_all(&told).unwrap();
        }
        theirs.write_all(&seen).unwrap();
    });
    let mut channel = Frames::new(ours).unwrap();
    let limits = WireLimits {
        result_bytes: u64::MAX,
        wall_time_ms: Some(30_000),
        ..limits()
    };
    let (mut told, mut missing) = (0_u64, 0);
    let mut sink = |signal| match signal {
        Signal::Event(Event {
            what: What::Missing { .. },
            ..
        }) => missing += 1,
        Signal::Event(_) => told += 1,
        _ => {}
    };
    let mut run = Run::new(&limits, &mut sink);
    let ended = run.listen(&mut channel, &Cancel::new());
    assert!(
        matches!(ended, Ok(Ended::Closed)),
        "the run is not given up for it"
    );
    drop(run);
    writer.join().unwrap();
    assert_eq!((told, missing), (TOLD_MAX, 1));
}
