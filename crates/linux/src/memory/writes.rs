//! Which pages of this process's memory were written, as the kernel tells it.
//!
//! There are two ways to ask. Of any private mapping of a file the kernel tells which pages are no longer the file's,
//! for which it looks at each page that is mapped. Of one that it watches it reads its page tables alone: a page that is
//! watched has a mark in its entry, which the kernel takes away at the first write, whoever makes it, and never sets
//! again by itself. So what counts as written is everything without the mark, and not what has one of its own: a page
//! that the kernel dropped, or never had an entry for, counts too unless the mark was kept.

#![allow(unsafe_code, reason = "ioctls, and a mapping to try them on")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

use super::PAGE;
use super::space::{map, unmap};

/// Ranges that are asked for in one call.
const RANGES: usize = 256;
/// Pages on which watching is tried.
const TRIED: usize = 8;

/// `_IOWR('f', 16, struct pm_scan_arg)`, from the kernel's `include/uapi/linux/fs.h`.
pub(crate) const PAGEMAP_SCAN: u32 = 0xc060_6610;
const SCAN_MARKS_AGAIN: u64 = 1 << 0;
/// Fail where a mapping is not watched.
const SCAN_ONLY_WATCHED: u64 = 1 << 1;
const IS_WRITTEN: u64 = 1 << 1;
/// A page is the file's own, or shared memory.
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;

/// `_IOWR(0xaa, 0x3f, struct uffdio_api)` and `_IOWR(0xaa, 0, struct uffdio_register)`, from the kernel's
/// `include/uapi/linux/userfaultfd.h`, as are the next.
const UFFDIO_API: u32 = 0xc018_aa3f;
pub(crate) const UFFDIO_REGISTER: u32 = 0xc020_aa00;
const VERSION: u64 = 0xaa;
/// Marks stay where a page is not there.
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
/// The kernel takes the mark away itself and tells nobody.
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const MODE_WP: u64 = 1 << 1;
/// Faults of the kernel's own are not this process's to handle.
const USER_MODE_ONLY: i32 = 1;

/// The kernel's `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    ranges: u64,
    ranges_len: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    told: u64,
}

/// The kernel's `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRange {
    start: u64,
    end: u64,
    categories: u64,
}

/// The kernel's `struct uffdio_api`.
#[repr(C)]
struct Api {
    version: u64,
    features: u64,
    ioctls: u64,
}

/// The kernel's `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// The kernel's account of this process's pages. Opened by whoever has capabilities it would tell where pages lie in
/// the machine's memory, so it is opened without.
///
/// # Errors
/// Those of capabilities and of opening it.
pub fn open_pagemap() -> io::Result<File> {
    let own = capabilities(None)?;
    let none = CapabilitySets {
        effective: rustix::thread::CapabilitySet::empty(),
        ..own
    };
    set_capabilities(None, none)?;
    let opened = File::open("/proc/self/pagemap");
    set_capabilities(None, own)?;
    opened
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Pages of a private mapping of a file that are no longer the file's.
    NotTheFiles,
    /// Pages without a mark. An error where the mapping is not watched.
    Unmarked,
}

/// Tells which pages of this process's memory were written.
#[derive(Debug)]
pub struct Writes {
    pagemap: File,
    /// By which mappings are watched. Where it is closed they no longer are.
    watch: Option<OwnedFd>,
}

impl Writes {
    /// Opens it, for which there must be a `/proc`. Mappings are watched only where that was tried and does what it
    /// says, which kernels before 6.7 do not.
    ///
    /// # Errors
    /// Those of [`open_pagemap`].
    pub fn open() -> io::Result<Self> {
        let mut writes = Self::unwatched()?;
        writes.watch = open_watch().ok();
        if !writes.tells_what_was_written().unwrap_or(false) {
            writes.watch = None;
        }
        Ok(writes)
    }

    /// The same, that watches nothing.
    ///
    /// # Errors
    /// As [`Writes::open`].
    pub fn unwatched() -> io::Result<Self> {
        let pagemap = open_pagemap()?;
        Ok(Self {
            pagemap,
            watch: None,
        })
    }

