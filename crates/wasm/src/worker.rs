//! The worker: a process that holds one guest at a time and nothing else.
//!
//! It locks itself down first, then loads the compiled guest, then gives up the right to make memory
//! executable, and only then asks for work. It never serves two tenants and ends after a trap.

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_driver::packets::wait_readable;
use casemate_linux::lockdown::{self, LockdownPlan};
use casemate_linux::memory::Writes;
use casemate_linux::{Step, take_fd};
use casemate_model::event::Event;
use casemate_model::limit::LimitKind;

use crate::asks;
use crate::guest::{Guest, MemoryLimit};
use crate::guest_files::{CELL, DRIVER, GUEST_ENV};
use crate::library::Library;
use crate::machine::{self, GuestSpec, Instance, Machine, THREAD_STACK, TurnEnd};
use crate::memory::Memories;
use crate::module;
use crate::wasi::{Blob, Clock, Errno, Halt, Outlet, Quota, Wasi};
use crate::wire::{
    Kind, WireAsk, WireCell, WireEnd, WireExit, WireFile, WireJob, WireLeft, WireWall, receive,
    send, send_json, send_split,
};

/// The argument that makes this program a worker.
pub const ARGUMENT: &str = "wasm-worker";
/// Descriptors of a worker: the channel, the compiled module, the library, the snapshot's memory.
pub(crate) const CHANNEL: RawFd = 3;
pub(crate) const MODULE: RawFd = 4;
pub(crate) const LIBRARY: RawFd = 5;
pub(crate) const MEMORY: RawFd = 6;

/// Runs this process as a worker. Must be called before any other thread is started.
pub fn main() -> ExitCode {
    // While there is a /proc. Without it each run's memory is mapped anew.
    let writes = Writes::open().ok();
    let mut keep = vec![CHANNEL, MODULE, LIBRARY, MEMORY];
    keep.extend(writes.iter().flat_map(Writes::descriptors));
    let steps = lockdown::enter(&LockdownPlan::new(&keep));
    let thread = std::thread::Builder::new()
        .name("guest".into())
        .stack_size(THREAD_STACK)
        .spawn(move || serve(steps, writes));
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        // Nobody reads what a worker prints: the host sees the channel close and the code.
        _ => ExitCode::FAILURE,
    }
}

fn serve(mut steps: Vec<Step>, writes: Option<Writes>) -> anyhow::Result<()> {
    let channel = Arc::new(UnixStream::from(take_fd(CHANNEL)?));
    let library = Arc::new(Library::map(&take_fd(LIBRARY)?.into())?);
    let memories = Memories::new(take_fd(MEMORY)?.into(), writes, library.hot.clone())?;
    let engine = machine::engine_with(memories)?;
    let module = module::load(&engine, take_fd(MODULE)?.into())?;
    let machine = Machine::new(&engine, &module, library)?;
    // Made in advance: the next run does not wait for it. It is used once and never again.
    let mut spare = machine.blank()?;
    steps.extend(lockdown::seal());
    let walls: Vec<WireWall> = steps.into_iter().map(wall).collect();
    send_json(&mut &*channel, Kind::Ready, &walls)?;
    while let Some((kind, payload)) = receive(&mut &*channel)? {
        anyhow::ensure!(kind == Kind::Job, "expected a job, got {kind:?}");
        let job: WireJob = serde_json::from_slice(&payload)?;
        if !run(&machine, &channel, &job, spare)? {
            break;
        }
        spare = machine.blank()?;
    }
    Ok(())
}

fn wall(step: Step) -> WireWall {
    WireWall {
        wall: step.wall.into_owned(),
        asked: step.asked,
        got: step.got,
    }
}

fn spec(job: &WireJob, driver: Vec<u8>, stdin: Vec<u8>) -> GuestSpec {
    let limits = &job.limits;
    GuestSpec {
        argv: vec!["/usr/local/bin/python.wasm".into()],
        env: GUEST_ENV
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        stdin,
        job: driver,
        quota: Quota {
            bytes_allowed: limits.disk_bytes,
            files_allowed: limits.disk_files,
            ..Quota::default()
        },
        clock: clock(job),
        output_allowed: limits.output_bytes,
        result_allowed: limits.result_bytes,
        open_files_allowed: limits.open_files,
        memory: MemoryLimit {
            allowed: limits.memory_bytes,
        },
    }
}

