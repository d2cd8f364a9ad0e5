//! The jail's filter, rule by rule: what each lets through, answers or kills, with right arguments and
//! with wrong ones, and that without it the answer is another. The programs are run by a small machine of
//! our own, because right arguments of many calls would change the host that runs the tests; the calls
//! themselves are made from inside real jails (`casemate-jail`, `tests/jail`).

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use casemate_linux::seccomp::{
    Compiled, Condition, Instruction, JAIL, Policy, Rule, SESSION, Size,
};

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const ENOSYS: u32 = ERRNO | 38;
const HERE: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else {
    0xc000_00b7
};

/// What the kernel shows a filter: the call's number, the door, the arguments.
struct Data {
    number: u32,
    door: u32,
    args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        let arg = |index: u32| self.args[(index / 8) as usize];
        match offset {
            0 => self.number,
            4 => self.door,
            16.. if (offset - 16).is_multiple_of(8) => arg(offset - 16) as u32,
            16.. => (arg(offset - 20) >> 32) as u32,
            _ => 0,
        }
    }
}

/// Runs one program: the part of classic BPF that the compiler makes.
fn run(program: &[Instruction], data: &Data) -> u32 {
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    for _ in 0..program.len() {
        let step = &program[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
        match step.code {
            0x20 => accumulator = data.word(step.k),
            0x06 => return step.k,
            0x54 => accumulator &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(accumulator == step.k),
            0x25 => at += jump(accumulator > step.k),
            0x35 => at += jump(accumulator >= step.k),
            code => panic!("the machine does not know {code:#x}"),
        }
    }
    panic!("a program without an end")
}

fn answer(compiled: &Compiled, data: &Data) -> u32 {
    run(&compiled.program, data)
}

fn policy() -> Policy {
    Policy::parse(JAIL).unwrap()
}

fn data(rule: &Rule, args: [u64; 6]) -> Data {
    Data {
        number: u32::try_from(rule.number().unwrap()).unwrap(),
        door: HERE,
        args,
    }
}

fn holds(condition: &Condition, args: &[u64; 6]) -> bool {
    let wanted = condition.equals.resolve().unwrap();
    let mask = condition.mask.as_ref().map(|mask| mask.resolve().unwrap());
    let value = args[usize::from(condition.arg)] & mask.unwrap_or(u64::MAX);
    let equal = match condition.size {
        Size::U32 => value as u32 == wanted as u32,
        Size::U64 => value == wanted,
    };
    equal != condition.negated
}

fn matches(rule: &Rule, args: &[u64; 6]) -> bool {
    rule.when.iter().all(|condition| holds(condition, args))
}

/// Arguments that a rule takes.
fn right(rule: &Rule) -> [u64; 6] {
    let mut args = [0; 6];
    for condition in &rule.when {
        let wanted = condition.equals.resolve().unwrap();
        let slot = &mut args[usize::from(condition.arg)];
        *slot = match condition.negated {
            // A number that is none of those the rules of this file compare with.
            true => 0x5a5a,
            false => wanted,
        };
    }
    assert!(matches(rule, &args), "{}", rule.syscall);
    args
}

/// What the whole file says about arguments, read from its rules one by one.
fn expected(policy: &Policy, name: &str, args: &[u64; 6]) -> u32 {
    let own = policy.rules.iter().filter(|rule| rule.syscall == name);
    let taken: Vec<&Rule> = own.filter(|rule| matches(rule, args)).collect();
    let errno = |rule: &&Rule| match rule.errno.as_deref() {
        Some("EPERM") => Some(ERRNO | 1),
        Some("EACCES") => Some(ERRNO | 13),
        Some("ENOSYS") => Some(ENOSYS),
        _ => None,
    };
    if taken.iter().any(|rule| rule.kill) {
        return KILL;
    }
    match taken.iter().find_map(errno) {
        Some(errno) => errno,
        None if taken.is_empty() => ENOSYS,
        None => ALLOW,
    }
}

#[test]
fn every_rule_answers_as_it_says() {
    let policy = policy();
    let compiled = policy.compile().unwrap();
    for rule in &policy.rules {
        let args = right(rule);
        let says = match (rule.kill, rule.errno.as_deref()) {
            (true, _) => KILL,
            (_, Some("EPERM")) => ERRNO | 1,
            (_, Some("EACCES")) => ERRNO | 13,
            (_, Some(_)) => ENOSYS,
            _ => ALLOW,
        };
        let got = answer(&compiled, &data(rule, args));
        assert_eq!(got, says, "{} with {args:x?}", rule.syscall);
    }
}

#[test]
fn wrong_arguments_get_another_answer() {
    let policy = policy();
    let compiled = policy.compile().unwrap();
    for rule in policy.rules.iter().filter(|rule| !rule.when.is_empty()) {
        for condition in &rule.when {
            let mut args = right(rule);
            let mask = condition
                .mask
                .as_ref()
                .map_or(u64::MAX, |mask| mask.resolve().unwrap());
            let lowest = 1 << mask.trailing_zeros();
            let slot = &mut args[usize::from(condition.arg)];
            *slot = match condition.negated {
                true => condition.equals.resolve().unwrap(),
                false => *slot ^ lowest,
            };
            assert!(!matches(rule, &args), "{}", rule.syscall);
            let got = answer(&compiled, &data(rule, args));
            let says = expected(&policy, &rule.syscall, &args);
            assert_eq!(got, says, "{} with {args:x?}", rule.syscall);
        }
    }
}

#[test]
fn the_upper_half_of_a_32_bit_argument_fools_nobody() {
    let policy = policy();
    let compiled = policy.compile().unwrap();
    let narrow = |rule: &&Rule| {
        rule.when
            .iter()
            .any(|condition| condition.size == Size::U32)
    };
    for rule in policy.rules.iter().filter(narrow) {
        let mut args = right(rule);
        for condition in rule
            .when
            .iter()
            .filter(|condition| condition.size == Size::U32)
        {
            args[usize::from(condition.arg)] |= 0xdead_beef << 32;
        }
        let got = answer(&compiled, &data(rule, args));
        assert_eq!(
            got,
            expected(&policy, &rule.syscall, &args),
            "{}",
            rule.syscall
        );
        assert_eq!(
            got,
            answer(&compiled, &data(rule, right(rule))),
            "{}",
            rule.syscall
        );
    }
}

#[test]
fn a_rule_that_changes_nothing_is_noticed() {
    let policy = policy();
    for (index, rule) in policy.rules.iter().enumerate() {
        // One that answers as every unknown call is answered stands there to say why.
        if rule.errno.as_deref() == Some("ENOSYS") {
            continue;
        }
        let mut without = policy.clone();
        without.rules.remove(index);
        let (with, without) = (policy.compile().unwrap(), without.compile().unwrap());
        let data = data(rule, right(rule));
        assert_ne!(
            answer(&with, &data),
            answer(&without, &data),
            "nobody needs {}",
            rule.syscall
        );
    }
}

#[test]
fn no_rule_is_there_twice() {
    let policy = policy();
    for (index, rule) in policy.rules.iter().enumerate() {
        let same = |other: &&Rule| {
            other.syscall == rule.syscall
                && format!("{:?}", other.when) == format!("{:?}", rule.when)
        };
        assert!(
            policy.rules[..index].iter().find(same).is_none(),
            "{}",
            rule.syscall
        );
    }
}

#[test]
fn other_doors_kill_and_unknown_calls_are_answered() {
    let compiled = policy().compile().unwrap();
    let ask = |number, door| {
        answer(
            &compiled,
            &Data {
                number,
                door,
                args: [0; 6],
            },
        )
    };
    // i386 and ARM.
    for door in [0x4000_0003, 0x4000_0028] {
        for number in 0..600 {
            assert_eq!(ask(number, door), KILL, "{number}");
        }
    }
    for number in 470..2000 {
        assert_eq!(ask(number, HERE), ENOSYS, "{number}");
    }
    // The x32 door is a bit of the number.
    for number in 0..600 {
        assert_eq!(ask(0x4000_0000 | number, HERE), ENOSYS, "{number}");
    }
}

#[test]
fn what_must_never_be_allowed_is_not() {
    let policy = policy();
    let allowed = |name: &str| {
        let own = policy.rules.iter().filter(|rule| rule.syscall == name);
        own.filter(|rule| rule.errno.is_none() && !rule.kill && rule.when.is_empty())
            .count()
    };
    for name in [
        "mount",
        "umount2",
        "ptrace",
        "bpf",
        "keyctl",
        "add_key",
        "request_key",
        "userfaultfd",
        "io_uring_setup",
        "unshare",
        "setns",
        "clone",
        "clone3",
        "socket",
        "socketpair",
        "perf_event_open",
        "process_vm_writev",
        "kexec_load",
        "init_module",
        "open_by_handle_at",
        "pivot_root",
        "ioctl",
        "prctl",
        "personality",
        "mknodat",
    ] {
        assert_eq!(allowed(name), 0, "{name}");
    }
}

#[test]
fn a_session_s_filter_differs_by_the_sockets_of_the_internet_alone() {
    let session = policy().but(Policy::parse(SESSION).unwrap());
    let (jail, session) = (policy().compile().unwrap(), session.compile().unwrap());
    let families = [
        (libc::AF_UNIX, ALLOW, ALLOW),
        (libc::AF_INET, ERRNO | 13, ALLOW),
        (libc::AF_INET6, ERRNO | 13, ALLOW),
        (libc::AF_NETLINK, ERRNO | 13, ERRNO | 13),
        (libc::AF_PACKET, ERRNO | 13, ERRNO | 13),
        (libc::AF_ALG, ERRNO | 13, ERRNO | 13),
        (libc::AF_VSOCK, ERRNO | 13, ERRNO | 13),
    ];
    for (family, in_jail, in_session) in families {
        let data = Data {
            number: libc::SYS_socket as u32,
            door: HERE,
            args: [family as u64, 0, 0, 0, 0, 0],
        };
        assert_eq!(answer(&jail, &data), in_jail, "{family}");
        assert_eq!(answer(&session, &data), in_session, "{family}");
    }
    for rule in policy()
        .rules
        .iter()
        .filter(|rule| rule.syscall != "socket")
    {
        let data = data(rule, right(rule));
        assert_eq!(
            answer(&jail, &data),
            answer(&session, &data),
            "{}",
            rule.syscall
        );
    }
}

#[test]
fn nothing_of_the_processor_is_switched_in_a_jail() {
    let compiled = policy().compile().unwrap();
    // Reading and setting speculation, and cookies of cores: to make one, to give and to take one.
    for (operation, second) in [
        (52, 0),
        (53, 0),
        (53, 1),
        (62, 0),
        (62, 1),
        (62, 2),
        (62, 3),
    ] {
        let data = Data {
            number: libc::SYS_prctl as u32,
            door: HERE,
            args: [operation, second, 2, 0, 0, 0],
        };
        assert_eq!(answer(&compiled, &data), ENOSYS, "{operation} {second}");
    }
}
