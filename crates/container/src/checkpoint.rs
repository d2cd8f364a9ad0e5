//! Checkpoints: a Python on gVisor's kernel that has loaded and used the libraries, kept as files, from which the
//! containers of later runs go on. They hold nothing of any run's, and lie in a folder of the user's own.
//!
//! gVisor opens what was open again by its name and looks at nothing else. So each is kept under what it was made
//! with, and with the files that were mapped into its memory: where one has changed since, it is not used.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use casemate_backend::plan::{Plan, Start};
use casemate_driver::handover::{SAVE, SAVED};
use casemate_driver::packages::Opened;
use casemate_driver::packets::Received;
use casemate_driver::system::{PACKAGES, System};
use casemate_driver::walls::shares_layout;
use casemate_images::Systems;
use casemate_linux::file::{create_private, identity, lock_alone, open_owned};
use casemate_model::guarantee::Guarantee;
use casemate_model::receipt::Receipt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bundle::Ids;
use crate::kind::Kind;
use crate::lower::{Begins, as_saved, keeper_job, lower, lower_to_save};
use crate::making::{Up, Wanted, make, shapes_of};
use crate::probe::{self, Found};

/// Counted up when what is kept changes.
const FORMAT: u32 = 1;
/// How many there may be; beyond it the oldest go. One has about 90 MB.
const MOST: usize = 4;
/// What the files that were mapped are called.
const MAPPED: &str = "mapped.json";
/// How long the runtime may take to write one.
const SAVED_WITHIN: Duration = Duration::from_secs(60);
/// How long after a failure none is made again.
const PAUSE: Duration = Duration::from_secs(300);
/// How the words begin for whose layout a program shares that went on from one.
const RESTORED: &str = "restored from checkpoint";
/// The libraries that are loaded.
const LIBRARIES: [&str; 3] = ["matplotlib", "numpy", "pandas"];

/// When a checkpoint that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Not at all: for a process that makes one run, which would be over before.
    Never,
    /// Beside the runs, which start cold until it stands: for a process that makes many.
    Beside,
    /// Before the run, and no run starts without: for set-up, and to attack such starts.
    First,
}

/// Where they are, and when they are made.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    root: PathBuf,
    make: Make,
    /// Those that this process makes now, or could not make.
    of: Mutex<HashMap<String, State>>,
}

#[derive(Debug, Clone)]
enum State {
    BeingMade,
    Failed(String, Instant),
}

/// A file that was mapped into memory, and what tells it from another.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mapped {
    path: PathBuf,
    identity: String,
}

/// What a checkpoint is made with.
#[derive(Debug)]
pub(crate) struct Maker<'a> {
    pub(crate) kind: Kind,
    pub(crate) found: &'a Found,
    pub(crate) program: &'a Path,
    pub(crate) systems: &'a Systems,
}

/// Whether the program of a run with this receipt went on from a checkpoint.
#[must_use]
pub fn is_restored(receipt: &Receipt) -> bool {
    shares_layout(receipt, RESTORED)
}

/// For whose layout a program shares that goes on from this one.
pub(crate) fn whose(folder: &Opened) -> String {
    let name = Path::new(&folder.path).file_name().unwrap_or_default();
    format!("{RESTORED} {}: all runs from it", name.display())
}

/// Whether a plan's program is one that a checkpoint is for; if not, why. One of which it is not known whether it needs
/// the libraries is not: what it forks would hold a part of them each, on its own account. Where there is no other start
/// it is.
pub(crate) fn fits(plan: &Plan, system: &System, is_must: bool) -> Result<(), String> {
    if plan.asked.contains(Guarantee::LayoutFresh) {
        return Err("the policy asks for a layout of its own".to_owned());
    }
    if plan.guest.start != Start::Driver || !system.is_host() {
        return Err("checkpoints are of Python on the machine's own system".to_owned());
    }
    let needs = |loads: &BTreeSet<String>| LIBRARIES.iter().any(|one| loads.contains(*one));
    if plan.loads.as_ref().map_or(is_must, needs) {
        return Ok(());
    }
    Err("it is not known to load a library that a checkpoint has loaded".to_owned())
}

impl Checkpoints {
    pub(crate) fn new(root: PathBuf, make: Make) -> Self {
        Self {
            root,
            make,
            of: Mutex::default(),
        }
    }

    /// Whether no run starts without one.
    pub(crate) fn is_must(&self) -> bool {
        self.make == Make::First
    }

