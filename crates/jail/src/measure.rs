//! What stands around a process that was forked from a zygote, read by the host from outside, when it has
//! come into its jail and before it is told to begin.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use casemate_driver::outside::{Found, Process};
use casemate_driver::walls::ENVIRONMENT;
use casemate_linux::Step;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::jail::enter::{Call, filters};
use casemate_linux::jail::{Confinement, landlock_standing, rlimits, wall as jail};
use casemate_linux::lockdown::{Identity, wall};
use casemate_linux::processor::wall as processor;

use crate::walls::MEMBERSHIP;

/// How long process 1 may take to leave its children to the kernel.
const HELD_WITHIN: Duration = Duration::from_secs(2);
/// The number of `SIGCHLD` in a set of signals.
const SIGCHLD: u32 = 17;

/// What is expected of the process.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    /// Its number here.
    pub(crate) pid: u32,
    /// Process 1 of its jail.
    pub(crate) init: u32,
    /// Its parent.
    pub(crate) zygote: u32,
    pub(crate) confinement: &'a Confinement,
    /// What it was told to call.
    pub(crate) calls: &'a [Call],
    /// Its descriptors from 0 on.
    pub(crate) descriptors: [BorrowedFd<'a>; 4],
    pub(crate) cgroup: Option<&'a Cgroup>,
    /// Every variable of its environment.
    pub(crate) environment: &'a [String],
}

/// Looks at it.
pub(crate) fn entered(expected: &Expected<'_>) -> Vec<Step> {
    let both = Process::open(expected.pid).and_then(|own| Ok((own, Process::open(expected.init)?)));
    let look = |wall: &'static str, asked: &str, check: &dyn Fn(&Process, &Process) -> Found| {
        Step::run(wall, asked, || {
            let (own, init) = both.as_ref().map_err(Clone::clone)?;
            check(own, init).map(|found| format!("measured: {found}"))
        })
    };
    let shared =
        |kind: &'static str| move |own: &Process, init: &Process| own.shares_namespace(init, kind);
    let mut steps = vec![
        look(wall::SINGLE_THREAD, "one thread", &|own, _| {
            own.single_thread()
        }),
        look(wall::NO_NEW_PRIVS, "on", &|own, _| own.no_new_privs()),
        look(
            wall::DESCRIPTORS,
            "its streams and its channel",
            &|own, _| descriptors(own, &expected.descriptors),
        ),
        look(wall::NETWORK_NAMESPACE, "the jail's", &shared("net")),
        look(wall::IPC_NAMESPACE, "the jail's", &shared("ipc")),
        look(wall::UTS_NAMESPACE, "the jail's", &shared("uts")),
        look(jail::CGROUP_NAMESPACE, "the jail's", &shared("cgroup")),
        look(wall::MOUNT_NAMESPACE, "the jail's", &shared("mnt")),
        look(
            jail::PID_NAMESPACE,
            "the jail's, a session of its own",
            &|own, init| processes(own, init, expected.zygote),
        ),
        look(jail::ROOT, "the jail's", &|own, init| {
            own.shares_root(init)?;
            Ok("the root that process 1 made, and no other file open".to_owned())
        }),
        look(jail::AFFINITY, "as in the plan", &|own, _| {
            processors(own, expected.confinement.processors)
        }),
        look(wall::RLIMITS, "as in the plan", &|own, _| {
            own.limited(&rlimits(expected.confinement))
        }),
        look(wall::IDENTITY, "the jail's user", &|own, _| {
            identity(own, expected.confinement)
        }),
        look(wall::CAPABILITIES, "none in any set", &|own, _| {
            own.no_capabilities()
        }),
        look(wall::NOT_DUMPABLE, "dumpable 0", &|own, _| {
            own.not_dumpable(user(expected.confinement)?)
        }),
        look(processor::SPECULATION, "as in process 1", &|own, _| {
            own.speculation()
        }),
        look(processor::CORE_SCHEDULING, "a cookie", &|own, _| {
            own.core_scheduling()
        }),
        look(wall::SECCOMP, "the jail's filter", &|own, _| {
            own.filtered(filters(expected.calls))
        }),
        look(
            ENVIRONMENT,
            "the plan's and the interpreter's",
            &|own, _| own.environment(expected.environment),
        ),
        // The kernel shows neither of the rest; the process has told that it made the calls.
        look(wall::DIES_WITH_PARENT, "SIGKILL", &|_, _| {
            Ok("the zygote lives; by the process's own account before its program".to_owned())
        }),
    ];
    if expected.cgroup.is_some() {
        steps.push(look(MEMBERSHIP, "the jail's control groups", &|own, _| {
            own.member(expected.cgroup)
        }));
    }
    steps.extend(landlock_standing(
        "by the process's own account before its program, which could not read what it hides",
    ));
    steps
}

