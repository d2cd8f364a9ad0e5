//! Listening to a worker: what it sends is bounded, counted and decoded, and believed no further.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use casemate_backend::contract::{Cancel, Signal};
use casemate_model::event::{Event, What, Witness};
use casemate_model::outcome::{Exit, Usage};
use casemate_model::result::Artifact;

use crate::messages::{self, Message};
use crate::wire::{self, FRAME_MAX, HEADER, Kind, WireEnd, WireExit, WireLeft, WireLimits};

/// How often a waiting host looks at its deadline and at the caller's wish to stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long past the wall deadline a worker may take to report it before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How long a worker may take to hand back what was left once the program has ended.
const HAND_BACK: Duration = Duration::from_secs(60);
/// Events of one run that the host takes from the worker, which keeps fewer by itself.
const EVENTS_MAX: usize = 40_000;
/// Events of one run that the host takes from the guest's driver; the rest is counted. They have a bound
/// of their own: what the guest says must not crowd out what was seen of it.
const TOLD_MAX: u64 = 5_000;

/// How listening ended.
pub(crate) enum Ended {
    Reported(WireEnd),
    Cancelled,
    Late { allowed: u64, seen: u64 },
    Closed,
}

/// One run as the host hears it. Every count is kept here again, whatever the worker counted.
pub(crate) struct Run<'a> {
    limits: &'a WireLimits,
    sink: &'a mut dyn FnMut(Signal),
    begun: Instant,
    stdout: u64,
    stderr: u64,
    events: usize,
    told: u64,
    results: u64,
    message: Vec<u8>,
    pub(crate) artifacts: Vec<Artifact>,
    artifact_room: u64,
    awaited: u64,
    exit_code: Option<i32>,
    pub(crate) usage: Usage,
    handing_back: Option<Instant>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(limits: &'a WireLimits, sink: &'a mut dyn FnMut(Signal)) -> Self {
        Self {
            limits,
            sink,
            begun: Instant::now(),
            stdout: 0,
            stderr: 0,
            events: 0,
            told: 0,
            results: 0,
            message: Vec::new(),
            artifacts: Vec::new(),
            artifact_room: limits.artifact_bytes,
            awaited: 0,
            exit_code: None,
            usage: Usage::default(),
            handing_back: None,
        }
    }

    pub(crate) fn listen(&mut self, channel: &mut Frames, cancel: &Cancel) -> io::Result<Ended> {
        let wall = self.limits.wall_time_ms.map(Duration::from_millis);
        loop {
            if cancel.is_cancelled() {
                return Ok(Ended::Cancelled);
            }
            let deadline = match (self.handing_back, wall) {
                (Some(since), _) => since + HAND_BACK,
                (None, Some(wall)) => self.begun + wall + GRACE,
                (None, None) => Instant::now() + Duration::from_secs(3600),
            };
            match channel.next(deadline)? {
                Heard::Frame(Kind::End, payload) => {
                    self.told_too_much();
                    return Ok(Ended::Reported(serde_json::from_slice(&payload)?));
                }
                Heard::Frame(kind, payload) => self.take(kind, payload)?,
                Heard::Nothing => {}
                Heard::Closed => return Ok(Ended::Closed),
                Heard::Late => {
                    let seen = millis(self.begun.elapsed());
                    self.usage.wall_us = seen.saturating_mul(1000);
                    return Ok(Ended::Late {
                        allowed: self.limits.wall_time_ms.unwrap_or(seen),
                        seen,
                    });
                }
            }
        }
    }

    fn take(&mut self, kind: Kind, payload: Vec<u8>) -> io::Result<()> {
        match kind {
            Kind::Stdout => {
                count(
                    &mut self.stdout,
                    payload.len(),
                    self.limits.output_bytes,
                    "standard output",
                )?;
                (self.sink)(Signal::Stdout(payload));
            }
            Kind::Stderr => {
                count(
                    &mut self.stderr,
                    payload.len(),
                    self.limits.output_bytes,
                    "standard error",
                )?;
                (self.sink)(Signal::Stderr(payload));
            }
            Kind::Events => self.take_events(&payload)?,
            Kind::MessagePart => {
                count(
                    &mut self.results,
                    payload.len(),
                    self.limits.result_bytes,
                    "results",
                )?;
                self.message.extend(payload);
            }
            Kind::MessageEnd => self.take_message(),
            Kind::File => self.take_file(&payload)?,
            Kind::FileData => self.take_file_data(&payload)?,
            Kind::Job | Kind::Data | Kind::Start | Kind::Ready | Kind::Armed | Kind::End => {
                return Err(lie(format!("a {kind:?} frame in the middle of a run")));
            }
        }
        Ok(())
    }

    /// Says how much of what the guest told was not kept.
    fn told_too_much(&mut self) {
        if let Some(count) = self.told.checked_sub(TOLD_MAX).filter(|count| *count > 0) {
            let at_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            let what = What::Dropped { count };
            (self.sink)(Signal::Event(Event {
                at_us,
                witness: Witness::Host,
                what,
            }));
        }
    }

    fn take_events(&mut self, payload: &[u8]) -> io::Result<()> {
        let events: Vec<Event> = serde_json::from_slice(payload)?;
        self.events += events.len();
        if self.events > EVENTS_MAX {
            return Err(lie("more events than a run can have"));
        }
        for event in events {
            (self.sink)(Signal::Event(event));
        }
        Ok(())
    }

    fn take_message(&mut self) {
        let bytes = std::mem::take(&mut self.message);
        let at_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        match messages::decode(&bytes, at_us) {
            Ok(Message::End(code)) => self.exit_code = Some(code),
            Ok(Message::Signal(Signal::Event(event))) => {
                self.told += 1;
                if self.told <= TOLD_MAX {
                    (self.sink)(Signal::Event(event));
                }
            }
            Ok(Message::Signal(signal)) => (self.sink)(signal),
            Err(why) => (self.sink)(Signal::Event(Event {
                at_us,
                witness: Witness::Host,
                what: What::Denied {
                    wall: "driver messages".to_owned(),
                    call: "message".to_owned(),
                    detail: why.to_owned(),
                    error: "dropped".to_owned(),
                },
            })),
        }
    }

    fn take_file(&mut self, payload: &[u8]) -> io::Result<()> {
        self.handing_back.get_or_insert_with(Instant::now);
        let file: WireLeft = serde_json::from_slice(payload)?;
        if self.awaited > 0 {
            return Err(lie("a file that begins inside another"));
        }
        if self.artifacts.len() as u64 >= self.limits.artifacts {
            return Err(lie("more files than the limit"));
        }
        let fits = self.artifact_room.checked_sub(file.bytes);
        self.artifact_room = fits.ok_or_else(|| lie("more bytes of files than the limit"))?;
        self.awaited = file.bytes;
        self.artifacts.push(Artifact {
            path: file.path,
            bytes: Vec::new(),
        });
        Ok(())
    }

    fn take_file_data(&mut self, payload: &[u8]) -> io::Result<()> {
        let left = self.awaited.checked_sub(payload.len() as u64);
        self.awaited = left.ok_or_else(|| lie("more bytes than a file was said to have"))?;
        match self.artifacts.last_mut() {
            Some(artifact) => artifact.bytes.extend_from_slice(payload),
            None => return Err(lie("bytes of no file")),
        }
        Ok(())
    }

    /// The raw end. The driver's exit code is the guest's word for itself; it decides nothing else.
    pub(crate) fn judge(&self, end: &WireExit) -> Exit {
        match end {
            WireExit::Returned { status } => Exit::Code(self.exit_code.unwrap_or(*status & 0xff)),
            WireExit::Exited { code } => Exit::Code(*code & 0xff),
            WireExit::Over {
                limit,
                allowed,
                seen,
            } => Exit::Limit {
                limit: *limit,
                allowed: *allowed,
                seen: *seen,
            },
            WireExit::Trapped { trap } => Exit::Wall {
                wall: "wasm".to_owned(),
                reason: trap.clone(),
            },
            WireExit::Failed { reason } => Exit::Fault(reason.clone()),
        }
    }
}

