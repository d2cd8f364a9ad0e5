//! What stands around a container, read by the host from outside: the kernel's own files about its
//! processes. Nothing in here asks the runtime or the guest.

use std::path::Path;

use casemate_linux::Step;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::jail::{Network, procfs, wall as jail};
use casemate_linux::lockdown::wall;
use casemate_linux::processor::wall as processor;

use casemate_driver::system::AGENT;
use casemate_driver::walls as shared;

use crate::kind::Kind;
use crate::walls;

mod checks;
pub(crate) mod docker;
mod mounts;
mod process;
mod sentry;

use casemate_driver::outside::{Found, Process};

use checks::{
    descriptors, filtered, identity, loopback_is_up, network, pid_namespace, rlimits,
    set_open_files, user_namespace,
};
use mounts::{
    MountLine, check_mounts, is_text_in_proc, only_scratch_is_writable, only_texts_in_proc,
    own_terminals,
};
use process::processes;
use sentry::sentry;

/// What is expected of the container's first process.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) kind: Kind,
    /// Its user outside.
    pub(crate) user: u32,
    /// Root of its user namespace outside.
    pub(crate) root: u32,
    pub(crate) open_files: Option<u64>,
    /// Where something is mounted, and whether it may be written.
    pub(crate) mounts: Vec<(String, bool)>,
    /// The file system that was staged as scratch, by its device number: nothing else may be written.
    pub(crate) scratch: u64,
    /// Every variable of the environment.
    pub(crate) environment: Vec<String>,
    /// Whether an agent lives in it.
    pub(crate) lived_in: bool,
}

impl Expected {
    const fn network(&self) -> Network {
        if self.lived_in {
            Network::Loopback
        } else {
            Network::Nothing
        }
    }
}

/// What stands when the runtime has made the container and has not started it.
pub(crate) fn created(expected: &Expected, pid: u32, group: Option<&Cgroup>) -> Vec<Step> {
    let process = Process::open(pid);
    let look = |wall: &'static str, asked: &str, check: &dyn Fn(&Process) -> Found| {
        Step::run(wall, asked, || {
            check(process.as_ref().map_err(Clone::clone)?)
        })
    };
    let mut steps = vec![
        look(walls::CREATED, "made and not started", &not_started),
        look(wall::NETWORK_NAMESPACE, "a network of its own", &|p| {
            let own = network(p)?;
            if expected.lived_in {
                loopback_is_up(p)?;
            }
            Ok(own)
        }),
        look(wall::IPC_NAMESPACE, "not the host's", &|p| {
            p.own_namespace("ipc")
        }),
        look(wall::UTS_NAMESPACE, "not the host's", &|p| {
            p.own_namespace("uts")
        }),
        look(wall::MOUNT_NAMESPACE, "not the host's", &|p| {
            p.own_namespace("mnt")
        }),
        look(jail::PID_NAMESPACE, "not the host's", &pid_namespace),
        look(
            wall::CAPABILITIES,
            "none in any set",
            &Process::no_capabilities,
        ),
        Step::run(
            walls::MEMBERSHIP,
            "its processes are in the control group",
            || process.as_ref().map_err(Clone::clone)?.member(group),
        ),
    ];
    if expected.kind.is_gvisor() {
        steps.push(look(wall::USER_NAMESPACE, "not the host's", &|p| {
            p.own_namespace("user")
        }));
        return steps;
    }
    let cgroup = |p: &Process| p.own_namespace("cgroup");
    let mounts = |p: &Process| root(expected, p);
    steps.extend([
        look(wall::USER_NAMESPACE, "two users, nobody else's", &|p| {
            user_namespace([expected.root, expected.user], p)
        }),
        look(jail::CGROUP_NAMESPACE, "not the host's", &cgroup),
        look(wall::IDENTITY, "a user of its own", &|p| {
            identity(expected.user, p)
        }),
        look(wall::NO_NEW_PRIVS, "on", &Process::no_new_privs),
        look(
            jail::ROOT,
            "read-only, nothing of the host's beside its software",
            &mounts,
        ),
    ]);
    if expected.lived_in {
        steps.push(look(
            jail::PROC,
            "processes of the container, and texts of our own",
            &process_file_system,
        ));
    }
    steps
}

