//! What stands around a container that a daemon made: read from the same files, once our own driver is up
//! in it and waits for the word. Nothing in here asks the daemon.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use casemate_driver::walls as shared;
use casemate_linux::Step;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::jail::{Network, wall as jail};
use casemate_linux::lockdown::wall;

use super::checks::{descriptors, filtered, identity, network, pid_namespace, rlimits};
use super::mounts::{MountLine, check_mounts, mount_lines};
use casemate_driver::outside::{Found, Process};

use super::process::processes;
use super::sentry::{empty_root, sentry};
use crate::walls;

/// Parts of the stage that are file systems of their own, and where each is shown.
const OWN: [(&str, &str); 5] = [
    ("data", "/data"),
    ("run", "/run"),
    ("tmp", "/tmp"),
    ("work", "/work"),
    ("dev/shm", "/dev/shm"),
];
/// Names in `/proc` that are processes, or lead to what is of one.
const OF_PROCESSES: [&str; 4] = ["self", "thread-self", "net", "mounts"];
/// What of `/dev` is shown.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "shm"];

/// The container's name, as a daemon puts it into the environment.
const HOSTNAME: &str = "HOSTNAME=casemate";

/// What is expected of a container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    /// The daemon's name for it, which its control group has too.
    pub(crate) id: &'a str,
    /// Where its files were staged.
    pub(crate) place: &'a Path,
    pub(crate) user: u32,
    pub(crate) open_files: Option<u64>,
    pub(crate) processors: usize,
    /// Where something is mounted, and whether it may be written.
    pub(crate) mounts: &'a [(String, bool)],
    /// Every variable that was asked for.
    pub(crate) environment: &'a [String],
}

