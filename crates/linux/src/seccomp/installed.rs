//! Filters as the kernel holds them for a process, and what they let through: whoever had a filter installed by another
//! program sees here whether it is the one that was asked for.

use std::io;
use std::sync::OnceLock;

use super::{Condition, FilterError, Instruction, Policy};
use crate::jail::Network;
use crate::sys;

/// System calls are numbered below this; the kernel's own table ends well before it.
const NUMBERS: u32 = 640;
/// The bit in a number that leads to the x32 table.
const X32: u32 = 0x4000_0000;
/// The kernel's names for the doors into it (`AUDIT_ARCH_*`), and the other doors of the same machine.
#[cfg(target_arch = "x86_64")]
pub(super) const DOORS: (u32, &[u32]) = (0xc000_003e, &[0x4000_0003]);
#[cfg(target_arch = "aarch64")]
pub(super) const DOORS: (u32, &[u32]) = (0xc000_00b7, &[0x4000_0028]);
/// What a filter answers, without its data; up to here nothing is let through: kill, trap, error.
pub(super) const ERRNO: u32 = 0x0005_0000;
const ACTION: u32 = 0xffff_0000;
pub(super) const ALLOW: u32 = 0x7fff_0000;
/// Words of memory that a program has.
const MEMORY: usize = 16;

/// A system call as a filter sees it: the kernel's `struct seccomp_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The door it came through.
    pub door: u32,
    /// Its number there.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

impl Call {
    /// The 32-bit word at this offset. The instruction's address stays nought.
    fn word(&self, offset: u32) -> Option<u32> {
        if !offset.is_multiple_of(4) {
            return None;
        }
        match offset {
            0 => Some(self.number),
            4 => Some(self.door),
            8 | 12 => Some(0),
            _ => {
                let at = offset.checked_sub(16)?;
                let argument = self.arguments.get(usize::try_from(at / 8).ok()?)?;
                let half = if at.is_multiple_of(8) { 0 } else { 32 };
                // The kernel's machine is little-endian on both architectures.
                u32::try_from(argument >> half & u64::from(u32::MAX)).ok()
            }
        }
    }
}

/// The filters of a process, in the order in which the kernel runs them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed(Vec<Vec<Instruction>>);

impl Installed {
    /// Asks the kernel, which stops the process's first thread for that moment. It takes root.
    ///
    /// # Errors
    /// When the process is gone, or may not be looked into: that takes `CAP_SYS_ADMIN`, and a kernel with
    /// `CONFIG_CHECKPOINT_RESTORE`.
    pub fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        sys::seccomp_filters(pid).map(Self)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What is let through although the filter of a jail with this network would not: names or numbers of system calls.
    /// Every number is tried through every door, with arguments that the file's rules are about.
    ///
    /// # Errors
    /// When a filter is none that a kernel would take, or the jail's cannot be compiled.
    pub fn beyond_the_jail(&self, network: Network) -> Result<Vec<String>, String> {
        let forbidden = forbidden(network).as_ref().map_err(Clone::clone)?;
        let mut found = Vec::new();
        for call in forbidden {
            if self.lets_through(call)? {
                let name = super::names::of_number(call.number);
                let door = if call.door == DOORS.0 {
                    ""
                } else {
                    " (32 bits)"
                };
                let name = name.map_or_else(|| call.number.to_string(), str::to_owned);
                found.push(format!("{name}{door}"));
            }
        }
        found.dedup();
        Ok(found)
    }

    /// Whether a call gets through: the strictest answer counts, and whatever asks another process or only notes it down lets
    /// it through.
    ///
    /// # Errors
    /// When a filter is none that a kernel would take.
    pub fn lets_through(&self, call: &Call) -> Result<bool, String> {
        let mut strictest = ALLOW.cast_signed();
        for program in &self.0 {
            let answer = run(program, call).ok_or("a filter that a kernel would not take")?;
            strictest = strictest.min((answer & ACTION).cast_signed());
        }
        Ok(strictest > ERRNO.cast_signed())
    }
}

