//! Starting a program with nothing but what it is given.

#![allow(
    unsafe_code,
    reason = "between clone and execve only raw system calls are allowed; they are all here"
)]

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, c_char, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{OnceLock, mpsc};

use crate::cgroup::Cgroup;
use crate::child::Child;
use crate::sys;

/// Where a child's standard error goes when no descriptor is given for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    /// To `/dev/null`, as standard input and output do.
    Null,
    /// To the standard error of this process.
    Inherit,
}

/// A program to start. The environment is empty, standard input, output and error are
/// `/dev/null`, and no other descriptor is open, until the builder says otherwise.
///
/// The child is the leader of its own session, has every signal at its default, is killed when
/// this process ends, and is in its control groups before it executes the program.
#[derive(Debug)]
pub struct Spawn {
    exe: io::Result<CString>,
    args: Vec<io::Result<CString>>,
    env: Vec<io::Result<CString>>,
    fds: BTreeMap<RawFd, io::Result<OwnedFd>>,
    cgroups: Vec<io::Result<OwnedFd>>,
    stderr: Stderr,
}

impl Spawn {
    /// Starts describing the program at this path; its first argument is the path itself.
    #[must_use]
    pub fn new(exe: impl AsRef<Path>) -> Self {
        let exe = c_string(exe.as_ref().as_os_str().as_bytes());
        let name = exe
            .as_ref()
            .map_or_else(|_| c_string(b""), |n| Ok(n.clone()));
        Self {
            exe,
            args: vec![name],
            env: Vec::new(),
            fds: BTreeMap::new(),
            cgroups: Vec::new(),
            stderr: Stderr::Null,
        }
    }

    /// The program that is running now, whatever has happened to its file since it started.
    #[must_use]
    pub fn this_program() -> Self {
        Self::new("/proc/self/exe")
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(c_string(arg.as_ref().as_bytes()));
        self
    }

    /// Adds one environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let pair = [key.as_ref().as_bytes(), b"=", value.as_ref().as_bytes()].concat();
        self.env.push(c_string(&pair));
        self
    }

    /// Gives the child this descriptor under the number `target`. The descriptor is duplicated
    /// now, so the caller keeps its own.
    #[must_use]
    pub fn fd(mut self, source: impl AsFd, target: RawFd) -> Self {
        // Far above every target, so that placing one can never overwrite another.
        let copy = rustix::io::fcntl_dupfd_cloexec(source.as_fd(), FIRST_SOURCE);
        self.fds.insert(target, copy.map_err(io::Error::from));
        self
    }

    /// Where standard error goes unless descriptor 2 is given.
    #[must_use]
    pub const fn stderr(mut self, stderr: Stderr) -> Self {
        self.stderr = stderr;
        self
    }

    /// Puts the child into this control group before it executes the program.
    #[must_use]
    pub fn cgroup(mut self, cgroup: &Cgroup) -> Self {
        for file in cgroup.open_procs() {
            self.cgroups.push(file.and_then(|fd| {
                rustix::io::fcntl_dupfd_cloexec(fd, FIRST_SOURCE).map_err(io::Error::from)
            }));
        }
        self
    }

    /// Starts the program and returns once it has been executed.
    ///
    /// All children are cloned by one thread that lives as long as this process: the kernel ties
    /// "die with the parent" to the thread that cloned, and callers' threads come and go.
    ///
    /// # Errors
    /// A zero byte in an argument, a target outside 0..64, a descriptor that could not be
    /// duplicated, or the step that failed in the child with the kernel's reason.
    pub fn spawn(self) -> io::Result<Child> {
        let launch = self.prepare()?;
        let (answer, answered) = mpsc::sync_channel(1);
        spawner()?
            .send((launch, answer))
            .map_err(|_| io::Error::other("the thread that starts processes is gone"))?;
        answered
            .recv()
            .map_err(|_| io::Error::other("the thread that starts processes is gone"))?
    }

    /// Starts the program from the calling thread, for a process that has no other: then there is
    /// no thread that it could be tied to instead. All signals stay blocked in the caller.
    ///
    /// # Errors
    /// As [`Spawn::spawn`].
    pub fn spawn_alone(self) -> io::Result<Child> {
        let launch = self.prepare()?;
        sys::block_all_signals()?;
        start(&launch, &mut vec![0u128; STACK_UNITS])
    }

    /// Becomes the program, in this very process, which must have one thread and has no control groups to
    /// enter. What fails after the descriptors were placed ends the process with code 127.
    ///
    /// # Errors
    /// A description that cannot be carried out, as [`Spawn::spawn`].
    pub fn exec(self) -> io::Result<std::convert::Infallible> {
        let launch = self.prepare()?;
        let (argv, envp, fds) = launch.tables();
        let recipe = launch.recipe(&argv, &envp, &fds, &[]);
        reset_signals(&recipe);
        place_descriptors(&recipe);
        become_program(&recipe)
    }

    fn prepare(mut self) -> io::Result<Launch> {
        if let Some(target) = self.fds.keys().find(|fd| !(0..TARGETS).contains(*fd)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "descriptor {target} for the child is not between 0 and {}",
                    TARGETS - 1
                ),
            ));
        }
        self.fill_standard_streams()?;
        let fds = self.fds.into_iter();
        Ok(Launch {
            exe: self.exe?,
            args: self.args.into_iter().collect::<io::Result<_>>()?,
            env: self.env.into_iter().collect::<io::Result<_>>()?,
            fds: fds
                .map(|(to, fd)| Ok((fd?, to)))
                .collect::<io::Result<_>>()?,
            cgroups: self.cgroups.into_iter().collect::<io::Result<_>>()?,
        })
    }

    fn fill_standard_streams(&mut self) -> io::Result<()> {
        let missing: Vec<RawFd> = (0..=2).filter(|fd| !self.fds.contains_key(fd)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        for target in missing {
            let copy = if target == 2 && self.stderr == Stderr::Inherit {
                rustix::io::fcntl_dupfd_cloexec(io::stderr(), FIRST_SOURCE)
            } else {
                rustix::io::fcntl_dupfd_cloexec(&null, FIRST_SOURCE)
            };
            self.fds.insert(target, copy.map_err(io::Error::from));
        }
        Ok(())
    }
}

