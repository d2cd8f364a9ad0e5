//! The raw system calls that neither the standard library nor `rustix` offers safely.
//!
//! One call a block. Every function here is safe to call unless it says otherwise, and turns a
//! negative return into an [`io::Error`] at the spot.

#![allow(
    unsafe_code,
    reason = "this module is where the workspace keeps its raw system calls"
)]

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::seccomp::Instruction;

/// Turns the C convention (-1 and `errno`) into a `Result`.
fn check(rc: i64) -> io::Result<i64> {
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(rc)
}

/// Switches on the loopback interface of this process's network namespace.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: a structure of plain numbers, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads the structure, which outlives the call, and writes nothing.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    check(rc.into()).map(drop)
}

/// Closes every descriptor from `first` to `last`, both included.
pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the call takes three integers and touches no memory of ours. It may close
    // descriptors that some Rust object believes to own; the only caller is `lockdown::enter`,
    // whose contract is that everything not on its list is closed and never used again.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    check(rc).map(drop)
}

/// `prctl` with integer arguments only.
///
/// The operations passed by this crate (`PR_CAPBSET_DROP`, `PR_SET_MDWE`, `PR_GET_MDWE`,
/// `PR_SET_SPECULATION_CTRL`, `PR_GET_SPECULATION_CTRL`) read their arguments as numbers, never as
/// addresses.
pub(crate) fn prctl_numbers(operation: i32, first: u64, second: u64) -> io::Result<i64> {
    // SAFETY: private to the crate, and called only with the operations listed above, for which
    // the kernel takes every argument by value; no memory is read or written through them.
    let rc = unsafe { libc::prctl(operation, first, second, 0u64, 0u64) };
    check(i64::from(rc))
}

/// Installs one seccomp program; with `all_threads` it is put on every thread at once or on none.
pub(crate) fn seccomp_filter(program: &[Instruction], all_threads: bool) -> io::Result<()> {
    let len = u16::try_from(program.len())
        .map_err(|_| io::Error::other("the filter is longer than the kernel takes"))?;
    let fprog = fprog(program, len);
    let flags = if all_threads {
        libc::SECCOMP_FILTER_FLAG_TSYNC
    } else {
        0
    };
    // SAFETY: `fprog` points at `len` instructions borrowed for the whole call, in the layout of
    // the kernel's `struct sock_filter` (`Instruction` is `repr(C)`); the kernel copies
    // and validates them before it returns and keeps no pointer.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&fprog),
        )
    };
    match check(rc)? {
        0 => Ok(()),
        thread => Err(io::Error::other(format!(
            "thread {thread} already has a filter of its own"
        ))),
    }
}

fn fprog(program: &[Instruction], len: u16) -> libc::sock_fprog {
    libc::sock_fprog {
        len,
        // The kernel reads through this pointer only; the cast to `*mut` is what the C
        // declaration asks for. Both types are the kernel's four fields in its order.
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    }
}

/// What [`wait_pidfd`] learned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waited {
    pub(crate) code: i32,
    pub(crate) status: i32,
    pub(crate) usage: libc::rusage,
}

/// Reaps the process behind a pidfd. `None`: it still runs and `block` was false.
pub(crate) fn wait_pidfd(pidfd: BorrowedFd<'_>, block: bool) -> io::Result<Option<Waited>> {
    let options = libc::WEXITED | if block { 0 } else { libc::WNOHANG };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both out-pointers are to live, writable memory of exactly the kernel's
        // types, and the descriptor is borrowed for the call. The C wrapper hides the fifth
        // argument (`rusage`), so the call is made by number.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                pidfd.as_raw_fd(),
                info.as_mut_ptr(),
                options,
                usage.as_mut_ptr(),
            )
        };
        match check(rc) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: zero bytes are a valid `siginfo_t`, and the kernel has filled what it had to.
    let info = unsafe { info.assume_init() };
    // SAFETY: the `SIGCHLD` fields are valid after a successful `waitid`; where nothing was
    // reaped they are the zeroes they were made of.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(Waited {
        code: info.si_code,
        status,
        // SAFETY: zero bytes are a valid `rusage`, and the kernel has filled it.
        usage: unsafe { usage.assume_init() },
    }))
}

