//! From rules to one program of the kernel's classic BPF.
//!
//! The kernel pays for a program when it is installed: it checks it, turns it into machine code, and runs it once for
//! every number there is, to know which calls it need not be asked about. So there is one program and not one for each
//! answer, and it finds a number by halves and not one after the other.

use std::collections::BTreeMap;

use super::installed::{DOORS, ERRNO};

/// One instruction: the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to leave out when a comparison holds.
    pub jt: u8,
    /// How many when it does not.
    pub jf: u8,
    /// The number that it is done with.
    pub k: u32,
}

/// Load a word of what is looked at; keep some of its bits; compare; go on elsewhere; answer.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const EQUALS: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const SKIP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// Where the kernel keeps what, in its `struct seccomp_data`.
const NUMBER: u32 = 0;
const DOOR: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The kernel's word for an end of the whole process (`SECCOMP_RET_KILL_PROCESS`).
pub(super) const KILL: u32 = 0x8000_0000;

/// The kernel's word for an error.
pub(super) const fn errno(number: u32) -> u32 {
    ERRNO | number & 0xffff
}

/// What one argument must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Test {
    pub(super) argument: u8,
    /// Whether all 64 bits of it count.
    pub(super) whole: bool,
    pub(super) mask: Option<u64>,
    /// Whether it must be anything else instead.
    pub(super) negated: bool,
    pub(super) equals: u64,
}

/// Rules for system calls, by their numbers: one of a call's rules must hold, that is all tests of it. A call without
/// rules is meant whatever its arguments are.
pub(super) type Calls = BTreeMap<u32, Vec<Vec<Test>>>;

/// The program that gives the first answer whose calls a call is one of, and else `otherwise`. Nothing where it is longer
/// than a jump.
pub(super) fn assemble(answers: &[(u32, Calls)], otherwise: u32) -> Option<Vec<Instruction>> {
    let mut numbers: Vec<u32> = answers
        .iter()
        .flat_map(|(_, calls)| calls.keys().copied())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    // From each of these numbers on it is the same, up to the next.
    let mut parts = vec![(0, vec![answer(otherwise)])];
    for number in numbers {
        put(&mut parts, number, body(number, answers, otherwise)?);
        put(&mut parts, number.checked_add(1)?, vec![answer(otherwise)]);
    }
    let mut program = vec![
        step(LOAD, DOOR),
        compare(EQUALS, DOORS.0, 1, 0),
        answer(KILL),
        step(LOAD, NUMBER),
    ];
    program.extend(search(&parts)?);
    Some(program)
}

type Part = (u32, Vec<Instruction>);

/// Says what stands from a number on; whoever comes later knows better.
fn put(parts: &mut Vec<Part>, from: u32, body: Vec<Instruction>) {
    if parts.last().is_some_and(|(start, _)| *start == from) {
        parts.pop();
    }
    if parts.last().is_none_or(|(_, before)| *before != body) {
        parts.push((from, body));
    }
}

/// What is done about one number.
fn body(number: u32, answers: &[(u32, Calls)], otherwise: u32) -> Option<Vec<Instruction>> {
    let mut code = Vec::new();
    for (verdict, calls) in answers {
        let Some(rules) = calls.get(&number) else {
            continue;
        };
        if rules.is_empty() {
            code.push(answer(*verdict));
            return Some(code);
        }
        for rule in rules {
            let mut rest = vec![answer(*verdict)];
            for test in rule.iter().rev() {
                let mut tested = test.code(rest.len())?;
                tested.append(&mut rest);
                rest = tested;
            }
            code.append(&mut rest);
        }
    }
    code.push(answer(otherwise));
    Some(code)
}

/// Finds the part that a number belongs to, by halves.
fn search(parts: &[Part]) -> Option<Vec<Instruction>> {
    let [(_, only)] = parts else {
        let (below, above) = parts.split_at(parts.len() / 2);
        let (from, _) = above.first()?;
        let (below, above) = (search(below)?, search(above)?);
        // A comparison leaps no further than 255 instructions, a jump as far as need be.
        let mut code = match u8::try_from(below.len()) {
            Ok(leap) => vec![compare(AT_LEAST, *from, leap, 0)],
            Err(_) => vec![
                compare(AT_LEAST, *from, 0, 1),
                step(SKIP, u32::try_from(below.len()).ok()?),
            ],
        };
        code.extend(below);
        code.extend(above);
        return Some(code);
    };
    Some(only.clone())
}

