//! How a process that was forked elsewhere comes into a jail: system calls as data.
//!
//! The process is an interpreter of which only the C library's `syscall` is used. It makes the calls one
//! after the other and ends at the first that is answered otherwise than it has to be, so that a list
//! that was carried out to its end is a jail around it. That it is one is measured from outside besides.

use std::os::fd::RawFd;
use std::sync::OnceLock;

use rustix::process::Resource;
use serde::Serialize;

use super::landlocked::WITNESS;
use super::zygote::KEPT;
use super::{Confinement, limits};
use crate::limit::Limit;
use crate::lockdown::{self, Identity};
use crate::processor;
use crate::step::failed;

/// Where the descriptors stand that come with the first list.
pub mod forked {
    /// Process 1 of the jail.
    pub const INIT: usize = 0;
    /// The first of the files through which a process enters the control groups.
    pub const GROUPS: usize = 1;
}

/// Where the descriptors stand that come with the second list.
pub mod passed {
    /// The guest's channel to the host.
    pub const MESSAGES: usize = 0;
    /// Standard input.
    pub const STDIN: usize = 1;
    /// Standard output.
    pub const STDOUT: usize = 2;
    /// Standard error.
    pub const STDERR: usize = 3;
    /// Process 1 of the jail.
    pub const INIT: usize = 4;
    /// The Landlock rules.
    pub const RULES: usize = 5;
}

/// One system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    /// What it is for, for whoever has to say that it failed.
    pub what: &'static str,
    /// Its number on this machine.
    pub number: i64,
    /// Its arguments.
    pub arguments: Vec<Argument>,
    /// How it must be answered: by a number that is not negative, or by this error.
    pub error: i32,
}

/// An argument of a system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    /// A number.
    Number(i64),
    /// The address of bytes.
    Bytes {
        /// In hexadecimal.
        bytes: String,
    },
    /// The address of a `struct sock_fprog` over bytes.
    Program {
        /// In hexadecimal.
        program: String,
    },
    /// The descriptor that was passed at this place.
    Passed {
        /// Counted from 0.
        passed: usize,
    },
}

use Argument::Number;

/// The version of the kernel's structure with 64 bits a set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;
/// Where the guest's channel is.
const CHANNEL: RawFd = 3;

/// What a child of a zygote does when it was forked into the process table of a jail that may have no job yet: it comes
/// into its control groups, of which there are so many, for that is what the kernel may have it wait for.
#[must_use]
pub fn begin(groups: usize) -> Vec<Call> {
    let mut list = List::default();
    list.prctl("PR_SET_PDEATHSIG", libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    list.call("setsid", libc::SYS_setsid, []);
    list.call("umask", libc::SYS_umask, [Number(0o022)]);
    for group in forked::GROUPS..forked::GROUPS + groups {
        let zero = bytes(b"0");
        list.call(
            "entering the control groups",
            libc::SYS_write,
            [passed(group), zero, Number(1)],
        );
    }
    list.0
}

/// What it does then to come under the walls that process 1 of the jail has put up. It has one thread.
///
/// # Errors
/// When the plan has no user for it, or the filter does not compile.
pub fn calls(plan: &Confinement) -> Result<Vec<Call>, String> {
    let Identity::Fixed { uid, gid } = plan.identity else {
        return Err("a jail's user is known when it is entered".to_owned());
    };
    let mut list = List::default();
    list.streams();
    list.call(
        "setns",
        libc::SYS_setns,
        [passed(passed::INIT), Number(NAMESPACES.into())],
    );
    list.processors(plan)?;
    list.limits(plan)?;
    list.identity(uid, gid);
    list.prctl("PR_SET_PDEATHSIG", libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    list.prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 0);
    list.prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1);
    for (what, arguments) in processor::calls() {
        list.call(
            what,
            libc::SYS_prctl,
            arguments.map(|argument| Number(argument.into())),
        );
    }
    // As its own user, who alone may enter it.
    list.call("chdir", libc::SYS_chdir, [bytes(b"/work\0")]);
    list.landlock();
    list.call(
        "close_range",
        libc::SYS_close_range,
        [
            Number(i64::from(CHANNEL) + 1),
            Number(u32::MAX.into()),
            Number(0),
        ],
    );
    // Only now: with the others open there may be no number left for it below the limit.
    list.witness();
    list.filter()?;
    Ok(list.0)
}

/// How many filters a process has that made these calls.
#[must_use]
pub fn filters(calls: &[Call]) -> usize {
    let program = |call: &&Call| matches!(call.arguments.last(), Some(Argument::Program { .. }));
    calls.iter().filter(program).count()
}

#[derive(Default)]
struct List(Vec<Call>);

impl List {
    fn call<const N: usize>(&mut self, what: &'static str, number: i64, arguments: [Argument; N]) {
        self.refused(what, number, arguments, 0);
    }

    fn refused<const N: usize>(
        &mut self,
        what: &'static str,
        number: i64,
        arguments: [Argument; N],
        error: i32,
    ) {
        self.0.push(Call {
            what,
            number,
            arguments: arguments.into(),
            error,
        });
    }

    fn prctl(&mut self, what: &'static str, operation: i32, value: i32) {
        let zero = || Number(0);
        self.call(
            what,
            libc::SYS_prctl,
            [
                Number(operation.into()),
                Number(value.into()),
                zero(),
                zero(),
                zero(),
            ],
        );
    }

