//! What runs handed back, for as long as there is room for it.

use std::collections::VecDeque;

use casemate_model::result::Artifact;
use casemate_server::mcp::{Address, Listed};

/// Runs whose files are kept.
const RUNS: usize = 32;
/// Bytes of all of them.
const BYTES: usize = 256 << 20;

/// The files of the last runs, in memory: they are gone with this process.
#[derive(Debug, Default)]
pub(super) struct Kept(VecDeque<(String, Vec<Artifact>)>);

impl Kept {
    /// Keeps a run's files, and lets go of the oldest where there are too many.
    pub(super) fn keep(&mut self, run: &str, artifacts: Vec<Artifact>) {
        if artifacts.is_empty() {
            return;
        }
        self.0.push_front((run.to_owned(), artifacts));
        while self.0.len() > RUNS || (self.0.len() > 1 && self.bytes() > BYTES) {
            self.0.pop_back();
        }
    }

    fn bytes(&self) -> usize {
        let all = self.0.iter().flat_map(|(_, artifacts)| artifacts);
        all.map(|artifact| artifact.bytes.len()).sum()
    }

    /// All of them, the latest run's first.
    pub(super) fn list(&self) -> Vec<Listed> {
        let runs = self.0.iter().flat_map(|(run, artifacts)| {
            let artifacts = artifacts.iter().enumerate();
            artifacts.map(move |(index, artifact)| Listed::of(run, index, artifact))
        });
        runs.collect()
    }

    /// The file at this address.
    pub(super) fn find(&self, address: &Address) -> Option<&Artifact> {
        let Address::Artifact { run, index } = address else {
            return None;
        };
        let (_, artifacts) = self.0.iter().find(|(id, _)| id == run)?;
        artifacts.get(*index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: usize) -> Vec<Artifact> {
        vec![Artifact {
            path: "/tmp/x".to_owned(),
            bytes: vec![0; bytes],
        }]
    }

    fn at(run: &str, index: usize) -> Address {
        let run = run.to_owned();
        Address::Artifact { run, index }
    }

    #[test]
    fn the_oldest_make_room() {
        let mut kept = Kept::default();
        for run in 0..RUNS + 3 {
            kept.keep(&run.to_string(), file(1));
        }
        assert!(kept.find(&at("2", 0)).is_none());
        assert!(kept.find(&at("3", 0)).is_some());
        kept.keep("large", file(BYTES));
        assert_eq!(
            kept.list().len(),
            1,
            "the latest stays, however large it is"
        );
        assert!(kept.find(&at("large", 1)).is_none());
    }
}
