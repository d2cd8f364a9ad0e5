//! `Plan` to what a jail is told. Pure.

use casemate_backend::plan::{Plan, PlannedFile};
use casemate_driver::{Ceilings, alias, job_json};
use casemate_linux::Limit as KernelLimit;
use casemate_linux::cgroup::CgroupLimits;
use casemate_model::limit::{Limit, Millis};
use casemate_model::unit::ByteSize;

use crate::wire::{WireFile, WireJob};

/// The least memory a program can be given: below it a small list already ends the run.
pub(crate) const MEMORY_FLOOR: u64 = 4 << 20;
/// The most: what a machine of today has.
pub(crate) const MEMORY_CEILING: u64 = 1 << 40;
/// What the interpreter, the driver and the loaded libraries hold beside the program, in bytes. Measured:
/// 18 MiB with the driver alone, 50 with pandas, 83 with pandas, matplotlib, a matrix product and a drawn
/// figure. It is given to every run, so that loading a library does not eat the program's own limit.
pub(crate) const LIBRARIES: u64 = 96 << 20;
/// What the kernel holds for a jail that is not the program's: page tables, stacks, sockets, and the
/// pages of the system's files that can be read again.
const KERNEL: u64 = 64 << 20;
/// Processes of ours in the jail's control group: the one that waits outside and process 1.
const OUR_TASKS: u64 = 2;
/// Below this many descriptors the interpreter itself cannot load its modules.
const OPEN_FILES_FLOOR: u64 = 12;

/// Where the driver finds its job, and standard input lies.
pub(crate) const JOB_FILE: &str = "run/casemate/job.json";
pub(crate) const STDIN_FILE: &str = "run/casemate/stdin";
const PROGRAM_FOLDER: &str = "run/casemate/program";

/// A lowered plan: the description and the contents that follow it, in order.
#[derive(Debug)]
pub(crate) struct Lowered<'a> {
    pub(crate) job: WireJob,
    pub(crate) driver: Vec<u8>,
    pub(crate) contents: Vec<&'a [u8]>,
    pub(crate) cgroup: CgroupLimits,
    pub(crate) watched: Watched,
}

/// What the host watches, as plain numbers; `u64::MAX` is no ceiling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) counted: Ceilings,
    pub(crate) memory_bytes: u64,
    /// Bytes of inputs, which lie in memory and are not the program's.
    pub(crate) held_bytes: u64,
    pub(crate) cpu_time_ms: u64,
    pub(crate) wall_time_ms: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_files: u64,
}

/// Why a plan cannot be carried out here, in words.
pub(crate) fn lower<'a>(plan: &'a Plan, packages: &str) -> Result<Lowered<'a>, String> {
    let watched = watched(plan)?;
    let driver = job_json(plan, watched.counted.result_bytes)?;
    let (files, contents) = files(plan, driver.len() as u64);
    let watched = Watched {
        held_bytes: files
            .iter()
            .map(|file| file.bytes.div_ceil(4096) * 4096)
            .sum(),
        ..watched
    };
    let finite = |amount: u64| (amount < u64::MAX).then_some(amount);
    let job = WireJob {
        packages: packages.to_owned(),
        files,
        links: links(plan),
        scratch_bytes: finite(watched.disk_bytes),
        scratch_files: finite(watched.disk_files),
        open_files: finite(watched.counted.open_files),
        tasks: finite(watched.counted.tasks),
        processors: usize::try_from(plan.limits.cpu_millis.div_ceil(1000)).unwrap_or(1),
    };
    Ok(Lowered {
        job,
        driver,
        contents,
        cgroup: cgroup(plan, &watched),
        watched,
    })
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

