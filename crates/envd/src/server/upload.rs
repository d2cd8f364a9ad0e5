//! `POST /files`: files as parts of a form, or one as it is. `POST /files/compose`: one from several.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};

use super::gunzip::{Parts, gunzip};
use super::paths::{name, text};
use super::query::Refusal;
use super::rpc::read;

/// Bytes that are written at once. A small file is written in one piece, so that who watches sees one change.
pub const STEP: usize = 256 << 10;
/// Files of one form.
const FILES_MAX: usize = 10_000;
/// Bytes between the parts of a form: boundaries and headers.
const BETWEEN_MAX: usize = 64 << 10;
/// What headers say about a file.
const HEADER: &str = "x-metadata-";
/// Bytes of all keys and values of what is said about a file.
const METADATA_MAX: usize = 4096;

/// Files that are put together at once.
const SOURCES_MAX: usize = 32;
/// What is said to those who name one file on both sides.
pub const FROM_ITSELF: &str = "a file cannot be put together from itself";

/// What is put together: files one after another.
#[derive(Debug, Deserialize)]
pub struct Compose {
    /// Where they are.
    pub source_paths: Vec<String>,
    /// Where what they make goes.
    pub destination: String,
    /// Whose they are.
    #[serde(default)]
    pub username: Option<String>,
}

impl Compose {
    /// As a request has it.
    ///
    /// # Errors
    /// When it cannot be read, is no such request, or names too many files.
    pub async fn of(request: Request) -> Result<Self, Refusal> {
        let bytes = read(request.into_body()).await?;
        let compose: Self =
            serde_json::from_slice(&bytes).map_err(|error| Refusal::bad(error.to_string()))?;
        if compose.source_paths.len() > SOURCES_MAX {
            return Err(Refusal::bad(format!("at most {SOURCES_MAX} files at once")));
        }
        Ok(compose)
    }
}

/// What is said about a file.
pub type Metadata = BTreeMap<String, String>;

/// Where uploaded files go.
pub trait Sink: Sync {
    /// One that is being written.
    type File: Send;

    /// The path that a caller means.
    fn resolve(&self, path: &str) -> PathBuf;

    /// Begins to write a file anew, and makes the folders above it.
    fn open(
        &self,
        path: &Path,
        metadata: &Metadata,
    ) -> impl Future<Output = Result<Self::File, Refusal>> + Send;

    /// Writes the next bytes, of which there are at most [`STEP`] and one part of the body.
    fn write(
        &self,
        file: Self::File,
        bytes: Bytes,
    ) -> impl Future<Output = Result<Self::File, Refusal>> + Send;
}

/// A file that was written, as the caller is told.
#[derive(Debug, Serialize)]
pub struct Written {
    name: String,
    r#type: &'static str,
    path: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: Metadata,
}

/// One upload: where to, and what is said about its files.
struct Upload<'a, S> {
    sink: &'a S,
    /// The path that the query has.
    path: Option<&'a str>,
    metadata: Metadata,
}

/// Writes the files of a request. `path` is the one that its query names.
///
/// # Errors
/// What is wrong with the request, or what the sink says. Files that were whole by then stay.
pub async fn upload<S: Sink>(
    sink: &S,
    path: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<Written>, Refusal> {
    let metadata = said_in(headers).map_err(Refusal::bad)?;
    let body = decoded(headers, body)?;
    let upload = Upload {
        sink,
        path: path.filter(|path| !path.is_empty()),
        metadata,
    };
    let content_type = headers.get(header::CONTENT_TYPE);
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

impl<S: Sink> Upload<'_, S> {
    /// The path of a file: the query's, else the one that the part itself names.
    fn named(&self, own: Option<&str>) -> Result<PathBuf, Refusal> {
        let own = own.filter(|path| !path.is_empty());
        match self.path.or(own) {
            Some(path) => Ok(self.sink.resolve(path)),
            None => Err(Refusal::bad(
                "there is no path: neither in the query nor as a file name",
            )),
        }
    }

    async fn form(&self, boundary: String, body: Parts) -> Result<Vec<Written>, Refusal> {
        let between = Arc::new(AtomicUsize::new(0));
        let body = bounded(body, Arc::clone(&between));
        let mut form = multer::Multipart::new(body, boundary);
        let broken = |error: multer::Error| {
            use std::error::Error;
            let why = error
                .source()
                .map_or_else(|| error.to_string(), ToString::to_string);
            Refusal::bad(format!("the form is broken: {why}"))
        };
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
                    text(&path)
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
        mut parts: impl Stream<Item = Result<Bytes, String>> + Unpin + Send,
    ) -> Result<Written, Refusal> {
        let mut file = self.sink.open(&path, &self.metadata).await?;
        let mut waiting = BytesMut::new();
        loop {
            let part = parts.next().await;
            let part = part.transpose().map_err(Refusal::bad)?;
            waiting.extend_from_slice(part.as_deref().unwrap_or_default());
            if waiting.len() >= STEP || (part.is_none() && !waiting.is_empty()) {
                file = self.sink.write(file, waiting.split().freeze()).await?;
            }
            if part.is_none() {
                return Ok(Written {
                    name: name(&path),
                    r#type: "file",
                    path: text(&path),
                    metadata: self.metadata.clone(),
                });
            }
        }
    }
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

/// What the headers of an upload say about its files.
fn said_in(headers: &HeaderMap) -> Result<Metadata, String> {
    let mut found = BTreeMap::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(HEADER) else {
            continue;
        };
        let printable = |byte: &u8| (0x20..0x7f).contains(byte);
        if key.is_empty() || !value.as_bytes().iter().all(printable) {
            return Err(format!("metadata '{key}' is not printable ASCII"));
        }
        let value = value.to_str().map_err(|error| error.to_string())?;
        bytes += key.len() + value.len();
        found.insert(key.to_owned(), value.to_owned());
    }
    if bytes > METADATA_MAX {
        return Err(format!("metadata has at most {METADATA_MAX} bytes"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            (HeaderName::from_static(name), value)
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn headers_are_metadata_in_lower_case_and_bounded() {
        let found = said_in(&headers(&[("x-metadata-author", "mish"), ("accept", "x")]));
        assert_eq!(found, Ok([("author".to_owned(), "mish".to_owned())].into()));
        assert!(said_in(&headers(&[("x-metadata-a", "caf\u{e9}")])).is_err());
        let long = "x".repeat(METADATA_MAX);
        assert!(said_in(&headers(&[("x-metadata-a", &long)])).is_err());
    }
}
