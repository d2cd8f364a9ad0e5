//! `casemate mcp`: the sandbox as tools of a model, by the Model Context Protocol on standard input and output.
//!
//! The tools are the server's (`casemate_server::mcp`); what they ask for runs here, on an engine of this process.
//! Policy, backend and the files of every run are the arguments of the command. Sessions are those of a server without
//! a door, which ends with the command.

mod kept;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use casemate_backend::contract::Cancel;
use casemate_engine::Engine;
use casemate_model::job::{Demand, Input, Job, JobBuilder, RunId};
use casemate_model::limit::{Limit, Millis};
use casemate_model::outcome::Outcome;
use casemate_model::policy::{Policy, ScreenMode};
use casemate_model::result::Artifact;
use casemate_screen::report::{self, Scanned, Style};
use casemate_server::mcp::{Address, Call, Host, Listed, ToolError, Wanted, stdio, until_ended};
use casemate_server::{Config, Inside};
use casemate_wasm::setup::Store;
use tokio::sync::Semaphore;

use crate::cli::McpArgs;
use crate::run::{input, lasting_engine, named_policy, random_bits};
use crate::serve::{runtime, stop_signal};
use crate::{sessions, setup};
use kept::Kept;

/// How long runs that nobody waits for any more may take to end.
const LAST_RUNS: Duration = Duration::from_secs(2);

/// Serves until standard input ends.
pub(crate) fn command(args: &McpArgs) -> anyhow::Result<i32> {
    let policy = named_policy(&args.policy)?;
    let inputs = args.data.iter().map(|spec| input(spec));
    let inputs = inputs.collect::<anyhow::Result<Vec<_>>>()?;
    let store = Store::open()?;
    drop(setup::ensure(&store)?);
    let parallel = std::thread::available_parallelism().map_or(1, usize::from);
    let here = Here {
        engine: Arc::new(lasting_engine(&store, parallel)?),
        policy,
        inputs,
        backend: (args.backend != "auto").then(|| args.backend.clone()),
        places: Semaphore::new(parallel),
        kept: Mutex::default(),
    };
    let data = tempfile::tempdir().context("making a folder for sessions")?;
    let mut config = Config::new(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        data.path().join("inside"),
    );
    // Whoever opens a session here waits for it alone.
    config.ready = 0;
    let templates = sessions::wanted(&args.sessions, &args.made_of, &store, &config.data)?;
    let engine = Arc::clone(&here.engine);
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let stop = stop_signal()?;
        let inside = match templates.is_empty() {
            true => None,
            false => Some(Inside::open(config, engine, templates).await?),
        };
        let spoken = tokio::select! {
            spoken = stdio(here, inside.as_ref()) => spoken,
            () = stop => Ok(()),
        };
        if let Some(inside) = inside {
            inside.shut_down().await.context("ending the sessions")?;
        }
        spoken.context("speaking the Model Context Protocol")
    });
    // What runs was cancelled and ends; whoever still waits for input would wait for ever.
    runtime.shutdown_timeout(LAST_RUNS);
    served.map(|()| 0)
}

/// This process, as what runs.
struct Here {
    engine: Arc<Engine>,
    policy: Policy,
    /// What every run finds in /data.
    inputs: Vec<Input>,
    backend: Option<String>,
    /// Runs at once; further ones wait.
    places: Semaphore,
    kept: Mutex<Kept>,
}

impl Here {
    fn job(&self, wanted: Wanted) -> anyhow::Result<Job> {
        let mut policy = self.policy.clone();
        if let Some(time) = wanted.timeout {
            let asked = Limit::At(Millis(time));
            policy.limits.wall_time = policy.limits.wall_time.least(asked);
        }
        let mut inputs = self.inputs.clone();
        inputs.extend(wanted.inputs);
        let id = RunId::from_bits(random_bits()?);
        Ok(JobBuilder::new(id, wanted.program, policy)
            .args(wanted.args)
            .inputs(inputs)
            .demand(Demand {
                backend: self.backend.clone(),
                ..Demand::default()
            })
            .build()?)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(error: anyhow::Error) -> ToolError {
    ToolError::new(format!("{error:#}"))
}

impl Host for Here {
    fn instructions(&self) -> String {
        let mut text = "Runs code that nobody trusts in a sandbox without a network.".to_owned();
        for input in &self.inputs {
            text.push_str(&format!(" Every run finds {}.", input.path.as_str()));
        }
        text
    }

    async fn run(&self, call: &Call, wanted: Wanted) -> Result<Outcome, ToolError> {
        let job = self.job(wanted).map_err(shown)?;
        let cancel = Cancel::new();
        let (engine, stops) = (Arc::clone(&self.engine), cancel.clone());
        let ended = async {
            let place = self.places.acquire().await.map_err(ToolError::new)?;
            let run = tokio::task::spawn_blocking(move || engine.run(job, &mut |_| {}, &stops));
            let ended = run.await;
            drop(place);
            ended.map_err(|error| ToolError::new(format!("the run ended early: {error}")))
        };
        until_ended(ended, cancel, call).await
    }

    fn told(&self, outcome: Outcome) {
        let run = outcome.id.to_string();
        self.kept().keep(&run, outcome.artifacts);
    }

    async fn scan(&self, _call: &Call, wanted: Wanted) -> Result<String, ToolError> {
        let path = wanted.program.name.clone();
        let job = self.job(wanted).map_err(shown)?;
        let scanned = tokio::task::spawn_blocking(move || {
            let screening = match casemate_screen::clear(job, ScreenMode::Enforce) {
                Ok(cleared) => cleared.into_parts().1,
                Err(refused) => refused.1,
            };
            let scanned = Scanned {
                path: &path,
                screening: &screening,
            };
            report::text(&[scanned], Style::Plain)
        });
        let scanned = scanned.await;
        scanned.map_err(|error| ToolError::new(format!("screening ended early: {error}")))
    }

    async fn list(&self, _call: &Call) -> Result<Vec<Listed>, ToolError> {
        Ok(self.kept().list())
    }

    async fn read(&self, _call: &Call, address: &Address) -> Result<Artifact, ToolError> {
        let kept = self.kept();
        let file = kept.find(address);
        file.cloned()
            .ok_or_else(|| ToolError::unknown(&address.to_string()))
    }
}
