//! What stands around a container, read by the host from outside: the kernel's own files about its
//! processes. Nothing in here asks the runtime or the guest.

use std::collections::BTreeSet;

use casemate_driver::outside::{Found, Process};
use casemate_linux::Step;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::jail::wall as jail;
use casemate_linux::lockdown::wall;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::kind::{Kind, Platform};
use crate::walls;

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
            user_namespace(expected, p)
        }),
        look(jail::CGROUP_NAMESPACE, "not the host's", &cgroup),
        look(wall::IDENTITY, "a user of its own", &|p| {
            p.identity(expected.user)
        }),
        look(wall::NO_NEW_PRIVS, "on", &Process::no_new_privs),
        look(
            jail::ROOT,
            "read-only, nothing of the host's beside its software",
            &mounts,
        ),
    ]);
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
        return sentry(platform, pid, group, ours);
    }
    let process = Process::open(pid);
    let look = |wall: &'static str, asked: &str, check: &dyn Fn(&Process) -> Found| {
        Step::run(wall, asked, || {
            check(process.as_ref().map_err(Clone::clone)?)
        })
    };
    vec![
        look(wall::RLIMITS, "as in the plan", &|process| {
            set_open_files(expected, pid)?;
            rlimits(expected, process)
        }),
        look(
            wall::SECCOMP,
            "the filter of the jail, by libseccomp",
            &|process| {
                // Once more what could have changed with the program that was executed.
                process.no_capabilities()?;
                process.no_new_privs()?;
                process.identity(expected.user)?;
                process.filtered(None)
            },
        ),
        look(
            wall::DESCRIPTORS,
            "channels to the host alone",
            &descriptors,
        ),
        look(wall::NOT_DUMPABLE, "not looked into", &|process| {
            process.not_dumpable(expected.user)
        }),
    ]
}

/// A runtime cannot make a container with as few descriptors as a program may be given, so the limit is
/// set to what it is to be now.
fn set_open_files(expected: &Expected, pid: u32) -> Result<(), String> {
    let Some(files) = expected.open_files else {
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

/// That nothing was handed in with which one could read or climb.
fn descriptors(process: &Process) -> Found {
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

fn not_started(process: &Process) -> Found {
    let exe = process.exe()?;
    let name = exe.rsplit('/').next().unwrap_or_default();
    if name.starts_with("python") {
        return Err(format!("process {} already runs {exe}", process.pid));
    }
    Ok(format!("process {} is still the runtime's", process.pid))
}

fn network(process: &Process) -> Found {
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

fn pid_namespace(process: &Process) -> Found {
    let own = process.own_namespace("pid")?;
    Ok(format!(
        "{own}, its number in each: {}",
        process.says("NSpid").replace('\t', " ")
    ))
}

fn user_namespace(expected: &Expected, process: &Process) -> Found {
    let own = process.own_namespace("user")?;
    for map in ["uid_map", "gid_map"] {
        let text = process.file(map)?;
        let outside: BTreeSet<(String, String)> = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace().skip(1);
                Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
            })
            .collect();
        let wanted = [expected.root, expected.user].map(|id| (id.to_string(), "1".to_owned()));
        if outside != BTreeSet::from(wanted) {
            return Err(format!("{map} says {text:?}"));
        }
    }
    Ok(format!(
        "{own}: {} and {}, one each",
        expected.root, expected.user
    ))
}

fn rlimits(expected: &Expected, process: &Process) -> Found {
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
    if let Some(files) = expected.open_files {
        says("Max open files", files)?;
    }
    let files = expected
        .open_files
        .map_or("any number of".to_owned(), |n| n.to_string());
    Ok(format!("{files} descriptors, no core, read back"))
}

/// One line of a process's table of mounts.
struct MountLine<'a> {
    point: &'a str,
    options: &'a str,
    typ: &'a str,
}

fn mount_lines(text: &str) -> Vec<MountLine<'_>> {
    text.lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut front = front.split(' ').skip(4);
            Some(MountLine {
                point: front.next()?,
                options: front.next()?,
                typ: back.split(' ').next()?,
            })
        })
        .collect()
}

fn root(expected: &Expected, process: &Process) -> Found {
    check_mounts(&process.file("mountinfo")?, &expected.mounts)
}

