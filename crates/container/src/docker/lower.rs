//! `Plan` to what the daemon is asked for and what the keeper of its files is told. Pure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, ResourcesUlimits,
};
use casemate_backend::plan::Plan;
use casemate_driver::handover::WireJob;
use casemate_driver::lowered::{self, LIBRARIES, Lowered};
use casemate_driver::system::{Entry, System};
use casemate_linux::Limit;
use casemate_linux::jail::root::Shape;
use serde::{Deserialize, Serialize};

use super::Variant;
use super::daemon::Daemon;
use crate::bundle::{MAKING_FILES, NOTHING, SCRATCH, Tree, tree as of_every_root, variables};
use crate::filter::filter_in_docker;
use crate::lower::{SENTRY, SENTRY_TASKS, STARTING, TASKS_FOR_ONE};

/// What the driver is started as.
const DRIVER: &str = "/opt/casemate/site-packages/casemate_guest/docker.py";
/// What is shown beside the system.
const BESIDE: [&str; 1] = ["opt/casemate"];
/// What every container of ours is labelled with; the value is its name.
pub(crate) const LABEL: &str = "dev.casemate.sandbox";
/// Memory of process 1, which passes on what the program says.
const PUMP: u64 = 12 << 20;
/// Process 1 itself.
const PUMP_TASKS: u64 = 1;
/// Files that the daemon would show the machine's own of, or make.
pub(crate) const EMPTY_FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];
/// The folder of the stage in which there is nothing but the mount point of control groups.
pub(crate) const EMPTY: &str = "empty";
/// Where the daemon would show control groups.
pub(crate) const GROUPS: &str = "fs/cgroup";

/// What the keeper of a container's files is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeeperJob {
    pub(crate) job: WireJob,
    /// The container's name, whose files these are.
    pub(crate) name: String,
    /// Where they are staged.
    pub(crate) place: PathBuf,
    pub(crate) daemon: Daemon,
}

/// What a request is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) variant: Variant,
    pub(crate) lowered: &'a Lowered<'a>,
    pub(crate) name: &'a str,
    pub(crate) image: &'a str,
    pub(crate) place: &'a Path,
    /// The guest's user, which nobody else has.
    pub(crate) user: u32,
    pub(crate) shapes: &'a [Shape],
    /// Names in `/proc` that are the machine's.
    pub(crate) machine: &'a [String],
    /// The processors that are shown, as the daemon names them.
    pub(crate) processors: &'a str,
}

/// A plan, as far as it can be lowered before there is a container.
pub(crate) fn lower<'a>(
    variant: Variant,
    plan: &'a Plan,
    system: &System,
) -> Result<Lowered<'a>, String> {
    let own = match variant {
        Variant::Native => LIBRARIES + PUMP,
        Variant::Gvisor => LIBRARIES + PUMP + SENTRY,
    };
    let mut lowered = lowered::lower(plan, system, Entry::Waiting, own, PUMP_TASKS)?;
    // The keeper of the files, which is in another group, writes the inputs.
    lowered.watched.held_bytes = 0;
    if let (Variant::Gvisor, Some(tasks)) = (variant, lowered.job.tasks) {
        let tasks = tasks
            .saturating_add(PUMP_TASKS)
            .saturating_mul(TASKS_FOR_ONE);
        lowered.cgroup.pids = Limit::At(tasks.saturating_add(SENTRY_TASKS));
    }
    Ok(lowered)
}

/// The tree of the image: that of every root, and what a daemon mounts of itself.
pub(crate) fn tree(shapes: &[Shape]) -> Tree {
    let mut tree = of_every_root(shapes, &BESIDE, false);
    tree.folders.push("sys".to_owned());
    tree.files.extend(EMPTY_FILES.map(str::to_owned));
    tree
}

/// Where something is mounted, and whether it may be written.
pub(crate) fn mount_points(variant: Variant, shapes: &[Shape]) -> Vec<(String, bool)> {
    let root = std::iter::once(("/".to_owned(), false));
    let binds = binds(variant, shapes).into_iter();
    let mut points: Vec<(String, bool)> = root
        .chain(binds.map(|(_, point, writable)| (point, writable)))
        .collect();
    if variant == Variant::Native {
        // It comes with the folder of devices.
        points.push(("/dev/shm".to_owned(), true));
    }
    points
}

