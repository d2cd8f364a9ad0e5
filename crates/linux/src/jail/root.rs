//! A root on a fresh file system, built by process 1 of a jail before anything hostile exists.
//!
//! Nothing that a guest may write is there while mounts are made, so no name can be swapped under
//! them; the parts come in a fixed order and the old root is gone at the end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, chownat, mkdirat, open, openat, symlinkat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};

use super::machine::{self, Machine};
use super::procfs::{self, Texts};
use super::wall;
use crate::limit::Limit;
use crate::step::{Step, failed};
use crate::sys;

pub(super) const RDONLY: u64 = 1;
pub(super) const NOSUID: u64 = 2;
pub(super) const NODEV: u64 = 4;
pub(super) const NOEXEC: u64 = 8;

const PROC: &str = "proc";
/// Where the new root is put together: some folder that every system has.
pub const PLACE: &str = "/tmp";
/// Beside the parts of the root, only while they are being made.
const MAKING: &str = "making";
/// Folders of the system, each bound or linked as the host has it.
const SYSTEM: [&str; 5] = ["bin", "sbin", "lib", "lib32", "lib64"];
/// What programs of the host's system look for outside `/usr`.
const CONFIGURATION: [&str; 2] = ["etc/alternatives", "etc/ld.so.cache"];
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// The names at the top of a finished root that are always there.
const TOP: [&str; 9] = [
    "data", "dev", "etc", "opt", "proc", "run", "tmp", "usr", "work",
];
/// Names at the top of an image that are not the image's: what is there instead is ours, or nothing is.
const NOT_OF_AN_IMAGE: [&str; 9] = [
    "data",
    "dev",
    "lost+found",
    MAKING,
    "proc",
    "run",
    "sys",
    "tmp",
    "work",
];
/// More names at its top than a system has.
const MOST_NAMES: usize = 100;
const OPT: &str = "opt";
/// Where packages of a virtual environment are shown.
const VENV: &str = "opt/venv";
const PACKAGES: &str = "opt/casemate";
/// Where the agent is shown.
const AGENT: &str = "opt/agent";
/// The folder of homes, and the one that there is.
const HOMES: &str = "home";
const HOME: &str = "home/user";
/// The home of the user whom system files belong to, with nothing in it.
const ROOTS_HOME: &str = "root";
/// The files that say who and where one is, and where they are made before the inputs lie over them.
const ACCOUNTS: [(&str, &str); 3] = [
    ("run/passwd", "etc/passwd"),
    ("run/group", "etc/group"),
    ("run/hosts", "etc/hosts"),
];
/// Names in an image's `opt` that are ours; where there is no environment of the user's, that one is the image's.
const OURS_IN_OPT: [&str; 1] = ["casemate"];
/// Folders of scratch and where each is seen.
const SCRATCH: [(&str, &str); 3] = [("tmp", "tmp"), ("work", "work"), ("shm", "dev/shm")];
/// The one more of a user who has a home.
const HOME_SCRATCH: (&str, &str) = ("home", HOME);

/// The system that a root shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum System {
    /// The host's own `/usr`, and what belongs to it.
    Host,
    /// The tree below a folder, and nothing of the host's.
    Image(PathBuf),
}

/// What a root stands on: the same for every job that is shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    /// The system.
    pub system: System,
    /// A folder of the host's that is shown at `/opt/casemate`.
    pub packages: PathBuf,
    /// One that is shown at `/opt/venv`.
    pub venv: Option<PathBuf>,
    /// One that is shown at `/opt/agent`, for a jail that an agent lives in: its user has a name, a home at
    /// `/home/user` and terminals.
    pub agent: Option<PathBuf>,
}