/// Calls that the filter of a jail does not let through, among those that are worth trying.
fn forbidden(network: Network) -> &'static Result<Vec<Call>, String> {
    type Found = OnceLock<Result<Vec<Call>, String>>;
    static NOTHING: Found = OnceLock::new();
    static LOOPBACK: Found = OnceLock::new();
    let found = match network {
        Network::Nothing => &NOTHING,
        Network::Loopback => &LOOPBACK,
    };
    found.get_or_init(|| {
        let policy = network.policy().map_err(|error| error.to_string())?;
        let compiled = policy.compile().map_err(|error| error.to_string())?;
        let own = Installed(vec![compiled.program]);
        let calls = worth_trying(&policy).map_err(|error| error.to_string())?;
        let mut forbidden = Vec::new();
        for call in calls {
            if !own.lets_through(&call)? {
                forbidden.push(call);
            }
        }
        Ok(forbidden)
    })
}

pub(super) fn worth_trying(policy: &Policy) -> Result<Vec<Call>, FilterError> {
    let call = |number, arguments| Call {
        door: DOORS.0,
        number,
        arguments,
    };
    let mut calls = Vec::new();
    for number in 0..NUMBERS {
        calls.push(call(number, [0; 6]));
        calls.push(call(number, [u64::MAX; 6]));
        calls.push(call(number | X32, [0; 6]));
        calls.extend(DOORS.1.iter().map(|door| Call {
            door: *door,
            ..call(number, [0; 6])
        }));
    }
    for rule in &policy.rules {
        let Ok(number) = u32::try_from(rule.number()?) else {
            continue;
        };
        for condition in &rule.when {
            calls.extend(around(condition)?.map(|value| {
                let mut arguments = [0; 6];
                if let Some(argument) = arguments.get_mut(usize::from(condition.arg)) {
                    *argument = value;
                }
                call(number, arguments)
            }));
        }
    }
    calls.sort_unstable_by_key(|call| (call.number, call.door));
    Ok(calls)
}

/// What a condition is about, and what lies beside it.
pub(super) fn around(condition: &Condition) -> Result<impl Iterator<Item = u64>, FilterError> {
    let equals = condition.equals.resolve()?;
    let bits = (0..u64::BITS).map(move |bit| equals ^ 1 << bit);
    Ok(std::iter::once(equals).chain(bits))
}

