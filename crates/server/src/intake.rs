//! From a request to a job. What a request may say narrows what the operator set, and never widens it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use casemate_engine::policies;
use casemate_model::job::{Demand, GuestPath, Input, Job, JobBuilder, Language, Program, RunId};
use casemate_model::limit::{Limit, Limits, Millis};
use casemate_model::policy::Policy;
use casemate_model::unit::ByteSize;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::blobs::is_name;
use crate::error::ApiError;
use crate::guard::Caller;
use crate::state::State;

/// A program to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RunRequest {
    /// The program's text.
    pub(crate) code: String,
    /// Its language; `python` where none is named.
    pub(crate) language: Option<String>,
    /// The name that tracebacks show.
    pub(crate) name: Option<String>,
    /// Arguments after the program's name.
    pub(crate) args: Vec<String>,
    /// Environment variables; there are no others.
    pub(crate) env: BTreeMap<String, String>,
    /// Standard input.
    pub(crate) stdin: String,
    /// Files the program finds, read-only.
    pub(crate) files: Vec<FileRequest>,
    /// A policy to be no less strict than. The key's, or the server's, stays in force.
    pub(crate) policy: Option<String>,
    /// The backend; the one that fits best where none is named.
    pub(crate) backend: Option<String>,
    /// Lower ceilings than the policy's.
    pub(crate) limits: LimitsRequest,
}

/// A file for a program: its content here, or an upload's.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRequest {
    /// Where the program finds it, under `/data/`.
    pub(crate) path: String,
    /// Its content as text.
    #[serde(default)]
    pub(crate) text: Option<String>,
    /// Its content as standard base64.
    #[serde(default)]
    pub(crate) base64: Option<String>,
    /// The SHA-256 of an upload, in hexadecimal.
    #[serde(default)]
    pub(crate) upload: Option<String>,
}

/// Ceilings that a request may lower.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsRequest {
    /// Memory the program may add, in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// Processors at once, in thousandths.
    pub(crate) cpu_millis: Option<u32>,
    /// Processor time, in milliseconds.
    pub(crate) cpu_time_ms: Option<u64>,
    /// Elapsed time, in milliseconds.
    pub(crate) wall_time_ms: Option<u64>,
    /// Bytes in `/tmp` and the working folder.
    pub(crate) disk_bytes: Option<u64>,
    /// Bytes of each output stream.
    pub(crate) output_bytes: Option<u64>,
    /// Files handed back.
    pub(crate) artifacts: Option<u64>,
    /// Processes and threads.
    pub(crate) tasks: Option<u64>,
}

impl LimitsRequest {
    /// These ceilings, and none where nothing was said.
    fn limits(&self) -> Limits {
        fn at<T>(value: Option<T>) -> Limit<T> {
            value.map_or(Limit::Unlimited, Limit::At)
        }
        let bytes = |value: Option<u64>| at(value.map(ByteSize));
        let millis = |value: Option<u64>| at(value.map(|ms| Millis(Duration::from_millis(ms))));
        Limits {
            memory: bytes(self.memory_bytes),
            cpu_millis: self.cpu_millis.unwrap_or(u32::MAX),
            cpu_time: millis(self.cpu_time_ms),
            wall_time: millis(self.wall_time_ms),
            disk: bytes(self.disk_bytes),
            disk_files: Limit::Unlimited,
            output: bytes(self.output_bytes),
            open_files: Limit::Unlimited,
            artifacts: at(self.artifacts),
            artifact_bytes: Limit::Unlimited,
            result_bytes: Limit::Unlimited,
            tasks: at(self.tasks),
        }
    }
}

/// The language of a name.
pub(crate) fn language(name: Option<&str>) -> Result<Language, ApiError> {
    match name.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "python" | "python3" | "py") => Ok(Language::Python),
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            Err(ApiError::bad(
                format!("the language {other:?} is not served"),
                "send Python",
            ))
        }
    }
}

