//! The daemon: where it is, whether it is one that can be used, and the few things that are asked of it.
//!
//! It is asked over its unix socket, each question with a connection and a small runtime of its own: nothing
//! of the asynchronous client is seen outside of this folder.

use std::collections::HashMap;
use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerSummary,
    ContainerUpdateBody, SystemInfo, SystemVersion,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use bollard::{ClientVersion, Docker};
use serde::{Deserialize, Serialize};

use super::trouble::Trouble;

/// Where it listens unless the user says otherwise.
const SOCKET: &str = "/run/docker.sock";
/// Where the user says otherwise, as for Docker's own client.
pub(crate) const HOST: &str = "DOCKER_HOST";
/// The oldest version of its language that has everything that is asked for: Docker 20.10's.
const OLDEST: (usize, usize) = (1, 41);
/// The newest that our client speaks.
const NEWEST: (usize, usize) = (1, 53);
/// How long it may take to say what it is.
const PING_WITHIN: Duration = Duration::from_secs(5);
/// How long one question may take.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Bytes of its first answer.
const PING_MAX: u64 = 16 << 10;

/// A daemon that answers, on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Daemon {
    socket: PathBuf,
    /// The version of its language that is spoken.
    api: (usize, usize),
}

/// The socket that `DOCKER_HOST` names, or the usual one.
pub(crate) fn socket(host: Option<&str>) -> Result<PathBuf, Trouble> {
    match host {
        None | Some("") => Ok(PathBuf::from(SOCKET)),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
            _ => Err(Trouble::Elsewhere {
                host: host.to_owned(),
            }),
        },
    }
}

impl Daemon {
    /// The one at this socket.
    pub(crate) fn at(socket: PathBuf) -> Result<Self, Trouble> {
        let answer = ping(&socket)?;
        if let Some(server) = header(&answer, "Server")
            && !server.starts_with("Docker/")
        {
            return Err(Trouble::NotDocker {
                socket,
                server: server.to_owned(),
            });
        }
        let said = header(&answer, "Api-Version").unwrap_or_default();
        let api = version(said).ok_or_else(|| Trouble::NotDocker {
            socket: socket.clone(),
            server: "it does not say its version".to_owned(),
        })?;
        if api < OLDEST {
            return Err(Trouble::TooOld {
                api: said.to_owned(),
            });
        }
        let api = api.min(NEWEST);
        Ok(Self { socket, api })
    }

    /// The client, in a runtime.
    pub(crate) fn client(&self) -> Result<Docker, Trouble> {
        let (major_version, minor_version) = self.api;
        let version = ClientVersion {
            major_version,
            minor_version,
        };
        let path = self.socket.to_str().ok_or_else(|| Trouble::Elsewhere {
            host: self.socket.display().to_string(),
        })?;
        Ok(Docker::connect_with_unix(
            path,
            ANSWER_WITHIN.as_secs(),
            &version,
        )?)
    }

    /// Asks one thing.
    pub(crate) fn ask<T, F>(&self, question: impl FnOnce(Docker) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        runtime()?.block_on(async { Ok(question(self.client()?).await?) })
    }

    pub(crate) fn version(&self) -> Result<SystemVersion, Trouble> {
        self.ask(|docker| async move { docker.version().await })
    }

    pub(crate) fn info(&self) -> Result<SystemInfo, Trouble> {
        self.ask(|docker| async move { docker.info().await })
    }

    /// Has a container made; its id.
    pub(crate) fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String, Trouble> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let made = self.ask(|docker| async move {
            let made = docker.create_container(Some(options), body).await?;
            Ok(made.id)
        })?;
        Ok(made)
    }

    pub(crate) fn start(&self, id: &str) -> Result<(), Trouble> {
        self.ask(|docker| async move { docker.start_container(id, None).await })
    }

    /// Its first process and its state.
    pub(crate) fn state(&self, id: &str) -> Result<ContainerState, Trouble> {
        let found: ContainerInspectResponse =
            self.ask(|docker| async move { docker.inspect_container(id, None).await })?;
        found
            .state
            .ok_or_else(|| Trouble::Other("the daemon tells no state".to_owned()))
    }

    /// Changes how many tasks it may have.
    pub(crate) fn set_tasks(&self, id: &str, tasks: u64) -> Result<(), Trouble> {
        let update = ContainerUpdateBody {
            pids_limit: Some(i64::try_from(tasks).unwrap_or(i64::MAX)),
            ..ContainerUpdateBody::default()
        };
        self.ask(|docker| async move { docker.update_container(id, update).await })
    }

    /// Ends a container and lets it go. One that is not there is fine.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Trouble> {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        let removed =
            self.ask(|docker| async move { docker.remove_container(name, Some(options)).await });
        match removed {
            Err(trouble) if trouble.is_gone() => Ok(()),
            other => other,
        }
    }

    /// Containers with a label, running or not.
    pub(crate) fn with_label(&self, label: &str) -> Result<Vec<ContainerSummary>, Trouble> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        self.ask(|docker| async move { docker.list_containers(Some(options)).await })
    }
}

