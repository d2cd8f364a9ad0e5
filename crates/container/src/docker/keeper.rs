//! The other process: this program once more, which stages a container's files where the daemon sees
//! them, has the container made, and takes everything away again when whoever started it is done, or gone.
//!
//! It asks for the container itself: a daemon makes what it was asked for also when whoever asked is gone, and only who
//! hears the answer knows when there is something to take away.
//!
//! It outlives the process that started it for as long as that takes: the container is the daemon's child and
//! not ours, so that nothing the kernel does at our end would end it. What happens when both are killed at
//! once is the next start's to mend.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};
use std::process::ExitCode;
use std::time::Duration;

use bollard::models::ContainerCreateBody;
use casemate_driver::handover::{MADE, Told, copy_in, receive_job, report, tell};
use casemate_driver::packets::Packets;
use casemate_linux::file::create_private;
use casemate_linux::jail::root::{Builder, Folders, Ground, Plan, System};
use casemate_linux::jail::wall;
use casemate_linux::{Limit, handoff, keeper, take_fd};

use super::lower::{EMPTY, EMPTY_FILES, GROUPS, KeeperJob};
use super::{Ids, PLACES};
use crate::bundle::NOTHING;

/// The first argument that makes this program the keeper of a container's files.
pub const ARGUMENT: &str = "docker-keeper";
/// The channel to the host.
pub(crate) const CONTROL: i32 = 3;
/// Where scratch is handed over.
pub(crate) const HANDOFF: i32 = 4;
/// The folder of the packages, as the host checked it.
pub(crate) const PACKAGES: i32 = 5;

/// How often taking things away is tried where the daemon is not to be had.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

struct Given {
    control: Packets,
    handoff: OwnedFd,
    packages: OwnedFd,
}

/// Stages, has the container made, waits for the end of the channel, takes everything away.
pub fn main() -> ExitCode {
    let given = match Given::take() {
        Ok(given) => given,
        // There is nobody to tell: it was started by hand.
        Err(_) => return ExitCode::from(125),
    };
    match run(given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Told) => ExitCode::from(125),
    }
}

impl Given {
    fn take() -> io::Result<Self> {
        Ok(Self {
            control: Packets::new(take_fd(CONTROL)?),
            handoff: take_fd(HANDOFF)?,
            packages: take_fd(PACKAGES)?,
        })
    }
}

/// An error here has been told to the host.
fn run(mut given: Given) -> Result<(), Told> {
    // What is made here is for the guest to read, whatever the user's own mask says.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let job: KeeperJob = tell(&given.control, |control| {
        let job: KeeperJob = receive_job(control.as_fd())?;
        check(&job)?;
        // From here on there may be something to take away.
        keeper::outlive_parent()?;
        Ok(job)
    })?;
    let staged = stage(&job, &mut given);
    let staged = tell(&given.control, |_| staged);
    if staged.is_ok() {
        // Who is gone meanwhile needs no answer.
        drop(tell(&given.control, |control| make(&job, control)));
        // Whatever comes, and the end of the channel above all, is the word to take it away.
        drop(given.control.receive(true));
    }
    let cleared = clear(&job);
    staged?;
    tell(&given.control, |_| cleared)
}

/// The job is checked again here, where it is carried out.
fn check(job: &KeeperJob) -> Result<(), String> {
    job.job.check()?;
    if job.job.root.is_some() || job.job.venv.is_some() {
        return Err("only the host's own system is staged for a daemon".to_owned());
    }
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let name = Path::new(&job.name);
    if !name.components().all(plain) || name.components().count() != 1 {
        return Err(format!("{:?} is not a container's name", job.name));
    }
    if job.place != Path::new(PLACES).join(name) {
        return Err(format!("{} is not its place", job.place.display()));
    }
    Ok(())
}

