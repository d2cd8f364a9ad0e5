//! `POST /files`: files as parts of a form, or one as it is.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use casemate_envd::server::http::json;
use casemate_envd::server::query::{FileQuery, Refusal};
use casemate_envd::server::upload::{self, Compose, FROM_ITSELF, Metadata, Sink};
use casemate_envd::signature::Operation;
use rustix::fs::{Gid, OFlags, Uid, fchown};

use super::entry::describe;
use super::metadata;
use super::tree::make_folders;
use crate::agent::Agent;
use crate::blocking::blocking;
use crate::users::User;

/// Whose files are written.
struct Own {
    agent: Arc<Agent>,
    user: User,
}

pub(crate) async fn upload(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    let taken = async {
        let query = FileQuery::of(request.uri())?;
        let (parts, body) = request.into_parts();
        query.admit(agent.token().as_deref(), &parts.headers, Operation::Write)?;
        let user = agent.user(query.user())?;
        let own = Own { agent, user };
        upload::upload(&own, query.path.as_deref(), &parts.headers, body).await
    };
    match taken.await {
        Ok(written) => json(StatusCode::OK, &written),
        Err(refusal) => refusal.response(),
    }
}

impl Sink for Own {
    type File = (PathBuf, File);

    fn resolve(&self, path: &str) -> PathBuf {
        self.agent.resolve(&self.user, path)
    }

    async fn open(&self, path: &Path, metadata: &Metadata) -> Result<Self::File, Refusal> {
        let (path, user, metadata) = (path.to_owned(), self.user.clone(), metadata.clone());
        blocking(move || {
            let opened = open(&path, &user, &metadata);
            let opened = opened.map_err(|error| Refusal::io(&error, &path));
            Ok(opened.map(|file| (path, file)))
        })
        .await?
    }

    async fn write(
        &self,
        (path, mut file): Self::File,
        bytes: Bytes,
    ) -> Result<Self::File, Refusal> {
        blocking(move || {
            let written = file.write_all(&bytes);
            let written = written.map_err(|error| Refusal::io(&error, &path));
            Ok(written.map(|()| (path, file)))
        })
        .await?
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

/// `POST /files/compose`: one file from several.
pub(crate) async fn compose(State(agent): State<Arc<Agent>>, request: Request) -> Response<Body> {
    let composed = async {
        let compose = Compose::of(request).await?;
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
    let mut sources = Vec::new();
    for source in &compose.source_paths {
        let path = agent.resolve(user, source);
        if path == to {
            return Err(Refusal::bad(FROM_ITSELF));
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
