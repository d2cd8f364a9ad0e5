//! Where the time of a run goes.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use casemate_backend::contract::{Backend, Cancel};
use casemate_model::job::Job;
use casemate_model::outcome::Exit;
use casemate_model::policy::ScreenMode;
use serde::Serialize;

use super::guest::Sandboxes;
use super::stats::{Samples, Stats};

/// The parts of one program's run, measured in runs of their own.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    screen: Samples,
    prepare: Samples,
    create: Samples,
    run: Samples,
    guest: Samples,
    guest_cpu: Samples,
    faults: Samples,
}

/// One layer's share.
#[derive(Debug, Serialize)]
pub(crate) struct Layer {
    /// What is timed.
    pub(crate) layer: &'static str,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// How much of it.
    pub(crate) stats: Stats,
}

impl Layers {
    /// Runs a job once, stage by stage.
    pub(crate) fn measure(
        &mut self,
        sandboxes: &Sandboxes,
        job: &Job,
        cancel: &Cancel,
    ) -> anyhow::Result<()> {
        let copy = job.clone();
        let screened = self
            .screen
            .time_ms(|| casemate_screen::clear(copy, ScreenMode::Enforce));
        drop(screened.map_err(|_| anyhow!("screening refuses a program that is measured"))?);
        let copy = job.clone();
        let prepared = self.prepare.time_ms(|| sandboxes.engine.prepare(copy));
        let prepared = prepared
            .map_err(|outcome| anyhow!("not run: {}", crate::show::cause(&outcome.ending)))?;
        let plan = &prepared.plan;
        let faults = WorkerFaults::next(sandboxes);
        let created = self.create.time_ms(|| sandboxes.backend.create(plan));
        let (sandbox, _receipt) = created.context("making a sandbox")?;
        let begun = Instant::now();
        let finish = sandbox
            .run(plan, &mut |_| {}, cancel)
            .context("running a measured program")?;
        self.run.push_ms(begun.elapsed());
        anyhow::ensure!(
            finish.exit == Exit::Code(0),
            "a measured program ended with {:?}",
            finish.exit
        );
        if let Some(count) = faults.and_then(|faults| faults.since()) {
            self.faults.push(count);
        }
        self.guest.push(finish.usage.wall_us as f64 / 1e3);
        self.guest_cpu.push(finish.usage.cpu_us as f64 / 1e3);
        Ok(())
    }

    /// The layers in the order they happen.
    pub(crate) fn report(&self) -> Vec<Layer> {
        [
            (
                "screening (validation and static analysis)",
                "ms",
                &self.screen,
            ),
            ("screen, choose, plan", "ms", &self.prepare),
            (
                "take a worker, hand over, instantiate, report the walls",
                "ms",
                &self.create,
            ),
            ("run, observe, hand back", "ms", &self.run),
            ("of which the guest's own elapsed time", "ms", &self.guest),
            (
                "of which the guest's own processor time",
                "ms",
                &self.guest_cpu,
            ),
            (
                "page faults of the worker, from its taking to its return",
                "",
                &self.faults,
            ),
        ]
        .into_iter()
        .filter_map(|(layer, unit, samples)| {
            Some(Layer {
                layer,
                unit,
                stats: samples.stats()?,
            })
        })
        .collect()
    }
}

/// Page faults that needed no disk, of the workers of which one serves a measured run.
struct WorkerFaults {
    pids: Vec<u32>,
    count: u64,
}

impl WorkerFaults {
    /// The backend's workers before a run.
    fn next(sandboxes: &Sandboxes) -> Option<Self> {
        let pids = sandboxes.backend.idle_pids();
        let count = faults_of(&pids)?;
        Some(Self { pids, count })
    }

    /// How many more there are now.
    fn since(&self) -> Option<f64> {
        let more = faults_of(&self.pids)?.checked_sub(self.count)?;
        u32::try_from(more).ok().map(f64::from)
    }
}

/// The faults of several processes together; none when one is gone.
fn faults_of(pids: &[u32]) -> Option<u64> {
    pids.iter()
        .map(|&pid| minor_faults(&std::fs::read_to_string(stat(pid)).ok()?))
        .sum()
}

fn stat(pid: u32) -> String {
    format!("/proc/{pid}/stat")
}

/// The tenth field of `/proc/PID/stat`. The second may hold anything, up to its last parenthesis.
fn minor_faults(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(7)?.parse().ok()
}

/// What a warm run does not pay: a new worker process, locked down and with the guest mapped.
pub(crate) fn start_worker(sandboxes: &Sandboxes, samples: &mut Samples) -> anyhow::Result<()> {
    let idle = sandboxes.backend.idle_pids().len();
    let started = samples.time_ms(|| Arc::clone(&sandboxes.backend).prefork(idle + 1));
    started.context("starting a worker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_behind_any_name() {
        let stat = "12 (a ) b) S 1 12 12 0 -1 4194304 1234 0 5 0 9 9 0 0 20 0 3 0 1 1 1\n";
        assert_eq!(minor_faults(stat), Some(1234));
        assert_eq!(minor_faults("12 (x) S 1"), None);
        let own = std::fs::read_to_string(super::stat(std::process::id())).unwrap();
        assert!(minor_faults(&own).unwrap() > 0);
    }
}
