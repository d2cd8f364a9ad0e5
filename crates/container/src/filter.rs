//! The filter of system calls for a bundle, from the same files that the jail's is compiled from.
//!
//! A runtime compiles it with libseccomp, which cannot say everything that the file says: it compares
//! whole 64-bit arguments, takes two conditions on one argument for alternatives, and has no "anything
//! but" for part of an argument. So each set of 32-bit values is written as masked comparisons of which at
//! most one holds, and what the kernel does not read is masked away.

use casemate_linux::jail::Network;
use casemate_linux::seccomp::{Condition, JAIL, Policy, Rule, Size};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator as Operator, LinuxSyscall, LinuxSyscallBuilder,
};

/// What an engine answers to a call that is not named where it does not take another answer: EPERM.
const WITHOUT_A_WORD: u32 = 1;

/// The whole filter, for a bundle with this network.
pub(crate) fn filter(network: Network) -> Result<LinuxSeccomp, String> {
    let policy = network.policy().map_err(|error| error.to_string())?;
    let otherwise = policy
        .answer_otherwise()
        .map_err(|error| error.to_string())?;
    let otherwise = otherwise.ok_or("the filter has no answer for what it does not name")?;
    build(&policy, otherwise)
}

/// The same for a Docker daemon, of which older ones pass over the answer for what is not named: whatever
/// the file does name is answered as there, and the rest with EPERM.
pub(crate) fn filter_in_docker() -> Result<LinuxSeccomp, String> {
    let policy = Policy::parse(JAIL).map_err(|error| error.to_string())?;
    build(&policy, WITHOUT_A_WORD)
}

fn build(policy: &Policy, otherwise: u32) -> Result<LinuxSeccomp, String> {
    let mut calls = Vec::new();
    for rule in &policy.rules {
        calls.extend(lower(rule, otherwise)?);
    }
    LinuxSeccompBuilder::default()
        .default_action(Action::ScmpActErrno)
        .default_errno_ret(otherwise)
        // Calls through any other door, that of 32 bits and that of x32, are not known to it and kill.
        .architectures(vec![native()?])
        .syscalls(calls)
        .build()
        .map_err(|error| error.to_string())
}

fn native() -> Result<Arch, String> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Arch::ScmpArchX86_64),
        "aarch64" => Ok(Arch::ScmpArchAarch64),
        other => Err(format!("there is no filter for {other}")),
    }
}

fn lower(rule: &Rule, otherwise: u32) -> Result<Vec<LinuxSyscall>, String> {
    let errno = rule.answer().map_err(|error| error.to_string())?;
    if errno == Some(otherwise) {
        // What it does not name is answered so; libseccomp refuses a rule that says it again.
        return Ok(Vec::new());
    }
    let call = |arguments: Option<LinuxSeccompArg>| {
        let mut call = LinuxSyscallBuilder::default().names(vec![rule.syscall.clone()]);
        call = match errno {
            _ if rule.kill => call.action(Action::ScmpActKillProcess),
            Some(errno) => call.action(Action::ScmpActErrno).errno_ret(errno),
            None => call.action(Action::ScmpActAllow),
        };
        if let Some(argument) = arguments {
            call = call.args(vec![argument]);
        }
        call.build().map_err(|error| error.to_string())
    };
    if rule.when.is_empty() {
        return Ok(vec![call(None)?]);
    }
    conditions(&rule.when)?
        .into_iter()
        .map(|argument| call(Some(argument)))
        .collect()
}

/// Alternatives that together say what all conditions say at once.
fn conditions(when: &[Condition]) -> Result<Vec<LinuxSeccompArg>, String> {
    let value = |value: &casemate_linux::seccomp::Value| value.resolve().map_err(|e| e.to_string());
    match when {
        [one] if !one.negated => {
            let mask = match (&one.mask, one.size) {
                (Some(mask), Size::U32) => value(mask)? & u64::from(u32::MAX),
                (Some(mask), Size::U64) => value(mask)?,
                (None, Size::U32) => u64::from(u32::MAX),
                (None, Size::U64) => u64::MAX,
            };
            Ok(vec![masked(one.arg, mask, value(&one.equals)?)?])
        }
        [first, ..] => {
            let mut taken = Vec::new();
            for one in when {
                let plain = one.negated && one.mask.is_none() && one.size == Size::U32;
                if !plain || one.arg != first.arg {
                    return Err("conditions that a bundle cannot say".to_owned());
                }
                let number = u32::try_from(value(&one.equals)?).map_err(|e| e.to_string())?;
                taken.push(number);
            }
            let others = all_but(&taken);
            let argument =
                |(mask, value): &(u32, u32)| masked(first.arg, u64::from(*mask), u64::from(*value));
            others.iter().map(argument).collect()
        }
        [] => Ok(Vec::new()),
    }
}

