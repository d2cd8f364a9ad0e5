//! Which hierarchies this machine has and where we stand in them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::write_existing;
use crate::step::{failed, plain};

/// The directory that holds our groups.
const PARENT: &str = "casemate";
/// The controller of device nodes.
const DEVICES: &str = "devices";
/// The option of version 2 that keeps the kernel ready to move processes between groups.
const MOVES: &str = "favordynmods";
/// How often making a group starts again because another process removed the empty parent.
const TRIES: usize = 8;

/// The controllers this crate uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
    /// Version 1's accounting of processor time. Version 2 always accounts.
    Cpuacct,
    /// Version 1's way to stop a group where it is. Version 2 can stop every group.
    Freezer,
}

impl Controller {
    /// Those that every group is made with.
    pub(super) const ALL: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::Cpuacct];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Freezer => "freezer",
        }
    }

    /// The file of version 2 that is there when a group has the controller.
    pub(super) const fn limit_v2(self) -> Option<&'static str> {
        match self {
            Self::Memory => Some("memory.max"),
            Self::Pids => Some("pids.max"),
            Self::Cpu => Some("cpu.max"),
            Self::Cpuacct | Self::Freezer => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// The shape of the machine's control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Version 1 hierarchies only.
    V1,
    /// The unified hierarchy of version 2 only.
    V2,
    /// Some controllers in version 1 and a version 2 tree beside them.
    Hybrid,
    /// None mounted.
    Absent,
}

/// The directories that stand for this process in each hierarchy.
#[derive(Debug, Clone)]
pub struct Layout {
    v1: BTreeMap<Controller, Hierarchy>,
    v2: Option<Hierarchy>,
    /// Version 1's hierarchy of devices, which only container runtimes use.
    devices: Option<Hierarchy>,
    /// Whether version 2 was told that processes are moved often.
    moves: bool,
    ops: Ops,
}

/// A directory below which groups of a version can be made.
pub(super) type Base = (Version, PathBuf);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    own: PathBuf,
}

/// How directories come and go. In the kernel's file system a new group is full of files and
/// is removed with them; over a recorded tree somebody else has to see to that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ops {
    pub(super) mkdir: fn(&Path) -> io::Result<()>,
    pub(super) rmdir: fn(&Path) -> io::Result<()>,
}

const KERNEL: Ops = Ops {
    mkdir: |dir| std::fs::create_dir(dir),
    rmdir: |dir| std::fs::remove_dir(dir),
};