/// A runtime for one question, of one thread.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Trouble> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Trouble::Other(format!("a runtime for the client: {error}")))
}

/// What the daemon answers to the one question that every version understands. It tells apart what the
/// client's own errors do not: no socket, no right, nobody there.
fn ping(socket: &Path) -> Result<String, Trouble> {
    let trouble = |error| Trouble::of_socket(socket, error);
    let mut stream = UnixStream::connect(socket).map_err(trouble)?;
    stream
        .set_read_timeout(Some(PING_WITHIN))
        .and_then(|()| stream.set_write_timeout(Some(PING_WITHIN)))
        .map_err(trouble)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(|e| trouble(e.into()))?;
    if !peer.uid.is_root() {
        return Err(Trouble::NotRoot {
            socket: socket.to_owned(),
            user: peer.uid.as_raw(),
        });
    }
    stream
        .write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
        .map_err(trouble)?;
    let mut answer = Vec::new();
    stream
        .take(PING_MAX)
        .read_to_end(&mut answer)
        .map_err(trouble)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A header's value.
fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let lines = answer.lines().take_while(|line| !line.is_empty());
    let mut pairs = lines.filter_map(|line| line.split_once(':'));
    pairs
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn version(text: &str) -> Option<(usize, usize)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_socket_on_this_machine_is_a_daemon() {
        assert_eq!(socket(None).unwrap(), Path::new(SOCKET));
        assert_eq!(socket(Some("")).unwrap(), Path::new(SOCKET));
        let own = socket(Some("unix:///x/y.sock")).unwrap();
        assert_eq!(own, Path::new("/x/y.sock"));
        for host in [
            "tcp://127.0.0.1:2375",
            "ssh://me@there",
            "unix://there.sock",
            "fd://",
            "https://x",
        ] {
            let trouble = socket(Some(host)).unwrap_err();
            assert!(trouble.to_string().contains(host), "{trouble}");
            assert!(trouble.way_out().contains(HOST), "{}", trouble.way_out());
        }
    }

    /// Somebody who answers one question so, at a socket.
    fn answering(answer: &'static str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 256];
            let _read = stream.read(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        (dir, path)
    }

    #[test]
    fn what_answers_must_be_docker_and_new_enough() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: what is not root's is refused before it is asked");
        }
        let (_dir, path) = answering(
            "HTTP/1.0 200 OK\r\nApi-Version: 1.60\r\nServer: Docker/30.0 (linux)\r\n\r\nOK",
        );
        assert_eq!(Daemon::at(path).unwrap().api, NEWEST);
        let (_dir, path) = answering(
            "HTTP/1.0 200 OK\r\napi-version: 1.40\r\nServer: Docker/19.03 (linux)\r\n\r\nOK",
        );
        let old = Daemon::at(path).unwrap_err();
        assert!(matches!(&old, Trouble::TooOld { api } if api == "1.40"));
        for other in [
            "HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\nServer: Libpod/4.3 (linux)\r\n\r\nOK",
            "HTTP/1.0 404 Not Found\r\n\r\nApi-Version: 1.41",
            "",
        ] {
            let (_dir, path) = answering(other);
            assert!(matches!(Daemon::at(path), Err(Trouble::NotDocker { .. })));
        }
    }

    #[test]
    fn no_daemon_is_told_apart_from_one_that_is_down() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(matches!(
            Daemon::at(path.clone()),
            Err(Trouble::Absent { .. })
        ));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(Daemon::at(path), Err(Trouble::Down { .. })));
    }
}