    /// The one for a plan that it fits, or why there is none now.
    pub(crate) fn get(
        self: &Arc<Self>,
        maker: &Maker<'_>,
        plan: &Plan,
        system: &System,
    ) -> Result<Opened, String> {
        let key = maker.key(plan, system)?;
        let why = match self.find(&key) {
            Ok(folder) => return Ok(folder),
            Err(why) => why,
        };
        match self.make {
            Make::Never => Err(format!(
                "{why}; `casemate setup --backend gvisor` makes one"
            )),
            Make::First => self.ensure(&key, maker, plan),
            Make::Beside => {
                self.claim(&key)?;
                let (all, kind, found) = (Arc::clone(self), maker.kind, maker.found.clone());
                let (program, systems) = (maker.program.to_owned(), maker.systems.clone());
                let plan = plan.clone();
                let (failed, claimed) = (Arc::clone(self), key.clone());
                let beside = move || {
                    let maker = Maker {
                        kind,
                        found: &found,
                        program: &program,
                        systems: &systems,
                    };
                    let made = all.ensure(&key, &maker, &plan);
                    all.settle(&key, made.err());
                };
                let thread = std::thread::Builder::new().name("checkpoint".to_owned());
                let why = match thread.spawn(beside) {
                    Ok(_) => return Err("a checkpoint is being made".to_owned()),
                    Err(error) => format!("no thread to make a checkpoint from: {error}"),
                };
                // Nobody makes it, so that it may be tried again.
                failed.settle(&claimed, Some(why.clone()));
                Err(why)
            }
        }
    }

    /// Takes one away from which no container came up. Where nobody makes them anew it stays: what was
    /// wrong may have been the machine's.
    pub(crate) fn failed(&self, folder: &Opened, why: &str) {
        if self.make == Make::Never {
            return;
        }
        let path = Path::new(&folder.path);
        let key = path.file_name().unwrap_or_default().to_string_lossy();
        self.settle(&key, Some(why.to_owned()));
        // Where it cannot be removed it is tried again.
        drop(fs::remove_dir_all(path));
    }

    /// Marks one as being made by the caller.
    fn claim(&self, key: &str) -> Result<(), String> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        match of.get(key) {
            Some(State::BeingMade) => Err("a checkpoint is being made".to_owned()),
            Some(State::Failed(why, when)) if when.elapsed() < PAUSE => Err(why.clone()),
            _ => {
                of.insert(key.to_owned(), State::BeingMade);
                Ok(())
            }
        }
    }

    fn settle(&self, key: &str, failed: Option<String>) {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        match failed {
            Some(why) => drop(of.insert(key.to_owned(), State::Failed(why, Instant::now()))),
            None => drop(of.remove(key)),
        }
    }

    /// The one of this key, if it may be used; if not, why.
    fn find(&self, key: &str) -> Result<Opened, String> {
        let path = self.root.join(key);
        let folder = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err("there is no checkpoint for it".to_owned());
            }
            _ => Opened::open(&path, false)?,
        };
        let file = open_owned(&path.join(MAPPED)).map_err(|error| error.to_string())?;
        let mapped: Vec<Mapped> = serde_json::from_reader(io::BufReader::new(file))
            .map_err(|error| format!("its checkpoint is damaged: {error}"))?;
        let changed = mapped.iter().find(|file| {
            let now = identity(&file.path);
            now.ok().as_ref() != Some(&file.identity)
        });
        match changed {
            None => Ok(folder),
            Some(file) => Err(format!(
                "{} has changed since its checkpoint was made",
                file.path.display()
            )),
        }
    }

    /// Makes sure that there is one. A second process waits here for the first.
    fn ensure(&self, key: &str, maker: &Maker<'_>, plan: &Plan) -> Result<Opened, String> {
        create_private(&self.root).map_err(|error| error.to_string())?;
        let failed = |error: io::Error| format!("making a checkpoint: {error}");
        let _lock = lock_alone(&self.root.join("lock"), || {}).map_err(failed)?;
        if let Ok(folder) = self.find(key) {
            return Ok(folder);
        }
        let staging = self.root.join(format!("{key}.part"));
        remove_dir(&staging).map_err(failed)?;
        create_private(&staging).map_err(|error| error.to_string())?;
        let made = maker.make(plan, &staging);
        if let Err(why) = made {
            remove_dir(&staging).map_err(failed)?;
            return Err(format!("making a checkpoint: {why}"));
        }
        let path = self.root.join(key);
        remove_dir(&path).map_err(failed)?;
        fs::rename(&staging, &path).map_err(failed)?;
        self.prune(key).map_err(failed)?;
        self.find(key)
    }

    /// Takes the oldest away where there are too many.
    fn prune(&self, newest: &str) -> io::Result<()> {
        let mut all: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() && entry.file_name() != newest {
                all.push((meta.modified()?, entry.path()));
            }
        }
        all.sort();
        let many = (all.len() + 1).saturating_sub(MOST);
        let mut oldest = all.into_iter().take(many);
        oldest.try_for_each(|(_, path)| remove_dir(&path))
    }
}

