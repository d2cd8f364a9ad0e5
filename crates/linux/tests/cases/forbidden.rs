//! Calls no worker makes. Under the filter each ends the process before the kernel looks at it.

use std::ffi::{c_char, c_long};

use super::{Fixture, call};

type Call = (&'static str, fn(&Fixture));

fn socket(family: i32, kind: i32) {
    call!(libc::SYS_socket, family, kind, 0);
}

/// A name that does not exist, so that nothing happens where no filter stops it.
const NOWHERE: *const c_char = c"/nowhere/at/all".as_ptr();

/// The door of the 32-bit interface; call 20 there is `getpid`, harmless in itself.
#[cfg(target_arch = "x86_64")]
fn compat_call(_: &Fixture) {
    let mut number: c_long = 20;
    // SAFETY: `getpid` takes no argument and touches no memory; the kernel keeps every register
    // but the result, and the clobbers say what the interrupt may change.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") number, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _);
    }
    std::hint::black_box(&mut number);
}

/// The x32 door: the ordinary number with one bit more.
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;

/// Every one of these must end in SIGSYS.
pub(crate) const FORBIDDEN: &[Call] = &[
    ("openat", |_| {
        call!(libc::SYS_openat, libc::AT_FDCWD, NOWHERE, 0, 0)
    }),
    ("openat2", |f| {
        call!(libc::SYS_openat2, libc::AT_FDCWD, NOWHERE, f.page(), 24)
    }),
    ("open_by_handle_at", |f| {
        call!(libc::SYS_open_by_handle_at, -1, f.page(), 0)
    }),
    ("creat by openat", |_| {
        call!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            NOWHERE,
            libc::O_CREAT,
            0o600
        )
    }),
    ("memfd_create", |_| {
        call!(libc::SYS_memfd_create, c"m".as_ptr(), 0)
    }),
    ("execve", |_| {
        call!(libc::SYS_execve, NOWHERE, 0usize, 0usize)
    }),
    ("execveat", |_| {
        call!(
            libc::SYS_execveat,
            libc::AT_FDCWD,
            NOWHERE,
            0usize,
            0usize,
            0
        )
    }),
    ("socket inet", |_| socket(libc::AF_INET, libc::SOCK_STREAM)),
    ("socket inet6", |_| socket(libc::AF_INET6, libc::SOCK_DGRAM)),
    ("socket unix", |_| socket(libc::AF_UNIX, libc::SOCK_STREAM)),
    ("socket alg", |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET)),
    ("socket netlink", |_| {
        socket(libc::AF_NETLINK, libc::SOCK_RAW)
    }),
    ("socket vsock", |_| {
        socket(libc::AF_VSOCK, libc::SOCK_STREAM)
    }),
    ("socket packet", |_| socket(libc::AF_PACKET, libc::SOCK_RAW)),
    ("socketpair", |f| {
        call!(
            libc::SYS_socketpair,
            libc::AF_UNIX,
            libc::SOCK_STREAM,
            0,
            f.page()
        )
    }),
    ("connect", |f| {
        call!(libc::SYS_connect, f.socket(), f.page(), 16)
    }),
    ("bind", |f| call!(libc::SYS_bind, f.socket(), f.page(), 16)),
    ("listen", |f| call!(libc::SYS_listen, f.socket(), 1)),
    ("accept4", |f| {
        call!(libc::SYS_accept4, f.socket(), 0usize, 0usize, 0)
    }),
    ("setsockopt", |f| {
        call!(libc::SYS_setsockopt, f.socket(), 1, 2, f.page(), 4)
    }),
    ("ioctl", |f| {
        call!(libc::SYS_ioctl, f.socket(), libc::TIOCSTI, f.page())
    }),
    ("fcntl", |f| {
        call!(libc::SYS_fcntl, f.socket(), libc::F_DUPFD, 0)
    }),
    ("dup", |f| call!(libc::SYS_dup, f.socket())),
    ("dup3", |f| call!(libc::SYS_dup3, f.socket(), 40, 0)),
    ("pidfd_open", |_| {
        call!(libc::SYS_pidfd_open, std::process::id(), 0)
    }),
    ("pidfd_getfd", |_| call!(libc::SYS_pidfd_getfd, -1, 0, 0)),
    ("pidfd_send_signal", |_| {
        call!(libc::SYS_pidfd_send_signal, -1, 0, 0usize, 0)
    }),
    ("kill the parent", |_| {
        call!(libc::SYS_kill, i32::MAX, libc::SIGTERM)
    }),
    ("tkill", |_| call!(libc::SYS_tkill, i32::MAX, libc::SIGTERM)),
    ("ptrace", |_| {
        call!(
            libc::SYS_ptrace,
            libc::PTRACE_PEEKUSER,
            i32::MAX,
            0usize,
            0usize
        )
    }),
    ("process_vm_readv", |f| {
        call!(
            libc::SYS_process_vm_readv,
            i32::MAX,
            f.page(),
            1,
            f.page(),
            1,
            0
        );
    }),
    ("process_vm_writev", |f| {
        call!(
            libc::SYS_process_vm_writev,
            i32::MAX,
            f.page(),
            1,
            f.page(),
            1,
            0
        );
    }),
    ("kcmp", |_| {
        call!(libc::SYS_kcmp, i32::MAX, i32::MAX, 0, 0, 0)
    }),
    ("mount", |_| {
        call!(libc::SYS_mount, NOWHERE, NOWHERE, NOWHERE, 0, 0usize)
    }),
    ("umount2", |_| call!(libc::SYS_umount2, NOWHERE, 0)),
    ("pivot_root", |_| {
        call!(libc::SYS_pivot_root, NOWHERE, NOWHERE)
    }),
    ("chroot", |_| call!(libc::SYS_chroot, NOWHERE)),
    ("chdir", |_| call!(libc::SYS_chdir, NOWHERE)),
    ("fsopen", |_| call!(libc::SYS_fsopen, NOWHERE, 0)),
    ("unlinkat", |_| {
        call!(libc::SYS_unlinkat, libc::AT_FDCWD, NOWHERE, 0)
    }),
    ("linkat", |_| {
        call!(
            libc::SYS_linkat,
            libc::AT_FDCWD,
            NOWHERE,
            libc::AT_FDCWD,
            NOWHERE,
            0
        )
    }),
    ("symlinkat", |_| {
        call!(libc::SYS_symlinkat, NOWHERE, libc::AT_FDCWD, NOWHERE)
    }),
    ("getdents64", |f| {
        call!(libc::SYS_getdents64, f.file(), f.page(), 4096)
    }),
    ("bpf", |f| call!(libc::SYS_bpf, 99, f.page(), 8)),
    ("keyctl", |_| call!(libc::SYS_keyctl, 99, 0, 0, 0, 0)),
    ("add_key", |_| {
        call!(libc::SYS_add_key, 0usize, 0usize, 0usize, 0, 0)
    }),
    ("userfaultfd", |_| call!(libc::SYS_userfaultfd, 0)),
    ("io_uring_setup", |f| {
        call!(libc::SYS_io_uring_setup, 0, f.page())
    }),
    ("io_uring_enter", |_| {
        call!(libc::SYS_io_uring_enter, -1, 0, 0, 0, 0usize)
    }),
    ("perf_event_open", |_| {
        call!(libc::SYS_perf_event_open, 0usize, 0, -1, -1, 0)
    }),
    ("kexec_load", |_| {
        call!(libc::SYS_kexec_load, 0, 99, 0usize, 0xffff)
    }),
    ("init_module", |_| {
        call!(libc::SYS_init_module, 0usize, 0, 0usize)
    }),
    ("finit_module", |_| {
        call!(libc::SYS_finit_module, -1, 0usize, 0)
    }),
    ("setns", |_| call!(libc::SYS_setns, -1, 0)),
    ("unshare", |_| call!(libc::SYS_unshare, 0)),
    ("clone as fork", |_| {
        call!(
            libc::SYS_clone,
            libc::SIGCHLD,
            0usize,
            0usize,
            0usize,
            0usize
        )
    }),
    #[cfg(target_arch = "x86_64")]
    ("fork", |_| call!(libc::SYS_fork)),
    #[cfg(target_arch = "x86_64")]
    ("vfork", |_| call!(libc::SYS_vfork)),
    ("setresuid", |_| call!(libc::SYS_setresuid, -1, -1, -1)),
    ("capset", |_| call!(libc::SYS_capset, 0usize, 0usize)),
    ("personality", |_| {
        call!(libc::SYS_personality, 0xffff_ffffu32)
    }),
    ("prlimit64", |_| {
        call!(libc::SYS_prlimit64, 0, 99, 0usize, 0usize)
    }),
    ("pkey_mprotect", |f| {
        call!(libc::SYS_pkey_mprotect, f.page(), 4096, 1, -1)
    }),
    ("pkey_alloc", |_| call!(libc::SYS_pkey_alloc, 1, 0)),
    ("shmget", |_| call!(libc::SYS_shmget, 1, 0, 0)),
    ("msgget", |_| call!(libc::SYS_msgget, 1, 0)),
    ("sched_setaffinity", |_| {
        call!(libc::SYS_sched_setaffinity, 0, 0, 0usize)
    }),
    ("landlock_create_ruleset", |_| {
        call!(libc::SYS_landlock_create_ruleset, 0usize, 0, 99)
    }),
    ("sysinfo", |f| call!(libc::SYS_sysinfo, f.page())),
    ("reboot", |_| call!(libc::SYS_reboot, 0, 0, 0, 0usize)),
    ("swapon", |_| call!(libc::SYS_swapon, NOWHERE, 0)),
    #[cfg(target_arch = "x86_64")]
    ("modify_ldt", |_| call!(libc::SYS_modify_ldt, 99, 0usize, 0)),
    #[cfg(target_arch = "x86_64")]
    ("arch_prctl", |_| call!(libc::SYS_arch_prctl, 0, 0)),
    ("a number of the future", |_| call!(9_999)),
    #[cfg(target_arch = "x86_64")]
    ("the 32-bit door", compat_call),
    #[cfg(target_arch = "x86_64")]
    ("x32 read", |_| call!(X32 + libc::SYS_read, -1, 0usize, 0)),
    #[cfg(target_arch = "x86_64")]
    ("x32 getpid", |_| call!(X32 + libc::SYS_getpid)),
    #[cfg(target_arch = "x86_64")]
    ("x32 execve", |_| call!(X32 + 520, NOWHERE, 0usize, 0usize)),
];