/// Targets are below this number and sources at or above it.
const TARGETS: RawFd = 64;
const FIRST_SOURCE: RawFd = TARGETS;

/// A spawn whose every part has been checked.
struct Launch {
    exe: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    /// In the order of their targets.
    fds: Vec<(OwnedFd, RawFd)>,
    cgroups: Vec<OwnedFd>,
}

type Request = (Launch, mpsc::SyncSender<io::Result<Child>>);

/// The queue of the one thread that clones.
fn spawner() -> io::Result<&'static mpsc::Sender<Request>> {
    static QUEUE: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    if let Some(queue) = QUEUE.get() {
        return Ok(queue);
    }
    let (queue, requests) = mpsc::channel::<Request>();
    // Two first callers may both come here; the loser's thread ends when its queue is dropped.
    std::thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(move || serve(&requests))?;
    Ok(QUEUE.get_or_init(|| queue))
}

fn serve(requests: &mpsc::Receiver<Request>) {
    let mut stack = vec![0u128; STACK_UNITS];
    let blocked = sys::block_all_signals();
    while let Ok((launch, answer)) = requests.recv() {
        let child = match &blocked {
            Ok(()) => start(&launch, &mut stack),
            Err(error) => Err(io::Error::new(error.kind(), "signals could not be blocked")),
        };
        // The caller may have gone away; then the child is dropped here, that is killed.
        answer.send(child).ok();
    }
}

/// 64 KiB: the child calls nothing deeper than `execve`.
const STACK_UNITS: usize = 4096;

/// What the child reads, as plain numbers and addresses, and the two words it writes. The tables it points
/// at must outlive it.
struct Recipe {
    exe: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    fds: *const (RawFd, RawFd),
    fds_len: usize,
    cgroups: *const RawFd,
    cgroups_len: usize,
    parent: libc::pid_t,
    stage: AtomicI32,
    errno: AtomicI32,
}

