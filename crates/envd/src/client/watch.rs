//! The verbs of `filesystem.Filesystem`.

use super::rpc::{Messages, keepalive};
use super::{Client, ClientError};
use crate::filesystem::{
    EntryInfo, EntryResponse, EventType, FilesystemEvent, ListDirRequest, ListDirResponse,
    MoveRequest, PathRequest, SERVICE, WatchRequest, WatchResponse, Watcher, WatcherEvents,
};
use crate::process::Empty;

/// What happened below a watched folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// What.
    pub what: EventType,
    /// The path, relative to the watched folder.
    pub name: String,
    /// The entry, where it was asked for and is still there.
    pub entry: Option<EntryInfo>,
}

/// A folder that is being watched, until this is dropped.
#[derive(Debug)]
pub struct Watching {
    messages: Messages<WatchResponse>,
}

impl Client {
    /// What is at a path.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn stat(&self, path: &str) -> Result<EntryInfo, ClientError> {
        let request = PathRequest {
            path: path.to_owned(),
        };
        entry(self.unary(SERVICE, "Stat", &request).await?)
    }

    /// Makes a folder and those above it.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn make_dir(&self, path: &str) -> Result<EntryInfo, ClientError> {
        let request = PathRequest {
            path: path.to_owned(),
        };
        entry(self.unary(SERVICE, "MakeDir", &request).await?)
    }

    /// Moves what is at a path.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn rename(&self, source: &str, destination: &str) -> Result<EntryInfo, ClientError> {
        let request = MoveRequest {
            source: source.to_owned(),
            destination: destination.to_owned(),
        };
        entry(self.unary(SERVICE, "Move", &request).await?)
    }

    /// What is in a folder, so many levels deep.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn list_dir(&self, path: &str, depth: u32) -> Result<Vec<EntryInfo>, ClientError> {
        let request = ListDirRequest {
            path: path.to_owned(),
            depth,
        };
        let answer: ListDirResponse = self.unary(SERVICE, "ListDir", &request).await?;
        Ok(answer.entries)
    }

    /// Removes what is at a path and everything in it. Nothing there is not an error.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn remove(&self, path: &str) -> Result<(), ClientError> {
        let request = PathRequest {
            path: path.to_owned(),
        };
        let Empty {} = self.unary(SERVICE, "Remove", &request).await?;
        Ok(())
    }

    /// Watches a folder.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a stream.
    pub async fn watch(&self, request: &WatchRequest) -> Result<Watching, ClientError> {
        let headers = [keepalive(self.limits.silence)];
        let mut messages: Messages<WatchResponse> =
            self.stream(SERVICE, "WatchDir", request, &headers).await?;
        match messages.next().await? {
            Some(WatchResponse { start: Some(_), .. }) => Ok(Watching { messages }),
            _ => Err(ClientError::Protocol(
                "a watch that did not begin".to_owned(),
            )),
        }
    }

    /// Begins to watch a folder for somebody who will ask: the watcher's name.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn create_watcher(&self, request: &WatchRequest) -> Result<String, ClientError> {
        let answer: Watcher = self.unary(SERVICE, "CreateWatcher", request).await?;
        Ok(answer.watcher_id)
    }

    /// What a watcher has seen since it was last asked.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn watcher_events(&self, watcher: &str) -> Result<Vec<Watched>, ClientError> {
        let request = Watcher {
            watcher_id: watcher.to_owned(),
        };
        let answer: WatcherEvents = self.unary(SERVICE, "GetWatcherEvents", &request).await?;
        answer.events.into_iter().map(watched).collect()
    }

    /// Ends a watcher.
    ///
    /// # Errors
    /// As every unary call.
    pub async fn remove_watcher(&self, watcher: &str) -> Result<(), ClientError> {
        let request = Watcher {
            watcher_id: watcher.to_owned(),
        };
        let Empty {} = self.unary(SERVICE, "RemoveWatcher", &request).await?;
        Ok(())
    }
}

fn entry(answer: EntryResponse) -> Result<EntryInfo, ClientError> {
    let none = || ClientError::Protocol("an answer without its entry".to_owned());
    answer.entry.ok_or_else(none)
}

fn watched(event: FilesystemEvent) -> Result<Watched, ClientError> {
    match EventType::try_from(event.r#type) {
        Ok(what) => Ok(Watched {
            what,
            name: event.name,
            entry: event.entry,
        }),
        Err(_) => Err(ClientError::Protocol(
            "an event of no known kind".to_owned(),
        )),
    }
}

impl Watching {
    /// What happens next; none when the agent ends the watch.
    ///
    /// # Errors
    /// The error that the stream ended on, or what went wrong with it. There is nothing after one.
    pub async fn next(&mut self) -> Result<Option<Watched>, ClientError> {
        loop {
            match self.messages.next().await? {
                None => return Ok(None),
                Some(WatchResponse {
                    start: None,
                    filesystem: Some(event),
                    keepalive: None,
                }) => return watched(event).map(Some),
                Some(WatchResponse {
                    start: None,
                    filesystem: None,
                    keepalive: Some(_),
                }) => {}
                Some(_) => {
                    let what = "an event that is none or several";
                    return Err(ClientError::Protocol(what.to_owned()));
                }
            }
        }
    }
}
