//! The other end of an attack's connections: sockets on loopback and in the arena that only listen.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the sockets are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long one connection is listened to.
const CONNECTION: Duration = Duration::from_secs(3);
/// Silence after which a request is answered.
const SILENCE: Duration = Duration::from_millis(100);
/// How often a door that an attack might open is knocked at.
const KNOCK_EVERY: Duration = Duration::from_millis(25);
/// Bytes that are kept of all that arrives.
const KEPT: usize = 64 << 10;

/// The address at which an attack opens a door; the listener's own is at the next one down.
const DOOR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What a connection is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// That its request was well received, once it has been sent.
    Accepted,
    /// A shell's command, at once.
    Command(String),
    /// A secret, as a cloud's metadata service gives one to every machine that asks.
    Secret(String),
}

/// What arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// Connections to the TCP port.
    pub(crate) connections: u32,
    /// Datagrams to the UDP port.
    pub(crate) datagrams: u32,
    /// Connections to the socket in the arena, and to the one without a file.
    pub(crate) local: u32,
    /// How often somebody answered at the door that an attack opens.
    pub(crate) doors: u32,
    /// The bytes of all of them, up to a bound.
    pub(crate) bytes: Vec<u8>,
}

/// Sockets that listen until this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    port: u16,
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Sockets {
    tcp: TcpListener,
    udp: UdpSocket,
    local: [UnixListener; 2],
    /// The port of the door, where the listener's own is at the next address.
    port: u16,
    reply: Reply,
    heard: Arc<Mutex<Heard>>,
}

impl Listener {
    /// Listens on one loopback port, for connections and datagrams, at `local`, and at a name without a file.
    ///
    /// # Errors
    /// Those of making the sockets.
    pub(crate) fn start(local: &Path, reply: Reply) -> io::Result<Self> {
        let (tcp, udp) = one_port()?;
        let port = tcp.local_addr()?.port();
        let nameless = SocketAddr::from_abstract_name(format!("casemate-attack-{port}"))?;
        let local = [
            UnixListener::bind(local)?,
            UnixListener::bind_addr(&nameless)?,
        ];
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        for socket in &local {
            socket.set_nonblocking(true)?;
        }
        let heard = Arc::new(Mutex::new(Heard::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let sockets = Sockets {
            tcp,
            udp,
            local,
            port,
            reply,
            heard: heard.clone(),
        };
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("listener".to_owned())
            .spawn(move || {
                let mut knocked = Instant::now();
                while !stopped.load(Ordering::Relaxed) {
                    sockets.look();
                    if knocked.elapsed() > KNOCK_EVERY {
                        sockets.knock();
                        knocked = Instant::now();
                    }
                    std::thread::sleep(LOOK_EVERY);
                }
                // What came just before the word to stop counts too.
                sockets.look();
            })?;
        Ok(Self {
            port,
            heard,
            stop,
            thread: Some(thread),
        })
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Stops listening and tells what arrived.
    pub(crate) fn finish(&mut self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A listener that panicked has still noted what came before.
            thread.join().ok();
        }
        lock(&self.heard).clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.finish();
    }
}

fn lock(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both kinds of socket on one number, so that an attack needs to be told only one.
fn one_port() -> io::Result<(TcpListener, UdpSocket)> {
    let mut failure = io::Error::from(ErrorKind::AddrInUse);
    for _ in 0..16 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        match UdpSocket::bind((Ipv4Addr::LOCALHOST, tcp.local_addr()?.port())) {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

impl Sockets {
    fn look(&self) {
        while let Ok((stream, _)) = self.tcp.accept() {
            lock(&self.heard).connections += 1;
            let ready = stream
                .set_nonblocking(false)
                .and_then(|()| stream.set_read_timeout(Some(SILENCE)));
            self.converse(ready.map(|()| stream), &self.reply);
        }
        while let Some((stream, _)) = self.local.iter().find_map(|local| local.accept().ok()) {
            lock(&self.heard).local += 1;
            let ready = stream
                .set_nonblocking(false)
                .and_then(|()| stream.set_read_timeout(Some(SILENCE)));
            self.converse(ready.map(|()| stream), &Reply::Accepted);
        }
        let mut datagram = [0; 2048];
        while let Ok((len, _)) = self.udp.recv_from(&mut datagram) {
            lock(&self.heard).datagrams += 1;
            self.keep(&datagram[..len]);
        }
    }

    /// Loopback answers at once, whether somebody is there or not.
    fn knock(&self) {
        if TcpStream::connect((DOOR, self.port)).is_ok() {
            lock(&self.heard).doors += 1;
        }
    }

    /// The connection itself has been counted; one that breaks off has nothing more to tell.
    fn converse(&self, stream: io::Result<impl Read + Write>, reply: &Reply) {
        let Ok(mut stream) = stream else { return };
        let until = Instant::now() + CONNECTION;
        if let Reply::Command(command) = reply
            && stream.write_all(command.as_bytes()).is_err()
        {
            return;
        }
        let mut chunk = [0; 4096];
        while Instant::now() < until {
            match stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(len) => self.keep(&chunk[..len]),
                Err(error) if is_silence(&error) => {
                    let body = match reply {
                        Reply::Accepted => "",
                        Reply::Secret(secret) => secret,
                        Reply::Command(_) => continue,
                    };
                    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    // Whether the answer arrives makes no difference to what was heard.
                    stream.write_all((head + body).as_bytes()).ok();
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn keep(&self, bytes: &[u8]) {
        let mut heard = lock(&self.heard);
        let room = KEPT.saturating_sub(heard.bytes.len());
        heard.bytes.extend(bytes.iter().take(room));
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn everything_that_arrives_is_counted_and_answered() {
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("socket");
        let mut listener = Listener::start(&local, Reply::Accepted).unwrap();
        let to = (Ipv4Addr::LOCALHOST, listener.port());
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(b"taken").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        let out = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        out.send_to(b"datagram", to).unwrap();
        drop(UnixStream::connect(&local).unwrap());
        let name = format!("casemate-attack-{}", listener.port());
        let nameless = SocketAddr::from_abstract_name(name).unwrap();
        drop(UnixStream::connect_addr(&nameless).unwrap());
        let heard = listener.finish();
        assert_eq!((heard.connections, heard.datagrams, heard.local), (1, 1, 2));
        assert_eq!(heard.doors, 0);
        assert_eq!(heard.bytes, b"takendatagram");
    }

    #[test]
    fn an_open_door_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut listener = Listener::start(&dir.path().join("socket"), Reply::Accepted).unwrap();
        let door = TcpListener::bind((DOOR, listener.port())).unwrap();
        door.accept().unwrap();
        // The knock is counted when its answer is known, which may be a moment after ours.
        std::thread::sleep(Duration::from_millis(50));
        assert!(listener.finish().doors >= 1);
    }

    #[test]
    fn a_shell_is_sent_its_command_and_silence_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("socket");
        let reply = Reply::Command("whoami\n".to_owned());
        let mut listener = Listener::start(&local, reply).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, listener.port())).unwrap();
        let mut command = [0; 7];
        stream.read_exact(&mut command).unwrap();
        assert_eq!(&command, b"whoami\n");
        drop(stream);
        assert_eq!(listener.finish().bytes, b"");
    }
}
