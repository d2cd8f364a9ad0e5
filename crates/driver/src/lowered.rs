//! The parts of a lowered plan that every backend with native Python shares. Pure.

use casemate_backend::plan::{Plan, PlannedFile};
use casemate_linux::Limit as KernelLimit;
use casemate_linux::cgroup::CgroupLimits;
use casemate_model::limit::{Limit, Millis};
use casemate_model::unit::ByteSize;

use crate::handover::{WireFile, WireJob};
use crate::job::{alias, job_json, plain_job_json};
use crate::system::{Entry, System};
use crate::tally::Ceilings;

/// The least memory a program can be given: below it a small list already ends the run.
pub const MEMORY_FLOOR: u64 = 4 << 20;
/// The most: what a machine of today has.
pub const MEMORY_CEILING: u64 = 1 << 40;
/// What the interpreter, the driver and the loaded libraries hold beside the program, in bytes. Measured:
/// 18 MiB with the driver alone, 50 with pandas, 83 with pandas, matplotlib, a matrix product and a drawn
/// figure. It is given to every run, so that loading a library does not eat the program's own limit.
pub const LIBRARIES: u64 = 96 << 20;
/// What the kernel holds for a jail that is not the program's: page tables, stacks, sockets, and the
/// pages of the system's files that can be read again.
const KERNEL: u64 = 64 << 20;
/// Below this many descriptors the interpreter itself cannot load its modules.
const OPEN_FILES_FLOOR: u64 = 12;

/// Where the driver finds its job.
pub const JOB_FILE: &str = "run/casemate/job.json";
/// Where standard input lies.
pub const STDIN_FILE: &str = "run/casemate/stdin";
const PROGRAM_FOLDER: &str = "run/casemate/program";

/// What the host watches, as plain numbers; `u64::MAX` is no ceiling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Counted by the host as it takes bytes.
    pub counted: Ceilings,
    /// What the program itself may hold in memory.
    pub memory_bytes: u64,
    /// What the interpreter and what is around it take beside the program, in bytes.
    pub own_bytes: u64,
    /// Bytes of inputs, which lie in memory and are not the program's.
    pub held_bytes: u64,
    /// Processor time of all processes.
    pub cpu_time_ms: u64,
    /// Time on the host's clock.
    pub wall_time_ms: u64,
    /// Bytes of scratch.
    pub disk_bytes: u64,
    /// Files of scratch.
    pub disk_files: u64,
}

/// A lowered plan: the description and the contents that follow it, in order.
#[derive(Debug)]
pub struct Lowered<'a> {
    /// What is to be built.
    pub job: WireJob,
    /// The driver's job, whose bytes come first.
    pub driver: Vec<u8>,
    /// The bytes of the other files.
    pub contents: Vec<&'a [u8]>,
    /// The limits of its control group.
    pub cgroup: CgroupLimits,
    /// What the host watches.
    pub watched: Watched,
}

/// Lowers a plan onto a system. `own_bytes` is what runs beside the program takes in memory, and
/// `our_tasks` how many processes of ours are in its control group.
///
/// # Errors
/// Why a plan cannot be carried out, in words with a way out.
pub fn lower<'a>(
    plan: &'a Plan,
    system: &System,
    entry: Entry,
    own_bytes: u64,
    our_tasks: u64,
) -> Result<Lowered<'a>, String> {
    let watched = watched(plan)?;
    let lacking = |(why, fix): (String, String)| format!("{why}; {fix}");
    let driver = match system.plain_command(plan).map_err(lacking)? {
        None => job_json(plan, watched.counted.result_bytes)?,
        Some(command) => plain_job_json(plan, &command)?,
    };
    let command = system.command(plan, entry).map_err(lacking)?;
    let (files, contents) = files(plan, driver.len() as u64);
    let watched = Watched {
        held_bytes: files
            .iter()
            .map(|file| file.bytes.div_ceil(4096) * 4096)
            .sum(),
        own_bytes,
        ..watched
    };
    let finite = |amount: u64| (amount < u64::MAX).then_some(amount);
    let job = WireJob {
        root: system.root.as_ref().map(|root| root.path.clone()),
        packages: system.packages.path.clone(),
        venv: system.venv.as_ref().map(|venv| venv.path.clone()),
        agent: None,
        command: command.argv,
        env: command.env,
        silent: command.silent,
        files,
        links: links(plan),
        scratch_bytes: finite(watched.disk_bytes),
        scratch_files: finite(watched.disk_files),
        open_files: finite(watched.counted.open_files),
        tasks: finite(watched.counted.tasks),
        processors: usize::try_from(plan.limits.cpu_millis.div_ceil(1000)).unwrap_or(1),
        memory_bytes: finite(watched.memory_bytes),
    };
    Ok(Lowered {
        job,
        driver,
        contents,
        cgroup: cgroup_limits(plan, &watched, our_tasks),
        watched,
    })
}

