//! `GET /files`: a file's bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use casemate_envd::server::paths::text;
use casemate_envd::server::query::{Coding, FileQuery, Refusal, coding};
use casemate_envd::server::rpc::response;
use casemate_envd::signature::Operation;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::unfold;
use rustix::fs::OFlags;

use crate::agent::Agent;
use crate::blocking::blocking;

/// Bytes that are read at once.
const STEP: usize = 256 << 10;

/// A file that is being sent.
struct Sending {
    file: File,
    /// Bytes that are still to come, where the file has a size.
    left: Option<u64>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    first: Option<Bytes>,
    over: bool,
}

pub(crate) async fn download(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    match sent(agent, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.response(),
    }
}

async fn sent(agent: Arc<Agent>, request: Request) -> Result<Response<Body>, Refusal> {
    let query = FileQuery::of(request.uri())?;
    query.admit(agent.token().as_deref(), request.headers(), Operation::Read)?;
    let user = agent.user(query.user())?;
    let coding = coding(request.headers()).ok_or_else(Refusal::not_acceptable)?;
    let path = agent.resolve(&user, query.path.as_deref().unwrap_or_default());
    let opened = blocking(move || Ok(open(&path))).await?;
    let (sending, size) = opened?;
    Ok(answer(sending, size, coding))
}

/// Opens a file and reads its beginning; and its size, where that is known.
fn open(path: &Path) -> Result<(Sending, Option<u64>), Refusal> {
    let wrong = |error: &io::Error| Refusal::io(error, path);
    // A pipe that nobody writes to must not hold a thread.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)
        .map_err(|error| wrong(&error))?;
    let found = file.metadata().map_err(|error| wrong(&error))?;
    if found.is_dir() {
        return Err(wrong(&io::ErrorKind::IsADirectory.into()));
    }
    if !found.is_file() {
        let what = format!("path '{}' is not a regular file", text(path));
        return Err(Refusal::bad(what));
    }
    // What the kernel makes up when it is read has no size; then the beginning tells whether it is empty.
    let mut first = None;
    let mut size = Some(found.len());
    if found.len() == 0 {
        let start = step(&mut file, STEP).map_err(|error| wrong(&error))?;
        if !start.is_empty() {
            first = Some(start);
            size = None;
        }
    }
    let sending = Sending {
        file,
        left: size,
        gzip: None,
        first,
        over: false,
    };
    Ok((sending, size))
}

fn answer(mut sending: Sending, size: Option<u64>, coding: Coding) -> Response<Body> {
    let is_empty = size == Some(0);
    let gzip = coding == Coding::Gzip && !is_empty;
    if gzip {
        sending.gzip = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    }
    let body = if is_empty {
        Body::empty()
    } else {
        Body::from_stream(unfold(sending, Sending::next))
    };
    let mut response = response(StatusCode::OK, "application/octet-stream", body);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    } else if let Some(size) = size {
        headers.insert(header::CONTENT_LENGTH, size.into());
    }
    response
}

impl Sending {
    async fn next(self) -> Option<(Result<Bytes, String>, Self)> {
        if self.over {
            return None;
        }
        let stepped = blocking(move || Ok(self.step())).await;
        let (bytes, mut sending) = stepped.ok()?;
        match bytes {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => Some((Ok(bytes), sending)),
            Err(error) => {
                sending.over = true;
                Some((Err(error.to_string()), sending))
            }
        }
    }

    /// The next bytes to send; none at the end.
    fn step(mut self) -> (io::Result<Bytes>, Self) {
        loop {
            let read = self.read();
            let done = match (read, &mut self.gzip) {
                (Ok(bytes), None) => Ok(bytes),
                (Err(error), _) => Err(error),
                (Ok(bytes), Some(gzip)) if !bytes.is_empty() => {
                    let written = gzip
                        .write_all(&bytes)
                        .map(|()| std::mem::take(gzip.get_mut()));
                    match written {
                        // It wants more before it says anything.
                        Ok(out) if out.is_empty() => continue,
                        other => other.map(Bytes::from),
                    }
                }
                (Ok(_end), Some(_)) => {
                    self.over = true;
                    self.gzip
                        .take()
                        .map_or(Ok(Bytes::new()), |gzip| gzip.finish().map(Bytes::from))
                }
            };
            return (done, self);
        }
    }

    fn read(&mut self) -> io::Result<Bytes> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let Some(left) = self.left else {
            return step(&mut self.file, STEP);
        };
        let want = usize::try_from(left).unwrap_or(STEP).min(STEP);
        if want == 0 {
            return Ok(Bytes::new());
        }
        let bytes = step(&mut self.file, want)?;
        if bytes.is_empty() {
            // The size was promised.
            return Err(io::Error::other(
                "the file became shorter while it was read",
            ));
        }
        self.left = Some(left - bytes.len() as u64);
        Ok(bytes)
    }
}

fn step(file: &mut File, want: usize) -> io::Result<Bytes> {
    let mut buffer = Vec::with_capacity(want);
    file.take(want as u64).read_to_end(&mut buffer)?;
    Ok(buffer.into())
}
