//! Files of sandboxes, kept to make other sandboxes of.
//!
//! A snapshot is a folder: what is said of it in `about.json`, and the files below `files`. Processes and what they
//! have in memory are not in it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::control::{Answer, E2bError, body, fault, found};
use super::model::NewSnapshot;
use crate::body::Taken;
use crate::guard::Caller;
use crate::making::random;
use crate::state::State;

/// Snapshots of one tenant.
const MOST: usize = 50;
/// Characters of a name.
const NAME: usize = 63;
/// The tag of every snapshot: there is one of each name.
const TAG: &str = "default";

/// What is said of one.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    /// What it is asked for by.
    id: String,
    names: Vec<String>,
    tenant: String,
    sandbox: String,
    /// The template of that sandbox.
    made_of: String,
    bytes: u64,
    at_ms: i64,
}

/// All of them.
pub(crate) struct Snapshots {
    folder: PathBuf,
    /// By the names of their folders.
    all: Mutex<BTreeMap<String, About>>,
}

impl Snapshots {
    /// Those that lie in a data folder. What is no whole snapshot is removed: the server was killed while it was made.
    ///
    /// # Errors
    /// When the folder cannot be read or made.
    pub(crate) fn open(data: &FsPath) -> io::Result<Self> {
        let folder = data.join("snapshots");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let about = fs::read(entry.path().join("about.json")).ok();
            let about = about.and_then(|text| serde_json::from_slice(&text).ok());
            match (about, entry.file_name().into_string()) {
                (Some(about), Ok(name)) => drop(all.insert(name, about)),
                _ => fs::remove_dir_all(entry.path())?,
            }
        }
        Ok(Self {
            folder,
            all: Mutex::new(all),
        })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, About>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The template that a tenant's snapshot is of, and its files.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub(crate) fn of(&self, tenant: &str, name: &str) -> io::Result<Option<(String, OwnedFd)>> {
        let Some((key, about)) = self.find(tenant, name) else {
            return Ok(None);
        };
        let files = fs::File::open(self.folder.join(key).join("files"))?;
        Ok(Some((about.made_of, files.into())))
    }

    /// By its id, or that without its tag.
    fn find(&self, tenant: &str, name: &str) -> Option<(String, About)> {
        let is = |about: &About| {
            let bare = about
                .id
                .strip_suffix(TAG)
                .and_then(|id| id.strip_suffix(':'));
            about.tenant == tenant && (about.id == name || bare == Some(name))
        };
        let all = self.all();
        let mut known = all.iter();
        known
            .find(|(_, about)| is(about))
            .map(|(key, about)| (key.clone(), about.clone()))
    }

    /// How many a tenant has, and their bytes.
    pub(crate) fn count(&self, tenant: &str) -> (usize, u64) {
        let all = self.all();
        let own = all.values().filter(|about| about.tenant == tenant);
        own.fold((0, 0), |(count, bytes), about| {
            (count + 1, bytes.saturating_add(about.bytes))
        })
    }

    fn remove(&self, tenant: &str, id: &str) -> io::Result<bool> {
        let Some((key, _)) = self.find(tenant, id) else {
            return Ok(false);
        };
        if self.all().remove(&key).is_none() {
            return Ok(false);
        }
        fs::remove_dir_all(self.folder.join(key))?;
        Ok(true)
    }
}

/// Of which sandbox, of which name, and from where on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Listing {
    #[serde(rename = "sandboxID")]
    sandbox: Option<String>,
    name: Option<String>,
    limit: Option<usize>,
    #[serde(rename = "nextToken")]
    next: Option<String>,
}

fn bad(message: impl Into<String>) -> E2bError {
    E2bError::new(StatusCode::BAD_REQUEST, message)
}

fn shown(about: &About) -> serde_json::Value {
    json!({"snapshotID": about.id, "names": about.names})
}

