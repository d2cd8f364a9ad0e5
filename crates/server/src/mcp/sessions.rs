//! Sessions as tools: the sandboxes of the E2B door, with an interpreter whose state lives from call to call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_envd::filesystem::{FileType, Timestamp};
use casemate_envd::interpreter::{ExecuteRequest, Line, Shown};
use casemate_envd::{Client, ClientError, Limits};
use casemate_model::job::Language;
use casemate_model::outcome::Outcome;
use casemate_model::result::Artifact;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock};
use rmcp::schemars::JsonSchema;
use rmcp::{tool, tool_router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::address::Address;
use super::answer::{PICTURE, TOLD, Telling, by_name, in_short, wrong};
use super::host::{Call, Host, Listed, READ_MAX, ToolError, Wanted};
use super::served::Served;
use super::tools::{File, Tools, contents, languages};
use crate::e2b::Template;
use crate::e2b::agent::AgentOf;
use crate::e2b::control::shown;
use crate::e2b::model::{Lifecycle, OnTimeout};
use crate::e2b::sandboxes::{InUse, Sandbox};
use crate::guard::Caller;
use crate::making::{New, end, found, make, seconds};
use crate::sleep::waken;
use crate::state::State;

/// How long a session lives after it was opened, where nothing is said, and at least after each call.
const LIFE: Duration = Duration::from_secs(300);
/// How long a call may take where it says nothing, and at most.
const CALL: u32 = 60;
const LONGEST_CALL: u32 = 600;
/// The folders whose files are handed back, and how far down.
const FOLDERS: [&str; 2] = ["/home/user", "/tmp"];
const DEPTH: u32 = 4;
/// Files that are handed back after one call.
const FILES: usize = 64;
/// Bytes that an agent may send in answer to one call.
const SAID: u64 = 64 << 20;

/// What sessions are made of: the first template with an interpreter that is ready.
pub(super) fn template(state: &State) -> Option<&Arc<Template>> {
    state.templates.iter().find(|template| template.warm)
}

/// What a client is told of sessions, after what else it is told.
pub(super) const INSTRUCTIONS: &str = " `run_python` and `run_code` remember nothing; a session (`open_session`) keeps \
    variables and files from call to call.";

/// A host with sessions.
pub(super) trait HasSessions: Host {
    /// Where they are.
    fn served(&self) -> &Served;
}

impl HasSessions for Served {
    fn served(&self) -> &Served {
        self
    }
}

/// A host of the command's, with the sessions of a server that has no door.
pub(super) struct Beside<H> {
    pub(super) host: H,
    pub(super) served: Served,
}

impl<H: Host> HasSessions for Beside<H> {
    fn served(&self) -> &Served {
        &self.served
    }
}

impl<H: Host> Host for Beside<H> {
    fn instructions(&self) -> String {
        self.host.instructions() + INSTRUCTIONS
    }

    async fn run(&self, call: &Call, wanted: Wanted) -> Result<Outcome, ToolError> {
        self.host.run(call, wanted).await
    }

    fn told(&self, outcome: Outcome) {
        self.host.told(outcome);
    }

    async fn scan(&self, call: &Call, wanted: Wanted) -> Result<String, ToolError> {
        self.host.scan(call, wanted).await
    }

    async fn list(&self, call: &Call) -> Result<Vec<Listed>, ToolError> {
        self.host.list(call).await
    }

    async fn read(&self, call: &Call, address: &Address) -> Result<Artifact, ToolError> {
        match address {
            Address::File { .. } => self.served.read(call, address).await,
            Address::Artifact { .. } => self.host.read(call, address).await,
        }
    }
}

impl From<ClientError> for ToolError {
    fn from(error: ClientError) -> Self {
        Self::new(error)
    }
}

/// What `open_session` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
struct Open {
    /// How long it lives if it is not used: 300 where nothing is said, a day at most.
    timeout_seconds: Option<u32>,
}

/// What `run_in_session` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
struct Cell {
    /// The session, as `open_session` named it.
    session: String,
    /// The code. The value of its last expression is shown, as in a notebook.
    code: String,
    /// Its language, each of which has a state of its own: Python where nothing is said.
    #[serde(default)]
    #[schemars(schema_with = "languages")]
    language: Language,
    /// Files to be put there first; a path that is not absolute is below /home/user.
    #[serde(default)]
    files: Vec<File>,
    /// Interrupt the code after so many seconds: 60 where nothing is said, 600 at most. Variables stay.
    timeout_seconds: Option<u32>,
}

/// What `close_session` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
#[serde(deny_unknown_fields)]
struct Close {
    /// The session.
    session: String,
}

#[tool_router(router = session_tools, vis = "pub(super)")]
impl<H: HasSessions> Tools<H> {
    /// Open a session: a sandbox without a network whose variables and files stay from call to call. It ends when
    /// it is closed or its time is over.
    #[tool(annotations(
        title = "Open a session",
        destructive_hint = false,
        open_world_hint = false
    ))]
    async fn open_session(&self, Parameters(open): Parameters<Open>, call: Call) -> CallToolResult {
        answered(self.host.served().open(&open, &call).await)
    }

    /// Run code in a session. What earlier calls defined is there; the files that this one wrote below /home/user and
    /// /tmp are handed back by their addresses, figures that it shows as pictures.
    #[tool(annotations(
        title = "Run in a session",
        destructive_hint = false,
        open_world_hint = false
    ))]
    async fn run_in_session(
        &self,
        Parameters(cell): Parameters<Cell>,
        call: Call,
    ) -> CallToolResult {
        let ran = self.host.served().run_cell(cell, &call).await;
        ran.unwrap_or_else(|error| wrong(&error))
    }

    /// End a session, and everything in it.
    #[tool(annotations(title = "Close a session", open_world_hint = false))]
    async fn close_session(
        &self,
        Parameters(close): Parameters<Close>,
        call: Call,
    ) -> CallToolResult {
        answered(self.host.served().close(&close.session, &call).await)
    }

    /// List the sessions there are.
    #[tool(annotations(
        title = "List sessions",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn list_sessions(&self, call: Call) -> CallToolResult {
        answered(self.host.served().sessions(&call))
    }
}

