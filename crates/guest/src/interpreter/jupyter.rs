//! The words of a Jupyter kernel: signed messages over ZeroMQ's transport protocol, version 3.0, with no mechanism.
//!
//! Only what a client of one kernel on the loopback needs. A library for every socket and every pattern is larger than
//! this, and has no bounds on what it reads.

use std::io;
use std::net::SocketAddr;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes of one message; a longer one is read and dropped.
const MESSAGE_MAX: u64 = 16 << 20;
/// Parts of one message.
const PARTS_MAX: usize = 64;
const GREETING: usize = 64;
const DELIMITER: &[u8] = b"<IDS|MSG>";
/// The flags of a frame.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a message says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Said {
    pub(super) kind: String,
    /// The identifier of the request that it answers.
    pub(super) parent: String,
    pub(super) content: Value,
}

/// Where requests are written.
pub(super) struct Requests {
    out: OwnedWriteHalf,
    key: String,
    count: u64,
}

/// Connects to a kernel's socket and agrees with it on the protocol.
pub(super) async fn connect(
    address: SocketAddr,
    kind: &str,
    key: &str,
) -> io::Result<(OwnedReadHalf, Requests)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut read, mut out) = stream.into_split();
    out.write_all(&greeting()).await?;
    let mut theirs = [0; GREETING];
    read.read_exact(&mut theirs).await?;
    if theirs.first() != Some(&0xff) {
        return Err(bad("a greeting that is none"));
    }
    out.write_all(&frame(COMMAND, &ready(kind))).await?;
    // Its own word that it is ready, which names a socket that fits: nobody else listens there.
    frame_of(&mut read, MESSAGE_MAX).await?;
    let requests = Requests {
        out,
        key: key.to_owned(),
        count: 0,
    };
    Ok((read, requests))
}

impl Requests {
    /// Asks for everything that is published.
    pub(super) async fn subscribe(&mut self) -> io::Result<()> {
        self.out.write_all(&frame(0, &[1])).await
    }

    /// Sends a request; its identifier.
    pub(super) async fn send(&mut self, kind: &str, content: &Value) -> io::Result<String> {
        self.count += 1;
        let id = format!("casemate-{kind}-{}", self.count);
        let header = json!({
            "msg_id": id, "msg_type": kind, "session": "casemate", "username": "user",
            "date": jiff::Timestamp::now().to_string(), "version": "5.3",
        });
        let parts = [header, json!({}), json!({}), content.clone()].map(|part| part.to_string());
        let signature = signature(&self.key, parts.iter().map(String::as_bytes));
        let mut bytes = frame(MORE, DELIMITER);
        bytes.extend(frame(MORE, signature.as_bytes()));
        for (number, part) in parts.iter().enumerate() {
            let more = if number + 1 < parts.len() { MORE } else { 0 };
            bytes.extend(frame(more, part.as_bytes()));
        }
        self.out.write_all(&bytes).await?;
        Ok(id)
    }
}

/// The next message that can be understood.
pub(super) async fn receive(read: &mut OwnedReadHalf) -> io::Result<Said> {
    loop {
        if let Some(said) = message(read).await?.as_deref().and_then(understood) {
            return Ok(said);
        }
    }
}

fn greeting() -> [u8; GREETING] {
    let mut bytes = [0; GREETING];
    let said = [(0, &b"\xff"[..]), (9, b"\x7f\x03\x00NULL")];
    for (at, text) in said {
        for (byte, &value) in bytes.iter_mut().skip(at).zip(text) {
            *byte = value;
        }
    }
    bytes
}

/// The command that names this side's kind of socket.
fn ready(kind: &str) -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type".to_vec();
    body.extend(u32::try_from(kind.len()).unwrap_or_default().to_be_bytes());
    body.extend(kind.as_bytes());
    body
}

fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = match u8::try_from(body.len()) {
        Ok(length) => vec![flags, length],
        Err(_) => {
            let length = (body.len() as u64).to_be_bytes();
            [&[flags | LONG][..], &length].concat()
        }
    };
    bytes.extend(body);
    bytes
}

