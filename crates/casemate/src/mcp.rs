//! `casemate mcp`: the sandbox as tools of a model, by the Model Context Protocol on standard input and output.
//!
//! What a tool takes is written by a model, which may have been talked into anything: no tool has a way to
//! choose a policy, a backend or a larger limit. Those are the arguments of the command.

mod answer;
mod kept;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_backend::contract::Cancel;
use casemate_engine::Engine;
use casemate_model::job::{Demand, GuestPath, Input, Job, JobBuilder, Language, Program, RunId};
use casemate_model::limit::{Limit, Millis};
use casemate_model::outcome::Outcome;
use casemate_model::policy::{Policy, ScreenMode};
use casemate_screen::report::{self, Scanned, Style};
use casemate_wasm::setup::Store;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolResult, ContentBlock, Implementation, ListResourcesResult, PaginatedRequestParams,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ServerCapabilities,
    ServerConfig,
};
use rmcp::schemars::JsonSchema;
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt, tool, tool_handler, tool_router};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::cli::McpArgs;
use crate::run::{input, lasting_engine, named_policy, random_bits};
use crate::serve::runtime;
use crate::setup;
use kept::Kept;

/// Bytes of the files that come with one call.
const FILES_MAX: usize = 32 << 20;

/// Serves until standard input ends.
pub(crate) fn command(args: &McpArgs) -> anyhow::Result<i32> {
    let policy = named_policy(&args.policy)?;
    let inputs = args.data.iter().map(|spec| input(spec));
    let inputs = inputs.collect::<anyhow::Result<Vec<_>>>()?;
    let store = Store::open()?;
    drop(setup::ensure(&store)?);
    let parallel = std::thread::available_parallelism().map_or(1, usize::from);
    let server = Server {
        shared: Arc::new(Shared {
            engine: lasting_engine(&store, parallel)?,
            policy,
            inputs,
            backend: (args.backend != "auto").then(|| args.backend.clone()),
            places: Semaphore::new(parallel),
            kept: Mutex::default(),
        }),
        tools: Server::tools(),
    };
    runtime()?.block_on(async {
        let running = server.serve(rmcp::transport::io::stdio()).await;
        let running = running.context("speaking the Model Context Protocol")?;
        running.waiting().await.context("serving")
    })?;
    Ok(0)
}

#[derive(Clone)]
struct Server {
    shared: Arc<Shared>,
    tools: ToolRouter<Self>,
}

struct Shared {
    engine: Engine,
    policy: Policy,
    /// What every run finds in /data.
    inputs: Vec<Input>,
    backend: Option<String>,
    /// Runs at once; further ones wait.
    places: Semaphore,
    kept: Mutex<Kept>,
}

/// A file for the program.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
struct File {
    /// Where the program finds it, read-only: /data/NAME.
    path: String,
    /// Its content, when that is text.
    text: Option<String>,
    /// Its content in base64, when it is not.
    base64: Option<String>,
}

/// What `run_python` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
struct Run {
    /// The program. The value of its last expression is shown, as in a notebook.
    code: String,
    /// Files for it.
    #[serde(default)]
    files: Vec<File>,
    /// Its arguments, `sys.argv[1:]`.
    #[serde(default)]
    args: Vec<String>,
    /// Stop it after so many seconds, if that is less than the policy allows.
    timeout_seconds: Option<u32>,
}

/// What `scan_code` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
struct Scan {
    /// The program.
    code: String,
}

/// What `read_artifact` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// The artifact's address, as `run_python` or `list_artifacts` gave it.
    uri: String,
}

