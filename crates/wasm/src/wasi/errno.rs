//! Error numbers of WASI preview 1, and how a host call may end.

use std::fmt;

use casemate_model::limit::LimitKind;

/// An error number the guest sees. Numbers from the WASI preview 1 specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errno {
    BadF = 8,
    Exist = 20,
    Fault = 21,
    FBig = 22,
    IlSeq = 25,
    Intr = 27,
    Inval = 28,
    Io = 29,
    IsDir = 31,
    Loop = 32,
    MFile = 33,
    NameTooLong = 37,
    NoEnt = 44,
    NoSpc = 51,
    NotDir = 54,
    NotEmpty = 55,
    NotSup = 58,
    Perm = 63,
    RoFs = 69,
    SPipe = 70,
}

impl Errno {
    /// The number in the guest's register.
    pub(crate) fn code(self) -> i32 {
        self as i32
    }

    /// The symbol the guest's C library gives it.
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::BadF => "EBADF",
            Self::Exist => "EEXIST",
            Self::Fault => "EFAULT",
            Self::FBig => "EFBIG",
            Self::IlSeq => "EILSEQ",
            Self::Intr => "EINTR",
            Self::Inval => "EINVAL",
            Self::Io => "EIO",
            Self::IsDir => "EISDIR",
            Self::Loop => "ELOOP",
            Self::MFile => "EMFILE",
            Self::NameTooLong => "ENAMETOOLONG",
            Self::NoEnt => "ENOENT",
            Self::NoSpc => "ENOSPC",
            Self::NotDir => "ENOTDIR",
            Self::NotEmpty => "ENOTEMPTY",
            Self::NotSup => "ENOTSUP",
            Self::Perm => "EPERM",
            Self::RoFs => "EROFS",
            Self::SPipe => "ESPIPE",
        }
    }
}

/// Why the guest is stopped from outside; travels as a trap through the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The guest asked to end.
    Exit(i32),
    /// It reached a limit that ends a run.
    Limit {
        limit: LimitKind,
        allowed: u64,
        seen: u64,
    },
    /// The host wants another instance in its place.
    Renewed,
    /// The channel to the host is gone: nobody is listening.
    ChannelLost,
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit with {code}"),
            Self::Limit {
                limit,
                allowed,
                seen,
            } => {
                write!(
                    f,
                    "{limit} over: {} allowed, {} seen",
                    limit.show(*allowed),
                    limit.show(*seen)
                )
            }
            Self::Renewed => f.write_str("another instance takes its place"),
            Self::ChannelLost => f.write_str("the channel to the host is gone"),
        }
    }
}

impl std::error::Error for Halt {}

/// How a host call ends when it does not succeed.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The guest gets an error number and goes on.
    Errno(Errno),
    /// The guest ends.
    Halt(Halt),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Halt> for Stop {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

/// The result of a host call.
pub(crate) type Answer = Result<(), Stop>;
