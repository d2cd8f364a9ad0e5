//! `Plan` to what a worker is told. Pure.

use casemate_backend::plan::{Plan, PlannedFile};
use casemate_model::limit::{Limit, Millis};

use crate::wire::{WireFile, WireJob, WireLimits};

/// The least memory a program can start with: what the interpreter allocates to run anything at all.
pub(crate) const MEMORY_FLOOR: u64 = 4 << 20;
/// The most a 32-bit guest can be given beside its snapshot.
pub(crate) const MEMORY_CEILING: u64 = 3 << 30;

/// A lowered plan: the description and the contents that follow it, in order.
pub(crate) struct Lowered<'a> {
    pub(crate) job: WireJob,
    pub(crate) driver: Vec<u8>,
    pub(crate) stdin: &'a [u8],
    pub(crate) files: Vec<&'a PlannedFile>,
}

/// Why a plan cannot be carried out here.
pub(crate) fn lower(plan: &Plan) -> Result<Lowered<'_>, String> {
    let limits = wire_limits(plan)?;
    let driver = casemate_driver::job_json(plan, limits.result_bytes)?;
    let mut files = vec![&plan.program];
    files.extend(&plan.inputs);
    let job = WireJob {
        job_bytes: driver.len() as u64,
        stdin_bytes: plan.stdin.len() as u64,
        files: files.iter().map(|file| wire_file(plan, file)).collect(),
        limits,
        clock_granularity_us: granularity(plan),
        session: false,
    };
    Ok(Lowered {
        job,
        driver,
        stdin: &plan.stdin,
        files,
    })
}

/// The same for a session: its limits and clocks. Its program is not looked at, and it has no inputs.
pub(crate) fn lower_session(plan: &Plan) -> Result<Lowered<'static>, String> {
    Ok(Lowered {
        job: WireJob {
            job_bytes: 0,
            stdin_bytes: 0,
            files: Vec::new(),
            // Nothing is handed back: its files are asked for.
            limits: WireLimits {
                artifacts: 0,
                artifact_bytes: 0,
                ..wire_limits(plan)?
            },
            clock_granularity_us: granularity(plan),
            session: true,
        },
        driver: Vec::new(),
        stdin: &[],
        files: Vec::new(),
    })
}

fn granularity(plan: &Plan) -> u64 {
    let micros = plan.clock_granularity.as_micros();
    u64::try_from(micros).unwrap_or(u64::MAX).max(1)
}

fn wire_file(plan: &Plan, file: &PlannedFile) -> WireFile {
    WireFile {
        path: file.path.clone(),
        bytes: file.bytes.len() as u64,
        alias: casemate_driver::alias(plan, file).map(str::to_owned),
    }
}

fn wire_limits(plan: &Plan) -> Result<WireLimits, String> {
    let limits = &plan.limits;
    let millis = |limit: Limit<Millis>| match limit {
        Limit::At(Millis(duration)) => {
            Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
        }
        Limit::Unlimited => None,
    };
    let bytes = |limit: Limit<casemate_model::unit::ByteSize>| match limit {
        Limit::At(size) => size.0,
        Limit::Unlimited => u64::MAX,
    };
    let memory = bytes(limits.memory);
    if memory < MEMORY_FLOOR {
        return Err(format!(
            "{} of memory is less than Python needs to start; give at least {} with --memory",
            casemate_model::unit::ByteSize(memory),
            casemate_model::unit::ByteSize(MEMORY_FLOOR),
        ));
    }
    Ok(WireLimits {
        memory_bytes: memory.min(MEMORY_CEILING),
        cpu_millis: limits.cpu_millis,
        cpu_time_ms: millis(limits.cpu_time),
        wall_time_ms: millis(limits.wall_time),
        disk_bytes: bytes(limits.disk),
        disk_files: limits.disk_files.or(u64::MAX),
        output_bytes: bytes(limits.output),
        result_bytes: bytes(limits.result_bytes),
        open_files: limits.open_files.or(u64::MAX),
        artifacts: limits.artifacts.or(u64::MAX),
        artifact_bytes: bytes(limits.artifact_bytes),
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
    use casemate_model::unit::ByteSize;

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
            guest: casemate_backend::plan::Guest::default(),
            loads: None,
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
        let lowered = lower(&plan).unwrap();
        let golden = concat!(
            r#"{"code":"print(1)","name":"a.py","argv":["a.py","x"],"env":{"K":"V"},"#,
            r#""cell":false,"max_result_bytes":33554432}"#
        );
        assert_eq!(String::from_utf8(lowered.driver).unwrap(), golden);
        assert_eq!(lowered.job.stdin_bytes, 2);
        assert_eq!(lowered.job.limits.wall_time_ms, Some(30_000));
        assert_eq!(lowered.job.limits.memory_bytes, 128 << 20);
    }

    #[test]
    fn inputs_have_a_plain_name_in_the_working_folder_unless_it_is_taken() {
        let plan = plan();
        let aliases: Vec<_> = lower(&plan)
            .unwrap()
            .job
            .files
            .into_iter()
            .map(|file| file.alias)
            .collect();
        assert_eq!(aliases, [None, Some("sales.csv".into()), None, None]);
    }

    #[test]
    fn too_little_memory_names_the_least_that_works() {
        let mut plan = plan();
        plan.limits.memory = Limit::At(ByteSize(1024));
        let error = lower(&plan).err().unwrap();
        assert!(
            error.contains("4 MiB") && error.contains("--memory"),
            "{error}"
        );
    }
}