fn masked(index: u8, mask: u64, value: u64) -> Result<LinuxSeccompArg, String> {
    LinuxSeccompArgBuilder::default()
        .index(usize::from(index))
        .op(Operator::ScmpCmpMaskedEq)
        // The specification's order: the mask, then what the masked argument equals.
        .value(mask)
        .value_two(value)
        .build()
        .map_err(|error| error.to_string())
}

/// All 32-bit numbers but these, as masks and values that do not overlap: where the numbers part, the
/// other side of each bit.
fn all_but(taken: &[u32]) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    split(taken, 0, 0, &mut found);
    found
}

fn split(taken: &[u32], mask: u32, value: u32, found: &mut Vec<(u32, u32)>) {
    if taken.is_empty() {
        found.push((mask, value));
        return;
    }
    let Some(bit) = (mask != u32::MAX).then(|| 1 << (mask.leading_ones() ^ 31)) else {
        return;
    };
    for side in [0, bit] {
        let here: Vec<u32> = taken.iter().copied().filter(|n| n & bit == side).collect();
        split(&here, mask | bit, value | side, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_some_is_all_but_those() {
        for taken in [vec![1], vec![0x5412, 0x541c], vec![0, u32::MAX]] {
            let others = all_but(&taken);
            let count: u64 = others
                .iter()
                .map(|(mask, _)| 1_u64 << mask.count_zeros())
                .sum();
            assert_eq!(count, (1 << 32) - taken.len() as u64, "disjoint and whole");
            let hits = |number: u32| others.iter().filter(|(m, v)| number & m == *v).count();
            for number in &taken {
                assert_eq!(hits(*number), 0);
                assert_eq!(
                    hits(number ^ 1) + usize::from(taken.contains(&(number ^ 1))),
                    1
                );
                assert_eq!(
                    hits(number ^ 0x8000_0000)
                        + usize::from(taken.contains(&(number ^ 0x8000_0000))),
                    1
                );
            }
        }
    }

    #[test]
    fn every_rule_of_the_file_is_in_the_bundle() {
        for network in [Network::Nothing, Network::Loopback] {
            every_rule_is_in(&network.policy().unwrap(), &filter(network).unwrap());
        }
    }

    fn every_rule_is_in(policy: &Policy, filter: &LinuxSeccomp) {
        assert_eq!(filter.default_errno_ret(), Some(38));
        let calls = filter.syscalls().as_ref().unwrap();
        for rule in &policy.rules {
            let says_the_default = rule.answer().unwrap() == Some(38);
            let lowered: Vec<_> = calls
                .iter()
                .filter(|call| {
                    call.names() == &vec![rule.syscall.clone()]
                        && (call.action() == Action::ScmpActKillProcess) == rule.kill
                        && call.errno_ret() == rule.answer().unwrap()
                })
                .collect();
            assert_eq!(lowered.is_empty(), says_the_default, "{}", rule.syscall);
            let free = lowered.iter().any(|call| call.args().is_none());
            assert!(
                says_the_default || free == rule.when.is_empty(),
                "{}",
                rule.syscall
            );
        }
    }

    #[test]
    fn in_docker_what_is_named_is_answered_as_in_the_file() {
        let policy = Policy::parse(JAIL).unwrap();
        let filter = filter_in_docker().unwrap();
        assert_eq!(filter.default_errno_ret(), Some(WITHOUT_A_WORD));
        let calls = filter.syscalls().as_ref().unwrap();
        for rule in policy.rules.iter().filter(|rule| !rule.kill) {
            let answer = rule.answer().unwrap();
            let named = calls.iter().any(|call| {
                call.names() == &vec![rule.syscall.clone()] && call.errno_ret() == answer
            });
            assert_eq!(named, answer != Some(WITHOUT_A_WORD), "{}", rule.syscall);
        }
    }

    #[test]
    fn what_the_kernel_does_not_read_is_masked_away() {
        let filter = filter(Network::Loopback).unwrap();
        for call in filter.syscalls().as_ref().unwrap() {
            for argument in call.args().iter().flatten() {
                assert_eq!(argument.op(), Operator::ScmpCmpMaskedEq);
                let of_clone = call.names()[0] == "clone";
                assert!(
                    of_clone || argument.value() <= u64::from(u32::MAX),
                    "{call:?}"
                );
            }
        }
    }
}
