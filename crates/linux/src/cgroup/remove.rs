//! Taking groups down.

use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Layout, write_existing};

/// The kernel lets a group go only when the last process in it is really gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kills everything in a group. Processes that end meanwhile are not an error.
pub(super) fn kill_all(dir: &Path) -> io::Result<()> {
    // On version 1 what is frozen dies only when it is thawed. A group of another hierarchy has no such file.
    thaw_v1(dir)?;
    match write_existing(&dir.join("cgroup.kill"), "1") {
        Ok(()) => return Ok(()),
        // Version 1 and kernels before 5.14 do not have it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for pid in members(dir)? {
        kill_member(dir, pid)?;
    }
    Ok(())
}

/// Lets a group of version 1's freezer go on.
pub(super) fn thaw_v1(dir: &Path) -> io::Result<()> {
    match write_existing(&dir.join("freezer.state"), "THAWED") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The number may have been given to another process since it was read, so it is looked for once
/// more while a pidfd holds on to whoever it names.
fn kill_member(dir: &Path, pid: Pid) -> io::Result<()> {
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !members(dir)?.contains(&pid) {
        return Ok(());
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn members(dir: &Path) -> io::Result<Vec<Pid>> {
    let text = match std::fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let numbers = text.lines().filter_map(|line| line.trim().parse().ok());
    // Zero stands for a process outside our namespace, which `from_raw` refuses.
    Ok(numbers
        .filter(|n| *n > 0)
        .filter_map(Pid::from_raw)
        .collect())
}

/// Kills and removes a group, then its parent if that was the last.
pub(super) fn remove(layout: &Layout, dir: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        match layout.rmdir(dir) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) if Instant::now() >= deadline => {
                let text = format!("could not remove {}: {error}", dir.display());
                return Err(io::Error::new(error.kind(), text));
            }
            Err(_) => {
                kill_all(dir)?;
                sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        }
    }
    if let Some(parent) = dir.parent() {
        // Succeeds for the last group only; left behind it would keep whoever made our own
        // group from removing that.
        layout.rmdir(parent).ok();
    }
    Ok(())
}