/// What stands when the interpreter is up and the program has not begun. `ours` are processes of the
/// keeper's in the same group.
pub(crate) fn started(
    expected: &Expected,
    pid: u32,
    group: Option<&Cgroup>,
    ours: &[u32],
) -> Vec<Step> {
    if let Kind::Gvisor(platform) = expected.kind {
        let mut steps = sentry(Some(platform), pid, group, ours);
        steps.extend(set_apart(&processes(group, ours)));
        return steps;
    }
    let process = Process::open(pid);
    let look = |wall: &'static str, asked: &str, check: &dyn Fn(&Process) -> Found| {
        Step::run(wall, asked, || {
            check(process.as_ref().map_err(Clone::clone)?)
        })
    };
    let mut steps = vec![
        look(wall::RLIMITS, "as in the plan", &|process| {
            set_open_files(expected.open_files, pid)?;
            rlimits(expected.open_files, process)
        }),
        look(
            wall::SECCOMP,
            "the filter of the jail, by libseccomp",
            &|process| {
                // Once more what could have changed with the program that was executed.
                process.no_capabilities()?;
                process.no_new_privs()?;
                identity(expected.user, process)?;
                filtered(expected.network(), process)
            },
        ),
        look(
            shared::ENVIRONMENT,
            "the interpreter's, none of the host's",
            &|process| process.environment(&expected.environment),
        ),
        look(
            wall::DESCRIPTORS,
            "channels to the host alone",
            &descriptors,
        ),
        look(wall::NOT_DUMPABLE, "not looked into", &|process| {
            process.not_dumpable(expected.user)
        }),
    ];
    steps.extend(set_apart(&process.map(|process| vec![process])));
    steps
}

/// What each of them inherited of the keeper.
fn set_apart(all: &Result<Vec<Process>, String>) -> [Step; 2] {
    let each = |check: fn(&Process) -> Found| {
        let all = all.as_ref().map_err(Clone::clone)?;
        let mut found = all.iter().map(check);
        found.try_fold(String::new(), |_, found| found)
    };
    [
        Step::run(processor::SPECULATION, "as in the keeper", || {
            each(Process::speculation)
        }),
        Step::run(processor::CORE_SCHEDULING, "as in the keeper", || {
            each(Process::core_scheduling)
        }),
    ]
}

fn not_started(process: &Process) -> Found {
    let exe = process.exe()?;
    let name = exe.rsplit('/').next().unwrap_or_default();
    if name.starts_with("python") || exe == AGENT {
        return Err(format!("process {} already runs {exe}", process.pid));
    }
    Ok(format!("process {} is still the runtime's", process.pid))
}

fn root(expected: &Expected, process: &Process) -> Found {
    let table = process.file("mountinfo")?;
    let lived_in = expected.lived_in;
    let harmless =
        |line: &MountLine<'_>| lived_in && (is_text_in_proc(line) || line.is_terminals());
    let found = check_mounts(&table, &expected.mounts, &harmless)?;
    if lived_in {
        own_terminals(&table, &process_table("self")?)?;
    }
    only_scratch_is_writable(&table, &expected.mounts, expected.scratch)?;
    Ok(found)
}

