//! Address spaces that begin with a file's bytes, and are put back to them page by page.
//!
//! A page that was only read is still the file's own and stays mapped. One that was written is this process's
//! alone, which the kernel tells (`Writes`): its bytes are copied back, or the page is dropped where there
//! are many. Where the kernel cannot tell, everything is mapped anew.
//!
//! None that was written can be missed. When a space is put back for the first time, the kernel looks at every page
//! itself. Only then, while all of them hold the file's bytes and nobody else uses the space, is each marked; and from
//! there on every page without a mark is put back, not only those that are known to be written. The kernel takes a
//! mark away before a write is made, and this code sets one only where the file's bytes lie again. A mapping that is no longer
//! watched is an error when it is asked about, and after any error everything is mapped anew, without marks.

#![allow(unsafe_code, reason = "mmap and what lies behind addresses")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::writes::{Ask, Writes};
use super::{PAGE, Resident, populate_read, populate_write};

/// Bytes of written pages that are kept by a space that waits; the others are given back to the kernel.
const KEPT: usize = 8 << 20;
/// What the kernel maps of a file around a page that is read, unless it was told otherwise.
const FAULT_AROUND: usize = 64 << 10;
/// Resets after which every page is marked again. Until then one that was written is copied each time, written or not,
/// which costs less than the fault that takes a mark away; one that no run writes any more should not be.
const MARKED_AGAIN: u32 = 64;

/// What spaces begin with: a file that nobody changes any more.
#[derive(Debug)]
pub struct Image {
    file: File,
    original: NonNull<u8>,
    len: usize,
    writes: Option<Writes>,
}

