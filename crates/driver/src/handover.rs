//! What the host and the process that builds a sandbox say to each other: the job and the files in, the
//! walls and the end out.
//!
//! The host believes nothing of what comes after `START` but that this process, which is not the guest,
//! saw an end; and the end only decides what is shown of the guest.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::{Component, Path};
use std::time::Instant;

use casemate_linux::file::{Dir, create_beneath};
use casemate_linux::{Exit, Step};
use serde::{Deserialize, Serialize};

use crate::lowered::Lowered;
use crate::packets::{Packets, Received};

/// Host to init: a part of the job, as JSON.
pub const JOB: u8 = 1;
/// Host to init: that was all of it; the contents follow.
pub const JOB_END: u8 = 2;
/// Host to init: the next bytes of the contents.
pub const DATA: u8 = 3;
/// Host to init: start Python.
pub const START: u8 = 4;
/// Host to a keeper: keep the container as files, which ends it.
pub const SAVE: u8 = 8;
/// Host to init: the program comes from elsewhere; hold everything until the host ends it.
pub const HOLD: u8 = 5;
/// Init to host: a part of the list of walls, as JSON.
pub const WALLS: u8 = 10;
/// Init to host: that was all of it; the walls stand, and nothing has run.
pub const ARMED: u8 = 11;
/// Init, or a zygote, to host: the program has ended.
pub const ENDED: u8 = 12;
/// Init to host: it failed, in words.
pub const FAILED: u8 = 13;

/// A keeper to host: the container is kept.
pub const SAVED: u8 = 14;

/// A keeper to host: what came of having a container made, as JSON.
pub const MADE: u8 = 15;

/// A zygote to host: a child was forked; its number.
pub const BORN: u8 = 20;

/// Guest to host: a part of a message.
pub const MESSAGE_PART: u8 = 0;
/// Guest to host: the last part of one.
pub const MESSAGE_END: u8 = 1;
/// Guest to host, once and first: the interpreter stands; the program is next. From one that is to be kept as files:
/// its libraries are loaded, with the files that are mapped into its memory, as JSON.
pub const READY: u8 = 2;
/// Host to guest, once, where the driver waits for it: the program may begin.
pub const GO: u8 = 6;
/// Host to guest, once, where it was restored from files: go on, under these limits, as JSON.
pub const GO_ON: u8 = 7;

/// Bytes of a job's description.
pub const JOB_MAX: usize = 4 << 20;
/// Bytes of a list of walls.
pub const WALLS_MAX: usize = 1 << 20;

/// What is to be built and run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireJob {
    /// The root of an image, on the host; absent: the host's own system.
    pub root: Option<String>,
    /// The folder of the packages, on the host.
    pub packages: String,
    /// The packages of a virtual environment, on the host.
    pub venv: Option<String>,
    /// The folder of the agent that lives in the sandbox, on the host; absent: a program runs to its end.
    pub agent: Option<String>,
    /// What is started: a program by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Whether whoever starts it says that it begins.
    pub silent: bool,
    /// Files that are copied in, in the order of their contents.
    pub files: Vec<WireFile>,
    /// Plain names in the working folder, and the absolute paths they lead to.
    pub links: Vec<(String, String)>,
    /// Absent: no ceiling, by choice.
    pub scratch_bytes: Option<u64>,
    /// Absent: no ceiling, by choice.
    pub scratch_files: Option<u64>,
    /// Descriptors of a process.
    pub open_files: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Processors that are shown.
    pub processors: usize,
    /// Memory that a sandbox with an agent is told it has. Absent: no ceiling, by choice.
    pub memory_bytes: Option<u64>,
}

/// One file that is copied in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireFile {
    /// Relative: below `data` or below `run`.
    pub path: String,
    /// How many bytes of the contents are its.
    pub bytes: u64,
}

/// How the program ended, seen by the process that waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEnd {
    /// How.
    pub exit: Exit,
}

/// One part of the wall list.
pub type WireWalls = Vec<Step>;

