//! What the kernel shows from outside of what processes hold: descriptors, mounts, settings, limits, keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::tree::parent;

/// How often a mark must be seen on one process. What a runtime holds for a moment while it builds a
/// sandbox is no attack's; an attack holds on for half a second and more.
const LASTING: u32 = 5;
/// Where mounts of an attack come from, and how its keys begin.
const STOLEN: &str = "stolen";
/// The hop limit that an attack gives a network, and a memory limit that nobody else asks for.
const HOPS: &str = "77";
const RAISED: u64 = 1100 << 20;
/// Characters of a process's name that the kernel keeps.
const STOWAWAY: &str = "stow-";
/// Devices of the first major number that give nothing away: null, zero, full, random, urandom.
const HARMLESS: [u32; 5] = [3, 5, 7, 8, 9];

/// One thing that a process can hold and a guest must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    /// A ring of `io_uring`.
    IoUring,
    /// A descriptor for page faults.
    Userfaultfd,
    /// A program or a table in the kernel.
    Bpf,
    /// A counter of `perf_event_open`.
    PerfEvent,
    /// A watch over everybody's files.
    Fanotify,
    /// A socket of the kernel's crypto.
    Alg,
    /// A netlink socket.
    Netlink,
    /// A socket to the hypervisor and its guests.
    Vsock,
    /// A socket for packets as they are.
    Packet,
    /// A socket for one protocol's packets.
    RawSocket,
    /// A device other than the harmless ones.
    Device,
    /// A mount that an attack made.
    Mount,
    /// A setting of the kernel's with the value that an attack gives it.
    Setting,
    /// A control group with the limit that an attack gives it.
    Limit,
    /// A key that an attack made.
    Key,
}

impl Mark {
    /// In words.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::IoUring => "a ring for system calls is open",
            Self::Userfaultfd => "a descriptor for page faults is open",
            Self::Bpf => "a program or table is in the kernel",
            Self::PerfEvent => "a counter of the kernel's is open",
            Self::Fanotify => "a watch over all files is open",
            Self::Alg => "a socket of the kernel's crypto is open",
            Self::Netlink => "a netlink socket is open",
            Self::Vsock => "a vsock socket is open",
            Self::Packet => "a packet socket is open",
            Self::RawSocket => "a raw socket is open",
            Self::Device => "a device is open",
            Self::Mount => "a mount was made",
            Self::Setting => "a setting of the kernel's was changed",
            Self::Limit => "a limit was raised",
            Self::Key => "a key is in the kernel",
        }
    }

    fn of_link(target: &str) -> Option<Self> {
        let name = target.strip_prefix("anon_inode:")?;
        Some(match name.trim_matches(['[', ']']) {
            "io_uring" => Self::IoUring,
            "userfaultfd" => Self::Userfaultfd,
            "perf_event" => Self::PerfEvent,
            "fanotify" => Self::Fanotify,
            other if other.starts_with("bpf") => Self::Bpf,
            _ => return None,
        })
    }

    fn of_protocol(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"ALG" => Self::Alg,
            b"NETLINK" => Self::Netlink,
            b"AF_VSOCK" => Self::Vsock,
            b"PACKET" => Self::Packet,
            b"RAW" | b"RAWv6" => Self::RawSocket,
            _ => return None,
        })
    }
}

/// What was seen over time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sightings {
    seen: BTreeMap<(u32, Mark), u32>,
    looked_into: bool,
}

impl Sightings {
    /// Looks once at these processes, at this one and at the kernel's keys. `port` is the stage's, which
    /// an attack puts into the names it gives.
    pub(crate) fn look(&mut self, pids: &[u32], port: u16) {
        let mut now = BTreeSet::new();
        for pid in pids {
            let own = Path::new("/proc").join(pid.to_string());
            self.looked_into |= descriptors(*pid, &mut |mark| {
                now.insert((*pid, mark));
            });
            let found = [
                (Mark::Mount, has_mount(&own)),
                (Mark::Setting, has_setting(&own)),
                (Mark::Limit, has_limit(&own)),
            ];
            now.extend(found.iter().filter(|(_, is)| *is).map(|(m, _)| (*pid, *m)));
        }
        let here = Path::new("/proc/self");
        let host = [
            (Mark::Mount, has_mount(here)),
            (Mark::Setting, has_setting(here)),
            (Mark::Key, has_key(port)),
        ];
        now.extend(host.iter().filter(|(_, is)| *is).map(|(m, _)| (0, *m)));
        for mark in now {
            *self.seen.entry(mark).or_default() += 1;
        }
    }

