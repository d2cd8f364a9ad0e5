//! After a rest of some tenths of a second the kernel takes milliseconds before it moves a process between groups. That
//! wait can be had beforehand, beside what else a start does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::Layout;

/// No process has this number: the kernel's largest is 2^22.
const NOBODY: &str = "2147483647";
/// How long the kernel stays ready at least.
const STAYS: Duration = Duration::from_millis(15);

/// Has the kernel get ready to move processes between groups, in a thread of its own; what moves one soon after waits less
/// or not at all. Nothing is moved: a process that there cannot be is asked for, which the kernel finds out only when it
/// is ready. What fails here is told where a process is moved.
pub fn rouse() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_some_and(|last| last.elapsed() < STAYS) {
        return;
    }
    let started = std::thread::Builder::new().name("rouse".to_owned());
    let started = started.spawn(|| drop(procs().map(ask)));
    *last = started.ok().map(|_| Instant::now());
}

/// The file that a process's number is written to, where the kernel is not ready at all times.
fn procs() -> Option<&'static Path> {
    static PROCS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PROCS.get_or_init(|| {
        let layout = Layout::detect().ok()?;
        let waits = layout.quick_moves().is_err();
        let own = layout.own().filter(|_| waits)?;
        Some(own.join("cgroup.procs"))
    });
    found.as_deref()
}

/// How the kernel answers.
fn ask(procs: &Path) -> io::Result<()> {
    super::write_existing(procs, NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_for_and_nothing_is_moved() {
        let own = || std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let before = own();
        let layout = Layout::detect().unwrap();
        let Some(group) = layout.own() else {
            eprintln!("skipped: this machine has no control groups");
            return;
        };
        let answer = ask(&group.join("cgroup.procs")).unwrap_err();
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::io::Errno::SRCH.raw_os_error();
            assert_eq!(answer.raw_os_error(), Some(nobody));
        }
        rouse();
        assert_eq!(own(), before);
    }
}
