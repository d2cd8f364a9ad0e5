//! The host's own counts of one run: what it takes from a guest, and when that is more than allowed.

use std::time::Instant;

use casemate_backend::contract::Signal;
use casemate_model::event::{Event, What, Witness};
use casemate_model::limit::LimitKind;
use casemate_model::result::Artifact;

use crate::messages::{self, Message};

/// Events of one run that the host takes from the guest's driver; the rest is counted. They have a bound
/// of their own: what the guest says must not crowd out what was seen of it.
pub const TOLD_MAX: u64 = 5_000;

/// What is counted here, as plain numbers; `u64::MAX` is no ceiling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceilings {
    /// Bytes of each output stream.
    pub output_bytes: u64,
    /// Bytes of displayed results, and of everything else the driver sends.
    pub result_bytes: u64,
    /// Files handed back.
    pub artifacts: u64,
    /// Bytes handed back in files.
    pub artifact_bytes: u64,
    /// Descriptors of one process.
    pub open_files: u64,
    /// Processes and threads.
    pub tasks: u64,
}

/// A ceiling that was passed, in the limit's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Which.
    pub limit: LimitKind,
    /// The ceiling.
    pub allowed: u64,
    /// What was counted.
    pub seen: u64,
}

/// The counts of one run.
pub struct Tally<'a> {
    ceilings: Ceilings,
    sink: &'a mut dyn FnMut(Signal),
    begun: Instant,
    stdout: u64,
    stderr: u64,
    results: u64,
    told: u64,
    message: Vec<u8>,
    artifacts: Vec<Artifact>,
    artifact_bytes: u64,
    exit_code: Option<i32>,
}

impl<'a> Tally<'a> {
    /// Nothing counted yet; the run begins now.
    pub fn new(ceilings: Ceilings, sink: &'a mut dyn FnMut(Signal)) -> Self {
        Self {
            ceilings,
            sink,
            begun: Instant::now(),
            stdout: 0,
            stderr: 0,
            results: 0,
            told: 0,
            message: Vec::new(),
            artifacts: Vec::new(),
            artifact_bytes: 0,
            exit_code: None,
        }
    }

    /// When the run began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// The run begins only now: what went before was the making of the guest.
    pub fn begin_now(&mut self) {
        self.begun = Instant::now();
    }

    /// Microseconds since the run began.
    pub fn at_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Bytes of standard output and of standard error, kept or not.
    pub fn output(&self) -> (u64, u64) {
        (self.stdout, self.stderr)
    }

    /// The exit code that the driver told, which is the guest's word for itself.
    pub fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }

    /// Passes standard output on, as far as it is within the limit.
    ///
    /// # Errors
    /// [`Over`] when it is not.
    pub fn stdout(&mut self, bytes: Vec<u8>) -> Result<(), Over> {
        let (kept, over) = fit(&mut self.stdout, self.ceilings.output_bytes, bytes);
        if !kept.is_empty() {
            (self.sink)(Signal::Stdout(kept));
        }
        over.map_or(Ok(()), Err)
    }

    /// Passes standard error on, as far as it is within the limit.
    ///
    /// # Errors
    /// [`Over`] when it is not.
    pub fn stderr(&mut self, bytes: Vec<u8>) -> Result<(), Over> {
        let (kept, over) = fit(&mut self.stderr, self.ceilings.output_bytes, bytes);
        if !kept.is_empty() {
            (self.sink)(Signal::Stderr(kept));
        }
        over.map_or(Ok(()), Err)
    }

    /// Takes a part of a message of the driver.
    ///
    /// # Errors
    /// [`Over`] when all messages together are larger than results may be.
    pub fn message_part(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.results = self.results.saturating_add(bytes.len() as u64);
        let allowed = self.ceilings.result_bytes;
        if self.results > allowed {
            return Err(Over {
                limit: LimitKind::ResultBytes,
                allowed,
                seen: self.results,
            });
        }
        self.message.extend_from_slice(bytes);
        Ok(())
    }

    /// Decodes the message whose parts were taken. One that is not a message is an event.
    pub fn message_end(&mut self) {
        let bytes = std::mem::take(&mut self.message);
        match messages::decode(&bytes, self.at_us()) {
            Ok(Message::End(code)) => self.exit_code = Some(code),
            Ok(Message::Felt(limit)) => self.felt(limit),
            Ok(Message::Signal(Signal::Event(event))) => self.told(event),
            Ok(Message::Signal(signal)) => (self.sink)(signal),
            Err(why) => self.event(What::Denied {
                wall: "driver messages".to_owned(),
                call: "message".to_owned(),
                detail: why.to_owned(),
                error: "dropped".to_owned(),
            }),
        }
    }

    fn told(&mut self, event: Event) {
        self.told += 1;
        if self.told <= TOLD_MAX {
            (self.sink)(Signal::Event(event));
        }
    }

    fn felt(&mut self, limit: LimitKind) {
        let allowed = match limit {
            LimitKind::OpenFiles => self.ceilings.open_files,
            _ => self.ceilings.tasks,
        };
        let what = What::LimitReached {
            limit,
            allowed,
            seen: allowed.saturating_add(1),
        };
        self.told(Event {
            at_us: self.at_us(),
            witness: Witness::Guest,
            what,
        });
    }

    /// Something that the host itself saw.
    pub fn event(&mut self, what: What) {
        let event = Event {
            at_us: self.at_us(),
            witness: Witness::Host,
            what,
        };
        self.pass(Signal::Event(event));
    }

    /// A ceiling that was passed, as an event.
    pub fn reached(&mut self, over: Over) {
        self.event(What::LimitReached {
            limit: over.limit,
            allowed: over.allowed,
            seen: over.seen,
        });
    }

    /// Passes a signal on as it is.
    pub fn pass(&mut self, signal: Signal) {
        (self.sink)(signal);
    }

    /// Says how much of what the guest told was not kept.
    pub fn told_too_much(&mut self) {
        if let Some(count) = self.told.checked_sub(TOLD_MAX).filter(|count| *count > 0) {
            self.event(What::Dropped { count });
        }
    }

    /// Makes room for a file that was left.
    ///
    /// # Errors
    /// [`Over`] when there are too many, or too large ones.
    pub fn artifact(&mut self, path: String, bytes: u64) -> Result<(), Over> {
        let count = self.artifacts.len() as u64;
        if count >= self.ceilings.artifacts {
            return Err(Over {
                limit: LimitKind::ArtifactCount,
                allowed: self.ceilings.artifacts,
                seen: count.saturating_add(1),
            });
        }
        let seen = self.artifact_bytes.saturating_add(bytes);
        if seen > self.ceilings.artifact_bytes {
            return Err(Over {
                limit: LimitKind::ArtifactBytes,
                allowed: self.ceilings.artifact_bytes,
                seen,
            });
        }
        self.artifact_bytes = seen;
        self.artifacts.push(Artifact {
            path,
            bytes: Vec::new(),
        });
        Ok(())
    }

    /// Adds bytes to the last file there was room made for. Without one they are dropped.
    pub fn artifact_data(&mut self, bytes: &[u8]) {
        if let Some(artifact) = self.artifacts.last_mut() {
            artifact.bytes.extend_from_slice(bytes);
        }
    }

    /// The files, at the end.
    pub fn take_artifacts(&mut self) -> Vec<Artifact> {
        std::mem::take(&mut self.artifacts)
    }
}

