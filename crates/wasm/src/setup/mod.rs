//! Set-up: from the pinned wheels to a compiled snapshot in the user's cache.
//!
//! Fetch, check, compile, import the scientific stack, snapshot, compile again. Each stage leaves a
//! complete file under a name of its own, so that an interrupted set-up goes on where it stopped; the
//! result appears under its final name in one rename, and is never written again.

mod compile;
mod fetch;
mod preimport;
mod store;
mod wheel;

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use casemate_linux::file::{Untrusted, create_private, open_owned};
use casemate_linux::memory::Resident;
use sha2::{Digest, Sha256};
use wasmtime::Engine;

pub use casemate_backend::setup::{Progress, SetupError, Unit, cache_root};
pub use fetch::Source;
pub use store::{Installed, Store};

use crate::guest_files;
use crate::library;
use crate::machine;
use crate::memory::Memories;

/// Makes sure that a compiled guest is in the cache, and says where.
///
/// A second process waits here for the first.
///
/// # Errors
/// [`SetupError`], with the way out; nothing half-made is left under the final name.
pub fn set_up(
    store: &Store,
    source: &Source,
    force: bool,
    progress: &dyn Progress,
) -> Result<Installed, SetupError> {
    let _lock = store.lock(progress)?;
    if force {
        store.remove()?;
    } else if let Ok(installed) = store.installed() {
        return Ok(installed);
    }
    store.room()?;
    let staging = store.staging();
    private_dir(&staging)?;
    let wheels = fetch::fetch(store, source, progress)?;
    build(store, &staging, &wheels, progress)?;
    let installed = store.publish(&staging)?;
    progress.say(&format!(
        "the guest is ready in {}",
        installed.dir.display()
    ));
    Ok(installed)
}

fn build(
    store: &Store,
    staging: &Path,
    wheels: &fetch::Wheels,
    progress: &dyn Progress,
) -> Result<(), SetupError> {
    let guest_error = |error: anyhow::Error| match error.downcast::<io::Error>() {
        Ok(error) => SetupError::io("writing the set-up folder", error),
        Err(error) => SetupError::Guest(format!("{error:#}")),
    };
    let library_file = staging.join(store::LIBRARY);
    progress.stage("packing the library", None, Unit::None);
    let mut files = wheel::library_files(wheels).map_err(guest_error)?;
    let pack = |files: &[library::Packed]| {
        library::pack(&library_file, files)
            .map_err(|error| SetupError::io("packing the library", error))
    };
    pack(&files)?;
    progress.done(&format!("{} files", files.len()));

    let cache = compile::FunctionCache::new();
    let final_wasm = staging.join("snapshot.wasm");
    let memory_file = staging.join(store::MEMORY);
    if !final_wasm.exists() {
        let wasm = wheel::stripped_module(wheels).map_err(guest_error)?;
        let plain = compile::Compiled {
            path: store.plain(),
            cache: &cache,
            progress,
        };
        let module = plain
            .module(
                &engine(None).map_err(guest_error)?,
                &wasm,
                "compiling Python",
            )
            .map_err(guest_error)?;
        progress.stage(
            "importing pandas, numpy, matplotlib and IPython",
            None,
            Unit::None,
        );
        let snapshot = preimport::snapshot(&wasm, &module, &library_file).map_err(guest_error)?;
        // The module last: where it is there, the memory is too.
        store::write_private(&memory_file, &snapshot.memory)
            .and_then(|()| store::write_private(&final_wasm, &snapshot.wasm))
            .map_err(|error| SetupError::io("writing the snapshot", error))?;
        progress.done(&format!("{} MiB snapshot", snapshot.memory.len() >> 20));
    }
    let snapshot =
        fs::read(&final_wasm).map_err(|error| SetupError::io("reading the snapshot", error))?;
    let compiled = compile::Compiled {
        path: staging.join(store::MODULE),
        cache: &cache,
        progress,
    };
    let module = compiled
        .module(
            &engine(Some(&memory_file)).map_err(guest_error)?,
            &snapshot,
            "compiling the snapshot",
        )
        .map_err(guest_error)?;
    progress.stage(
        "learning which pages every program touches",
        None,
        Unit::None,
    );
    let hot = preimport::hot(&module, &library_file).map_err(guest_error)?;
    files.push(library::Packed {
        root: library::Root::Worker,
        path: library::HOT.to_owned(),
        bytes: serde_json::to_vec(&hot).map_err(|error| SetupError::Guest(error.to_string()))?,
    });
    pack(&files)?;
    let pages =
        |ranges: &[Range<usize>]| ranges.iter().map(|range| range.len() / 4096).sum::<usize>();
    progress.done(&format!(
        "{} read, {} written",
        pages(&hot.read),
        pages(&hot.written)
    ));
    Ok(())
}

/// An engine for a module that has its own memory, or for one whose memory is a file.
fn engine(memory: Option<&Path>) -> anyhow::Result<Engine> {
    Ok(match memory {
        None => machine::engine()?,
        Some(path) => {
            machine::engine_with(Memories::new(open_owned(path)?, None, Resident::default())?)?
        }
    })
}

/// The names under which the parts of a guest are kept: a change of anything that matters is another
/// name, so that what is loaded fits what loads it.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Of Python as compiled from the wheel: the wheel, the engine, this processor's features.
    pub(crate) plain: String,
    /// Of the snapshot: that, our guest code, the pure wheels, the cache's format.
    pub(crate) guest: String,
}

impl Keys {
    /// The keys of this program on this machine.
    pub(crate) fn new() -> Result<Self, SetupError> {
        use std::hash::Hash;
        let engine = machine::engine().map_err(|error| SetupError::Guest(format!("{error:#}")))?;
        let mut fingerprint = Fingerprint(Sha256::new());
        engine
            .precompile_compatibility_hash()
            .hash(&mut fingerprint);
        let mut hash = fingerprint.0;
        hash.update(fetch::WHEEL_SHA256);
        let plain = hex(&hash.clone().finalize()[..12]);
        for (name, text) in guest_files::all() {
            for part in [name, text] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        hash.update(store::FORMAT.to_le_bytes());
        Ok(Self {
            plain,
            guest: hex(&hash.finalize()[..12]),
        })
    }
}

/// A hasher whose result does not depend on the process.
struct Fingerprint(Sha256);

impl std::hash::Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// A folder of the user's own, or none.
pub(crate) fn private_dir(dir: &Path) -> Result<(), SetupError> {
    create_private(dir).map_err(|error| match error {
        Untrusted::Unreadable { path, cause } => {
            SetupError::io(format!("making {}", path.display()), cause)
        }
        other => SetupError::Untrusted(other.to_string()),
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn file_sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(hex(&hasher.finalize()))
}