/// What is made in the root for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it is to stand on.
    pub ground: Ground,
    /// Bytes of all inputs together, each rounded up to whole pages.
    pub input_bytes: u64,
    /// Files and folders of all inputs.
    pub input_files: u64,
    /// Bytes of scratch.
    pub scratch_bytes: Limit,
    /// Files and folders in scratch beyond those that are there at the start.
    pub scratch_files: Limit,
    /// Links in the working folder: a plain name and the absolute path it leads to.
    pub links: Vec<(String, String)>,
    /// Who owns scratch: user and group.
    pub owner: (u32, u32),
    /// The same numbers as they are seen from inside, where that is another user namespace.
    pub seen_as: (u32, u32),
    /// What `/proc` tells of the machine, in a jail that an agent lives in; without it, it shows processes alone.
    pub machine: Option<Machine>,
}

/// The folders of a ground, opened and checked by whoever started this process.
#[derive(Debug, Clone, Copy)]
pub struct Folders<'a> {
    /// That of the packages.
    pub packages: BorrowedFd<'a>,
    /// The root of the image, where there is one.
    pub image: Option<BorrowedFd<'a>>,
    /// That of the virtual environment, where there is one.
    pub venv: Option<BorrowedFd<'a>>,
    /// That of the agent, where there is one.
    pub agent: Option<BorrowedFd<'a>>,
}

/// A fresh file system with a system in it, made before it is known for which job.
#[derive(Debug)]
pub struct Bare {
    ground: Ground,
    /// Where it is put together.
    at: PathBuf,
    place: OwnedFd,
    /// Names at the top that the system brought, and the folders among them.
    shown: Vec<String>,
    folders: Vec<String>,
}

/// A root that is being built.
#[derive(Debug)]
pub struct Builder {
    plan: Plan,
    bare: Bare,
    /// Where the inputs are written.
    inputs: Option<OwnedFd>,
}

/// A finished root.
#[derive(Debug)]
pub struct Built {
    /// The top of scratch, whose folders `tmp` and `work` are the guest's. It outlives the jail.
    pub scratch: Option<OwnedFd>,
    /// The folders of the system, by their absolute paths: what may be read and executed.
    pub system: Vec<String>,
    /// Whether what `/proc` shows may be read too.
    pub has_proc: bool,
    /// What `/proc` is to tell of the machine, where it is not there yet.
    pub texts: Option<Result<Texts, String>>,
}