/// Counts bytes of a stream and cuts them where they leave its ceiling.
fn fit(so_far: &mut u64, allowed: u64, mut bytes: Vec<u8>) -> (Vec<u8>, Option<Over>) {
    let room = allowed.saturating_sub(*so_far);
    *so_far = so_far.saturating_add(bytes.len() as u64);
    let over = (*so_far > allowed).then_some(Over {
        limit: LimitKind::OutputBytes,
        allowed,
        seen: *so_far,
    });
    bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
    (bytes, over)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceilings() -> Ceilings {
        Ceilings {
            output_bytes: 10,
            result_bytes: 100,
            artifacts: 1,
            artifact_bytes: 8,
            open_files: 16,
            tasks: 4,
        }
    }

    fn tally(check: impl FnOnce(&mut Tally<'_>)) -> Vec<Signal> {
        let mut signals = Vec::new();
        let mut sink = |signal| signals.push(signal);
        check(&mut Tally::new(ceilings(), &mut sink));
        signals
    }

    #[test]
    fn output_is_cut_at_its_ceiling_and_counted_beyond() {
        let signals = tally(|tally| {
            assert_eq!(tally.stdout(b"12345678".to_vec()), Ok(()));
            let over = tally.stdout(b"90abc".to_vec()).unwrap_err();
            assert_eq!(
                (over.limit, over.allowed, over.seen),
                (LimitKind::OutputBytes, 10, 13)
            );
            assert!(tally.stdout(b"x".to_vec()).is_err());
            assert_eq!(tally.stderr(b"1234567890".to_vec()), Ok(()));
            assert_eq!(tally.output(), (14, 10));
        });
        let kept: usize = signals
            .iter()
            .map(|signal| match signal {
                Signal::Stdout(bytes) => bytes.len(),
                _ => 0,
            })
            .sum();
        assert_eq!(kept, 10);
    }

    #[test]
    fn results_and_artifacts_are_counted() {
        tally(|tally| {
            assert_eq!(tally.message_part(&[b'x'; 100]), Ok(()));
            assert_eq!(
                tally.message_part(b"x").unwrap_err().limit,
                LimitKind::ResultBytes
            );
            let large = tally.artifact("/tmp/a".into(), 9).unwrap_err();
            assert_eq!((large.limit, large.seen), (LimitKind::ArtifactBytes, 9));
            assert_eq!(tally.artifact("/tmp/b".into(), 8), Ok(()));
            let many = tally.artifact("/tmp/c".into(), 0).unwrap_err();
            assert_eq!(many.limit, LimitKind::ArtifactCount);
            tally.artifact_data(b"abc");
            assert_eq!(tally.take_artifacts()[0].bytes, b"abc");
        });
    }

    #[test]
    fn a_limit_that_the_guest_tells_of_is_its_word() {
        let signals = tally(|tally| {
            tally
                .message_part(b"{\"kind\":\"felt\",\"limit\":\"open_files\"}\n")
                .unwrap();
            tally.message_end();
        });
        let [Signal::Event(event)] = signals.as_slice() else {
            panic!("{signals:?}")
        };
        assert_eq!(event.witness, Witness::Guest);
        assert!(matches!(
            event.what,
            What::LimitReached {
                allowed: 16,
                seen: 17,
                ..
            }
        ));
    }

    #[test]
    fn rubbish_is_an_event() {
        let signals = tally(|tally| {
            tally.message_part(b"rubbish").unwrap();
            tally.message_end();
        });
        assert!(matches!(
            &signals[0],
            Signal::Event(Event {
                what: What::Denied { .. },
                ..
            })
        ));
    }
}
