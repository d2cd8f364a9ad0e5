//! The tools, whoever runs what they are asked for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_model::job::{GuestPath, Input, Language, Program};
use casemate_model::result::Artifact;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolResult, ContentBlock, Implementation, ListResourcesResult, PaginatedRequestParams,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ServerCapabilities,
    ServerConfig,
};
use rmcp::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use rmcp::{ErrorData, ServerHandler, ServiceExt, tool, tool_handler, tool_router};
use serde::Deserialize;

use super::address::Address;
use super::answer::{self, resource, wrong};
use super::host::{Call, Host, READ_MAX, ToolError, Wanted};
use super::served::Served;
use super::sessions::{self, Beside};
use crate::serve::Inside;

/// Bytes of the files that come with one call.
const FILES_MAX: usize = 32 << 20;

/// The tools of a host.
pub(super) struct Tools<H> {
    pub(super) host: Arc<H>,
    router: ToolRouter<Self>,
}

impl<H> Clone for Tools<H> {
    fn clone(&self) -> Self {
        Self {
            host: Arc::clone(&self.host),
            router: self.router.clone(),
        }
    }
}

/// Serves a host's tools on standard input and output, until the input ends. Where the server inside has templates with
/// an interpreter, there are sessions of it too.
///
/// # Errors
/// When what comes is not the protocol.
pub async fn stdio(host: impl Host, inside: Option<&Inside>) -> io::Result<()> {
    let with_sessions = inside.filter(|inside| sessions::template(&inside.state).is_some());
    match with_sessions {
        Some(inside) => {
            let served = Served::inside(inside);
            let tools = Tools::new(Beside { host, served });
            speak(tools.with(Tools::session_tools())).await
        }
        None => speak(Tools::new(host)).await,
    }
}

async fn speak<H: Host>(tools: Tools<H>) -> io::Result<()> {
    let running = tools.serve(rmcp::transport::io::stdio()).await;
    let running = running.map_err(io::Error::other)?;
    running.waiting().await.map_err(io::Error::other)?;
    Ok(())
}

/// The names of the languages, as the schema lists them.
pub(super) fn languages(_: &mut SchemaGenerator) -> Schema {
    let names = Language::ALL.map(Language::name);
    json_schema!({"type": "string", "enum": names})
}

/// A file for the program.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Where the program finds it: a run read-only as /data/NAME, a session at any path of the user's.
    pub(super) path: String,
    /// Its content, when that is text.
    text: Option<String>,
    /// Its content in base64, when it is not.
    base64: Option<String>,
}

impl File {
    pub(super) fn bytes(self) -> Result<Vec<u8>, ToolError> {
        let path = self.path;
        match (self.text, self.base64) {
            (Some(text), None) => Ok(text.into_bytes()),
            (None, Some(base64)) => STANDARD.decode(base64).map_err(|error| {
                ToolError::new(format!("{path}: `base64` is not base64: {error}"))
            }),
            _ => Err(ToolError::new(format!(
                "{path}: give its content as `text` or as `base64`"
            ))),
        }
    }
}

/// The contents of the files that came with a call, by their paths.
pub(super) fn contents(files: Vec<File>) -> Result<Vec<(String, Vec<u8>)>, ToolError> {
    let mut room = FILES_MAX;
    let one = |file: File| {
        let path = file.path.clone();
        let bytes = file.bytes()?;
        room = room.checked_sub(bytes.len()).ok_or_else(|| {
            ToolError::new(format!(
                "the files are larger than {FILES_MAX} bytes together: send fewer"
            ))
        })?;
        Ok((path, bytes))
    };
    files.into_iter().map(one).collect()
}

/// What `run_python` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
struct RunPython {
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

/// What `run_code` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
struct RunCode {
    /// The language of the program.
    #[schemars(schema_with = "languages")]
    language: Language,
    /// The program.
    code: String,
    /// Files for it.
    #[serde(default)]
    files: Vec<File>,
    /// Its arguments.
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
    /// The language of the program: Python where nothing is said.
    #[serde(default)]
    #[schemars(schema_with = "languages")]
    language: Language,
}

/// What `read_artifact` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
struct Read {
    /// The file's address, as a run, a session or `list_artifacts` gave it.
    uri: String,
}

fn program(language: Language, code: String) -> Program {
    Program {
        source: code.into_bytes(),
        name: language.default_file().to_owned(),
        language,
    }
}

impl RunCode {
    fn wanted(self) -> Result<Wanted, ToolError> {
        let input = |(path, bytes): (String, Vec<u8>)| {
            Ok::<_, ToolError>(Input {
                path: GuestPath::input(&path).map_err(ToolError::new)?,
                bytes: bytes.into(),
            })
        };
        let inputs = contents(self.files)?.into_iter().map(input);
        Ok(Wanted {
            program: program(self.language, self.code),
            args: self.args,
            inputs: inputs.collect::<Result<_, _>>()?,
            timeout: self
                .timeout_seconds
                .map(|seconds| Duration::from_secs(seconds.into())),
        })
    }
}

impl<H: Host> Tools<H> {
    pub(super) fn new(host: H) -> Self {
        Self {
            host: Arc::new(host),
            router: Self::run_tools(),
        }
    }