fn cgroup(plan: &Plan, watched: &Watched) -> CgroupLimits {
    // Scratch lies in memory, and has a limit of its own.
    let scratch = if watched.disk_bytes < u64::MAX {
        watched.disk_bytes
    } else {
        0
    };
    let parts = [watched.memory_bytes, watched.held_bytes, scratch];
    let sum = parts
        .iter()
        .fold(LIBRARIES + KERNEL, |sum, part| sum.saturating_add(*part));
    CgroupLimits {
        memory_bytes: match plan.limits.memory {
            Limit::At(_) => KernelLimit::At(sum),
            Limit::Unlimited => KernelLimit::Unlimited,
        },
        pids: match plan.limits.tasks {
            Limit::At(tasks) => KernelLimit::At(tasks.saturating_add(OUR_TASKS)),
            Limit::Unlimited => KernelLimit::Unlimited,
        },
        cpu_millicores: KernelLimit::At(u64::from(plan.limits.cpu_millis)),
    }
}

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
        held_bytes: 0,
        cpu_time_ms: millis(limits.cpu_time),
        wall_time_ms: millis(limits.wall_time),
        disk_bytes: bytes(limits.disk),
        disk_files: limits.disk_files.or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use casemate_model::guarantee::Guarantees;
    use casemate_model::job::TenantId;
    use casemate_model::limit::Limits;

    use super::*;

    fn file(path: &str, bytes: &[u8]) -> PlannedFile {
        PlannedFile {
            path: path.into(),
            bytes: Arc::from(bytes),
            sha256: "00".into(),
        }
    }

    fn plan() -> Plan {
        Plan {
            run: "run-1".into(),
            tenant: TenantId::local(),
            program: file("/work/a.py", b"print(1)"),
            argv: vec!["a.py".into(), "x".into()],
            env: BTreeMap::from([("K".into(), "V".into())]),
            inputs: vec![
                file("/data/sales.csv", b"a,b\n"),
                file("/data/deep/b.csv", b""),
                file("/data/a.py", b""),
            ],
            stdin: Arc::from(*b"in"),
            limits: Limits::default(),
            clock_granularity: Duration::from_millis(1),
            asked: Guarantees::none(),
        }
    }

    #[test]
    fn a_plan_lowers_to_one_description_and_its_contents() {
        let plan = plan();
        let lowered = lower(&plan, "/cache/opt").unwrap();
        let json = serde_json::to_string(&lowered.job).unwrap();
        let golden = concat!(
            r#"{"packages":"/cache/opt","files":["#,
            r#"{"path":"run/casemate/job.json","bytes":110},{"path":"run/casemate/stdin","bytes":2},"#,
            r#"{"path":"run/casemate/program/a.py","bytes":8},{"path":"data/sales.csv","bytes":4},"#,
            r#"{"path":"data/deep/b.csv","bytes":0},{"path":"data/a.py","bytes":0}],"#,
            r#""links":[["a.py","/run/casemate/program/a.py"],["sales.csv","/data/sales.csv"]],"#,
            r#""scratch_bytes":104857600,"scratch_files":1000,"open_files":64,"tasks":32,"processors":1}"#
        );
        assert_eq!(json, golden);
        assert_eq!(lowered.contents.len() + 1, lowered.job.files.len());
        assert_eq!(lowered.watched.held_bytes, 4 * 4096);
        assert_eq!(lowered.cgroup.pids, KernelLimit::At(34));
        let memory = (128 + 100 + 96 + 64) * (1 << 20) + 4 * 4096;
        assert_eq!(lowered.cgroup.memory_bytes, KernelLimit::At(memory));
    }

    #[test]
    fn processors_are_rounded_up() {
        let mut plan = plan();
        for (millis, processors) in [(500, 1), (1000, 1), (1500, 2), (2000, 2)] {
            plan.limits.cpu_millis = millis;
            assert_eq!(lower(&plan, "/p").unwrap().job.processors, processors);
        }
    }

    #[test]
    fn what_python_cannot_live_with_is_refused_in_words() {
        type Change = fn(&mut Plan);
        let changes: [(Change, &str); 3] = [
            (
                |plan| plan.limits.memory = Limit::At(ByteSize(1024)),
                "--memory",
            ),
            (|plan| plan.limits.open_files = Limit::At(3), "--open-files"),
            (|plan| plan.limits.tasks = Limit::At(0), "--pids"),
        ];
        for (change, flag) in changes {
            let mut plan = plan();
            change(&mut plan);
            let error = lower(&plan, "/p").unwrap_err();
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn no_ceiling_is_said_so() {
        let mut plan = plan();
        plan.limits.disk = Limit::Unlimited;
        plan.limits.memory = Limit::Unlimited;
        let lowered = lower(&plan, "/p").unwrap();
        assert_eq!(lowered.job.scratch_bytes, None);
        assert_eq!(lowered.cgroup.memory_bytes, KernelLimit::Unlimited);
    }
}