/// The files of the container: the host's system, the inputs, scratch, and nothing.
fn stage(job: &KeeperJob, given: &mut Given) -> Result<(), String> {
    let limit = |amount: Option<u64>| amount.map_or(Limit::Unlimited, Limit::At);
    let wire = &job.job;
    let user = Ids::of(std::process::id()).user;
    let plan = Plan {
        ground: Ground {
            system: System::Host,
            packages: wire.packages.clone().into(),
            venv: None,
            agent: None,
        },
        input_bytes: wire.input_bytes(),
        input_files: wire.input_files(),
        scratch_bytes: limit(wire.scratch_bytes),
        scratch_files: limit(wire.scratch_files),
        links: wire.links.clone(),
        owner: (user, user),
        seen_as: (user, user),
        machine: None,
    };
    create_private(Path::new(PLACES)).map_err(|error| error.to_string())?;
    std::fs::create_dir(&job.place).map_err(|e| format!("{}: {e}", job.place.display()))?;
    let mut steps = Vec::new();
    let folders = Folders {
        packages: given.packages.as_fd(),
        image: None,
        venv: None,
        agent: None,
    };
    let builder = Builder::begin_at(&job.place, plan, folders, &mut steps)?;
    let inputs = builder.inputs().ok_or("there is no place for the inputs")?;
    copy_in(&mut given.control, &wire.files, inputs)?;
    let built = builder.finish_staged(&mut steps);
    // Those that a container has are looked at in it.
    steps.retain(|step| step.wall != wall::DEVICES);
    nothing(&job.place)?;
    let scratch = built.scratch.ok_or("there is no scratch")?;
    handoff::send(&given.handoff, scratch).map_err(|e| format!("handing over: {e}"))?;
    report(&given.control, &steps)
}

/// What covers the machine's own; then nothing more is written there.
fn nothing(place: &Path) -> Result<(), String> {
    for folder in [place.join(EMPTY).join(GROUPS), place.join(NOTHING)] {
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    for name in EMPTY_FILES {
        keeper::write_new(&place.join(name), b"")?;
    }
    keeper::seal(place)
}

/// Has the container made, as the host says, and passes on what the daemon answers.
fn make(job: &KeeperJob, control: &Packets) -> Result<(), String> {
    let body: ContainerCreateBody = receive_job(control.as_fd())?;
    let made = job.daemon.create(&job.name, body);
    let made = serde_json::to_vec(&made).map_err(|error| error.to_string())?;
    control
        .send(MADE, &made)
        .map_err(|error| format!("answering: {error}"))
}

/// The container, then what was staged for it.
pub(super) fn clear(job: &KeeperJob) -> Result<(), String> {
    let mut removed = job.daemon.remove(&job.name);
    for _ in 1..TRIES {
        if removed.is_ok() {
            break;
        }
        std::thread::sleep(BETWEEN_TRIES);
        removed = job.daemon.remove(&job.name);
    }
    // What is staged goes in any case; a container that is left is reclaimed by its label.
    keeper::clear(&job.place)?;
    removed.map_err(|trouble| trouble.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> KeeperJob {
        let text = serde_json::json!({
            "job": {"root": null, "packages": "/p", "venv": null, "command": ["/usr/bin/python3"], "env": [],
                    "silent": false, "files": [], "links": [], "scratch_bytes": 1, "scratch_files": 1,
                    "open_files": 1, "tasks": 1, "processors": 1},
            "name": "casemate.1-2-3.4",
            "place": "/run/casemate/docker/casemate.1-2-3.4",
            "daemon": {"socket": "/s", "api": [1, 41]},
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_job_that_leads_elsewhere_is_refused_where_it_is_carried_out() {
        assert_eq!(check(&job()), Ok(()));
        let changes: [fn(&mut KeeperJob); 7] = [
            |job| job.name = "../x".into(),
            |job| job.name = "a/b".into(),
            |job| job.name = String::new(),
            |job| job.place = "/etc".into(),
            |job| job.job.packages = "p".into(),
            |job| job.job.root = Some("/image".into()),
            |job| job.job.venv = Some("/venv".into()),
        ];
        for change in changes {
            let mut job = job();
            change(&mut job);
            assert!(check(&job).is_err(), "{job:?}");
        }
    }
}
