//! Events: what happened inside a sandbox, as seen from outside it where that is possible.

use serde::{Deserialize, Serialize};

use crate::limit::LimitKind;

/// Who saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Witness {
    /// Casemate, outside the guest's reach.
    Host,
    /// Our code inside the guest: the guest can hide from it or invent it.
    Guest,
}

/// How a file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// For reading.
    Read,
    /// For writing.
    Write,
    /// For both.
    ReadWrite,
    /// To list a folder.
    List,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since the run began.
    pub at_us: u64,
    /// Who saw it.
    pub witness: Witness,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// The guest was given the program.
    Started {
        /// The backend.
        backend: String,
    },
    /// A file or folder was opened.
    FileOpen {
        /// Its path in the guest.
        path: String,
        /// How.
        access: Access,
        /// Whether the open created it.
        created: bool,
    },
    /// A file that had been read was closed.
    FileRead {
        /// Its path in the guest.
        path: String,
        /// Bytes read through this descriptor.
        bytes: u64,
        /// Calls that read them.
        calls: u64,
    },
    /// A file that had been written was closed.
    FileWrite {
        /// Its path in the guest.
        path: String,
        /// Bytes written through this descriptor.
        bytes: u64,
        /// Calls that wrote them.
        calls: u64,
    },
    /// A file was removed.
    FileUnlink {
        /// Its path in the guest.
        path: String,
    },
    /// A folder was made.
    DirCreate {
        /// Its path in the guest.
        path: String,
    },
    /// A folder was removed.
    DirRemove {
        /// Its path in the guest.
        path: String,
    },
    /// A file or folder was renamed.
    Rename {
        /// The old path.
        from: String,
        /// The new path.
        to: String,
    },
    /// A link was made.
    Link {
        /// What it points to.
        target: String,
        /// Where it is.
        path: String,
    },
    /// A call was refused.
    Denied {
        /// The wall that refused it.
        wall: String,
        /// The call.
        call: String,
        /// What it was about.
        detail: String,
        /// The error the guest saw.
        error: String,
    },
    /// A path that does not exist in the guest was asked for, outside /tmp, the working folder and the inputs.
    Missing {
        /// The path.
        path: String,
    },
    /// An environment variable was read; `*` means all of them.
    EnvRead {
        /// Its name.
        name: String,
    },
    /// An environment variable was changed.
    EnvWrite {
        /// Its name.
        name: String,
    },
    /// The network was asked for.
    Network {
        /// Host and port where they are known, and the call.
        detail: String,
    },
    /// A process was asked for.
    Process {
        /// The command, or the call.
        detail: String,
    },
    /// A thread was asked for.
    Thread {
        /// The call.
        detail: String,
    },
    /// Native code was to be loaded.
    NativeCode {
        /// What.
        detail: String,
    },
    /// A limit was reached.
    LimitReached {
        /// Which.
        limit: LimitKind,
        /// The ceiling, in the limit's unit.
        allowed: u64,
        /// What was asked for or seen, in the limit's unit.
        seen: u64,
    },
    /// What the run used when it was measured.
    Usage {
        /// Processor time since it began, in microseconds.
        cpu_us: u64,
        /// Memory above what there was when it began, in bytes, as the usage at its end counts it.
        memory_bytes: u64,
        /// What its files take of the disk limit, in bytes.
        disk_bytes: u64,
    },
    /// Events beyond the bound were counted, not kept.
    Dropped {
        /// How many.
        count: u64,
    },
    /// The guest ended.
    Ended {
        /// How, in a word.
        how: String,
    },
}

impl What {
    /// The event's name as it stands in JSON, which alert rules match on.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::FileOpen { .. } => "file_open",
            Self::FileRead { .. } => "file_read",
            Self::FileWrite { .. } => "file_write",
            Self::FileUnlink { .. } => "file_unlink",
            Self::DirCreate { .. } => "dir_create",
            Self::DirRemove { .. } => "dir_remove",
            Self::Rename { .. } => "rename",
            Self::Link { .. } => "link",
            Self::Denied { .. } => "denied",
            Self::Missing { .. } => "missing",
            Self::EnvRead { .. } => "env_read",
            Self::EnvWrite { .. } => "env_write",
            Self::Network { .. } => "network",
            Self::Process { .. } => "process",
            Self::Thread { .. } => "thread",
            Self::NativeCode { .. } => "native_code",
            Self::LimitReached { .. } => "limit_reached",
            Self::Usage { .. } => "usage",
            Self::Dropped { .. } => "dropped",
            Self::Ended { .. } => "ended",
        }
    }

    /// The path in the guest that the event is about, where there is one.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::FileOpen { path, .. }
            | Self::FileRead { path, .. }
            | Self::FileWrite { path, .. }
            | Self::FileUnlink { path }
            | Self::DirCreate { path }
            | Self::DirRemove { path }
            | Self::Link { path, .. }
            | Self::Missing { path } => Some(path),
            Self::Rename { to, .. } => Some(to),
            _ => None,
        }
    }
}

/// An alert: a rule that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The rule's id.
    pub rule: String,
    /// How grave it is: `low`, `medium` or `high`.
    pub severity: String,
    /// What happened, for people.
    pub message: String,
    /// Microseconds since the run began, of the first match.
    pub at_us: u64,
    /// How often the rule matched.
    pub count: u64,
}