impl Layout {
    /// Reads this machine's.
    ///
    /// # Errors
    /// When `/proc` is not mounted or cannot be read.
    pub fn detect() -> io::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        Ok(Self::parse(&mounts, &own, Path::new("/")))
    }

    /// Reads a recorded machine: the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`, and
    /// the directory below which its file system lies.
    #[must_use]
    pub fn parse(mountinfo: &str, own: &str, root: &Path) -> Self {
        let mut layout = Self {
            v1: BTreeMap::new(),
            v2: None,
            devices: None,
            moves: false,
            ops: KERNEL,
        };
        for mount in mountinfo.lines().filter_map(Mount::parse) {
            let named = |word: &str| mount.options.split(',').any(|option| option == word);
            if mount.fstype == "cgroup2" && layout.v2.is_none() {
                layout.v2 = mount.hierarchy(own_path(own, None), root);
                layout.moves = named(MOVES);
            }
            if mount.fstype == "cgroup" && named(DEVICES) && layout.devices.is_none() {
                layout.devices = mount.hierarchy(own_path(own, Some(DEVICES)), root);
            }
            for controller in Controller::ALL.into_iter().chain([Controller::Freezer]) {
                if mount.fstype == "cgroup"
                    && named(controller.name())
                    && !layout.v1.contains_key(&controller)
                {
                    let path = own_path(own, Some(controller.name()));
                    if let Some(hierarchy) = mount.hierarchy(path, root) {
                        layout.v1.insert(controller, hierarchy);
                    }
                }
            }
        }
        layout
    }

    #[cfg(test)]
    pub(super) fn with_ops(mut self, ops: Ops) -> Self {
        self.ops = ops;
        self
    }

    /// The shape, for reports.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match (self.v1.is_empty(), self.v2.is_some()) {
            (true, true) => Kind::V2,
            (true, false) => Kind::Absent,
            (false, true) => Kind::Hybrid,
            (false, false) => Kind::V1,
        }
    }

    /// Whether a process is moved from group to group at once, as every start of a sandbox does; or why it waits, and
    /// what helps. An option of version 2 says it for version 1 too (Linux 6.0).
    ///
    /// # Errors
    /// Why moves wait.
    pub fn quick_moves(&self) -> Result<String, String> {
        match &self.v2 {
            Some(_) if self.moves => Ok(MOVES.to_owned()),
            Some(hierarchy) => Err(format!(
                "after a rest a start waits some milliseconds for the kernel to move a process; `mount -o remount,{MOVES} {}` \
                 ends that until the machine is started anew",
                hierarchy.mount.display()
            )),
            None => {
                Err("no control groups of version 2 are mounted, which have the option".to_owned())
            }
        }
    }

    /// The controllers that can be found, by the kernel's names, without trying them.
    #[must_use]
    pub fn controllers(&self) -> Vec<&'static str> {
        let unified = self
            .v2
            .as_ref()
            .map(|h| words(&h.mount.join("cgroup.controllers")));
        let unified = unified.unwrap_or_default();
        Controller::ALL
            .into_iter()
            .filter(|c| self.v1.contains_key(c) || unified.contains(c.name()))
            .map(Controller::name)
            .collect()
    }

    /// Where groups with each controller can be made. A process is in one group of version 2, so
    /// its controllers share one place: the nearest that has the most of them.
    pub(super) fn bases(&self) -> BTreeMap<Controller, Result<Base, String>> {
        let missing = Controller::ALL
            .into_iter()
            .filter(|c| !self.v1.contains_key(c));
        let missing: Vec<Controller> = missing.collect();
        let unified = self
            .v2
            .as_ref()
            .map(|hierarchy| unified_base(hierarchy, &missing));
        let base = |controller: Controller| {
            if let Some(hierarchy) = self.v1.get(&controller) {
                return Ok((Version::V1, hierarchy.own.clone()));
            }
            let word = controller.name();
            match &unified {
                Some((dir, usable)) if usable.contains(word) => Ok((Version::V2, dir.clone())),
                Some((_, usable)) if usable.is_empty() => Err(format!(
                    "no group here can have children with the {word} controller; run as root, or \
                     in a delegated group (systemd-run --user --scope -p Delegate=yes)"
                )),
                Some((dir, _)) => Err(format!("{} does not offer {word}", dir.display())),
                None => Err(format!(
                    "no control group hierarchy has the {word} controller"
                )),
            }
        };
        Controller::ALL.into_iter().map(|c| (c, base(c))).collect()
    }

    /// Makes the group `name` below a base.
    pub(super) fn make(
        &self,
        controller: Controller,
        (version, base): &Base,
        name: &str,
    ) -> Result<PathBuf, String> {
        self.make_below(base, name, |parent| match version {
            Version::V1 => Ok(()),
            Version::V2 => enable(parent, controller.name()),
        })
    }

    /// Makes `base/casemate/name`. The parent may be removed by another process between the two
    /// calls, whenever it is empty; then both are made again.
    fn make_below(
        &self,
        base: &Path,
        name: &str,
        prepare: impl Fn(&Path) -> io::Result<()>,
    ) -> Result<PathBuf, String> {
        let parent = base.join(PARENT);
        let dir = parent.join(name);
        for _ in 0..TRIES {
            self.mkdir(&parent)
                .map_err(|e| cannot("make", &parent, &e))?;
            match prepare(&parent).and_then(|()| self.mkdir(&dir)) {
                Ok(()) => return Ok(dir),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(cannot("make", &dir, &error)),
            }
        }
        Err(format!("{} keeps disappearing", parent.display()))
    }

    /// The hierarchy that a container runtime may use, and the directory of the group `name` in it.
    pub(super) fn runtime_dir(&self, name: &std::ffi::OsStr) -> io::Result<(PathBuf, PathBuf)> {
        let hierarchy = match (&self.v2, self.v1.is_empty()) {
            (Some(unified), true) => {
                let base = self.bases().into_values().find_map(Result::ok);
                let base = base.ok_or_else(|| io::Error::other("no group can be made here"))?;
                return Ok((unified.mount.clone(), base.1.join(PARENT).join(name)));
            }
            _ => self.devices.as_ref(),
        };
        let hierarchy =
            hierarchy.ok_or_else(|| io::Error::other("there is no hierarchy of devices"))?;
        Ok((
            hierarchy.mount.clone(),
            hierarchy.own.join(PARENT).join(name),
        ))
    }

    /// Makes the group `name` where version 1 can stop it; none where there is no such hierarchy.
    pub(super) fn make_freezer(&self, name: &str) -> Option<Result<PathBuf, String>> {
        let hierarchy = self.v1.get(&Controller::Freezer)?;
        let base = (Version::V1, hierarchy.own.clone());
        Some(self.make(Controller::Freezer, &base, name))
    }

    /// The group of this layout's process in version 1's hierarchy of a controller.
    pub(super) fn own_v1(&self, controller: Controller) -> Option<&Path> {
        self.v1.get(&controller).map(|found| found.own.as_path())
    }

    /// The same in version 2's.
    pub(super) fn own_v2(&self) -> Option<&Path> {
        self.v2.as_ref().map(|found| found.own.as_path())
    }

    /// Where version 1's hierarchy of devices is mounted.
    pub(crate) fn devices_mount(&self) -> Option<&Path> {
        self.devices
            .as_ref()
            .map(|hierarchy| hierarchy.mount.as_path())
    }

    fn mkdir(&self, dir: &Path) -> io::Result<()> {
        match (self.ops.mkdir)(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    pub(super) fn rmdir(&self, dir: &Path) -> io::Result<()> {
        (self.ops.rmdir)(dir)
    }

    /// Every place where our parent directory may lie: below our own group, its ancestors and
    /// its siblings, in each hierarchy. An earlier process may have been in another group.
    pub(super) fn parents(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        for hierarchy in self.v1.values().chain(&self.v2).chain(&self.devices) {
            let ancestors = hierarchy.own.ancestors();
            for base in ancestors.take_while(|dir| dir.starts_with(&hierarchy.mount)) {
                found.insert(base.join(PARENT));
            }
            let around = hierarchy
                .own
                .parent()
                .filter(|p| p.starts_with(&hierarchy.mount));
            let siblings = around.and_then(|dir| std::fs::read_dir(dir).ok());
            for sibling in siblings.into_iter().flatten().flatten() {
                found.insert(sibling.path().join(PARENT));
            }
        }
        found.retain(|dir| dir.is_dir());
        found
    }
}

/// Says what could not be done and, for the usual reason, the way out.
fn cannot(verb: &str, dir: &Path, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run as root, or in a group delegated to you (systemd-run --user --scope -p Delegate=yes)"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; the hierarchy is mounted read-only",
        _ => "",
    };
    format!("could not {verb} {}: {}{hint}", dir.display(), plain(error))
}

