//! The engine's configuration and one guest's life in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use casemate_model::event::Event;
use wasmtime::{
    AsContextMut, CacheStore, Collector, Config, Engine, Global, InstancePre, Linker, Module,
    OptLevel, Store, Trap, TypedFunc, UpdateDeadline, Val,
};

use crate::guest::{Guest, MemoryLimit};
use crate::library::Library;
use crate::memory::Memories;
use crate::wasi::{self, Clock, Errno, Halt, Outlet, Quota, Spec, Wasi};

/// The stack the guest may use; CPython's recursion limit is built for it.
const WASM_STACK: usize = 8 << 20;
/// The host thread's stack must hold the guest's and our own frames.
pub(crate) const THREAD_STACK: usize = 24 << 20;
/// What Python is interrupted by, as the guest exports it: a function for handlers of signals, and its stack pointer.
pub(crate) const INTERRUPT: &str = "interrupt";
pub(crate) const STACK: &str = "stack";
/// The number of SIGINT in WASI's C library.
const SIGINT: i32 = 2;
/// Bytes below the stack pointer that a function which calls none may use without moving it.
const RED_ZONE: i32 = 128;
/// Ticks until a guest looks at its deadlines again in the middle of an interrupt, which takes none.
const UNDISTURBED: u64 = 1000;
/// How often a running guest looks at its deadlines.
const TICK: Duration = Duration::from_millis(5);

/// The engine's configuration, the same at set-up and at run time: a compiled module fits no other.
fn config() -> Config {
    let mut config = Config::new();
    config.wasm_exceptions(true);
    config.collector(Collector::Null);
    config.max_wasm_stack(WASM_STACK);
    config.async_stack_size(WASM_STACK + (4 << 20));
    config.epoch_interruption(true);
    config.cranelift_opt_level(OptLevel::Speed);
    config
}

/// An engine that runs compiled modules.
///
/// # Errors
/// Those of wasmtime, when this processor cannot be targeted.
pub(crate) fn engine() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// The same for the snapshot, whose memory is no part of the module.
///
/// # Errors
/// As above.
pub(crate) fn engine_with(memories: Memories) -> wasmtime::Result<Engine> {
    let mut config = config();
    config.with_host_memory(Arc::new(memories));
    Engine::new(&config)
}

/// An engine that compiles, keeping every compiled function in `cache`.
///
/// # Errors
/// Those of wasmtime.
pub(crate) fn compiling_engine(cache: Arc<dyn CacheStore>) -> wasmtime::Result<Engine> {
    let mut config = config();
    config.enable_incremental_compilation(cache)?;
    Engine::new(&config)
}

/// Advances the engine's epoch while a guest runs, and rests while none does.
pub(crate) struct Ticker {
    running: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let (running, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let (is_running, is_done) = (running.clone(), done.clone());
        let handle = std::thread::Builder::new()
            .name("epoch".into())
            .stack_size(64 << 10)
            .spawn(move || {
                while !is_done.load(Ordering::Acquire) {
                    if is_running.load(Ordering::Acquire) {
                        std::thread::sleep(TICK);
                        engine.increment_epoch();
                    } else {
                        std::thread::park();
                    }
                }
            })?;
        Ok(Self {
            running,
            done,
            thread: handle.thread().clone(),
            handle: Some(handle),
        })
    }

    fn run(&self) -> Running<'_> {
        self.running.store(true, Ordering::Release);
        self.thread.unpark();
        Running(self)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.thread.unpark();
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            // The thread only sleeps and counts; were it gone, no guest could have been stopped.
            std::process::abort();
        }
    }
}

/// The epoch advances while this lives.
struct Running<'a>(&'a Ticker);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}

/// What one guest may use and what it is given.
pub(crate) struct GuestSpec {
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) job: Vec<u8>,
    pub(crate) quota: Quota,
    pub(crate) clock: Clock,
    pub(crate) output_allowed: u64,
    pub(crate) result_allowed: u64,
    pub(crate) open_files_allowed: u64,
    pub(crate) memory: MemoryLimit,
}