/// Parts of the stage, where each is shown, and whether it may be written.
fn binds(variant: Variant, shapes: &[Shape]) -> Vec<(String, String, bool)> {
    let same = |name: &str, writable| (name.to_owned(), format!("/{name}"), writable);
    let mut binds: Vec<_> = ["opt/casemate", "data", "run"]
        .into_iter()
        .chain(EMPTY_FILES)
        .map(|name| same(name, false))
        .collect();
    let shown = shapes.iter().filter(|shape| shape.link.is_none());
    binds.extend(shown.map(|shape| same(&shape.name, false)));
    binds.push((EMPTY.to_owned(), "/sys".to_owned(), false));
    binds.push((format!("{EMPTY}/{GROUPS}"), format!("/sys/{GROUPS}"), false));
    for (part, point) in SCRATCH {
        match (variant, point) {
            (Variant::Native, "/dev/shm") => {}
            _ => binds.push((part.to_owned(), point.to_owned(), true)),
        }
    }
    match variant {
        // With all that is mounted in it, and with nothing of the daemon's own.
        Variant::Native => binds.push(same("dev", false)),
        // Its kernel has devices of its own; its process file system shows every process's environment.
        Variant::Gvisor => binds.push((NOTHING.to_owned(), "/proc".to_owned(), false)),
    }
    binds
}

/// What the daemon is asked for.
pub(crate) fn request(parts: Parts<'_>) -> Result<ContainerCreateBody, String> {
    let user = format!("{0}:{0}", parts.user);
    let python = casemate_driver::packages::PYTHON;
    let files = parts.lowered.job.open_files.unwrap_or_default();
    let files = files.to_string();
    let entrypoint = [python, "-I", "-S", "-B", DRIVER, &files];
    Ok(ContainerCreateBody {
        image: Some(parts.image.to_owned()),
        hostname: Some("casemate".to_owned()),
        user: Some(user),
        entrypoint: Some(entrypoint.map(str::to_owned).to_vec()),
        cmd: Some(Vec::new()),
        env: Some(variables(&parts.lowered.job.env)),
        working_dir: Some("/work".to_owned()),
        tty: Some(false),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        // The container lives by this stream: with whoever holds it, it ends.
        open_stdin: Some(true),
        stdin_once: Some(true),
        labels: Some(HashMap::from([(LABEL.to_owned(), parts.name.to_owned())])),
        host_config: Some(host_config(parts)?),
        ..ContainerCreateBody::default()
    })
}

fn host_config(parts: Parts<'_>) -> Result<HostConfig, String> {
    let limits = &parts.lowered.cgroup;
    let number = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let finite = |limit: Limit| limit.value().map(number);
    let mut security = vec!["no-new-privileges".to_owned()];
    let mut masked = Vec::new();
    let mut tasks = finite(limits.pids);
    if parts.variant == Variant::Native {
        let filter = filter_in_docker()?;
        let filter = serde_json::to_string(&filter).map_err(|error| error.to_string())?;
        security.push(format!("seccomp={filter}"));
        masked = parts.machine.to_vec();
        // A runtime has threads of its own until the program begins.
        tasks = tasks.map(|tasks| tasks.saturating_add(number(STARTING)));
    }
    let milli = limits.cpu_millicores.value();
    Ok(HostConfig {
        runtime: Some(parts.variant.runtime().to_owned()),
        memory: finite(limits.memory_bytes),
        // Of memory and swap together: none is left for swap.
        memory_swap: finite(limits.memory_bytes),
        pids_limit: Some(tasks.unwrap_or(-1)),
        nano_cpus: milli.map(|milli| number(milli.saturating_mul(1_000_000))),
        cpuset_cpus: Some(parts.processors.to_owned()),
        ulimits: Some(ulimits(parts)),
        mounts: Some(mounts(parts)),
        network_mode: Some("none".to_owned()),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(security),
        masked_paths: Some(masked),
        readonly_paths: Some(Vec::new()),
        readonly_rootfs: Some(true),
        privileged: Some(false),
        publish_all_ports: Some(false),
        init: Some(false),
        // Nothing that it says is kept by the daemon.
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        ..HostConfig::default()
    })
}

fn ulimits(parts: Parts<'_>) -> Vec<ResourcesUlimits> {
    let limit = |name: &str, amount: u64| {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: Some(amount),
            hard: Some(amount),
        }
    };
    let mut limits = vec![limit("core", 0), limit("memlock", 0), limit("msgqueue", 0)];
    let job = &parts.lowered.job;
    let gvisor = parts.variant == Variant::Gvisor;
    if let Some(files) = job.open_files {
        // A runtime needs more to make a container; the driver takes the plan's before it is up.
        limits.push(limit("nofile", files.max(MAKING_FILES)));
    }
    if let Some(tasks) = job.tasks {
        // In gVisor the only count of the guest's there is; else the second behind the control group.
        let more = if gvisor { PUMP_TASKS } else { STARTING };
        limits.push(limit("nproc", tasks.saturating_add(more)));
    }
    limits
}

