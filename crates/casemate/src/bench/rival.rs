//! The peers of a measurement: the same program run by a native Python and by the guest's own runner.

use std::time::Duration;

use casemate_backend::contract::Cancel;

use super::process::{Done, Program};
use super::report::Cell;
use super::stats::{Samples, due};
use super::stop_if_cancelled;

/// How long one run of a peer may take, the first included, which may compile.
pub(crate) const PEER_WITHIN: Duration = Duration::from_secs(600);

/// One program run by one peer.
pub(crate) struct Rival {
    pub(crate) program: Program,
    /// What a run must have printed or written.
    check: Box<dyn Fn(&Done) -> bool>,
    runs: usize,
    samples: Samples,
    pub(crate) failed: Option<String>,
}

/// Runs of a peer whose first one took this long: enough for a median, few enough to wait for.
fn runs_of(first: Duration, rounds: usize) -> usize {
    match first.as_millis() {
        0..250 => rounds,
        250..1500 => rounds.min(10),
        _ => rounds.min(5),
    }
}

impl Rival {
    pub(crate) fn new(program: Program, check: impl Fn(&Done) -> bool + 'static) -> Self {
        Self {
            program,
            check: Box::new(check),
            runs: 0,
            samples: Samples::default(),
            failed: None,
        }
    }

    fn once(&mut self, cancel: &Cancel) -> anyhow::Result<Duration> {
        let done = self.program.run(PEER_WITHIN, cancel)?;
        stop_if_cancelled(cancel)?;
        if !done.succeeded() {
            self.failed = Some(done.why());
        } else if !(self.check)(&done) {
            self.failed = Some("it ended well without the result it should have".to_owned());
        }
        Ok(done.elapsed)
    }

    /// An untimed run: caches are filled, and what cannot run here is found out.
    pub(crate) fn warm_up(&mut self, rounds: usize, cancel: &Cancel) -> anyhow::Result<()> {
        self.once(cancel)?;
        let second = if self.failed.is_none() {
            self.once(cancel)?
        } else {
            Duration::MAX
        };
        self.runs = runs_of(second, rounds);
        Ok(())
    }

    pub(crate) fn round(
        &mut self,
        round: usize,
        rounds: usize,
        cancel: &Cancel,
    ) -> anyhow::Result<()> {
        if self.failed.is_none() && due(round, self.runs, rounds) {
            let elapsed = self.once(cancel)?;
            self.samples.push_ms(elapsed);
        }
        Ok(())
    }

    fn cell(&self) -> Cell {
        match (&self.failed, self.samples.stats()) {
            (Some(why), _) => Cell::Absent(why.clone()),
            (None, Some(stats)) => Cell::Measured(stats),
            (None, None) => Cell::Absent("nothing was measured".to_owned()),
        }
    }
}

/// A peer, or why there is none.
pub(crate) type Side = Result<Rival, String>;

pub(crate) const NO_PYTHON: &str = "no native Python was given (--python)";
pub(crate) const NO_RUNNER: &str = "the guest's own runner was not given (--runner)";

pub(crate) fn side_cell(side: &Side) -> Cell {
    side.as_ref()
        .map_or_else(|why| Cell::Absent(why.clone()), Rival::cell)
}

/// The two peers of one line.
pub(crate) struct Pair {
    pub(crate) native: Side,
    pub(crate) runner: Side,
}

impl Pair {
    pub(crate) fn each(
        &mut self,
        mut act: impl FnMut(&mut Rival) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        [&mut self.native, &mut self.runner]
            .into_iter()
            .flatten()
            .try_for_each(&mut act)
    }

    pub(crate) fn cells(&self) -> [Cell; 2] {
        [side_cell(&self.native), side_cell(&self.runner)]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn slow_peers_run_less_often() {
        let runs = |ms, rounds| runs_of(Duration::from_millis(ms), rounds);
        assert_eq!(
            [runs(20, 30), runs(600, 30), runs(2500, 30), runs(2500, 3)],
            [30, 10, 5, 3]
        );
    }

    #[test]
    fn a_rival_that_fails_or_lacks_its_result_is_absent_with_the_reason() {
        let shell = |code: &str| Program::new(Path::new("/bin/sh"), ["-c", code]);
        let cell = |code: &str, found: bool| {
            let mut rival = Rival::new(shell(code), move |_| found);
            let cancel = Cancel::new();
            rival.warm_up(2, &cancel).unwrap();
            (0..2).for_each(|round| rival.round(round, 2, &cancel).unwrap());
            rival.cell()
        };
        assert!(matches!(cell("exit 0", true), Cell::Measured(stats) if stats.n == 2));
        assert_eq!(
            cell("echo no pandas >&2; exit 1", true),
            Cell::Absent("no pandas".into())
        );
        assert!(
            matches!(cell("exit 0", false), Cell::Absent(why) if why.contains("without the result"))
        );
    }
}