impl Bare {
    /// Begins with what is the same for every job on this ground.
    ///
    /// # Errors
    /// When there is no file system to build on, or a folder is not the one that was checked; then nothing
    /// of the rest can be.
    pub fn begin(
        ground: Ground,
        folders: Folders<'_>,
        steps: &mut Vec<Step>,
    ) -> Result<Self, String> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(|e| failed("mount --make-rprivate /", e))?;
        Self::begin_at(Path::new(PLACE), ground, folders, steps)
    }

    fn begin_at(
        at: &Path,
        ground: Ground,
        folders: Folders<'_>,
        steps: &mut Vec<Step>,
    ) -> Result<Self, String> {
        // The trees are taken before the place is covered, whatever folder it is.
        let trees = system_trees(&ground, folders)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let options = c"size=1m,nr_inodes=256,mode=0755";
        mount("none", at, "tmpfs", flags, options).map_err(|e| failed("mount tmpfs", e))?;
        let place = directory(at).map_err(|e| failed(&at.display().to_string(), e))?;
        let mut bare = Self {
            ground,
            at: at.to_owned(),
            place,
            shown: Vec::new(),
            folders: Vec::new(),
        };
        for name in TOP.into_iter().chain([MAKING]) {
            bare.mkdir(name)?;
        }
        let asked = match bare.ground.system {
            System::Host => "the host's system, read-only, no rights, no devices",
            System::Image(_) => "the image, read-only, no rights, no devices",
        };
        steps.push(Step::run(wall::SYSTEM, asked, || bare.system(trees)));
        if bare.has_home() {
            bare.mkdir(HOMES)?;
            bare.mkdir(HOME)?;
            bare.shown.push(HOMES.to_owned());
            if !bare.path(ROOTS_HOME).exists() {
                bare.mkdir(ROOTS_HOME)?;
                bare.shown.push(ROOTS_HOME.to_owned());
            }
        }
        if bare.has_home() {
            bare.make_mount_point(super::landlocked::WITNESS_FILE, Kind::File)?;
        }
        steps.push(Step::run(wall::DEVICES, DEVICES.join(", "), || {
            bare.devices()
        }));
        Ok(bare)
    }

    /// Makes room for the inputs of a job.
    ///
    /// # Errors
    /// When there is none, or the job is to stand on another ground than this.
    pub fn furnish(self, plan: Plan) -> Result<Builder, String> {
        if plan.ground != self.ground {
            return Err(
                "the job is of another system or has other packages than the jail".to_owned(),
            );
        }
        let mut builder = Builder {
            plan,
            bare: self,
            inputs: None,
        };
        if builder.bare.has_home() {
            builder.bare.accounts(builder.plan.seen_as)?;
            builder.bare.terminals()?;
        }
        builder.begin_inputs()?;
        Ok(builder)
    }

    /// Whether an agent lives here, whose user has a home.
    const fn has_home(&self) -> bool {
        self.ground.agent.is_some()
    }

    /// Says who there is: whoever owns scratch, and the owner of the system's files.
    fn accounts(&self, (uid, gid): (u32, u32)) -> Result<(), String> {
        let texts = [
            format!(
                "root:x:0:0:root:/root:/usr/sbin/nologin\nuser:x:{uid}:{gid}:user:/{HOME}:/bin/bash\n"
            ),
            format!("root:x:0:\nuser:x:{gid}:\n"),
            "127.0.0.1 localhost\n::1 localhost\n".to_owned(),
        ];
        for ((made, seen), text) in ACCOUNTS.into_iter().zip(texts) {
            let path = self.path(made);
            std::fs::write(&path, text).map_err(|e| failed(made, e))?;
            let tree = clone_tree(&path, false)?;
            sys::mount_setattr(tree.as_fd(), false, RDONLY | NOSUID | NODEV | NOEXEC)
                .map_err(|e| failed("mount_setattr", e))?;
            // An image has its own, which ours lie over; the host's own are not shown.
            if !self.path(seen).exists() {
                self.make_mount_point(seen, Kind::File)?;
            }
            self.attach(&tree, seen)?;
        }
        Ok(())
    }

    /// Terminals of its own: none of the host's can be seen.
    fn terminals(&self) -> Result<(), String> {
        self.mkdir("dev/pts")?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        let options = c"newinstance,ptmxmode=0666,mode=0620";
        mount("none", self.path("dev/pts"), "devpts", flags, options)
            .map_err(|e| failed("mount devpts", e))?;
        symlinkat("pts/ptmx", &self.place, "dev/ptmx").map_err(|e| failed("symlink ptmx", e))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn mkdir(&self, name: &str) -> Result<(), String> {
        mkdirat(&self.place, name, Mode::from_raw_mode(0o755)).map_err(|e| failed(name, e))
    }

    /// Attaches a tree at a name that is there.
    fn attach(&self, tree: &OwnedFd, name: &str) -> Result<(), String> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree, "", &self.place, name, flags)
            .map_err(|e| failed(&format!("move_mount {name}"), e))
    }

    fn system(&mut self, trees: Vec<(String, Shown)>) -> Result<String, String> {
        let mut shown = Vec::new();
        for (name, what) in trees {
            match what {
                Shown::Link(target) => symlinkat(&target, &self.place, &name)
                    .map_err(|e| failed(&format!("symlink {name}"), e))?,
                Shown::Tree(tree, kind) => {
                    self.make_mount_point(&name, kind)?;
                    sys::mount_setattr(tree.as_fd(), true, RDONLY | NOSUID | NODEV)
                        .map_err(|e| failed(&format!("mount_setattr {name}"), e))?;
                    self.attach(&tree, &name)?;
                    if kind == Kind::Folder {
                        // No link: it could lead to what is not the system's.
                        self.folders.push(format!("/{name}"));
                    }
                    shown.push(format!("/{name}"));
                }
            }
            self.shown.push(name);
        }
        let of_the_host = self.ground.system == System::Host;
        if of_the_host {
            self.cover_local()?;
        }
        for path in &self.folders {
            expect_read_only(&self.path(path.trim_start_matches('/')))?;
        }
        let note = if of_the_host {
            "/usr/local hidden"
        } else {
            "nothing of the host's system"
        };
        Ok(format!("{}; {note}", shown.join(" ")))
    }

    fn make_mount_point(&self, name: &str, kind: Kind) -> Result<(), String> {
        if kind == Kind::Folder {
            return match self.mkdir(name) {
                // One of the names that every root has.
                Err(_) if self.path(name).is_dir() => Ok(()),
                other => other,
            };
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&self.place, name, flags, Mode::from_raw_mode(0o444))
            .map(drop)
            .map_err(|e| failed(name, e))
    }

    /// What an operator installed by hand is not the system's and is nobody's business.
    fn cover_local(&self) -> Result<(), String> {
        let local = self.path("usr/local");
        if !local.is_dir() {
            return Ok(());
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        if !self.has_home() {
            let options = c"size=4k,nr_inodes=1,mode=0555";
            return mount("none", &local, "tmpfs", flags | MountFlags::RDONLY, options)
                .map_err(|e| failed("mount /usr/local", e));
        }
        let options = c"size=4k,nr_inodes=8,mode=0755";
        mount("none", &local, "tmpfs", flags, options)
            .map_err(|e| failed("mount /usr/local", e))?;
        self.mkdir("usr/local/bin")?;
        // By this name many programs ask for it; Debian has only the longer one.
        symlinkat("/usr/bin/python3", &self.place, "usr/local/bin/python")
            .map_err(|e| failed("symlink python", e))?;
        mount_remount(&local, flags | MountFlags::RDONLY, "")
            .map_err(|e| failed("mount -o remount,ro /usr/local", e))
    }

    fn devices(&self) -> Result<String, String> {
        self.mkdir("dev/shm")?;
        for name in DEVICES {
            let target = format!("dev/{name}");
            self.make_mount_point(&target, Kind::File)?;
            // Not from the folder being built: from the host's, which is still the root.
            let tree = clone_tree(Path::new("/dev").join(name).as_path(), false)?;
            sys::mount_setattr(tree.as_fd(), false, NOSUID | NOEXEC)
                .map_err(|e| failed("mount_setattr", e))?;
            self.attach(&tree, &target)?;
        }
        for (name, target) in DEVICE_LINKS {
            symlinkat(target, &self.place, format!("dev/{name}"))
                .map_err(|e| failed(&format!("symlink {name}"), e))?;
        }
        Ok("and no other; no terminal".to_owned())
    }
}

