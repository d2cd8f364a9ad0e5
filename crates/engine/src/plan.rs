//! From a cleared job to a plan. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use casemate_backend::plan::{Guest, Plan, PlannedFile};
use casemate_model::screening::Screening;
use casemate_screen::Cleared;
use sha2::{Digest, Sha256};

use crate::choose::needs;

/// What a backend is to build and run for a cleared job.
pub fn plan(cleared: &Cleared) -> Plan {
    let job = cleared.job();
    let program = file(
        format!("/work/{}", job.program.name),
        job.program.source.as_slice().into(),
    );
    let argv = std::iter::once(job.program.name.clone())
        .chain(job.args.iter().cloned())
        .collect();
    Plan {
        run: job.id.as_str().to_owned(),
        tenant: job.tenant.clone(),
        program,
        guest: Guest::new(job.program.language, job.demand.image.clone()),
        loads: loads(cleared.screening()),
        argv,
        env: job.env.clone(),
        inputs: job
            .inputs
            .iter()
            .map(|input| file(input.path.as_str().to_owned(), input.bytes.clone()))
            .collect(),
        stdin: job.stdin.clone(),
        limits: job.policy.limits.clone(),
        clock_granularity: job.policy.clock_granularity.0,
        asked: needs(cleared),
    }
}

/// What a program loads, where all of it was looked at and nothing in it stays open.
fn loads(screening: &Screening) -> Option<BTreeSet<String>> {
    let manifest = &screening.manifest;
    let open = screening.skipped
        || manifest.truncated
        || !manifest.hidden.is_empty()
        || !manifest.dynamic_code.is_empty()
        || !manifest.deserialisation.is_empty();
    let top = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let modules = manifest.modules.iter();
    (!open).then(|| modules.map(|fact| top(&fact.value)).collect())
}

fn file(path: String, bytes: Arc<[u8]>) -> PlannedFile {
    let sha256 = sha256_hex(&bytes);
    PlannedFile {
        path,
        bytes,
        sha256,
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            write!(text, "{byte:02x}").unwrap_or_default();
            text
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use casemate_model::job::{GuestPath, Input, JobBuilder, Language, Program, RunId};
    use casemate_model::policy::Policy;
    use casemate_screen::{Mode, clear};

    use super::*;

    #[test]
    fn a_plan_is_the_same_for_the_same_job_and_prints_no_contents() {
        let build = || {
            let program = Program {
                source: b"print(1)".to_vec(),
                name: "a.py".into(),
                language: Language::Python,
            };
            let input = Input {
                path: GuestPath::input("/data/s.csv").unwrap(),
                bytes: Arc::from(*b"secret,row\n"),
            };
            let job = JobBuilder::new(RunId::from_bits(1), program, Policy::default())
                .args(vec!["x".into()])
                .env(BTreeMap::from([("K".into(), "V".into())]))
                .inputs(vec![input])
                .build()
                .unwrap();
            plan(&clear(job, Mode::Enforce).unwrap())
        };
        assert_eq!(build(), build());
        let json = serde_json::to_string(&build()).unwrap();
        assert!(
            json.contains("\"path\":\"/data/s.csv\",\"size_bytes\":11"),
            "{json}"
        );
        assert!(!json.contains("secret"), "{json}");
        assert_eq!(build().argv, ["a.py", "x"]);
    }

    #[test]
    fn what_a_program_loads_is_known_where_all_of_it_was_seen() {
        let loads = |source: &str, mode| {
            let program = Program {
                source: source.into(),
                name: "a.py".into(),
                language: Language::Python,
            };
            let job = JobBuilder::new(RunId::from_bits(1), program, Policy::default());
            let cleared = clear(job.build().unwrap(), mode).unwrap();
            let loads = plan(&cleared).loads?;
            Some(loads.into_iter().collect::<Vec<_>>().join(" "))
        };
        let seen = |source| loads(source, Mode::Warn);
        assert_eq!(seen("print(1)"), Some(String::new()));
        let several = "import json, os.path\nfrom numpy import linalg";
        assert_eq!(seen(several), Some("json numpy os".to_owned()));
        for open in [
            "exec(input())",
            "__import__(input())",
            "__import__('pan' + 'das')",
            "import pickle\npickle.loads(input().encode())",
        ] {
            assert_eq!(seen(open), None, "{open}");
        }
        assert_eq!(loads("print(1)", Mode::Off), None);
    }

    #[test]
    fn hashes_are_sha256() {
        assert_eq!(
            sha256_hex(b""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
