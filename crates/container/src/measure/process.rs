//! A process by its number, as the kernel's own files tell of it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use casemate_linux::cgroup::Cgroup;

/// A process by its number here, and what the kernel says of it.
pub(crate) struct Process {
    pub(crate) pid: u32,
    status: BTreeMap<String, String>,
}

pub(crate) type Found = Result<String, String>;

/// The number here of the process that a descriptor from another process table stands for.
pub(crate) fn number_of(pidfd: impl AsFd) -> Result<u32, String> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let text = read(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let number = line.and_then(|line| line.trim().parse().ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| "the process is gone".to_owned())
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

impl Process {
    pub(crate) fn open(pid: u32) -> Result<Self, String> {
        let text = read(&format!("/proc/{pid}/status"))?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        let status = pairs
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Self { pid, status })
    }

    pub(crate) fn says(&self, name: &str) -> &str {
        self.status.get(name).map_or("", String::as_str)
    }

    pub(crate) fn expect(&self, name: &str, value: &str) -> Result<(), String> {
        match self.says(name) {
            found if found == value => Ok(()),
            found => Err(format!(
                "process {} has {name} {found:?}, not {value:?}",
                self.pid
            )),
        }
    }

    pub(crate) fn file(&self, name: &str) -> Result<String, String> {
        read(&format!("/proc/{}/{name}", self.pid))
    }

    pub(crate) fn namespace(&self, kind: &str) -> Result<String, String> {
        namespace(&self.pid.to_string(), kind)
    }

    /// That a namespace is not the host's.
    pub(crate) fn own_namespace(&self, kind: &str) -> Found {
        let (own, host) = (self.namespace(kind)?, namespace("self", kind)?);
        if own == host {
            return Err(format!("process {} is in the host's", self.pid));
        }
        Ok(own)
    }

    /// The name it was started by.
    pub(crate) fn name(&self) -> Result<String, String> {
        let command = self.file("cmdline")?;
        let first = command.split('\0').next().unwrap_or_default();
        Ok(first.to_owned())
    }

    pub(crate) fn exe(&self) -> Result<String, String> {
        let path = format!("/proc/{}/exe", self.pid);
        let link = std::fs::read_link(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok(link.to_string_lossy().into_owned())
    }
}

fn namespace(process: &str, kind: &str) -> Result<String, String> {
    let path = format!("/proc/{process}/ns/{kind}");
    let link = std::fs::read_link(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok(link.to_string_lossy().into_owned())
}

pub(crate) fn member(group: Option<&Cgroup>, pid: u32) -> Found {
    let group = group.ok_or("there is no control group")?;
    match group.holds(pid) {
        Ok(true) => Ok(format!("process {pid} is in it")),
        Ok(false) => Err(format!("process {pid} is not in it")),
        Err(error) => Err(format!("reading the group: {error}")),
    }
}

pub(crate) fn processes(group: Option<&Cgroup>, ours: &[u32]) -> Result<Vec<Process>, String> {
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
