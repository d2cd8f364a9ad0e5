//! Landlock with everything handled and nothing allowed.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreated, RulesetError, RulesetStatus, Scope,
};

use super::wall;
use crate::step::{Step, failed};
use crate::sys;

/// The newest set of rights this build knows. What the kernel does not know is left out, and the
/// steps say so.
const NEWEST: ABI = ABI::V10;

pub(super) fn restrict(steps: &mut Vec<Step>) {
    let begun = std::time::Instant::now();
    let status = restricted();
    let verified = [refuses_files(), refuses_network(), Ok(())];
    let took = begun.elapsed();
    let abi = sys::landlock_abi().unwrap_or_default();
    let rows = [
        (wall::LANDLOCK_FILES, "every right, no path", 1, files(abi)),
        (
            wall::LANDLOCK_NETWORK,
            "every right, no port",
            4,
            network(abi),
        ),
        (
            wall::LANDLOCK_SCOPES,
            "abstract sockets and signals",
            6,
            "both".to_owned(),
        ),
    ];
    for ((wall, asked, since, how), verified) in rows.into_iter().zip(verified) {
        let got = match &status {
            Ok(()) if abi >= since => verified.map(|()| format!("ABI {abi}: {how}")),
            Ok(()) => Err(format!("the kernel has ABI {abi}, this needs {since}")),
            Err(error) => Err(error.clone()),
        };
        steps.push(Step::run(wall, asked, || got));
    }
    if let Some(first) = steps
        .iter_mut()
        .find(|step| step.wall == wall::LANDLOCK_FILES)
    {
        first.took = took;
    }
}

fn files(abi: i64) -> String {
    let mut missing = Vec::new();
    for (since, right) in [
        (2, "refer"),
        (3, "truncate"),
        (5, "device ioctl"),
        (9, "named sockets"),
    ] {
        if abi < since {
            missing.push(right);
        }
    }
    with_missing("reading, writing, executing and making files", &missing)
}

fn network(abi: i64) -> String {
    let missing: &[&str] = if abi < 10 { &["UDP"] } else { &[] };
    with_missing("TCP bind and connect", missing)
}

fn with_missing(have: &str, missing: &[&str]) -> String {
    if missing.is_empty() {
        return have.to_owned();
    }
    format!("{have}; not known to this kernel: {}", missing.join(", "))
}

/// Asks for what must now be refused, while the filter still lets the question through.
pub(super) fn refuses_files() -> Result<(), String> {
    refused(std::fs::read_dir("/").map(drop), "reading /")
}

fn refuses_network() -> Result<(), String> {
    let any = std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0);
    refused(
        std::net::TcpListener::bind(any).map(drop),
        "binding a TCP port",
    )
}

fn refused(answer: std::io::Result<()>, what: &str) -> Result<(), String> {
    match answer {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(failed(
            &format!("{what} failed, but not by a refusal"),
            error,
        )),
        Ok(()) => Err(format!("{what} is still allowed")),
    }
}

fn restricted() -> Result<(), String> {
    let status = ruleset().and_then(RulesetCreated::restrict_self);
    enforced(status.map_err(|error| error.to_string())?)
}

/// Whether the kernel took the rules, by what it says of them.
pub(super) fn enforced(status: RestrictionStatus) -> Result<(), String> {
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("landlock is built in but switched off at boot".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => Err("the kernel has no landlock".to_owned()),
        _ if status.no_new_privs => Ok(()),
        _ => Err("no_new_privs is off".to_owned()),
    }
}

/// Every right that is known, handled, and none of them given.
pub(super) fn ruleset() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()
}
