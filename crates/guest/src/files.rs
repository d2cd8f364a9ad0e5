//! The service `filesystem.Filesystem`, and files over HTTP.

mod download;
mod entry;
mod metadata;
mod tree;
mod upload;
mod watch;
pub(crate) mod watchers;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_envd::filesystem::{
    EntryResponse, ListDirRequest, ListDirResponse, MoveRequest, PathRequest, WatchRequest,
    WatchResponse, Watcher, WatcherEvents,
};
use casemate_envd::process::Empty;
use casemate_envd::server::query::failed;
use casemate_envd::{Code, RpcError};

pub(crate) use download::download;
pub(crate) use upload::{compose, upload};

use crate::agent::Agent;
use crate::blocking::blocking;
use crate::users::{Names, User};
use casemate_envd::server::paths::text;
use casemate_envd::server::rpc::{Call, Out};
use entry::describe;

/// A path of a call, and whose it is.
struct Asked {
    user: User,
    path: PathBuf,
    names: Names,
}

impl Asked {
    fn of(agent: &Agent, call: &Call, path: &str) -> Result<Self, RpcError> {
        let user = agent.user(call.user.as_deref())?;
        let path = agent.resolve(&user, path);
        Ok(Self {
            user,
            path,
            names: agent.users.names(),
        })
    }
}

pub(crate) async fn stat(
    agent: Arc<Agent>,
    call: Call,
    request: PathRequest,
) -> Result<EntryResponse, RpcError> {
    blocking(move || {
        let asked = Asked::of(&agent, &call, &request.path)?;
        entry(&asked.path, &asked.names)
    })
    .await
}

fn entry(path: &Path, names: &Names) -> Result<EntryResponse, RpcError> {
    let entry = describe(path, names).map_err(|error| failed(&error, path))?;
    Ok(EntryResponse { entry: Some(entry) })
}

pub(crate) async fn make_dir(
    agent: Arc<Agent>,
    call: Call,
    request: PathRequest,
) -> Result<EntryResponse, RpcError> {
    blocking(move || {
        let Asked { user, path, names } = Asked::of(&agent, &call, &request.path)?;
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                let what = format!("directory already exists: {}", text(&path));
                return Err(RpcError::new(Code::AlreadyExists, what));
            }
            Ok(_) => {
                let what = format!(
                    "path already exists but it is not a directory: {}",
                    text(&path)
                );
                return Err(RpcError::new(Code::InvalidArgument, what));
            }
            Err(_) => {}
        }
        tree::make_folders(&path, &user).map_err(|error| failed(&error, &path))?;
        entry(&path, &names)
    })
    .await
}

pub(crate) async fn rename(
    agent: Arc<Agent>,
    call: Call,
    request: MoveRequest,
) -> Result<EntryResponse, RpcError> {
    blocking(move || {
        let Asked { user, path, names } = Asked::of(&agent, &call, &request.source)?;
        let to = agent.resolve(&user, &request.destination);
        std::fs::symlink_metadata(&path).map_err(|error| failed(&error, &path))?;
        if let Some(parent) = to.parent() {
            tree::make_folders(parent, &user).map_err(|error| failed(&error, parent))?;
        }
        tree::rename(&path, &to).map_err(|error| failed(&error, &to))?;
        entry(&to, &names)
    })
    .await
}

pub(crate) async fn list_dir(
    agent: Arc<Agent>,
    call: Call,
    request: ListDirRequest,
) -> Result<ListDirResponse, RpcError> {
    blocking(move || {
        let Asked { path, names, .. } = Asked::of(&agent, &call, &request.path)?;
        let found = std::fs::metadata(&path).map_err(|error| failed(&error, &path))?;
        if !found.is_dir() {
            let what = format!("path is not a directory: {}", text(&path));
            return Err(RpcError::new(Code::InvalidArgument, what));
        }
        let entries = tree::list(&path, request.depth.max(1), &names)?;
        Ok(ListDirResponse { entries })
    })
    .await
}

pub(crate) async fn remove(
    agent: Arc<Agent>,
    call: Call,
    request: PathRequest,
) -> Result<Empty, RpcError> {
    blocking(move || {
        let Asked { path, .. } = Asked::of(&agent, &call, &request.path)?;
        match tree::remove(&path) {
            Err(error) if !is_missing(&error) => Err(failed(&error, &path)),
            _ => Ok(Empty {}),
        }
    })
    .await
}

pub(crate) async fn watch_dir(
    agent: Arc<Agent>,
    call: Call,
    request: WatchRequest,
    out: Out<WatchResponse>,
) -> Result<(), RpcError> {
    let watch = watch(&agent, &call, request).await?;
    tokio::select! {
        ended = watchers::tell(watch, &call, &out) => ended,
        () = call.late() => Err(RpcError::new(Code::DeadlineExceeded, "the time is up")),
    }
}

async fn watch(
    agent: &Arc<Agent>,
    call: &Call,
    request: WatchRequest,
) -> Result<watch::Watch, RpcError> {
    let (agent, call) = (Arc::clone(agent), call.clone());
    blocking(move || {
        let Asked { path, names, .. } = Asked::of(&agent, &call, &request.path)?;
        watch::Watch::begin(path, &request, names)
    })
    .await
}

pub(crate) async fn create_watcher(
    agent: Arc<Agent>,
    call: Call,
    request: WatchRequest,
) -> Result<Watcher, RpcError> {
    let watch = watch(&agent, &call, request).await?;
    let watcher_id = agent.watchers.add(watch)?;
    Ok(Watcher { watcher_id })
}

pub(crate) async fn watcher_events(
    agent: Arc<Agent>,
    _call: Call,
    request: Watcher,
) -> Result<WatcherEvents, RpcError> {
    let events = blocking(move || agent.watchers.take(&request.watcher_id)).await?;
    Ok(WatcherEvents { events })
}

pub(crate) async fn remove_watcher(
    agent: Arc<Agent>,
    _call: Call,
    request: Watcher,
) -> Result<Empty, RpcError> {
    agent.watchers.remove(&request.watcher_id)?;
    Ok(Empty {})
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