/// A text, and the same for programs.
fn answered(done: Result<(String, Value), ToolError>) -> CallToolResult {
    match done {
        Ok((text, structured)) => {
            let mut answer = CallToolResult::success(vec![ContentBlock::text(text)]);
            answer.structured_content = Some(structured);
            answer
        }
        Err(error) => wrong(&error),
    }
}

fn described(sandbox: &Sandbox) -> Value {
    let shown = shown(sandbox, None);
    json!({
        "session": shown.id,
        "state": shown.state,
        "started_at": shown.started_at,
        "ends_at": shown.end_at,
    })
}

impl Served {
    async fn open(&self, open: &Open, call: &Call) -> Result<(String, Value), ToolError> {
        let (state, caller) = (&self.state, self.caller(call)?);
        caller.may("run")?;
        let template = template(state).ok_or_else(|| ToolError::new("there are no sessions"))?;
        let asked = open.timeout_seconds.map(i64::from);
        let new = New {
            template: Arc::clone(template),
            named: template.name.clone(),
            files: None,
            env: BTreeMap::new(),
            metadata: BTreeMap::new(),
            // Nobody was told of a server in it.
            has_traffic_token: true,
            masked_host: None,
            lifecycle: Lifecycle {
                auto_resume: false,
                on_timeout: OnTimeout::Kill,
                keeps_memory: true,
            },
            timeout_ms: seconds(asked, LIFE.as_secs().cast_signed())?,
            idle_ms: None,
        };
        let sandbox = make(state, caller, new).await?;
        let about = described(&sandbox);
        let text = format!(
            "session {} is open until {}, or {} s after its last call",
            sandbox.id,
            about["ends_at"].as_str().unwrap_or_default(),
            LIFE.as_secs()
        );
        Ok((text, about))
    }

    async fn close(&self, session: &str, call: &Call) -> Result<(String, Value), ToolError> {
        let caller = self.caller(call)?;
        end(&self.state, caller, session).await?;
        Ok((
            format!("session {session} is closed"),
            json!({"session": session, "state": "closed"}),
        ))
    }

    fn sessions(&self, call: &Call) -> Result<(String, Value), ToolError> {
        let tenant = self.caller(call)?.name();
        let all = self.state.sandboxes.list();
        let own = all.iter().filter(|sandbox| sandbox.tenant == tenant);
        let own: Vec<Value> = own.map(|sandbox| described(sandbox)).collect();
        let text = if own.is_empty() {
            "there is no session: `open_session` opens one".to_owned()
        } else {
            Value::from(own.clone()).to_string()
        };
        Ok((text, json!({"sessions": own})))
    }