impl Builder {
    /// Begins: a fresh file system with the system in it, and room for the inputs.
    ///
    /// # Errors
    /// As [`Bare::begin`] and [`Bare::furnish`].
    pub fn begin(plan: Plan, folders: Folders<'_>, steps: &mut Vec<Step>) -> Result<Self, String> {
        Bare::begin(plan.ground.clone(), folders, steps)?.furnish(plan)
    }

    /// The same at an empty folder of this process's mounts, whoever shares them: for a stage that a
    /// program outside is to see. What is mounted there stays until [`keeper::clear`](crate::keeper::clear).
    ///
    /// # Errors
    /// As [`Builder::begin`].
    pub fn begin_at(
        at: &Path,
        plan: Plan,
        folders: Folders<'_>,
        steps: &mut Vec<Step>,
    ) -> Result<Self, String> {
        Bare::begin_at(at, plan.ground.clone(), folders, steps)?.furnish(plan)
    }

    /// The folder that the inputs are written below; it becomes read-only in [`Builder::finish`].
    #[must_use]
    pub fn inputs(&self) -> Option<BorrowedFd<'_>> {
        self.inputs.as_ref().map(AsFd::as_fd)
    }

    /// Closes the inputs, makes scratch and the process file system, and becomes the root.
    pub fn finish(mut self, steps: &mut Vec<Step>) -> Built {
        let mut built = self.finish_parts(steps);
        steps.push(Step::run(wall::PROC, "processes of the jail only", || {
            let at = self.bare.path(PROC);
            match built.texts.take() {
                None => procfs::mount_processes(&at),
                Some(texts) => {
                    procfs::mount_whole(&at)?;
                    texts?.lay_over(&at)
                }
            }
        }));
        steps.push(Step::run(
            wall::ROOT,
            "a root of its own, the host's detached",
            || self.pivot(),
        ));
        built
    }

    fn finish_parts(&mut self, steps: &mut Vec<Step>) -> Built {
        steps.push(Step::run(
            wall::INPUTS,
            "copies, in a read-only file system",
            || self.finish_inputs(),
        ));
        let mut scratch = None;
        let asked = format!(
            "{} bytes, {} files",
            self.plan.scratch_bytes, self.plan.scratch_files
        );
        steps.push(Step::run(wall::SCRATCH, asked, || {
            let (fd, how) = self.scratch()?;
            scratch = Some(fd);
            Ok(how)
        }));
        Built {
            scratch,
            system: std::mem::take(&mut self.bare.folders),
            has_proc: self.plan.machine.is_some(),
            texts: self.plan.machine.map(|machine| self.texts(machine)),
        }
    }

    /// The same without becoming the root and without a process file system: a tree that another
    /// program shows to a container, part by part.
    pub fn finish_staged(mut self, steps: &mut Vec<Step>) -> Built {
        self.finish_parts(steps)
    }

    fn begin_inputs(&mut self) -> Result<(), String> {
        let options = format!(
            "size={},nr_inodes={},mode=0755",
            self.plan.input_bytes.saturating_add(64 << 10),
            self.plan.input_files.saturating_add(16),
        );
        let fd = self.make_file_system(&options)?;
        for name in ["data", "run"] {
            mkdirat(&fd, name, Mode::from_raw_mode(0o755)).map_err(|e| failed(name, e))?;
        }
        self.inputs = Some(fd);
        Ok(())
    }

    /// A file system at the place for those in the making.
    fn make_file_system(&self, options: &str) -> Result<OwnedFd, String> {
        let making = self.bare.path(MAKING);
        let options = std::ffi::CString::new(options).map_err(|e| e.to_string())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("none", &making, "tmpfs", flags, options.as_c_str())
            .map_err(|e| failed("mount tmpfs", e))?;
        directory(&making).map_err(|e| failed(MAKING, e))
    }

    fn finish_inputs(&mut self) -> Result<String, String> {
        // Nothing may hold the file system open for writing when it is closed.
        self.inputs = None;
        let making = self.bare.path(MAKING);
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(&making, flags, "").map_err(|e| failed("mount -o remount,ro", e))?;
        for (part, name) in [("data", "data"), ("run", "run")] {
            let tree = clone_tree(&making.join(part), false)?;
            sys::mount_setattr(tree.as_fd(), false, RDONLY | NOSUID | NODEV | NOEXEC)
                .map_err(|e| failed("mount_setattr", e))?;
            self.bare.attach(&tree, name)?;
            expect_read_only(&self.bare.path(name))?;
        }
        self.leave_making()?;
        Ok("read-only for everybody".to_owned())
    }

    /// Lets the place go; what is bound elsewhere keeps the file system.
    fn leave_making(&self) -> Result<(), String> {
        unmount(self.bare.path(MAKING), UnmountFlags::DETACH).map_err(|e| failed("umount", e))
    }

    fn scratch(&self) -> Result<(OwnedFd, String), String> {
        let home = self.bare.has_home().then_some(HOME_SCRATCH);
        let parts = || SCRATCH.into_iter().chain(home);
        let ours = 1 + parts().count() as u64 + self.plan.links.len() as u64;
        let mut options = "mode=0755".to_owned();
        if let Limit::At(bytes) = self.plan.scratch_bytes {
            options.push_str(&format!(",size={}", bytes.max(1)));
        }
        if let Limit::At(files) = self.plan.scratch_files {
            options.push_str(&format!(",nr_inodes={}", files.saturating_add(ours)));
        }
        let fd = self.make_file_system(&options)?;
        let (uid, gid) = self.plan.owner;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let making = self.bare.path(MAKING);
        for (part, _) in parts() {
            mkdirat(&fd, part, Mode::from_raw_mode(0o700)).map_err(|e| failed(part, e))?;
            chownat(&fd, part, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| failed("chown", e))?;
        }
        for (name, target) in &self.plan.links {
            symlinkat(target, &fd, format!("work/{name}"))
                .map_err(|e| failed(&format!("symlink {name}"), e))?;
        }
        for (part, name) in parts() {
            self.bare
                .attach(&clone_tree(&making.join(part), false)?, name)?;
        }
        self.leave_making()?;
        let how = self.check_quota(&fd)?;
        Ok((fd, how))
    }

    /// Reads back what is really there to be used.
    fn check_quota(&self, scratch: &OwnedFd) -> Result<String, String> {
        let room = rustix::fs::fstatvfs(scratch).map_err(|e| failed("fstatvfs", e))?;
        let bytes = room.f_bfree.saturating_mul(room.f_frsize);
        if let Limit::At(wanted) = self.plan.scratch_bytes {
            let pages = wanted.max(1).div_ceil(room.f_frsize) * room.f_frsize;
            if bytes > pages {
                return Err(format!("{bytes} bytes can be written"));
            }
        }
        if let Limit::At(wanted) = self.plan.scratch_files
            && room.f_ffree > wanted
        {
            return Err(format!("{} files can be made", room.f_ffree));
        }
        Ok(format!(
            "{bytes} bytes and {} files free, read back",
            room.f_ffree
        ))
    }

    /// What is told of the machine, in a file system of its own.
    fn texts(&self, machine: Machine) -> Result<Texts, String> {
        let files = machine::files(machine)?;
        drop(self.make_file_system(&procfs::room_for(&files))?);
        let texts = Texts::write(&self.bare.path(MAKING), files);
        self.leave_making()?;
        texts
    }

    fn pivot(&self) -> Result<String, String> {
        rustix::fs::unlinkat(&self.bare.place, MAKING, rustix::fs::AtFlags::REMOVEDIR)
            .map_err(|e| failed("rmdir", e))?;
        rustix::process::fchdir(&self.bare.place).map_err(|e| failed("fchdir", e))?;
        rustix::process::pivot_root(".", ".").map_err(|e| failed("pivot_root", e))?;
        // Both roots are now mounted at "/", the old one on top, and "." is it.
        unmount(".", UnmountFlags::DETACH).map_err(|e| failed("umount", e))?;
        rustix::process::chdir("/").map_err(|e| failed("chdir /", e))?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount("/", flags, "").map_err(|e| failed("mount -o remount,ro /", e))?;
        verify(&self.bare.shown)?;
        rustix::process::chdir("/work").map_err(|e| failed("chdir /work", e))?;
        Ok(match self.bare.ground.system {
            System::Host => "pivot_root; nothing else of the host's files is left; read-only",
            System::Image(_) => "pivot_root; nothing of the host's files is left; read-only",
        }
        .to_owned())
    }
}