impl GuestSpec {
    /// What an instance without a run has: nothing.
    fn nothing() -> Self {
        Self {
            argv: Vec::new(),
            env: BTreeMap::new(),
            stdin: Vec::new(),
            job: Vec::new(),
            quota: Quota::default(),
            clock: Clock::start(
                Duration::from_secs(1),
                Some(Duration::ZERO),
                Some(Duration::ZERO),
                1000,
            ),
            output_allowed: 0,
            result_allowed: 0,
            open_files_allowed: 0,
            memory: MemoryLimit { allowed: 0 },
        }
    }
}

/// The outlet of an instance without a run.
struct Nowhere;

impl Outlet for Nowhere {
    fn stream(&mut self, _number: u32, _bytes: &[u8]) -> Result<(), Halt> {
        Err(Halt::ChannelLost)
    }

    fn message(&mut self, _bytes: &[u8]) -> Result<(), Halt> {
        Err(Halt::ChannelLost)
    }

    fn events(&mut self, _events: &[Event]) -> Result<(), Halt> {
        Err(Halt::ChannelLost)
    }
}

fn tree_error(errno: Errno) -> wasmtime::Error {
    wasmtime::Error::msg(format!("placing files: {}", errno.symbol()))
}

/// How a guest's turn ended.
#[derive(Debug)]
pub(crate) enum TurnEnd {
    /// The turn returned: 0 to 255 is an exit status.
    Returned(i32),
    /// The guest asked to end, or reached a limit.
    Halted(Halt),
    /// A trap of the engine's: the guest broke a rule of WebAssembly.
    Trapped(Trap),
    /// Something else failed.
    Failed(String),
}

/// How a guest is interrupted, as a system's signal does it: in the middle of whatever it does.
#[derive(Clone)]
pub(crate) struct Interrupt {
    raise: TypedFunc<i32, i32>,
    stack: Global,
}

impl Interrupt {
    /// That of an instance; Python as it is in the wheel has none.
    fn of(instance: &wasmtime::Instance, store: &mut Store<Guest>) -> Option<Self> {
        Some(Self {
            raise: instance.get_typed_func(&mut *store, INTERRUPT).ok()?,
            stack: instance.get_global(&mut *store, STACK)?,
        })
    }

    /// Lets the interpreter raise `KeyboardInterrupt` as soon as it looks for signals: what is called notes it and
    /// does nothing else, which is why it may be called from a handler.
    ///
    /// # Errors
    /// Those of the guest's function, which has none of its own.
    pub(crate) fn raise<T: 'static>(
        &self,
        mut context: impl AsContextMut<Data = T>,
    ) -> wasmtime::Result<()> {
        let mut context = context.as_context_mut();
        let Val::I32(stack) = self.stack.get(&mut context) else {
            return Err(wasmtime::Error::msg("the guest's stack pointer is none"));
        };
        context.set_epoch_deadline(UNDISTURBED);
        self.stack
            .set(&mut context, Val::I32(stack.wrapping_sub(RED_ZONE)))?;
        let raised = self.raise.call(&mut context, SIGINT);
        self.stack.set(&mut context, Val::I32(stack))?;
        context.set_epoch_deadline(1);
        raised.map(drop)
    }
}

/// A loaded guest, ready to be instantiated.
pub(crate) struct Machine {
    pre: InstancePre<Guest>,
    library: Arc<Library>,
    ticker: Ticker,
}

/// One instance.
pub(crate) struct Instance {
    pub(crate) store: Store<Guest>,
    turn: TypedFunc<(u32, u32), i32>,
    alloc: TypedFunc<u32, u32>,
    pub(crate) memory: wasmtime::Memory,
}