    /// The marks that lasted.
    pub(crate) fn lasting(&self) -> BTreeSet<Mark> {
        let lasting = self.seen.iter().filter(|(_, times)| **times >= LASTING);
        lasting.map(|((_, mark), _)| *mark).collect()
    }

    /// Whether the descriptors of any process could be read: without that nothing was seen for not looking.
    pub(crate) fn looked_into(&self) -> bool {
        self.looked_into
    }
}

/// Tells the marks among a process's descriptors; false when they cannot be read.
fn descriptors(pid: u32, tell: &mut dyn FnMut(Mark)) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut watches = 0;
    for path in open.filter_map(|entry| Some(entry.ok()?.path())) {
        let link = fs::read_link(&path).unwrap_or_default();
        let link = link.to_string_lossy();
        match Mark::of_link(&link) {
            Some(Mark::Userfaultfd) => watches += 1,
            Some(mark) => tell(mark),
            None => {}
        }
        if link.starts_with("socket:")
            && let Some(mark) = protocol(&path)
        {
            tell(mark);
        }
        if is_telling_device(&path) {
            tell(Mark::Device);
        }
    }
    // A worker for WebAssembly has one of its own, made before it is locked in. A second one is an attack's.
    if watches > 1 || watches == 1 && !is_own_worker(pid) {
        tell(Mark::Userfaultfd);
    }
    true
}

/// Whether a process runs this very program and was started by this process. Whatever a guest runs natively is
/// another's child.
fn is_own_worker(pid: u32) -> bool {
    let file = |pid: u32| {
        let program = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((program.dev(), program.ino()))
    };
    let own = std::process::id();
    parent(pid) == Some(own) && file(pid).is_some_and(|program| Some(program) == file(own))
}

/// The kernel names a socket's protocol in an attribute of its file.
fn protocol(socket: &Path) -> Option<Mark> {
    let mut name = [0; 32];
    let len = rustix::fs::getxattr(socket, "system.sockprotoname", &mut name[..]).ok()?;
    let name = name.get(..len)?.split(|byte| *byte == 0).next()?;
    Mark::of_protocol(name)
}

fn is_telling_device(path: &Path) -> bool {
    let Ok(meta) = fs::metadata(path) else {
        return false;
    };
    let (major, minor) = (
        rustix::fs::major(meta.rdev()),
        rustix::fs::minor(meta.rdev()),
    );
    let kind = meta.file_type();
    // Terminals and their ends are what a control may inherit.
    let terminal = matches!(major, 4 | 5 | 136..=143);
    kind.is_block_device()
        || kind.is_char_device() && !terminal && !(major == 1 && HARMLESS.contains(&minor))
}

fn has_mount(process: &Path) -> bool {
    let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    let source = |line: &str| {
        let (_, rest) = line.split_once(" - ")?;
        rest.split(' ').nth(1).map(|source| source == STOLEN)
    };
    mounts.lines().filter_map(source).any(|ours| ours)
}

/// The hop limit of the network that a process is in.
fn has_setting(process: &Path) -> bool {
    let counts = fs::read_to_string(process.join("net/snmp")).unwrap_or_default();
    let values = counts
        .lines()
        .filter(|line| line.starts_with("Ip: "))
        .nth(1);
    values.is_some_and(|line| line.split(' ').nth(2) == Some(HOPS))
}

