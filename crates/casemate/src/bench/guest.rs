//! Runs in the sandbox, as the measurements need them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::ensure;
use casemate_backend::contract::{Backend, Cancel, Signal};
use casemate_engine::{Engine, policies};
use casemate_model::job::{GuestPath, Input, Job, JobBuilder, Language, Program, RunId};
use casemate_model::outcome::Outcome;
use casemate_model::policy::{Policy, ScreenMode};
use casemate_wasm::WasmBackend;
use casemate_wasm::setup::Store;
use casemate_watch::AlertRules;

use super::programs::{CHART, PNG, READ_CSV, ROWS};
use super::speed::contains;

/// The policy that measurements of the WASM guest run under: the one the headline job has.
const POLICY: &str = "data-analysis";
/// And those of native backends: the same without the clock that none of them can have.
const NATIVE: &str = "native";
/// Where the guest sees the table.
pub(crate) const TABLE: &str = "/data/table.csv";

/// An engine with a hold on its one backend.
pub(crate) struct Sandboxes<B = WasmBackend> {
    pub(crate) engine: Engine,
    pub(crate) backend: Arc<B>,
    policy: Policy,
    next: AtomicU64,
}

/// What is to be run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) code: &'a str,
    pub(crate) args: &'a [&'a str],
    /// What the guest finds at [`TABLE`].
    pub(crate) table: Option<&'a Arc<[u8]>>,
}

impl Sandboxes {
    /// Over what set-up has made, with screening on or off and so many workers waiting.
    pub(crate) fn new(store: &Store, screen: ScreenMode, workers: usize) -> anyhow::Result<Self> {
        let backend = WasmBackend::new(store.clone(), "/proc/self/exe");
        backend.prefork(workers)?;
        Self::over(backend, POLICY, screen)
    }
}

impl<B: Backend + 'static> Sandboxes<B> {
    /// Over a native backend, with screening on.
    pub(crate) fn native(backend: B) -> anyhow::Result<Self> {
        Self::over(backend, NATIVE, ScreenMode::Enforce)
    }

    fn over(backend: B, policy: &str, screen: ScreenMode) -> anyhow::Result<Self> {
        let backend = Arc::new(backend);
        let engine = Engine::new(
            vec![backend.clone() as Arc<dyn Backend>],
            AlertRules::embedded()?,
        );
        let preset = policies::preset(policy)?;
        let policy =
            preset.ok_or_else(|| anyhow::anyhow!("the preset {policy} is gone from this build"))?;
        Ok(Self {
            engine,
            backend,
            policy: Policy { screen, ..policy },
            next: AtomicU64::new(0),
        })
    }

    /// A job; its number is its id, for nothing of it outlives the measurement.
    pub(crate) fn job(&self, ask: Ask<'_>) -> anyhow::Result<Job> {
        let id = RunId::from_bits(self.next.fetch_add(1, Ordering::Relaxed));
        let program = Program {
            source: ask.code.as_bytes().to_vec(),
            name: "main.py".to_owned(),
            language: Language::Python,
        };
        let inputs = ask.table.map(|bytes| {
            let path = GuestPath::input(TABLE)?;
            anyhow::Ok(Input {
                path,
                bytes: bytes.clone(),
            })
        });
        Ok(JobBuilder::new(id, program, self.policy.clone())
            .args(ask.args.iter().map(|&arg| arg.to_owned()).collect())
            .inputs(inputs.into_iter().collect::<anyhow::Result<_>>()?)
            .build()?)
    }

    /// The table read and described.
    pub(crate) fn read_csv(&self, table: &Arc<[u8]>) -> anyhow::Result<Job> {
        self.job(Ask {
            code: READ_CSV,
            args: &[TABLE],
            table: Some(table),
        })
    }

    /// A chart drawn.
    pub(crate) fn chart(&self) -> anyhow::Result<Job> {
        self.job(Ask {
            code: CHART,
            args: &["/tmp/chart.png"],
            ..Ask::default()
        })
    }

    pub(crate) fn run(
        &self,
        job: Job,
        listen: &mut dyn FnMut(&Signal),
        cancel: &Cancel,
    ) -> Outcome {
        self.engine.run(job, listen, cancel)
    }

    /// A run that must succeed.
    pub(crate) fn must(&self, job: Job, cancel: &Cancel) -> anyhow::Result<Outcome> {
        let outcome = self.run(job, &mut |_| {}, cancel);
        succeeded(&outcome)?;
        Ok(outcome)
    }
}

/// That the whole table was described.
pub(crate) fn described(outcome: &Outcome) -> anyhow::Result<()> {
    ensure!(
        contains(&outcome.stdout, b"10000.0"),
        "{ROWS} rows were not described in the sandbox"
    );
    Ok(())
}

/// That a chart came back.
pub(crate) fn drawn(outcome: &Outcome) -> anyhow::Result<()> {
    let mut artifacts = outcome.artifacts.iter();
    ensure!(
        artifacts.any(|artifact| artifact.bytes.starts_with(PNG)),
        "no chart came back from the sandbox"
    );
    Ok(())
}

/// That a measured run did what it should: a failure is not fast, it is a failure.
pub(crate) fn succeeded(outcome: &Outcome) -> anyhow::Result<()> {
    ensure!(
        outcome.ending.is_success(),
        "a measured program failed in the sandbox: {}{}",
        crate::show::cause(&outcome.ending),
        outcome
            .error
            .as_ref()
            .map(|error| format!(" ({}: {})", error.name, error.value))
            .unwrap_or_default()
    );
    Ok(())
}