/// Every name in `/proc` that is the machine's and not a process's, by its path.
pub(crate) fn of_the_machine() -> Result<Vec<String>, String> {
    let failed = |error| format!("/proc: {error}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let process = name.starts_with(|c: char| c.is_ascii_digit());
        if !process && !OF_PROCESSES.contains(&&*name) {
            found.push(format!("/proc/{name}"));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// On the host's kernel: process 1 and the driver are both ours, and are all there is.
pub(crate) fn shared(expected: &Expected<'_>, pid: u32, group: &Cgroup) -> Vec<Step> {
    let first = Process::open(pid);
    let one = |wall: &'static str, asked: &str, check: &dyn Fn(&Process) -> Found| {
        Step::run(wall, asked, || check(first.as_ref().map_err(Clone::clone)?))
    };
    let all = processes(Some(group), &[]);
    let each = |wall: &'static str, asked: &str, check: &dyn Fn(&Process) -> Found| {
        Step::run(wall, asked, || {
            let all = all.as_ref().map_err(Clone::clone)?;
            let said = all.iter().map(check).collect::<Result<Vec<_>, _>>()?;
            Ok(said.into_iter().next_back().unwrap_or_default())
        })
    };
    let own = |wall: &'static str, kind: &'static str| {
        each(wall, "not the host's", &|p| p.own_namespace(kind))
    };
    let table = |p: &Process| p.file("mountinfo");
    // And the name, which our driver takes out again.
    let mut environment = expected.environment.to_vec();
    environment.push(HOSTNAME.to_owned());
    vec![
        one(walls::DAEMON, DAEMON_ASKED, &|p| here(expected, p, p)),
        each(wall::NETWORK_NAMESPACE, "a network of its own", &network),
        own(wall::IPC_NAMESPACE, "ipc"),
        own(wall::UTS_NAMESPACE, "uts"),
        own(wall::MOUNT_NAMESPACE, "mnt"),
        own(wall::USER_NAMESPACE, "user"),
        own(jail::CGROUP_NAMESPACE, "cgroup"),
        each(jail::PID_NAMESPACE, "not the host's", &pid_namespace),
        each(
            wall::CAPABILITIES,
            "none in any set",
            &Process::no_capabilities,
        ),
        each(wall::IDENTITY, "a user of its own", &|p| {
            identity(expected.user, p)
        }),
        each(wall::NO_NEW_PRIVS, "on", &Process::no_new_privs),
        each(
            wall::SECCOMP,
            "the filter of the jail, by libseccomp",
            &|p| filtered(Network::Nothing, p),
        ),
        each(
            shared::ENVIRONMENT,
            "the interpreter's, none of the host's",
            &|p| p.environment(&environment),
        ),
        each(wall::RLIMITS, "as in the plan", &|p| {
            rlimits(expected.open_files, p)
        }),
        each(
            wall::DESCRIPTORS,
            "channels to the host alone",
            &descriptors,
        ),
        each(wall::NOT_DUMPABLE, "not looked into", &|p| {
            p.not_dumpable(expected.user)
        }),
        each(
            jail::ROOT,
            "read-only, nothing of the host's beside its software",
            &|p| check_mounts(&table(p)?, expected.mounts, &is_harmless),
        ),
        one(jail::PROC, "processes of the container only", &|p| {
            covered(&table(p)?, &of_the_machine()?)
        }),
        one(jail::DEVICES, "five, and no terminal", &|p| {
            devices(&table(p)?)
        }),
        member_step(pid, group),
        affinity(expected, pid),
    ]
}

/// On gVisor's kernel.
pub(crate) fn gvisor(expected: &Expected<'_>, pid: u32, group: &Cgroup) -> Vec<Step> {
    let mut steps = sentry(None, pid, Some(group), &[]);
    steps.retain(|step| step.wall != jail::ROOT);
    let kernel = Process::open(pid);
    let look = |wall: &'static str, asked: &str, check: &dyn Fn(&Process) -> Found| {
        Step::run(wall, asked, || {
            check(kernel.as_ref().map_err(Clone::clone)?)
        })
    };
    let gofer = gofer(group);
    let files = || gofer.as_ref().map_err(Clone::clone);
    steps.extend([
        look(walls::DAEMON, DAEMON_ASKED, &|p| here(expected, p, files()?)),
        // A process's environment in there is not to be seen from outside.
        look(
            shared::ENVIRONMENT,
            "the interpreter's, none of the host's",
            &|_| Ok(format!(
                    "{} variables of the request's",
                    expected.environment.len()
                )),
        ),
        look(wall::NETWORK_NAMESPACE, "a network of its own", &network),
        look(wall::IPC_NAMESPACE, "not the host's", &|p| {
            p.own_namespace("ipc")
        }),
        look(wall::UTS_NAMESPACE, "not the host's", &|p| {
            p.own_namespace("uts")
        }),
        look(wall::MOUNT_NAMESPACE, "not the host's", &|p| {
            p.own_namespace("mnt")
        }),
        look(wall::USER_NAMESPACE, "not the host's", &|p| {
            p.own_namespace("user")
        }),
        look(
            jail::PID_NAMESPACE,
            "the kernel's process is not in the host's",
            &pid_namespace,
        ),
        look(
            wall::CAPABILITIES,
            "none of the kernel's process",
            &Process::no_capabilities,
        ),
        look(
            jail::ROOT,
            "the kernel sees no file, and who opens them for it none of the host's beside its software",
            &|p| {
                empty_root(p)?;
                let table = files()?.file("mountinfo")?;
                check_mounts(&table, expected.mounts, &|_| false)
            },
        ),
        member_step(pid, group),
        affinity(expected, pid),
    ]);
    steps
}

const DAEMON_ASKED: &str = "the container is on this machine and shows what was staged for it";

/// A daemon elsewhere, or in another view of the files, could have made anything. `with_files` is the
/// process that has the container's mounts.
fn here(expected: &Expected<'_>, process: &Process, with_files: &Process) -> Found {
    let groups = process.file("cgroup")?;
    if !groups.lines().any(|line| line.contains(expected.id)) {
        return Err(format!(
            "process {} is not the container's: its control group has another name",
            process.pid
        ));
    }
    let table = with_files.file("mountinfo")?;
    let lines = mount_lines(&table);
    for (part, point) in OWN {
        let path = expected.place.join(part);
        let staged = std::fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let (major, minor) = (
            rustix::fs::major(staged.dev()),
            rustix::fs::minor(staged.dev()),
        );
        let shown = lines.iter().rfind(|line| line.point == point);
        if shown.is_none_or(|line| line.device != format!("{major}:{minor}")) {
            return Err(format!("what is at {point} is not what was staged for it"));
        }
    }
    Ok("its processes are here, and show the very file systems that were staged".to_owned())
}

/// A name in `/proc` that is covered with nothing.
fn is_cover(line: &MountLine<'_>) -> bool {
    line.typ == "tmpfs" && line.has("ro") && line.root == "/" || line.root == "/null"
}