// SAFETY: the mapping is read-only, of a file that nobody changes, and lives as long as this.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    /// Over a file whose length is a multiple of a page's. Where nothing tells what was written, spaces are mapped anew.
    ///
    /// # Errors
    /// Those of mapping it, and another length.
    ///
    /// # Safety
    /// Nobody may change the file, or make it shorter, while this and the spaces of it live.
    pub unsafe fn new(file: File, writes: Option<Writes>) -> io::Result<Self> {
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
            writes,
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
    /// How often it was put back since every page of the image was marked; none are while this is nothing.
    marked: Option<u32>,
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
            marked: None,
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
            // The kernel maps nothing around a page that is watched.
            if self.marked.is_some() {
                if let Some(pages) = bytes.get(range.clone()) {
                    populate_read(pages).unwrap_or_default();
                }
                continue;
            }
            // Of others one page of a window is enough.
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
            .writes
            .as_ref()
            .map(|writes| self.put_back(&image, writes));
        match put_back {
            Some(Ok(all_mapped)) => Ok(all_mapped),
            None | Some(Err(_)) => {
                self.marked = None;
                self.map_image().map(|()| false)
            }
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

    /// Restores the pages that were written. Says whether all of them stay mapped.
    fn put_back(&mut self, image: &Image, writes: &Writes) -> io::Result<bool> {
        let base = self.as_ptr().addr() as u64;
        let all = base..base + image.len as u64;
        let ask = match self.marked {
            Some(_) => Ask::Unmarked,
            None => Ask::NotTheFiles,
        };
        let (mut kept, mut all_mapped) = (0_usize, true);
        writes.each(ask, &all, |range| {
            // It lies within the image.
            let at = usize::try_from(range.start - base).map_err(io::Error::other)?;
            let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            let page = self.as_ptr().wrapping_add(at);
            if kept + len <= KEPT {
                kept += len;
                // SAFETY: both ranges lie in their mappings, as long as the image each, and do not overlap; this
                // one belongs to this space, which nobody else uses while it is borrowed mutably.
                unsafe { ptr::copy_nonoverlapping(image.original.as_ptr().add(at), page, len) };
                return Ok(());
            }
            all_mapped = false;
            // SAFETY: the range is this space's own; its pages are the file's again when they are read.
            let rc = unsafe { libc::madvise(page.cast(), len, libc::MADV_DONTNEED) };
            if rc < 0 {
                return Err(io::Error::last_os_error());
            }
            // It had no mark that could have stayed.
            match self.marked {
                Some(_) => writes.mark(range),
                None => Ok(()),
            }
        })?;
        // From here on every page holds the image's bytes, until somebody else may use the space.
        self.marked = match self.marked {
            Some(resets) if resets < MARKED_AGAIN => Some(resets + 1),
            _ => writes.watch(all).ok().map(|()| 0),
        };
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

pub(super) fn map(
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

pub(super) fn unmap(at: *mut u8, len: usize) {
    // SAFETY: the mapping was made by the caller, who gives it up here. An error would leave it there.
    unsafe { libc::munmap(at.cast(), len) };
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::ops::Range;
    use std::os::unix::fs::FileExt;

    use super::*;

    const PAGES: usize = 4096;

    /// How a space learns what was written.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Way {
        Watched,
        Looked,
        Nothing,
    }

    /// Those that this kernel has.
    fn ways() -> Vec<Way> {
        let mut ways = vec![Way::Looked, Way::Nothing];
        if Writes::open().unwrap().watches() {
            ways.push(Way::Watched);
        } else {
            eprintln!("SKIPPED watched memory: this kernel cannot");
        }
        ways
    }

    fn image(way: Way) -> (Vec<u8>, Arc<Image>) {
        let mut bytes = vec![0_u8; PAGES * PAGE];
        for (page, chunk) in bytes.chunks_mut(PAGE).enumerate() {
            chunk.fill(u8::try_from(page % 251).unwrap());
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let writes = match way {
            Way::Watched => Some(Writes::open().unwrap()),
            Way::Looked => Some(Writes::unwatched().unwrap()),
            Way::Nothing => None,
        };
        // SAFETY: the file is this test's own and is not written again.
        let image = unsafe { Image::new(file, writes) }.unwrap();
        (bytes, Arc::new(image))
    }

    fn bytes(space: &mut Space) -> &mut [u8] {
        // SAFETY: the space is borrowed mutably, and so many bytes of it are accessible.
        unsafe { std::slice::from_raw_parts_mut(space.as_ptr(), space.len()) }
    }

    #[test]
    fn nothing_that_was_written_is_left() {
        for way in ways() {
            let (original, image) = image(way);
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
                assert_eq!(space.reset().unwrap(), way != Way::Nothing && step > 1);
                assert_eq!(space.len(), image.len());
                assert!(bytes(&mut space) == original, "{way:?} {step}");
            }
            // And the file's own bytes are as they were.
            let mut fresh = Space::new(Some(image), 0, 64 << 20, 1 << 20).unwrap();
            assert!(bytes(&mut fresh) == original);
        }
    }

    #[test]
    fn no_write_to_any_kind_of_page_is_missed() {
        // Much more than is kept.
        const MANY: Range<usize> = 1000..PAGES;
        for way in ways() {
            let (original, image) = image(way);
            let mut space = Space::new(Some(image), 0, 64 << 20, 1 << 20).unwrap();
            for round in 0..MARKED_AGAIN as usize + 12 {
                assert_eq!(
                    space.marked.is_some(),
                    way == Way::Watched && round > 0,
                    "{way:?} {round}"
                );
                let write = |space: &mut Space, page: usize| {
                    bytes(space)[page * PAGE + round] ^= 0xff;
                };
                // One that is always written, one that was written before, ones that were only read, ones that nobody
                // touched.
                write(&mut space, 1);
                write(&mut space, 10 + round.saturating_sub(1));
                for page in [200 + round, 400 + round % 7] {
                    assert_eq!(bytes(&mut space)[page * PAGE], original[page * PAGE]);
                    write(&mut space, page);
                }
                write(&mut space, 600 + round);
                // By the kernel, into several pages that are not there.
                let at = (700 + 3 * round) * PAGE - 8;
                let file = File::open("/proc/self/exe").unwrap();
                file.read_exact_at(&mut bytes(&mut space)[at..at + 2 * PAGE], 4096)
                    .unwrap();
                // Every third time most of them, so that they are dropped; then some of those that were.
                if round % 3 == 1 {
                    bytes(&mut space)[MANY.start * PAGE..].fill(0xdd);
                } else {
                    write(&mut space, MANY.end - 1 - round);
                    write(&mut space, MANY.start + round);
                }
                // And what is beyond the image.
                space.grow_to(32 << 20).unwrap();
                let more = &mut bytes(&mut space)[PAGES * PAGE..];
                let clean = (0..=round).all(|page| more[page * PAGE] == 0);
                assert!(clean && more[(16 << 20) - 1] == 0, "{way:?} {round}");
                more[round * PAGE] = 1;
                more[(16 << 20) - 1] = 1;
                space.reset().unwrap();
                // Sometimes the next writes come before anything is read.
                if round % 2 == 0 {
                    assert!(bytes(&mut space) == original, "{way:?} {round}");
                }
            }
            assert!(bytes(&mut space) == original);
        }
    }

    #[test]
    fn what_no_run_writes_any_more_is_not_copied_for_ever() {
        if !ways().contains(&Way::Watched) {
            return;
        }
        let (original, image) = image(Way::Watched);
        let mut space = Space::new(Some(Arc::clone(&image)), 0, 64 << 20, 0).unwrap();
        let unmarked = |space: &Space| {
            let base = space.as_ptr().addr() as u64;
            let mut pages = 0;
            let writes = image.writes.as_ref().unwrap();
            let all = base..base + image.len as u64;
            let counted = writes.each(Ask::Unmarked, &all, |range| {
                pages += (range.end - range.start) / PAGE as u64;
                Ok(())
            });
            counted.map(|()| pages)
        };
        assert!(unmarked(&space).is_err(), "it is not watched yet");
        bytes(&mut space)[..100 * PAGE].fill(1);
        space.reset().unwrap();
        assert_eq!(unmarked(&space).unwrap(), 0);
        bytes(&mut space)[..100 * PAGE].fill(2);
        assert_eq!(unmarked(&space).unwrap(), 100);
        for _ in 0..MARKED_AGAIN {
            bytes(&mut space)[PAGE] = 3;
            space.reset().unwrap();
            assert_eq!(unmarked(&space).unwrap(), 100);
        }
        space.reset().unwrap();
        assert_eq!(unmarked(&space).unwrap(), 0);
        // What is populated is written, and counts as that.
        space.populate(&Resident {
            read: vec![0..100 * PAGE, 120 * PAGE..1000 * PAGE],
            written: vec![200 * PAGE..250 * PAGE, 260 * PAGE..310 * PAGE],
        });
        assert_eq!(unmarked(&space).unwrap(), 100);
        assert!(bytes(&mut space) == original);
    }

    #[test]
    fn a_space_that_is_no_longer_watched_is_mapped_anew() {
        if !ways().contains(&Way::Watched) {
            return;
        }
        let (original, image) = image(Way::Watched);
        let mut space = Space::new(Some(Arc::clone(&image)), 0, 64 << 20, 0).unwrap();
        for _ in 0..3 {
            assert!(space.reset().unwrap());
            assert!(space.marked.is_some());
            // Part of it is another mapping, of which the kernel notes nothing.
            let part = space.as_ptr().wrapping_add(50 * PAGE);
            let how = libc::MAP_PRIVATE | libc::MAP_FIXED;
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            map(part, 10 * PAGE, rights, how, Some(&image.file)).unwrap();
            bytes(&mut space)[55 * PAGE] = 0xaa;
            assert!(!space.reset().unwrap());
            assert!(space.marked.is_none());
            assert!(bytes(&mut space) == original);
        }
    }

    #[test]
    fn pages_that_were_put_back_are_still_there() {
        let (_, image) = image(Way::Looked);
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
        let (_, image) = image(Way::Looked);
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
}
