//! Connections: how many, how long a client may take to ask, and how long to take its answer.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS: u32 = 1024;
/// How long a client may take to send a request's head, or to send none.
const HEAD: Duration = Duration::from_secs(30);
/// How long a client may take nothing of its answer.
const STALLED: Duration = Duration::from_secs(60);
/// How long a connection that ends is read on while something still comes, so that a client that
/// has not sent its whole request yet gets to read why it was refused. To close on unread bytes is
/// to reset the connection, and a reset takes the answer along (RFC 9112, section 9.6).
const PARTING: Duration = Duration::from_secs(30);
/// And how long while nothing comes.
const SILENT: Duration = Duration::from_millis(500);
/// How long to wait when there are no more descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves until it is told to stop, and then until every connection has had its answer.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    app: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            next = next => next,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, _)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        // Small answers must not wait for one another; one that does costs time and nothing else.
        stream.set_nodelay(true).ok();
        let (http, app, tls) = (http.clone(), app.clone(), tls.clone());
        let stopped = stopped.clone();
        tokio::spawn(async move {
            match tls {
                None => answer(&http, app, stream, stopped).await,
                Some(tls) => {
                    // Who takes longer to greet than to ask is not waited for either; nothing else of it is known.
                    let greeted = tokio::time::timeout(HEAD, tls.accept(stream)).await;
                    if let Ok(Ok(stream)) = greeted {
                        answer(&http, app, stream, stopped).await;
                    }
                }
            }
            drop(place);
        });
    }
    drop(listener);
    // Every place is free again when every connection has had its answer.
    drop(places.acquire_many(CONNECTIONS).await);
}

/// Answers what comes on a connection until it ends, or the server does.
async fn answer<S: Connection>(
    http: &http1::Builder,
    app: Router,
    stream: S,
    mut stopped: watch::Receiver<bool>,
) {
    let broken = Break::default();
    let service = TowerToHyperService::new(app);
    let known = broken.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(known.clone());
        service.call(request)
    });
    let client = Client::new(stream, broken);
    let connection = http.serve_connection(TokioIo::new(client), service);
    // A server in a sandbox may change to another protocol.
    let mut connection = pin!(connection.with_upgrades());
    // A client that breaks off is its own affair; its run is cancelled where it waits for it.
    tokio::select! {
        ended = connection.as_mut() => drop(ended),
        () = async { drop(stopped.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            drop(connection.await);
        }
    }
}

/// What a client comes on, in the clear or not.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// What lies below.
    fn tcp(&self) -> &TcpStream;
}

impl Connection for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Connection for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Raised for a connection that is to be broken off: when a sandbox goes in the middle of a stream, its client must
/// see that the connection broke, not that the answer ended. A close looks like an end to some; a reset does not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Break(Arc<AtomicBool>);

impl Break {
    /// The connection will be reset when it is closed.
    pub(crate) fn off(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_off(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A connection that is given up when its client takes nothing of its answer, and that is read to
/// its end, within bounds, before it is closed.
struct Client<S: Connection> {
    stream: S,
    broken: Break,
    gives_up: Pin<Box<Sleep>>,
    waits: bool,
    /// Set once the last byte is written: when it is closed whatever still comes.
    parts: Option<Instant>,
}

impl<S: Connection> Client<S> {
    fn new(stream: S, broken: Break) -> Self {
        Self {
            stream,
            broken,
            gives_up: Box::pin(sleep(STALLED)),
            waits: false,
            parts: None,
        }
    }

    /// What came of a write, or an error where none went on for too long.
    fn patiently(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waits = false;
            return written;
        }
        if !self.waits {
            self.waits = true;
            self.gives_up.as_mut().reset(Instant::now() + STALLED);
        }
        ready!(self.gives_up.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: Connection> Drop for Client<S> {
    fn drop(&mut self) {
        if self.broken.is_off() {
            // Where it cannot be set the connection is closed as any other.
            self.stream.tcp().set_zero_linger().ok();
        }
    }
}

impl<S: Connection> AsyncRead for Client<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: Connection> AsyncWrite for Client<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.patiently(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.patiently(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.is_off() {
            return Poll::Ready(Ok(()));
        }
        let parts = match self.parts {
            Some(parts) => parts,
            None => {
                ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
                let now = Instant::now();
                self.gives_up.as_mut().reset(now + SILENT);
                *self.parts.insert(now + PARTING)
            }
        };
        let mut thrown_away = [0; 16 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
            let now = Instant::now();
            match read {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && now < parts => {
                    self.gives_up.as_mut().reset(now + SILENT);
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(self.gives_up.as_mut().poll(context));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}
