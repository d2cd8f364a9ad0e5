//! Agents that lie: made from a seed, or with a fixed answer.

use std::time::Duration;

use casemate_envd::client::{Dial, Dialling, Io};
use casemate_envd::filesystem::{
    EntryInfo, EntryResponse, FilesystemEvent, ListDirResponse, WatchResponse, WatcherEvents,
};
use casemate_envd::process::{
    DataEvent, Empty, EndEvent, ListResponse, ProcessEvent, ProcessInfo, ProcessResponse,
    StartEvent,
};
use casemate_envd::{Code, Codec, RpcError, envelope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Numbers that look random and come again with their seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most);
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// What a liar does after its answer.
#[derive(Debug, Clone, Copy)]
pub enum Then {
    Close,
    /// Says nothing, and stays.
    Hang,
    /// A byte from time to time, for ever.
    Drip,
    /// The last part of its answer again and again, for ever.
    Repeat,
}

/// An agent that lies.
#[derive(Debug, Clone)]
pub struct Liar {
    answer: Vec<u8>,
    then: Then,
    /// How many bytes it sends at once.
    step: usize,
}

impl Liar {
    pub fn fixed(answer: Vec<u8>, then: Then) -> Self {
        Self {
            answer,
            then,
            step: 64 << 10,
        }
    }

    /// One that answers a verb of the test in some way or other.
    pub fn random(random: &mut Random, verb: usize) -> Self {
        let answer = answer(random, verb);
        let then = match random.below(12) {
            0 => Then::Hang,
            1 => Then::Drip,
            2 | 3 => Then::Repeat,
            _ => Then::Close,
        };
        let step = [1, 7, 500, 64 << 10][random.below(4)].max(answer.len() / 2000);
        Self { answer, then, step }
    }
}

impl Dial for Liar {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async move {
            let (ours, theirs) = UnixStream::pair()?;
            tokio::spawn(self.clone().lie(theirs));
            Ok(Box::new(ours) as Box<dyn Io>)
        })
    }
}

impl Liar {
    async fn lie(self, mut stream: UnixStream) {
        // Part of the request, or none of it: it does not care.
        let mut buffer = [0; 512];
        let read = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut buffer));
        drop(read.await);
        for part in self.answer.chunks(self.step) {
            if stream.write_all(part).await.is_err() {
                return;
            }
        }
        let last = self.answer.len().saturating_sub(4096);
        loop {
            let wrote = match self.then {
                Then::Close => return,
                Then::Hang => {
                    // Until the client has gone.
                    drop(stream.read(&mut buffer).await);
                    return;
                }
                Then::Drip => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    stream.write_all(b"x").await
                }
                Then::Repeat if self.answer.is_empty() => return,
                Then::Repeat => stream.write_all(&self.answer[last..]).await,
            };
            if wrote.is_err() {
                return;
            }
        }
    }
}

fn answer(random: &mut Random, verb: usize) -> Vec<u8> {
    if random.one_in(30) {
        return random.bytes(4096);
    }
    let mut body = body(random, verb);
    if random.one_in(3) {
        mutate(random, &mut body);
    }
    let mut out = head(random, verb);
    match random.below(4) {
        0 => {
            let lie = if random.one_in(4) {
                random.next() >> random.below(64)
            } else {
                body.len() as u64
            };
            out.extend(format!("content-length: {lie}\r\n\r\n").bytes());
            out.extend(body);
        }
        1 | 2 => {
            out.extend(b"transfer-encoding: chunked\r\n\r\n");
            let step = 1 + random.below(9000);
            for part in body.chunks(step) {
                let lie = if random.one_in(40) {
                    random.next() >> random.below(64)
                } else {
                    part.len() as u64
                };
                out.extend(format!("{lie:x}\r\n").bytes());
                out.extend(part);
                out.extend(b"\r\n");
            }
            if !random.one_in(5) {
                out.extend(b"0\r\n\r\n");
            }
        }
        _ => {
            out.extend(b"connection: close\r\n\r\n");
            out.extend(body);
        }
    }
    if random.one_in(10) {
        mutate(random, &mut out);
    }
    out
}

fn head(random: &mut Random, verb: usize) -> Vec<u8> {
    let status = match random.below(8) {
        0 => 100 + random.below(900),
        1 => 404,
        _ if verb == 13 => 204,
        _ => 200,
    };
    let mut out = format!("HTTP/1.1 {status} X\r\n").into_bytes();
    let content_type = match (random.below(12), verb) {
        (0, _) => "application/json",
        (1, _) => "text/html",
        (_, 4 | 5) => Codec::Proto.stream(),
        _ => Codec::Proto.unary(),
    };
    out.extend(format!("content-type: {content_type}\r\n").bytes());
    if random.one_in(12) {
        let name = "n".repeat(1 + random.below(30));
        for _ in 0..random.below(300) {
            let value = "v".repeat(random.below(200));
            out.extend(format!("{name}: {value}\r\n").bytes());
        }
    }
    out
}

