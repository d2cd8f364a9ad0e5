//! `POST /files`: files as parts of a form, or one as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use casemate_envd::signature::Operation;
use futures_util::{Stream, StreamExt};
use rustix::fs::{Gid, OFlags, Uid, fchown};
use serde::{Deserialize, Serialize};

use super::entry::{describe, name};
use super::gunzip::{Parts, gunzip};
use super::metadata;
use super::transfer::{FileQuery, Refusal};
use super::tree::make_folders;
use crate::agent::{Agent, shown};
use crate::blocking::blocking;
use crate::routes::json;
use crate::rpc::read;
use crate::users::User;

/// Bytes that are written at once. A small file is written in one piece, so that who watches sees one change.
const STEP: usize = 256 << 10;
/// Files of one form.
const FILES_MAX: usize = 10_000;
/// Bytes between the parts of a form: boundaries and headers.
const BETWEEN_MAX: usize = 64 << 10;

/// A file that was written, as the caller is told.
#[derive(Debug, Serialize)]
struct Written {
    name: String,
    r#type: &'static str,
    path: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

/// One upload: for whom, and what is said about its files.
struct Upload {
    agent: Arc<Agent>,
    query: FileQuery,
    user: User,
    metadata: BTreeMap<String, String>,
}

pub(crate) async fn upload(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    match taken(agent, request).await {
        Ok(written) => json(StatusCode::OK, &written),
        Err(refusal) => refusal.response(),
    }
}

async fn taken(agent: Arc<Agent>, request: Request) -> Result<Vec<Written>, Refusal> {
    let query = FileQuery::of(request.uri())?;
    let (parts, body) = request.into_parts();
    query.admit(&agent, &parts.headers, Operation::Write)?;
    let user = query.user(&agent)?;
    let metadata = metadata::of_headers(&parts.headers).map_err(Refusal::bad)?;
    let body = decoded(&parts.headers, body)?;
    let upload = Upload {
        agent,
        query,
        user,
        metadata,
    };
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default();
    if let Ok(boundary) = multer::parse_boundary(content_type) {
        return upload.form(boundary, body).await;
    }
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/octet-stream") {
        let path = upload.named(None)?;
        return Ok(vec![upload.write(path, body).await?]);
    }
    Err(Refusal::bad(format!(
        "content type {media_type:?} is neither multipart/form-data nor application/octet-stream"
    )))
}

/// The body as it was before it was compressed.
fn decoded(headers: &HeaderMap, body: Body) -> Result<Parts, Refusal> {
    let parts = body.into_data_stream();
    let parts: Parts = Box::pin(parts.map(|part| part.map_err(|error| error.to_string())));
    let coding = headers.get(header::CONTENT_ENCODING);
    match coding.map_or(Ok("identity"), |value| value.to_str()) {
        Ok("identity" | "") => Ok(parts),
        Ok("gzip" | "x-gzip") => Ok(gunzip(parts)),
        _ => Err(Refusal::bad("the body may be compressed with gzip only")),
    }
}

impl Upload {
    /// The path of a file: the query's, else the one that the part itself names.
    fn named(&self, own: Option<&str>) -> Result<PathBuf, Refusal> {
        let query = self.query.path.as_deref().filter(|path| !path.is_empty());
        let own = own.filter(|path| !path.is_empty());
        match query.or(own) {
            Some(path) => Ok(self.agent.resolve(&self.user, path)),
            None => Err(Refusal::bad(
                "there is no path: neither in the query nor as a file name",
            )),
        }
    }

    async fn form(&self, boundary: String, body: Parts) -> Result<Vec<Written>, Refusal> {
        let between = Arc::new(AtomicUsize::new(0));
        let body = bounded(body, Arc::clone(&between));
        let mut form = multer::Multipart::new(body, boundary);
        let broken = |error: multer::Error| Refusal::bad(format!("the form is broken: {error}"));
        let (mut written, mut paths) = (Vec::new(), BTreeSet::new());
        loop {
            between.store(BETWEEN_MAX, Ordering::Relaxed);
            let Some(field) = form.next_field().await.map_err(broken)? else {
                return Ok(written);
            };
            between.store(usize::MAX, Ordering::Relaxed);
            if field.name() != Some("file") {
                skip(field).await.map_err(broken)?;
                continue;
            }
            let path = self.named(field.file_name())?;
            if !paths.insert(path.clone()) {
                let what = format!(
                    "you cannot upload multiple files to the same path '{}'",
                    shown(&path)
                );
                return Err(Refusal::bad(what));
            }
            if paths.len() > FILES_MAX {
                return Err(Refusal::bad(format!(
                    "a form has at most {FILES_MAX} files"
                )));
            }
            let parts = field.map(|part| part.map_err(|error| error.to_string()));
            written.push(self.write(path, parts).await?);
        }
    }

