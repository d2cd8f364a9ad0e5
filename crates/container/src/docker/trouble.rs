//! What is wrong with a daemon, and the way out.

use std::io;
use std::path::{Path, PathBuf};

use bollard::errors::Error;
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

/// Why a daemon cannot be used, or did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, ThisError, Serialize, Deserialize)]
pub(crate) enum Trouble {
    /// It is not on this machine, so that neither its files nor its processes are.
    #[error(
        "the daemon at {host} is not a socket of this machine's, so what it makes cannot be looked at"
    )]
    Elsewhere { host: String },
    /// Nobody listens there.
    #[error("there is no Docker here ({} is not there)", .socket.display())]
    Absent { socket: PathBuf },
    /// There is a socket, and nobody behind it.
    #[error("the Docker daemon is down (nobody answers at {})", .socket.display())]
    Down { socket: PathBuf },
    /// The socket is not this user's.
    #[error("the Docker daemon's socket {} may not be used by this user", .socket.display())]
    NoPermission { socket: PathBuf },
    /// A daemon of a user's, or one who says to be a daemon.
    #[error("the daemon at {} is user {user}'s and not root's", .socket.display())]
    NotRoot { socket: PathBuf, user: u32 },
    /// It speaks the language, and is something else.
    #[error("what answers at {} is not Docker ({server})", .socket.display())]
    NotDocker { socket: PathBuf, server: String },
    /// It lacks what is needed.
    #[error(
        "the Docker daemon speaks API {api}, and 1.41 (Docker 20.10) is the oldest that will do"
    )]
    TooOld { api: String },
    /// It has not got the runtime.
    #[error("the Docker daemon has no runtime of the name runsc")]
    NoRuntime,
    /// It has lost the image that was just made.
    #[error("the image is not there: {said}")]
    ImageMissing { said: String },
    /// There is no room where it keeps its things.
    #[error("the Docker daemon's disk is full: {said}")]
    DiskFull { said: String },
    /// It refused.
    #[error("the Docker daemon says ({status}): {said}")]
    Refused { status: u16, said: String },
    /// Anything else.
    #[error("talking to the Docker daemon: {0}")]
    Other(String),
}

impl Trouble {
    /// What to do about it.
    pub(crate) fn way_out(&self) -> String {
        match self {
            Self::Elsewhere { .. } => {
                "unset DOCKER_HOST, or set it to a daemon of this machine's: unix:///run/docker.sock"
            }
            Self::Absent { .. } => {
                "install it (Debian: apt-get install docker.io), or set DOCKER_HOST to where its socket is"
            }
            Self::Down { .. } => "start it (systemctl start docker)",
            Self::NoPermission { .. } => "run as root: who may use the socket is root in any case",
            Self::NotRoot { .. } => {
                "take the system's own daemon (unset DOCKER_HOST); a rootless one cannot be measured yet"
            }
            Self::NotDocker { .. } => {
                "set DOCKER_HOST to Docker's own socket; without a daemon, --backend crun or --backend runc will do"
            }
            Self::TooOld { .. } => "install Docker 20.10 or newer",
            Self::NoRuntime => {
                "add it to /etc/docker/daemon.json ({\"runtimes\": {\"runsc\": {\"path\": \"/usr/bin/runsc\"}}}) and \
                 reload the daemon, or take --backend gvisor, which needs no daemon"
            }
            Self::ImageMissing { .. } => "run it again: it is made anew",
            Self::DiskFull { .. } => "make room: `docker system df` says what holds it",
            Self::Refused { .. } | Self::Other(_) => "`casemate doctor` says how the daemon fares",
        }
        .to_owned()
    }

    /// The socket could not be used.
    pub(super) fn of_socket(socket: &Path, error: io::Error) -> Self {
        let socket = socket.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound => Self::Absent { socket },
            io::ErrorKind::PermissionDenied => Self::NoPermission { socket },
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut => Self::Down { socket },
            _ => Self::Other(format!("{}: {error}", socket.display())),
        }
    }

    /// What was asked for is not there.
    pub(super) const fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::Refused { status: 404, .. } | Self::ImageMissing { .. }
        )
    }

    fn of_answer(status: u16, said: String) -> Self {
        let lower = said.to_lowercase();
        if lower.contains("no space left on device") {
            return Self::DiskFull { said };
        }
        if lower.contains("no such image") {
            return Self::ImageMissing { said };
        }
        // In the words of 20.10, and of newer ones.
        let unknown = ["unknown runtime", "unknown or invalid runtime"];
        if unknown.iter().any(|words| lower.contains(words)) {
            return Self::NoRuntime;
        }
        Self::Refused { status, said }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => Self::of_answer(status_code, message),
            Error::DockerStreamError { error } => Self::of_answer(500, error),
            Error::SocketNotFoundError(path) => Self::Absent {
                socket: path.into(),
            },
            other => {
                // The client's own words leave the cause out.
                let mut said = other.to_string();
                let mut cause = std::error::Error::source(&other);
                while let Some(error) = cause {
                    said = format!("{said}: {error}");
                    cause = error.source();
                }
                Self::Other(said)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_is_told_apart() {
        let of = |status, said: &str| Trouble::of_answer(status, said.to_owned());
        assert!(matches!(
            of(500, "write /var/lib/docker/tmp: no space left on device"),
            Trouble::DiskFull { .. }
        ));
        assert!(matches!(
            of(404, "No such image: sha256:1"),
            Trouble::ImageMissing { .. }
        ));
        for said in [
            "Unknown runtime specified runsc",
            "unknown or invalid runtime name: runsc",
        ] {
            assert_eq!(of(400, said), Trouble::NoRuntime);
        }
        let runtimes =
            "OCI runtime create failed: runc create failed: unable to apply bounding set: unknown";
        assert!(matches!(of(500, runtimes), Trouble::Refused { .. }));
        let refused = of(409, "Conflict. The container name is in use");
        assert!(matches!(refused, Trouble::Refused { status: 409, .. }));
        assert!(of(404, "No such container: x").is_gone());
    }

    #[test]
    fn each_has_a_way_out() {
        let socket = PathBuf::from("/s");
        let said = String::new;
        for trouble in [
            Trouble::Elsewhere { host: said() },
            Trouble::Absent {
                socket: socket.clone(),
            },
            Trouble::Down {
                socket: socket.clone(),
            },
            Trouble::NoPermission {
                socket: socket.clone(),
            },
            Trouble::NotRoot {
                socket: socket.clone(),
                user: 1,
            },
            Trouble::NotDocker {
                socket,
                server: said(),
            },
            Trouble::TooOld { api: said() },
            Trouble::NoRuntime,
            Trouble::ImageMissing { said: said() },
            Trouble::DiskFull { said: said() },
        ] {
            assert!(!trouble.way_out().is_empty(), "{trouble}");
        }
    }

    #[test]
    fn a_socket_of_others_is_no_permission() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let trouble = Trouble::of_socket(Path::new("/s"), denied);
        assert!(matches!(trouble, Trouble::NoPermission { .. }));
    }
}
