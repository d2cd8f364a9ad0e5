//! The jail as a process has it that makes many runs: jails made in advance, programs forked from a zygote.

use std::path::Path;

use anyhow::Context;
use casemate_backend::contract::{Backend, CreateError, Offer, Sandbox};
use casemate_backend::plan::Plan;
use casemate_engine::{Record, Records};
use casemate_jail::{JailBackend, Warm};
use casemate_model::receipt::Receipt;

/// The name under which warm starts are attacked, and under which the result is kept.
pub(crate) const NAME: &str = "jail-warm";
/// Zygotes at once, one a tenant, of about 110 MiB each.
const ZYGOTES: usize = 4;

/// The jail for a server that runs so many programs at once.
///
/// # Errors
/// Those of starting a thread, and of finding the cache.
pub(crate) fn jail(program: &Path, parallel: usize) -> anyhow::Result<JailBackend> {
    make(program, parallel, ZYGOTES)
}

fn make(program: &Path, spares: usize, zygotes: usize) -> anyhow::Result<JailBackend> {
    let jail = JailBackend::new(crate::run::systems()?, program);
    jail.warm(Warm { spares, zygotes })
        .context("starting the thread that makes jails in advance")
}

/// What is known of attacks on the jail counts for a server's only where warm starts were attacked too, for it
/// has both.
pub(crate) fn both(records: &mut Records) {
    let warm = Record::of(records, NAME);
    match Record::of(records, casemate_jail::NAME) {
        Record::Stood { .. } => drop(records.insert(casemate_jail::NAME.to_owned(), warm)),
        Record::None { .. } | Record::Fell { .. } => {}
    }
}

/// The jail with nothing but warm starts, under a name of its own: a run that would start cold does not start.
pub(crate) struct OnlyWarm(JailBackend);

impl OnlyWarm {
    /// One that makes no jails in advance: who counts what runs on this machine would count them.
    ///
    /// # Errors
    /// Those of [`jail`].
    pub(crate) fn new(program: &Path) -> anyhow::Result<Self> {
        make(program, 0, 1).map(Self)
    }
}

impl Backend for OnlyWarm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self) -> Offer {
        Offer {
            backend: NAME.to_owned(),
            ..self.0.probe()
        }
    }

    fn rests_on(&self) -> Vec<(String, String)> {
        self.0.rests_on()
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        self.0.wait_warm(&plan.tenant).map_err(CreateError::Fault)?;
        let (sandbox, receipt) = self.0.create(plan)?;
        if !casemate_jail::is_warm(&receipt) {
            return Err(CreateError::Fault(
                "the program would have started cold".to_owned(),
            ));
        }
        let backend = NAME.to_owned();
        Ok((sandbox, Receipt { backend, ..receipt }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_jail_was_attacked_when_both_its_starts_were() {
        let stood = || Record::Stood {
            on: "2026-01-01".to_owned(),
            stopped: 3,
            promised: 3,
        };
        let fell = || Record::Fell {
            on: "2026-01-02".to_owned(),
            attacks: vec!["fork_bomb".to_owned()],
        };
        let none = || Record::None {
            why: "something changed".to_owned(),
        };
        for (cold, warm, stands) in [
            (stood(), stood(), true),
            (stood(), fell(), false),
            (stood(), none(), false),
            (fell(), stood(), false),
            (none(), stood(), false),
        ] {
            let mut records: Records = [
                (casemate_jail::NAME.to_owned(), cold),
                (NAME.to_owned(), warm),
            ]
            .into();
            both(&mut records);
            let found = Record::of(&records, casemate_jail::NAME);
            assert_eq!(matches!(found, Record::Stood { .. }), stands, "{found:?}");
        }
        let mut only_cold: Records = [(casemate_jail::NAME.to_owned(), stood())].into();
        both(&mut only_cold);
        let found = Record::of(&only_cold, casemate_jail::NAME);
        assert!(matches!(found, Record::None { .. }), "{found:?}");
    }
}
