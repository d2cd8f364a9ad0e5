//! The service `filesystem.Filesystem`, and files over HTTP, over the files in a worker's memory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use casemate_envd::filesystem::{
    EntryInfo, EntryResponse, FileType, ListDirRequest, ListDirResponse, MoveRequest, PathRequest,
    Timestamp,
};
use casemate_envd::process::Empty;
use casemate_envd::server::http::json;
use casemate_envd::server::paths::{name, text};
use casemate_envd::server::query::{Coding, FileQuery, Refusal, coding, failed};
use casemate_envd::server::rpc::{Call, response};
use casemate_envd::server::upload::{Compose, FROM_ITSELF, Metadata, Sink, upload as take};
use casemate_envd::signature::Operation;
use casemate_envd::{Code, RpcError};
use futures_util::stream::unfold;

use super::agent::{Agent, USER};
use crate::wire::{WireAnswer, WireAsk, WireEntry, WireIs};

/// Entries of one list.
const ENTRIES_MAX: u64 = 20_000;
/// Bytes of a file that are read at once.
const STEP: u32 = 256 << 10;

/// What the worker's word for an error is here.
pub(super) fn kind_of(errno: &str) -> io::ErrorKind {
    use io::ErrorKind;
    match errno {
        "ENOENT" => ErrorKind::NotFound,
        "ENOTDIR" => ErrorKind::NotADirectory,
        "EEXIST" => ErrorKind::AlreadyExists,
        "ENOTEMPTY" => ErrorKind::DirectoryNotEmpty,
        "EISDIR" => ErrorKind::IsADirectory,
        "EINVAL" | "ELOOP" => ErrorKind::InvalidInput,
        "ENAMETOOLONG" => ErrorKind::InvalidFilename,
        "ENOSPC" => ErrorKind::StorageFull,
        "EROFS" => ErrorKind::ReadOnlyFilesystem,
        "EPERM" => ErrorKind::PermissionDenied,
        "EFBIG" => ErrorKind::FileTooLarge,
        _ => ErrorKind::Other,
    }
}

/// Asks, and has the entries.
async fn entries(
    agent: &Agent,
    ask: WireAsk,
    path: &Path,
) -> Result<Result<Vec<EntryInfo>, io::Error>, RpcError> {
    match agent.ask(ask, Bytes::new()).await?.0 {
        WireAnswer::Entries { entries, .. } => Ok(Ok(entries.into_iter().map(info).collect())),
        WireAnswer::Failed { errno } => Ok(Err(kind_of(&errno).into())),
        WireAnswer::TooMany => {
            let what = format!("more than {ENTRIES_MAX} entries; list a smaller folder");
            Err(RpcError::new(Code::ResourceExhausted, what))
        }
        WireAnswer::Part { .. } => {
            let what = format!("'{}': an answer to something else", text(path));
            Err(RpcError::new(Code::Internal, what))
        }
    }
}

async fn one(agent: &Agent, ask: WireAsk, path: &Path) -> Result<EntryInfo, RpcError> {
    let entries = entries(agent, ask, path).await?;
    let mut entries = entries.map_err(|error| failed(&error, path))?;
    let entry = entries.pop();
    entry.ok_or_else(|| RpcError::new(Code::Internal, "an answer without an entry"))
}

