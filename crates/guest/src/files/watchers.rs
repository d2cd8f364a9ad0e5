//! Watchers: for who asks from time to time, and for who listens.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_envd::filesystem::{FilesystemEvent, WatchResponse};
use casemate_envd::process::Empty;
use casemate_envd::{Code, RpcError};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::watch::Watch;
use crate::blocking::blocking;
use crate::readiness::watched;
use casemate_envd::server::rpc::{Call, Out};

/// Watchers at the same time.
const WATCHERS_MAX: usize = 128;
/// Events that wait for who asks.
const EVENTS_MAX: usize = 10_000;

/// All of them, by name.
#[derive(Default)]
pub(crate) struct Watchers(Mutex<HashMap<String, Watcher>>);

struct Watcher {
    seen: Arc<Mutex<Seen>>,
    /// Takes from the kernel what happens, so that it need not remember.
    reader: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A watch, and what it has seen since it was last asked.
struct Seen {
    watch: Watch,
    events: Vec<FilesystemEvent>,
    /// Why there is something that it has not seen.
    lost: Option<RpcError>,
}

impl Seen {
    /// Takes from the kernel what has happened up to now.
    fn look(&mut self) {
        match self.watch.take() {
            Ok(events) => self.events.extend(events),
            Err(error) => self.lost = Some(error),
        }
        if self.events.len() > EVENTS_MAX {
            self.events.clear();
            let what = format!("more than {EVENTS_MAX} events since the last time");
            self.lost = Some(RpcError::new(Code::DataLoss, what));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchers {
    pub(super) fn add(&self, watch: Watch) -> Result<String, RpcError> {
        let mut all = lock(&self.0);
        if all.len() >= WATCHERS_MAX {
            let what = format!("{WATCHERS_MAX} watchers are there already; remove one");
            return Err(RpcError::new(Code::ResourceExhausted, what));
        }
        let fd = readiness(&watch)?;
        let seen = Arc::new(Mutex::new(Seen {
            watch,
            events: Vec::new(),
            lost: None,
        }));
        let reader = tokio::spawn(read(fd, Arc::clone(&seen)));
        let name = crate::agent::random_name()?;
        all.insert(name.clone(), Watcher { seen, reader });
        Ok(name)
    }

    /// What a watcher has seen since it was last asked.
    pub(super) fn take(&self, name: &str) -> Result<Vec<FilesystemEvent>, RpcError> {
        let seen = lock(&self.0)
            .get(name)
            .map(|watcher| Arc::clone(&watcher.seen));
        let seen = seen.ok_or_else(|| unknown(name))?;
        let mut seen = lock(&seen);
        seen.look();
        if let Some(lost) = seen.lost.take() {
            seen.events.clear();
            return Err(lost);
        }
        Ok(std::mem::take(&mut seen.events))
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), RpcError> {
        let removed = lock(&self.0).remove(name);
        removed.map(drop).ok_or_else(|| unknown(name))
    }
}

fn unknown(name: &str) -> RpcError {
    RpcError::new(Code::NotFound, format!("watcher with id {name} not found"))
}

fn readiness(watch: &Watch) -> Result<AsyncFd<OwnedFd>, RpcError> {
    let internal = |error: std::io::Error| RpcError::new(Code::Internal, error.to_string());
    let copy = rustix::io::fcntl_dupfd_cloexec(watch.fd(), 3);
    copy.map_err(std::io::Error::from)
        .and_then(watched)
        .map_err(internal)
}

async fn read(fd: AsyncFd<OwnedFd>, seen: Arc<Mutex<Seen>>) {
    while let Ok(mut ready) = fd.readable().await {
        let seen = Arc::clone(&seen);
        ready.clear_ready();
        let looked = blocking(move || {
            lock(&seen).look();
            Ok(())
        });
        if looked.await.is_err() {
            return;
        }
    }
}

/// Tells what happens, as it happens.
pub(super) async fn tell(
    mut watch: Watch,
    call: &Call,
    out: &Out<WatchResponse>,
) -> Result<(), RpcError> {
    let fd = readiness(&watch)?;
    let start = WatchResponse {
        start: Some(Empty {}),
        ..WatchResponse::default()
    };
    if out.send(&start).await.is_err() {
        return Ok(());
    }
    let mut clock = call.clock();
    loop {
        let ready = tokio::select! {
            ready = fd.readable() => Some(ready),
            _ = clock.tick() => None,
            () = out.gone() => return Ok(()),
        };
        let Some(ready) = ready else {
            let alive = WatchResponse {
                keepalive: Some(Empty {}),
                ..WatchResponse::default()
            };
            if out.send(&alive).await.is_err() {
                return Ok(());
            }
            continue;
        };
        ready
            .map_err(|error| RpcError::new(Code::Internal, error.to_string()))?
            .clear_ready();
        let (back, events) = blocking(move || {
            let events = watch.take();
            Ok((watch, events))
        })
        .await?;
        watch = back;
        for event in events? {
            let response = WatchResponse {
                filesystem: Some(event),
                ..WatchResponse::default()
            };
            if out.send(&response).await.is_err() {
                return Ok(());
            }
            clock.reset();
        }
    }
}
