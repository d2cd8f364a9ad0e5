//! What the kernel tells about a process and about itself.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cgroup::{Kind, Layout};
use crate::step::failed;
use crate::sys;

mod facts;

pub(crate) use facts::user_namespaces;
pub use facts::{KernelFacts, kernel_facts};

/// Memory of a process, in bytes, as `/proc/PID/smaps_rollup` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Pages only this process has, clean or dirty: what would come free if it ended.
    pub private_bytes: u64,
    /// Private pages and its share of the shared ones.
    pub proportional_bytes: u64,
    /// All pages it has in memory, shared ones in full.
    pub resident_bytes: u64,
}

/// The processor time of the calling thread.
///
/// # Errors
/// None on a Linux of this century.
pub fn thread_cpu_time() -> io::Result<Duration> {
    sys::clock_time(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The processor time of all threads of this process.
///
/// # Errors
/// None on a Linux of this century.
pub fn process_cpu_time() -> io::Result<Duration> {
    sys::clock_time(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The memory of a process now.
///
/// # Errors
/// When it is gone, or may not be looked into: a process that has locked itself down may be
/// looked into by root alone. See [`MemoryWatch`].
pub fn private_memory(pid: u32) -> io::Result<MemoryUse> {
    MemoryWatch::open(pid)?.read()
}

/// The most memory a process ever had resident, in bytes. Readable for anybody.
///
/// # Errors
/// When it is gone.
pub fn peak_resident(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    kilobytes(&status, "VmHWM:")
        .ok_or_else(|| io::Error::other("the process's status has no peak; it has ended"))
}

/// A look into a process's memory that was opened while that was allowed, and stays allowed when
/// the process has made itself undumpable. It belongs to that process, not to its number.
#[derive(Debug)]
pub struct MemoryWatch {
    rollup: File,
}

impl MemoryWatch {
    /// Opens it. Right after `Spawn::spawn` the program has been executed, and not yet locked
    /// itself down.
    ///
    /// # Errors
    /// When the process is gone or may not be looked into.
    pub fn open(pid: u32) -> io::Result<Self> {
        let rollup = File::open(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(Self { rollup })
    }

    /// Reads the state of the moment.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn read(&mut self) -> io::Result<MemoryUse> {
        self.rollup.rewind()?;
        let mut text = String::new();
        self.rollup.read_to_string(&mut text)?;
        parse_rollup(&text).ok_or_else(|| io::Error::other("the process has ended"))
    }
}

fn parse_rollup(text: &str) -> Option<MemoryUse> {
    Some(MemoryUse {
        private_bytes: kilobytes(text, "Private_Clean:")?
            .saturating_add(kilobytes(text, "Private_Dirty:")?),
        proportional_bytes: kilobytes(text, "Pss:")?,
        resident_bytes: kilobytes(text, "Rss:")?,
    })
}

/// The value of a line such as `Rss:   1234 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read() {
        let text = "00400000-7ff000 ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:  500 kB\n\
                    Pss_Dirty: 7 kB\nPrivate_Clean:  100 kB\nPrivate_Dirty:  200 kB\n";
        let memory = parse_rollup(text).unwrap();
        assert_eq!(memory.private_bytes, 300 * 1024);
        assert_eq!(memory.proportional_bytes, 500 * 1024);
        assert_eq!(memory.resident_bytes, 900 * 1024);
        assert_eq!(parse_rollup("Rss: many kB"), None);
    }

    #[test]
    fn memory_that_is_written_is_private() {
        let mut watch = MemoryWatch::open(std::process::id()).unwrap();
        let before = watch.read().unwrap().private_bytes;
        // Far more than the other tests of this process give back meanwhile.
        let block = vec![1u8; 512 << 20];
        let after = watch.read().unwrap().private_bytes;
        assert!(std::hint::black_box(&block)[1] == 1);
        assert!(after > before + (256 << 20), "{before} then {after}");
        assert!(peak_resident(std::process::id()).unwrap() > 512 << 20);
    }

    #[test]
    fn work_costs_processor_time() {
        let before = thread_cpu_time().unwrap();
        let mut sum = 0u64;
        while thread_cpu_time().unwrap() - before < Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(process_cpu_time().unwrap() >= thread_cpu_time().unwrap());
    }

    #[test]
    fn facts_of_this_kernel() {
        let facts = kernel_facts();
        assert!(facts.release.starts_with(|c: char| c.is_ascii_digit()));
        assert!(facts.seccomp.is_ok(), "{:?}", facts.seccomp);
    }
}
