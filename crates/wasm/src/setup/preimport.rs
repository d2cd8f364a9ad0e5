//! Running the guest's initialisation once and taking a snapshot of its memory.

use std::fs::File;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::{Context as _, bail};
use casemate_linux::memory::{Resident, resident};
use casemate_model::event::Event;
use wasmtime::Module;
use wasmtime_wizer::{InstanceState, SnapshotVal, ValType, Wizer};

use super::wheel::without_data;
use crate::guest::MemoryLimit;
use crate::guest_files::{self, DRIVER, GUEST_ENV};
use crate::library::Library;
use crate::machine::{GuestSpec, Instance, Machine, THREAD_STACK, TurnEnd};
use crate::wasi::{Clock, Halt, Outlet, Quota};

/// Where the guest's stack pointer starts, and where it is again after every completed call.
const STACK_POINTER: i32 = 16_777_216;

/// A guest that has initialised itself.
pub(crate) struct Snapshot {
    /// The module, without data.
    pub(crate) wasm: Vec<u8>,
    /// The bytes its memory begins with.
    pub(crate) memory: Vec<u8>,
}

/// Runs the initialisation in `module` (compiled from `wasm`) and gives back what it has become.
pub(crate) fn snapshot(wasm: &[u8], module: &Module, library: &Path) -> anyhow::Result<Snapshot> {
    on_a_large_stack(|| take(wasm, module, library))
}

/// The parts of the snapshot's memory that the smallest program touches, and so every program.
pub(crate) fn hot(module: &Module, library: &Path) -> anyhow::Result<Resident> {
    on_a_large_stack(|| {
        let machine = Machine::new(
            module.engine(),
            module,
            Arc::new(Library::map(&File::open(library)?)?),
        )?;
        let job = r#"{"code":"print()","name":"a.py","argv":["a.py"],"env":{},"cell":false,"max_result_bytes":0}"#;
        let mut instance = machine.blank()?;
        machine.give(&mut instance, spec(job), Box::new(Said::default()), |_| {
            Ok(())
        })?;
        match machine.turn(&mut instance, DRIVER) {
            TurnEnd::Returned(0) => Ok(resident(instance.memory.data(&instance.store))?),
            end => bail!("the smallest program ended with {end:?}"),
        }
    })
}

fn on_a_large_stack<T: Send>(act: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("preimport".into())
            .stack_size(THREAD_STACK)
            .spawn_scoped(scope, act)?;
        thread
            .join()
            .unwrap_or_else(|_| bail!("the guest's preparation panicked"))
    })
}

fn take(wasm: &[u8], module: &Module, library: &Path) -> anyhow::Result<Snapshot> {
    let library = Arc::new(Library::map(&File::open(library)?)?);
    let machine = Machine::new(module.engine(), module, library)?;
    let said = Said::default();
    let mut instance = machine.blank()?;
    machine.give(&mut instance, spec(""), Box::new(said.clone()), |_| Ok(()))?;
    match machine.turn(&mut instance, guest_files::INIT) {
        TurnEnd::Returned(0) => {}
        end => bail!(
            "the guest's initialisation ended with {end:?}: {}",
            said.text()
        ),
    }
    let wasi = &mut instance.store.data_mut().wasi;
    let open = wasi.table.left_open();
    if !open.is_empty() {
        bail!(
            "the guest's initialisation left descriptors open: {}",
            open.join(", ")
        );
    }
    let left = wasi.tree.left_behind();
    if let Some(file) = left.first() {
        bail!("the guest's initialisation left {} behind", file.path);
    }
    let memory = instance.memory.data(&instance.store).to_vec();
    Ok(Snapshot {
        wasm: without_data(&rewrite(wasm, instance)?)?,
        memory,
    })
}

/// Limits for code of our own: generous, and finite all the same.
fn spec(job: &str) -> GuestSpec {
    GuestSpec {
        argv: vec!["/usr/local/bin/python.wasm".into()],
        env: GUEST_ENV
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        stdin: Vec::new(),
        job: job.as_bytes().to_vec(),
        quota: Quota {
            bytes_allowed: 64 << 20,
            files_allowed: 1000,
            ..Quota::default()
        },
        clock: Clock::start(
            Duration::from_millis(1),
            Some(Duration::from_secs(600)),
            None,
            1000,
        ),
        output_allowed: 1 << 20,
        result_allowed: 1 << 20,
        open_files_allowed: 256,
        memory: MemoryLimit { allowed: 1 << 30 },
    }
}

