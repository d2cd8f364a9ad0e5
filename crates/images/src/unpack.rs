//! Unpacking an archive that somebody else made.
//!
//! It is done by this program once more, in a process that can do nothing else ([`worker`]): below the one
//! folder it is given, under names that the kernel resolves beneath it, without rights, devices or owners, and
//! within bounds that count what comes out rather than what went in.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;

use casemate_backend::setup::Progress;
use casemate_linux::{Exit, Spawn};
use serde::{Deserialize, Serialize};

use crate::ImageError;

mod entries;
pub mod worker;

/// The first argument that makes this program the one that unpacks.
pub const ARGUMENT: &str = "image-unpack";
/// The folder.
const FOLDER: i32 = 3;
/// The archive.
const ARCHIVE: i32 = 4;
/// Where it is told how far it is.
const TELL: i32 = 5;
/// Bytes of one line that the other process tells.
const LINE_MAX: u64 = 16 << 10;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// A tar file as it is.
    Plain,
    /// Compressed with gzip.
    Gzip,
}

impl Form {
    /// What an archive's first bytes say.
    pub(crate) fn of(begin: &[u8], what: &str) -> Result<Self, ImageError> {
        let packed = |how: &str, tool: &str| {
            Err(ImageError::refused(
                what,
                format!("it is compressed with {how}, which is not read here"),
                format!("decompress it first: {tool}"),
            ))
        };
        match begin {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => packed("zstd", "zstd -d FILE"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => packed("xz", "unxz FILE"),
            [b'B', b'Z', b'h', ..] => packed("bzip2", "bunzip2 FILE"),
            [b'P', b'K', 3, 4, ..] => packed("zip", "unzip it, and pack it with tar"),
            _ => Ok(Self::Plain),
        }
    }
}

/// What unpacking may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Bytes of everything that comes out of the archive, its headers included.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: 16 << 30,
            entries: 1_000_000,
        }
    }
}

/// What the other process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    form: Form,
    /// Whether it is one layer of several, whose names may take away what is there.
    layer: bool,
    bounds: Bounds,
}

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unpacked {
    /// Files, folders and links.
    pub(crate) entries: u64,
    /// Bytes of files.
    pub(crate) bytes: u64,
    /// Devices, pipes and the like, which no image has.
    pub(crate) left_out: u64,
    /// Files and folders that lost a bit which gives rights.
    pub(crate) stripped: u64,
}

impl Unpacked {
    /// Counts another archive's too.
    pub(crate) fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.left_out += other.left_out;
        self.stripped += other.stripped;
    }

    /// What was changed on the way, in words.
    pub(crate) fn notes(&self) -> Option<String> {
        let mut notes = Vec::new();
        if self.left_out > 0 {
            notes.push(format!("{} devices or pipes left out", self.left_out));
        }
        if self.stripped > 0 {
            notes.push(format!(
                "{} set-user-id or set-group-id bits taken off",
                self.stripped
            ));
        }
        (!notes.is_empty()).then(|| notes.join(", "))
    }
}

/// Why an archive is not unpacked. It is made from what an archive says, by the process that read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Stop {
    /// A name that leads out, or is none.
    Name { name: String, why: String },
    /// A second name for what is not in the archive.
    Link { name: String, target: String },
    /// An entry of a kind that is not known.
    Kind { name: String, kind: u8 },
    /// More than the bound on bytes.
    Bytes { bound: u64 },
    /// More than the bound on entries.
    Entries { bound: u64 },
    /// It is not an archive, or ends in the middle.
    Malformed { why: String },
    /// A layer takes away what it has itself put there.
    Whiteout { name: String },
    /// The file system refused.
    System { what: String, code: i32 },
    /// The process could not be locked in.
    Wall { wall: String, why: String },
}