fn clock(job: &WireJob) -> Clock {
    Clock::start(
        Duration::from_micros(job.clock_granularity_us),
        job.limits.wall_time_ms.map(Duration::from_millis),
        job.limits.cpu_time_ms.map(Duration::from_millis),
        job.limits.cpu_millis,
    )
}

/// Runs one job. False when this worker must not be used again.
fn run(
    machine: &Machine,
    channel: &Arc<UnixStream>,
    job: &WireJob,
    mut instance: Instance,
) -> anyhow::Result<bool> {
    let driver = contents(channel, job.job_bytes)?;
    let stdin = contents(channel, job.stdin_bytes)?;
    let mut files = Vec::new();
    for file in &job.files {
        files.push((file, contents(channel, file.bytes)?));
    }
    let outlet = Box::new(Channel {
        stream: channel.clone(),
        hears: job.session,
    });
    machine.give(&mut instance, spec(job, driver, stdin), outlet, |wasi| {
        if job.session {
            wasi.tree.make_home()?;
        }
        place(wasi, files)
    })?;
    send_json(&mut &**channel, Kind::Armed, &armed(job))?;
    match receive(&mut &**channel)? {
        Some((Kind::Start, _)) => {}
        // The host did not like the walls: nothing has run, and nothing of it is kept.
        _ => return Ok(false),
    }
    instance.store.data_mut().wasi.clock = clock(job);
    if job.session {
        serve_cells(machine, channel, &mut instance)?;
        return Ok(false);
    }
    let end = machine.turn(&mut instance, DRIVER);
    let reusable = matches!(end, TurnEnd::Returned(_) | TurnEnd::Halted(Halt::Exit(_)));
    report(channel, job, &mut instance, end)?;
    Ok(reusable)
}

/// Serves one instance cell after cell, and its files in between, until the host has no more of them or a cell leaves
/// the instance unusable. While it waits it is in one blocking read.
fn serve_cells(
    machine: &Machine,
    channel: &Arc<UnixStream>,
    instance: &mut Instance,
) -> anyhow::Result<()> {
    while let Some((kind, payload)) = receive(&mut &**channel)? {
        match kind {
            Kind::Cell => {
                let cell: WireCell = serde_json::from_slice(&payload)?;
                let job = contents(channel, cell.job_bytes)?;
                instance.store.data_mut().begin_cell(job);
                let end = machine.turn(instance, CELL);
                let renewed = matches!(end, TurnEnd::Halted(Halt::Renewed));
                let goes_on = renewed || matches!(end, TurnEnd::Returned(_));
                let guest = instance.store.data_mut();
                let end = measured(guest, end)?;
                guest.wasi.flush(true)?;
                send_json(&mut &**channel, Kind::End, &end)?;
                if renewed {
                    renew(machine, channel, instance)?;
                }
                if !goes_on {
                    break;
                }
            }
            Kind::Renew => renew(machine, channel, instance)?,
            // The cell that it was for has ended.
            Kind::Interrupt => {}
            Kind::Ask => {
                let ask: WireAsk = serde_json::from_slice(&payload)?;
                let data = match &ask {
                    WireAsk::Write { bytes, .. } => contents(channel, *bytes)?,
                    _ => Vec::new(),
                };
                let wasi = &mut instance.store.data_mut().wasi;
                let now = wasi.now();
                let (answer, bytes) = asks::answer(&mut wasi.tree, now, &ask, &data);
                let mut all = serde_json::to_vec(&answer)?;
                all.push(b'\n');
                all.extend(bytes);
                send_split(&mut &**channel, Kind::AnswerPart, &all)?;
                send(&mut &**channel, Kind::AnswerEnd, &[])?;
            }
            other => anyhow::bail!("expected a cell, got {other:?}"),
        }
    }
    Ok(())
}

/// Puts another instance in the place of one; the files are the same.
fn renew(
    machine: &Machine,
    channel: &Arc<UnixStream>,
    instance: &mut Instance,
) -> anyhow::Result<()> {
    let mut next = machine.blank()?;
    let (new, old) = (next.store.data_mut(), instance.store.data_mut());
    new.take_over(old);
    *instance = next;
    Ok(send(&mut &**channel, Kind::Renewed, &[])?)
}

