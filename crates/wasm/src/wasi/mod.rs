//! Our own WASI preview 1: everything in memory, every limit counted, every refusal an event.
//!
//! The guest has no host descriptor of any kind. `tree` holds its files, `table` its descriptors,
//! `calls`, `descriptors` and `paths` are the functions it imports, `clock` what it knows of time.

mod calls;
mod clock;
mod descriptors;
mod errno;
mod log;
mod mem;
mod nodes;
mod paths;
mod table;
mod tree;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use casemate_model::event::{Event, What};
use casemate_model::limit::LimitKind;

pub(crate) use calls::link;
pub(crate) use clock::Clock;
use errno::Stop;
pub(crate) use errno::{Errno, Halt};
pub(crate) use log::EventLog;
pub(crate) use table::Table;
pub(crate) use tree::{Base, Blob, Ino, Kind, Quota, Spot, Tree};

/// Events passed on at once: few enough that they fit one frame whatever their texts.
pub(crate) const EVENT_BATCH: usize = 200;

/// What a message costs beside its bytes, so that their number is bounded with them.
pub(crate) const MESSAGE_COST: u64 = 64;

/// Where the guest's bytes go.
pub(crate) trait Outlet: Send {
    /// Bytes of standard output (1) or standard error (2), within the limit.
    ///
    /// # Errors
    /// [`Halt::ChannelLost`] when nobody listens any more.
    fn stream(&mut self, number: u32, bytes: &[u8]) -> Result<(), Halt>;

    /// One message of the guest's driver: hostile bytes.
    ///
    /// # Errors
    /// [`Halt::ChannelLost`] when nobody listens any more.
    fn message(&mut self, bytes: &[u8]) -> Result<(), Halt>;

    /// Events, in order.
    ///
    /// # Errors
    /// [`Halt::ChannelLost`] when nobody listens any more.
    fn events(&mut self, events: &[Event]) -> Result<(), Halt>;

    /// Waits so long, or until the host wants the guest to be interrupted, and says whether it does.
    ///
    /// # Errors
    /// [`Halt::Renewed`] when the host wants it to end, and [`Halt::ChannelLost`] when there is none any more.
    fn interrupted(&mut self, within: Duration) -> Result<bool, Halt> {
        std::thread::sleep(within);
        Ok(false)
    }
}

/// What one run's WASI state is made from.
pub(crate) struct Spec {
    pub(crate) base: Arc<Base>,
    pub(crate) second_root: Ino,
    pub(crate) quota: Quota,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) stdin: Vec<u8>,
    /// What the guest's driver reads from its device.
    pub(crate) job: Vec<u8>,
    pub(crate) clock: Clock,
    pub(crate) output_allowed: u64,
    pub(crate) result_allowed: u64,
    pub(crate) open_files_allowed: u64,
    pub(crate) outlet: Box<dyn Outlet>,
}

/// One output stream's count.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stream {
    /// Bytes the guest wrote, kept or not.
    pub(crate) written: u64,
}

/// One run's WASI state.
pub(crate) struct Wasi {
    pub(crate) tree: Tree,
    second_root: Ino,
    pub(crate) table: Table,
    pub(crate) clock: Clock,
    pub(crate) log: EventLog,
    pub(crate) streams: [Stream; 2],
    pub(crate) open_files_peak: u64,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    stdin: Vec<u8>,
    stdin_at: usize,
    job: Vec<u8>,
    output_allowed: u64,
    result_allowed: u64,
    result_bytes: u64,
    open_files_allowed: u64,
    outlet: Box<dyn Outlet>,
    /// Whether more output than is allowed is refused, rather than the guest stopped.
    refuses_output: bool,
}

impl Wasi {
    /// A fresh state: an empty /tmp, an empty /work, standard streams and the two preopened folders.
    pub(crate) fn new(spec: Spec) -> Result<Self, Errno> {
        let tree = Tree::new(spec.base, spec.quota)?;
        let table = Table::new(tree.root(), spec.second_root);
        Ok(Self {
            tree,
            second_root: spec.second_root,
            table,
            clock: spec.clock,
            log: EventLog::new(),
            streams: [Stream::default(); 2],
            open_files_peak: 0,
            argv: spec.argv,
            env: spec.env,
            stdin: spec.stdin,
            stdin_at: 0,
            job: spec.job,
            output_allowed: spec.output_allowed,
            result_allowed: spec.result_allowed,
            result_bytes: 0,
            open_files_allowed: spec.open_files_allowed,
            outlet: spec.outlet,
            refuses_output: false,
        })
    }

