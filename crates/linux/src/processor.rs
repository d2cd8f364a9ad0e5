//! What programs share in a processor beside its time: what it does for them ahead of time on a guess, and a core that
//! runs two of them at once.
//!
//! Both are switched by `prctl` for a process and whatever it starts. The machine decides what there is to be switched:
//! a processor may not be affected, a kernel may have been told to leave a guess on for everybody, or may have been built
//! without core scheduling. So each wall is told by what the kernel says afterwards, and never by what was asked of it.

use std::io;

use rustix::process::{Pid, getpid};
use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie, create_core_scheduling_cookie};

use crate::step::{Step, failed, plain};
use crate::sys;

/// The names of the walls.
pub mod wall {
    /// The processor does not guess past stores, nor at indirect branches, where that is known to give memory away.
    pub const SPECULATION: &str = "speculation";
    /// No program outside runs on the same core at the same time.
    pub const CORE_SCHEDULING: &str = "core_scheduling";
}

// Of `linux/prctl.h`; the crate `libc` has them for some processors only.
const PR_GET_SPECULATION_CTRL: i32 = 52;
const PR_SET_SPECULATION_CTRL: i32 = 53;
const PR_SPEC_PRCTL: i64 = 1;
const PR_SPEC_DISABLE: i64 = 4;
const PR_SPEC_FORCE_DISABLE: i64 = 8;

/// A guess that a process can do without. The third that the kernel knows, the first-level cache that is emptied at each
/// switch, is none, and a process that asks for it is killed on a core that has siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Guess {
    /// Its number.
    number: i32,
    what: &'static str,
    /// Its line in `/proc/PID/status`.
    shown: &'static str,
}

const GUESSES: [Guess; 2] = [
    Guess {
        number: 0,
        what: "store bypass",
        shown: "Speculation_Store_Bypass",
    },
    Guess {
        number: 1,
        what: "indirect branches",
        shown: "SpeculationIndirectBranch",
    },
];

const NOT_AFFECTED: &str = "not affected";
const OFF_FOR_ALL: &str = "off for every process";
const OFF_FOR_GOOD: &str = "off for good";
const LEFT_ON: &str = "on, and this machine has no switch for it";

/// What the kernel says of a guess for one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is nothing to be had from it, for this reason.
    Off(&'static str),
    /// The process can switch it off.
    On,
}

/// From an answer to `PR_GET_SPECULATION_CTRL`.
fn state(answer: io::Result<i64>) -> Result<State, String> {
    let bits = answer.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => "the kernel knows no such switch (Linux 4.17 or newer)".to_owned(),
        Some(libc::ENODEV) => "the kernel has no switch for it on this processor".to_owned(),
        _ => failed("prctl PR_GET_SPECULATION_CTRL", error),
    })?;
    match bits {
        0 => Ok(State::Off(NOT_AFFECTED)),
        // For everybody, so that no process has a say in it.
        PR_SPEC_DISABLE | PR_SPEC_FORCE_DISABLE => Ok(State::Off(OFF_FOR_ALL)),
        _ if bits & PR_SPEC_PRCTL == 0 => Err(LEFT_ON.to_owned()),
        _ if bits & PR_SPEC_FORCE_DISABLE != 0 => Ok(State::Off(OFF_FOR_GOOD)),
        _ => Ok(State::On),
    }
}

/// From a line of `/proc/PID/status`, which tells the same in words.
fn shown_state(words: &str) -> Result<&'static str, String> {
    match words {
        "not vulnerable" | "not affected" => Ok(NOT_AFFECTED),
        "globally mitigated" | "always disabled" => Ok(OFF_FOR_ALL),
        "thread force mitigated" | "conditional force disabled" => Ok(OFF_FOR_GOOD),
        "" => Err("the kernel does not tell".to_owned()),
        other => Err(format!("the kernel says {other:?}")),
    }
}

impl Guess {
    fn state(self) -> Result<State, String> {
        let number = u64::from(self.number.unsigned_abs());
        state(sys::prctl_numbers(PR_GET_SPECULATION_CTRL, number, 0))
    }

    fn switch_off(self) -> Result<&'static str, String> {
        if self.state()? == State::On {
            let number = u64::from(self.number.unsigned_abs());
            let off = PR_SPEC_FORCE_DISABLE.unsigned_abs();
            sys::prctl_numbers(PR_SET_SPECULATION_CTRL, number, off)
                .map_err(|error| failed("prctl PR_SET_SPECULATION_CTRL", error))?;
        }
        match self.state()? {
            State::Off(how) => Ok(how),
            State::On => Err("the kernel says that it is still on".to_owned()),
        }
    }
}