fn contents(channel: &Arc<UnixStream>, bytes: u64) -> anyhow::Result<Vec<u8>> {
    let bytes = usize::try_from(bytes)?;
    let mut all = Vec::with_capacity(bytes);
    while all.len() < bytes {
        match receive(&mut &**channel)? {
            Some((Kind::Data, payload)) if all.len() + payload.len() <= bytes => {
                all.extend(payload)
            }
            other => anyhow::bail!("expected contents, got {:?}", other.map(|(kind, _)| kind)),
        }
    }
    Ok(all)
}

fn place(wasi: &mut Wasi, files: Vec<(&WireFile, Vec<u8>)>) -> Result<(), Errno> {
    let work = wasi.tree.resolve(wasi.tree.root(), "work", false)?;
    for (file, bytes) in files {
        let ino = wasi.tree.place(&file.path, Blob::from_vec(bytes))?;
        if let Some(alias) = &file.alias {
            wasi.tree.alias(work, alias, ino)?;
        }
    }
    Ok(())
}

/// The walls of this run, told from what was really configured.
fn armed(job: &WireJob) -> Vec<WireWall> {
    let limits = &job.limits;
    let show = |limit: LimitKind, amount: Option<u64>| {
        amount.map_or("unlimited".into(), |n| limit.show(n))
    };
    let capped = [
        ("memory", LimitKind::Memory, Some(limits.memory_bytes)),
        ("cpu_time", LimitKind::CpuTime, limits.cpu_time_ms),
        ("wall_time", LimitKind::WallTime, limits.wall_time_ms),
        ("disk", LimitKind::DiskBytes, Some(limits.disk_bytes)),
        ("disk_files", LimitKind::DiskFiles, Some(limits.disk_files)),
        ("output", LimitKind::OutputBytes, Some(limits.output_bytes)),
        ("open_files", LimitKind::OpenFiles, Some(limits.open_files)),
    ];
    let mut walls = vec![
        WireWall::standing(
            "wasm",
            "a memory of its own",
            "wasmtime, Cranelift, one instance, no threads",
        ),
        WireWall::standing(
            "wasi_files",
            "no host file",
            "an in-memory tree; inputs have no way to be written",
        ),
        WireWall::standing("wasi_network", "no network", "no socket can be made"),
        WireWall::standing(
            "wasi_environment",
            "an empty environment",
            "five names the interpreter needs",
        ),
        WireWall::standing(
            "wasi_clock",
            "coarse clocks",
            format!("{} ms", job.clock_granularity_us as f64 / 1000.0),
        ),
    ];
    for (name, limit, amount) in capped {
        let wall = format!("limit_{name}");
        let of_each = matches!(
            limit,
            LimitKind::CpuTime | LimitKind::WallTime | LimitKind::OutputBytes
        );
        let asked = if job.session && of_each {
            "a ceiling for each cell"
        } else {
            "a ceiling"
        };
        walls.push(if amount.is_some_and(|amount| amount < u64::MAX) {
            WireWall::standing(&wall, asked, show(limit, amount))
        } else {
            WireWall {
                wall,
                asked: asked.into(),
                got: Err("unlimited by choice".into()),
            }
        });
    }
    walls
}

fn report(
    channel: &Arc<UnixStream>,
    job: &WireJob,
    instance: &mut Instance,
    end: TurnEnd,
) -> anyhow::Result<()> {
    let guest = instance.store.data_mut();
    guest.wasi.close_all();
    let end = measured(guest, end)?;
    hand_back(channel, job, &mut guest.wasi)?;
    guest.wasi.flush(true)?;
    Ok(send_json(&mut &**channel, Kind::End, &end)?)
}

