//! What makes jails in advance, from the host's side: a process that has what is the same for all of them, and forks
//! each of them where a run without one starts the program anew. They are this process's children, not its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use casemate_driver::outside::number_of;
use casemate_driver::packets::{Packets, wait_readable};
use casemate_linux::{Child, Spawn, handoff};

use crate::shown::{Key, Shown};
use crate::spare::show;

pub mod process;

/// How long making one may take on a busy machine.
const MADE_WITHIN: Duration = Duration::from_secs(10);

/// The process. Dropping this ends it, and none of the jails that it made.
#[derive(Debug)]
pub(crate) struct Maker {
    _child: Child,
    control: Packets,
    /// The system that its jails show.
    pub(crate) key: Key,
}

/// What a jail is made with, in the order in which it is passed.
pub(crate) struct Wanted<'a> {
    pub(crate) control: BorrowedFd<'a>,
    pub(crate) handoff: BorrowedFd<'a>,
    pub(crate) messages: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    /// The files through which it enters its control groups.
    pub(crate) groups: Vec<BorrowedFd<'a>>,
}

impl Maker {
    pub(crate) fn start(program: &Path, shown: &Shown, key: Key) -> io::Result<Self> {
        let (control, end) = Packets::pair()?;
        let spawn = show(Spawn::new(program).arg(process::ARGUMENT), shown);
        Ok(Self {
            _child: spawn.fd(&end, process::CONTROL).spawn()?,
            control,
            key,
        })
    }

    /// Has one made. After an error it is not to be asked again.
    pub(crate) fn make(&mut self, wanted: &Wanted<'_>) -> io::Result<Child> {
        let first = [
            wanted.control,
            wanted.handoff,
            wanted.messages,
            wanted.stdout,
            wanted.stderr,
        ];
        let fds: Vec<_> = first.iter().chain(&wanted.groups).copied().collect();
        handoff::send_with(&self.control, process::MAKE, &fds)?;
        if !wait_readable(&[self.control.as_fd()], MADE_WITHIN)? {
            return Err(io::Error::other("no jail was made in time"));
        }
        let pidfd = handoff::receive(&self.control)?;
        let number = number_of(&pidfd).map_err(io::Error::other)?;
        Child::adopt(number, pidfd)
    }
}