impl Test {
    /// Goes on where it holds, and else leaves out the `rest` that stands behind it.
    fn code(&self, rest: usize) -> Option<Vec<Instruction>> {
        let at = ARGUMENTS.checked_add(u32::from(self.argument).checked_mul(8)?)?;
        let mask = self.mask.unwrap_or(u64::MAX);
        let halves = |value: u64| {
            let low = u32::try_from(value & u64::from(u32::MAX)).ok();
            Some((low?, u32::try_from(value >> 32).ok()?))
        };
        let (mask_low, mask_high) = halves(mask)?;
        let (low, high) = halves(self.equals & mask)?;
        // Of the lower half it depends on whether this is about being or about not being so.
        let mut code = vec![step(LOAD, at)];
        if self.mask.is_some() {
            code.push(step(AND, mask_low));
        }
        let away = u8::try_from(rest).ok()?;
        code.push(match self.negated {
            false => compare(EQUALS, low, 0, away),
            true => compare(EQUALS, low, away, 0),
        });
        if !self.whole {
            return Some(code);
        }
        // Another upper half is another number, whatever the lower half is.
        let other = match self.negated {
            false => rest.checked_add(code.len())?,
            true => code.len(),
        };
        let mut whole = vec![step(LOAD, at.checked_add(4)?)];
        if self.mask.is_some() {
            whole.push(step(AND, mask_high));
        }
        whole.push(compare(EQUALS, high, 0, u8::try_from(other).ok()?));
        whole.append(&mut code);
        Some(whole)
    }
}

const fn step(code: u16, k: u32) -> Instruction {
    compare(code, k, 0, 0)
}