    /// With further tools.
    pub(super) fn with(mut self, more: ToolRouter<Self>) -> Self {
        self.router.merge(more);
        self
    }

    async fn run(&self, run: RunCode, call: &Call) -> CallToolResult {
        let ran = match run.wanted() {
            Ok(wanted) => self.host.run(call, wanted).await,
            Err(error) => Err(error),
        };
        match ran {
            Ok(outcome) => {
                let answer = answer::of_run(&outcome);
                self.host.told(outcome);
                answer
            }
            Err(error) => wrong(&error),
        }
    }

    async fn read(&self, uri: &str, call: &Call) -> Result<(Address, Artifact), ToolError> {
        let address = Address::parse(uri).ok_or_else(|| ToolError::unknown(uri))?;
        let file = self.host.read(call, &address).await?;
        let bytes = file.bytes.len() as u64;
        if bytes > READ_MAX {
            return Err(ToolError::too_large(&file.path, bytes));
        }
        Ok((address, file))
    }
}

#[tool_router(router = run_tools)]
impl<H: Host> Tools<H> {
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
        Parameters(run): Parameters<RunPython>,
        call: Call,
    ) -> CallToolResult {
        let run = RunCode {
            language: Language::Python,
            code: run.code,
            files: run.files,
            args: run.args,
            timeout_seconds: run.timeout_seconds,
        };
        self.run(run, &call).await
    }

    /// Run a program in a sandbox without a network, in one of the languages that the schema names. The same as
    /// `run_python` otherwise. A language other than Python needs a policy that lets processes be; where that or the
    /// interpreter is lacking, the refusal says so.
    #[tool(annotations(title = "Run code", destructive_hint = false, open_world_hint = false))]
    async fn run_code(&self, Parameters(run): Parameters<RunCode>, call: Call) -> CallToolResult {
        self.run(run, &call).await
    }

    /// Screen a program without running it: what it would need, and what the policy would refuse, with the
    /// line, the rule and a better way.
    #[tool(annotations(title = "Scan code", read_only_hint = true, open_world_hint = false))]
    async fn scan_code(&self, Parameters(scan): Parameters<Scan>, call: Call) -> CallToolResult {
        let wanted = Wanted {
            program: program(scan.language, scan.code),
            args: Vec::new(),
            inputs: Vec::new(),
            timeout: None,
        };
        match self.host.scan(&call, wanted).await {
            Ok(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
            Err(error) => wrong(&error),
        }
    }

    /// List the files that earlier runs handed back, the latest first.
    #[tool(annotations(
        title = "List artifacts",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn list_artifacts(&self, call: Call) -> CallToolResult {
        let files = match self.host.list(&call).await {
            Ok(files) => files,
            Err(error) => return wrong(&error),
        };
        if files.is_empty() {
            let none = "nothing is kept: no run has written a file to /tmp or /work";
            return CallToolResult::success(vec![ContentBlock::text(none)]);
        }
        let links = files.iter().map(resource).map(ContentBlock::resource_link);
        CallToolResult::success(links.collect())
    }

    /// Read a file that an earlier run handed back, or that a session has.
    #[tool(annotations(
        title = "Read an artifact",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn read_artifact(
        &self,
        Parameters(wanted): Parameters<Read>,
        call: Call,
    ) -> CallToolResult {
        match self.read(&wanted.uri, &call).await {
            Ok((address, file)) => CallToolResult::success(vec![answer::content(&address, &file)]),
            Err(error) => wrong(&error),
        }
    }
}

#[tool_handler(router = self.router)]
impl<H: Host> ServerHandler for Tools<H> {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .build();
        let mut config = ServerConfig::new(capabilities);
        config.server_info = Implementation::new("casemate", env!("CARGO_PKG_VERSION"));
        config.instructions = Some(self.host.instructions());
        config
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        call: Call,
    ) -> Result<ListResourcesResult, ErrorData> {
        let files = self.host.list(&call).await;
        let files = files.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        Ok(ListResourcesResult {
            resources: files.iter().map(resource).collect(),
            ..Default::default()
        })
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        call: Call,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let read = self.read(&request.uri, &call).await;
        let unknown = |error: ToolError| ErrorData::resource_not_found(error.to_string(), None);
        let (address, file) = read.map_err(unknown)?;
        let contents = vec![answer::contents(&address, &file)];
        Ok(ReadResourceResult::new(contents).into())
    }
}