fn process_table(of: &str) -> Result<String, String> {
    let path = format!("/proc/{of}/mountinfo");
    std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

/// What the kernel says of it, and then what is found in it under each name that this machine's own has.
fn process_file_system(process: &Process) -> Found {
    only_texts_in_proc(&process.file("mountinfo")?)?;
    let names = procfs::names(Path::new("/proc"))?;
    let at = format!("/proc/{}/root/proc", process.pid);
    procfs::only_processes(Path::new(&at), &names)?;
    Ok(format!(
        "subset=pid, hidepid=2, read-only; of {} names of the machine's none but ours",
        names.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "9 1 0:5 / / ro,relatime - tmpfs none rw\n\
        10 9 0:6 / /usr ro,nosuid,nodev - ext4 x rw\n\
        11 9 0:7 / /proc rw,nosuid - proc proc rw\n\
        12 9 0:8 /tmp /tmp rw,nosuid,nodev - tmpfs none rw\n\
        13 9 0:9 / /dev rw,nosuid - tmpfs tmpfs rw\n\
        14 13 0:10 /null /dev/null rw - devtmpfs d rw\n";

    fn expected() -> Vec<(String, bool)> {
        [("/", false), ("/usr", false), ("/tmp", true)]
            .map(|(point, writable)| (point.to_owned(), writable))
            .to_vec()
    }

    #[test]
    fn a_table_of_mounts_is_held_against_the_bundle() {
        check_mounts(TABLE, &expected(), &|_| false).unwrap();
        for (from, to) in [
            ("/usr ro", "/usr rw"),
            ("/ ro", "/ rw"),
            ("/tmp rw,nosuid,nodev", "/tmp rw,nodev"),
            ("/tmp rw", "/tmp2 rw"),
            ("/dev/null", "/dev/sda"),
            ("/dev/null", "/host"),
            ("/proc rw,nosuid - proc", "/proc rw,nosuid - ext4"),
        ] {
            let changed = TABLE.replace(from, to);
            assert!(
                check_mounts(&changed, &expected(), &|_| false).is_err(),
                "{to}"
            );
        }
    }

    #[test]
    fn what_can_be_written_is_the_staged_scratch() {
        let device = rustix::fs::makedev(0, 8);
        only_scratch_is_writable(TABLE, &expected(), device).unwrap();
        let other = rustix::fs::makedev(0, 6);
        let why = only_scratch_is_writable(TABLE, &expected(), other).unwrap_err();
        assert!(why.contains("/tmp"), "{why}");
    }

    const LIVED_IN: &str = "11 9 0:7 / /proc ro,nosuid,nodev,noexec - proc proc rw,hidepid=invisible,subset=pid\n\
        12 11 0:9 /sys /proc/sys ro,nosuid,nodev,noexec - tmpfs none ro\n\
        13 11 0:9 /stat /proc/stat ro,nosuid,nodev,noexec - tmpfs none ro\n\
        14 9 0:30 / /dev/pts rw,nosuid,noexec - devpts devpts rw,mode=620,ptmxmode=666\n";

    #[test]
    fn proc_shows_texts_of_ours_and_is_told_to_show_processes() {
        only_texts_in_proc(LIVED_IN).unwrap();
        for (from, to) in [
            (",subset=pid", ""),
            ("hidepid=invisible,", ""),
            ("/proc ro,", "/proc rw,"),
            ("/proc/sys ro,", "/proc/sys rw,"),
            ("/proc/stat ro", "/proc/kcore ro"),
            ("- tmpfs none ro\n", "- ext4 none ro\n"),
            (" /proc ", " /proc2 "),
        ] {
            let changed = LIVED_IN.replace(from, to);
            assert!(only_texts_in_proc(&changed).is_err(), "{to}");
        }
    }

    #[test]
    fn terminals_are_not_the_hosts() {
        own_terminals(LIVED_IN, "9 1 0:31 / /dev/pts rw - devpts d rw\n").unwrap();
        let why = own_terminals(LIVED_IN, "9 1 0:30 / /dev/pts rw - devpts d rw\n").unwrap_err();
        assert!(why.contains("host"), "{why}");
        assert!(own_terminals("", "").is_err());
    }

    #[test]
    fn this_process_is_in_the_hosts_namespaces_and_so_fails() {
        let own = Process::open(std::process::id()).unwrap();
        for kind in ["net", "mnt", "user", "pid"] {
            assert!(own.own_namespace(kind).is_err(), "{kind}");
        }
        let expected = Expected {
            kind: Kind::Crun,
            user: 7,
            root: 8,
            // Given, it would be set.
            open_files: None,
            mounts: expected(),
            scratch: 0,
            environment: vec!["NOBODY=1".to_owned()],
            lived_in: true,
        };
        let walls = created(&expected, std::process::id(), None);
        let standing: Vec<_> = walls.iter().filter(|step| step.stands()).collect();
        assert!(
            standing.iter().all(|step| step.wall == walls::CREATED),
            "{standing:?}"
        );
        let walls = started(&expected, std::process::id(), None, &[]);
        assert!(
            walls
                .iter()
                .all(|step| step.wall == wall::NOT_DUMPABLE || !step.stands())
        );
    }
}