    /// One of the caller's, awake, with time for what is to be done in it.
    async fn awake(
        &self,
        caller: &Caller,
        session: &str,
        time: Duration,
    ) -> Result<InUse, ToolError> {
        caller.may("run")?;
        let sandbox = InUse::of(found(&self.state, caller, session)?);
        let life = i64::try_from(LIFE.saturating_add(time).as_millis()).unwrap_or(i64::MAX);
        let (woken, _) = waken(&self.state, &sandbox, life).await?;
        Ok(InUse::of(woken))
    }

    /// A file in a session.
    pub(super) async fn read_file(
        &self,
        caller: &Caller,
        session: &str,
        path: &str,
    ) -> Result<Artifact, ToolError> {
        let sandbox = self.awake(caller, session, Duration::ZERO).await?;
        let read = agent(&sandbox).download(path, READ_MAX).await?;
        Ok(Artifact {
            path: path.to_owned(),
            bytes: read.whole().await?,
        })
    }

    async fn run_cell(&self, cell: Cell, call: &Call) -> Result<CallToolResult, ToolError> {
        let caller = self.caller(call)?;
        let seconds = cell.timeout_seconds.unwrap_or(CALL).min(LONGEST_CALL);
        let time = Duration::from_secs(seconds.into());
        let sandbox = self.awake(caller, &cell.session, time).await?;
        // As many at once as may wait for programs to end.
        let _place = self.state.place(caller)?;
        self.state.count_start(caller)?;
        let agent = agent(&sandbox);
        let ran = run(&agent, &sandbox, cell, time, call).await;
        // Why a sandbox is no longer says more than that its agent does not answer.
        ran.map_err(|error| match sandbox.session.ended() {
            Some(why) => ToolError::new(format!("session {} has ended: {why}", sandbox.id)),
            None => error,
        })
    }
}

fn agent(sandbox: &Arc<Sandbox>) -> Client {
    let limits = Limits {
        stream_bytes: SAID,
        ..Limits::default()
    };
    Client::new(AgentOf(Arc::clone(sandbox)))
        .with_token(&*sandbox.token)
        .with_limits(limits)
}

async fn run(
    agent: &Client,
    sandbox: &Sandbox,
    cell: Cell,
    time: Duration,
    call: &Call,
) -> Result<CallToolResult, ToolError> {
    for (path, bytes) in contents(cell.files)? {
        agent.upload(&path, bytes, &BTreeMap::new()).await?;
    }
    let before = Files::of(agent).await?;
    let request = ExecuteRequest {
        code: cell.code,
        language: Some(cell.language.name().to_owned()),
        ..ExecuteRequest::default()
    };
    let said = Said::hear(sandbox, agent, &request, time, call).await?;
    let files = Files::of(agent).await?.since(&before, &sandbox.id);
    let mut telling = said.telling();
    for file in &files {
        let is_picture = file.mime == "image/png" || file.mime == "image/jpeg";
        if is_picture && file.bytes <= PICTURE as u64 && telling.has_room() {
            let picture = agent.download(&file.path, PICTURE as u64).await?;
            telling.picture(&picture.whole().await?);
        }
        telling.link(file);
    }
    let structured = json!({
        "session": sandbox.id,
        "error": said.error,
        "cut_off": said.cut_off,
        "ends_at": shown(sandbox, None).end_at,
        "files": in_short(&files),
    });
    Ok(telling.answer(said.error.is_none() && said.cut_off.is_none(), structured))
}

/// The beginning of an output, and how long it is.
#[derive(Default)]
struct Output {
    kept: Vec<u8>,
    total: usize,
}

impl Output {
    fn push(&mut self, text: &str) {
        let room = TOLD.saturating_sub(self.kept.len()).min(text.len());
        self.kept.extend_from_slice(&text.as_bytes()[..room]);
        self.total = self.total.saturating_add(text.len());
    }
}

/// What a cell said.
#[derive(Default)]
struct Said {
    stdout: Output,
    stderr: Output,
    results: Output,
    pictures: Vec<Vec<u8>>,
    error: Option<Value>,
    /// Why it was not heard to its end.
    cut_off: Option<String>,
}

