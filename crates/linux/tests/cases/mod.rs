//! The calls behind `seccomp.rs`: one case a rule, and what must never get through.

use std::ffi::{c_long, c_void};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

mod forbidden;

pub(crate) use forbidden::FORBIDDEN;

/// What the calls work on, made before the filter.
pub(crate) struct Fixture {
    pair: (UnixStream, UnixStream),
    file: std::fs::File,
    pagemap: std::fs::File,
    writes: casemate_linux::memory::Writes,
    page: Pages,
}

struct Pages(*mut c_void);

pub(crate) const PAGE: usize = 4096;

impl Fixture {
    pub(crate) fn new() -> Self {
        let pair = UnixStream::pair().unwrap();
        // Something to read for every child, on both ends, and never blocking.
        for end in [&pair.0, &pair.1] {
            std::io::Write::write_all(&mut &*end, &[b'x'; 65536]).unwrap();
            end.set_nonblocking(true).unwrap();
        }
        Self {
            pair,
            file: std::fs::File::open("/proc/self/exe").unwrap(),
            pagemap: casemate_linux::memory::open_pagemap().unwrap(),
            writes: casemate_linux::memory::Writes::open().unwrap(),
            page: Pages(map(libc::PROT_READ | libc::PROT_WRITE)),
        }
    }

    pub(crate) fn socket(&self) -> RawFd {
        self.pair.0.as_raw_fd()
    }

    pub(crate) fn file(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// By which memory is watched; where the kernel cannot, a descriptor that does not know the call.
    fn watch(&self) -> RawFd {
        self.writes.descriptors().last().unwrap()
    }

    /// Two pages of the process's own.
    pub(crate) fn page(&self) -> *mut c_void {
        self.page.0
    }
}

pub(crate) fn map(protection: i32) -> *mut c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping wherever the kernel likes.
    unsafe { libc::mmap(std::ptr::null_mut(), 2 * PAGE, protection, flags, -1, 0) }
}

/// A raw call that is expected to work.
macro_rules! works {
    ($number:expr $(, $arg:expr)*) => {
        // SAFETY: every pointer argument is to live memory of the size the call needs.
        (unsafe { libc::syscall($number $(, $arg)*) }) >= 0
    };
}

/// A raw call whose result does not matter.
macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {{
        // SAFETY: either the filter kills the process before the call is made, or the arguments
        // are such that it fails or does something harmless to a child about to end.
        let _rc: c_long = unsafe { libc::syscall($number $(, $arg)*) };
    }};
}
pub(crate) use call;

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// One rule's test.
pub(crate) struct Case {
    /// The call, and what its first condition compares.
    pub(crate) rule: &'static str,
    /// Only in this file; empty for all.
    file: &'static str,
    /// The call as the worker makes it; `true` when the kernel did it.
    pub(crate) right: fn(&Fixture) -> bool,
    /// The same call as the worker would never make it.
    pub(crate) wrong: &'static [fn(&Fixture) -> bool],
}

impl Case {
    pub(crate) fn is_for(&self, file: &str) -> bool {
        // The process that reads scripts makes no more calls than a sealed worker, and with no other arguments.
        let file = if file == "reader" { SEALED } else { file };
        self.file.is_empty() || self.file == file
    }
}

const fn free(rule: &'static str, right: fn(&Fixture) -> bool) -> Case {
    Case {
        rule,
        file: "",
        right,
        wrong: &[],
    }
}

const fn bound(
    rule: &'static str,
    right: fn(&Fixture) -> bool,
    wrong: &'static [fn(&Fixture) -> bool],
) -> Case {
    Case {
        rule,
        file: "",
        right,
        wrong,
    }
}

const fn only(file: &'static str, case: Case) -> Case {
    Case { file, ..case }
}

const LOADING: &str = "wasm-worker";
const SEALED: &str = "wasm-worker-sealed";
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;
const RWX: i32 = RW | libc::PROT_EXEC;
const ANON: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

fn raw_map(protection: i32) -> bool {
    works!(libc::SYS_mmap, 0usize, PAGE, protection, ANON, -1, 0usize)
}