fn rewrite(wasm: &[u8], instance: Instance) -> anyhow::Result<Vec<u8>> {
    check_globals(wasm)?;
    let wizer = Wizer::new();
    let (context, _instrumented) = wizer
        .instrument(wasm)
        .map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let mut state = State(instance);
    let mut future = pin!(wizer.snapshot(&context, &mut state));
    // Nothing in the snapshot waits: our state answers at once.
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(result) => result.map_err(|error| anyhow::anyhow!("{error:#}")),
        Poll::Pending => bail!("the snapshot did not complete"),
    }
    .context("taking the snapshot")
}

/// The snapshot notes one mutable global with a constant: it must be the one we know, and the first of all, under
/// whose number it is exported.
fn check_globals(wasm: &[u8]) -> anyhow::Result<()> {
    let mut mutable = Vec::new();
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        let wasmparser::Payload::GlobalSection(globals) = payload? else {
            continue;
        };
        for (number, global) in globals.into_iter().enumerate() {
            let global = global?;
            if global.ty.mutable {
                mutable.push((number, global.init_expr.get_operators_reader().read()?));
            }
        }
    }
    match mutable.as_slice() {
        [
            (
                0,
                wasmparser::Operator::I32Const {
                    value: STACK_POINTER,
                },
            ),
        ] => Ok(()),
        other => bail!("the guest's globals are not the ones expected: {other:?}"),
    }
}

/// The state that wizer asks for, answered from an instance of the module before instrumentation: it
/// has one memory, and its one mutable global is the stack pointer, back at its base after each call.
struct State(Instance);

impl InstanceState for State {
    async fn global_get(&mut self, _name: &str, _type: ValType) -> SnapshotVal {
        SnapshotVal::I32(STACK_POINTER)
    }

    async fn memory_contents(&mut self, _name: &str, contents: impl FnOnce(&[u8]) + Send) {
        contents(self.0.memory.data(&self.0.store));
    }
}

/// Keeps what the initialisation printed, for the error that quotes it.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Outlet for Said {
    fn stream(&mut self, _number: u32, bytes: &[u8]) -> Result<(), Halt> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(())
    }

    fn message(&mut self, _bytes: &[u8]) -> Result<(), Halt> {
        Ok(())
    }

    fn events(&mut self, _events: &[Event]) -> Result<(), Halt> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use casemate_linux::memory::Writes;

    use super::*;
    use crate::memory::Memories;
    use crate::setup::Store;
    use crate::{machine, module};

    /// Programs that write a little, much more than is kept of it, and end badly in the middle.
    const CODES: [&str; 3] = [
        "print()",
        "import pandas\nheld = [bytearray(b'secret') * 3_000_000 for _ in range(8)]\npandas.DataFrame({'a': range(99999)}).describe()",
        "import json\njson.secret = ['secret' + str(n) for n in range(99999)]\nraise KeyError",
    ];

    fn spec_of(code: &str) -> GuestSpec {
        let job = serde_json::json!({
            "code": code, "name": "a.py", "argv": ["a.py"], "env": {}, "cell": false, "max_result_bytes": 1 << 20,
        });
        spec(&job.to_string())
    }

    #[test]
    fn a_memory_that_was_used_is_as_new_byte_for_byte() {
        let opened = Store::open().unwrap().opened().unwrap();
        let original = module::map_read_only(&opened.memory).unwrap();
        on_a_large_stack(|| {
            let library = Arc::new(Library::map(&opened.library)?);
            let (memory, writes) = (opened.memory.try_clone()?, Writes::open()?);
            let memories = Memories::new(memory, Some(writes), library.hot.clone())?;
            let engine = machine::engine_with(memories)?;
            let loaded = module::load(&engine, opened.module.try_clone()?)?;
            let machine = Machine::new(&engine, &loaded, library)?;
            for code in CODES {
                let mut used = machine.blank()?;
                assert!(
                    used.memory.data(&used.store) == &original[..],
                    "it begins with the snapshot"
                );
                machine.give(&mut used, spec_of(code), Box::new(Said::default()), |_| {
                    Ok(())
                })?;
                let end = machine.turn(&mut used, DRIVER);
                assert!(matches!(end, TurnEnd::Returned(_)), "{code}: {end:?}");
                let at = used.memory.data_ptr(&used.store);
                assert!(
                    used.memory.data(&used.store)[..original.len()] != original[..],
                    "a run that writes nothing shows nothing"
                );
                drop(used);
                let next = machine.blank()?;
                assert_eq!(
                    next.memory.data_ptr(&next.store),
                    at,
                    "the same memory serves again"
                );
                assert!(
                    next.memory.data(&next.store) == &original[..],
                    "{code}: something is left"
                );
            }
            Ok(())
        })
        .unwrap();
    }
}