impl Stop {
    fn told(self, what: &str, bounds: Bounds, free: bool) -> ImageError {
        let hostile = "no well-made archive has this: take it from somebody you trust, and nothing of this one was kept";
        let refused = |why: String, fix: &str| ImageError::refused(what, why, fix);
        match self {
            Self::Name { name, why } => {
                refused(format!("it has the name {name:?}: {why}"), hostile)
            }
            Self::Link { name, target } => refused(
                format!("it links {name:?} to {target:?}, which is no file in it"),
                hostile,
            ),
            Self::Kind { name, kind } => refused(
                format!("{name:?} is an entry of the unknown kind {kind}"),
                "pack it again with tar --format=pax",
            ),
            Self::Bytes { .. } if free => refused(
                format!(
                    "more comes out of it than nine tenths of the free space ({} bytes)",
                    bounds.bytes
                ),
                "free some space, or name another folder with CASEMATE_CACHE",
            ),
            Self::Bytes { bound } => refused(
                format!("more than {bound} bytes come out of it"),
                "if it is meant to be that large, raise the bound with --max-size",
            ),
            Self::Entries { bound } => refused(
                format!("it has more than {bound} entries"),
                "no system has that many files; leave out what is not needed",
            ),
            Self::Malformed { why } => refused(
                format!("it is not a whole tar archive: {why}"),
                "make it with `tar -cf`, or with `docker export`; if it was copied, copy it again",
            ),
            Self::Whiteout { name } => refused(
                format!("one of its layers empties {name:?} after filling it"),
                "build the image again with another tool, or flatten it and import the tar",
            ),
            Self::System { what: name, code } => ImageError::io(
                format!("unpacking {name}"),
                io::Error::from_raw_os_error(code),
            ),
            Self::Wall { wall, why } => ImageError::failed(
                "the process that unpacks cannot be locked in",
                format!("{wall}: {why}"),
                "it takes Linux 5.19 or newer with Landlock and seccomp",
            ),
        }
    }
}

/// What the other process tells, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    /// So many bytes have come out.
    At(u64),
    /// It is done.
    Done(Unpacked),
    /// It is not.
    Stopped(Stop),
}

/// Who unpacks: the program that is started for it, and what comes out at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unpacker<'a> {
    pub(crate) program: &'a Path,
    pub(crate) bounds: Bounds,
    /// Bytes that may still be written.
    pub(crate) free_bytes: u64,
}

impl Unpacker<'_> {
    /// Unpacks an archive below a folder. `what` is what it is called.
    ///
    /// # Errors
    /// When it is refused, or the file system refuses; what came out before is left in the folder.
    pub(crate) fn unpack(
        &self,
        archive: &File,
        folder: &File,
        (form, layer): (Form, bool),
        what: &str,
        progress: &dyn Progress,
    ) -> Result<Unpacked, ImageError> {
        let fits = self.free_bytes / 10 * 9;
        let free = fits < self.bounds.bytes;
        let bounds = Bounds {
            bytes: self.bounds.bytes.min(fits),
            ..self.bounds
        };
        let job = Job {
            form,
            layer,
            bounds,
        };
        let failed = |error: io::Error| ImageError::io("starting the process that unpacks", error);
        let text = serde_json::to_string(&job).map_err(|error| failed(error.into()))?;
        let (told, telling) = io::pipe().map_err(failed)?;
        let mut child = Spawn::new(self.program)
            .arg(ARGUMENT)
            .arg(text)
            .fd(archive.as_fd(), ARCHIVE)
            .fd(telling.as_fd(), TELL)
            .fd(folder.as_fd(), FOLDER)
            .spawn()
            .map_err(failed)?;
        drop(telling);
        let answer = hear(told, progress);
        let ended = child.wait().map_err(failed)?;
        match (answer, ended.exit) {
            (Some(Ok(unpacked)), Exit::Code(0)) => Ok(unpacked),
            (Some(Err(stop)), _) => Err(stop.told(what, bounds, free)),
            (_, exit) => Err(ImageError::refused(
                what,
                format!("the process that unpacked it ended with {exit:?} and without an answer"),
                "its headers need more memory than an archive's may, or this is a fault of ours: please report it",
            )),
        }
    }
}

/// Listens to its end: lines that are none end it.
fn hear(told: io::PipeReader, progress: &dyn Progress) -> Option<Result<Unpacked, Stop>> {
    let mut reader = BufReader::new(told);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line);
        if read.ok()? == 0 {
            return None;
        }
        match serde_json::from_slice(&line).ok()? {
            Told::At(bytes) => progress.at(bytes),
            Told::Done(unpacked) => return Some(Ok(unpacked)),
            Told::Stopped(stop) => return Some(Err(stop)),
        }
    }
}
