//! Address spaces that begin with a file's bytes, and are put back to them page by page.
//!
//! A page that was only read is still the file's own and stays mapped. One that was written is this process's
//! alone, which the kernel tells by `PAGEMAP_SCAN`: its bytes are copied back, or the page is dropped where there
//! are many. Where the kernel cannot tell, everything is mapped anew.

#![allow(unsafe_code, reason = "mmap and what lies behind addresses")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

use super::{PAGE, Resident, populate_read, populate_write};

/// Bytes of written pages that are kept by a space that waits; the others are given back to the kernel.
const KEPT: usize = 8 << 20;
/// What the kernel maps of a file around a page that is read, unless it was told otherwise.
const FAULT_AROUND: usize = 64 << 10;
/// Ranges that are asked for in one call.
const RANGES: usize = 256;

/// `_IOWR('f', 16, struct pm_scan_arg)`, from the kernel's `include/uapi/linux/fs.h`.
pub(crate) const PAGEMAP_SCAN: u32 = 0xc060_6610;
/// A page is the file's own, or shared memory.
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;

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

/// What spaces begin with: a file that nobody changes any more.
#[derive(Debug)]
pub struct Image {
    file: File,
    original: NonNull<u8>,
    len: usize,
    pagemap: Option<File>,
}

// SAFETY: the mapping is read-only, of a file that nobody changes, and lives as long as this.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    /// Over a file whose length is a multiple of a page's. Without a pagemap spaces are mapped anew.
    ///
    /// # Errors
    /// Those of mapping it, and another length.
    ///
    /// # Safety
    /// Nobody may change the file, or make it shorter, while this and the spaces of it live.
    pub unsafe fn new(file: File, pagemap: Option<File>) -> io::Result<Self> {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if len == 0 || !len.is_multiple_of(PAGE) {
            return Err(io::Error::other("the image is not a whole number of pages"));
        }
        let original = map(
            ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_SHARED,
            Some(&file),
        )?;
        Ok(Self {
            file,
            original,
            len,
            pagemap,
        })
    }

    /// Its bytes.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "an image of nothing is an error"
    )]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        unmap(self.original.as_ptr(), self.len);
    }
}

/// Reserved addresses, of which the first may be read and written; a guard that never may lies on both sides.
#[derive(Debug)]
pub struct Space {
    image: Option<Arc<Image>>,
    /// Where the reservation begins, and its length with the guards.
    start: NonNull<u8>,
    whole: usize,
    guard: usize,
    /// Bytes behind the guard that may be accessed.
    len: usize,
}

// SAFETY: the mapping belongs to this alone; who writes into it through `as_ptr` answers for that.
unsafe impl Send for Space {}
// SAFETY: as above.
unsafe impl Sync for Space {}

impl Space {
    /// Addresses of which the first hold the image, or as many zeros as were asked for. `reserved` and `guard` are
    /// bytes.
    ///
    /// # Errors
    /// Those of mapping, and a reservation that is too small.
    pub fn new(
        image: Option<Arc<Image>>,
        zeros: usize,
        reserved: usize,
        guard: usize,
    ) -> io::Result<Self> {
        let guard = guard.next_multiple_of(PAGE);
        let whole = reserved
            .checked_next_multiple_of(PAGE)
            .and_then(|reserved| reserved.checked_add(guard.checked_mul(2)?))
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let start = map(ptr::null_mut(), whole, libc::PROT_NONE, NOTHING, None)?;
        let mut space = Self {
            image,
            start,
            whole,
            guard,
            len: 0,
        };
        match space.image.as_ref().map(|image| image.len) {
            None => space.grow_to(zeros)?,
            Some(len) if len <= space.reserved() => {
                space.map_image()?;
                space.len = len;
            }
            Some(_) => return Err(io::ErrorKind::OutOfMemory.into()),
        }
        Ok(space)
    }

    fn reserved(&self) -> usize {
        self.whole - 2 * self.guard
    }