/// A body as the verb expects it, more or less.
fn body(random: &mut Random, verb: usize) -> Vec<u8> {
    let verb = if random.one_in(10) {
        random.below(14)
    } else {
        verb
    };
    let some = [0, 1, 3, 50, 1500][random.below(5)];
    match verb {
        0 => {
            let processes = (0..some).map(|_| ProcessInfo { pid: random.next() as u32, ..Default::default() }).collect();
            Codec::Proto.encode(&ListResponse { processes }).to_vec()
        }
        1 => Codec::Proto.encode(&EntryResponse { entry: Some(entry(random)) }).to_vec(),
        2 => {
            let entries = (0..some).map(|_| entry(random)).collect();
            Codec::Proto.encode(&ListDirResponse { entries }).to_vec()
        }
        3 => {
            let events = (0..some).map(|_| event(random)).collect();
            Codec::Proto.encode(&WatcherEvents { events }).to_vec()
        }
        4 => framed(random, some, |random, first| {
            let mut response = WatchResponse::default();
            match (first, random.below(5)) {
                (true, _) | (_, 0) => response.start = Some(Empty {}),
                (_, 1) => response.keepalive = Some(Empty {}),
                _ => response.filesystem = Some(event(random)),
            }
            Codec::Proto.encode(&response).to_vec()
        }),
        5 => framed(random, some, |random, first| {
            let mut event = ProcessEvent::default();
            match (first, random.below(40)) {
                (true, _) | (_, 0) => event.start = Some(StartEvent { pid: random.next() as u32 }),
                (_, 1) => event.keepalive = Some(Empty {}),
                (_, 2..5) => event.end = Some(EndEvent { exit_code: random.next() as i32, ..Default::default() }),
                (_, 5) => {}
                _ => event.data = Some(DataEvent { stdout: Some(random.bytes(600)), ..Default::default() }),
            }
            Codec::Proto.encode(&ProcessResponse { event: Some(event) }).to_vec()
        }),
        6 => lines(random, some),
        7 => format!("[{}]", vec![r#"{"id":"a","language":"python","cwd":"/"}"#; some].join(",")).into(),
        8 => random.bytes(1 << 20),
        9 => br#"[{"name":"x","type":"file","path":"/x"}]"#.to_vec(),
        10 => br#"{"ts":1,"cpu_count":1,"cpu_used_pct":0.5,"mem_total":1,"mem_used":1,"mem_cache":1,"mem_total_mib":1,"mem_used_mib":1,"disk_used":1,"disk_total":1}"#.to_vec(),
        11 => br#"{"A":"b"}"#.to_vec(),
        _ => Vec::new(),
    }
}

fn entry(random: &mut Random) -> EntryInfo {
    let some = if random.one_in(50) {
        1200
    } else {
        random.below(3)
    };
    EntryInfo {
        name: "n".repeat(random.below(50)),
        size: random.next() as i64,
        r#type: random.below(9) as i32,
        metadata: (0..some).map(|n| (n.to_string(), String::new())).collect(),
        ..Default::default()
    }
}

fn event(random: &mut Random) -> FilesystemEvent {
    FilesystemEvent {
        name: "n".repeat(random.below(50)),
        r#type: random.below(7) as i32,
        entry: random.one_in(2).then(|| entry(random)),
    }
}

fn framed(
    random: &mut Random,
    some: usize,
    mut message: impl FnMut(&mut Random, bool) -> Vec<u8>,
) -> Vec<u8> {
    let mut out = Vec::new();
    for number in 0..some + 1 {
        if random.one_in(60) {
            out.extend([random.below(4) as u8]);
            out.extend((random.next() as u32 >> random.below(32)).to_be_bytes());
        }
        out.extend(envelope::message(&message(random, number == 0)));
    }
    match random.below(6) {
        0 => {}
        1 => out.extend(envelope::end(Some(RpcError::new(
            Code::Internal,
            "e\n".repeat(random.below(9000)),
        )))),
        2 => {
            let mut end = envelope::end(None).to_vec();
            mutate(random, &mut end);
            out.extend(end);
        }
        _ => out.extend(envelope::end(None)),
    }
    out
}

fn lines(random: &mut Random, some: usize) -> Vec<u8> {
    let mut out = b"{\"type\":\"number_of_executions\",\"execution_count\":1}\n".to_vec();
    for _ in 0..some {
        let text = "t".repeat(random.below(900));
        let line = match random.below(9) {
            0 => format!(r#"{{"type":"stdout","text":"{text}","timestamp":"x"}}"#),
            1 => format!(
                r#"{{"type":"result","is_main_result":true,"json":{}}}"#,
                "[".repeat(random.below(9000))
            ),
            2 => format!(
                r#"{{"type":"result","is_main_result":true,"chart":[{}0]}}"#,
                "0,".repeat(random.below(9000))
            ),
            3 => format!(r#"{{"type":"error","name":"{text}","value":"","traceback":""}}"#),
            4 => r#"{"type":"keepalive"}"#.to_owned(),
            5 => String::new(),
            6 => format!(r#"{{"type":"{text}"}}"#),
            7 => "x".repeat(random.below(200_000)),
            _ => r#"{"type":"stderr","text":"\ud800","timestamp":""}"#.to_owned(),
        };
        out.extend(line.bytes());
        out.push(b'\n');
    }
    if !random.one_in(4) {
        out.extend(b"{\"type\":\"end_of_execution\"}\n");
    }
    out
}

/// Cuts, doubles, overwrites.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] ^= 1 << random.below(8),
            3 => drop(bytes.remove(at)),
            _ => {
                let end = bytes.len().min(at + random.below(2000));
                let copy = bytes[at..end].to_vec();
                bytes.extend(copy);
            }
        }
    }
}