/// What is at the top, and that it cannot be changed.
fn verify(shown: &[String]) -> Result<(), String> {
    let entries = std::fs::read_dir("/").map_err(|e| failed("reading /", e))?;
    for entry in entries {
        let name = entry.map_err(|e| failed("reading /", e))?.file_name();
        let ours = TOP.iter().any(|known| name == *known);
        let known = ours || shown.iter().any(|known| name == known.as_str());
        if !known {
            return Err(format!("the new root has {}", name.display()));
        }
    }
    expect_read_only(Path::new("/"))?;
    expect_read_only(Path::new("/data"))
}

pub(super) fn expect_read_only(dir: &Path) -> Result<(), String> {
    let probe = dir.join(".casemate-probe");
    match std::fs::File::create(&probe) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        Err(error) => Err(failed(&format!("writing below {}", dir.display()), error)),
        Ok(_) => Err(format!("{} can be written", dir.display())),
    }
}

/// Whether a tree is put on a folder or on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
}

/// How one name of a system appears in a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The name, relative to the root.
    pub name: String,
    /// Where it leads, for a link.
    pub link: Option<String>,
    /// Whether it is a file.
    pub file: bool,
}

/// The names of a system that a root shows, in the order in which they are mounted.
///
/// # Errors
/// When the image's folder cannot be read.
pub fn shapes(system: &System) -> Result<Vec<Shape>, String> {
    match system {
        System::Host => Ok(host_shapes()),
        System::Image(root) => image_shapes(root),
    }
}