fn register(f: &Fixture) -> bool {
    let mut register = [f.page().addr() as u64, PAGE as u64, 2, 0_u64];
    let at = register.as_mut_ptr();
    if f.writes.watches() {
        works!(libc::SYS_ioctl, f.watch(), 0xc020_aa00_u32, at)
    } else {
        // SAFETY: the structure is live; whoever does not know the request does not look at it.
        let rc = unsafe { libc::syscall(libc::SYS_ioctl, f.watch(), 0xc020_aa00_u32, at) };
        rc < 0 && errno() == libc::ENOTTY
    }
}

fn protect(f: &Fixture, protection: i32) -> bool {
    works!(libc::SYS_mprotect, f.page(), PAGE, protection)
}

fn iovec(buffer: &mut [u8; 1]) -> libc::iovec {
    libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: 1,
    }
}

fn message(call: c_long, f: &Fixture) -> bool {
    let mut byte = [0u8];
    let mut part = iovec(&mut byte);
    // SAFETY: zero bytes are a valid message header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    works!(call, f.socket(), &raw mut header, 0) || errno() == libc::EAGAIN
}

fn from_to(call: c_long, f: &Fixture, address: *mut c_void, length: *mut c_void) -> bool {
    let byte = [0u8];
    works!(call, f.socket(), byte.as_ptr(), 1usize, 0, address, length) || errno() == libc::EAGAIN
}

fn vector(call: c_long, fd: RawFd) -> bool {
    let mut byte = [0u8];
    let part = iovec(&mut byte);
    works!(call, fd, &raw const part, 1) || errno() == libc::EAGAIN
}

fn ready(f: &Fixture) -> libc::pollfd {
    libc::pollfd {
        fd: f.socket(),
        events: libc::POLLIN,
        revents: 0,
    }
}

fn sleep(call: c_long, leading: bool) -> bool {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1000,
    };
    if leading {
        return works!(call, libc::CLOCK_MONOTONIC, 0, &raw const time, 0usize);
    }
    works!(call, &raw const time, 0usize)
}

fn clock(call: c_long) -> bool {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    works!(call, libc::CLOCK_MONOTONIC, &raw mut time)
}

fn stat_call(call: c_long, fd: RawFd, path: &std::ffi::CStr, flags: i32, at: usize) -> bool {
    let mut buffer = [0u64; 64];
    match at {
        2 => works!(
            call,
            fd,
            path.as_ptr(),
            flags,
            libc::STATX_SIZE,
            buffer.as_mut_ptr()
        ),
        _ => works!(call, fd, path.as_ptr(), buffer.as_mut_ptr(), flags),
    }
}

fn thread(_: &Fixture) -> bool {
    std::thread::spawn(|| 7)
        .join()
        .is_ok_and(|seven| seven == 7)
}

fn raw_clone(flags: i32) -> bool {
    works!(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize)
}

const THREAD: i32 = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;

fn futex(operation: i32, value: u32) -> bool {
    let word = 0u32;
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1000,
    };
    let all = u32::MAX;
    works!(
        libc::SYS_futex,
        &raw const word,
        operation,
        value,
        &raw const time,
        0usize,
        all
    ) || [libc::EAGAIN, libc::ETIMEDOUT].contains(&errno())
}

extern "C" fn nothing(_: i32) {}

/// Sends itself SIGABRT with a handler installed, and comes back from the handler.
fn abort_and_return(_: &Fixture) -> bool {
    let handler = nothing as extern "C" fn(i32) as usize;
    // SAFETY: the handler does nothing.
    unsafe { libc::signal(libc::SIGABRT, handler) };
    let me = std::process::id();
    works!(libc::SYS_tgkill, me, me, libc::SIGABRT)
}

fn action(_: &Fixture) -> bool {
    works!(libc::SYS_rt_sigaction, libc::SIGUSR1, 0usize, 0usize, 8)
}

fn prctl(operation: i32, argument: usize) -> bool {
    works!(libc::SYS_prctl, operation, argument, 0, 0, 0)
}

