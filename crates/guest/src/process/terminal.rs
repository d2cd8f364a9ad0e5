//! Pseudo terminals.

use std::io;
use std::os::fd::OwnedFd;

use casemate_envd::process::PtySize;
use rustix::fs::{Gid, Uid};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::readiness::watched;
use crate::users::User;

/// The size of a terminal of which nothing is said.
const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// The agent's end of a terminal.
pub(crate) struct Terminal {
    fd: AsyncFd<OwnedFd>,
    /// One writer at a time, so that what they write is not mixed.
    writing: tokio::sync::Mutex<()>,
}

impl Terminal {
    /// A terminal and the end for its process, which belongs to the user.
    pub(crate) fn make(size: PtySize, user: &User) -> io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let fd = openpt(flags)?;
        grantpt(&fd)?;
        unlockpt(&fd)?;
        let other = ioctl_tiocgptpeer(&fd, flags)?;
        if rustix::process::geteuid().is_root() && user.uid != 0 {
            let owner = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            rustix::fs::fchown(&other, Some(owner.0), Some(owner.1))?;
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        let terminal = Self {
            fd: watched(fd)?,
            writing: tokio::sync::Mutex::new(()),
        };
        terminal.resize(size)?;
        Ok((terminal, other))
    }

    pub(crate) fn resize(&self, size: PtySize) -> io::Result<()> {
        let or = |number: u32, default| match u16::try_from(number) {
            Ok(0) => default,
            Ok(number) => number,
            Err(_) => u16::MAX,
        };
        let size = Winsize {
            ws_row: or(size.rows, ROWS),
            ws_col: or(size.cols, COLUMNS),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(self.fd.get_ref(), size)?)
    }

    /// What was written to it; an error when nobody has its other end any more.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |fd: &OwnedFd| Ok(rustix::io::read(fd, &mut *buffer)?);
        self.fd.async_io(Interest::READABLE, read).await
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let _one = self.writing.lock().await;
        while !bytes.is_empty() {
            let write = |fd: &OwnedFd| Ok(rustix::io::write(fd, bytes)?);
            let written = self.fd.async_io(Interest::WRITABLE, write).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}
