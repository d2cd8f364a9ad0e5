//! Connections: where they come from, and how many there may be.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use casemate_envd::server::serve::serve;
use casemate_linux::{handoff, take_fd};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::agent::Agent;
use crate::config::{Config, Source};
use crate::readiness::watched;
use crate::routes::router;

/// Connections at the same time. More wait to be taken.
const CONNECTIONS: usize = 512;
/// How long to wait when there are no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is told to stop, or the host has gone.
pub(crate) async fn run(config: Config) -> Result<(), String> {
    let mut connections = Connections::open(&config.source)
        .map_err(|error| format!("opening {:?}: {error}", config.source))?;
    let agent = Agent::new(config);
    let router = router(Arc::clone(&agent));
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| format!("signals: {error}"))?;
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else {
            return Ok(());
        };
        let stream = tokio::select! {
            stream = connections.next() => stream,
            _ = stop.recv() => return Ok(()),
        };
        match stream {
            Ok(Some(Taken::ToPort(port, stream))) => {
                tokio::spawn(async move {
                    carry(stream, port).await;
                    drop(place);
                });
            }
            Ok(Some(Taken::Ours(stream))) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve(stream, router).await;
                    drop(place);
                });
            }
            Ok(None) => return Ok(()),
            // What one caller did to its connection, or no more descriptors: neither is the end.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Carries a stream on to a port of this machine, each way to its end. Where nobody listens it ends at once.
async fn carry(mut stream: UnixStream, port: u16) {
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    if let Ok(mut server) = TcpStream::connect(&addresses[..]).await {
        // What breaks off on one side breaks off on the other.
        drop(tokio::io::copy_bidirectional(&mut stream, &mut server).await);
    }
}

/// A connection that was taken.
enum Taken {
    /// For the agent.
    Ours(UnixStream),
    /// For whoever listens at a port.
    ToPort(u16, UnixStream),
}

/// Where connections come from.
enum Connections {
    Listening(UnixListener),
    Handed(AsyncFd<OwnedFd>),
}

impl Connections {
    fn open(source: &Source) -> io::Result<Self> {
        let listening = |listener: StdListener| {
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener).map(Self::Listening)
        };
        match source {
            Source::Path(path) => listening(bind(path)?),
            Source::Listening(number) => listening(StdListener::from(take_fd(*number)?)),
            Source::Handoff(number) => {
                let fd = take_fd(*number)?;
                rustix::io::ioctl_fionbio(&fd, true)?;
                watched(fd).map(Self::Handed)
            }
        }
    }

    /// The next one; none when there will be no more.
    async fn next(&mut self) -> io::Result<Option<Taken>> {
        match self {
            Self::Listening(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Some(Taken::Ours(stream)))
            }
            Self::Handed(socket) => loop {
                let mut ready = socket.readable().await?;
                match ready.try_io(|socket| handoff::receive_with::<3>(socket.get_ref())) {
                    Err(_not_yet) => {}
                    // The host has closed its end.
                    Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                        return Ok(None);
                    }
                    Ok(Err(error)) => return Err(error),
                    Ok(Ok((data, fd))) => {
                        let stream = std::os::unix::net::UnixStream::from(fd);
                        stream.set_nonblocking(true)?;
                        let stream = UnixStream::from_std(stream)?;
                        return Ok(Some(match data[..] {
                            [handoff::PORT, high, low] => {
                                Taken::ToPort(u16::from_be_bytes([high, low]), stream)
                            }
                            _ => Taken::Ours(stream),
                        }));
                    }
                }
            },
        }
    }
}

/// Makes the socket; one that an ended agent left is replaced.
fn bind(path: &Path) -> io::Result<StdListener> {
    match StdListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            StdListener::bind(path)
        }
        other => other,
    }
}