/// The best place from our own group upwards, and which of the controllers its children can have.
fn unified_base(hierarchy: &Hierarchy, wanted: &[Controller]) -> (PathBuf, BTreeSet<&'static str>) {
    let mut best = (hierarchy.own.clone(), BTreeSet::new());
    let ancestors = hierarchy.own.ancestors();
    for base in ancestors.take_while(|dir| dir.starts_with(&hierarchy.mount)) {
        if writable(base).is_err() {
            continue;
        }
        let offered = words(&base.join("cgroup.controllers"));
        let names = wanted.iter().map(|controller| controller.name());
        let usable: BTreeSet<_> = names
            .filter(|word| offered.contains(*word) && enable(base, word).is_ok())
            .collect();
        if usable.len() > best.1.len() {
            best = (base.to_owned(), usable);
        }
    }
    best
}

/// Whether groups can be made here and processes moved in: asked of the kernel, not of the mode.
fn writable(base: &Path) -> io::Result<()> {
    use rustix::fs::{Access, access};
    access(base, Access::WRITE_OK)?;
    access(base.join("cgroup.procs"), Access::WRITE_OK)?;
    Ok(())
}

/// Gives the children of a group this controller.
fn enable(group: &Path, word: &str) -> io::Result<()> {
    let file = group.join("cgroup.subtree_control");
    if words(&file).contains(word) {
        return Ok(());
    }
    write_existing(&file, &format!("+{word}"))
}

fn words(file: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// One line of `mountinfo`.
struct Mount<'a> {
    fs_root: PathBuf,
    point: PathBuf,
    fstype: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (fs_root, point) = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let (fstype, _source, options) = (back.next()?, back.next()?, back.next()?);
        Some(Self {
            fs_root: unescape(fs_root),
            point: unescape(point),
            fstype,
            options,
        })
    }

    /// Our place in the mounted tree; its top where our own path is not below what is mounted,
    /// as in a container that shares the host's view.
    fn hierarchy(&self, own: Option<&str>, root: &Path) -> Option<Hierarchy> {
        let mount = root.join(self.point.strip_prefix("/").ok()?);
        let relative = Path::new(own?).strip_prefix(&self.fs_root).ok();
        let own = relative.map(|relative| mount.join(relative));
        let own = own
            .filter(|dir| dir.is_dir())
            .unwrap_or_else(|| mount.clone());
        Some(Hierarchy { mount, own })
    }
}

/// The path of our group from `/proc/self/cgroup`; `None` asks for version 2.
fn own_path<'a>(text: &'a str, controller: Option<&str>) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = match controller {
            Some(word) => names.split(',').any(|name| name == word),
            None => number == "0" && names.is_empty(),
        };
        ours.then_some(path)
    })
}

/// Undoes the octal escapes of `mountinfo`.
fn unescape(text: &str) -> PathBuf {
    let text = text
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    PathBuf::from(text)
}

/// Used by reports that want one line.
impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "version 1",
            Self::V2 => "version 2",
            Self::Hybrid => "version 1 with a version 2 tree beside it",
            Self::Absent => "not mounted",
        })
    }
}

/// The reason a file could not be read, for the steps.
pub(super) fn unreadable(file: &str, error: io::Error) -> String {
    failed(file, error)
}