#[tool_router(router = tools)]
impl Server {
    /// Run a Python program in a sandbox: pandas, numpy and matplotlib are there, a network is not. Each call is a
    /// run of its own and remembers nothing. Data is in /data, read-only; what the program writes to /tmp or
    /// /work is handed back, figures that it shows as pictures. A refusal says which rule and what to do instead.
    #[tool(annotations(
        title = "Run Python",
        destructive_hint = false,
        open_world_hint = false
    ))]
    async fn run_python(
        &self,
        Parameters(run): Parameters<Run>,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let shared = &self.shared;
        let job = match shared.job(run) {
            Ok(job) => job,
            Err(error) => return Ok(wrong(&error)),
        };
        let place = shared.places.acquire().await;
        let place = place.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        let outcome = Arc::clone(shared).perform(job, &context).await?;
        drop(place);
        let answer = answer::of_run(&outcome);
        shared
            .kept()
            .keep(&outcome.id.to_string(), outcome.artifacts);
        Ok(answer)
    }

    /// Screen a Python program without running it: what it would need, and what the policy would refuse, with the
    /// line, the rule and a better way.
    #[tool(annotations(title = "Scan Python", read_only_hint = true, open_world_hint = false))]
    async fn scan_code(&self, Parameters(scan): Parameters<Scan>) -> CallToolResult {
        let run = Run {
            code: scan.code,
            files: Vec::new(),
            args: Vec::new(),
            timeout_seconds: None,
        };
        let job = match self.shared.job(run) {
            Ok(job) => job,
            Err(error) => return wrong(&error),
        };
        let scanned = tokio::task::spawn_blocking(move || {
            let screening = match casemate_screen::clear(job, ScreenMode::Enforce) {
                Ok(cleared) => cleared.into_parts().1,
                Err(refused) => refused.1,
            };
            let scanned = Scanned {
                path: "main.py",
                screening: &screening,
            };
            report::text(&[scanned], Style::Plain)
        });
        match scanned.await {
            Ok(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
            Err(error) => wrong(&anyhow::anyhow!("screening ended early: {error}")),
        }
    }

    /// List the files that earlier runs handed back, the latest first.
    #[tool(annotations(
        title = "List artifacts",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn list_artifacts(&self) -> CallToolResult {
        let resources = self.shared.kept().resources();
        if resources.is_empty() {
            let none = "nothing is kept: no run has written a file to /tmp or /work";
            return CallToolResult::success(vec![ContentBlock::text(none)]);
        }
        CallToolResult::success(
            resources
                .into_iter()
                .map(ContentBlock::resource_link)
                .collect(),
        )
    }

    /// Read a file that an earlier run handed back.
    #[tool(annotations(
        title = "Read an artifact",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn read_artifact(&self, Parameters(wanted): Parameters<Wanted>) -> CallToolResult {
        match self.shared.kept().find(&wanted.uri) {
            Some(artifact) => CallToolResult::success(vec![answer::content(&wanted.uri, artifact)]),
            None => wrong(&anyhow::anyhow!(
                "{:?} is not kept: `list_artifacts` says what is; older runs make room for newer ones",
                wanted.uri
            )),
        }
    }
}

#[tool_handler(router = self.tools)]
impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .build();
        let mut config = ServerConfig::new(capabilities);
        config.server_info = Implementation::new("casemate", env!("CARGO_PKG_VERSION"));
        let mut instructions =
            "Runs Python that nobody trusts in a sandbox without a network.".to_owned();
        for input in &self.shared.inputs {
            instructions.push_str(&format!(" Every run finds {}.", input.path.as_str()));
        }
        config.instructions = Some(instructions);
        config
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult {
            resources: self.shared.kept().resources(),
            ..Default::default()
        })
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let kept = self.shared.kept();
        let artifact = kept
            .find(&request.uri)
            .ok_or_else(|| ErrorData::resource_not_found("it is not kept, or never was", None))?;
        let contents = vec![answer::resource(&request.uri, artifact)];
        Ok(ReadResourceResult::new(contents).into())
    }
}

impl Shared {
    fn job(&self, run: Run) -> anyhow::Result<Job> {
        let mut policy = self.policy.clone();
        if let Some(seconds) = run.timeout_seconds {
            let asked = Limit::At(Millis(Duration::from_secs(seconds.into())));
            policy.limits.wall_time = policy.limits.wall_time.least(asked);
        }
        let mut inputs = self.inputs.clone();
        let mut room = FILES_MAX;
        for file in run.files {
            let input = file.read()?;
            room = room.checked_sub(input.bytes.len()).with_context(|| {
                format!("the files are larger than {FILES_MAX} bytes together: send fewer, or have them given by --data")
            })?;
            inputs.push(input);
        }
        let program = Program {
            source: run.code.into_bytes(),
            name: "main.py".to_owned(),
            language: Language::Python,
        };
        let id = RunId::from_bits(random_bits()?);
        Ok(JobBuilder::new(id, program, policy)
            .args(run.args)
            .inputs(inputs)
            .demand(Demand {
                backend: self.backend.clone(),
                ..Demand::default()
            })
            .build()?)
    }

    /// Runs it, and stops it when the client no longer waits.
    async fn perform(
        self: Arc<Self>,
        job: Job,
        context: &RequestContext<RoleServer>,
    ) -> Result<Outcome, ErrorData> {
        let cancel = Cancel::new();
        let stops = cancel.clone();
        let mut run =
            tokio::task::spawn_blocking(move || self.engine.run(job, &mut |_| {}, &cancel));
        let ended = tokio::select! {
            ended = &mut run => ended,
            () = context.ct.cancelled() => {
                stops.cancel();
                run.await
            }
        };
        ended.map_err(|error| {
            ErrorData::internal_error(format!("the run ended early: {error}"), None)
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File {
    fn read(self) -> anyhow::Result<Input> {
        let bytes = match (self.text, self.base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => STANDARD
                .decode(base64)
                .with_context(|| format!("{}: `base64` is not base64", self.path))?,
            _ => anyhow::bail!("{}: give its content as `text` or as `base64`", self.path),
        };
        Ok(Input {
            path: GuestPath::input(&self.path)?,
            bytes: bytes.into(),
        })
    }
}

/// A mistake of whoever called, in words that can be acted on.
fn wrong(error: &anyhow::Error) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(format!("{error:#}"))])
}
