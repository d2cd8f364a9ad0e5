//! Listening to a worker: what it sends is bounded, counted and decoded, and believed no further.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use casemate_backend::contract::{Cancel, Signal};
use casemate_driver::{Ceilings, Over, Tally};
use casemate_model::event::Event;
use casemate_model::limit::LimitKind;
use casemate_model::outcome::{Exit, Usage};

use crate::wire::{self, FRAME_MAX, HEADER, Kind, WireEnd, WireExit, WireLeft, WireLimits};

/// How often a waiting host looks at its deadline and at the caller's wish to stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long past the wall deadline a worker may take to report it before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How long a worker may take to hand back what was left once the program has ended.
const HAND_BACK: Duration = Duration::from_secs(60);
/// Events of one run that the host takes from the worker, which keeps fewer by itself.
const EVENTS_MAX: usize = 40_000;

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
    pub(crate) tally: Tally<'a>,
    events: usize,
    awaited: u64,
    pub(crate) usage: Usage,
    handing_back: Option<Instant>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(limits: &'a WireLimits, sink: &'a mut dyn FnMut(Signal)) -> Self {
        let ceilings = Ceilings {
            output_bytes: limits.output_bytes,
            result_bytes: limits.result_bytes,
            artifacts: limits.artifacts,
            artifact_bytes: limits.artifact_bytes,
            open_files: limits.open_files,
            tasks: 1,
        };
        Self {
            limits,
            tally: Tally::new(ceilings, sink),
            events: 0,
            awaited: 0,
            usage: Usage::default(),
            handing_back: None,
        }
    }

    pub(crate) fn listen(&mut self, channel: &mut Frames, cancel: &Cancel) -> io::Result<Ended> {
        self.listen_and(channel, cancel, &mut |_| Ok(()))
    }

    /// The same, and in between again and again something else, which may say something to the worker.
    pub(crate) fn listen_and(
        &mut self,
        channel: &mut Frames,
        cancel: &Cancel,
        meanwhile: &mut dyn FnMut(&UnixStream) -> io::Result<()>,
    ) -> io::Result<Ended> {
        let wall = self.limits.wall_time_ms.map(Duration::from_millis);
        loop {
            if cancel.is_cancelled() {
                return Ok(Ended::Cancelled);
            }
            meanwhile(&channel.stream)?;
            let deadline = match (self.handing_back, wall) {
                (Some(since), _) => since + HAND_BACK,
                (None, Some(wall)) => self.tally.begun() + wall + GRACE,
                (None, None) => Instant::now() + Duration::from_secs(3600),
            };
            match channel.next(deadline)? {
                Heard::Frame(Kind::End, payload) => {
                    self.tally.told_too_much();
                    return Ok(Ended::Reported(serde_json::from_slice(&payload)?));
                }
                Heard::Frame(kind, payload) => self.take(kind, payload)?,
                Heard::Nothing => {}
                Heard::Closed => return Ok(Ended::Closed),
                Heard::Late => {
                    let seen = millis(self.tally.begun().elapsed());
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
            Kind::Stdout => self
                .tally
                .stdout(payload)
                .map_err(more("standard output"))?,
            Kind::Stderr => self.tally.stderr(payload).map_err(more("standard error"))?,
            Kind::Events => self.take_events(&payload)?,
            Kind::MessagePart => self.tally.message_part(&payload).map_err(more("results"))?,
            Kind::MessageEnd => self.tally.message_end(),
            Kind::File => self.take_file(&payload)?,
            Kind::FileData => self.take_file_data(&payload)?,
            _ => {
                return Err(lie(format!("a {kind:?} frame in the middle of a run")));
            }
        }
        Ok(())
    }

    fn take_events(&mut self, payload: &[u8]) -> io::Result<()> {
        let events: Vec<Event> = serde_json::from_slice(payload)?;
        self.events += events.len();
        if self.events > EVENTS_MAX {
            return Err(lie("more events than a run can have"));
        }
        for event in events {
            self.tally.pass(Signal::Event(event));
        }
        Ok(())
    }

    fn take_file(&mut self, payload: &[u8]) -> io::Result<()> {
        self.handing_back.get_or_insert_with(Instant::now);
        let file: WireLeft = serde_json::from_slice(payload)?;
        if self.awaited > 0 {
            return Err(lie("a file that begins inside another"));
        }
        self.tally
            .artifact(file.path, file.bytes)
            .map_err(|over| match over.limit {
                LimitKind::ArtifactCount => lie("more files than the limit"),
                _ => lie("more bytes of files than the limit"),
            })?;
        self.awaited = file.bytes;
        Ok(())
    }

    fn take_file_data(&mut self, payload: &[u8]) -> io::Result<()> {
        let left = self.awaited.checked_sub(payload.len() as u64);
        self.awaited = left.ok_or_else(|| lie("more bytes than a file was said to have"))?;
        self.tally.artifact_data(payload);
        Ok(())
    }

    /// The raw end. The driver's exit code is the guest's word for itself; it decides nothing else.
    pub(crate) fn judge(&self, end: &WireExit) -> Exit {
        match end {
            WireExit::Returned { status } => {
                Exit::Code(self.tally.exit_code().unwrap_or(*status & 0xff))
            }
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
            WireExit::Renewed => Exit::Fault("its interpreter was started anew".to_owned()),
            WireExit::Trapped { trap } => Exit::Wall {
                wall: "wasm".to_owned(),
                reason: trap.clone(),
            },
            WireExit::Failed { reason } => Exit::Fault(reason.clone()),
        }
    }
}

/// A worker holds the limits itself, so one that sends more is not to be believed.
fn more(what: &'static str) -> impl FnOnce(Over) -> io::Error {
    move |_| lie(format!("more {what} than the limit"))
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
