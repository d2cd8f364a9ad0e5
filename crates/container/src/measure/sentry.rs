//! gVisor from outside: its kernel, and the processes around it.

use casemate_driver::outside::{Found, Process};
use casemate_linux::Step;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::jail::wall as jail;
use casemate_linux::lockdown::wall;

use super::mounts::mount_lines;
use super::process::processes;
use crate::kind::Platform;
use crate::walls;

/// gVisor: the processes on the host are its kernel, the process that opens files for it, and the empty
/// ones in which it runs the guest's code. The guest's own processes are not to be seen from here.
/// Without a `platform` it is whichever its maker has chosen.
pub(crate) fn sentry(
    platform: Option<Platform>,
    pid: u32,
    group: Option<&Cgroup>,
    ours: &[u32],
) -> Vec<Step> {
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
            platform.map_or_else(
                || "gVisor's".to_owned(),
                |platform| format!("gVisor's, platform {}", platform.name()),
            ),
            || separate_kernel(platform, &Process::open(pid)?),
        ),
    ]
}

/// gVisor's kernel stands on an empty folder in which only a process file system is mounted.
pub(crate) fn empty_root(process: &Process) -> Found {
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

fn separate_kernel(platform: Option<Platform>, process: &Process) -> Found {
    const PLATFORM: &str = "--platform=";
    let pid = process.pid;
    let command = process.file("cmdline")?;
    let mut words = command.split('\0');
    let sandbox = words
        .next()
        .is_some_and(|word| word.ends_with("runsc-sandbox"));
    if !sandbox {
        return Err(format!("process {pid} is not gVisor's kernel"));
    }
    let found = words.find_map(|word| word.strip_prefix(PLATFORM));
    match (platform, found) {
        (Some(wanted), Some(found)) if wanted.name() == found => {}
        (None, _) => {}
        (Some(wanted), found) => {
            return Err(format!(
                "gVisor's kernel has the platform {found:?}, not {}",
                wanted.name()
            ));
        }
    }
    let found = found.unwrap_or("its default");
    Ok(format!(
        "process {pid} is gVisor's kernel, platform {found}"
    ))
}
