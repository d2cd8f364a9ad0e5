//! Connections that can be broken off.
//!
//! When a sandbox goes in the middle of a stream, its client must see that the connection broke, not that
//! the answer ended. A close looks like an end to some clients; a reset does not.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// How long to wait when there are no more descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Raised for a connection that is to be broken off.
#[derive(Debug, Clone, Default)]
pub(crate) struct Break(Arc<AtomicBool>);

impl Break {
    /// The connection will be reset when it is closed.
    pub(crate) fn off(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The listener.
pub(crate) struct Resettable(pub(crate) TcpListener);

/// One connection.
pub(crate) struct Stream {
    stream: TcpStream,
    broken: Break,
}

impl Listener for Resettable {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) => {
                    // Small answers must not wait for one another; one that does costs time and nothing else.
                    stream.set_nodelay(true).ok();
                    let broken = Break::default();
                    return (Stream { stream, broken }, address);
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, Resettable>> for Break {
    fn connect_info(stream: IncomingStream<'_, Resettable>) -> Self {
        stream.io().broken.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.broken.0.load(Ordering::SeqCst) {
            // Where it cannot be set the connection is closed as any other.
            self.stream.set_zero_linger().ok();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