pub(super) async fn create(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
    taken: Taken,
) -> Answer<Response> {
    caller.may("run")?;
    let asked: NewSnapshot = body(&taken.bytes)?;
    let sandbox = found(&state, &caller, &id)?;
    if sandbox.saved.is_some() {
        let why = format!("sandbox {id} sleeps: resume it first");
        return Err(E2bError::new(StatusCode::CONFLICT, why));
    }
    let key = random(10)?;
    let (named, names) = match asked.name {
        None => (format!("snap{key}"), Vec::new()),
        Some(name) => {
            let name = checked(&name)?;
            let full = format!("{}/{name}", caller.name());
            (full.clone(), vec![full])
        }
    };
    let (count, kept) = state.snapshots.count(caller.name());
    if count >= MOST {
        return Err(E2bError::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!("this tenant has {MOST} snapshots, as many as it may"),
        ));
    }
    let most = sandbox.session.held().disk_bytes;
    let asleep = state.sandboxes.asleep_bytes(caller.name());
    let kept = kept.saturating_add(asleep);
    state.quota(&caller, kept.saturating_add(most)).await?;
    let still = sandbox.still().await.map_err(fault)?;
    let folder = state.snapshots.folder.join(&key);
    let (saving, to) = (Arc::clone(&sandbox), folder.join("files"));
    let saved = tokio::task::spawn_blocking(move || {
        DirBuilder::new().recursive(true).mode(0o700).create(&to)?;
        saving.session.save(&to).map_err(io::Error::other)
    });
    let saved = saved.await.map_err(fault)?;
    drop(still);
    let about = saved.map(|bytes| About {
        id: format!("{named}:{TAG}"),
        names,
        tenant: caller.name().to_owned(),
        sandbox: sandbox.id.clone(),
        made_of: sandbox.made_of.clone(),
        bytes,
        at_ms: crate::store::now_ms(),
    });
    let about = about.and_then(|about| {
        fs::write(folder.join("about.json"), serde_json::to_vec(&about)?)?;
        Ok(about)
    });
    let about = about.map_err(|error| {
        // What is left of it is removed when the server starts again, if it cannot be now.
        fs::remove_dir_all(&folder).ok();
        fault(error)
    })?;
    // Another of this name gives way.
    state
        .snapshots
        .remove(caller.name(), &about.id)
        .map_err(fault)?;
    let answer = Json(shown(&about));
    state.snapshots.all().insert(key, about);
    Ok((StatusCode::CREATED, answer).into_response())
}

/// A plain name, with or without the tag and the tenant that every one gets.
fn checked(name: &str) -> Answer<&str> {
    let bare = name.strip_suffix(":default").unwrap_or(name);
    let bare = bare.rsplit('/').next().unwrap_or(bare);
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=NAME).contains(&bare.len()) && bare.bytes().all(good) {
        return Ok(bare);
    }
    Err(bad(format!(
        "a snapshot's name is 1 to {NAME} letters, digits, - . and _"
    )))
}

pub(super) async fn list(
    Extract(state): Extract<State>,
    caller: Caller,
    Query(listing): Query<Listing>,
) -> Answer<Response> {
    let limit = listing.limit.unwrap_or(100);
    if !(1..=100).contains(&limit) {
        return Err(bad(format!("limit is {limit}; it is 1 to 100")));
    }
    let from: usize = match &listing.next {
        None => 0,
        Some(next) => next.parse().map_err(|_| bad("nextToken is none of ours"))?,
    };
    let all = state.snapshots.all();
    let is = |about: &&About| {
        let named = |name: &String| {
            let bare = name.strip_suffix(":default").unwrap_or(name);
            let tail = |own: &String| own == bare || own.rsplit('/').next() == Some(bare);
            about.names.iter().any(tail)
        };
        about.tenant == caller.name()
            && listing
                .sandbox
                .as_ref()
                .is_none_or(|id| *id == about.sandbox)
            && listing.name.as_ref().is_none_or(named)
    };
    let mut own: Vec<&About> = all.values().filter(is).collect();
    own.sort_by_key(|about| std::cmp::Reverse((about.at_ms, &about.id)));
    let page: Vec<_> = own
        .iter()
        .skip(from)
        .take(limit)
        .map(|about| shown(about))
        .collect();
    let more = own.len() > from.saturating_add(page.len());
    let mut response = Json(page).into_response();
    if more {
        let next = HeaderValue::from(from.saturating_add(limit));
        response.headers_mut().insert("x-next-token", next);
    }
    Ok(response)
}

pub(super) async fn remove(
    Extract(state): Extract<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    caller.may("run")?;
    let tenant = caller.name().to_owned();
    let removing = Arc::clone(&state);
    let name = id.clone();
    let removed =
        tokio::task::spawn_blocking(move || removing.snapshots.remove(&tenant, &name)).await;
    if removed.map_err(fault)?.map_err(fault)? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(E2bError::unknown(&id))
}