impl Machine {
    /// Links a module with our WASI and its library.
    ///
    /// # Errors
    /// Those of wasmtime, when the module asks for something we do not have.
    pub(crate) fn new(
        engine: &Engine,
        module: &Module,
        library: Arc<Library>,
    ) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(engine);
        wasi::link(&mut linker)?;
        let ticker = Ticker::start(engine.clone()).map_err(wasmtime::Error::new)?;
        Ok(Self {
            pre: linker.instantiate_pre(module)?,
            library,
            ticker,
        })
    }

    /// Makes an instance that has no run yet: it can wait in advance, and may do nothing until
    /// [`Machine::give`] gives it one.
    ///
    /// # Errors
    /// Those of wasmtime.
    pub(crate) fn blank(&self) -> wasmtime::Result<Instance> {
        let wasi = self.wasi(GuestSpec::nothing(), Box::new(Nowhere))?;
        let guest = Guest::new(wasi, MemoryLimit { allowed: 0 });
        let mut store = Store::new(self.pre.module().engine(), guest);
        store.limiter(|guest| guest);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut context| {
            let measured = context.data_mut().measure();
            measured.map_err(wasmtime::Error::new)?;
            let heard = context.data_mut().wasi.interrupted(Duration::ZERO);
            if heard.map_err(wasmtime::Error::new)? {
                interrupt(&mut context)?;
            }
            let clock = &context.data().wasi.clock;
            clock.check().map_err(wasmtime::Error::new)?;
            if let Some(rest) = clock.rest() {
                std::thread::sleep(rest);
                clock.check().map_err(wasmtime::Error::new)?;
            }
            Ok(UpdateDeadline::Continue(1))
        });
        let instance = self.pre.instantiate(&mut store)?;
        let memory = instance
            .get_memory(&mut store, "memory")
            .ok_or_else(|| wasmtime::Error::msg("the guest exports no memory"))?;
        let size = memory.data_size(&store) as u64;
        let interrupt = Interrupt::of(&instance, &mut store);
        store.data_mut().started(memory, size, interrupt);
        let turn = instance.get_typed_func(&mut store, "turn")?;
        let alloc = instance.get_typed_func(&mut store, "host_alloc")?;
        Ok(Instance {
            store,
            turn,
            alloc,
            memory,
        })
    }

    /// Gives an instance its run. `place` puts the run's files in its tree.
    ///
    /// # Errors
    /// Those of the tree, when a file cannot be placed.
    pub(crate) fn give(
        &self,
        instance: &mut Instance,
        spec: GuestSpec,
        outlet: Box<dyn Outlet>,
        place: impl FnOnce(&mut Wasi) -> Result<(), Errno>,
    ) -> wasmtime::Result<()> {
        let memory = spec.memory;
        let mut wasi = self.wasi(spec, outlet)?;
        place(&mut wasi).map_err(tree_error)?;
        instance.store.data_mut().give(wasi, memory);
        Ok(())
    }

    fn wasi(&self, spec: GuestSpec, outlet: Box<dyn Outlet>) -> wasmtime::Result<Wasi> {
        Wasi::new(Spec {
            base: self.library.base.clone(),
            second_root: self.library.second_root,
            quota: spec.quota,
            argv: spec.argv,
            env: spec.env,
            stdin: spec.stdin,
            job: spec.job,
            clock: spec.clock,
            output_allowed: spec.output_allowed,
            result_allowed: spec.result_allowed,
            open_files_allowed: spec.open_files_allowed,
            outlet,
        })
        .map_err(tree_error)
    }

    /// Runs one turn of Python in an instance.
    pub(crate) fn turn(&self, instance: &mut Instance, code: &str) -> TurnEnd {
        let _running = self.ticker.run();
        let result = enter(instance, code);
        match result {
            Ok(status) => TurnEnd::Returned(status),
            Err(error) => {
                if let Some(halt) = error.downcast_ref::<Halt>() {
                    TurnEnd::Halted(halt.clone())
                } else if let Some(trap) = error.downcast_ref::<Trap>() {
                    TurnEnd::Trapped(*trap)
                } else {
                    TurnEnd::Failed(format!("{error:#}"))
                }
            }
        }
    }
}

/// Interrupts the guest that is running.
///
/// # Errors
/// As [`Interrupt::raise`], or where there is no way to.
pub(crate) fn interrupt(context: impl AsContextMut<Data = Guest>) -> wasmtime::Result<()> {
    let interrupt = context.as_context().data().interrupt();
    let interrupt =
        interrupt.ok_or_else(|| wasmtime::Error::msg("the guest cannot be interrupted"))?;
    interrupt.raise(context)
}

fn enter(instance: &mut Instance, code: &str) -> wasmtime::Result<i32> {
    let len = u32::try_from(code.len())?;
    let at = instance.alloc.call(&mut instance.store, len)?;
    instance
        .memory
        .write(&mut instance.store, at as usize, code.as_bytes())?;
    instance.turn.call(&mut instance.store, (at, len))
}
