//! What `/proc` shows beside processes in a jail that an agent lives in: a few names, with texts of our own.
//!
//! Ordinary tools (`ps`, `free`, `top`, psutil) and Node read them. They tell of the sandbox, and of the machine
//! no more than system calls and the processor's own instructions tell anybody: its kernel's version, when it was
//! started, what its processors are. They are made once and do not change: how busy the machine is, and with what,
//! is not in them.

use std::fs::File;
use std::io::Read;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

use crate::limit::Limit;
use crate::step::failed;

/// The names at the top of `/proc` that there are beside processes; the last is a folder.
pub const NAMES: [&str; 8] = [
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "stat",
    "uptime",
    "version",
    "sys",
];
/// Links to what a process has of its own.
pub(super) const LINKS: [&str; 2] = ["mounts", "net"];
/// Of the files that a network namespace has in `/proc`, those that tell of itself. Others tell of the whole machine,
/// such as how many packets its processors took and how much memory a protocol uses.
pub(super) const NETWORK: [&str; 11] = [
    "arp",
    "dev",
    "if_inet6",
    "ipv6_route",
    "raw",
    "raw6",
    "route",
    "tcp",
    "tcp6",
    "udp",
    "udp6",
];
/// What identifies one start of the jail.
pub(super) const BOOT_ID: &str = "sys/kernel/random/boot_id";
/// Folders, each after the one it is in.
pub(super) const FOLDERS: [&str; 3] = ["sys", "sys/kernel", "sys/kernel/random"];
/// What says of a processor what it is, and nothing of what it does.
const OF_A_PROCESSOR: [&str; 16] = [
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "cache size",
    "flags",
    "Features",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "CPU revision",
    "isa",
    "mmu",
    "uarch",
];
/// More than the description of one processor.
const DESCRIPTION: u64 = 16 << 10;
/// Numbers of processes, where nothing else is said.
const PROCESS_NUMBERS: u32 = 32_768;

/// What is told of the machine that a jail seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory.
    pub memory: Limit,
    /// Processors.
    pub processors: usize,
}

/// What was found out for the texts.
struct Facts {
    memory_kib: u64,
    processors: usize,
    processor: String,
    uptime: (i64, i64),
    booted: i64,
    release: String,
    version: String,
    boot_id: String,
}

/// The files, by their names below `/proc`. The boot id is of this call alone.
///
/// # Errors
/// When there are no random bytes, or the kernel does not say what a processor is.
pub(super) fn files(machine: Machine) -> Result<Vec<(&'static str, String)>, String> {
    Ok(texts(&Facts::find(machine)?))
}

impl Facts {
    fn find(machine: Machine) -> Result<Self, String> {
        let usable = std::thread::available_parallelism().map_err(|e| failed("processors", e))?;
        let uptime = clock_gettime(ClockId::Boottime);
        let now = clock_gettime(ClockId::Realtime);
        let uname = rustix::system::uname();
        let system = rustix::system::sysinfo();
        // Without a limit it is the machine's, which a system call tells too.
        let all = (system.totalram as u64).saturating_mul(u64::from(system.mem_unit));
        Ok(Self {
            memory_kib: machine.memory.value().map_or(all, |limit| limit.min(all)) >> 10,
            processors: machine.processors.clamp(1, usable.get()),
            processor: processor()?,
            uptime: (uptime.tv_sec, uptime.tv_nsec / 10_000_000),
            booted: now.tv_sec - uptime.tv_sec,
            release: uname.release().to_string_lossy().into_owned(),
            version: uname.version().to_string_lossy().into_owned(),
            boot_id: uuid()?,
        })
    }
}

/// What the first processor is, line by line.
fn processor() -> Result<String, String> {
    let mut text = Vec::new();
    let read =
        File::open("/proc/cpuinfo").and_then(|file| file.take(DESCRIPTION).read_to_end(&mut text));
    read.map_err(|e| failed("/proc/cpuinfo", e))?;
    Ok(described(&String::from_utf8_lossy(&text)))
}

fn described(cpuinfo: &str) -> String {
    let lines = cpuinfo.lines().take_while(|line| !line.trim().is_empty());
    let told = lines.filter(|line| {
        let name = line.split(':').next().unwrap_or_default().trim();
        OF_A_PROCESSOR.contains(&name)
    });
    told.map(|line| format!("{line}\n")).collect()
}

