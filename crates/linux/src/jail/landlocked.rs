//! Landlock for a jail: what the mounts allow, said once more by paths.

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus,
    Scope,
};

use super::Network;
use crate::lockdown::wall;
use crate::step::{Step, failed};
use crate::sys;

const NEWEST: ABI = ABI::V10;

/// What may be read and executed, where it is there, beside what the system brought.
const SYSTEM: [&str; 2] = ["/opt", "/etc"];
/// What may be read.
const READABLE: [&str; 2] = ["/data", "/run"];
/// What may be written.
const WRITABLE: [&str; 4] = ["/tmp", "/work", "/dev/shm", "/home/user"];
/// Terminals, where there are some.
const TERMINALS: [&str; 1] = ["/dev/pts"];
/// What may be opened both ways.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];
/// A file that everybody may read but for Landlock.
pub(super) const WITNESS: &str = "/proc/self/status";
/// The same where that one may be read: an empty file that the root has for nothing else, by its name in it.
pub(super) const WITNESS_FILE: &str = "dev/.witness";
/// What shows processes, where they may be read of.
const PROC: &str = "/proc";
/// What is asked, and since which version of the interface.
const ROWS: [(&str, &str, i64); 3] = [
    (
        wall::LANDLOCK_FILES,
        "reading the system and the inputs, writing scratch",
        1,
    ),
    (wall::LANDLOCK_NETWORK, "every right, no port", 4),
    (wall::LANDLOCK_SCOPES, "abstract sockets and signals", 6),
];

/// Rules that are made and hold for nobody yet.
#[derive(Debug)]
pub(super) struct Rules {
    made: Result<RulesetCreated, String>,
    network: Network,
    /// Whether what `/proc` shows may be read.
    has_proc: bool,
}

impl Rules {
    /// Makes them of the paths as this process sees them. `system` may be read and executed.
    pub(super) fn make(system: &[String], has_proc: bool, network: Network) -> Self {
        let made = ruleset(system, has_proc, network).map_err(|error| error.to_string());
        Self {
            made,
            network,
            has_proc,
        }
    }

    /// The same rules for another process to put itself under; none where the kernel has no Landlock.
    pub(super) fn descriptor(&self) -> Option<OwnedFd> {
        self.made.as_ref().ok()?.try_clone().ok()?.into()
    }
}

/// What stands for a process that was put under the rules and could not read the witness after it.
pub fn standing(how: &str) -> Vec<Step> {
    let abi = sys::landlock_abi().unwrap_or_default();
    let row = |(wall, asked, since)| {
        Step::run(wall, asked, || {
            if abi >= since {
                Ok(format!("ABI {abi}; {how}"))
            } else {
                Err(format!("the kernel has ABI {abi}, this needs {since}"))
            }
        })
    };
    ROWS.into_iter().map(row).collect()
}

pub(super) fn restrict(rules: Rules, steps: &mut Vec<Step>) {
    let network = rules.network;
    let witness = if rules.has_proc {
        format!("/{WITNESS_FILE}")
    } else {
        WITNESS.to_owned()
    };
    let status = restricted(rules);
    let abi = sys::landlock_abi().unwrap_or_default();
    for (wall, asked, since) in ROWS {
        steps.push(Step::run(wall, asked, || match &status {
            Ok(()) if wall == wall::LANDLOCK_NETWORK && network == Network::Loopback => {
                Err("the sandbox's own loopback is open to it".to_owned())
            }
            Ok(()) if abi >= since => {
                if wall == wall::LANDLOCK_FILES {
                    refuses_the_witness(&witness)?;
                }
                Ok(format!("ABI {abi}"))
            }
            Ok(()) => Err(format!("the kernel has ABI {abi}, this needs {since}")),
            Err(error) => Err(error.clone()),
        }));
    }
}

fn refuses_the_witness(witness: &str) -> Result<(), String> {
    match std::fs::read(witness) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(failed(
            &format!("{witness} failed, but not by a refusal"),
            error,
        )),
        Ok(_) => Err(format!("{witness} can still be read")),
    }
}

fn restricted(rules: Rules) -> Result<(), String> {
    let status = rules.made?.restrict_self().map_err(|e| e.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("landlock is built in but switched off at boot".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => Err("the kernel has no landlock".to_owned()),
        _ if status.no_new_privs => Ok(()),
        _ => Err("no_new_privs is off".to_owned()),
    }
}

fn ruleset(
    system: &[String],
    has_proc: bool,
    network: Network,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let all = AccessFs::from_all(NEWEST);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?;
    if network == Network::Nothing {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut ruleset = ruleset.scope(Scope::from_all(NEWEST))?.create()?;
    // Every folder may be listed: the root holds only what is the jail's.
    let system: Vec<&str> = system.iter().map(String::as_str).collect();
    let both = AccessFs::ReadFile | AccessFs::WriteFile;
    let proc: &[&str] = if has_proc { &[PROC] } else { &[] };
    let rules: [(&[&str], BitFlags<AccessFs>); 8] = [
        (&["/"], AccessFs::ReadDir.into()),
        (&system, read | AccessFs::Execute),
        (&SYSTEM, read | AccessFs::Execute),
        (&READABLE, read),
        (proc, read),
        (&WRITABLE, all & !devices),
        (&DEVICES, both),
        (&TERMINALS, both | AccessFs::ReadDir | AccessFs::IoctlDev),
    ];
    for (paths, access) in rules {
        for path in paths {
            // A path that is not there needs no rule, and without one it is refused.
            if let Ok(fd) = PathFd::new(path) {
                ruleset = ruleset.add_rule(PathBeneath::new(fd, access))?;
            }
        }
    }
    Ok(ruleset)
}
