//! Every rule of the filter files is executed: with right arguments it lets the call through, with
//! wrong ones the process is killed, and without the rule it is killed too (or nobody needs it).
//! Then the calls that must never get through, one child each.

#![allow(
    unsafe_code,
    reason = "the tests make the raw system calls that the filters are about"
)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cases;

use casemate_linux::seccomp::{Policy, READER, Rule, Value, WASM_WORKER, WASM_WORKER_SEALED};
use cases::{CASES, FORBIDDEN, Fixture};

/// How a forked child ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Code(i32),
    Signal(i32),
}

const KILLED: Ended = Ended::Signal(libc::SIGSYS);

/// Runs `body` in a forked child under these filters and tells how the child ended. The body's
/// `true` is code 0.
fn confined(policies: &[&Policy], fixture: &Fixture, body: impl Fn(&Fixture) -> bool) -> Ended {
    // SAFETY: the child runs only the code below on memory of its own and leaves by `_exit`;
    // glibc makes its heap usable in it although this process has threads.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let code = match install(policies) {
            Ok(()) => i32::from(!body(fixture)),
            Err(_) => 99,
        };
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is live, and the child is ours and waited for once.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    if libc::WIFSIGNALED(status) {
        return Ended::Signal(libc::WTERMSIG(status));
    }
    Ended::Code(libc::WEXITSTATUS(status))
}

/// Compiles after the fork, because one rule holds the number of the process, and before the
/// first filter stands. Nothing but the call for the filters is made after that.
fn install(policies: &[&Policy]) -> Result<(), Box<dyn std::error::Error>> {
    let compiled: Result<Vec<_>, _> = policies.iter().map(|policy| policy.compile()).collect();
    // SAFETY: the operation takes numbers.
    let rc = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(rc, 0);
    for program in compiled?.iter().map(|compiled| &compiled.program) {
        let fprog = libc::sock_fprog {
            len: u16::try_from(program.len())?,
            filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
        };
        // SAFETY: the kernel copies the program, which lives through the call.
        let rc = unsafe { libc::syscall(libc::SYS_seccomp, 1u64, 1u64, &raw const fprog) };
        if rc != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(())
}

/// A rule's name in the table of cases: the call and, where there are several, what it compares.
fn key(rule: &Rule) -> String {
    let last = rule.when.first().map(|condition| match &condition.equals {
        Value::Name(name) => name.clone(),
        Value::Number(number) => number.to_string(),
        Value::Names(names) => names.join("|"),
    });
    match last {
        Some(last) => format!("{} {last}", rule.syscall),
        None => rule.syscall.clone(),
    }
}

fn policies() -> [(&'static str, Policy); 3] {
    [
        ("wasm-worker", WASM_WORKER),
        ("wasm-worker-sealed", WASM_WORKER_SEALED),
        ("reader", READER),
    ]
    .map(|(name, text)| (name, Policy::parse(text).unwrap()))
}

#[test]
fn every_rule_lets_through_what_it_says_and_nothing_else() {
    let fixture = Fixture::new();
    for (name, policy) in policies() {
        assert_eq!(policy.name, name);
        for (index, rule) in policy.rules.iter().enumerate() {
            let key = key(rule);
            let case = CASES
                .iter()
                .find(|case| case.rule == key && case.is_for(name));
            let case = case.unwrap_or_else(|| panic!("{name}: no test for the rule {key:?}"));
            let right = confined(&[&policy], &fixture, case.right);
            assert_eq!(right, Ended::Code(0), "{name}: {key} with right arguments");
            for (number, wrong) in case.wrong.iter().enumerate() {
                let ended = confined(&[&policy], &fixture, wrong);
                assert_eq!(ended, KILLED, "{name}: {key}, wrong arguments {number}");
            }
            let mut without = policy.clone();
            without.rules.remove(index);
            let ended = confined(&[&without], &fixture, case.right);
            assert_eq!(ended, KILLED, "{name}: nobody needs {key}");
        }
    }
}

#[test]
fn every_case_belongs_to_a_rule() {
    let policies = policies();
    for case in CASES {
        let found = policies.iter().any(|(name, policy)| {
            case.is_for(name) && policy.rules.iter().any(|rule| key(rule) == case.rule)
        });
        assert!(found, "no rule {}", case.rule);
        let conditional = policies.iter().any(|(name, policy)| {
            let mut rules = policy.rules.iter();
            case.is_for(name) && rules.any(|r| key(r) == case.rule && !r.when.is_empty())
        });
        assert_eq!(
            conditional,
            !case.wrong.is_empty(),
            "wrong arguments for {}",
            case.rule
        );
    }
}

/// A sealed rule for a call the first filter forbids could never matter.
#[test]
fn the_sealed_filter_only_takes_away() {
    let [(_, first), (_, sealed), _] = policies();
    let fixture = Fixture::new();
    for rule in &sealed.rules {
        let key = key(rule);
        let case = CASES
            .iter()
            .find(|c| c.rule == key && c.is_for("wasm-worker-sealed"));
        let right = case.unwrap().right;
        let ended = confined(&[&first, &sealed], &fixture, right);
        assert_eq!(
            ended,
            Ended::Code(0),
            "{key} is dead under the first filter"
        );
    }
}

#[test]
fn forbidden_calls_kill() {
    let policies = policies();
    let fixture = Fixture::new();
    for (name, call) in FORBIDDEN {
        let body = |f: &Fixture| {
            call(f);
            true
        };
        for (filter, policy) in &policies {
            assert_eq!(
                confined(&[policy], &fixture, body),
                KILLED,
                "{name}, {filter}"
            );
        }
    }
    assert!(FORBIDDEN.len() >= 60, "{}", FORBIDDEN.len());
}

/// What only loading needs is gone after sealing.
#[test]
fn sealing_takes_loading_away() {
    let [(_, first), (_, sealed), _] = policies();
    let fixture = Fixture::new();
    let loading = [
        "fstat",
        "newfstatat AT_EMPTY_PATH",
        "statx AT_EMPTY_PATH",
        "lseek",
        "pread64",
        "clock_getres",
        "prctl PR_SET_MDWE",
        "seccomp SECCOMP_SET_MODE_FILTER",
    ];
    for rule in loading {
        let right = CASES.iter().find(|case| case.rule == rule).unwrap().right;
        assert_eq!(
            confined(&[&first], &fixture, right),
            Ended::Code(0),
            "{rule}"
        );
        assert_eq!(
            confined(&[&first, &sealed], &fixture, right),
            KILLED,
            "{rule}"
        );
        assert_eq!(confined(&[&sealed], &fixture, right), KILLED, "{rule}");
    }
    let nothing: fn(&Fixture) -> bool = |_| true;
    let both = confined(&[&first, &sealed], &fixture, nothing);
    assert_eq!(both, Ended::Code(0), "putting up both is not what kills");
}

/// The control: without a filter none of the forbidden calls is killed, so it is the filter.
#[test]
fn without_a_filter_nothing_is_killed() {
    let fixture = Fixture::new();
    // Left out: what would really stop, replace or wedge the child or the machine's state.
    let harmless = FORBIDDEN.iter().filter(|(name, _)| {
        ![
            "execve",
            "execveat",
            "vfork",
            "fork",
            "clone as fork",
            "kill the parent",
            "pause",
        ]
        .contains(name)
    });
    for (name, call) in harmless {
        let ended = confined(&[], &fixture, |f| {
            call(f);
            true
        });
        assert_ne!(ended, KILLED, "{name}");
    }
}