fn host_shapes() -> Vec<Shape> {
    let shape = |name: &str, is_link: bool| {
        let path = Path::new("/").join(name);
        let link = std::fs::read_link(&path).ok().filter(|_| is_link);
        let link = link.and_then(|target| target.into_os_string().into_string().ok());
        (link.is_some() || path.exists()).then(|| Shape {
            name: name.to_owned(),
            link,
            file: path.is_file(),
        })
    };
    let system = SYSTEM.iter().filter_map(|name| shape(name, true));
    let configuration = CONFIGURATION.iter().filter_map(|name| shape(name, false));
    // Covered in the stage; a runtime that does not bind what is mounted below a folder needs it named.
    let local = std::fs::symlink_metadata("/usr/local").is_ok_and(|meta| meta.is_dir());
    let local = local.then(|| shape("usr/local", false)).flatten();
    let usr = shape("usr", false).into_iter();
    usr.chain(system)
        .chain(configuration)
        .chain(local)
        .collect()
}

/// Folders and links at the top of an image; a file there is no part of a system. What lies in its `opt` is
/// shown by name, because ours lies there too.
fn image_shapes(root: &Path) -> Result<Vec<Shape>, String> {
    let mut shapes = folder_shapes(root, "", &NOT_OF_AN_IMAGE)?;
    let opt = |shape: &Shape| shape.name == OPT && shape.link.is_none();
    if shapes.iter().any(opt) {
        shapes.retain(|shape| !opt(shape));
        shapes.extend(folder_shapes(&root.join(OPT), "opt/", &OURS_IN_OPT)?);
    }
    if shapes.len() > MOST_NAMES {
        return Err(format!(
            "{} has {} names at its top: that is no system",
            root.display(),
            shapes.len()
        ));
    }
    shapes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(shapes)
}