fn is_harmless(line: &MountLine<'_>) -> bool {
    line.point.starts_with("/proc/") && is_cover(line)
}

fn covered(table: &str, machine: &[String]) -> Found {
    let lines = mount_lines(table);
    for name in machine {
        let line = lines.iter().rfind(|line| line.point == *name);
        if !line.is_some_and(is_cover) {
            return Err(format!("{name} is shown"));
        }
    }
    Ok(format!(
        "{} names of the machine's are covered",
        machine.len()
    ))
}

fn devices(table: &str) -> Found {
    for line in mount_lines(table) {
        let name = line.point.strip_prefix("/dev/");
        if name.is_some_and(|name| !DEVICES.contains(&name)) {
            return Err(format!("{} is there", line.point));
        }
    }
    Ok("null, zero, full, random, urandom; read-only".to_owned())
}

/// The name a process was started by.
fn started_as(process: &Process) -> Found {
    let command = process.file("cmdline")?;
    let first = command.split('\0').next().unwrap_or_default();
    Ok(first.to_owned())
}

/// The process that opens files for gVisor's kernel.
fn gofer(group: &Cgroup) -> Result<Process, String> {
    let all = processes(Some(group), &[])?;
    let mut found = all
        .into_iter()
        .filter(|process| started_as(process).is_ok_and(|name| name == "runsc-gofer"));
    found
        .next()
        .ok_or_else(|| "nobody opens files for gVisor's kernel".to_owned())
}

fn member_step(pid: u32, group: &Cgroup) -> Step {
    Step::run(
        walls::MEMBERSHIP,
        "its processes are in the control group",
        || Process::open(pid)?.member(Some(group)),
    )
}

/// The set of processors that the daemon was told of holds for all its processes.
fn affinity(expected: &Expected<'_>, pid: u32) -> Step {
    let asked = format!("{} processors", expected.processors);
    Step::run(jail::AFFINITY, asked, || {
        let process = Process::open(pid)?;
        let list = process.says("Cpus_allowed_list").to_owned();
        match count_of(&list) {
            Some(count) if count <= expected.processors => Ok(format!("processors {list}")),
            _ => Err(format!("processors {list}")),
        }
    })
}

/// How many numbers are in a list such as `0,2-3`.
fn count_of(list: &str) -> Option<usize> {
    list.split(',').try_fold(0_usize, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_counted() {
        for (list, count) in [
            ("0", Some(1)),
            ("0,2-3", Some(3)),
            ("", None),
            ("3-1", None),
        ] {
            assert_eq!(count_of(list), count, "{list}");
        }
    }

    #[test]
    fn each_name_of_the_machines_is_to_be_covered() {
        let machine = of_the_machine().unwrap();
        assert!(machine.contains(&"/proc/version".to_owned()));
        assert!(!machine.iter().any(|name| name.ends_with("self")));
        let table = "1 0 0:5 / /proc rw - proc proc rw\n\
            2 1 0:6 / /proc/sys ro - tmpfs tmpfs ro\n\
            3 1 0:7 /null /proc/version rw - devtmpfs devtmpfs rw\n";
        let two = ["/proc/sys".to_owned(), "/proc/version".to_owned()];
        covered(table, &two).unwrap();
        for (from, to) in [
            ("/proc/sys ro", "/proc/sys rw"),
            ("/null", "/zero"),
            ("/proc/version", "/proc/other"),
        ] {
            assert!(covered(&table.replace(from, to), &two).is_err(), "{to}");
        }
    }

    #[test]
    fn a_process_of_this_machines_is_no_container() {
        let expected = Expected {
            id: "0123456789abcdef",
            place: Path::new("/nonexistent"),
            user: 7,
            open_files: None,
            processors: 1,
            mounts: &[],
            environment: &[],
        };
        let own = Process::open(std::process::id()).unwrap();
        let why = here(&expected, &own, &own).unwrap_err();
        assert!(why.contains("another name"), "{why}");
    }

    #[test]
    fn a_device_too_many_is_told() {
        let five =
            "1 0 0:5 / /dev ro - tmpfs none rw\n2 1 0:6 /null /dev/null rw - devtmpfs d rw\n";
        devices(five).unwrap();
        let more = format!("{five}3 1 0:8 / /dev/pts rw - devpts devpts rw\n");
        assert!(devices(&more).unwrap_err().contains("/dev/pts"));
    }
}