impl WireJob {
    /// The job is checked again where it is carried out.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&self) -> Result<(), String> {
        let job = self;
        let plain = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_)));
        for file in &job.files {
            let path = Path::new(&file.path);
            if !plain(path) || !(path.starts_with("data") || path.starts_with("run")) {
                return Err(format!("{:?} is not a place for a file", file.path));
            }
        }
        for (name, target) in &job.links {
            let one = Path::new(name).components().count() == 1 && plain(Path::new(name));
            let inside = target.starts_with("/data/") || target.starts_with("/run/");
            if !one || !inside {
                return Err(format!("{name:?} is not a name for a link"));
            }
        }
        let folders = [&job.root, &job.venv, &job.agent].into_iter().flatten();
        let mut folders = folders.chain(std::iter::once(&job.packages));
        if !folders.all(|path| Path::new(path).is_absolute()) || job.processors == 0 {
            return Err("the folders or the processors are not such".to_owned());
        }
        if !job
            .command
            .first()
            .is_some_and(|program| program.starts_with('/'))
        {
            return Err("there is no program to start".to_owned());
        }
        Ok(())
    }

    /// Bytes of all files, each rounded up to whole pages.
    #[must_use]
    pub fn input_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum: u64, file| {
            sum.saturating_add(file.bytes.div_ceil(4096).saturating_mul(4096))
        })
    }

    /// Files and folders, each folder counted as often as it is named.
    #[must_use]
    pub fn input_files(&self) -> u64 {
        let parts = |file: &WireFile| Path::new(&file.path).components().count() as u64;
        self.files.iter().map(parts).sum()
    }
}

/// Passes a failure on to the host.
///
/// # Errors
/// When it failed.
pub fn tell<T>(
    control: &Packets,
    action: impl FnOnce(&Packets) -> Result<T, String>,
) -> Result<T, Told> {
    action(control).map_err(|why| {
        let bytes = why.as_bytes();
        // When the host is gone there is nobody to tell, and this process ends either way.
        drop(control.send(FAILED, &bytes[..bytes.len().min(4096)]));
        Told
    })
}

/// It failed, and the host has been told why.
#[derive(Debug)]
pub struct Told;

/// Receives the description of a job, as JSON of at most [`JOB_MAX`] bytes.
///
/// # Errors
/// When there is none, in words.
pub fn receive_job<T: serde::de::DeserializeOwned>(control: BorrowedFd<'_>) -> Result<T, String> {
    let mut control = Packets::new(
        control
            .try_clone_to_owned()
            .map_err(|error| format!("the channel: {error}"))?,
    );
    let mut text = Vec::new();
    loop {
        match control.receive(true) {
            Ok(Received::Packet(JOB, part)) if text.len() + part.len() <= JOB_MAX => {
                text.extend(part);
            }
            Ok(Received::Packet(JOB_END, _)) => break,
            Ok(other) => return Err(format!("not a job: {}", word(&other))),
            Err(error) => return Err(format!("receiving the job: {error}")),
        }
    }
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn word(received: &Received) -> &'static str {
    match received {
        Received::Packet(..) => "another packet",
        Received::Nothing => "nothing",
        Received::Closed => "the host is gone",
    }
}

/// Writes the files below a folder as their bytes come.
///
/// # Errors
/// A path that leads out, a file that cannot be written, or bytes that do not come.
pub fn copy_in(
    control: &mut Packets,
    files: &[WireFile],
    inputs: BorrowedFd<'_>,
) -> Result<(), String> {
    let inputs = inputs
        .try_clone_to_owned()
        .map_err(|error| format!("the inputs: {error}"))?;
    let dir = Dir::from_fd(inputs);
    for file in files {
        let to = create_beneath(&dir, Path::new(&file.path)).map_err(|e| e.to_string())?;
        copy_file(control, file, to)?;
    }
    Ok(())
}

fn copy_file(control: &mut Packets, file: &WireFile, mut to: File) -> Result<(), String> {
    let mut left = file.bytes;
    while left > 0 {
        match control.receive(true) {
            Ok(Received::Packet(DATA, bytes)) => {
                left = left
                    .checked_sub(bytes.len() as u64)
                    .ok_or_else(|| format!("more bytes than {} has", file.path))?;
                to.write_all(&bytes)
                    .map_err(|error| format!("writing {}: {error}", file.path))?;
            }
            Ok(other) => return Err(format!("not the bytes of a file: {}", word(&other))),
            Err(error) => return Err(format!("receiving {}: {error}", file.path)),
        }
    }
    Ok(())
}

