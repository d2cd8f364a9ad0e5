//! From a request to a job. What a request may say narrows what the operator set, and never widens it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use casemate_engine::policies;
use casemate_model::job::{Demand, GuestPath, Input, Job, JobBuilder, Language, Program, RunId};
use casemate_model::limit::{Limit, Limits, Millis};
use casemate_model::policy::Policy;
use casemate_model::unit::ByteSize;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::blobs::{Blobs, is_name};
use crate::body::{Room, Taken};
use crate::error::ApiError;
use crate::guard::Caller;
use crate::mcp::Wanted;
use crate::state::State;

/// Bodies of this size and more are read beside what answers others.
const ASIDE: usize = 64 << 10;
/// Characters of a program's name.
const NAME: usize = 63;
/// Arguments, files and variables that a request may have.
const MANY: usize = 256;

/// A program to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RunRequest {
    /// The program's text.
    pub(crate) code: String,
    /// Its language.
    pub(crate) language: Option<LanguageName>,
    /// The name that tracebacks show.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = r"^[^/\x00-\x1f\x7f-\x9f]*$"
    )]
    pub(crate) name: Option<String>,
    /// Arguments after the program's name.
    #[schema(max_items = 256)]
    pub(crate) args: Vec<String>,
    /// Environment variables; there are no others.
    pub(crate) env: BTreeMap<String, String>,
    /// Standard input.
    pub(crate) stdin: String,
    /// Files the program finds, read-only.
    #[schema(max_items = 256)]
    #[serde(deserialize_with = "objects")]
    pub(crate) files: Vec<FileRequest>,
    /// A policy to be no less strict than. The key's, or the server's, stays in force.
    pub(crate) policy: Option<String>,
    /// The backend; the one that fits best where none is named.
    pub(crate) backend: Option<String>,
    /// Lower ceilings than the policy's.
    #[serde(deserialize_with = "object")]
    pub(crate) limits: LimitsRequest,
    /// Whether its events are kept with its outcome: `GET /v1/runs/{run}/events` has them then. They count to what
    /// the tenant keeps.
    pub(crate) keep_events: bool,
}

/// A value whose fields are named. Without this a list of the fields' values would be taken for it too.
fn object<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    named(<&RawValue>::deserialize(from)?).map_err(D::Error::custom)
}

/// A list of such values.
fn objects<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let all = <Vec<&RawValue>>::deserialize(from)?;
    let all = all.into_iter().map(named).collect::<Result<_, _>>();
    all.map_err(D::Error::custom)
}

pub(crate) fn named<'de, T: Deserialize<'de>>(raw: &'de RawValue) -> Result<T, serde_json::Error> {
    if raw.get().starts_with('{') {
        return serde_json::from_str(raw.get());
    }
    Err(serde_json::Error::custom("expected an object"))
}

/// The languages that are served.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LanguageName {
    /// Python.
    Python,
    /// Bash.
    Bash,
    /// JavaScript, as node runs it.
    Javascript,
}

impl LanguageName {
    const fn language(self) -> Language {
        match self {
            Self::Python => Language::Python,
            Self::Bash => Language::Bash,
            Self::Javascript => Language::JavaScript,
        }
    }
}

/// A file for a program: its content here, or an upload's.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRequest {
    /// Where the program finds it, under `/data/`.
    #[schema(
        max_length = 1024,
        pattern = r"^/data/[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,254})*$"
    )]
    pub(crate) path: String,
    /// Its content as text.
    #[serde(default)]
    pub(crate) text: Option<String>,
    /// Its content as standard base64.
    #[serde(default)]
    pub(crate) base64: Option<String>,
    /// The SHA-256 of an upload, in hexadecimal.
    #[serde(default)]
    #[schema(pattern = "^[0-9a-f]{64}$")]
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
    /// Whether every number is one that the description has: 64 bits with a sign, and 32 for processors.
    fn is_described(&self) -> bool {
        let all = [
            self.memory_bytes,
            self.cpu_time_ms,
            self.wall_time_ms,
            self.disk_bytes,
            self.output_bytes,
            self.artifacts,
            self.tasks,
        ];
        let fits = |number: u64| i64::try_from(number).is_ok();
        all.into_iter().flatten().all(fits)
            && self
                .cpu_millis
                .is_none_or(|millis| i32::try_from(millis).is_ok())
    }

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

