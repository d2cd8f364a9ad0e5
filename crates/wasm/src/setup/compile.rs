//! Compiling a module, function by function in sight, and the second time mostly from memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use casemate_linux::file::open_owned;
use wasmtime::{CacheStore, Engine, Module};

use super::store::write_private;
use super::{Progress, Unit};
use crate::{machine, module};

/// Compiled functions of this process, by what they were compiled from, and a count of those asked for.
#[derive(Debug, Clone)]
pub(crate) struct FunctionCache(Arc<Functions>);

#[derive(Debug)]
struct Functions {
    known: Mutex<HashMap<Vec<u8>, Arc<[u8]>>>,
    asked: AtomicU64,
}

impl FunctionCache {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Functions {
            known: Mutex::default(),
            asked: AtomicU64::new(0),
        }))
    }
}

impl CacheStore for Functions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).map(|bytes| Cow::Owned(bytes.to_vec()))
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key.to_vec(), value.into());
        true
    }
}

/// One compilation and where its result is kept.
pub(crate) struct Compiled<'a> {
    pub(crate) path: PathBuf,
    pub(crate) cache: &'a FunctionCache,
    pub(crate) progress: &'a dyn Progress,
}

impl Compiled<'_> {
    /// The module for an engine, compiled now or by a set-up that was interrupted after this stage.
    pub(crate) fn module(&self, runs: &Engine, wasm: &[u8], stage: &str) -> anyhow::Result<Module> {
        let path = &self.path;
        // One that is there is whole, for it was renamed into place; one that does not load is made anew.
        if let Ok(file) = open_owned(path)
            && let Ok(module) = module::load(runs, file)
        {
            return Ok(module);
        }
        self.progress
            .stage(stage, Some(functions(wasm)), Unit::Functions);
        let engine = machine::compiling_engine(self.cache.0.clone())?;
        let bytes = self.watched(|| engine.precompile_module(wasm))?;
        write_private(path, &bytes)?;
        self.progress
            .done(&format!("{} MiB", fs::metadata(path)?.len() >> 20));
        Ok(module::load(runs, open_owned(path)?)?)
    }

    /// Runs a compilation while another thread tells how far it is.
    fn watched<T>(&self, compile: impl FnOnce() -> wasmtime::Result<T>) -> wasmtime::Result<T> {
        self.cache.0.asked.store(0, Ordering::Relaxed);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    self.progress.at(self.cache.0.asked.load(Ordering::Relaxed));
                    std::thread::park_timeout(Duration::from_millis(100));
                }
            });
            let result = compile();
            done.store(true, Ordering::Release);
            result
        })
    }
}

/// The number of functions in a module, for the progress bar.
fn functions(wasm: &[u8]) -> u64 {
    wasmparser::Parser::new(0)
        .parse_all(wasm)
        .find_map(|payload| match payload {
            Ok(wasmparser::Payload::CodeSectionStart { count, .. }) => Some(u64::from(count)),
            _ => None,
        })
        .unwrap_or(0)
}