/// The flags of the next frame and its content; no content where it is longer than `room`.
async fn frame_of(
    read: &mut (impl AsyncRead + Unpin),
    room: u64,
) -> io::Result<(u8, Option<Vec<u8>>)> {
    let flags = read.read_u8().await?;
    let length = if flags & LONG == 0 {
        u64::from(read.read_u8().await?)
    } else {
        read.read_u64().await?
    };
    let mut body = read.take(length);
    if length > room {
        let dropped = tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        return if dropped == length {
            Ok((flags, None))
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        };
    }
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).await?;
    if bytes.len() as u64 == length {
        Ok((flags, Some(bytes)))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// The parts of the next message; none where it is too long or has too many.
async fn message(read: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<Vec<u8>>>> {
    let (mut parts, mut room, mut whole) = (Vec::new(), MESSAGE_MAX, true);
    loop {
        let (flags, body) = frame_of(read, room).await?;
        if flags & COMMAND != 0 {
            continue;
        }
        match body {
            Some(body) if whole && parts.len() < PARTS_MAX => {
                room -= body.len() as u64;
                parts.push(body);
            }
            _ => {
                whole = false;
                parts.clear();
            }
        }
        if flags & MORE == 0 {
            return Ok(whole.then_some(parts));
        }
    }
}

/// Signatures of answers are not looked at: the connection was made to the one who has the key.
fn understood(parts: &[Vec<u8>]) -> Option<Said> {
    let at = parts.iter().position(|part| part == DELIMITER)?;
    let part =
        |number: usize| -> Option<Value> { serde_json::from_slice(parts.get(at + number)?).ok() };
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    Some(Said {
        kind: text(&part(2)?, "msg_type")?,
        parent: text(&part(3)?, "msg_id").unwrap_or_default(),
        content: part(5)?,
    })
}

fn signature<'a>(key: &str, parts: impl Iterator<Item = &'a [u8]>) -> String {
    // A key of any length is one.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else {
        return String::new();
    };
    parts.for_each(|part| mac.update(part));
    let bytes = mac.finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_standards() {
        // RFC 4231, the second case.
        let parts = [&b"what do ya want "[..], b"for nothing?"];
        assert_eq!(
            signature("Jefe", parts.into_iter()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[tokio::test]
    async fn a_message_is_its_parts() {
        let long = vec![b'x'; 300];
        let bytes = [frame(MORE, b"a"), frame(COMMAND, b"c"), frame(0, &long)].concat();
        let parts = message(&mut bytes.as_slice()).await.unwrap();
        assert_eq!(parts, Some(vec![b"a".to_vec(), long]));
        for cut in 0..bytes.len() {
            let cut = bytes.get(..cut).unwrap();
            assert!(message(&mut &*cut).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_dropped_and_the_next_is_read() {
        let mut many: Vec<u8> = (0..=PARTS_MAX).flat_map(|_| frame(MORE, b"a")).collect();
        many.extend(frame(0, b"end"));
        many.extend(frame(0, b"next"));
        let mut bytes = many.as_slice();
        assert_eq!(message(&mut bytes).await.unwrap(), None);
        assert_eq!(
            message(&mut bytes).await.unwrap(),
            Some(vec![b"next".to_vec()])
        );
        let mut endless = &[LONG, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0][..];
        assert!(message(&mut endless).await.is_err());
    }

    #[test]
    fn what_is_no_message_is_not_understood() {
        let parts = |texts: &[&str]| -> Vec<Vec<u8>> {
            texts.iter().map(|text| text.as_bytes().to_vec()).collect()
        };
        let said = understood(&parts(&[
            "who",
            "<IDS|MSG>",
            "",
            r#"{"msg_type":"status"}"#,
            r#"{"msg_id":"1"}"#,
            "{}",
            "[1]",
        ]));
        let said = said.unwrap();
        assert_eq!(
            (&*said.kind, &*said.parent, said.content),
            ("status", "1", json!([1]))
        );
        for bad in [
            &[][..],
            &["<IDS|MSG>"],
            &["<IDS|MSG>", "", "[]", "{}", "{}", "{}"],
        ] {
            assert_eq!(understood(&parts(bad)), None);
        }
    }
}