    /// Begins the next cell of a session: what its driver reads, and everything that is counted for one cell.
    pub(crate) fn begin_cell(&mut self, job: Vec<u8>) {
        self.job = job;
        self.clock.begin_again();
        self.log = EventLog::new();
        self.streams = [Stream::default(); 2];
        self.result_bytes = 0;
        self.refuses_output = true;
        (self.tree.quota.bytes_refused, self.tree.quota.files_refused) = (None, None);
    }

    /// Is as it was before anything had run, but for its files and its clocks.
    pub(crate) fn renew(&mut self) {
        self.close_all();
        self.table = Table::new(self.tree.root(), self.second_root);
        self.begin_cell(Vec::new());
    }

    /// Waits so long, or until the host wants the guest to be interrupted, and says whether it does.
    ///
    /// # Errors
    /// Those of [`Outlet::interrupted`].
    pub(crate) fn interrupted(&mut self, within: Duration) -> Result<bool, Halt> {
        self.outlet.interrupted(within)
    }

    /// Notes an event at this moment.
    fn note(&mut self, what: What) {
        let at = self.clock.elapsed_us();
        self.log.push(at, what);
    }

    /// Notes a refused call.
    fn denied(&mut self, wall: &str, call: &str, detail: String, errno: Errno) -> Errno {
        self.note(What::Denied {
            wall: wall.to_owned(),
            call: call.to_owned(),
            detail,
            error: errno.symbol().to_owned(),
        });
        errno
    }

    /// Notes the quotas that said no since the last call.
    fn note_quota(&mut self) {
        let quota = &mut self.tree.quota;
        let hits = [
            (
                LimitKind::DiskBytes,
                quota.bytes_allowed,
                quota.bytes_refused,
            ),
            (
                LimitKind::DiskFiles,
                quota.files_allowed,
                quota.files_refused,
            ),
        ];
        for (limit, allowed, seen) in hits {
            if let Some(seen) = seen {
                self.log_limit(limit, allowed, seen);
            }
        }
    }

    /// Notes a limit once.
    pub(crate) fn log_limit(&mut self, limit: LimitKind, allowed: u64, seen: u64) {
        let at = self.clock.elapsed_us();
        self.log.limit_once(at, limit, allowed, seen);
    }

    /// Passes the events so far on, once there are enough of them or when `all` is asked for.
    pub(crate) fn flush(&mut self, all: bool) -> Result<(), Halt> {
        if self.log.len() < EVENT_BATCH && !all {
            return Ok(());
        }
        let at = self.clock.elapsed_us();
        let events = self.log.take(at);
        events
            .chunks(EVENT_BATCH)
            .try_for_each(|batch| self.outlet.events(batch))
    }

    /// Passes one message of the driver's on, up to the limit, which ends the run.
    fn pass_message(&mut self, bytes: &[u8]) -> Result<(), Halt> {
        self.result_bytes = self
            .result_bytes
            .saturating_add(bytes.len() as u64 + MESSAGE_COST);
        if self.result_bytes > self.result_allowed {
            let (limit, allowed, seen) = (
                LimitKind::ResultBytes,
                self.result_allowed,
                self.result_bytes,
            );
            self.log_limit(limit, allowed, seen);
            return Err(Halt::Limit {
                limit,
                allowed,
                seen,
            });
        }
        self.outlet.message(bytes)
    }

    /// Passes bytes of an output stream on, up to the limit, which ends a run. A cell gets an error: what other cells
    /// left is worth more than the end of a text.
    fn emit(&mut self, number: u32, bytes: &[u8]) -> Result<(), Stop> {
        let stream = &mut self.streams[usize::from(number == 2)];
        let room = self.output_allowed.saturating_sub(stream.written);
        stream.written += bytes.len() as u64;
        let seen = stream.written;
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        if fits > 0 {
            self.outlet.stream(number, &bytes[..fits])?;
        }
        if fits < bytes.len() {
            let (limit, allowed) = (LimitKind::OutputBytes, self.output_allowed);
            self.log_limit(limit, allowed, seen);
            if self.refuses_output {
                return Err(Errno::NoSpc.into());
            }
            let halt = Halt::Limit {
                limit,
                allowed,
                seen,
            };
            return Err(halt.into());
        }
        Ok(())
    }
}