fn allow_all(operation: u32, flags: c_long) -> bool {
    const RETURN_ALLOW: libc::sock_filter = libc::sock_filter {
        code: 6,
        jt: 0,
        jf: 0,
        k: 0x7fff_0000,
    };
    let mut program = [RETURN_ALLOW];
    let fprog = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    works!(libc::SYS_seccomp, operation, flags, &raw const fprog)
}

const TSYNC: c_long = 1;

fn answered(call: c_long, error: i32) -> bool {
    !works!(call, 0usize, 0usize, 0usize, 0usize, 0usize) && errno() == error
}

/// One case for every rule of both files.
pub(crate) const CASES: &[Case] = &[
    free("read", |f| {
        let mut byte = [0u8];
        works!(libc::SYS_read, f.file(), byte.as_mut_ptr(), 1)
    }),
    free("write", |f| {
        works!(libc::SYS_write, f.socket(), b"x".as_ptr(), 1) || errno() == libc::EAGAIN
    }),
    free("readv", |f| vector(libc::SYS_readv, f.file())),
    free("writev", |f| vector(libc::SYS_writev, f.socket())),
    free("recvmsg", |f| message(libc::SYS_recvmsg, f)),
    free("sendmsg", |f| message(libc::SYS_sendmsg, f)),
    bound(
        "recvfrom 0",
        |f| {
            from_to(
                libc::SYS_recvfrom,
                f,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        },
        &[|f| from_to(libc::SYS_recvfrom, f, f.page(), f.page())],
    ),
    bound(
        "sendto 0",
        |f| {
            from_to(
                libc::SYS_sendto,
                f,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        },
        &[
            |f| from_to(libc::SYS_sendto, f, f.page(), 16 as *mut c_void),
            // An address whose low half is zero is an address too.
            |f| {
                from_to(
                    libc::SYS_sendto,
                    f,
                    (1usize << 32) as *mut c_void,
                    16 as *mut c_void,
                )
            },
        ],
    ),
    #[cfg(target_arch = "x86_64")]
    free("poll", |f| {
        let mut poll = ready(f);
        works!(libc::SYS_poll, &raw mut poll, 1, 0)
    }),
    free("ppoll", |f| {
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut poll = ready(f);
        works!(libc::SYS_ppoll, &raw mut poll, 1, &raw const now, 0usize, 8)
    }),
    free("close", |f| works!(libc::SYS_close, f.socket())),
    only(
        LOADING,
        free("fstat", |f| works!(libc::SYS_fstat, f.file(), f.page())),
    ),
    only(
        LOADING,
        bound(
            "newfstatat AT_EMPTY_PATH",
            |f| stat_call(libc::SYS_newfstatat, f.file(), c"", libc::AT_EMPTY_PATH, 3),
            &[|_| stat_call(libc::SYS_newfstatat, libc::AT_FDCWD, c"/etc/passwd", 0, 3)],
        ),
    ),
    only(
        LOADING,
        bound(
            "statx AT_EMPTY_PATH",
            |f| stat_call(libc::SYS_statx, f.file(), c"", libc::AT_EMPTY_PATH, 2),
            &[|_| stat_call(libc::SYS_statx, libc::AT_FDCWD, c"/etc/passwd", 0, 2)],
        ),
    ),
    only(
        LOADING,
        free("lseek", |f| {
            works!(libc::SYS_lseek, f.file(), 0, libc::SEEK_SET)
        }),
    ),
    only(
        LOADING,
        free("pread64", |f| {
            works!(libc::SYS_pread64, f.file(), f.page(), 1, 0)
        }),
    ),
    only(
        LOADING,
        free("clock_getres", |_| clock(libc::SYS_clock_getres)),
    ),
    only(LOADING, free("mmap", |_| raw_map(RX))),
    only(LOADING, free("mprotect", |f| protect(f, RX))),
    only(
        SEALED,
        bound(
            "mmap 0",
            |_| raw_map(RW),
            &[
                |_| raw_map(RX),
                |_| raw_map(RWX),
                |_| raw_map(libc::PROT_EXEC),
            ],
        ),
    ),
    only(
        SEALED,
        bound(
            "mprotect 0",
            |f| protect(f, libc::PROT_READ),
            &[
                |f| protect(f, RX),
                |f| protect(f, RWX),
                |f| protect(f, libc::PROT_EXEC),
            ],
        ),
    ),
    free("munmap", |f| works!(libc::SYS_munmap, f.page(), PAGE)),
    free("mremap", |f| {
        works!(libc::SYS_mremap, f.page(), PAGE, PAGE, 0, 0)
    }),
    free("brk", |_| works!(libc::SYS_brk, 0)),
    bound(
        "madvise MADV_DONTNEED",
        |f| works!(libc::SYS_madvise, f.page(), PAGE, libc::MADV_DONTNEED),
        &[
            |f| works!(libc::SYS_madvise, f.page(), PAGE, libc::MADV_HUGEPAGE),
            |f| works!(libc::SYS_madvise, f.page(), PAGE, libc::MADV_MERGEABLE),
        ],
    ),
    bound(
        "madvise MADV_POPULATE_READ",
        |f| works!(libc::SYS_madvise, f.page(), PAGE, libc::MADV_POPULATE_READ),
        &[
            |f| works!(libc::SYS_madvise, f.page(), PAGE, libc::MADV_PAGEOUT),
            |f| works!(libc::SYS_madvise, f.page(), PAGE, libc::MADV_WILLNEED),
        ],
    ),
    bound(
        "madvise MADV_POPULATE_WRITE",
        |f| works!(libc::SYS_madvise, f.page(), PAGE, libc::MADV_POPULATE_WRITE),
        &[
            |f| works!(libc::SYS_madvise, f.page(), PAGE, libc::MADV_PAGEOUT),
            |f| works!(libc::SYS_madvise, f.page(), PAGE, libc::MADV_WILLNEED),
        ],
    ),
    bound(
        "ioctl PAGEMAP_SCAN",
        |f| {
            let page = f.page().addr() as u64;
            let mut scan = [96, 0, page, page + PAGE as u64, 0, 0, 0, 0, 0, 0, 8, 0_u64];
            works!(
                libc::SYS_ioctl,
                f.pagemap.as_raw_fd(),
                0xc060_6610_u32,
                scan.as_mut_ptr()
            )
        },
        &[
            |f| works!(libc::SYS_ioctl, f.socket(), libc::FIONREAD, f.page()),
            |f| works!(libc::SYS_ioctl, f.socket(), libc::TIOCSTI, f.page()),
        ],
    ),
    bound(
        "ioctl UFFDIO_REGISTER",
        register,
        &[
            // UFFDIO_API, UFFDIO_UNREGISTER, UFFDIO_COPY and UFFDIO_WRITEPROTECT.
            |f| works!(libc::SYS_ioctl, f.watch(), 0xc018_aa3f_u32, f.page()),
            |f| works!(libc::SYS_ioctl, f.watch(), 0x8010_aa01_u32, f.page()),
            |f| works!(libc::SYS_ioctl, f.watch(), 0xc028_aa03_u32, f.page()),
            |f| works!(libc::SYS_ioctl, f.watch(), 0xc018_aa06_u32, f.page()),
        ],
    ),
    free("process_madvise", |_| {
        answered(libc::SYS_process_madvise, libc::ENOSYS)
    }),
    bound(
        "futex FUTEX_WAIT",
        |_| futex(libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 1),
        &[
            |_| futex(libc::FUTEX_LOCK_PI, 0),
            |_| futex(libc::FUTEX_FD, 0),
        ],
    ),
    bound(
        "futex FUTEX_WAKE",
        |_| futex(libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1),
        &[|_| futex(libc::FUTEX_CMP_REQUEUE_PI, 0)],
    ),
    bound(
        "futex FUTEX_WAIT_BITSET",
        |_| futex(libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME, 0),
        &[|_| futex(libc::FUTEX_WAIT_REQUEUE_PI, 0)],
    ),
    bound(
        "clone CLONE_VM|CLONE_SIGHAND|CLONE_THREAD",
        thread,
        &[
            |_| raw_clone(libc::SIGCHLD),
            |_| raw_clone(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD),
            |_| raw_clone(libc::CLONE_VM),
            |_| raw_clone(THREAD | libc::CLONE_NEWNET),
            |_| raw_clone(THREAD | libc::CLONE_NEWUSER),
            |_| raw_clone(THREAD | libc::CLONE_PTRACE),
        ],
    ),
    free("clone3", |_| answered(libc::SYS_clone3, libc::ENOSYS)),
    free("set_robust_list", |f| {
        works!(libc::SYS_set_robust_list, f.page(), 24)
    }),
    // The thread has one already, so the kernel answers EINVAL or EBUSY: it was asked.
    free("rseq", |_| !works!(libc::SYS_rseq, 0usize, 0, 0, 0)),
    bound(
        "prctl PR_SET_NAME",
        |_| prctl(libc::PR_SET_NAME, c"name".as_ptr() as usize),
        &[
            |_| prctl(libc::PR_SET_DUMPABLE, 1),
            |_| prctl(libc::PR_SET_MM, 0),
            |_| prctl(libc::PR_SET_PDEATHSIG, 0),
            |_| prctl(libc::PR_SET_SECCOMP, 1),
            // Speculation back on; another's cookie.
            |_| prctl(53, 0),
            |_| prctl(libc::PR_SCHED_CORE, 3),
        ],
    ),
    free("sched_yield", |_| works!(libc::SYS_sched_yield)),
    free("sched_getaffinity", |f| {
        works!(libc::SYS_sched_getaffinity, 0, PAGE, f.page())
    }),
    free("gettid", |_| works!(libc::SYS_gettid)),
    free("getpid", |_| works!(libc::SYS_getpid)),
    free("rt_sigaction", action),
    free("rt_sigprocmask", |f| {
        works!(libc::SYS_rt_sigprocmask, 0, 0usize, f.page(), 8)
    }),
    free("rt_sigreturn", abort_and_return),
    free("sigaltstack", |f| {
        works!(libc::SYS_sigaltstack, 0usize, f.page())
    }),
    bound(
        "tgkill SELF_PID",
        abort_and_return,
        &[
            |_| {
                // SAFETY: takes no argument.
                let parent = unsafe { libc::getppid() };
                works!(libc::SYS_tgkill, parent, parent, libc::SIGABRT)
            },
            |_| {
                works!(
                    libc::SYS_tgkill,
                    std::process::id(),
                    std::process::id(),
                    libc::SIGKILL
                )
            },
        ],
    ),
    free("restart_syscall", |_| {
        answered(libc::SYS_restart_syscall, libc::EINTR)
    }),
    free("clock_gettime", |_| clock(libc::SYS_clock_gettime)),
    free("clock_nanosleep", |_| {
        sleep(libc::SYS_clock_nanosleep, true)
    }),
    free("nanosleep", |_| sleep(libc::SYS_nanosleep, false)),
    free("getrandom", |f| works!(libc::SYS_getrandom, f.page(), 8, 0)),
    free("exit", |_| works!(libc::SYS_exit, 0)),
    free("exit_group", |_| works!(libc::SYS_exit_group, 0)),
    only(
        LOADING,
        bound(
            "prctl PR_SET_MDWE",
            |_| prctl(libc::PR_SET_MDWE, 1),
            &[|_| prctl(libc::PR_SET_NO_NEW_PRIVS, 0)],
        ),
    ),
    only(
        LOADING,
        bound(
            "prctl PR_GET_MDWE",
            |_| prctl(libc::PR_GET_MDWE, 0),
            &[|_| prctl(libc::PR_GET_KEEPCAPS, 0)],
        ),
    ),
    only(
        LOADING,
        bound(
            "seccomp SECCOMP_SET_MODE_FILTER",
            |_| allow_all(libc::SECCOMP_SET_MODE_FILTER, TSYNC),
            &[
                |_| allow_all(libc::SECCOMP_SET_MODE_FILTER, 0),
                |_| allow_all(libc::SECCOMP_SET_MODE_FILTER, 8),
                |_| allow_all(libc::SECCOMP_SET_MODE_STRICT, TSYNC),
            ],
        ),
    ),
];
