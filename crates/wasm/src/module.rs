//! Loading the compiled guest.

#![allow(
    unsafe_code,
    reason = "wasmtime marks loading native code as unsafe; this module is that call"
)]

use std::fs::File;

use wasmtime::{Engine, Module};

/// Loads a module that `casemate setup` compiled, from a descriptor that was opened by
/// [`casemate_linux::file::open_owned`].
///
/// # Errors
/// When the file is not a module of exactly this engine and configuration.
pub(crate) fn load(engine: &Engine, file: File) -> wasmtime::Result<Module> {
    // SAFETY: the call trusts that the bytes are native code made by this engine and that nobody
    // changes them while they are mapped. Both hold by ownership, which the host checked on this very
    // descriptor before it passed it on: the file lies in a folder of the user's own, is written only
    // by set-up (under a lock, renamed into place when complete, never written again), and is
    // writable by nobody else. Whoever can break that can already run code as this user.
    unsafe { Module::deserialize_open_file(engine, file) }
}

/// Maps a file of ours read-only.
///
/// # Errors
/// Those of `mmap`.
pub(crate) fn map_read_only(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: a mapping is sound while nobody truncates or changes the file. As above: the file is in
    // a folder of the user's own, was renamed into place complete, and is never written again.
    unsafe { memmap2::Mmap::map(file) }
}