    /// Where it begins.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr().wrapping_add(self.guard)
    }

    /// Bytes that may be accessed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none may.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it may grow to.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.reserved()
    }

    /// Makes more bytes accessible: zeros.
    ///
    /// # Errors
    /// More than was reserved, fewer than there are, and those of `mprotect`.
    pub fn grow_to(&mut self, len: usize) -> io::Result<()> {
        let len = len.checked_next_multiple_of(PAGE);
        let len = len.filter(|len| (self.len..=self.reserved()).contains(len));
        let len = len.ok_or(io::ErrorKind::OutOfMemory)?;
        let more = len - self.len;
        if more > 0 {
            let at = self.as_ptr().wrapping_add(self.len);
            // SAFETY: the range lies in the reservation, which is this space's own.
            let rc = unsafe { libc::mprotect(at.cast(), more, libc::PROT_READ | libc::PROT_WRITE) };
            if rc < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        self.len = len;
        Ok(())
    }

    /// Maps what is known to be touched. What cannot be mapped in advance is mapped when it is touched.
    pub fn populate(&mut self, hot: &Resident) {
        // SAFETY: so many bytes are accessible, and nobody else uses them while this is borrowed mutably.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len) };
        // First those that are written: one that was mapped for reading would be mapped a second time.
        for range in &hot.written {
            if let Some(pages) = bytes.get_mut(range.clone()) {
                populate_write(pages).unwrap_or_default();
            }
        }
        for range in &hot.read {
            // One page of a window is enough: the kernel maps the file's others around it.
            for at in range.clone().step_by(FAULT_AROUND) {
                if let Some(byte) = bytes.get(at..=at) {
                    populate_read(byte).unwrap_or_default();
                }
            }
        }
    }

    /// Makes it what it was when it was new. Nothing that was written since is left. Says whether every page of the
    /// image that was mapped still is.
    ///
    /// # Errors
    /// Those of mapping; then it must not be used again.
    pub fn reset(&mut self) -> io::Result<bool> {
        let first = self.image.as_ref().map_or(0, |image| image.len);
        if self.len > first {
            let at = self.as_ptr().wrapping_add(first);
            map(
                at,
                self.len - first,
                libc::PROT_NONE,
                NOTHING | libc::MAP_FIXED,
                None,
            )?;
            self.len = first;
        }
        let Some(image) = self.image.clone() else {
            return Ok(true);
        };
        let put_back = image
            .pagemap
            .as_ref()
            .and_then(|pagemap| self.put_back(&image, pagemap).ok());
        match put_back {
            Some(all_mapped) => Ok(all_mapped),
            None => self.map_image().map(|()| false),
        }
    }

    fn map_image(&self) -> io::Result<()> {
        let Some(image) = &self.image else {
            return Ok(());
        };
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let how = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
        map(self.as_ptr(), image.len, rights, how, Some(&image.file)).map(drop)
    }

    /// Restores the pages that are no longer the file's. Says whether all of them stay mapped.
    fn put_back(&mut self, image: &Image, pagemap: &File) -> io::Result<bool> {
        let base = self.as_ptr().addr() as u64;
        let end = base + image.len as u64;
        let mut ranges = [PageRange::default(); RANGES];
        let (mut kept, mut all_mapped, mut from) = (0_usize, true, base);
        while from < end {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                start: from,
                end,
                ranges: ranges.as_mut_ptr().addr() as u64,
                ranges_len: RANGES as u64,
                inverted: IS_FILE,
                all_of: IS_FILE,
                any_of: IS_PRESENT | IS_SWAPPED,
                ..Scan::default()
            };
            // SAFETY: the structure is the kernel's, and points to as many ranges as it says.
            let found =
                unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN.into(), &raw mut scan) };
            let found = usize::try_from(found).map_err(|_| io::Error::last_os_error())?;
            for range in ranges.get(..found).ok_or(io::ErrorKind::InvalidData)? {
                let inside = from <= range.start && range.start <= range.end && range.end <= end;
                let (Ok(at), Ok(len), true) = (
                    usize::try_from(range.start - base.min(range.start)),
                    usize::try_from(range.end.saturating_sub(range.start)),
                    inside,
                ) else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                let page = self.as_ptr().wrapping_add(at);
                if kept + len <= KEPT {
                    kept += len;
                    // SAFETY: both ranges lie in their mappings, as long as the image each, and do not overlap; this
                    // one belongs to this space, which nobody else uses while it is borrowed mutably.
                    unsafe { ptr::copy_nonoverlapping(image.original.as_ptr().add(at), page, len) };
                } else {
                    all_mapped = false;
                    // SAFETY: the range is this space's own; its pages are the file's again when they are read.
                    let rc = unsafe { libc::madvise(page.cast(), len, libc::MADV_DONTNEED) };
                    if rc < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
            }
            if scan.walk_end <= from {
                return Err(io::ErrorKind::InvalidData.into());
            }
            from = scan.walk_end;
        }
        Ok(all_mapped)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        unmap(self.start.as_ptr(), self.whole);
    }
}