impl Maker<'_> {
    /// What tells the checkpoint for a plan from others: the runtime, how it is called, and everything that the container
    /// is made of.
    fn key(&self, plan: &Plan, system: &System) -> Result<String, String> {
        let mut job = lower(self.kind, plan, system)?.job;
        as_saved(&mut job);
        let shapes = shapes_of(&job)?;
        let program = self.found.program.to_string_lossy();
        let begins = Begins::Anew;
        let told = keeper_job(self.kind, &job, &program, Ids::SAVED, &shapes, None, begins)?;
        let (_, runtime) = probe::rests_on(self.found);
        let parts = [
            FORMAT.to_string(),
            runtime,
            system.packages.path.clone(),
            job.processors.to_string(),
            told.config,
            told.create.join("\n"),
            self.kind.restore().join("\n"),
        ];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        Ok(digest[..12]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    /// Has a container made, lets it load the libraries, and keeps it in the folder.
    fn make(&self, plan: &Plan, into: &Path) -> Result<(), String> {
        let lacking = |(why, fix): (String, String)| format!("{why}; {fix}");
        let system = self.systems.of(&plan.guest.image).map_err(lacking)?;
        let lowered = lower_to_save(self.kind, plan, &system)?;
        let packages = PathBuf::from(&system.packages.path);
        let folder = Opened::open(into, false)?.folder;
        let wanted = Wanted {
            kind: self.kind,
            found: self.found,
            program: self.program,
            agent: None,
            files: None,
            begins: Begins::Into(&folder),
        };
        let up = make(&wanted, &lowered, system).map_err(|error| error.to_string())?;
        let mapped = mapped(&up.mapped, &packages)?;
        save(up)?;
        let failed = |error: io::Error| error.to_string();
        let text = serde_json::to_vec(&mapped).map_err(|error| error.to_string())?;
        fs::write(into.join(MAPPED), text).map_err(failed)?;
        // Where the machine stops now there is a whole one, or none.
        for entry in fs::read_dir(into).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            File::open(path)
                .and_then(|file| file.sync_all())
                .map_err(failed)?;
        }
        folder.sync_all().map_err(failed)
    }
}

/// Has the runtime write the container to its folder.
fn save(up: Up) -> Result<(), String> {
    let mut standing = up.standing;
    let failed = |error: io::Error| format!("the keeper: {error}");
    standing.lines.control.send(SAVE, &[]).map_err(failed)?;
    let deadline = Instant::now() + SAVED_WITHIN;
    match standing
        .lines
        .control
        .receive_until(deadline)
        .map_err(failed)?
    {
        Received::Packet(SAVED, _) => Ok(()),
        Received::Packet(_, why) => Err(String::from_utf8_lossy(&why).into_owned()),
        _ => Err("the keeper ended before it was written".to_owned()),
    }
}