/// A random one, of version 4.
fn uuid() -> Result<String, String> {
    let mut bytes = [0_u8; 16];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty());
    if filled.map_err(|e| failed("getrandom", e))? != bytes.len() {
        return Err("getrandom gave fewer bytes".to_owned());
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Ok(parts.join("-"))
}

fn texts(facts: &Facts) -> Vec<(&'static str, String)> {
    let (seconds, hundredths) = facts.uptime;
    let processors: Vec<String> = (0..facts.processors)
        .map(|number| format!("processor\t: {number}\n{}\n", facts.processor))
        .collect();
    vec![
        ("cpuinfo", processors.concat()),
        (
            "filesystems",
            "nodev\tproc\nnodev\ttmpfs\nnodev\tdevpts\n".to_owned(),
        ),
        ("loadavg", "0.00 0.00 0.00 1/1 1\n".to_owned()),
        ("meminfo", meminfo(facts.memory_kib)),
        ("stat", stat(facts)),
        ("uptime", format!("{seconds}.{hundredths:02} 0.00\n")),
        (
            "version",
            format!(
                "Linux version {} (casemate) {}\n",
                facts.release, facts.version
            ),
        ),
        ("sys/kernel/ostype", "Linux\n".to_owned()),
        ("sys/kernel/osrelease", format!("{}\n", facts.release)),
        ("sys/kernel/version", format!("{}\n", facts.version)),
        (
            "sys/kernel/hostname",
            format!("{}\n", super::namespaces::HOST_NAME),
        ),
        ("sys/kernel/pid_max", format!("{PROCESS_NUMBERS}\n")),
        (BOOT_ID, format!("{}\n", facts.boot_id)),
    ]
}

/// All of it free: what is used changes, and this does not.
fn meminfo(kib: u64) -> String {
    let rows = [
        ("MemTotal", kib),
        ("MemFree", kib),
        ("MemAvailable", kib),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
    ];
    let line = |(name, kib)| format!("{:<16}{kib:>8} kB\n", format!("{name}:"));
    rows.into_iter().map(line).collect()
}

/// No time of a processor. When the machine was started is told because the beginnings of processes count from it.
fn stat(facts: &Facts) -> String {
    let none = "0 0 0 0 0 0 0 0 0 0";
    let mut text = format!("cpu  {none}\n");
    for number in 0..facts.processors {
        text.push_str(&format!("cpu{number} {none}\n"));
    }
    text.push_str(&format!(
        "intr 0\nctxt 0\nbtime {}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\nsoftirq {none} 0\n",
        facts.booted
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_described_and_not_what_it_does() {
        let text = "processor\t: 0\nmodel name\t: some\ncpu MHz\t\t: 2400.1\nflags\t\t: fpu sse\n\nprocessor\t: 1\nmodel name\t: other\n";
        assert_eq!(described(text), "model name\t: some\nflags\t\t: fpu sse\n");
    }

    #[test]
    fn the_texts_tell_of_the_limits_and_each_start_has_an_id_of_its_own() {
        let machine = Machine {
            memory: Limit::At(64 << 20),
            processors: 1,
        };
        let (one, other) = (files(machine).unwrap(), files(machine).unwrap());
        let of = |files: &[(&str, String)], name: &str| {
            let found = files.iter().find(|(own, _)| *own == name);
            found.unwrap().1.clone()
        };
        assert!(of(&one, "meminfo").starts_with("MemTotal:          65536 kB\n"));
        assert!(of(&one, "cpuinfo").starts_with("processor\t: 0\n"));
        assert_eq!(of(&one, "stat").matches("cpu0 ").count(), 1);
        assert_eq!(of(&one, "stat").matches("cpu1 ").count(), 0);
        let id = of(&one, BOOT_ID);
        assert_eq!((id.len(), &id[14..15]), (37, "4"));
        assert_ne!(id, of(&other, BOOT_ID));
        let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_ne!(id, machine);
    }

    #[test]
    fn every_name_has_a_text_or_is_the_folder() {
        let machine = Machine {
            memory: Limit::Unlimited,
            processors: 1000,
        };
        for (name, text) in files(machine).unwrap() {
            let top = name.split('/').next().unwrap();
            assert!(NAMES.contains(&top) && text.ends_with('\n'), "{name}");
        }
    }
}