    async fn write(
        &self,
        path: PathBuf,
        mut parts: impl Stream<Item = Result<Bytes, String>> + Unpin,
    ) -> Result<Written, Refusal> {
        let (user, metadata) = (self.user.clone(), self.metadata.clone());
        let target = path.clone();
        let opened = blocking(move || Ok(open(&target, &user, &metadata))).await?;
        let mut file = opened.map_err(|error| Refusal::io(&error, &path))?;
        let mut waiting = BytesMut::new();
        loop {
            let part = parts.next().await;
            let part = part.transpose().map_err(Refusal::bad)?;
            waiting.extend_from_slice(part.as_deref().unwrap_or_default());
            if waiting.len() >= STEP || (part.is_none() && !waiting.is_empty()) {
                let bytes = waiting.split().freeze();
                let stepped = blocking(move || {
                    let written = file.write_all(&bytes);
                    Ok((file, written))
                });
                let (back, written) = stepped.await?;
                written.map_err(|error| Refusal::io(&error, &path))?;
                file = back;
            }
            if part.is_none() {
                return Ok(Written {
                    name: name(&path),
                    r#type: "file",
                    path: shown(&path),
                    metadata: self.metadata.clone(),
                });
            }
        }
    }
}

/// Opens a file to be written anew, and makes it the user's.
fn open(path: &Path, user: &User, metadata: &BTreeMap<String, String>) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        make_folders(parent, user)?;
    }
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // A pipe that nobody reads must not hold a thread.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o666)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        let what = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    match fchown(&file, Some(uid), Some(gid)) {
        // A file of somebody else's that may be written stays theirs.
        Err(rustix::io::Errno::PERM) if found.uid() != user.uid => {}
        other => other?,
    }
    metadata::replace(&file, metadata)?;
    Ok(file)
}

/// A body of which so many bytes may be read now; `usize::MAX` is no bound. Whoever reads a part of the form
/// lifts it, and sets it again for what lies between two parts.
fn bounded(
    body: Parts,
    allowed: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Bytes, String>> + Send + 'static {
    body.map(move |part| {
        let part = part?;
        match allowed.load(Ordering::Relaxed) {
            usize::MAX => {}
            0 => return Err(format!("more than {BETWEEN_MAX} bytes between two parts")),
            left => allowed.store(left.saturating_sub(part.len()), Ordering::Relaxed),
        }
        Ok(part)
    })
}

async fn skip(mut field: multer::Field<'_>) -> multer::Result<()> {
    while field.chunk().await?.is_some() {}
    Ok(())
}

/// Files that are put together at once; all of them are open.
const SOURCES_MAX: usize = 32;

/// What is put together: files one after another.
#[derive(Debug, Deserialize)]
struct Compose {
    source_paths: Vec<String>,
    destination: String,
    #[serde(default)]
    username: Option<String>,
}

/// `POST /files/compose`: one file from several.
pub(crate) async fn compose(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    let composed = async {
        let bytes = read(request.into_body()).await?;
        let compose: Compose =
            serde_json::from_slice(&bytes).map_err(|error| Refusal::bad(error.to_string()))?;
        let user = agent.user(compose.username.as_deref())?;
        blocking(move || Ok(put_together(&agent, &user, &compose))).await?
    };
    match composed.await {
        Ok(response) => response,
        Err(refusal) => refusal.response(),
    }
}

fn put_together(agent: &Agent, user: &User, compose: &Compose) -> Result<Response<Body>, Refusal> {
    let to = agent.resolve(user, &compose.destination);
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| Refusal::io(&error, &path)
    };
    // All are opened before anything is written, so that one that is missing spoils nothing.
    if compose.source_paths.len() > SOURCES_MAX {
        return Err(Refusal::bad(format!("at most {SOURCES_MAX} files at once")));
    }
    let mut sources = Vec::new();
    for source in &compose.source_paths {
        let path = agent.resolve(user, source);
        if path == to {
            return Err(Refusal::bad("a file cannot be put together from itself"));
        }
        let file = File::open(&path).map_err(wrong(&path))?;
        sources.push((path, file));
    }
    let mut file = open(&to, user, &BTreeMap::new()).map_err(wrong(&to))?;
    for (path, mut source) in sources {
        io::copy(&mut source, &mut file).map_err(wrong(&path))?;
    }
    drop(file);
    let entry = describe(&to, &agent.users.names()).map_err(wrong(&to))?;
    Ok(json(StatusCode::OK, &entry))
}