/// The files that an interpreter says are mapped into its memory, as they lie here.
fn mapped(said: &[u8], packages: &Path) -> Result<Vec<Mapped>, String> {
    let names: Vec<PathBuf> = serde_json::from_slice(said)
        .map_err(|error| format!("what is mapped into its memory: {error}"))?;
    let here = |name: PathBuf| match name.strip_prefix(PACKAGES) {
        Ok(below) => packages.join(below),
        Err(_) => name,
    };
    let known = |path: PathBuf| {
        let identity = identity(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Mapped { path, identity })
    };
    if names.len() < 2 {
        return Err("it does not say what is mapped into its memory".to_owned());
    }
    names.into_iter().map(here).map(known).collect()
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use casemate_backend::suite::plan_for;
    use casemate_driver::system::sample;

    use super::*;

    fn checkpoints(make: Make) -> (tempfile::TempDir, Arc<Checkpoints>) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("all");
        create_private(&root).unwrap();
        (dir, Arc::new(Checkpoints::new(root, make)))
    }

    /// One that was made, of a file that is mapped.
    fn made(all: &Checkpoints, key: &str, file: &Path) -> PathBuf {
        let path = all.root.join(key);
        create_private(&path).unwrap();
        let mapped = vec![Mapped {
            path: file.to_owned(),
            identity: identity(file).unwrap(),
        }];
        let manifest = path.join(MAPPED);
        fs::write(manifest, serde_json::to_vec(&mapped).unwrap()).unwrap();
        path
    }

    #[test]
    fn one_is_not_used_when_a_file_that_was_mapped_is_another() {
        let (dir, all) = checkpoints(Make::Never);
        let library = dir.path().join("lib.so");
        fs::write(&library, "one").unwrap();
        assert!(all.find("key").unwrap_err().contains("no checkpoint"));
        made(&all, "key", &library);
        assert!(all.find("key").is_ok());
        let new = dir.path().join("new");
        fs::write(&new, "one").unwrap();
        fs::rename(&new, &library).unwrap();
        assert!(all.find("key").unwrap_err().contains("has changed"));
        fs::remove_file(&library).unwrap();
        assert!(all.find("key").unwrap_err().contains("has changed"));
    }

    #[test]
    fn one_that_others_could_have_written_or_that_is_damaged_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, all) = checkpoints(Make::Never);
        let library = dir.path().join("lib.so");
        fs::write(&library, "one").unwrap();
        let path = made(&all, "key", &library);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(all.find("key").unwrap_err().contains("others may write"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(path.join(MAPPED), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(all.find("key").is_err());
        fs::set_permissions(path.join(MAPPED), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(all.find("key").is_ok());
        fs::write(path.join(MAPPED), "[").unwrap();
        assert!(all.find("key").unwrap_err().contains("damaged"));
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(all.find("key").unwrap_err().contains("cannot be opened"));
    }

    #[test]
    fn the_oldest_make_room() {
        let (dir, all) = checkpoints(Make::First);
        let library = dir.path().join("lib.so");
        fs::write(&library, "one").unwrap();
        for at in 0..MOST + 2 {
            made(&all, &at.to_string(), &library);
            let when = SystemTime::UNIX_EPOCH + Duration::from_secs(at as u64);
            let folder = File::open(all.root.join(at.to_string())).unwrap();
            folder.set_modified(when).unwrap();
        }
        all.prune("0").unwrap();
        let left: Vec<bool> = (0..MOST + 2)
            .map(|at| all.find(&at.to_string()).is_ok())
            .collect();
        assert_eq!(
            left,
            [true, false, false, true, true, true],
            "the newest by name stays"
        );
    }

    #[test]
    fn after_a_failure_there_is_a_pause() {
        let (_dir, all) = checkpoints(Make::Beside);
        assert_eq!(all.claim("key"), Ok(()));
        assert!(all.claim("key").unwrap_err().contains("being made"));
        all.settle("key", Some("no room".to_owned()));
        assert_eq!(all.claim("key"), Err("no room".to_owned()));
        all.settle("key", None);
        assert_eq!(all.claim("key"), Ok(()));
    }

    #[test]
    fn programs_that_need_nothing_of_it_start_cold() {
        let system = sample().unwrap();
        let with = |loads: Option<&[&str]>| {
            let mut plan = plan_for("print(1)");
            let set = |all: &[&str]| {
                all.iter()
                    .map(|&one| one.to_owned())
                    .collect::<BTreeSet<_>>()
            };
            plan.loads = loads.map(set);
            plan
        };
        let fits = |plan: &Plan, is_must| fits(plan, &system, is_must);
        for loads in [&["pandas"][..], &["os", "numpy"]] {
            assert_eq!(fits(&with(Some(loads)), false), Ok(()));
        }
        assert!(fits(&with(Some(&["os"])), true).is_err());
        assert!(fits(&with(None), false).is_err());
        assert_eq!(fits(&with(None), true), Ok(()));
        let mut fresh = with(None);
        fresh.asked.insert(Guarantee::LayoutFresh);
        assert!(fits(&fresh, true).unwrap_err().contains("of its own"));
        let mut plain = with(None);
        plain.guest.start = Start::Plain;
        assert!(fits(&plain, true).is_err());
    }

    #[test]
    fn what_is_mapped_is_found_where_it_lies() {
        let packages = tempfile::tempdir().unwrap();
        fs::write(packages.path().join("a.so"), "x").unwrap();
        let said = format!("[\"{PACKAGES}/a.so\", \"/proc/self/exe\"]");
        let found = mapped(said.as_bytes(), packages.path()).unwrap();
        assert_eq!(found[0].path, packages.path().join("a.so"));
        for bad in [
            "",
            "[]",
            "[\"/proc/self/exe\"]",
            "[\"/nowhere/a\", \"/nowhere/b\"]",
        ] {
            assert!(mapped(bad.as_bytes(), packages.path()).is_err(), "{bad}");
        }
    }
}
