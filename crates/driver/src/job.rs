//! What the driver is told: the program and how to run it. Pure.

use std::collections::BTreeMap;

use casemate_backend::plan::{Plan, PlannedFile};
use serde::Serialize;

/// What the driver reads.
#[derive(Serialize)]
struct Job<'a> {
    code: &'a str,
    name: &'a str,
    argv: &'a [String],
    env: &'a BTreeMap<String, String>,
    cell: bool,
    max_result_bytes: u64,
}

/// The driver's job, as JSON. `result_bytes` is the host's limit on results.
///
/// # Errors
/// A program that is not UTF-8, in words for its author.
pub fn job_json(plan: &Plan, result_bytes: u64) -> Result<Vec<u8>, String> {
    let code = std::str::from_utf8(&plan.program.bytes)
        .map_err(|_| "the program is not UTF-8; save it as UTF-8".to_owned())?;
    let job = Job {
        code,
        name: program_name(plan),
        argv: &plan.argv,
        env: &plan.env,
        cell: false,
        // Beyond the limit on purpose: what is over it must be seen by the host, not dropped by the guest.
        max_result_bytes: result_bytes.saturating_mul(2),
    };
    serde_json::to_vec(&job).map_err(|error| error.to_string())
}

/// What starts a plain program is told: its command line and its variables, as JSON.
///
/// # Errors
/// What serde says.
pub fn plain_job_json(plan: &Plan, command: &[String]) -> Result<Vec<u8>, String> {
    let job = serde_json::json!({ "command": command, "env": plan.env });
    serde_json::to_vec(&job).map_err(|error| error.to_string())
}

/// The program's plain name.
fn program_name(plan: &Plan) -> &str {
    plan.program.path.rsplit('/').next().unwrap_or("main.py")
}

/// The second name of an input: by its plain name in the working folder, where a program that was
/// written elsewhere looks for it. None where the program itself has that name.
pub fn alias<'a>(plan: &Plan, file: &'a PlannedFile) -> Option<&'a str> {
    file.path
        .strip_prefix("/data/")
        .filter(|name| !name.contains('/') && *name != program_name(plan))
}