/// Each is asked for as it is staged, with the stage's own rights: what the daemon is told to make
/// read-only loses those that it is not told of.
fn mounts(parts: Parts<'_>) -> Vec<Mount> {
    binds(parts.variant, parts.shapes)
        .into_iter()
        .map(|(part, target, _)| Mount {
            typ: Some(MountType::BIND),
            source: Some(parts.place.join(part).display().to_string()),
            target: Some(target),
            read_only: Some(false),
            bind_options: Some(MountBindOptions {
                propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
                ..MountBindOptions::default()
            }),
            ..Mount::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use casemate_backend::suite::plan_for;
    use casemate_driver::system::sample;

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
            shape("etc/alternatives", None, false),
            shape("etc/ld.so.cache", None, true),
            shape("usr/local", None, false),
        ]
    }

    fn requested(variant: Variant) -> serde_json::Value {
        let plan = plan_for("print(1)");
        let lowered = lower(variant, &plan, &sample().unwrap()).unwrap();
        let machine = ["/proc/kcore".to_owned(), "/proc/sys".to_owned()];
        let shapes = shapes();
        let body = request(Parts {
            variant,
            lowered: &lowered,
            name: "casemate.1-2-3.4",
            image: "sha256:1",
            place: Path::new("/run/casemate/docker/casemate.1-2-3.4"),
            user: 2_000_000_123,
            shapes: &shapes,
            machine: &machine,
            processors: "0",
        });
        let mut value = serde_json::to_value(body.unwrap()).unwrap();
        let security = value["HostConfig"]["SecurityOpt"].as_array_mut().unwrap();
        for option in security {
            let (name, filter) = match option.as_str().unwrap().split_once('=') {
                Some(pair) => pair,
                None => continue,
            };
            let filter: serde_json::Value = serde_json::from_str(filter).unwrap();
            assert!(filter["syscalls"].as_array().unwrap().len() > 100);
            *option = format!("{name}=(the filter)").into();
        }
        value
    }

    #[test]
    fn what_docker_is_asked_for() {
        let value = requested(Variant::Native);
        insta::assert_snapshot!(serde_json::to_string_pretty(&value).unwrap());
    }

    #[test]
    fn what_docker_with_gvisor_is_asked_for() {
        let value = requested(Variant::Gvisor);
        insta::assert_snapshot!(serde_json::to_string_pretty(&value).unwrap());
    }

    #[test]
    fn nothing_leads_to_the_host_or_the_daemon() {
        for variant in [Variant::Native, Variant::Gvisor] {
            let value = requested(variant);
            let host = &value["HostConfig"];
            for mount in host["Mounts"].as_array().unwrap() {
                let source = mount["Source"].as_str().unwrap();
                assert!(source.starts_with("/run/casemate/docker/"), "{source}");
            }
            for none in [
                "Binds",
                "Devices",
                "CapAdd",
                "VolumesFrom",
                "DeviceRequests",
                "GroupAdd",
                "PidMode",
                "UTSMode",
                "UsernsMode",
            ] {
                assert!(host.get(none).is_none(), "{none}");
            }
            let text = value.to_string();
            assert!(!text.contains("docker.sock"));
            let environment = value["Env"].as_array().unwrap().len();
            assert_eq!(environment, 6);
        }
    }

    #[test]
    fn every_mount_point_is_in_the_image() {
        for variant in [Variant::Native, Variant::Gvisor] {
            let tree = tree(&shapes());
            for (point, _) in mount_points(variant, &shapes()) {
                let name = point.trim_start_matches('/');
                let inside = name.is_empty() || name == "dev/shm" || name.starts_with("sys/");
                let there = tree.folders.iter().chain(&tree.files).any(|n| n == name);
                assert!(there || inside, "{name}");
            }
        }
    }

    #[test]
    fn limits_are_those_of_the_plan_and_of_what_is_around_it() {
        let plan = plan_for("print(1)");
        let native = lower(Variant::Native, &plan, &sample().unwrap()).unwrap();
        assert_eq!(native.cgroup.pids, Limit::At(32 + 1));
        let gvisor = lower(Variant::Gvisor, &plan, &sample().unwrap()).unwrap();
        assert_eq!(gvisor.cgroup.pids, Limit::At(33 * 4 + 512));
        for lowered in [native, gvisor] {
            assert_eq!(lowered.watched.held_bytes, 0);
        }
    }
}
