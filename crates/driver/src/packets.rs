//! Packets over a unix socket: whole or not at all, each with a kind.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

/// Bytes of a packet beside its kind; larger contents are sent in several.
pub const PACKET_MAX: usize = 64 << 10;

/// One end of a channel.
#[derive(Debug)]
pub struct Packets {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// What was received.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A packet: its kind and its content.
    Packet(u8, Vec<u8>),
    /// Nothing is there now.
    Nothing,
    /// The other side is gone.
    Closed,
}

impl Packets {
    /// Two ends of a channel.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self::new(a), Self::new(b)))
    }

    /// One end that another process made.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            // One more than any packet may have, so that a larger one is seen to be larger.
            buffer: vec![0; PACKET_MAX + 2],
        }
    }

    /// Sends one packet.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&self, kind: u8, content: &[u8]) -> io::Result<()> {
        let packet = [&[kind], content].concat();
        let sent = loop {
            match send(&self.fd, &packet, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        if sent == packet.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Sends contents in as many packets as they need.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send_split(&self, kind: u8, content: &[u8]) -> io::Result<()> {
        content
            .chunks(PACKET_MAX)
            .try_for_each(|chunk| self.send(kind, chunk))
    }

    /// Receives what is there, waiting for it or not.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn receive(&mut self, wait: bool) -> io::Result<Received> {
        let flags = if wait {
            RecvFlags::empty()
        } else {
            RecvFlags::DONTWAIT
        };
        loop {
            return match recv(&self.fd, self.buffer.as_mut_slice(), flags) {
                Ok((_, 0)) => Ok(Received::Closed),
                Ok((_, length)) if length > PACKET_MAX + 1 => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a packet larger than packets are",
                )),
                Ok((_, length)) => Ok(Received::Packet(
                    self.buffer[0],
                    self.buffer[1..length].to_vec(),
                )),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(Received::Nothing),
                Err(Errno::CONNRESET) => Ok(Received::Closed),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Waits for a packet until the deadline.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn receive_until(&mut self, deadline: Instant) -> io::Result<Received> {
        loop {
            match self.receive(false)? {
                Received::Nothing => {}
                other => return Ok(other),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            wait_readable(&[self.fd.as_fd()], left)?;
        }
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Packets {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Packets> for OwnedFd {
    fn from(packets: Packets) -> Self {
        packets.fd
    }
}

/// Waits until one of these can be read, at most this long; whether one can.
///
/// # Errors
/// Those of `poll`.
pub fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    match poll(&mut polled, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_borders() {
        let (a, mut b) = Packets::pair().unwrap();
        assert_eq!(b.receive(false).unwrap(), Received::Nothing);
        a.send(7, b"").unwrap();
        a.send_split(8, &vec![1; PACKET_MAX + 1]).unwrap();
        assert_eq!(b.receive(true).unwrap(), Received::Packet(7, Vec::new()));
        let Received::Packet(8, whole) = b.receive(true).unwrap() else {
            panic!()
        };
        assert_eq!(whole.len(), PACKET_MAX);
        assert_eq!(b.receive(true).unwrap(), Received::Packet(8, vec![1]));
        drop(a);
        assert_eq!(b.receive(true).unwrap(), Received::Closed);
    }

    #[test]
    fn a_packet_that_is_too_large_is_an_error_and_not_cut() {
        let (a, mut b) = Packets::pair().unwrap();
        send(&a.fd, &vec![0; PACKET_MAX + 2], SendFlags::empty()).unwrap();
        assert!(b.receive(true).is_err());
    }

    #[test]
    fn nobody_answers_is_told_at_the_deadline() {
        let (_a, mut b) = Packets::pair().unwrap();
        let until = Instant::now() + Duration::from_millis(30);
        let error = b.receive_until(until).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