/// A request that was read: what it says, and what can be said of it without knowing who sent it.
pub(crate) struct Read {
    request: RunRequest,
    language: Language,
    /// The body's hash: the same request again has the same.
    pub(crate) sha256: String,
    /// The files, by where the program finds them.
    contents: Vec<(String, Content)>,
    program_sha256: String,
    /// Held as long as anything of the body is.
    pub(crate) room: Room,
}

/// A file's content, or whose it is.
enum Content {
    Here { bytes: Arc<[u8]>, sha256: String },
    Upload(String),
}

/// A job, and what of it is fetched only when its turn has come.
pub(crate) struct Intake {
    job: Job,
    /// Inputs by their place, and the uploads they are.
    uploads: Vec<(usize, String)>,
    /// What was asked for, for the receipt.
    pub(crate) about: String,
    /// Whether its events are kept.
    pub(crate) keep_events: bool,
    room: Room,
}

impl Read {
    /// Reads a body. What takes long is done beside.
    ///
    /// # Errors
    /// What cannot be understood.
    pub(crate) async fn of(taken: Taken) -> Result<Self, ApiError> {
        if taken.bytes.len() < ASIDE {
            return Self::now(taken);
        }
        let read = tokio::task::spawn_blocking(|| Self::now(taken)).await;
        read.map_err(|error| ApiError::fault(error.to_string()))?
    }

    fn now(taken: Taken) -> Result<Self, ApiError> {
        let mut request: RunRequest = serde_json::from_slice(&taken.bytes)
            .and_then(named)
            .map_err(|error| {
                ApiError::bad(
                    format!("the body is not a request to run: {error}"),
                    "send JSON such as {\"code\": \"print(1)\"}; GET /openapi.json has every field",
                )
            })?;
        let most = request.args.len().max(request.env.len());
        few(most.max(request.files.len()), "args, files or env")?;
        let name = request.name.as_deref().unwrap_or_default();
        if name.chars().count() > NAME {
            return Err(ApiError::bad(
                format!("the program's name has more than {NAME} characters"),
                "send a shorter one",
            ));
        }
        if !request.limits.is_described() {
            return Err(ApiError::bad(
                "a limit is larger than a number of 64 bits with a sign",
                "send a smaller one, or leave it out: a request only lowers limits",
            ));
        }
        let contents = std::mem::take(&mut request.files).into_iter().map(content);
        Ok(Self {
            contents: contents.collect::<Result<_, _>>()?,
            language: request
                .language
                .map_or(Language::Python, LanguageName::language),
            sha256: casemate_engine::sha256_hex(&taken.bytes),
            program_sha256: casemate_engine::sha256_hex(request.code.as_bytes()),
            request,
            room: taken.room,
        })
    }

    /// The same of a tool's call, which holds its own room.
    ///
    /// # Errors
    /// More than a request may have.
    pub(crate) fn of_call(wanted: Wanted) -> Result<Self, ApiError> {
        few(
            wanted.args.len().max(wanted.inputs.len()),
            "args, files or env",
        )?;
        let request = RunRequest {
            code: String::from_utf8_lossy(&wanted.program.source).into_owned(),
            args: wanted.args,
            limits: LimitsRequest {
                wall_time_ms: wanted
                    .timeout
                    .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                ..LimitsRequest::default()
            },
            ..RunRequest::default()
        };
        let content = |input: Input| {
            let sha256 = casemate_engine::sha256_hex(&input.bytes);
            let bytes = input.bytes;
            (
                input.path.as_str().to_owned(),
                Content::Here { bytes, sha256 },
            )
        };
        Ok(Self {
            contents: wanted.inputs.into_iter().map(content).collect(),
            language: wanted.program.language,
            // No call is sent twice: it has no key that says so.
            sha256: String::new(),
            program_sha256: casemate_engine::sha256_hex(&wanted.program.source),
            request,
            room: Room::default(),
        })
    }

