//! Mapping pages in advance: one call instead of one fault a page.
//!
//! A fault costs microseconds, more inside a virtual machine, and a guest that starts from a snapshot
//! takes hundreds. Populating changes neither content nor rights; where the kernel cannot do it
//! (before 5.14) the faults simply happen.

#![allow(unsafe_code, reason = "madvise takes an address")]

use std::io;
use std::ops::Range;

use serde::{Deserialize, Serialize};

mod space;
mod writes;

pub use space::{Image, Space};
pub(crate) use writes::{PAGEMAP_SCAN, UFFDIO_REGISTER};
pub use writes::{Writes, open_pagemap};

/// Asking the kernel for it is a call that a locked-down worker may not make. Where pages are larger, a
/// range that begins inside one is an error, and the faults happen one by one.
const PAGE: usize = 4096;

/// Maps the pages of `bytes` for reading.
///
/// # Errors
/// Those of `madvise`; nothing is lost by one but time.
pub fn populate_read(bytes: &[u8]) -> io::Result<()> {
    advise(bytes, libc::MADV_POPULATE_READ)
}

/// Maps the pages of `bytes` for writing, copying those that are shared until written.
///
/// # Errors
/// Those of `madvise`; nothing is lost by one but time.
pub fn populate_write(bytes: &mut [u8]) -> io::Result<()> {
    advise(bytes, libc::MADV_POPULATE_WRITE)
}

/// Pages of a private mapping of a file that are mapped in this process, as ranges of bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    /// Those that are still the file's own: read, or mapped by the kernel beside one that was.
    pub read: Vec<Range<usize>>,
    /// Those that are no longer the file's own.
    pub written: Vec<Range<usize>>,
}

/// Which pages of `bytes` this process has read and written.
///
/// Only meaningful for a private mapping of a file. Needs `/proc`.
///
/// # Errors
/// Those of reading `/proc/self/pagemap`.
pub fn resident(bytes: &[u8]) -> io::Result<Resident> {
    use std::os::unix::fs::FileExt;
    // From the kernel's Documentation/admin-guide/mm/pagemap.rst.
    const PRESENT: u64 = 1 << 63;
    const FILE_OR_SHARED: u64 = 1 << 61;
    let pagemap = std::fs::File::open("/proc/self/pagemap")?;
    let first = (bytes.as_ptr().addr() / PAGE) as u64;
    let mut entries = vec![0_u8; bytes.len() / PAGE * 8];
    pagemap.read_exact_at(&mut entries, first * 8)?;
    let mut resident = Resident::default();
    for (page, entry) in entries.as_chunks::<8>().0.iter().enumerate() {
        let entry = u64::from_ne_bytes(*entry);
        if entry & PRESENT == 0 {
            continue;
        }
        let ranges = if entry & FILE_OR_SHARED == 0 {
            &mut resident.written
        } else {
            &mut resident.read
        };
        let at = page * PAGE;
        match ranges.last_mut() {
            Some(last) if last.end == at => last.end = at + PAGE,
            _ => ranges.push(at..at + PAGE),
        }
    }
    Ok(resident)
}

fn advise(bytes: &[u8], advice: i32) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let start = bytes.as_ptr().addr() / PAGE * PAGE;
    let len = bytes.as_ptr().addr() + bytes.len() - start;
    let at = bytes.as_ptr().map_addr(|_| start).cast_mut();
    // SAFETY: both advices only bring in pages of mappings that already exist: contents stay as they
    // are, and a range that is not mapped is an error. The range is that of a live slice, widened to
    // the whole page it begins in.
    let rc = unsafe { libc::madvise(at.cast(), len, advice) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_pages_are_told_from_those_that_were_read() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 * PAGE as u64).unwrap();
        // SAFETY: the file is this test's own and nobody truncates it.
        let mut map = unsafe { memmap2::MmapOptions::new().map_copy(&file) }.unwrap();
        assert_eq!(resident(&map).unwrap(), Resident::default());
        assert_eq!(map[5 * PAGE], 0);
        for page in [2, 3, 9] {
            map[page * PAGE] = 1;
        }
        let written = [2 * PAGE..4 * PAGE, 9 * PAGE..10 * PAGE];
        let seen = resident(&map).unwrap();
        assert_eq!(seen.written, written);
        assert!(seen.read.iter().any(|range| range.contains(&(5 * PAGE))));
        assert!(!seen.read.iter().any(|range| range.contains(&(2 * PAGE))));
        // A page that holds again what it held was still written.
        map[3 * PAGE] = 0;
        assert_eq!(resident(&map).unwrap().written, written);
    }

    #[test]
    fn populating_changes_no_content() {
        let mut bytes = vec![7_u8; 100_000];
        populate_read(&bytes[10..]).unwrap();
        populate_write(&mut bytes[10..]).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 7));
        assert!(populate_read(&[]).is_ok());
    }
}