/// Every mount is one that the bundle has, with the rights it is to have; whatever else the runtime
/// mounts of itself is a device or its own folder of devices.
fn check_mounts(text: &str, expected: &[(String, bool)]) -> Found {
    let lines = mount_lines(text);
    let has = |line: &MountLine<'_>, word: &str| line.options.split(',').any(|o| o == word);
    for (point, writable) in expected {
        let line = lines.iter().rfind(|line| line.point == *point);
        let line = line.ok_or_else(|| format!("nothing is mounted at {point}"))?;
        if has(line, "rw") != *writable {
            return Err(format!("{point} is mounted {}", line.options));
        }
        let bare = point != "/" && !(has(line, "nosuid") && has(line, "nodev"));
        if bare {
            return Err(format!("{point} could give rights: {}", line.options));
        }
    }
    for line in &lines {
        let known = expected.iter().any(|(point, _)| point == line.point);
        // A part of the system that is a file system of its own on the host comes with it.
        let below_usr = line.point.starts_with("/usr/") && has(line, "ro");
        let proc = line.point == "/proc" && line.typ == "proc";
        let devices = line.point == "/dev" && line.typ == "tmpfs";
        let device = ["null", "zero", "full", "tty", "random", "urandom"]
            .iter()
            .any(|name| line.point.strip_prefix("/dev/") == Some(name));
        if !(known || below_usr || proc || devices || device) {
            return Err(format!(
                "{} ({}) is mounted at {}",
                line.typ, line.options, line.point
            ));
        }
    }
    Ok(format!("{} mounts, all known; / is read-only", lines.len()))
}

/// gVisor: the processes on the host are its kernel, the process that opens files for it, and the empty
/// ones in which it runs the guest's code. The guest's own processes are not to be seen from here.
fn sentry(platform: Platform, pid: u32, group: Option<&Cgroup>, ours: &[u32]) -> Vec<Step> {
    let all = processes(group, ours);
    let each = |check: &dyn Fn(&Process) -> Result<(), String>| -> Result<usize, String> {
        let all = all.as_ref().map_err(Clone::clone)?;
        all.iter().try_for_each(check)?;
        Ok(all.len())
    };
    vec![
        Step::run(
            wall::SECCOMP,
            "gVisor's own filter around all its processes",
            || {
                let count = each(&|process| process.expect("Seccomp", "2"))?;
                Ok(format!("mode 2 of all {count} processes on the host"))
            },
        ),
        Step::run(wall::NO_NEW_PRIVS, "on", || {
            Process::open(pid)?.no_new_privs()?;
            Ok("on for the kernel's process".to_owned())
        }),
        Step::run(wall::IDENTITY, "nobody", || {
            let process = Process::open(pid)?;
            process.expect("Uid", "65534\t65534\t65534\t65534")?;
            process.no_capabilities()?;
            Ok("the kernel's process is nobody, without capabilities".to_owned())
        }),
        Step::run(
            jail::ROOT,
            "the kernel's process sees no file of the host's",
            || empty_root(&Process::open(pid)?),
        ),
        Step::run(
            walls::NETWORK,
            "none of its processes is in the host's network",
            || {
                let count = each(&|process| process.own_namespace("net").map(drop))?;
                Ok(format!("{count} processes looked at"))
            },
        ),
        Step::run(
            walls::KERNEL,
            format!("gVisor's, platform {}", platform.name()),
            || separate_kernel(platform, &Process::open(pid)?),
        ),
    ]
}

fn processes(group: Option<&Cgroup>, ours: &[u32]) -> Result<Vec<Process>, String> {
    let group = group.ok_or("there is no control group")?;
    let all = group
        .processes()
        .map_err(|error| format!("reading the group: {error}"))?;
    let mut found = Vec::new();
    for pid in all.into_iter().filter(|pid| !ours.contains(pid)) {
        // One that ends between the two looks is not there to be looked at.
        if let Ok(process) = Process::open(pid)
            && !process.says("State").starts_with(['Z', 'X'])
        {
            found.push(process);
        }
    }
    if found.is_empty() {
        return Err("there is no process in the group".to_owned());
    }
    Ok(found)
}

/// gVisor's kernel stands on an empty folder in which only a process file system is mounted.
fn empty_root(process: &Process) -> Found {
    let text = process.file("mountinfo")?;
    let lines = mount_lines(&text);
    let other = lines
        .iter()
        .find(|line| !matches!(line.typ, "tmpfs" | "proc"));
    match other {
        None => Ok(format!("{} mounts, memory and processes only", lines.len())),
        Some(line) => Err(format!("{} is mounted at {}", line.typ, line.point)),
    }
}

fn separate_kernel(platform: Platform, process: &Process) -> Found {
    let command = process.file("cmdline")?;
    let mut words = command.split('\0');
    let sandbox = words
        .next()
        .is_some_and(|word| word.ends_with("runsc-sandbox"));
    let named = format!("--platform={}", platform.name());
    if sandbox && words.any(|word| word == named) {
        return Ok(format!(
            "process {} is gVisor's kernel, {named}",
            process.pid
        ));
    }
    Err(format!(
        "process {} is not gVisor's kernel with {named}",
        process.pid
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
        check_mounts(TABLE, &expected()).unwrap();
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
            assert!(check_mounts(&changed, &expected()).is_err(), "{to}");
        }
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