/// The answers for all guesses as one: they stand where all do.
fn all(answer: impl Fn(Guess) -> Result<&'static str, String>) -> Result<String, String> {
    let said = GUESSES.map(|guess| (guess.what, answer(guess)));
    let lacking = said.iter().any(|(_, answer)| answer.is_err());
    let words = said.iter().filter_map(|(what, answer)| match answer {
        Ok(how) if !lacking => Some(format!("{what} {how}")),
        Ok(_) => None,
        Err(why) => Some(format!("{what}: {why}")),
    });
    let words = words.collect::<Vec<_>>().join("; ");
    if lacking { Err(words) } else { Ok(words) }
}

/// Whether this machine lets a process do without guesses, or needs no such thing.
///
/// # Errors
/// Which stays on, and why.
pub fn speculation() -> Result<String, String> {
    all(|guess| match guess.state()? {
        State::Off(how) => Ok(how),
        State::On => Ok("can be switched off"),
    })
}

/// Whether the same stands around another process, from its status in `/proc`: `line` gives a line's value by its name.
///
/// # Errors
/// What is on, or not told.
pub fn speculation_of<'a>(line: impl Fn(&str) -> &'a str) -> Result<String, String> {
    all(|guess| shown_state(line(guess.shown)))
}

/// Why there is no cookie, or that there is nothing that one would be for.
fn without_cookie(error: &io::Error) -> Result<String, String> {
    match error.raw_os_error() {
        Some(libc::ENODEV) => Ok("no core here runs two programs at once".to_owned()),
        Some(libc::EINVAL) => Err(
            "prctl PR_SCHED_CORE: invalid argument, as from a kernel without CONFIG_SCHED_CORE"
                .to_owned(),
        ),
        _ => Err(format!("prctl PR_SCHED_CORE: {}", plain(error))),
    }
}

fn cookie(process: Pid) -> io::Result<u64> {
    Ok(core_scheduling_cookie(
        process,
        CoreSchedulingScope::Thread,
    )?)
}

/// Whether this machine lets a process have its cores to itself, or needs no such thing.
///
/// # Errors
/// Why not.
pub fn core_scheduling() -> Result<String, String> {
    match cookie(getpid()) {
        Ok(_) => Ok("a process can have its cores to itself".to_owned()),
        Err(error) => without_cookie(&error),
    }
}

/// Whether another process has a cookie, and not the one that this process has.
///
/// # Errors
/// That it has none of its own, or why there is none.
pub fn core_scheduling_of(pid: u32) -> Result<String, String> {
    let other = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let other = other.ok_or_else(|| format!("{pid} is no process"))?;
    match (cookie(other), cookie(getpid())) {
        (Ok(theirs), Ok(ours)) => own_cookie(ours, theirs),
        (Err(error), _) | (_, Err(error)) => without_cookie(&error),
    }
}

fn own_cookie(others: u64, own: u64) -> Result<String, String> {
    match own {
        0 => Err("the kernel says that it has no cookie".to_owned()),
        _ if own == others => Err("it shares the host's cookie".to_owned()),
        _ => Ok("a cookie of its own, as the kernel says".to_owned()),
    }
}

fn take_cookie() -> Result<String, String> {
    let before = match cookie(getpid()) {
        Ok(before) => before,
        Err(error) => return without_cookie(&error),
    };
    if let Err(error) = create_core_scheduling_cookie(getpid(), CoreSchedulingScope::ThreadGroup) {
        return without_cookie(&error.into());
    }
    let own = cookie(getpid()).map_err(|error| failed("prctl PR_SCHED_CORE_GET", error))?;
    own_cookie(before, own)
}

/// Switches guesses off for this process and takes a cookie of its own, and says what then stands. Whatever it starts has
/// the same, and cannot switch back what is off for good.
#[must_use = "a wall that is missing is only told here"]
pub fn set_apart() -> [Step; 2] {
    [
        Step::run(
            wall::SPECULATION,
            "no guess past stores or at indirect branches",
            || all(Guess::switch_off),
        ),
        Step::run(
            wall::CORE_SCHEDULING,
            "no other program on its core",
            take_cookie,
        ),
    ]
}