fn count(so_far: &mut u64, more: usize, allowed: u64, what: &str) -> io::Result<()> {
    *so_far = so_far.saturating_add(more as u64);
    if *so_far > allowed {
        Err(lie(format!("more {what} than the limit")))
    } else {
        Ok(())
    }
}

fn lie(what: impl Into<String>) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the worker sent {}", what.into()),
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What was heard on a channel.
pub(crate) enum Heard {
    Frame(Kind, Vec<u8>),
    /// Nothing within one look.
    Nothing,
    /// The other side is gone.
    Closed,
    /// The deadline has passed.
    Late,
}

/// Frames from a worker, read without ever waiting longer than one look.
pub(crate) struct Frames {
    pub(crate) stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
}

impl Frames {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(LOOK_EVERY))?;
        stream.set_write_timeout(Some(HAND_BACK))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            start: 0,
        })
    }

    pub(crate) fn next(&mut self, deadline: Instant) -> io::Result<Heard> {
        if let Some(frame) = self.whole()? {
            return Ok(frame);
        }
        if Instant::now() >= deadline {
            return Ok(Heard::Late);
        }
        let mut chunk = [0; 64 << 10];
        match (&self.stream).read(&mut chunk) {
            Ok(0) => Ok(Heard::Closed),
            Ok(read) => {
                self.buffer.drain(..self.start);
                self.start = 0;
                self.buffer.extend_from_slice(&chunk[..read]);
                Ok(self.whole()?.unwrap_or(Heard::Nothing))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(Heard::Nothing)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Heard::Nothing),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Heard::Closed),
            Err(error) => Err(error),
        }
    }

    /// A whole frame of the buffer. It holds at most one frame and one chunk, for frames are bounded.
    fn whole(&mut self) -> io::Result<Option<Heard>> {
        debug_assert!(
            self.buffer.len() <= FRAME_MAX + HEADER + (64 << 10),
            "frames are bounded"
        );
        let rest = &self.buffer[self.start..];
        let Some(head) = rest.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (kind, len) = wire::header(*head)?;
        let Some(payload) = rest.get(HEADER..HEADER + len) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.start += HEADER + len;
        Ok(Some(Heard::Frame(kind, payload)))
    }
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