    /// The channel first: whatever fails after it is told there.
    fn streams(&mut self) {
        let places = [
            (passed::MESSAGES, CHANNEL, libc::O_CLOEXEC),
            (passed::STDIN, 0, 0),
            (passed::STDOUT, 1, 0),
            (passed::STDERR, 2, 0),
        ];
        for (from, to, flags) in places {
            self.call(
                "dup3",
                libc::SYS_dup3,
                [passed(from), Number(to.into()), Number(flags.into())],
            );
        }
    }

    fn processors(&mut self, plan: &Confinement) -> Result<(), String> {
        let wanted = super::processors(plan.processors, plan.first_processor)?;
        let mut mask = vec![0u8; 128];
        for processor in wanted {
            if let Some(byte) = mask.get_mut(processor / 8) {
                *byte |= 1 << (processor % 8);
            }
        }
        let size = Number(128);
        self.call(
            "sched_setaffinity",
            libc::SYS_sched_setaffinity,
            [Number(0), size, bytes(&mask)],
        );
        Ok(())
    }

    fn limits(&mut self, plan: &Confinement) -> Result<(), String> {
        for limit in limits::rlimits(plan) {
            let Limit::At(value) = limit.limit else {
                continue;
            };
            let both = [value.to_ne_bytes(), value.to_ne_bytes()].concat();
            let resource = Number(number_of(limit.resource)?);
            self.call(
                "prlimit64",
                libc::SYS_prlimit64,
                [Number(0), resource, bytes(&both), Number(0)],
            );
        }
        Ok(())
    }

    /// The bounding set first, which can be emptied only while its capability is still there; the group
    /// before the user, who may not change it.
    fn identity(&mut self, uid: u32, gid: u32) {
        // The others the zygote has dropped for good. That none is left is measured.
        for capability in (0..u64::BITS).filter(|bit| KEPT.bits() >> bit & 1 == 1) {
            let capability = i32::try_from(capability).unwrap_or(i32::MAX);
            self.prctl("PR_CAPBSET_DROP", libc::PR_CAPBSET_DROP, capability);
        }
        self.prctl(
            "PR_CAP_AMBIENT",
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
        );
        self.call("setgroups", libc::SYS_setgroups, [Number(0), Number(0)]);
        let three = |id: u32| [0; 3].map(|_| Number(id.into()));
        self.call("setresgid", libc::SYS_setresgid, three(gid));
        self.call("setresuid", libc::SYS_setresuid, three(uid));
        let header = [CAPABILITY_VERSION.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
        self.call(
            "capset",
            libc::SYS_capset,
            [bytes(&header), bytes(&[0; 24])],
        );
    }

    fn landlock(&mut self) {
        self.call(
            "landlock_restrict_self",
            libc::SYS_landlock_restrict_self,
            [passed(passed::RULES), Number(0)],
        );
    }

    fn witness(&mut self) {
        let path = [WITNESS.as_bytes(), b"\0"].concat();
        self.refused(
            "reading what Landlock hides",
            libc::SYS_openat,
            [
                Number(libc::AT_FDCWD.into()),
                bytes(&path),
                Number(0),
                Number(0),
            ],
            libc::EACCES,
        );
    }

    fn filter(&mut self) -> Result<(), String> {
        // The same for every plan, and milliseconds to compile.
        static CALLS: OnceLock<Result<Vec<Call>, String>> = OnceLock::new();
        let calls = CALLS.get_or_init(|| {
            let mut list = Self::default();
            list.compile_filter()?;
            Ok(list.0)
        });
        self.0
            .extend_from_slice(calls.as_ref().map_err(Clone::clone)?);
        Ok(())
    }

    fn compile_filter(&mut self) -> Result<(), String> {
        let program = lockdown::compile(crate::seccomp::JAIL)?.program;
        let raw: Vec<u8> = program
            .iter()
            .flat_map(|one| {
                let [a, b] = one.code.to_ne_bytes();
                let [e, f, g, h] = one.k.to_ne_bytes();
                [a, b, one.jt, one.jf, e, f, g, h]
            })
            .collect();
        self.call(
            "seccomp",
            libc::SYS_seccomp,
            [
                Number(libc::SECCOMP_SET_MODE_FILTER.into()),
                Number(0),
                Argument::Program { program: hex(&raw) },
            ],
        );
        Ok(())
    }
}

fn bytes(bytes: &[u8]) -> Argument {
    Argument::Bytes { bytes: hex(bytes) }
}

const fn passed(passed: usize) -> Argument {
    Argument::Passed { passed }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number_of(resource: Resource) -> Result<i64, String> {
    let number = match resource {
        Resource::Nofile => libc::RLIMIT_NOFILE,
        Resource::Nproc => libc::RLIMIT_NPROC,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Memlock => libc::RLIMIT_MEMLOCK,
        Resource::Msgqueue => libc::RLIMIT_MSGQUEUE,
        Resource::Rtprio => libc::RLIMIT_RTPRIO,
        Resource::Nice => libc::RLIMIT_NICE,
        other => {
            return Err(failed(
                &format!("{other:?}"),
                std::io::ErrorKind::Unsupported,
            ));
        }
    };
    Ok(number.into())
}
