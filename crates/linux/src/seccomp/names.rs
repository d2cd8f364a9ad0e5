//! The kernel's words in filter files and their numbers on this machine.

use libc::{
    SYS_brk, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone, SYS_clone3,
    SYS_close, SYS_exit, SYS_exit_group, SYS_fstat, SYS_futex, SYS_getpid, SYS_getrandom,
    SYS_gettid, SYS_lseek, SYS_madvise, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap,
    SYS_nanosleep, SYS_newfstatat, SYS_ppoll, SYS_prctl, SYS_pread64, SYS_process_madvise,
    SYS_read, SYS_readv, SYS_recvfrom, SYS_recvmsg, SYS_restart_syscall, SYS_rseq,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sched_getaffinity, SYS_sched_yield,
    SYS_seccomp, SYS_sendmsg, SYS_sendto, SYS_set_robust_list, SYS_sigaltstack, SYS_statx,
    SYS_tgkill, SYS_write, SYS_writev,
};

const CALLS: [(&str, i64); 46] = [
    ("brk", SYS_brk),
    ("clock_getres", SYS_clock_getres),
    ("clock_gettime", SYS_clock_gettime),
    ("clock_nanosleep", SYS_clock_nanosleep),
    ("clone", SYS_clone),
    ("clone3", SYS_clone3),
    ("close", SYS_close),
    ("exit", SYS_exit),
    ("exit_group", SYS_exit_group),
    ("fstat", SYS_fstat),
    ("futex", SYS_futex),
    ("getpid", SYS_getpid),
    ("getrandom", SYS_getrandom),
    ("gettid", SYS_gettid),
    ("lseek", SYS_lseek),
    ("madvise", SYS_madvise),
    ("mmap", SYS_mmap),
    ("mprotect", SYS_mprotect),
    ("mremap", SYS_mremap),
    ("munmap", SYS_munmap),
    ("nanosleep", SYS_nanosleep),
    ("newfstatat", SYS_newfstatat),
    ("ppoll", SYS_ppoll),
    ("prctl", SYS_prctl),
    ("pread64", SYS_pread64),
    ("process_madvise", SYS_process_madvise),
    ("read", SYS_read),
    ("readv", SYS_readv),
    ("recvfrom", SYS_recvfrom),
    ("recvmsg", SYS_recvmsg),
    ("restart_syscall", SYS_restart_syscall),
    ("rseq", SYS_rseq),
    ("rt_sigaction", SYS_rt_sigaction),
    ("rt_sigprocmask", SYS_rt_sigprocmask),
    ("rt_sigreturn", SYS_rt_sigreturn),
    ("sched_getaffinity", SYS_sched_getaffinity),
    ("sched_yield", SYS_sched_yield),
    ("seccomp", SYS_seccomp),
    ("sendmsg", SYS_sendmsg),
    ("sendto", SYS_sendto),
    ("set_robust_list", SYS_set_robust_list),
    ("sigaltstack", SYS_sigaltstack),
    ("statx", SYS_statx),
    ("tgkill", SYS_tgkill),
    ("write", SYS_write),
    ("writev", SYS_writev),
];

/// Calls that younger architectures never had.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: [(&str, i64); 1] = [("poll", libc::SYS_poll)];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: [(&str, i64); 0] = [];

/// Constants of the kernel's headers, as their unsigned bits.
const CONSTANTS: [(&str, u64); 35] = [
    ("AT_EMPTY_PATH", bits(libc::AT_EMPTY_PATH)),
    ("CLONE_NEWCGROUP", bits(libc::CLONE_NEWCGROUP)),
    ("CLONE_NEWIPC", bits(libc::CLONE_NEWIPC)),
    ("CLONE_NEWNET", bits(libc::CLONE_NEWNET)),
    ("CLONE_NEWNS", bits(libc::CLONE_NEWNS)),
    ("CLONE_NEWPID", bits(libc::CLONE_NEWPID)),
    ("CLONE_NEWUSER", bits(libc::CLONE_NEWUSER)),
    ("CLONE_NEWUTS", bits(libc::CLONE_NEWUTS)),
    ("CLONE_PARENT", bits(libc::CLONE_PARENT)),
    ("CLONE_PTRACE", bits(libc::CLONE_PTRACE)),
    ("CLONE_SIGHAND", bits(libc::CLONE_SIGHAND)),
    ("CLONE_THREAD", bits(libc::CLONE_THREAD)),
    ("CLONE_UNTRACED", bits(libc::CLONE_UNTRACED)),
    ("CLONE_VFORK", bits(libc::CLONE_VFORK)),
    ("CLONE_VM", bits(libc::CLONE_VM)),
    ("FUTEX_CLOCK_REALTIME", bits(libc::FUTEX_CLOCK_REALTIME)),
    ("FUTEX_PRIVATE_FLAG", bits(libc::FUTEX_PRIVATE_FLAG)),
    ("FUTEX_WAIT", bits(libc::FUTEX_WAIT)),
    ("FUTEX_WAIT_BITSET", bits(libc::FUTEX_WAIT_BITSET)),
    ("FUTEX_WAKE", bits(libc::FUTEX_WAKE)),
    ("MADV_DONTNEED", bits(libc::MADV_DONTNEED)),
    ("MADV_POPULATE_READ", bits(libc::MADV_POPULATE_READ)),
    ("MADV_POPULATE_WRITE", bits(libc::MADV_POPULATE_WRITE)),
    ("MAP_SHARED", bits(libc::MAP_SHARED)),
    ("PROT_EXEC", bits(libc::PROT_EXEC)),
    ("PROT_READ", bits(libc::PROT_READ)),
    ("PROT_WRITE", bits(libc::PROT_WRITE)),
    ("PR_GET_MDWE", bits(libc::PR_GET_MDWE)),
    ("PR_SET_MDWE", bits(libc::PR_SET_MDWE)),
    ("PR_SET_NAME", bits(libc::PR_SET_NAME)),
    ("SECCOMP_FILTER_FLAG_TSYNC", libc::SECCOMP_FILTER_FLAG_TSYNC),
    (
        "SECCOMP_SET_MODE_FILTER",
        libc::SECCOMP_SET_MODE_FILTER as u64,
    ),
    ("SIGABRT", bits(libc::SIGABRT)),
    ("SIGSEGV", bits(libc::SIGSEGV)),
    ("SIGTRAP", bits(libc::SIGTRAP)),
];

const fn bits(number: i32) -> u64 {
    number.cast_unsigned() as u64
}

pub(super) fn syscall(name: &str) -> Option<i64> {
    let all = CALLS.iter().chain(OLD_CALLS.iter());
    all.copied().find(|(word, _)| *word == name).map(|(_, n)| n)
}

pub(super) fn constant(name: &str) -> Option<u64> {
    if name == "SELF_PID" {
        return Some(u64::from(std::process::id()));
    }
    let mut all = CONSTANTS.iter().copied();
    all.find(|(word, _)| *word == name).map(|(_, n)| n)
}

pub(super) fn errno(name: &str) -> Option<u32> {
    match name {
        "EACCES" => Some(libc::EACCES.unsigned_abs()),
        "ENOSYS" => Some(libc::ENOSYS.unsigned_abs()),
        "EPERM" => Some(libc::EPERM.unsigned_abs()),
        _ => None,
    }
}