/// Runs a program of the kernel's classic BPF, as far as filters may use it; none where they may not.
pub(super) fn run(program: &[Instruction], call: &Call) -> Option<u32> {
    let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; MEMORY]);
    let mut at = 0_usize;
    loop {
        let step = program.get(at)?;
        let cell = usize::try_from(step.k).ok();
        let mut jump = 0;
        match step.code {
            0x00 => a = step.k,
            0x01 => x = step.k,
            0x20 => a = call.word(step.k)?,
            // The length of what it looks at.
            0x80 => a = 64,
            0x81 => x = 64,
            0x60 => a = *memory.get(cell?)?,
            0x61 => x = *memory.get(cell?)?,
            0x02 => *memory.get_mut(cell?)? = a,
            0x03 => *memory.get_mut(cell?)? = x,
            0x07 => x = a,
            0x87 => a = x,
            0x06 => return Some(step.k),
            0x16 => return Some(a),
            0x05 => jump = cell?,
            code @ (0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d | 0x45 | 0x4d) => {
                let other = if code & 0x08 == 0 { step.k } else { x };
                let holds = match code & 0xf0 {
                    0x10 => a == other,
                    0x20 => a > other,
                    0x30 => a >= other,
                    _ => a & other != 0,
                };
                jump = usize::from(if holds { step.jt } else { step.jf });
            }
            0x84 => a = a.wrapping_neg(),
            code if code & 0x07 == 0x04 => {
                let other = if code & 0x08 == 0 { step.k } else { x };
                a = match code & 0xf0 {
                    0x00 => a.wrapping_add(other),
                    0x10 => a.wrapping_sub(other),
                    0x20 => a.wrapping_mul(other),
                    0x30 => a.checked_div(other)?,
                    0x40 => a | other,
                    0x50 => a & other,
                    0x60 => a.checked_shl(other)?,
                    0x70 => a.checked_shr(other)?,
                    0xa0 => a ^ other,
                    _ => return None,
                };
            }
            _ => return None,
        }
        // It only ever goes on: a program ends.
        at = at.checked_add(jump)?.checked_add(1)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    fn of(network: Network) -> Installed {
        Installed(vec![network.policy().unwrap().compile().unwrap().program])
    }

    fn jail() -> Installed {
        of(Network::Nothing)
    }

    fn beyond(filters: &Installed) -> Vec<String> {
        filters.beyond_the_jail(Network::Nothing).unwrap()
    }

    #[test]
    fn the_jails_own_lets_nothing_more_through() {
        for network in [Network::Nothing, Network::Loopback] {
            assert!(forbidden(network).as_ref().unwrap().len() > 1000);
            let beyond = of(network).beyond_the_jail(network);
            assert_eq!(beyond.unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn a_sessions_filter_lets_sockets_of_the_internet_through_besides() {
        let number = u32::try_from(super::super::names::syscall("socket").unwrap()).unwrap();
        let families = [
            (1, [true; 2]),
            (2, [false, true]),
            (10, [false, true]),
            (16, [false; 2]),
        ];
        for (family, through) in families {
            let socket = Call {
                door: DOORS.0,
                number,
                arguments: [family, 1, 0, 0, 0, 0],
            };
            let both = [Network::Nothing, Network::Loopback]
                .map(|network| of(network).lets_through(&socket).unwrap());
            assert_eq!(both, through, "{family}");
        }
        // One that is narrower than it may be is not beyond.
        let narrower = jail().beyond_the_jail(Network::Loopback);
        assert_eq!(narrower.unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_hollow_filter_is_seen_through() {
        let all = Installed(vec![vec![step(0x06, 0, 0, ALLOW)]]);
        let found = beyond(&all);
        assert!(found.iter().any(|name| name == "ptrace"), "{found:?}");
        // None, and one that only notes calls down or asks somebody, are no better.
        for answer in [0x7ffc_0000, 0x7ff0_0000, 0x7fc0_0000] {
            let noted = Installed(vec![vec![step(0x06, 0, 0, answer)]]);
            assert_eq!(beyond(&noted), found);
        }
        assert_eq!(beyond(&Installed(Vec::new())), found);
        // The strictest counts.
        let mut both = jail();
        both.0.extend(all.0);
        assert_eq!(beyond(&both), Vec::<String>::new());
    }

    #[test]
    fn one_call_too_many_is_named() {
        let number = u32::try_from(super::super::names::syscall("bpf").unwrap()).unwrap();
        let mut one = jail();
        for program in &mut one.0 {
            // In front of everything else: this number is allowed.
            let first = [
                step(0x20, 0, 0, 0),
                step(0x15, 0, 1, number),
                step(0x06, 0, 0, ALLOW),
            ];
            program.splice(0..0, first);
        }
        let found = beyond(&one);
        assert!(found.contains(&"bpf".to_owned()), "{found:?}");
        assert!(
            found.iter().all(|name| name.starts_with("bpf")),
            "{found:?}"
        );
    }

    #[test]
    fn what_is_no_filter_is_no_wall() {
        for program in [
            vec![],
            vec![step(0xffff, 0, 0, 0)],
            vec![step(0x05, 0, 0, 9)],
        ] {
            assert!(
                Installed(vec![program])
                    .beyond_the_jail(Network::Nothing)
                    .is_err()
            );
        }
    }

    #[test]
    fn arguments_are_read_by_halves() {
        let call = Call {
            door: DOORS.0,
            number: 1,
            arguments: [0x1_0000_0002, 3, 0, 0, 0, 0],
        };
        let words = [16, 20, 24, 28].map(|at| call.word(at));
        assert_eq!(words, [2, 1, 3, 0].map(Some));
        assert_eq!((call.word(2), call.word(64)), (None, None));
    }

    #[test]
    fn the_kernel_tells_what_a_child_put_on() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: reading another process's filters takes root");
            return;
        }
        let none = Installed::of(std::process::id());
        // Nobody may look into itself this way.
        assert!(none.is_err());
        let child = crate::Spawn::new("/bin/sleep").arg("30").spawn().unwrap();
        let found = Installed::of(child.pid()).unwrap();
        assert_eq!(found.count(), 0);
        assert!(!beyond(&found).is_empty());
    }
}