fn has_limit(process: &Path) -> bool {
    let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    groups.lines().any(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(kinds), Some(path)) = (parts.next(), parts.next()) else {
            return false;
        };
        let files: &[&str] = match kinds {
            "" => &["", "unified"],
            _ if kinds.split(',').any(|kind| kind == "memory") => &["memory"],
            _ => return false,
        };
        let name = if kinds.is_empty() {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        files.iter().any(|root| {
            let file = Path::new("/sys/fs/cgroup").join(root);
            let file = file.join(path.trim_start_matches('/')).join(name);
            fs::read_to_string(file).is_ok_and(|text| text.trim() == RAISED.to_string())
        })
    })
}

fn has_key(port: u16) -> bool {
    let name = format!("{STOLEN}-{port}");
    let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
    keys.lines()
        .any(|line| line.split([' ', ':']).any(|word| word == name))
}

/// Whether any process on the machine has the name that an attack gives to what is to outlive it.
pub(crate) fn has_stowaway(port: u16) -> bool {
    let name = format!("{STOWAWAY}{port}");
    let Ok(entries) = fs::read_dir("/proc") else {
        return false;
    };
    entries.filter_map(Result::ok).any(|entry| {
        fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    })
}

/// How many interrupts the machine has had; none where it does not say.
pub(crate) fn interrupts() -> Option<u64> {
    let counts = fs::read_to_string("/proc/stat").ok()?;
    let line = counts.lines().find_map(|line| line.strip_prefix("intr "))?;
    line.split(' ').next()?.parse().ok()
}

/// The numbers and names by which this machine can be told from every other.
pub(crate) fn identities() -> Vec<String> {
    let files = [
        "/etc/machine-id",
        "/proc/sys/kernel/random/boot_id",
        "/sys/class/dmi/id/product_uuid",
    ];
    let cards = fs::read_dir("/sys/class/net").into_iter().flatten();
    let cards = cards.filter_map(|card| Some(card.ok()?.path().join("address")));
    let paths = files.iter().map(Into::into).chain(cards);
    paths
        .filter_map(|path: std::path::PathBuf| fs::read_to_string(path).ok())
        .map(|text| text.trim().to_owned())
        // What is shorter, or nothing but noughts, names no machine.
        .filter(|text| text.len() >= 16 && text.chars().any(|c| !matches!(c, '0' | ':' | '-')))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_and_sockets_are_known_by_the_kernels_names() {
        for (link, mark) in [
            ("anon_inode:[io_uring]", Some(Mark::IoUring)),
            ("anon_inode:[userfaultfd]", Some(Mark::Userfaultfd)),
            ("anon_inode:bpf-map", Some(Mark::Bpf)),
            ("anon_inode:[eventpoll]", None),
            ("/tmp/io_uring", None),
        ] {
            assert_eq!(Mark::of_link(link), mark, "{link}");
        }
        assert_eq!(Mark::of_protocol(b"AF_VSOCK"), Some(Mark::Vsock));
        assert_eq!(Mark::of_protocol(b"UNIX-STREAM"), None);
    }

    #[test]
    fn a_netlink_socket_of_ones_own_is_seen_and_only_what_lasts_counts() {
        use rustix::net::{AddressFamily, SocketType, socket};
        let kept = socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
        let mut sightings = Sightings::default();
        let pids = [std::process::id()];
        sightings.look(&pids, 1);
        assert!(sightings.looked_into() && sightings.lasting().is_empty());
        for _ in 1..LASTING {
            sightings.look(&pids, 1);
        }
        assert!(sightings.lasting().contains(&Mark::Netlink));
        assert!(!sightings.lasting().contains(&Mark::Mount));
        drop(kept);
    }

    #[test]
    fn neither_another_program_nor_somebody_elses_child_is_a_worker() {
        assert!(!is_own_worker(std::process::id()));
        // The first process of all is nobody's child.
        assert!(!is_own_worker(1));
        assert!(!is_own_worker(u32::MAX));
    }

    #[test]
    fn nobody_has_stowed_away_and_the_machine_has_a_number() {
        assert!(!has_stowaway(1));
        assert!(interrupts().is_some_and(|count| count > 0));
        assert!(!identities().is_empty());
    }
}