/// An entry as the protocol tells it: WebAssembly has no owners and no modes, so it is the user's, or may only be read.
fn info(entry: WireEntry) -> EntryInfo {
    let path = PathBuf::from(&entry.path);
    let seen = match (entry.is, &entry.leads_to) {
        (WireIs::Link, Some((_, end))) => *end,
        (WireIs::Link, None) => WireIs::Other,
        (is, _) => is,
    };
    let r#type = match seen {
        WireIs::File => FileType::File,
        WireIs::Folder => FileType::Directory,
        WireIs::Link | WireIs::Other => FileType::Unspecified,
    };
    let mode = match (seen, entry.writable) {
        (WireIs::Folder, true) => 0o755,
        (WireIs::Folder, false) => 0o555,
        (_, true) => 0o644,
        (_, false) => 0o444,
    };
    let is_lost = entry.is == WireIs::Link && entry.leads_to.is_none();
    EntryInfo {
        name: name(&path),
        r#type: r#type.into(),
        path: entry.path,
        size: i64::try_from(entry.bytes).unwrap_or(i64::MAX),
        mode: if is_lost { 0 } else { mode },
        permissions: letters(entry.is, mode),
        owner: USER.to_owned(),
        group: USER.to_owned(),
        modified_time: Some(Timestamp {
            seconds: i64::try_from(entry.mtime / 1_000_000_000).unwrap_or_default(),
            nanos: i32::try_from(entry.mtime % 1_000_000_000).unwrap_or_default(),
        }),
        symlink_target: entry
            .target
            .map(|target| entry.leads_to.map_or(target, |(path, _)| path)),
        metadata: entry.metadata,
    }
}

fn letters(is: WireIs, mode: u32) -> String {
    let (kind, mode) = match is {
        WireIs::Folder => ('d', mode),
        WireIs::Link => ('L', 0o777),
        WireIs::File | WireIs::Other => ('-', mode),
    };
    let bits = (0..9).rev().zip("rwxrwxrwx".chars());
    let bits = bits.map(|(bit, letter)| if mode >> bit & 1 == 1 { letter } else { '-' });
    std::iter::once(kind).chain(bits).collect()
}

fn asked(agent: &Agent, call: &Call, path: &str) -> Result<PathBuf, RpcError> {
    agent.user(call.user.as_deref())?;
    Ok(agent.resolve(path))
}

pub(super) async fn stat(
    agent: Arc<Agent>,
    call: Call,
    request: PathRequest,
) -> Result<EntryResponse, RpcError> {
    let path = asked(&agent, &call, &request.path)?;
    let stat = WireAsk::Stat { path: text(&path) };
    let entry = Some(one(&agent, stat, &path).await?);
    Ok(EntryResponse { entry })
}

pub(super) async fn make_dir(
    agent: Arc<Agent>,
    call: Call,
    request: PathRequest,
) -> Result<EntryResponse, RpcError> {
    let path = asked(&agent, &call, &request.path)?;
    let stat = WireAsk::Stat { path: text(&path) };
    if let Some(there) = entries(&agent, stat, &path)
        .await?
        .unwrap_or_default()
        .pop()
    {
        let (code, what) = if there.r#type == i32::from(FileType::Directory) {
            (Code::AlreadyExists, "directory already exists")
        } else {
            let what = "path already exists but it is not a directory";
            (Code::InvalidArgument, what)
        };
        return Err(RpcError::new(code, format!("{what}: {}", text(&path))));
    }
    let make = WireAsk::MakeDir { path: text(&path) };
    let entry = Some(one(&agent, make, &path).await?);
    Ok(EntryResponse { entry })
}

pub(super) async fn rename(
    agent: Arc<Agent>,
    call: Call,
    request: MoveRequest,
) -> Result<EntryResponse, RpcError> {
    let from = asked(&agent, &call, &request.source)?;
    let to = agent.resolve(&request.destination);
    let stat = WireAsk::Stat { path: text(&from) };
    one(&agent, stat, &from).await?;
    let rename = WireAsk::Move {
        from: text(&from),
        to: text(&to),
    };
    let entry = Some(one(&agent, rename, &to).await?);
    Ok(EntryResponse { entry })
}

pub(super) async fn list_dir(
    agent: Arc<Agent>,
    call: Call,
    request: ListDirRequest,
) -> Result<ListDirResponse, RpcError> {
    let path = asked(&agent, &call, &request.path)?;
    let list = WireAsk::List {
        path: text(&path),
        depth: request.depth.max(1),
        most: ENTRIES_MAX,
    };
    match entries(&agent, list, &path).await? {
        Ok(entries) => Ok(ListDirResponse { entries }),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            // Either it is a file, or something above it is.
            let stat = WireAsk::Stat { path: text(&path) };
            one(&agent, stat, &path).await?;
            let what = format!("path is not a directory: {}", text(&path));
            Err(RpcError::new(Code::InvalidArgument, what))
        }
        Err(error) => Err(failed(&error, &path)),
    }
}

