//! The OCI bundle: what a runtime is told, as data. Pure.

use std::path::PathBuf;

use casemate_linux::jail::Network;
use casemate_linux::jail::root::{PLACE, Shape};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDeviceCgroupBuilder, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType as Namespace,
    LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::filter::filter;
use crate::kind::Kind;

/// The user of the guest in a user namespace of its own.
pub(crate) const INSIDE: u32 = 1000;
/// Scratch, by its place in the stage and in the container.
pub(crate) const SCRATCH: [(&str, &str); 3] =
    [("tmp", "/tmp"), ("work", "/work"), ("dev/shm", "/dev/shm")];
/// The part of it where an agent lives.
const HOME: (&str, &str) = ("home/user", "/home/user");
/// The folder of homes: those of an image's are not shown where there is to be one of ours.
pub(crate) const HOMES: &str = "home";
/// Folders and files that a root has beside the others where an agent lives: homes, and who and where one is.
const LIVED_IN: [&str; 2] = ["home/user", "root"];
const ACCOUNTS: [&str; 3] = ["etc/passwd", "etc/group", "etc/hosts"];
/// Where the stage's own folders end up.
const FOLDERS: [&str; 9] = [
    "data", "dev", "etc", "opt", "proc", "run", "tmp", "usr", "work",
];
/// Descriptors that a runtime needs to make a container in its place: the limit of the guest's is set before
/// its program begins.
pub(crate) const MAKING_FILES: u64 = 256;
/// The folder of the stage in which there is nothing.
pub(crate) const NOTHING: &str = "nothing";

/// Numbers of users that nobody else has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    /// Root of the user namespace.
    pub(crate) root: u32,
    /// The guest.
    pub(crate) user: u32,
}

impl Ids {
    /// Those of a container whose interpreter was kept as files, or is to be: it goes on as whom it began. With
    /// gVisor they are numbers of its own kernel's, and owners of files that nobody outside of its keeper sees.
    pub(crate) const SAVED: Self = Self {
        root: 2_010_000_000,
        user: 2_000_000_000,
    };

    /// Those of the keeper with this number: in a range no distribution hands out.
    pub(crate) fn of(keeper: u32) -> Self {
        Self {
            root: 2_010_000_000_u32.saturating_add(keeper),
            user: 2_000_000_000_u32.saturating_add(keeper),
        }
    }
}

/// What a bundle is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) kind: Kind,
    pub(crate) ids: Ids,
    /// What the system has at its top.
    pub(crate) shapes: &'a [Shape],
    /// What is shown beside it, by its place.
    pub(crate) beside: &'a [&'static str],
    /// What is started, and its environment.
    pub(crate) command: &'a [String],
    pub(crate) env: &'a [(String, String)],
    /// The group that a runtime which insists on one is told of.
    pub(crate) group: Option<&'a str>,
    /// Descriptors of a process; none is no ceiling.
    pub(crate) open_files: Option<u64>,
    /// Tasks of the guest's user; none is no ceiling.
    pub(crate) tasks: Option<u64>,
    /// Whether an agent lives in it: it has a home, terminals, and a loopback that may be used.
    pub(crate) lived_in: bool,
}

/// The tree that the container's root begins with: folders and files that are mounted over, and links.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tree {
    pub(crate) folders: Vec<String>,
    pub(crate) files: Vec<String>,
    pub(crate) links: Vec<(String, String)>,
}

pub(crate) fn tree(shapes: &[Shape], beside: &[&str], lived_in: bool) -> Tree {
    let more: &[&str] = if lived_in { &LIVED_IN } else { &[] };
    let folders = FOLDERS.iter().chain(beside).chain(more);
    let files: &[&str] = if lived_in { &ACCOUNTS } else { &[] };
    let mut tree = Tree {
        folders: folders.map(|name| (*name).to_owned()).collect(),
        files: files.iter().map(|name| (*name).to_owned()).collect(),
        ..Tree::default()
    };
    for shape in shapes {
        match &shape.link {
            Some(target) => tree.links.push((shape.name.clone(), target.clone())),
            None if shape.file => tree.files.push(shape.name.clone()),
            None => tree.folders.push(shape.name.clone()),
        }
    }
    tree
}

pub(crate) fn spec(parts: Parts<'_>) -> Result<Spec, String> {
    build(parts).map_err(|error| error.to_string())
}

