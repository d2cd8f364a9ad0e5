//! `Plan` to what a jail is told. Pure.

use casemate_backend::plan::Plan;
use casemate_driver::lowered::{self, LIBRARIES, Lowered};
use casemate_driver::system::{Entry, System};

/// Processes of ours in the jail's control group: the one that waits outside and process 1.
const OUR_TASKS: u64 = 2;

/// Why a plan cannot be carried out here, in words.
pub(crate) fn lower<'a>(plan: &'a Plan, system: &System) -> Result<Lowered<'a>, String> {
    lowered::lower(plan, system, Entry::Direct, LIBRARIES, OUR_TASKS)
}

/// The same for a jail that an agent lives in, whose folder on the host this is.
pub(crate) fn lower_session<'a>(
    plan: &'a Plan,
    system: &System,
    agent: &str,
    warm: bool,
) -> Result<Lowered<'a>, String> {
    lowered::lower_lasting(plan, system, agent, warm, LIBRARIES, OUR_TASKS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use casemate_backend::plan::PlannedFile;
    use casemate_driver::system::sample;
    use casemate_linux::Limit as KernelLimit;
    use casemate_model::guarantee::Guarantees;
    use casemate_model::job::TenantId;
    use casemate_model::limit::{Limit, Limits};
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
        let lowered = lower(&plan, &sample().unwrap()).unwrap();
        let json = serde_json::to_string(&lowered.job).unwrap();
        let golden = concat!(
            r#"{"root":null,"packages":"/p","venv":null,"agent":null,"command":["/usr/bin/python3","-I","-S","-B","-c","#,
            r#""import sys; sys.path.append('/opt/casemate/site-packages'); "#,
            r#"from casemate_guest.native import main; main()"],"#,
            r#""env":[["PATH","/usr/bin:/bin"],["HOME","/tmp"],["LANG","C.UTF-8"],["MPLBACKEND","agg"],"#,
            r#"["MPLCONFIGDIR","/tmp"],["TMPDIR","/tmp"]],"silent":false,"files":["#,
            r#"{"path":"run/casemate/job.json","bytes":110},{"path":"run/casemate/stdin","bytes":2},"#,
            r#"{"path":"run/casemate/program/a.py","bytes":8},{"path":"data/sales.csv","bytes":4},"#,
            r#"{"path":"data/deep/b.csv","bytes":0},{"path":"data/a.py","bytes":0}],"#,
            r#""links":[["a.py","/run/casemate/program/a.py"],["sales.csv","/data/sales.csv"]],"#,
            r#""scratch_bytes":104857600,"scratch_files":1000,"open_files":64,"tasks":32,"processors":1,"#,
            r#""memory_bytes":134217728}"#
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
            assert_eq!(
                lower(&plan, &sample().unwrap()).unwrap().job.processors,
                processors
            );
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
            let error = lower(&plan, &sample().unwrap()).unwrap_err();
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn no_ceiling_is_said_so() {
        let mut plan = plan();
        plan.limits.disk = Limit::Unlimited;
        plan.limits.memory = Limit::Unlimited;
        let lowered = lower(&plan, &sample().unwrap()).unwrap();
        assert_eq!(lowered.job.scratch_bytes, None);
        assert_eq!(lowered.cgroup.memory_bytes, KernelLimit::Unlimited);
    }
}