/// The same for a sandbox that an agent lives in, whose folder on the host this is. The plan's program is not
/// started; with `warm` the agent has an interpreter ready for the first cell.
///
/// # Errors
/// As [`lower`].
pub fn lower_lasting<'a>(
    plan: &'a Plan,
    system: &System,
    agent: &str,
    warm: bool,
    own_bytes: u64,
    our_tasks: u64,
) -> Result<Lowered<'a>, String> {
    let mut lowered = lower(plan, system, Entry::Direct, own_bytes, our_tasks)?;
    let command = system.agent(warm);
    let command = command.map_err(|(why, fix)| format!("{why}; {fix}"))?;
    lowered.job.agent = Some(agent.to_owned());
    lowered.job.command = command.argv;
    lowered.job.env = command.env;
    lowered.job.silent = command.silent;
    // The working folder belongs to whoever comes, from the beginning.
    lowered.job.links.clear();
    Ok(lowered)
}

/// What is copied in. The driver's job is first, and its content is not among the plan's.
fn files(plan: &Plan, driver_bytes: u64) -> (Vec<WireFile>, Vec<&[u8]>) {
    let name = plan.program.path.rsplit('/').next().unwrap_or("main.py");
    let given: [(String, &[u8]); 2] = [
        (STDIN_FILE.to_owned(), &plan.stdin),
        (format!("{PROGRAM_FOLDER}/{name}"), &plan.program.bytes),
    ];
    let inputs = plan
        .inputs
        .iter()
        .map(|file| (file.path.trim_start_matches('/').to_owned(), &*file.bytes));
    let mut files = vec![WireFile {
        path: JOB_FILE.to_owned(),
        bytes: driver_bytes,
    }];
    let mut contents = Vec::new();
    for (path, bytes) in given.into_iter().chain(inputs) {
        files.push(WireFile {
            path,
            bytes: bytes.len() as u64,
        });
        contents.push(bytes);
    }
    (files, contents)
}

/// The program and the inputs, by their plain names in the working folder.
fn links(plan: &Plan) -> Vec<(String, String)> {
    let name = plan.program.path.rsplit('/').next().unwrap_or("main.py");
    let program = (name.to_owned(), format!("/{PROGRAM_FOLDER}/{name}"));
    let aliased = |file: &PlannedFile| Some((alias(plan, file)?.to_owned(), file.path.clone()));
    std::iter::once(program)
        .chain(plan.inputs.iter().filter_map(aliased))
        .collect()
}

/// The limits of the control group of a run, with `our_tasks` processes of ours in it.
fn cgroup_limits(plan: &Plan, watched: &Watched, our_tasks: u64) -> CgroupLimits {
    // Scratch lies in memory, and has a limit of its own.
    let scratch = if watched.disk_bytes < u64::MAX {
        watched.disk_bytes
    } else {
        0
    };
    let parts = [watched.memory_bytes, watched.held_bytes, scratch];
    let sum = parts
        .iter()
        .fold(watched.own_bytes.saturating_add(KERNEL), |sum, part| {
            sum.saturating_add(*part)
        });
    CgroupLimits {
        memory_bytes: match plan.limits.memory {
            Limit::At(_) => KernelLimit::At(sum),
            Limit::Unlimited => KernelLimit::Unlimited,
        },
        pids: match plan.limits.tasks {
            Limit::At(tasks) => KernelLimit::At(tasks.saturating_add(our_tasks)),
            Limit::Unlimited => KernelLimit::Unlimited,
        },
        cpu_millicores: KernelLimit::At(u64::from(plan.limits.cpu_millis)),
    }
}

/// Plain numbers of a plan's limits, or limits that Python cannot live with, in words.
fn watched(plan: &Plan) -> Result<Watched, String> {
    let limits = &plan.limits;
    let millis = |limit: Limit<Millis>| match limit {
        Limit::At(Millis(duration)) => u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        Limit::Unlimited => u64::MAX,
    };
    let bytes = |limit: Limit<ByteSize>| match limit {
        Limit::At(size) => size.0,
        Limit::Unlimited => u64::MAX,
    };
    let memory = bytes(limits.memory);
    if memory < MEMORY_FLOOR {
        return Err(format!(
            "{} of memory is less than a program needs; give at least {} with --memory",
            ByteSize(memory),
            ByteSize(MEMORY_FLOOR),
        ));
    }
    let open_files = limits.open_files.or(u64::MAX);
    if open_files < OPEN_FILES_FLOOR {
        return Err(format!(
            "Python cannot load its modules with {open_files} open files; give at least {OPEN_FILES_FLOOR} with \
             --open-files"
        ));
    }
    let tasks = limits.tasks.or(u64::MAX);
    if tasks == 0 {
        return Err("Python itself is a task; give at least 1 with --pids".to_owned());
    }
    Ok(Watched {
        counted: Ceilings {
            output_bytes: bytes(limits.output),
            result_bytes: bytes(limits.result_bytes),
            artifacts: limits.artifacts.or(u64::MAX),
            artifact_bytes: bytes(limits.artifact_bytes),
            open_files,
            tasks,
        },
        memory_bytes: memory,
        own_bytes: 0,
        held_bytes: 0,
        cpu_time_ms: millis(limits.cpu_time),
        wall_time_ms: millis(limits.wall_time),
        disk_bytes: bytes(limits.disk),
        disk_files: limits.disk_files.or(u64::MAX),
    })
}