/// Addresses without anything behind them.
const NOTHING: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

fn map(
    at: *mut u8,
    len: usize,
    rights: i32,
    how: i32,
    file: Option<&File>,
) -> io::Result<NonNull<u8>> {
    let fd = file.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: a fixed address is one of the caller's own reservation, which nobody has a reference into; any other
    // is the kernel's to choose.
    let mapped = unsafe { libc::mmap(at.cast(), len, rights, how, fd, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(mapped.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn unmap(at: *mut u8, len: usize) {
    // SAFETY: the mapping was made by the caller, who gives it up here. An error would leave it there.
    unsafe { libc::munmap(at.cast(), len) };
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const PAGES: usize = 4096;

    fn image(pagemap: bool) -> (Vec<u8>, Arc<Image>) {
        let mut bytes = vec![0_u8; PAGES * PAGE];
        for (page, chunk) in bytes.chunks_mut(PAGE).enumerate() {
            chunk.fill(u8::try_from(page % 251).unwrap());
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let pagemap = pagemap.then(|| open_pagemap().unwrap());
        // SAFETY: the file is this test's own and is not written again.
        let image = unsafe { Image::new(file, pagemap) }.unwrap();
        (bytes, Arc::new(image))
    }

    fn bytes(space: &mut Space) -> &mut [u8] {
        // SAFETY: the space is borrowed mutably, and so many bytes of it are accessible.
        unsafe { std::slice::from_raw_parts_mut(space.as_ptr(), space.len()) }
    }

    #[test]
    fn nothing_that_was_written_is_left() {
        for has_pagemap in [true, false] {
            let (original, image) = image(has_pagemap);
            let mut space = Space::new(Some(Arc::clone(&image)), 0, 64 << 20, 1 << 20).unwrap();
            assert!(bytes(&mut space) == original);
            // A few, many that do not touch each other, more than are kept, and all.
            for step in [1000, 2, 1] {
                for page in (0..PAGES).step_by(step) {
                    bytes(&mut space)[page * PAGE + 7] = 0xff;
                }
                space.grow_to(32 << 20).unwrap();
                let more = &mut bytes(&mut space)[PAGES * PAGE..];
                assert!(more.iter().all(|byte| *byte == 0));
                more.fill(0xee);
                // Half of its pages are as many as are kept.
                assert_eq!(space.reset().unwrap(), has_pagemap && step > 1);
                assert_eq!(space.len(), image.len());
                assert!(bytes(&mut space) == original, "{has_pagemap} {step}");
            }
            // And the file's own bytes are as they were.
            let mut fresh = Space::new(Some(image), 0, 64 << 20, 1 << 20).unwrap();
            assert!(bytes(&mut fresh) == original);
        }
    }

    #[test]
    fn pages_that_were_put_back_are_still_there() {
        let (_, image) = image(true);
        let mut space = Space::new(Some(image), 0, 64 << 20, 0).unwrap();
        bytes(&mut space)[..64 * PAGE].fill(1);
        assert!(space.reset().unwrap());
        let kept = super::super::resident(bytes(&mut space)).unwrap().written;
        assert!(
            matches!(kept.as_slice(), [range] if *range == (0..64 * PAGE)),
            "{kept:?}"
        );
    }

    #[test]
    fn a_space_ends_where_it_was_reserved() {
        let mut space = Space::new(None, PAGE, 16 * PAGE, PAGE).unwrap();
        assert_eq!((space.len(), space.capacity()), (PAGE, 16 * PAGE));
        assert!(space.grow_to(16 * PAGE + 1).is_err());
        assert!(space.grow_to(usize::MAX).is_err());
        space.grow_to(16 * PAGE).unwrap();
        bytes(&mut space).fill(3);
        assert!(space.grow_to(PAGE).is_err(), "it does not shrink");
        let (_, image) = image(true);
        assert!(Space::new(Some(image), 0, PAGE, PAGE).is_err());
    }

    #[test]
    fn an_image_is_whole_pages() {
        for len in [0, 1, PAGE as u64 + 1] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(len).unwrap();
            // SAFETY: the file is this test's own.
            assert!(unsafe { Image::new(file, None) }.is_err());
        }
    }

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
}