const STAGES: [&str; 8] = [
    "setsid",
    "writing cgroup.procs",
    "prctl PR_SET_PDEATHSIG",
    "the parent is gone",
    "rt_sigprocmask",
    "dup2",
    "close_range",
    "execve",
];

type Tables = (Vec<*const c_char>, Vec<*const c_char>, Vec<(RawFd, RawFd)>);

impl Launch {
    /// Arguments, variables and descriptors as the kernel takes them.
    fn tables(&self) -> Tables {
        let fds = self.fds.iter().map(|(s, t)| (s.as_raw_fd(), *t));
        (pointers(&self.args), pointers(&self.env), fds.collect())
    }

    fn recipe(
        &self,
        argv: &[*const c_char],
        envp: &[*const c_char],
        fds: &[(RawFd, RawFd)],
        cgroups: &[RawFd],
    ) -> Recipe {
        Recipe {
            exe: self.exe.as_ptr(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            fds: fds.as_ptr(),
            fds_len: fds.len(),
            cgroups: cgroups.as_ptr(),
            cgroups_len: cgroups.len(),
            parent: rustix::process::getpid().as_raw_nonzero().get(),
            stage: AtomicI32::new(0),
            errno: AtomicI32::new(0),
        }
    }
}

fn start(launch: &Launch, stack: &mut [u128]) -> io::Result<Child> {
    let (argv, envp, fds) = launch.tables();
    let cgroups: Vec<RawFd> = launch.cgroups.iter().map(AsRawFd::as_raw_fd).collect();
    let recipe = launch.recipe(&argv, &envp, &fds, &cgroups);
    let arg = std::ptr::from_ref(&recipe).cast::<c_void>().cast_mut();
    // SAFETY: `child_main` makes only raw system calls on the numbers and addresses in `recipe`,
    // writes only its two atomics, and ends in `execve` or `_exit`. `recipe` and everything it
    // points at are locals of this frame, which sleeps until the child has left our memory. Whoever
    // comes here has blocked all signals for good (`serve` and `Spawn::spawn_alone`).
    let (pid, pidfd) = unsafe { sys::clone_child(child_main, arg, stack)? };
    let child = Child::new(pid.unsigned_abs(), pidfd);
    match recipe.errno.load(Ordering::Acquire) {
        0 => Ok(child),
        errno => {
            let stage = usize::try_from(recipe.stage.load(Ordering::Acquire)).unwrap_or_default();
            let stage = STAGES.get(stage).copied().unwrap_or("starting");
            Err(describe(stage, &launch.exe, errno))
        }
    }
}

fn describe(stage: &str, exe: &CString, errno: i32) -> io::Error {
    let cause = io::Error::from_raw_os_error(errno);
    let exe = exe.to_string_lossy();
    io::Error::new(
        cause.kind(),
        format!(
            "could not start {exe}: {stage}: {}",
            crate::step::plain(&cause)
        ),
    )
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let ends = std::iter::once(std::ptr::null());
    strings.iter().map(|s| s.as_ptr()).chain(ends).collect()
}

/// The life of the child between `clone` and `execve`.
extern "C" fn child_main(arg: *mut c_void) -> libc::c_int {
    // SAFETY: `start` passes the address of its `Recipe`, which stays alive and unmoved while
    // this runs, because the thread that owns it sleeps.
    let recipe = unsafe { &*arg.cast::<Recipe>() };
    leave_parent(recipe);
    reset_signals(recipe);
    place_descriptors(recipe);
    become_program(recipe)
}

fn become_program(recipe: &Recipe) -> ! {
    // SAFETY: three NUL-terminated strings or NULL-terminated arrays of such, prepared and kept
    // alive by the owner of the recipe, which is not changed while it is carried out.
    let rc = unsafe { libc::execve(recipe.exe, recipe.argv, recipe.envp) };
    must(recipe, 7, rc);
    // `execve` returns only to fail, and `must` does not come back from a failure.
    exit_now()
}

fn leave_parent(recipe: &Recipe) {
    // SAFETY: takes no argument and touches no memory.
    must(recipe, 0, unsafe { libc::setsid() });
    for index in 0..recipe.cgroups_len {
        // SAFETY: `index` is below the length of the array `start` keeps alive.
        let fd = unsafe { *recipe.cgroups.add(index) };
        // SAFETY: the byte is a constant; "0" means "the process that writes".
        let wrote = unsafe { libc::write(fd, c"0".as_ptr().cast(), 1) };
        must(recipe, 1, if wrote == 1 { 0 } else { -1 });
    }
    // SAFETY: the operation takes a number.
    let rc = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    must(recipe, 2, rc);
    // The parent may have died before the line above, and then no signal will ever come.
    // SAFETY: takes no argument and touches no memory.
    let parent = unsafe { libc::getppid() };
    if parent != recipe.parent {
        fail(recipe, 3, libc::ESRCH);
    }
}

fn reset_signals(recipe: &Recipe) {
    // The kernel's own structure, all zero: the default action, no flags, an empty mask. The C
    // library's function would leave the two signals alone that it keeps for itself.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // The two that cannot be changed answer EINVAL; nothing is lost by that.
        // SAFETY: `default` has the size and layout of the kernel's `struct sigaction` with a
        // mask of 8 bytes; the default action is no function, so no code of ours can run on a
        // signal. The child has its own table of handlers (no CLONE_SIGHAND).
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                0usize,
                8usize,
            )
        };
    }
    let none = [0u64; 16];
    // SAFETY: a zeroed signal set is the empty set on Linux, and the array is as large as the
    // largest `sigset_t` (128 bytes).
    let rc = unsafe {
        libc::sigprocmask(
            libc::SIG_SETMASK,
            none.as_ptr().cast(),
            std::ptr::null_mut(),
        )
    };
    must(recipe, 4, rc);
}

