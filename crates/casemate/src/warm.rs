//! The jail as a process has it that makes many runs: jails made in advance, programs forked from a zygote.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use casemate_backend::contract::Backend;
use casemate_backend::plan::Plan;
use casemate_engine::Records;
use casemate_jail::{JailBackend, Warm};

use crate::only::{Only, counts_only_with};

/// Tenants that have zygotes at once; those of one have about 130 MiB.
const ZYGOTES: usize = 4;

/// Which zygote a program is forked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// The one that has the libraries.
    Libraries,
    /// The one that has none.
    Small,
}

impl Start {
    /// Both.
    const ALL: [Self; 2] = [Self::Libraries, Self::Small];

    /// The name under which such starts are attacked, and under which the result is kept.
    const fn name(self) -> &'static str {
        match self {
            Self::Libraries => "jail-warm",
            Self::Small => "jail-warm-small",
        }
    }
}

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
/// has them all.
pub(crate) fn all_starts(records: &mut Records) {
    for from in Start::ALL {
        counts_only_with(records, casemate_jail::NAME, from.name());
    }
}

/// The jail with nothing but starts from one of its zygotes, once for each, under names of their own. They make no jails
/// in advance: who counts what runs on this machine would count them.
///
/// # Errors
/// Those of [`jail`].
pub(crate) fn only_warm(program: &Path) -> anyhow::Result<Vec<Arc<dyn Backend>>> {
    let only = |from: Start| {
        Ok(Arc::new(Only {
            name: from.name(),
            backend: make(program, 0, 1)?,
            ready: match from {
                Start::Libraries => |jail, plan| ready(jail, plan, None),
                Start::Small => |jail, plan| ready(jail, plan, Some(BTreeSet::new())),
            },
            began: casemate_jail::is_warm,
        }) as Arc<dyn Backend>)
    };
    Start::ALL.into_iter().map(only).collect()
}

/// Waits for the zygotes of a plan's tenant, and makes the plan that of a program which loads this.
fn ready(
    jail: &JailBackend,
    plan: &mut Plan,
    loads: Option<BTreeSet<String>>,
) -> Result<(), String> {
    jail.wait_warm(&plan.tenant)?;
    plan.loads = loads;
    Ok(())
}

#[cfg(test)]
mod tests {
    use casemate_engine::Record;

    use super::*;

    #[test]
    fn a_servers_jail_was_attacked_when_all_its_starts_were() {
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
        for (cold, warm, small, stands) in [
            (stood(), stood(), stood(), true),
            (stood(), fell(), stood(), false),
            (stood(), stood(), fell(), false),
            (stood(), none(), stood(), false),
            (stood(), stood(), none(), false),
            (fell(), stood(), stood(), false),
            (none(), stood(), stood(), false),
        ] {
            let mut records: Records = [
                (casemate_jail::NAME.to_owned(), cold),
                (Start::Libraries.name().to_owned(), warm),
                (Start::Small.name().to_owned(), small),
            ]
            .into();
            all_starts(&mut records);
            let found = Record::of(&records, casemate_jail::NAME);
            assert_eq!(matches!(found, Record::Stood { .. }), stands, "{found:?}");
        }
        let mut only_cold: Records = [(casemate_jail::NAME.to_owned(), stood())].into();
        all_starts(&mut only_cold);
        let found = Record::of(&only_cold, casemate_jail::NAME);
        assert!(
            matches!(&found, Record::None { why } if why.contains("--backend jail-warm`")),
            "{found:?}"
        );
    }
}