fn build(parts: Parts<'_>) -> Result<Spec, OciSpecError> {
    let gvisor = parts.kind.is_gvisor();
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(gvisor)?)
        .masked_paths(Vec::new())
        .readonly_paths(Vec::new());
    if !gvisor {
        let network = if parts.lived_in {
            Network::Loopback
        } else {
            Network::Nothing
        };
        let filter = filter(network).map_err(OciSpecError::Other)?;
        linux = linux
            .uid_mappings(mappings(parts.ids)?)
            .gid_mappings(mappings(parts.ids)?)
            .seccomp(filter);
    }
    if let Some(group) = parts.group {
        // All limits are those of our own group; of this one only the devices are the runtime's.
        let nothing = LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .access("rwm")
            .build()?;
        let resources = LinuxResourcesBuilder::default().devices(vec![nothing]);
        linux = linux
            .cgroups_path(PathBuf::from(group))
            .resources(resources.build()?);
    }
    SpecBuilder::default()
        .version("1.0.2")
        .root(
            RootBuilder::default()
                .path("rootfs")
                .readonly(true)
                .build()?,
        )
        .hostname("casemate")
        .process(process(parts)?)
        .mounts(mounts(parts)?)
        .linux(linux.build()?)
        .build()
}

/// gVisor's kernel is in a user namespace of its own in any case; the guest's users are only numbers to it.
fn namespaces(gvisor: bool) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let always = [
        Namespace::Pid,
        Namespace::Network,
        Namespace::Ipc,
        Namespace::Uts,
        Namespace::Mount,
    ];
    let shared = [Namespace::User, Namespace::Cgroup];
    let all = always
        .into_iter()
        .chain(shared.into_iter().filter(|_| !gvisor));
    all.map(|typ| LinuxNamespaceBuilder::default().typ(typ).build())
        .collect()
}

fn mappings(ids: Ids) -> Result<Vec<LinuxIdMapping>, OciSpecError> {
    [(0_u32, ids.root), (INSIDE, ids.user)]
        .into_iter()
        .map(|(inside, outside)| {
            LinuxIdMappingBuilder::default()
                .container_id(inside)
                .host_id(outside)
                .size(1_u32)
                .build()
        })
        .collect()
}

fn process(parts: Parts<'_>) -> Result<Process, OciSpecError> {
    let user = if parts.kind.is_gvisor() {
        parts.ids.user
    } else {
        INSIDE
    };
    let none = || std::collections::HashSet::new();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(none())
        .effective(none())
        .inheritable(none())
        .permitted(none())
        .ambient(none());
    ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(user).gid(user).build()?)
        .args(parts.command.to_vec())
        .env(variables(parts.env))
        .cwd("/work")
        .no_new_privileges(true)
        .capabilities(capabilities.build()?)
        .rlimits(rlimits(parts)?)
        .build()
}