/// Each descriptor is the file that we hold the other end of, and there is no further one.
fn descriptors(own: &Process, expected: &[BorrowedFd<'_>]) -> Found {
    let wanted = expected.iter().zip(0u32..).map(|(fd, number)| {
        let stat = rustix::fs::fstat(fd).map_err(|error| format!("fstat: {error}"))?;
        Ok((number, (stat.st_dev, stat.st_ino)))
    });
    let wanted: BTreeMap<u32, (u64, u64)> = wanted.collect::<Result<_, String>>()?;
    let found = own.descriptors()?;
    if found == wanted {
        return Ok(format!("{}, each the one it was given", found.len()));
    }
    let numbers: Vec<u32> = found.keys().copied().collect();
    Err(format!("it has {numbers:?}, of which some are others"))
}

/// A child of the zygote in the process table of the jail, whose process 1 waits for nobody.
fn processes(own: &Process, init: &Process, zygote: u32) -> Found {
    let table = own.shares_namespace(init, "pid")?;
    own.expect("PPid", &zygote.to_string())?;
    let session = own.leads_a_session()?;
    let deadline = Instant::now() + HELD_WITHIN;
    loop {
        let init = Process::open(init.pid)?;
        let ignored = u64::from_str_radix(init.says("SigIgn"), 16).unwrap_or_default();
        if ignored >> (SIGCHLD - 1) & 1 == 1 {
            return Ok(format!("{table}; {session}"));
        }
        if Instant::now() > deadline {
            return Err("process 1 does not leave its children to the kernel".to_owned());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn processors(own: &Process, wanted: usize) -> Found {
    let digits = own.says("Cpus_allowed").replace(',', "");
    let allowed: u32 = digits
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(u32::count_ones)
        .sum();
    if allowed as usize <= wanted {
        return Ok(format!("{allowed} shown"));
    }
    Err(format!("{allowed} are shown, not {wanted}"))
}

fn user(confinement: &Confinement) -> Result<u32, String> {
    match confinement.identity {
        Identity::Fixed { uid, .. } => Ok(uid),
        Identity::Private => Err("its user is not known".to_owned()),
    }
}

fn identity(own: &Process, confinement: &Confinement) -> Found {
    own.identity(user(confinement)?)
}

/// The steps of process 1, with what was measured of the program's own process in their place. What process
/// 1 lacks is lacking, whatever the other has: they share the jail.
///
/// # Errors
/// The first wall that the process lacks and process 1 does not.
pub(crate) fn merge(steps: Vec<Step>, measured: Vec<Step>) -> Result<Vec<Step>, String> {
    let (mut all, lacking): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(Step::stands);
    for step in measured {
        if lacking.iter().any(|other| other.wall == step.wall) {
            continue;
        }
        match &step.got {
            Ok(_) => all.retain(|other| other.wall != step.wall),
            Err(why) => return Err(format!("{}: {why}", step.wall)),
        }
        all.push(step);
    }
    all.extend(lacking);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(wall: &'static str, got: Result<&str, &str>) -> Step {
        Step::run(wall, "asked", || {
            got.map(str::to_owned).map_err(str::to_owned)
        })
    }

    #[test]
    fn a_wall_stands_only_where_process_1_and_the_program_have_it() {
        let steps = || {
            vec![
                step("root", Ok("made")),
                step("seccomp", Ok("its own")),
                step("identity", Err("refused")),
            ]
        };
        let measured = vec![
            step("seccomp", Ok("mode 2")),
            step("identity", Ok("user 7")),
        ];
        let merged = merge(steps(), measured).unwrap();
        let of = |wall: &str| merged.iter().find(|step| step.wall == wall).unwrap();
        assert_eq!(of("seccomp").got.as_deref(), Ok("mode 2"));
        assert!(of("root").stands() && !of("identity").stands());
        assert_eq!(merged.len(), 3);
        let error = merge(steps(), vec![step("seccomp", Err("mode 0"))]).unwrap_err();
        assert_eq!(error, "seccomp: mode 0");
        assert!(merge(steps(), vec![step("cgroup_membership", Err("out"))]).is_err());
    }
}