    /// Whether mappings can be watched.
    #[must_use]
    pub fn watches(&self) -> bool {
        self.watch.is_some()
    }

    /// What must stay open.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let watch = self.watch.as_ref().map(AsRawFd::as_raw_fd);
        [self.pagemap.as_raw_fd()].into_iter().chain(watch)
    }

    /// Watches the mapping of whole pages at these addresses from here on: whatever they hold counts as not written.
    ///
    /// # Errors
    /// Where it cannot; then nothing may be concluded from marks.
    pub(super) fn watch(&self, range: Range<u64>) -> io::Result<()> {
        let watch = self.watch.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let mut register = Register {
            start: range.start,
            len: range.end - range.start,
            mode: MODE_WP,
            ioctls: 0,
        };
        let fd = watch.as_raw_fd();
        // SAFETY: the structure is the kernel's. It changes no content and no right of this process: a write to a page
        // with a mark is made as any other.
        let rc = unsafe { libc::ioctl(fd, UFFDIO_REGISTER.into(), &raw mut register) };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        self.mark(range)
    }

    /// Marks every page, there or not, of a mapping that is watched.
    ///
    /// # Errors
    /// Those of asking; then nothing may be concluded from marks.
    pub(super) fn mark(&self, range: Range<u64>) -> io::Result<()> {
        let mut scan = Scan {
            flags: SCAN_MARKS_AGAIN | SCAN_ONLY_WATCHED,
            ..Scan::of(&range)
        };
        self.scan(&mut scan)?;
        // A page that was left out would only count as written.
        if scan.walk_end == range.end {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// Calls `each` with every range of such pages; what it does with them changes nothing of the answer.
    ///
    /// # Errors
    /// Those of asking, of `each`, and an answer that makes no sense.
    pub(super) fn each(
        &self,
        ask: Ask,
        range: &Range<u64>,
        mut each: impl FnMut(Range<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut ranges = [PageRange::default(); RANGES];
        let mut from = range.start;
        while from < range.end {
            let mut scan = Scan {
                ranges: ranges.as_mut_ptr().addr() as u64,
                ranges_len: RANGES as u64,
                ..Scan::of(&(from..range.end))
            };
            match ask {
                Ask::NotTheFiles => {
                    scan.inverted = IS_FILE;
                    scan.all_of = IS_FILE;
                    scan.any_of = IS_PRESENT | IS_SWAPPED;
                }
                // Nothing but this may be asked for, or the kernel looks at every page after all.
                Ask::Unmarked => {
                    scan.flags = SCAN_ONLY_WATCHED;
                    scan.all_of = IS_WRITTEN;
                    scan.told = IS_WRITTEN;
                }
            }
            let found = self.scan(&mut scan)?;
            for found in ranges.get(..found).ok_or(io::ErrorKind::InvalidData)? {
                let PageRange { start, end, .. } = *found;
                if !(from <= start && start <= end && end <= range.end) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                each(start..end)?;
            }
            if scan.walk_end <= from {
                return Err(io::ErrorKind::InvalidData.into());
            }
            from = scan.walk_end;
        }
        Ok(())
    }

    fn scan(&self, scan: &mut Scan) -> io::Result<usize> {
        let fd = self.pagemap.as_raw_fd();
        // SAFETY: the structure is the kernel's, and points to as many ranges as it says.
        let found = unsafe { libc::ioctl(fd, PAGEMAP_SCAN.into(), ptr::from_mut(scan)) };
        usize::try_from(found).map_err(|_| io::Error::last_os_error())
    }

    /// Tries it on pages of this program's own file: whether exactly those that were written lose their marks.
    fn tells_what_was_written(&self) -> io::Result<bool> {
        let file = File::open("/proc/self/exe")?;
        let len = TRIED * PAGE;
        if file.metadata()?.len() < len as u64 {
            return Ok(false);
        }
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let at = map(ptr::null_mut(), len, rights, libc::MAP_PRIVATE, Some(&file))?;
        let tells = self.tells_of(at.as_ptr());
        unmap(at.as_ptr(), len);
        tells
    }

    /// The same for a new private mapping of [`TRIED`] pages of a file, which nobody else uses.
    fn tells_of(&self, at: *mut u8) -> io::Result<bool> {
        const READ: usize = 1;
        const WRITTEN: usize = 3;
        const READ_AND_WRITTEN: usize = 4;
        const DROPPED: usize = 6;
        let of = |page: usize| (at.addr() + page * PAGE) as u64;
        let all = of(0)..of(TRIED);
        // SAFETY: the page lies in the mapping, and so for the next.
        let read = |page: usize| unsafe { at.add(page * PAGE).read_volatile() };
        // SAFETY: as above.
        let write = |page: usize| unsafe { at.add(page * PAGE).write_volatile(1) };
        read(READ);
        write(DROPPED);
        self.watch(all.clone())?;
        // SAFETY: the page is the mapping's own; it is the file's again when it is read.
        let rc = unsafe { libc::madvise(at.add(DROPPED * PAGE).cast(), PAGE, libc::MADV_DONTNEED) };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        let unmarked = || {
            let mut ranges = Vec::new();
            self.each(Ask::Unmarked, &all, |range| {
                ranges.push(range);
                Ok(())
            })?;
            io::Result::Ok(ranges)
        };
        let before = unmarked()?;
        for page in [READ, READ_AND_WRITTEN, DROPPED] {
            read(page);
        }
        write(WRITTEN);
        write(READ_AND_WRITTEN);
        // Two pages side by side.
        let written = of(WRITTEN)..of(READ_AND_WRITTEN + 1);
        let after = unmarked()?;
        Ok(before.is_empty() && matches!(after.as_slice(), [range] if *range == written))
    }
}

impl Scan {
    fn of(range: &Range<u64>) -> Self {
        Self {
            size: size_of::<Self>() as u64,
            start: range.start,
            end: range.end,
            ..Self::default()
        }
    }
}

/// A descriptor that watches in silence: nobody is told of a fault, and none of the kernel's own waits for anybody.
fn open_watch() -> io::Result<OwnedFd> {
    // SAFETY: the call makes a descriptor and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to this process alone.
    let watch = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = Api {
        version: VERSION,
        features: FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED,
        ioctls: 0,
    };
    // SAFETY: the structure is the kernel's.
    let rc = unsafe { libc::ioctl(watch.as_raw_fd(), UFFDIO_API.into(), &raw mut api) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pagemap_does_not_tell_where_pages_lie() {
        use std::os::unix::fs::FileExt;
        let page = vec![1_u8; PAGE];
        let mut entry = [0_u8; 8];
        let at = (page.as_ptr().addr() / PAGE * 8) as u64;
        open_pagemap()
            .unwrap()
            .read_exact_at(&mut entry, at)
            .unwrap();
        let entry = u64::from_ne_bytes(entry);
        assert!(entry >> 63 == 1, "it is there");
        assert_eq!(entry & ((1 << 55) - 1), 0, "and nobody says where");
    }

    #[test]
    fn nothing_that_is_not_watched_is_told_of_by_marks() {
        let writes = Writes::open().unwrap();
        let page = vec![1_u8; 4 * PAGE];
        let start = page.as_ptr().addr().next_multiple_of(PAGE) as u64;
        let range = start..start + PAGE as u64;
        assert!(writes.each(Ask::Unmarked, &range, |_| Ok(())).is_err());
        assert!(writes.mark(range.clone()).is_err());
        let unwatched = Writes::unwatched().unwrap();
        assert!(!unwatched.watches());
        assert!(unwatched.watch(range).is_err());
    }

    #[test]
    fn a_kernel_that_is_new_enough_watches() {
        let release = rustix::system::uname();
        let release = release.release().to_str().unwrap().to_owned();
        let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            panic!("{release}");
        };
        let writes = Writes::open().unwrap();
        if (major, minor) < (6, 7) {
            assert!(!writes.watches(), "{release}");
        } else if open_watch().is_err() {
            eprintln!(
                "SKIPPED watched memory: this kernel was built without, or a filter forbids it"
            );
        } else {
            assert!(writes.watches(), "{release}");
            assert_eq!(writes.descriptors().count(), 2);
        }
    }
}