/// Variables as a process has them.
pub(crate) fn variables(env: &[(String, String)]) -> Vec<String> {
    let pairs = env.iter();
    pairs
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn rlimits(parts: Parts<'_>) -> Result<Vec<PosixRlimit>, OciSpecError> {
    let limit = |typ: PosixRlimitType, amount: u64| {
        PosixRlimitBuilder::default()
            .typ(typ)
            .soft(amount)
            .hard(amount)
            .build()
    };
    let mut limits = vec![
        limit(PosixRlimitType::RlimitCore, 0)?,
        limit(PosixRlimitType::RlimitMemlock, 0)?,
        limit(PosixRlimitType::RlimitMsgqueue, 0)?,
    ];
    if let Some(mut files) = parts.open_files {
        if !parts.kind.is_gvisor() {
            files = files.max(MAKING_FILES);
        }
        limits.push(limit(PosixRlimitType::RlimitNofile, files)?);
    }
    if let Some(tasks) = parts.tasks {
        limits.push(limit(PosixRlimitType::RlimitNproc, tasks)?);
    }
    Ok(limits)
}

fn mounts(parts: Parts<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let mut mounts = if parts.kind.is_gvisor() {
        // Its own process file system shows every process's environment, and cannot be cut down to less:
        // it would mount one if there were nothing.
        vec![nothing("/proc")?, nothing("/sys")?]
    } else {
        let mut options = vec!["nosuid", "nodev", "noexec", "hidepid=2"];
        if !parts.lived_in {
            options.push("subset=pid");
        }
        // Where an agent lives the keeper lays texts over it first, and then tells it that.
        vec![file_system("proc", "/proc", &options)?]
    };
    mounts.push(file_system(
        "tmpfs",
        "/dev",
        &["nosuid", "noexec", "mode=755", "size=64k", "nr_inodes=64"],
    )?);
    let shown = parts.shapes.iter().filter(|shape| shape.link.is_none());
    let shown = shown.map(|shape| shape.name.as_str());
    // The system first: what is beside it may lie in one of its folders.
    for name in shown.chain(parts.beside.iter().copied()) {
        mounts.push(bind(name, &format!("/{name}"), &["ro", "nosuid", "nodev"])?);
    }
    for name in ["data", "run"] {
        let options = ["ro", "nosuid", "nodev", "noexec"];
        mounts.push(bind(name, &format!("/{name}"), &options)?);
    }
    let home = parts.lived_in.then_some(HOME);
    for (part, name) in SCRATCH.into_iter().chain(home) {
        mounts.push(bind(part, name, &["rw", "nosuid", "nodev"])?);
    }
    if parts.lived_in {
        mounts.extend(lived_in()?);
    }
    Ok(mounts)
}

/// Accounts, which lie over what a system has of them, and terminals of the container's own.
fn lived_in() -> Result<Vec<Mount>, OciSpecError> {
    let options = ["ro", "nosuid", "nodev", "noexec"];
    let accounts = ACCOUNTS.map(|name| bind(name, &format!("/{name}"), &options));
    let terminals = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    let terminals = file_system("devpts", "/dev/pts", &terminals);
    accounts.into_iter().chain([terminals]).collect()
}

fn nothing(destination: &str) -> Result<Mount, OciSpecError> {
    bind(NOTHING, destination, &["ro", "nosuid", "nodev", "noexec"])
}

fn file_system(typ: &str, destination: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .typ(typ)
        .source(typ)
        .destination(destination)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
}

/// A part of the stage, which is read-only there already where it is to be.
fn bind(part: &str, destination: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options = std::iter::once("rbind").chain(options.iter().copied());
    MountBuilder::default()
        .typ("bind")
        .source(format!("{PLACE}/{part}"))
        .destination(destination)
        .options(options.map(str::to_owned).collect::<Vec<_>>())
        .build()
}

/// The places where something is mounted in a container, and which of them may be written.
pub(crate) fn mount_points(
    shapes: &[Shape],
    beside: &[&str],
    lived_in: bool,
) -> Vec<(String, bool)> {
    let read_only = ["/", "/data", "/run"];
    let accounts: &[&str] = if lived_in { &ACCOUNTS } else { &[] };
    let home = lived_in.then_some(HOME);
    let shown = shapes.iter().filter(|shape| shape.link.is_none());
    let shown = shown.map(|shape| shape.name.as_str());
    let shown = shown.chain(beside.iter().copied());
    let shown = shown.chain(accounts.iter().copied());
    let shown = shown.map(|name| (format!("/{name}"), false));
    let read_only = read_only.map(|name| (name.to_owned(), false));
    let scratch = SCRATCH.into_iter().chain(home);
    let scratch = scratch.map(|(_, name)| (name.to_owned(), true));
    read_only.into_iter().chain(shown).chain(scratch).collect()
}

#[cfg(test)]
mod tests {
    use casemate_backend::suite::plan_for;
    use casemate_driver::system::{Entry, sample};

    use super::*;

    fn shapes() -> Vec<Shape> {
        let shape = |name: &str, link: Option<&str>, file| Shape {
            name: name.to_owned(),
            link: link.map(str::to_owned),
            file,
        };
        vec![
            shape("usr", None, false),
            shape("bin", Some("usr/bin"), false),
            shape("lib64", Some("usr/lib64"), false),
            shape("etc/alternatives", None, false),
            shape("etc/ld.so.cache", None, true),
        ]
    }

    fn without_filter(kind: Kind) -> String {
        bundle_of(kind, false)
    }

    fn bundle_of(kind: Kind, lived_in: bool) -> String {
        let command = sample()
            .unwrap()
            .command(&plan_for("print(1)"), Entry::Waiting);
        let command = command.unwrap();
        let shapes = shapes();
        let parts = Parts {
            kind,
            ids: Ids::of(123),
            shapes: &shapes,
            beside: &["opt/casemate"],
            command: &command.argv,
            env: &command.env,
            group: (kind == Kind::Runc).then_some("/casemate/runc.1-2-3.4"),
            open_files: Some(64),
            tasks: Some(32),
            lived_in,
        };
        let mut value = serde_json::to_value(spec(parts).unwrap()).unwrap();
        if let Some(linux) = value["linux"].as_object_mut() {
            let filter = linux.remove("seccomp");
            assert_eq!(filter.is_some(), !kind.is_gvisor());
        }
        serde_json::to_string_pretty(&value).unwrap()
    }

    #[test]
    fn the_bundle_of_runc() {
        insta::assert_snapshot!(without_filter(Kind::Runc));
    }

    #[test]
    fn the_bundle_of_crun_is_that_without_a_group() {
        let mut crun: serde_json::Value =
            serde_json::from_str(&without_filter(Kind::Crun)).unwrap();
        let mut runc: serde_json::Value =
            serde_json::from_str(&without_filter(Kind::Runc)).unwrap();
        // An empty list is what a bundle has that says nothing.
        let nothing = crun["linux"].as_object_mut().unwrap().remove("resources");
        assert_eq!(nothing, Some(serde_json::json!({ "devices": [] })));
        let linux = runc["linux"].as_object_mut().unwrap();
        assert!(linux.remove("cgroupsPath").is_some() && linux.remove("resources").is_some());
        assert_eq!(runc, crun);
    }

    #[test]
    fn the_bundle_of_gvisor() {
        insta::assert_snapshot!(without_filter(Kind::Gvisor(crate::Platform::Systrap)));
    }

    #[test]
    fn where_an_agent_lives_there_are_a_home_accounts_and_terminals_beside_the_rest() {
        let places = |lived_in| {
            let text = bundle_of(Kind::Crun, lived_in);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let mounts = value["mounts"].as_array().unwrap().clone();
            let place =
                |mount: &serde_json::Value| mount["destination"].as_str().unwrap().to_owned();
            (mounts.iter().map(place).collect::<Vec<_>>(), mounts, value)
        };
        let ((run, _, whole), (session, mounts, lived)) = (places(false), places(true));
        let more: Vec<_> = session
            .iter()
            .filter(|place| !run.contains(place))
            .collect();
        assert_eq!(
            more,
            [
                "/home/user",
                "/etc/passwd",
                "/etc/group",
                "/etc/hosts",
                "/dev/pts"
            ]
        );
        assert!(run.iter().all(|place| session.contains(place)));
        let terminals = mounts.last().unwrap()["options"].to_string();
        assert!(terminals.contains("newinstance") && terminals.contains("nosuid"));
        for part in ["process", "root", "hostname"] {
            assert_eq!(whole[part], lived[part], "{part}");
        }
        for part in ["namespaces", "uidMappings", "gidMappings"] {
            assert_eq!(whole["linux"][part], lived["linux"][part], "{part}");
        }
    }

    #[test]
    fn no_bundle_has_hooks_or_a_way_to_the_host() {
        let gvisor = Kind::Gvisor(crate::Platform::Ptrace);
        for (kind, lived_in) in [
            (Kind::Runc, false),
            (Kind::Crun, false),
            (Kind::Crun, true),
            (gvisor, false),
        ] {
            let text = bundle_of(kind, lived_in);
            assert!(
                !text.contains("hooks") && !text.contains("\"path\": \"/"),
                "{text}"
            );
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            for mount in value["mounts"].as_array().unwrap() {
                let source = mount["source"].as_str().unwrap();
                let staged = source.starts_with("/tmp/");
                let own = ["proc", "tmpfs", "devpts"].contains(&source);
                assert!(staged || own, "{source}");
            }
        }
    }

    #[test]
    fn the_tree_has_every_place() {
        let beside = ["opt/casemate", "opt/venv"];
        let run = tree(&shapes(), &beside, false);
        assert_eq!(run.files, ["etc/ld.so.cache"]);
        assert_eq!(run.links[0], ("bin".to_owned(), "usr/bin".to_owned()));
        for lived_in in [false, true] {
            let tree = tree(&shapes(), &beside, lived_in);
            for (point, _) in mount_points(&shapes(), &beside, lived_in) {
                let name = point.trim_start_matches('/');
                let there = tree.folders.iter().chain(&tree.files).any(|n| n == name);
                assert!(there || name.is_empty() || name == "dev/shm", "{name}");
            }
        }
    }
}