pub(super) async fn remove(
    agent: Arc<Agent>,
    call: Call,
    request: PathRequest,
) -> Result<Empty, RpcError> {
    let path = asked(&agent, &call, &request.path)?;
    let remove = WireAsk::Remove { path: text(&path) };
    match entries(&agent, remove, &path).await? {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(failed(&error, &path))
        }
        _ => Ok(Empty {}),
    }
}

pub(super) async fn download(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    match sent(agent, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.response(),
    }
}

async fn sent(agent: Arc<Agent>, request: Request) -> Result<Response<Body>, Refusal> {
    let query = FileQuery::of(request.uri())?;
    let token = agent.token();
    query.admit(token.as_deref(), request.headers(), Operation::Read)?;
    agent.user(query.user())?;
    // As it is can always be had, but for who takes nothing else.
    let mut headers = request.headers().clone();
    headers.append(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    if coding(&headers) != Some(Coding::Identity) {
        return Err(Refusal::not_acceptable());
    }
    let path = agent.resolve(query.path.as_deref().unwrap_or_default());
    let (size, first) = part(&agent, &path, 0, STEP).await?;
    let sending = Sending {
        agent,
        path,
        first: Some(first),
        at: 0,
        size,
    };
    let body = Body::from_stream(unfold(sending, Sending::next));
    let mut response = response(StatusCode::OK, "application/octet-stream", body);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(header::CONTENT_LENGTH, size.into());
    Ok(response)
}

/// The size of a file, and a part of it.
async fn part(agent: &Agent, path: &Path, at: u64, len: u32) -> Result<(u64, Bytes), Refusal> {
    let read = WireAsk::Read {
        path: text(path),
        at,
        len,
    };
    let (answer, bytes) = agent.ask(read, Bytes::new()).await?;
    match answer {
        WireAnswer::Part { size } => Ok((size, bytes.into())),
        WireAnswer::Failed { errno } if errno == "EINVAL" => {
            let what = format!("path '{}' is not a regular file", text(path));
            Err(Refusal::bad(what))
        }
        WireAnswer::Failed { errno } => Err(Refusal::io(&kind_of(&errno).into(), path)),
        _ => Err(RpcError::new(Code::Internal, "an answer to something else").into()),
    }
}

/// A file that is being sent.
struct Sending {
    agent: Arc<Agent>,
    path: PathBuf,
    first: Option<Bytes>,
    at: u64,
    size: u64,
}

impl Sending {
    async fn next(mut self) -> Option<(Result<Bytes, String>, Self)> {
        let left = self.size.checked_sub(self.at).filter(|left| *left > 0)?;
        let bytes = match self.first.take() {
            Some(first) => Ok(first),
            None => match part(&self.agent, &self.path, self.at, STEP).await {
                Ok((_, bytes)) => Ok(bytes),
                Err(refusal) => Err(refusal.1),
            },
        };
        let bytes = bytes.and_then(|mut bytes| {
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            // The size was promised.
            let grown = (!bytes.is_empty()).then_some(bytes);
            grown.ok_or_else(|| "the file became shorter while it was read".to_owned())
        });
        // After an error there is nothing.
        let step = bytes.as_ref().map_or(left, |bytes| bytes.len() as u64);
        self.at += step;
        Some((bytes, self))
    }
}

pub(super) async fn upload(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    let taken = async {
        let query = FileQuery::of(request.uri())?;
        let (parts, body) = request.into_parts();
        let token = agent.token();
        query.admit(token.as_deref(), &parts.headers, Operation::Write)?;
        agent.user(query.user())?;
        take(&*agent, query.path.as_deref(), &parts.headers, body).await
    };
    match taken.await {
        Ok(written) => json(StatusCode::OK, &written),
        Err(refusal) => refusal.response(),
    }
}

pub(super) async fn compose(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    match put_together(&agent, request).await {
        Ok(entry) => json(StatusCode::OK, &entry),
        Err(refusal) => refusal.response(),
    }
}

async fn put_together(agent: &Agent, request: Request) -> Result<Option<EntryInfo>, Refusal> {
    let compose = Compose::of(request).await?;
    agent.user(compose.username.as_deref())?;
    let path = agent.resolve(&compose.destination);
    let mut from = Vec::with_capacity(compose.source_paths.len());
    for source in &compose.source_paths {
        let source = agent.resolve(source);
        if source == path {
            return Err(Refusal::bad(FROM_ITSELF));
        }
        // One that is missing is named.
        part(agent, &source, 0, 0).await?;
        from.push(text(&source));
    }
    let to = text(&path);
    let compose = WireAsk::Compose { from, to };
    written(agent, compose, Bytes::new(), &path).await
}

impl Sink for Agent {
    /// Its path, and how much of it is written.
    type File = (PathBuf, u64);

    fn resolve(&self, path: &str) -> PathBuf {
        Self::resolve(self, path)
    }

    async fn open(&self, path: &Path, metadata: &Metadata) -> Result<Self::File, Refusal> {
        put(self, path, 0, Bytes::new(), Some(metadata)).await?;
        Ok((path.to_owned(), 0))
    }

    async fn write(&self, (path, at): Self::File, bytes: Bytes) -> Result<Self::File, Refusal> {
        let next = at + bytes.len() as u64;
        put(self, &path, at, bytes, None).await?;
        Ok((path, next))
    }
}

async fn put(
    agent: &Agent,
    path: &Path,
    at: u64,
    data: Bytes,
    metadata: Option<&BTreeMap<String, String>>,
) -> Result<(), Refusal> {
    let write = WireAsk::Write {
        path: text(path),
        at,
        bytes: data.len() as u64,
        metadata: metadata.cloned(),
    };
    written(agent, write, data, path).await.map(drop)
}

/// Asks for something that writes a file, and has its entry.
async fn written(
    agent: &Agent,
    ask: WireAsk,
    data: Bytes,
    path: &Path,
) -> Result<Option<EntryInfo>, Refusal> {
    match agent.ask(ask, data).await?.0 {
        WireAnswer::Entries { mut entries, .. } => Ok(entries.pop().map(info)),
        WireAnswer::Failed { errno } if errno == "EINVAL" => Err(Refusal::bad(format!(
            "path '{}' is not a regular file",
            text(path)
        ))),
        WireAnswer::Failed { errno } => Err(Refusal::io(&kind_of(&errno).into(), path)),
        _ => Err(RpcError::new(Code::Internal, "an answer to something else").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_told_in_the_protocols_words() {
        let file = info(WireEntry {
            path: "/tmp/a b".into(),
            is: WireIs::File,
            bytes: u64::MAX,
            mtime: 1_500_000_000,
            writable: true,
            ..WireEntry::default()
        });
        assert_eq!((file.name.as_str(), file.mode), ("a b", 0o644));
        assert_eq!(file.permissions, "-rw-r--r--");
        let time = file.modified_time.unwrap();
        assert_eq!((time.seconds, time.nanos), (1, 500_000_000));
        let link = WireEntry {
            path: "/tmp/l".into(),
            is: WireIs::Link,
            target: Some("../work".into()),
            leads_to: Some(("/work".into(), WireIs::Folder)),
            ..WireEntry::default()
        };
        let told = info(link.clone());
        assert_eq!(told.r#type, i32::from(FileType::Directory));
        assert_eq!(told.symlink_target.as_deref(), Some("/work"));
        assert_eq!(told.permissions, "Lrwxrwxrwx");
        let lost = info(WireEntry {
            leads_to: None,
            ..link
        });
        assert_eq!((lost.r#type, lost.mode), (0, 0));
        assert_eq!(lost.symlink_target.as_deref(), Some("../work"));
    }
}
