//! Descriptors, passed over a unix socket from a process to another.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors that one message may carry.
pub const MOST: usize = 32;

/// The first byte of a message to an agent whose stream is to be carried on to a port of the sandbox's loopback; the
/// port's two bytes follow, the larger first. With any other byte the stream is for the agent itself.
pub const PORT: u8 = b'p';

/// Sends a descriptor with one byte of data. The sender keeps its own.
///
/// # Errors
/// Those of `sendmsg`.
pub fn send(socket: impl AsFd, fd: impl AsFd) -> io::Result<()> {
    send_with(socket, b"d", &[fd.as_fd()])
}

/// Sends data with descriptors, at most [`MOST`]. The sender keeps its own.
///
/// # Errors
/// Those of `sendmsg`, too many descriptors, and data that did not go as a whole.
pub fn send_with(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("no room for a descriptor in a message"));
    }
    let sent = sendmsg(
        socket,
        &[IoSlice::new(data)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent == data.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Receives one descriptor, close-on-exec. More than one, or none, is an error.
///
/// # Errors
/// Those of `recvmsg`, and a message that carries anything but one descriptor.
pub fn receive(socket: impl AsFd) -> io::Result<OwnedFd> {
    receive_marked(socket).map(|(_, fd)| fd)
}

/// The same with the byte that came with it, which says what it is.
///
/// # Errors
/// As [`receive`].
pub fn receive_marked(socket: impl AsFd) -> io::Result<(u8, OwnedFd)> {
    let (data, fd) = receive_with::<1>(socket)?;
    match data[..] {
        [mark] => Ok((mark, fd)),
        _ => Err(not_one()),
    }
}

/// The same with at most so many bytes, of which there is at least one.
///
/// # Errors
/// As [`receive`].
pub fn receive_with<const MOST: usize>(socket: impl AsFd) -> io::Result<(Vec<u8>, OwnedFd)> {
    // A sender that passes several is seen, and what it passed closed.
    let (data, mut fds) = receive_all::<MOST>(socket)?;
    match (data.is_empty(), fds.pop(), fds.is_empty()) {
        (false, Some(fd), true) => Ok((data, fd)),
        _ => Err(not_one()),
    }
}

/// Receives at most so many bytes with all descriptors that came with them, close-on-exec. No bytes are the end.
///
/// # Errors
/// Those of `recvmsg`.
pub fn receive_all<const BYTES: usize>(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = [0; BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        flags,
    )?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    Ok((bytes.iter().copied().take(got.bytes).collect(), fds))
}

fn not_one() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not one descriptor")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn one_descriptor_crosses_and_nothing_else_counts() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&a, &writer).unwrap();
        drop(writer);
        let passed = receive(&b).unwrap();
        io::Write::write_all(&mut std::fs::File::from(passed), b"hi").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
        io::Write::write_all(&mut &a, b"x").unwrap();
        assert!(receive(&b).is_err(), "a byte without a descriptor");
        drop(a);
        assert!(receive(&b).is_err(), "the end");
    }
}