    /// The job it is for this caller.
    ///
    /// # Errors
    /// What cannot be, is not there, or is not allowed.
    pub(crate) async fn job(mut self, state: &State, caller: &Caller) -> Result<Intake, ApiError> {
        let policy = policy(state, caller, &self.request)?;
        let demand = Demand {
            backend: backend(caller, &self.request)?,
            ..Demand::default()
        };
        let request = std::mem::take(&mut self.request);
        let default_file = || self.language.default_file().to_owned();
        let program = Program {
            source: request.code.into_bytes(),
            name: request.name.unwrap_or_else(default_file),
            language: self.language,
        };
        let (mut inputs, mut uploads, mut listed) = (Vec::new(), Vec::new(), Vec::new());
        let mut total = 0_u64;
        for (path, content) in self.contents {
            let path = GuestPath::input(&path).map_err(|error| {
                ApiError::bad(error.to_string(), "use a path like /data/sales.csv")
            })?;
            let (bytes, sha256, length) = match content {
                Content::Here { bytes, sha256 } => {
                    let length = bytes.len() as u64;
                    (bytes, sha256, length)
                }
                Content::Upload(sha256) => {
                    let length = upload_length(state, caller, &sha256).await?;
                    uploads.push((inputs.len(), sha256.clone()));
                    (Arc::from([]), sha256, length)
                }
            };
            total = total.saturating_add(length);
            listed.push(json!({"path": path, "sha256": sha256, "size_bytes": length}));
            inputs.push(Input { path, bytes });
        }
        if total > state.config.input_bytes {
            let most = state.config.input_bytes;
            return Err(ApiError::too_much(format!(
                "the files are {total} bytes together, {most} are taken for one run"
            )));
        }
        let about = json!({
            "policy": policy.name,
            "program": {"name": program.name, "sha256": self.program_sha256},
            "inputs": listed,
        });
        let job = JobBuilder::new(run_id()?, program, policy)
            .tenant(caller.tenant.clone())
            .args(request.args)
            .env(request.env)
            .inputs(inputs)
            .stdin(request.stdin.into_bytes())
            .demand(demand)
            .build()
            .map_err(|error| {
                ApiError::bad(error.to_string(), "mend the request and send it again")
            })?;
        Ok(Intake {
            job,
            uploads,
            about: about.to_string(),
            keep_events: request.keep_events,
            room: self.room,
        })
    }
}

impl Intake {
    /// The run's name.
    pub(crate) fn id(&self) -> &str {
        self.job.id.as_str()
    }

    /// The job with its uploads' contents, and the room it takes. Blocking.
    ///
    /// # Errors
    /// When an upload went in the meantime, or cannot be read.
    pub(crate) fn ready(mut self, blobs: &Blobs) -> Result<(Job, Room), ApiError> {
        let tenant = self.job.tenant.as_str().to_owned();
        let mut read: BTreeMap<String, Arc<[u8]>> = BTreeMap::new();
        for (place, sha256) in self.uploads {
            let bytes = match read.get(&sha256) {
                Some(bytes) => Arc::clone(bytes),
                None => Arc::from(blobs.get(&tenant, &sha256)?),
            };
            read.insert(sha256, Arc::clone(&bytes));
            if let Some(input) = self.job.inputs.get_mut(place) {
                input.bytes = bytes;
            }
        }
        Ok((self.job, self.room))
    }
}

fn run_id() -> Result<RunId, ApiError> {
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).map_err(|error| ApiError::fault(error.to_string()))?;
    Ok(RunId::from_bits(u64::from_ne_bytes(bits)))
}

/// Refuses more of something than a request may have.
pub(crate) fn few(many: usize, what: &str) -> Result<(), ApiError> {
    if many <= MANY {
        return Ok(());
    }
    Err(ApiError::bad(
        format!("there are more than {MANY} {what}"),
        "send fewer",
    ))
}

fn content(file: FileRequest) -> Result<(String, Content), ApiError> {
    let here = |bytes: Vec<u8>| Content::Here {
        sha256: casemate_engine::sha256_hex(&bytes),
        bytes: bytes.into(),
    };
    let content = match (file.text, file.base64, file.upload) {
        (Some(text), None, None) => Ok(here(text.into_bytes())),
        (None, Some(text), None) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(here)
            .map_err(|error| {
                ApiError::bad(
                    format!("{}: its base64 cannot be read: {error}", file.path),
                    "send standard base64 with padding",
                )
            }),
        (None, None, Some(sha256)) => Ok(Content::Upload(sha256)),
        _ => Err(ApiError::bad(
            format!("{}: give one of text, base64 and upload", file.path),
            "name the content once",
        )),
    };
    Ok((file.path, content?))
}

/// An upload's length: of the caller's own alone, whoever else stored the same.
async fn upload_length(state: &State, caller: &Caller, sha256: &str) -> Result<u64, ApiError> {
    let known = if is_name(sha256) {
        state.store.upload(caller.name(), sha256).await?
    } else {
        None
    };
    let known = known.ok_or_else(|| ApiError::unknown("upload", sha256))?;
    Ok(u64::try_from(known.bytes).unwrap_or(u64::MAX))
}
