//! A process as the kernel shows it from outside, in `/proc`. Nothing in here asks the process.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

use casemate_linux::Limit;
use casemate_linux::cgroup::Cgroup;
use casemate_linux::jail::Rlimit;
use casemate_linux::processor;

/// What stands, or what was found instead.
pub type Found = Result<String, String>;

/// A process by its number here, and what the kernel says of it.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    status: BTreeMap<String, String>,
}

/// The number here of the process that a descriptor from another process table stands for.
///
/// # Errors
/// When it is no such descriptor, or the process is gone.
pub fn number_of(pidfd: impl AsFd) -> Result<u32, String> {
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

fn link(path: &str) -> Result<String, String> {
    let link = std::fs::read_link(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(link.to_string_lossy().into_owned())
}

impl Process {
    /// Looks at a process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn open(pid: u32) -> Result<Self, String> {
        let text = read(&format!("/proc/{pid}/status"))?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        let status = pairs
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Self { pid, status })
    }

    /// A line of its status; empty where there is none.
    pub fn says(&self, name: &str) -> &str {
        self.status.get(name).map_or("", String::as_str)
    }

    /// That a line of its status has this value.
    ///
    /// # Errors
    /// When it has another.
    pub fn expect(&self, name: &str, value: &str) -> Result<(), String> {
        match self.says(name) {
            found if found == value => Ok(()),
            found => Err(format!(
                "process {} has {name} {found:?}, not {value:?}",
                self.pid
            )),
        }
    }

    /// One of its files in `/proc`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(&self, name: &str) -> Result<String, String> {
        read(&format!("/proc/{}/{name}", self.pid))
    }

    /// A namespace it is in.
    ///
    /// # Errors
    /// When it is gone.
    pub fn namespace(&self, kind: &str) -> Result<String, String> {
        link(&format!("/proc/{}/ns/{kind}", self.pid))
    }

    /// That a namespace is not this process's.
    ///
    /// # Errors
    /// When it is.
    pub fn own_namespace(&self, kind: &str) -> Found {
        let (own, host) = (
            self.namespace(kind)?,
            link(&format!("/proc/self/ns/{kind}"))?,
        );
        if own == host {
            return Err(format!("process {} is in the host's", self.pid));
        }
        Ok(own)
    }

    /// That a namespace is the one another process is in, and not this one's.
    ///
    /// # Errors
    /// When it is not.
    pub fn shares_namespace(&self, other: &Self, kind: &str) -> Found {
        let (own, others) = (self.own_namespace(kind)?, other.namespace(kind)?);
        if own == others {
            return Ok(own);
        }
        Err(format!(
            "process {} is in {own}, process {} in {others}",
            self.pid, other.pid
        ))
    }

    /// The program it runs.
    ///
    /// # Errors
    /// When it is gone.
    pub fn exe(&self) -> Result<String, String> {
        link(&format!("/proc/{}/exe", self.pid))
    }

    /// That its root is the one another process has.
    ///
    /// # Errors
    /// When it is another.
    pub fn shares_root(&self, other: &Self) -> Result<(), String> {
        let place = |process: &Self| {
            let path = format!("/proc/{}/root/", process.pid);
            let found = std::fs::metadata(&path).map_err(|error| format!("{path}: {error}"))?;
            Ok::<_, String>((found.dev(), found.ino()))
        };
        if place(self)? == place(other)? {
            return Ok(());
        }
        Err(format!("process {} has another root", self.pid))
    }

    /// The file behind each of its descriptors, by device and inode.
    ///
    /// # Errors
    /// When it is gone.
    pub fn descriptors(&self) -> Result<BTreeMap<u32, (u64, u64)>, String> {
        let folder = format!("/proc/{}/fd", self.pid);
        let failed = |error: std::io::Error| format!("{folder}: {error}");
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            let number = number.ok_or_else(|| format!("{folder} has {}", name.display()))?;
            let file = std::fs::metadata(entry.path()).map_err(failed)?;
            found.insert(number, (file.dev(), file.ino()));
        }
        Ok(found)
    }

    /// That user and group are these, everywhere, without any other group.
    ///
    /// # Errors
    /// When one is another.
    pub fn identity(&self, user: u32) -> Found {
        let user = user.to_string();
        let four = [user.as_str(); 4].join("\t");
        self.expect("Uid", &four)?;
        self.expect("Gid", &four)?;
        self.expect("Groups", "")?;
        Ok(format!("user and group {user}, no other group"))
    }

    /// That no set of capabilities holds one.
    ///
    /// # Errors
    /// When one does.
    pub fn no_capabilities(&self) -> Found {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            self.expect(set, "0000000000000000")?;
        }
        Ok("five empty sets".to_owned())
    }

    /// That no program executed from here can gain rights.
    ///
    /// # Errors
    /// When one can.
    pub fn no_new_privs(&self) -> Found {
        self.expect("NoNewPrivs", "1").map(|()| "on".to_owned())
    }

    /// That it is under this many filters.
    ///
    /// # Errors
    /// When it is not.
    pub fn filtered(&self, count: usize) -> Found {
        self.expect("Seccomp", "2")?;
        self.expect("Seccomp_filters", &count.to_string())?;
        Ok(format!("mode 2, {count} filters"))
    }

    /// That the environment it was started with is this one and nothing else.
    ///
    /// # Errors
    /// The first variable that is otherwise. Values are not repeated: they would be the host's.
    pub fn environment<S: AsRef<str>>(&self, expected: &[S]) -> Found {
        let text = self.file("environ")?;
        let mut found: Vec<&str> = text.split('\0').filter(|pair| !pair.is_empty()).collect();
        let mut wanted: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        if found == wanted {
            return Ok(format!(
                "{} variables of ours, none of the host's",
                found.len()
            ));
        }
        let odd = |one: &[&str], other: &[&str]| {
            let pair = one.iter().find(|pair| !other.contains(*pair))?;
            pair.split('=').next().map(str::to_owned)
        };
        Err(
            match odd(&found, &wanted).or_else(|| odd(&wanted, &found)) {
                Some(name) => format!("the variable {name} is not as it was given"),
                None => "a variable is there twice".to_owned(),
            },
        )
    }

    /// That each of these limits holds, hard and soft.
    ///
    /// # Errors
    /// The first that does not.
    pub fn limited(&self, limits: &[Rlimit]) -> Found {
        let text = self.file("limits")?;
        let finite = limits.iter().filter_map(|limit| match limit.limit {
            Limit::At(value) => Some((limit.name, limit.shown, value.to_string())),
            Limit::Unlimited => None,
        });
        let mut said = Vec::new();
        for (name, shown, value) in finite {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("Max ")?.strip_prefix(shown));
            let line = line.ok_or_else(|| format!("{shown} is not among its limits"))?;
            let mut numbers = line.split_whitespace();
            if [numbers.next(), numbers.next()] != [Some(value.as_str()); 2] {
                return Err(format!("{shown} is {}", line.trim()));
            }
            said.push(format!("{name} {value}"));
        }
        Ok(format!("{}; read back", said.join(", ")))
    }

    /// That it leads a session and a group of processes, so that no signal to a group reaches beyond.
    ///
    /// # Errors
    /// When it belongs to another's.
    pub fn leads_a_session(&self) -> Found {
        let stat = self.file("stat")?;
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let numbers: BTreeSet<&str> = after.split_whitespace().skip(2).take(2).collect();
        if numbers == BTreeSet::from([self.pid.to_string().as_str()]) {
            return Ok("group and session of its own".to_owned());
        }
        Err(format!("process {} is in another's session", self.pid))
    }

    /// That it has one thread.
    ///
    /// # Errors
    /// When it has more.
    pub fn single_thread(&self) -> Found {
        self.expect("Threads", "1")
            .map(|()| "one thread".to_owned())
    }

    /// That what `/proc` shows of it is not its own user's.
    ///
    /// # Errors
    /// When it is.
    pub fn not_dumpable(&self, user: u32) -> Found {
        let path = format!("/proc/{}/environ", self.pid);
        let found = std::fs::metadata(&path).map_err(|error| format!("{path}: {error}"))?;
        if found.uid() == user {
            return Err("its files in /proc are its own".to_owned());
        }
        Ok("its files in /proc are not its own".to_owned())
    }

    /// That it is in a control group, in every hierarchy.
    ///
    /// # Errors
    /// When it is not.
    pub fn member(&self, group: Option<&Cgroup>) -> Found {
        let group = group.ok_or("there is no control group")?;
        match group.holds(self.pid) {
            Ok(true) => Ok(format!("process {} is in it", self.pid)),
            Ok(false) => Err(format!("process {} is not in it", self.pid)),
            Err(error) => Err(format!("reading the group: {error}")),
        }
    }

    /// That the processor does not guess for it where that is known to give memory away.
    ///
    /// # Errors
    /// Where it does, or the kernel does not tell.
    pub fn speculation(&self) -> Found {
        processor::speculation_of(|name| self.says(name))
    }

    /// That it has a cookie for its cores, and not this process's, or that no core is shared.
    ///
    /// # Errors
    /// When it has not, or the kernel has none.
    pub fn core_scheduling(&self) -> Found {
        processor::core_scheduling_of(self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_what_the_kernel_says() {
        let own = Process::open(std::process::id()).unwrap();
        for kind in ["net", "mnt", "user", "pid"] {
            assert!(own.own_namespace(kind).is_err(), "{kind}");
            assert!(own.shares_namespace(&own, kind).is_err(), "{kind}");
        }
        own.shares_root(&own).unwrap();
        assert!(own.member(None).is_err());
        let uid = rustix::process::geteuid().as_raw();
        assert!(own.not_dumpable(uid).is_err());
        assert!(own.identity(uid.wrapping_add(1)).is_err());
        assert!(own.filtered(99).is_err());
    }

    #[test]
    fn the_environment_is_held_against_what_was_given() {
        let own = Process::open(std::process::id()).unwrap();
        let text = own.file("environ").unwrap();
        let all: Vec<&str> = text.split('\0').filter(|pair| !pair.is_empty()).collect();
        own.environment(&all).unwrap();
        let why = own.environment(&all[1..]).unwrap_err();
        let name = all[0].split('=').next().unwrap();
        assert!(why.contains(name) && !why.contains('='), "{why}");
        assert!(
            own.environment(&[&all[..], &["CASEMATE_X=1"]].concat())
                .is_err()
        );
        assert!(own.environment(&[&all[..], &all[..1]].concat()).is_err());
    }

    #[test]
    fn each_descriptor_is_told_by_its_file() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let file = std::fs::File::from(std::os::fd::OwnedFd::from(reader));
        let meta = file.metadata().unwrap();
        let number = file.as_raw_fd().unsigned_abs();
        let own = Process::open(std::process::id()).unwrap();
        // Tests beside this one open and close others meanwhile.
        let found = (0..1000).find_map(|_| own.descriptors().ok()).unwrap();
        assert_eq!(found.get(&number), Some(&(meta.dev(), meta.ino())));
    }

    #[test]
    fn limits_are_read_to_the_end_of_their_names() {
        use rustix::process::{Resource, getrlimit};
        let own = Process::open(std::process::id()).unwrap();
        let limit = |value| Rlimit {
            name: "nofile",
            shown: "open files",
            resource: Resource::Nofile,
            limit: Limit::At(value),
        };
        let now = getrlimit(Resource::Nofile);
        if now.current == now.maximum {
            own.limited(&[limit(now.current.unwrap())]).unwrap();
        }
        assert!(own.limited(&[limit(7)]).is_err());
        let odd = Rlimit {
            shown: "open",
            ..limit(7)
        };
        assert!(own.limited(&[odd]).is_err());
    }

    #[test]
    fn a_descriptor_gives_its_number() {
        let own = rustix::process::getpid();
        let fd = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).unwrap();
        assert_eq!(number_of(&fd), Ok(std::process::id()));
        assert!(number_of(std::io::stdin()).is_err());
    }
}