/// The processor time of a whole process of ours, by the kernel's clock for that process.
pub(crate) fn process_cpu_time(pid: i32) -> io::Result<Duration> {
    // The kernel's encoding of "the processor clock of this process" (CPUCLOCK_SCHED).
    let clock: libc::clockid_t = (!pid << 3) | 2;
    clock_time(clock)
}

/// The time of any clock.
pub(crate) fn clock_time(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live, writable `timespec`; an unknown clock is refused with EINVAL.
    let rc = unsafe { libc::clock_gettime(clock, &raw mut time) };
    check(i64::from(rc))?;
    let secs = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let nanos = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(Duration::new(secs, nanos))
}

/// The function a cloned child runs; it must never return to Rust code of the parent.
pub(crate) type Entry = extern "C" fn(*mut c_void) -> libc::c_int;

/// Starts a child that runs `entry(arg)` on `stack` and gives back its id and its pidfd.
///
/// The child borrows our memory and the calling thread sleeps until it executes a program or
/// ends. No page table is copied, so the cost does not grow with the parent.
///
/// # Safety
///
/// `entry` must confine itself to async-signal-safe calls on what `arg` points at, must end in
/// `_exit` or `execve`, and must not touch a lock, the heap or thread-local storage other than
/// `errno`. `arg` must be valid until this call returns. All signals must be blocked in the
/// calling thread, or a handler could run in the child.
pub(crate) unsafe fn clone_child(
    entry: Entry,
    arg: *mut c_void,
    stack: &mut [u128],
) -> io::Result<(i32, OwnedFd)> {
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let mut pidfd: RawFd = -1;
    // SAFETY: `top` is the end of a live, 16-byte-aligned stack that the child alone uses: the
    // caller sleeps inside this call until the child has left it (CLONE_VFORK). `pidfd` is where CLONE_PIDFD stores the descriptor.
    // What `entry` may do is the caller's promise above.
    let pid = unsafe {
        libc::clone(
            entry,
            top,
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD,
            arg,
            &raw mut pidfd,
        )
    };
    check(i64::from(pid))?;
    // SAFETY: on success the kernel has just opened this descriptor for us, close-on-exec, and
    // nothing else knows its number.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((pid, pidfd))
}

/// Blocks every signal in the calling thread, for good.
pub(crate) fn block_all_signals() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is writable memory of the right type; the call initialises it wholly.
    check(i64::from(unsafe { libc::sigfillset(set.as_mut_ptr()) }))?;
    // SAFETY: `set` was initialised above, and a null old-set pointer is allowed.
    let rc =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()) };
    match rc {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// How long a thread that is told to stop may take: one that waits inside the kernel for a disk is given up on.
const STOPPED_WITHIN: Duration = Duration::from_secs(2);
/// Of `linux/ptrace.h`; the crate `libc` does not have it.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
/// The kernel's `BPF_MAXINSNS`: it takes no longer filter.
const MAX_INSTRUCTIONS: usize = 4096;
const STOPPED_LOOK: Duration = Duration::from_micros(200);

/// The seccomp programs of a process's first thread, which stands still for that moment. All of this has to be done by
/// one thread of ours.
pub(crate) fn seccomp_filters(pid: i32) -> io::Result<Vec<Vec<Instruction>>> {
    ptrace(libc::PTRACE_SEIZE, pid, 0, std::ptr::null_mut())?;
    let found = ptrace(libc::PTRACE_INTERRUPT, pid, 0, std::ptr::null_mut())
        .and_then(|_| wait_stopped(pid))
        .and_then(|()| read_filters(pid));
    match ptrace(libc::PTRACE_DETACH, pid, 0, std::ptr::null_mut()) {
        // Gone, and with it the hold on it.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => found,
        Err(error) => found.and(Err(error)),
        Ok(_) => found,
    }
}

fn read_filters(pid: i32) -> io::Result<Vec<Vec<Instruction>>> {
    let mut filters = Vec::new();
    loop {
        let empty = Instruction {
            code: 0,
            jt: 0,
            jf: 0,
            k: 0,
        };
        let mut program = vec![empty; MAX_INSTRUCTIONS];
        let place = program.as_mut_ptr().cast::<c_void>();
        match ptrace(PTRACE_SECCOMP_GET_FILTER, pid, filters.len(), place) {
            Ok(length) => program.truncate(usize::try_from(length).map_err(io::Error::other)?),
            // EINVAL: it has none at all. ENOENT: no more.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
                return Ok(filters);
            }
            Err(error) => return Err(error),
        }
        filters.push(program);
    }
}