/// The calls of `prctl` by which a process that can make nothing else does the same: what each is for, and its arguments.
/// Where this machine has nothing to be switched there is none.
pub(crate) fn calls() -> Vec<(&'static str, [i32; 5])> {
    let on = GUESSES
        .iter()
        .filter(|guess| guess.state() == Ok(State::On));
    let off = PR_SPEC_FORCE_DISABLE as i32;
    let mut calls: Vec<_> = on
        .map(|guess| {
            let arguments = [PR_SET_SPECULATION_CTRL, guess.number, off, 0, 0];
            ("PR_SET_SPECULATION_CTRL", arguments)
        })
        .collect();
    if cookie(getpid()).is_ok() {
        let all_threads = CoreSchedulingScope::ThreadGroup as i32;
        let arguments = [
            libc::PR_SCHED_CORE,
            libc::PR_SCHED_CORE_CREATE,
            0,
            all_threads,
            0,
        ];
        calls.push(("PR_SCHED_CORE", arguments));
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn every_answer_about_a_guess_is_told_apart() {
        for (bits, how) in [
            (0, NOT_AFFECTED),
            (PR_SPEC_DISABLE, OFF_FOR_ALL),
            (PR_SPEC_FORCE_DISABLE, OFF_FOR_ALL),
            (PR_SPEC_PRCTL | PR_SPEC_FORCE_DISABLE, OFF_FOR_GOOD),
        ] {
            assert_eq!(state(Ok(bits)), Ok(State::Off(how)), "{bits}");
        }
        // On by choice; off by a choice that can be taken back; off until a program is executed.
        for bits in [2, PR_SPEC_DISABLE, 16] {
            assert_eq!(state(Ok(PR_SPEC_PRCTL | bits)), Ok(State::On), "{bits}");
        }
        assert_eq!(state(Ok(2)), Err(LEFT_ON.to_owned()));
        for number in [libc::EINVAL, libc::ENODEV, libc::EPERM] {
            assert!(state(Err(error(number))).is_err(), "{number}");
        }
    }

    #[test]
    fn what_a_status_says_stands_only_where_it_is_off_for_good() {
        let of = |bypass: &'static str, branches: &'static str| {
            speculation_of(move |name| match name {
                "Speculation_Store_Bypass" => bypass,
                "SpeculationIndirectBranch" => branches,
                _ => "",
            })
        };
        for bypass in [
            "not vulnerable",
            "globally mitigated",
            "thread force mitigated",
        ] {
            for branches in [
                "not affected",
                "always disabled",
                "conditional force disabled",
            ] {
                assert!(of(bypass, branches).is_ok(), "{bypass}, {branches}");
            }
        }
        for bypass in [
            "",
            "unknown",
            "vulnerable",
            "thread mitigated",
            "thread vulnerable",
        ] {
            let why = of(bypass, "not affected").unwrap_err();
            assert!(why.starts_with("store bypass: "), "{why}");
        }
        for branches in [
            "",
            "unsupported",
            "always enabled",
            "conditional enabled",
            "conditional disabled",
        ] {
            let why = of("not vulnerable", branches).unwrap_err();
            assert!(why.starts_with("indirect branches: "), "{why}");
        }
    }

    #[test]
    fn a_core_without_siblings_needs_no_cookie_and_a_kernel_without_them_gives_none() {
        assert!(without_cookie(&error(libc::ENODEV)).is_ok());
        let why = without_cookie(&error(libc::EINVAL)).unwrap_err();
        assert!(why.contains("CONFIG_SCHED_CORE"), "{why}");
        assert!(without_cookie(&error(libc::EPERM)).is_err());
        assert!(own_cookie(0, 7).is_ok() && own_cookie(6, 7).is_ok());
        assert!(own_cookie(0, 0).is_err() && own_cookie(7, 7).is_err());
        assert!(core_scheduling_of(u32::MAX).is_err());
    }

    #[test]
    fn this_machine_says_the_same_by_each_way() {
        let offered = speculation();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map_or("", |rest| rest.trim_start_matches(':').trim())
        };
        // Where nothing can be switched both tell what is; where something can, it is still on.
        let switches = calls();
        let can = |name: &str| switches.iter().any(|(what, _)| *what == name);
        if !can("PR_SET_SPECULATION_CTRL") {
            assert_eq!(offered.is_ok(), speculation_of(line).is_ok(), "{offered:?}");
        } else {
            assert!(speculation_of(line).is_err(), "{status}");
        }
        if !can("PR_SCHED_CORE") {
            let of_itself = core_scheduling_of(std::process::id());
            assert_eq!(core_scheduling(), of_itself);
        } else {
            // Its own cookie is nobody else's.
            assert!(core_scheduling_of(std::process::id()).is_err());
        }
    }
}