/// How a turn ended, and what it used. The limit that ended it is in the log.
fn measured(guest: &mut Guest, end: TurnEnd) -> anyhow::Result<WireEnd> {
    let (wall_us, cpu_us) = (guest.wasi.clock.elapsed_us(), guest.wasi.clock.cpu_us());
    let memory_peak_bytes = guest.memory_added();
    let wasi = &mut guest.wasi;
    let end = match end {
        TurnEnd::Returned(status) => WireExit::Returned { status },
        TurnEnd::Halted(Halt::Exit(code)) => WireExit::Exited { code },
        TurnEnd::Halted(Halt::Limit {
            limit,
            allowed,
            seen,
        }) => {
            wasi.log_limit(limit, allowed, seen);
            WireExit::Over {
                limit,
                allowed,
                seen,
            }
        }
        TurnEnd::Halted(Halt::Renewed) => WireExit::Renewed,
        TurnEnd::Halted(Halt::ChannelLost) => anyhow::bail!("the host is gone"),
        TurnEnd::Trapped(trap) => WireExit::Trapped {
            trap: trap.to_string(),
        },
        TurnEnd::Failed(reason) => WireExit::Failed { reason },
    };
    Ok(WireEnd {
        end,
        wall_us,
        cpu_us,
        memory_peak_bytes,
        disk_bytes: wasi.tree.quota.bytes,
        disk_peak_bytes: wasi.tree.quota.bytes_peak,
        disk_peak_files: wasi.tree.quota.files_peak,
        open_files_peak: wasi.open_files_peak,
        stdout_bytes: wasi.streams[0].written,
        stderr_bytes: wasi.streams[1].written,
    })
}

/// Sends the files that were left, up to the limits; a limit that cut them is an event.
fn hand_back(channel: &Arc<UnixStream>, job: &WireJob, wasi: &mut Wasi) -> anyhow::Result<()> {
    let left = wasi.tree.left_behind();
    let total: u64 = left.iter().map(|file| file.size).sum();
    let checks = [
        (
            LimitKind::ArtifactCount,
            job.limits.artifacts,
            left.len() as u64,
        ),
        (LimitKind::ArtifactBytes, job.limits.artifact_bytes, total),
    ];
    let mut room = job.limits.artifact_bytes;
    for file in left
        .iter()
        .take(usize::try_from(job.limits.artifacts).unwrap_or(usize::MAX))
    {
        let Some(rest) = room.checked_sub(file.size) else {
            continue;
        };
        room = rest;
        let bytes = wasi
            .tree
            .content(file.ino)
            .map_err(|errno| anyhow::anyhow!(errno.symbol()))?;
        let head = WireLeft {
            path: file.path.clone(),
            bytes: file.size,
        };
        send_json(&mut &**channel, Kind::File, &head)?;
        send_split(&mut &**channel, Kind::FileData, bytes)?;
    }
    for (limit, allowed, seen) in checks
        .into_iter()
        .filter(|(_, allowed, seen)| seen > allowed)
    {
        wasi.log_limit(limit, allowed, seen);
    }
    Ok(())
}

/// The guest's outlet: frames on the channel.
struct Channel {
    stream: Arc<UnixStream>,
    /// Whether the host may say something in the middle of a turn.
    hears: bool,
}

/// The longest that is waited at once; who waits for longer is told that it has passed.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Whether something can be read within this time.
fn is_readable(stream: &UnixStream, within: Duration) -> io::Result<bool> {
    let until = Instant::now() + within.min(WAIT_MAX);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if wait_readable(&[stream.as_fd()], left)? {
            return Ok(true);
        }
        // A signal ends a wait before its time.
        if left.is_zero() {
            return Ok(false);
        }
    }
}

fn lost(_: io::Error) -> Halt {
    Halt::ChannelLost
}

impl Outlet for Channel {
    fn stream(&mut self, number: u32, bytes: &[u8]) -> Result<(), Halt> {
        let kind = if number == 2 {
            Kind::Stderr
        } else {
            Kind::Stdout
        };
        send_split(&mut &*self.stream, kind, bytes).map_err(lost)
    }

    fn message(&mut self, bytes: &[u8]) -> Result<(), Halt> {
        send_split(&mut &*self.stream, Kind::MessagePart, bytes).map_err(lost)?;
        send(&mut &*self.stream, Kind::MessageEnd, &[]).map_err(lost)
    }

    fn events(&mut self, events: &[Event]) -> Result<(), Halt> {
        send_json(&mut &*self.stream, Kind::Events, &events).map_err(lost)
    }

    fn interrupted(&mut self, within: Duration) -> Result<bool, Halt> {
        if !self.hears {
            std::thread::sleep(within);
            return Ok(false);
        }
        if !is_readable(&self.stream, within).map_err(lost)? {
            return Ok(false);
        }
        match receive(&mut &*self.stream).map_err(lost)? {
            Some((Kind::Interrupt, _)) => Ok(true),
            Some((Kind::Renew, _)) => Err(Halt::Renewed),
            _ => Err(Halt::ChannelLost),
        }
    }
}