/// Folders and links in a folder, but for those of some names.
fn folder_shapes(folder: &Path, before: &str, without: &[&str]) -> Result<Vec<Shape>, String> {
    let what = || format!("reading {}", folder.display());
    let mut shapes = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| failed(&what(), e))? {
        let entry = entry.map_err(|e| failed(&what(), e))?;
        let kind = entry.file_type().map_err(|e| failed(&what(), e))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if without.contains(&name.as_str()) {
            continue;
        }
        let link = if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).map_err(|e| failed(&what(), e))?;
            let Ok(target) = target.into_os_string().into_string() else {
                continue;
            };
            Some(target)
        } else if kind.is_dir() {
            None
        } else {
            continue;
        };
        shapes.push(Shape {
            name: format!("{before}{name}"),
            link,
            file: false,
        });
    }
    Ok(shapes)
}

/// How a name of a system appears.
enum Shown {
    Tree(OwnedFd, Kind),
    Link(PathBuf),
}

/// The system, the packages and the virtual environment, each taken from where it lies.
fn system_trees(ground: &Ground, folders: Folders<'_>) -> Result<Vec<(String, Shown)>, String> {
    let (from, recursive) = match &ground.system {
        System::Host => (Path::new("/"), true),
        System::Image(root) => {
            let checked = folders.image.ok_or("the image is not open")?;
            let tree = clone_tree(root, false)?;
            expect_same(&tree, checked, "the image")?;
            (root.as_path(), false)
        }
    };
    let mut trees = Vec::new();
    for shape in shapes(&ground.system)? {
        // Covered later, in place; and homes of an image's where there is to be one of ours.
        if shape.name == "usr/local" || (shape.name == HOMES && ground.agent.is_some()) {
            continue;
        }
        let what = match shape.link {
            Some(target) => Shown::Link(target.into()),
            None => {
                let recursive = recursive && !CONFIGURATION.contains(&shape.name.as_str());
                let tree = clone_tree(&from.join(&shape.name), recursive)?;
                Shown::Tree(tree, if shape.file { Kind::File } else { Kind::Folder })
            }
        };
        trees.push((shape.name, what));
    }
    let tree = clone_tree(&ground.packages, false)?;
    expect_same(&tree, folders.packages, "the packages")?;
    trees.push((PACKAGES.to_owned(), Shown::Tree(tree, Kind::Folder)));
    if let Some(venv) = &ground.venv {
        let checked = folders.venv.ok_or("the virtual environment is not open")?;
        let tree = clone_tree(venv, false)?;
        expect_same(&tree, checked, "the virtual environment")?;
        trees.push((VENV.to_owned(), Shown::Tree(tree, Kind::Folder)));
    }
    if let Some(agent) = &ground.agent {
        let checked = folders.agent.ok_or("the agent is not open")?;
        let tree = clone_tree(agent, false)?;
        expect_same(&tree, checked, "the agent")?;
        trees.push((AGENT.to_owned(), Shown::Tree(tree, Kind::Folder)));
    }
    Ok(trees)
}

