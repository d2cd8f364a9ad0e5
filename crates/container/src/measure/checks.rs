//! One look at one process each: how the wall stands, or what is missing.

use std::collections::BTreeSet;

use casemate_driver::outside::{Found, Process};
use casemate_linux::jail::Network;
use casemate_linux::seccomp::installed::Installed;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// A runtime cannot make a container with as few descriptors as a program may be given, so the limit is
/// set to what it is to be now.
pub(crate) fn set_open_files(open_files: Option<u64>, pid: u32) -> Result<(), String> {
    let Some(files) = open_files else {
        return Ok(());
    };
    let limit = Rlimit {
        current: Some(files),
        maximum: Some(files),
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Nofile, limit)
        .map(drop)
        .map_err(|error| format!("prlimit: {error}"))
}

/// That the kernel holds filters for it which let nothing through that those of a jail with this network would not: each
/// is read back and run.
pub(crate) fn filtered(network: Network, process: &Process) -> Found {
    process.expect("Seccomp", "2")?;
    let installed = Installed::of(process.pid)
        .map_err(|error| format!("its filters cannot be read back: {error}"))?;
    if installed.count() == 0 {
        let why = "the kernel shows none of its filters (it takes CONFIG_CHECKPOINT_RESTORE)";
        return Err(why.to_owned());
    }
    let beyond = installed.beyond_the_jail(network)?;
    if let Some(first) = beyond.first() {
        return Err(format!(
            "{first} and {} more calls are let through",
            beyond.len() - 1
        ));
    }
    Ok(format!(
        "mode 2, {} filters, read back: no call beyond the jail's",
        installed.count()
    ))
}

/// That nothing was handed in with which one could read or climb.
pub(crate) fn descriptors(process: &Process) -> Found {
    let folder = format!("/proc/{}/fd", process.pid);
    let failed = |error| format!("{folder}: {error}");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let link = std::fs::read_link(&path).map_err(failed)?;
        let link = link.to_string_lossy();
        // Standard input is a file of the container's own, read-only for everybody.
        if !["socket:", "pipe:", "/dev/null", "/run/casemate/stdin"]
            .iter()
            .any(|kind| link.starts_with(kind))
        {
            return Err(format!("{} is {link}", path.display()));
        }
        count += 1;
    }
    Ok(format!("{count}, each a socket, a pipe or its input"))
}

pub(crate) fn network(process: &Process) -> Found {
    let own = process.own_namespace("net")?;
    let devices = process.file("net/dev")?;
    let devices: Vec<&str> = devices
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim())
        .filter(|name| *name != "lo")
        .collect();
    // A first line of headings, then one for every route.
    let routes = process.file("net/route")?.lines().skip(1).count();
    if devices.is_empty() && routes == 0 {
        return Ok(format!("{own}: the loopback alone, no route"));
    }
    Err(format!("it has {} and {routes} routes", devices.join(", ")))
}

/// Its address is in the kernel's table only where the device is up.
pub(crate) fn loopback_is_up(process: &Process) -> Result<(), String> {
    let table = process.file("net/fib_trie")?;
    let mut addresses = table.lines().filter_map(|line| line.split("-- ").nth(1));
    match addresses.any(|address| address.trim() == "127.0.0.1") {
        true => Ok(()),
        false => Err("its loopback is not up".to_owned()),
    }
}

pub(crate) fn pid_namespace(process: &Process) -> Found {
    let own = process.own_namespace("pid")?;
    Ok(format!(
        "{own}, its number in each: {}",
        process.says("NSpid").replace('\t', " ")
    ))
}

pub(crate) fn user_namespace(outside: [u32; 2], process: &Process) -> Found {
    let own = process.own_namespace("user")?;
    for map in ["uid_map", "gid_map"] {
        let text = process.file(map)?;
        let found: BTreeSet<(String, String)> = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace().skip(1);
                Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
            })
            .collect();
        let wanted = outside.map(|id| (id.to_string(), "1".to_owned()));
        if found != BTreeSet::from(wanted) {
            return Err(format!("{map} says {text:?}"));
        }
    }
    Ok(format!(
        "{own}: {} and {}, one each",
        outside[0], outside[1]
    ))
}

pub(crate) fn identity(user: u32, process: &Process) -> Found {
    let user = user.to_string();
    let four = [user.as_str(); 4].join("\t");
    process.expect("Uid", &four)?;
    process.expect("Gid", &four)?;
    // Its own group may be named a second time.
    let groups = process.says("Groups");
    if !groups.is_empty() && groups != user {
        return Err(format!("process {} is in the groups {groups}", process.pid));
    }
    Ok(format!("user and group {user}, no other group"))
}

pub(crate) fn rlimits(open_files: Option<u64>, process: &Process) -> Found {
    let text = process.file("limits")?;
    let says = |name: &str, amount: u64| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.ok_or_else(|| format!("{name} is not among its limits"))?;
        let mut numbers = line.split_whitespace();
        let both = [numbers.next(), numbers.next()];
        if both == [Some(amount.to_string().as_str()); 2] {
            return Ok(());
        }
        Err(format!("{name} is {}", line.trim()))
    };
    says("Max core file size", 0)?;
    says("Max locked memory", 0)?;
    if let Some(files) = open_files {
        says("Max open files", files)?;
    }
    let files = open_files.map_or("any number of".to_owned(), |n| n.to_string());
    Ok(format!("{files} descriptors, no core, read back"))
}