/// The policy in force for a caller: its key's, or the server's.
pub(crate) fn bound_policy(state: &State, caller: &Caller) -> Result<Policy, ApiError> {
    let Some(name) = caller.key.as_deref().and_then(|key| key.policy.as_deref()) else {
        return Ok(state.config.policy.clone());
    };
    let preset = policies::preset(name).map_err(|error| ApiError::fault(error.to_string()))?;
    // A key bound to what there no longer is may do nothing, rather than what the default lets it.
    preset.ok_or_else(|| {
        ApiError::forbidden(
            format!("this key is bound to the policy {name:?}, which there is not"),
            "make a key bound to a policy of `casemate policy ls`",
        )
    })
}

fn policy(state: &State, caller: &Caller, request: &RunRequest) -> Result<Policy, ApiError> {
    let mut policy = bound_policy(state, caller)?;
    if let Some(name) = &request.policy {
        let asked = policies::preset(name).map_err(|error| ApiError::fault(error.to_string()))?;
        policy = policy.narrowed(&asked.ok_or_else(|| ApiError::unknown("policy", name))?);
    }
    policy.limits = policy.limits.narrowed(&request.limits.limits());
    Ok(policy)
}

fn backend(caller: &Caller, request: &RunRequest) -> Result<Option<String>, ApiError> {
    let asked = request.backend.clone().filter(|name| name != "auto");
    let Some(key) = caller.key.as_deref().filter(|key| !key.backends.is_empty()) else {
        return Ok(asked);
    };
    match asked {
        Some(name) if key.backends.contains(&name) => Ok(Some(name)),
        // One that is bound to a single backend need not name it.
        None if key.backends.len() == 1 => Ok(key.backends.first().cloned()),
        _ => Err(ApiError::forbidden(
            format!("this key may use: {}", key.backends.join(", ")),
            "name one of them as `backend`",
        )),
    }
}

/// The job of a request.
///
/// # Errors
/// What cannot be understood, is not there, or is not allowed.
pub(crate) async fn job(
    state: &State,
    caller: &Caller,
    request: &RunRequest,
) -> Result<Job, ApiError> {
    let policy = policy(state, caller, request)?;
    let demand = Demand {
        backend: backend(caller, request)?,
        ..Demand::default()
    };
    let program = Program {
        source: request.code.clone().into_bytes(),
        name: request.name.clone().unwrap_or_else(|| "main.py".to_owned()),
        language: language(request.language.as_deref())?,
    };
    let mut inputs = Vec::with_capacity(request.files.len());
    for file in &request.files {
        inputs.push(input(state, caller, file).await?);
    }
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).map_err(|error| ApiError::fault(error.to_string()))?;
    JobBuilder::new(RunId::from_bits(u64::from_ne_bytes(bits)), program, policy)
        .tenant(caller.tenant.clone())
        .args(request.args.clone())
        .env(request.env.clone())
        .inputs(inputs)
        .stdin(request.stdin.clone().into_bytes())
        .demand(demand)
        .build()
        .map_err(|error| ApiError::bad(error.to_string(), "mend the request and send it again"))
}

async fn input(state: &State, caller: &Caller, file: &FileRequest) -> Result<Input, ApiError> {
    let path = GuestPath::input(&file.path)
        .map_err(|error| ApiError::bad(error.to_string(), "use a path like /data/sales.csv"))?;
    let bytes = match (&file.text, &file.base64, &file.upload) {
        (Some(text), None, None) => text.clone().into_bytes(),
        (None, Some(text), None) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|error| {
                ApiError::bad(
                    format!("{}: its base64 cannot be read: {error}", file.path),
                    "send standard base64 with padding",
                )
            })?,
        (None, None, Some(sha256)) => uploaded(state, caller, sha256).await?,
        _ => {
            return Err(ApiError::bad(
                format!("{}: give one of text, base64 and upload", file.path),
                "name the content once",
            ));
        }
    };
    Ok(Input {
        path,
        bytes: bytes.into(),
    })
}

/// An upload's content: the caller's own alone, whoever else stored the same.
async fn uploaded(state: &State, caller: &Caller, sha256: &str) -> Result<Vec<u8>, ApiError> {
    let known = is_name(sha256) && state.store.upload(caller.name(), sha256).await?.is_some();
    if !known {
        return Err(ApiError::unknown("upload", sha256));
    }
    let (blobs, name) = (state.blobs.clone(), sha256.to_owned());
    let read = tokio::task::spawn_blocking(move || blobs.get(&name)).await;
    Ok(read.map_err(|error| ApiError::fault(error.to_string()))??)
}