/// A descriptor from outside is of the mount namespace that was left, so only the path can be bound; it
/// must still lead to what was checked.
fn expect_same(tree: &OwnedFd, checked: BorrowedFd<'_>, what: &str) -> Result<(), String> {
    let of = |fd: BorrowedFd<'_>| {
        let stat = rustix::fs::fstat(fd).map_err(|e| failed("fstat", e))?;
        Ok::<_, String>((stat.st_dev, stat.st_ino))
    };
    if of(tree.as_fd())? == of(checked)? {
        return Ok(());
    }
    Err(format!("{what}: not the folder that was checked"))
}

/// A detached copy of the mount at a path, and with `recursive` of those below it.
pub(super) fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd, String> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(rustix::fs::CWD, path, flags)
        .map_err(|e| failed(&format!("open_tree {}", path.display()), e))
}

fn directory(path: impl AsRef<Path>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(path.as_ref(), flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_brings_its_folders_and_links_and_nothing_in_the_place_of_ours() {
        let image = tempfile::tempdir().unwrap();
        let at = |name: &str| image.path().join(name);
        for name in [
            "usr/bin",
            "etc",
            "proc",
            "dev",
            "tmp",
            "work",
            "opt/tool",
            "opt/casemate",
        ] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("usr/bin", at("bin")).unwrap();
        std::os::unix::fs::symlink("tool", at("opt/link")).unwrap();
        let shapes = shapes(&System::Image(image.path().to_owned())).unwrap();
        let names: Vec<&str> = shapes.iter().map(|shape| shape.name.as_str()).collect();
        assert_eq!(names, ["bin", "etc", "opt/link", "opt/tool", "usr"]);
        assert_eq!(shapes[0].link.as_deref(), Some("usr/bin"));
        for number in 0..=MOST_NAMES {
            std::fs::create_dir(at(&format!("{number}"))).unwrap();
        }
        let image = System::Image(image.path().to_owned());
        assert!(super::shapes(&image).unwrap_err().contains("no system"));
    }
}