/// Tells the host which walls stand.
///
/// # Errors
/// When the host is gone.
pub fn report(control: &Packets, steps: &[Step]) -> Result<(), String> {
    let text = serde_json::to_vec(steps).map_err(|error| error.to_string())?;
    control
        .send_split(WALLS, &text)
        .and_then(|()| control.send(ARMED, &[]))
        .map_err(|error| format!("reporting: {error}"))
}

/// The host's side: the description of a job, whose contents follow if it has any.
///
/// # Errors
/// When the other side is gone.
pub fn send_job(control: &Packets, job: &impl Serialize) -> io::Result<()> {
    let job = serde_json::to_vec(job)?;
    control.send_split(JOB, &job)?;
    control.send(JOB_END, &[])
}

/// The host's side: hands over a job and its contents.
///
/// # Errors
/// When the other side is gone.
pub fn hand_over(control: &Packets, job: &impl Serialize, lowered: &Lowered<'_>) -> io::Result<()> {
    send_job(control, job)?;
    control.send_split(DATA, &lowered.driver)?;
    for content in &lowered.contents {
        control.send_split(DATA, content)?;
    }
    Ok(())
}

/// The host's side: hears the other, what it is and its content.
///
/// # Errors
/// What it failed with (of kind `Other`), or that it is gone or too late.
pub fn hear(control: &mut Packets, deadline: Instant) -> io::Result<(u8, Vec<u8>)> {
    match control.receive_until(deadline)? {
        Received::Packet(FAILED, why) => {
            Err(io::Error::other(String::from_utf8_lossy(&why).into_owned()))
        }
        Received::Packet(kind, content) => Ok((kind, content)),
        Received::Closed | Received::Nothing => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The host's side: hears which walls stand, once they do.
///
/// # Errors
/// What the other side said instead (of kind `Other`), or that it is gone or too late.
pub fn hear_walls(control: &mut Packets, deadline: Instant) -> io::Result<WireWalls> {
    let mut text = Vec::new();
    loop {
        match hear(control, deadline)? {
            (WALLS, part) if text.len() + part.len() <= WALLS_MAX => text.extend(part),
            (ARMED, _) => return Ok(serde_json::from_slice(&text)?),
            _ => return Err(io::Error::other("it did not report its walls")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> WireJob {
        WireJob {
            root: None,
            packages: "/p".into(),
            venv: None,
            agent: None,
            command: vec!["/usr/bin/python3".into()],
            env: Vec::new(),
            silent: false,
            files: vec![WireFile {
                path: "data/a/b.csv".into(),
                bytes: 1,
            }],
            links: vec![("b.csv".into(), "/data/b.csv".into())],
            scratch_bytes: None,
            scratch_files: None,
            open_files: None,
            tasks: None,
            processors: 1,
            memory_bytes: None,
        }
    }

    #[test]
    fn a_job_that_leads_out_is_refused_where_it_is_carried_out() {
        assert_eq!(job().check(), Ok(()));
        for path in ["/data/x", "../x", "data/../../x", "etc/passwd", ""] {
            let mut job = job();
            job.files[0].path = path.into();
            assert!(job.check().is_err(), "{path}");
        }
        for (name, target) in [
            ("a/b", "/data/b"),
            ("..", "/data/b"),
            ("b", "/etc/passwd"),
            ("b", "data/b"),
        ] {
            let mut job = job();
            job.links = vec![(name.into(), target.into())];
            assert!(job.check().is_err(), "{name} -> {target}");
        }
        let changes: [fn(&mut WireJob); 6] = [
            |job| job.root = Some("image".into()),
            |job| job.agent = Some("agent".into()),
            |job| job.venv = Some("../venv".into()),
            |job| job.packages.clear(),
            |job| job.command.clear(),
            |job| job.command = vec!["python3".into()],
        ];
        for change in changes {
            let mut job = job();
            change(&mut job);
            assert!(job.check().is_err(), "{job:?}");
        }
    }
}