impl Said {
    /// Runs a cell to its end, or interrupts it when its time is over or its client waits no longer.
    async fn hear(
        sandbox: &Sandbox,
        agent: &Client,
        request: &ExecuteRequest,
        time: Duration,
        call: &Call,
    ) -> Result<Self, ToolError> {
        let mut said = Self::default();
        let until = Instant::now() + time;
        // Dropping it interrupts the code.
        let mut execution = agent.execute(request).await?;
        loop {
            tokio::select! {
                line = execution.next() => match line? {
                    Some(line) => said.line(line),
                    None => return Ok(said),
                },
                () = sleep_until(until) => {
                    let why = format!("interrupted after {} s; what it defined by then is there", time.as_secs());
                    said.cut_off = Some(why);
                    return Ok(said);
                }
                () = sandbox.gone() => {
                    return Err(ToolError::new(format!("session {} was closed", sandbox.id)));
                }
                () = call.ct.cancelled() => {
                    said.cut_off = Some("interrupted: the client no longer waits".to_owned());
                    return Ok(said);
                }
            }
        }
    }

    fn line(&mut self, line: Line) {
        match line {
            Line::Stdout { text, .. } => self.stdout.push(&text),
            Line::Stderr { text, .. } => self.stderr.push(&text),
            Line::Result(shown) => self.shown(&shown),
            Line::Error {
                name,
                value,
                traceback,
            } => {
                let cut = |text: String| text.chars().take(TOLD).collect::<String>();
                let error =
                    json!({"name": cut(name), "value": cut(value), "traceback": cut(traceback)});
                self.error.get_or_insert(error);
            }
            _ => {}
        }
    }

    fn shown(&mut self, shown: &Shown) {
        if let Some(text) = &shown.text {
            if self.results.total > 0 {
                self.results.push("\n");
            }
            self.results.push(text);
        }
        let pictures = [&shown.png, &shown.jpeg].into_iter().flatten();
        for picture in pictures {
            // What is no base64 is the guest's own affair.
            if let Ok(bytes) = STANDARD.decode(picture) {
                self.pictures.push(bytes);
            }
        }
    }

    fn telling(&self) -> Telling {
        let mut telling = Telling::default();
        let outputs = [
            ("", &self.stdout),
            ("standard error:\n", &self.stderr),
            ("", &self.results),
        ];
        for (title, output) in outputs {
            telling.section(title, &output.kept, output.total);
        }
        if let Some(error) = &self.error {
            let part = |name: &str| error[name].as_str().unwrap_or_default();
            let text = match part("traceback") {
                "" => format!("{}: {}", part("name"), part("value")),
                traceback => traceback.to_owned(),
            };
            telling.section("", text.as_bytes(), text.len());
        }
        if let Some(why) = &self.cut_off {
            telling.section("", why.as_bytes(), why.len());
        }
        self.pictures
            .iter()
            .for_each(|picture| telling.picture(picture));
        telling
    }
}

/// The files of a session by their paths: how large each is, and when it changed.
struct Files(BTreeMap<String, (u64, Option<Timestamp>)>);

impl Files {
    /// Hidden ones are the programs' own affair.
    async fn of(agent: &Client) -> Result<Self, ToolError> {
        let mut all = BTreeMap::new();
        for folder in FOLDERS {
            for entry in agent.list_dir(folder, DEPTH).await? {
                let is_file = entry.r#type == FileType::File as i32;
                if is_file && !entry.path.contains("/.") {
                    let bytes = u64::try_from(entry.size).unwrap_or_default();
                    all.insert(entry.path, (bytes, entry.modified_time));
                }
            }
        }
        Ok(Self(all))
    }

    /// Those that are new, or are not as they were.
    fn since(self, before: &Self, session: &str) -> Vec<Listed> {
        let changed = self
            .0
            .into_iter()
            .filter(|(path, is)| before.0.get(path) != Some(is));
        let listed = changed.map(|(path, (bytes, _))| Listed {
            address: Address::File {
                session: session.to_owned(),
                path: path.clone(),
            },
            mime: by_name(&path)
                .unwrap_or("application/octet-stream")
                .to_owned(),
            path,
            bytes,
        });
        listed.take(FILES).collect()
    }
}