fn wait_stopped(pid: i32) -> io::Result<()> {
    let deadline = std::time::Instant::now() + STOPPED_WITHIN;
    loop {
        let mut status = 0;
        // SAFETY: `status` is a live `int`, and the process is one that this thread traces.
        let rc = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | libc::WNOHANG) };
        match check(i64::from(rc)) {
            Ok(0) if std::time::Instant::now() > deadline => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Ok(0) => std::thread::sleep(STOPPED_LOOK),
            Ok(_) if libc::WIFSTOPPED(status) => return Ok(()),
            Ok(_) => return Err(io::Error::other("it ended meanwhile")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// One request of `ptrace`. `data` is null or, where filters are read, room for the longest; no other request of this
/// module makes the kernel follow it.
fn ptrace(request: libc::c_uint, pid: i32, address: usize, data: *mut c_void) -> io::Result<i64> {
    // SAFETY: private to this module, whose requests take `address` as a number and write no more than one filter, which
    // the kernel keeps to `MAX_INSTRUCTIONS`.
    let rc = unsafe { libc::ptrace(request, pid, address, data) };
    check(rc)
}

/// The Landlock ABI of the kernel, or why there is none.
pub(crate) fn landlock_abi() -> io::Result<i64> {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with a null attribute, size zero and this flag the kernel only returns a number.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<c_void>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    check(rc)
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes (`MOUNT_ATTR_*`) on a mount, and with `recursive` on every mount below it.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: u64,
) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` has the layout of the kernel's structure and lives through the call, with its
    // true size beside it; the empty path is a constant. The kernel only reads both.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attr),
            size_of::<MountAttr>(),
        )
    };
    check(rc).map(drop)
}

/// Splits the process in two. `None` is the child.
///
/// # Safety
///
/// The process must have one thread: the child has a copy of this one only, and locks that another
/// held would stay locked in it for ever.
pub(crate) unsafe fn fork() -> io::Result<Option<i32>> {
    // SAFETY: with one thread the child is a whole copy; that it is one thread is the caller's promise.
    let pid = unsafe { libc::fork() };
    match check(i64::from(pid))? {
        0 => Ok(None),
        _ => Ok(Some(pid)),
    }
}

/// Splits the process in two that have the same parent. `None` is the new one; the old one gets a
/// descriptor of it.
///
/// # Safety
///
/// As [`fork`]; and until the new process has forked once more it must not call what looks its thread up by the number
/// that the C library remembers, which is the old one's: `raise`, and locks that know who holds them.
pub(crate) unsafe fn fork_beside() -> io::Result<Option<OwnedFd>> {
    /// The first version of the kernel's `struct clone_args`.
    #[repr(C)]
    struct CloneArgs([u64; 8]);
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD;
    let pidfd_at = std::ptr::from_mut(&mut pidfd).expose_provenance() as u64;
    // The signal of its end is the one that this process has, as it must be where the parent is the same.
    let mut args = CloneArgs([flags as u64, pidfd_at, 0, 0, 0, 0, 0, 0]);
    // SAFETY: `args` has the layout and size that is passed; without a stack and without CLONE_VM the child goes on here
    // on a copy of everything. The kernel writes the descriptor to `pidfd`, which lives.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut args),
            size_of::<CloneArgs>(),
        )
    };
    match check(pid)? {
        0 => Ok(None),
        // SAFETY: the kernel has just opened this descriptor for us, close-on-exec, and nothing else knows its number.
        _ => Ok(Some(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Whether the process that a descriptor names is a child of this one, alive or not yet waited for.
pub(crate) fn is_child(pidfd: BorrowedFd<'_>) -> bool {
    // SAFETY: null out-pointers are allowed, and the descriptor is borrowed for the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            std::ptr::null_mut::<libc::siginfo_t>(),
            libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
            std::ptr::null_mut::<libc::rusage>(),
        )
    };
    rc == 0
}

/// Ignores `SIGCHLD`, so that children are reaped by the kernel as they end.
pub(crate) fn ignore_children() -> io::Result<()> {
    // SAFETY: SIG_IGN is no function, so no code of ours can run on the signal.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