const fn compare(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

const fn answer(answer: u32) -> Instruction {
    step(RETURN, answer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };

    use super::*;
    use crate::seccomp::installed::{Call, around, run, worth_trying};
    use crate::seccomp::{
        Condition, JAIL, Policy, READER, Rule, SESSION, Size, UNPACK, WASM_WORKER,
        WASM_WORKER_SEALED, error_number,
    };

    type Rules = BTreeMap<i64, Vec<SeccompRule>>;

    fn condition(from: &Condition) -> SeccompCondition {
        let equals = from.equals.resolve().unwrap();
        let how = match &from.mask {
            Some(mask) => SeccompCmpOp::MaskedEq(mask.resolve().unwrap()),
            None if from.negated => SeccompCmpOp::Ne,
            None => SeccompCmpOp::Eq,
        };
        let length = match from.size {
            Size::U32 => SeccompCmpArgLen::Dword,
            Size::U64 => SeccompCmpArgLen::Qword,
        };
        SeccompCondition::new(from.arg, length, how, equals).unwrap()
    }

    fn add(rules: &mut Rules, rule: &Rule) {
        let list = rules.entry(rule.number().unwrap()).or_default();
        if !rule.when.is_empty() {
            let conditions = rule.when.iter().map(condition).collect();
            list.push(SeccompRule::new(conditions).unwrap());
        }
    }

    fn filter(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> BpfProgram {
        let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        let filter = SeccompFilter::new(rules, otherwise, matched, arch).unwrap();
        filter.try_into().unwrap()
    }

    /// What another compiler makes of a policy: a program for each answer, the last of which is asked first.
    fn other(policy: &Policy) -> Vec<Vec<Instruction>> {
        let (mut allowed, mut killed) = (Rules::new(), Rules::new());
        let mut answered: BTreeMap<u32, Rules> = BTreeMap::new();
        for rule in &policy.rules {
            if rule.kill {
                add(&mut killed, rule);
                continue;
            }
            add(&mut allowed, rule);
            if let Some(errno) = &rule.errno {
                add(
                    answered.entry(error_number(errno).unwrap()).or_default(),
                    rule,
                );
            }
        }
        let kill = SeccompAction::KillProcess;
        let otherwise = policy.answer_otherwise().unwrap();
        let otherwise = otherwise.map_or(kill.clone(), SeccompAction::Errno);
        let errors = answered
            .into_iter()
            .map(|(errno, rules)| filter(rules, SeccompAction::Allow, SeccompAction::Errno(errno)));
        let mut all: Vec<_> = errors.collect();
        if !killed.is_empty() {
            all.push(filter(killed, SeccompAction::Allow, kill));
        }
        all.push(filter(allowed, otherwise, SeccompAction::Allow));
        let own = |program: &BpfProgram| {
            let steps = program.iter();
            steps
                .map(|one| compare(one.code, one.k, one.jt, one.jf))
                .collect()
        };
        all.iter().rev().map(own).collect()
    }

    /// As the kernel does: the strictest answer, and of equals the one that was heard first.
    fn strictest(programs: &[Vec<Instruction>], call: &Call) -> u32 {
        let answers = programs.iter().map(|program| run(program, call).unwrap());
        answers
            .min_by_key(|answer| (answer & 0xffff_0000).cast_signed())
            .unwrap()
    }

    /// Calls that a rule is about, and those that differ from such a one by a bit.
    fn about(rule: &Rule) -> Vec<Call> {
        let mut fitting = [0; 6];
        for condition in &rule.when {
            let equals = condition.equals.resolve().unwrap();
            fitting[usize::from(condition.arg)] = equals ^ u64::from(condition.negated);
        }
        let call = |arguments| Call {
            door: DOORS.0,
            number: u32::try_from(rule.number().unwrap()).unwrap(),
            arguments,
        };
        let beside = rule.when.iter().flat_map(|condition| {
            around(condition).unwrap().map(move |value| {
                let mut arguments = fitting;
                arguments[usize::from(condition.arg)] = value;
                arguments
            })
        });
        beside.chain([fitting]).map(call).collect()
    }

    #[test]
    fn another_compiler_says_the_same_of_every_policy() {
        let files = [WASM_WORKER, WASM_WORKER_SEALED, UNPACK, READER, JAIL];
        let mut policies: Vec<_> = files.map(|text| Policy::parse(text).unwrap()).into();
        let session = Policy::parse(SESSION).unwrap();
        policies.push(Policy::parse(JAIL).unwrap().but(session));
        let mut tried = 0;
        for policy in &policies {
            let (own, other) = (policy.compile().unwrap().program, other(policy));
            let mut calls = worth_trying(policy).unwrap();
            calls.extend(policy.rules.iter().flat_map(about));
            for call in &calls {
                let answer = run(&own, call).unwrap();
                assert_eq!(answer, strictest(&other, call), "{}: {call:?}", policy.name);
                tried += 1;
            }
        }
        assert!(tried > 20_000, "{tried}");
    }

    #[test]
    fn one_program_is_shorter_than_one_for_each_answer() {
        let policy = Policy::parse(JAIL).unwrap();
        let (own, other) = (policy.compile().unwrap().program, other(&policy));
        let others: usize = other.iter().map(Vec::len).sum();
        assert!(own.len() < others, "{} and {others}", own.len());
    }

    #[test]
    fn halves_that_are_far_apart_are_reached() {
        // A body of some hundred instructions on either side of every comparison.
        let test = |equals| Test {
            argument: 1,
            whole: true,
            mask: None,
            negated: false,
            equals,
        };
        let rules: Vec<Vec<Test>> = (0..60).map(|equals| vec![test(equals << 33)]).collect();
        let calls: Calls = (0..9).map(|number| (2 * number, rules.clone())).collect();
        let program = assemble(&[(errno(7), calls)], KILL).unwrap();
        for number in 0..20 {
            for (argument, known) in [(0, true), (59 << 33, true), (60 << 33, false), (1, false)] {
                let call = Call {
                    door: DOORS.0,
                    number,
                    arguments: [9, argument, 9, 9, 9, 9],
                };
                let expected = if known && number % 2 == 0 && number < 18 {
                    errno(7)
                } else {
                    KILL
                };
                assert_eq!(run(&program, &call), Some(expected), "{number} {argument}");
            }
        }
    }
}