fn place_descriptors(recipe: &Recipe) {
    let mut next = 0;
    for index in 0..recipe.fds_len {
        // SAFETY: `index` is below the length of the array `start` keeps alive.
        let (source, target) = unsafe { *recipe.fds.add(index) };
        // SAFETY: two numbers. `source` is at least 64 and `target` below, so no source that is
        // still to be placed is overwritten; the child has its own descriptor table.
        must(recipe, 5, unsafe { libc::dup2(source, target) });
        close_between(recipe, next, target - 1);
        next = target + 1;
    }
    close_between(recipe, next, RawFd::MAX);
}

fn close_between(recipe: &Recipe, first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    // SAFETY: numbers only; the table belongs to the child alone.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    must(recipe, 6, if rc == 0 { 0 } else { -1 });
}

fn must(recipe: &Recipe, stage: i32, rc: libc::c_int) {
    if rc < 0 {
        // SAFETY: the address of this thread's errno, which the sleeping parent does not use.
        let errno = unsafe { *libc::__errno_location() };
        fail(recipe, stage, errno);
    }
}

fn fail(recipe: &Recipe, stage: i32, errno: i32) {
    recipe.stage.store(stage, Ordering::Release);
    recipe.errno.store(errno, Ordering::Release);
    exit_now();
}

fn exit_now() -> ! {
    // SAFETY: ends the child at once, without running anything that belongs to the parent.
    unsafe { libc::_exit(127) }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "a program, argument or variable contains a zero byte",
        )
    })
}

/// Takes over a descriptor this program was started with, by its number. Works before and after
/// `lockdown::enter`, not after `lockdown::seal`.
///
/// # Errors
/// When no such descriptor is open, or it has been taken before.
pub fn take_fd(number: RawFd) -> io::Result<OwnedFd> {
    use std::sync::Mutex;
    static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
    let mut taken = TAKEN
        .lock()
        .map_err(|_| io::Error::other("a thread panicked while taking a descriptor"))?;
    if number < 3 || taken.contains(&number) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {number} is not free to be taken"),
        ));
    }
    // By `fstat`, because it is the question that the filter of a worker lets through.
    // SAFETY: the borrow ends with the call, which only asks about the number; should nothing
    // be open under it, the answer is an error.
    rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(number) })?;
    taken.push(number);
    // SAFETY: the descriptor is open (checked above) and is handed out once only (the list).
    // It is the caller's contract with whoever started this program that the number was passed
    // for this use, and so is owned by nothing else in the process.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
