//! Seccomp filters as data: JSON files in `policies/seccomp`, each rule with its reason.
//!
//! A file is an allowlist. A system call no rule names, or whose arguments no rule matches, kills
//! the process, unless the file says with which error it is answered `otherwise`; a call through
//! the 32-bit door always kills. A rule with `errno` answers with that error instead of allowing,
//! a rule with `kill` kills, whatever other rules say. The files are part of the program; they are
//! compiled to BPF when they are installed, because one rule needs the number of the process.

use std::collections::BTreeMap;

use serde::Deserialize;

pub mod installed;
mod names;
mod program;

pub use program::Instruction;
use program::{Calls, Test};

/// The filter a worker runs under while it loads its module.
pub const WASM_WORKER: &str = include_str!("../../../policies/seccomp/wasm-worker.json");
/// The narrower filter on top of it, once the module is mapped.
pub const WASM_WORKER_SEALED: &str =
    include_str!("../../../policies/seccomp/wasm-worker-sealed.json");
/// The filter of the process that unpacks archives.
pub const UNPACK: &str = include_str!("../../../policies/seccomp/unpack.json");
/// The filter of the process that analyses a script.
pub const READER: &str = include_str!("../../../policies/seccomp/reader.json");
/// The filter a native program and everything it starts runs under.
pub const JAIL: &str = include_str!("../../../policies/seccomp/jail.json");
/// What a session's filter says otherwise.
pub const SESSION: &str = include_str!("../../../policies/seccomp/session.json");

/// Why a filter could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The text is not a filter file.
    #[error("seccomp policy is not well formed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A word in it is unknown here.
    #[error("seccomp policy names an unknown {kind}: {word}")]
    Unknown {
        /// `system call`, `constant` or `error`.
        kind: &'static str,
        /// The word.
        word: String,
    },
    /// A rule says two things about one call that cannot both hold.
    #[error("seccomp policy contradicts itself about {0}")]
    Contradiction(String),
    /// A rule without a reason.
    #[error("seccomp policy gives no reason for {0}")]
    NoReason(String),
    /// The rules of one call are more than a jump leaves out, or a call has no seventh argument.
    #[error("seccomp policy does not compile: {0}")]
    Compile(&'static str),
}

/// One filter file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The file's name without its ending.
    pub name: String,
    /// What the filter is for.
    pub purpose: String,
    /// The error that answers a call no rule lets through. Without it such a call kills.
    #[serde(default)]
    pub otherwise: Option<String>,
    /// The rules, in no particular order.
    pub rules: Vec<Rule>,
}

/// One rule of a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The system call's name.
    pub syscall: String,
    /// All of these must hold; with none the arguments do not matter.
    #[serde(default)]
    pub when: Vec<Condition>,
    /// Answer with this error instead of allowing the call.
    #[serde(default)]
    pub errno: Option<String>,
    /// Kill instead of allowing the call.
    #[serde(default)]
    pub kill: bool,
    /// Only on this processor architecture, in Rust's words for it.
    #[serde(default)]
    pub only: Option<String>,
    /// Why the rule exists.
    pub reason: String,
}

/// A condition on one argument.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The argument's index, from 0.
    pub arg: u8,
    /// How much of it the kernel reads.
    pub size: Size,
    /// Compare only these bits.
    #[serde(default)]
    pub mask: Option<Value>,
    /// The argument must be anything but `equals`. Not together with a mask.
    #[serde(default, rename = "not")]
    pub negated: bool,
    /// What the argument, or its masked bits, must equal.
    pub equals: Value,
}

/// The width of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// 32 bits, as a C `int`.
    U32,
    /// 64 bits, as a pointer or a C `long`.
    U64,
}

/// A number, the name of one, or several names whose bits are joined. A name after `!` stands
/// for all other bits of 32.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// The number itself.
    Number(u64),
    /// A constant from the kernel's headers, or `SELF_PID`.
    Name(String),
    /// The union of constants.
    Names(Vec<String>),
}

/// A compiled file.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The filter file's name.
    pub name: String,
    /// The program to install.
    pub program: Vec<Instruction>,
    /// How many rules went in.
    pub rules: usize,
}

impl Policy {
    /// Reads a file and checks it: known names, a reason everywhere, no contradiction.
    ///
    /// # Errors
    /// Each of [`FilterError`]'s kinds but `Compile`.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut policy: Self = serde_json::from_str(text)?;
        let here = std::env::consts::ARCH;
        policy
            .rules
            .retain(|rule| rule.only.as_deref().is_none_or(|only| only == here));
        for rule in &policy.rules {
            rule.check()?;
        }
        Ok(policy)
    }

    /// The error that answers a call no rule lets through; none: such a call kills.
    ///
    /// # Errors
    /// When the name is unknown.
    pub fn answer_otherwise(&self) -> Result<Option<u32>, FilterError> {
        self.otherwise.as_deref().map(error_number).transpose()
    }

    /// This policy with another's rules for the calls that the other one names. The answer to what no rule lets
    /// through stays this one's.
    #[must_use]
    pub fn but(mut self, other: Self) -> Self {
        let named = |call: &str| other.rules.iter().any(|rule| rule.syscall == call);
        self.rules.retain(|rule| !named(&rule.syscall));
        self.rules.extend(other.rules);
        self.name = other.name;
        self
    }

    /// Compiles for the running process.
    ///
    /// # Errors
    /// An unknown word, a contradiction, or the compiler's refusal.
    pub fn compile(&self) -> Result<Compiled, FilterError> {
        let mut allowed = Calls::new();
        let mut answered: BTreeMap<u32, Calls> = BTreeMap::new();
        let mut killed = Calls::new();
        for rule in &self.rules {
            if rule.kill {
                add(&mut killed, rule)?;
                continue;
            }
            // An answered call may not be a free one too.
            add(&mut allowed, rule)?;
            if let Some(errno) = &rule.errno {
                let errno = error_number(errno)?;
                add(answered.entry(errno).or_default(), rule)?;
            }
        }
        // The strictest answer first.
        let mut answers = vec![(program::KILL, killed)];
        let answered = answered.into_iter().rev();
        answers.extend(answered.map(|(errno, calls)| (program::errno(errno), calls)));
        answers.push((installed::ALLOW, allowed));
        let otherwise = self.answer_otherwise()?;
        let otherwise = otherwise.map_or(program::KILL, program::errno);
        let program = program::assemble(&answers, otherwise);
        Ok(Compiled {
            name: self.name.clone(),
            program: program.ok_or(FilterError::Compile("a call has too many rules"))?,
            rules: self.rules.len(),
        })
    }
}

impl Rule {
    /// The system call's number on this machine.
    ///
    /// # Errors
    /// When the name is unknown.
    pub fn number(&self) -> Result<i64, FilterError> {
        names::syscall(&self.syscall).ok_or_else(|| unknown("system call", &self.syscall))
    }

    /// The error it answers with.
    ///
    /// # Errors
    /// When the name is unknown.
    pub fn answer(&self) -> Result<Option<u32>, FilterError> {
        self.errno.as_deref().map(error_number).transpose()
    }

    fn check(&self) -> Result<(), FilterError> {
        self.number()?;
        if self.kill && self.errno.is_some() {
            return Err(FilterError::Contradiction(self.syscall.clone()));
        }
        if self.reason.trim().is_empty() {
            return Err(FilterError::NoReason(self.syscall.clone()));
        }
        self.lower().map(drop)
    }

    fn lower(&self) -> Result<Option<Vec<Test>>, FilterError> {
        if self.when.is_empty() {
            return Ok(None);
        }
        self.when
            .iter()
            .map(Condition::lower)
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

impl Condition {
    fn lower(&self) -> Result<Test, FilterError> {
        if self.mask.is_some() && self.negated {
            return Err(FilterError::Contradiction("a masked argument".to_owned()));
        }
        if self.arg > 5 {
            return Err(FilterError::Compile(
                "a call has six arguments, from 0 to 5",
            ));
        }
        Ok(Test {
            argument: self.arg,
            whole: self.size == Size::U64,
            mask: self.mask.as_ref().map(Value::resolve).transpose()?,
            negated: self.negated,
            equals: self.equals.resolve()?,
        })
    }
}

impl Value {
    /// The number it stands for in this process.
    ///
    /// # Errors
    /// When a constant is unknown.
    pub fn resolve(&self) -> Result<u64, FilterError> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Name(name) => constant(name),
            Self::Names(names) => names.iter().try_fold(0, |bits, name| {
                let more = constant(name)?;
                Ok(bits | more)
            }),
        }
    }
}

fn constant(name: &str) -> Result<u64, FilterError> {
    if let Some(inverted) = name.strip_prefix('!') {
        let bits = inverted.split('|').try_fold(0, |bits, name| {
            let more = constant(name)?;
            Ok::<_, FilterError>(bits | more)
        })?;
        return Ok(!bits & u64::from(u32::MAX));
    }
    names::constant(name).ok_or_else(|| unknown("constant", name))
}

fn error_number(name: &str) -> Result<u32, FilterError> {
    names::errno(name).ok_or_else(|| unknown("error", name))
}

fn unknown(kind: &'static str, word: &str) -> FilterError {
    FilterError::Unknown {
        kind,
        word: word.to_owned(),
    }
}

/// Adds a rule. An empty list means "whatever the arguments", so a call may not have both kinds.
fn add(calls: &mut Calls, rule: &Rule) -> Result<(), FilterError> {
    let lowered = rule.lower()?;
    let number =
        u32::try_from(rule.number()?).map_err(|_| unknown("system call", &rule.syscall))?;
    let known = calls.contains_key(&number);
    let list = calls.entry(number).or_default();
    match lowered {
        Some(lowered) if !known || !list.is_empty() => list.push(lowered),
        None if !known => {}
        _ => return Err(FilterError::Contradiction(rule.syscall.clone())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Policy::parse(text)
            .and_then(|policy| policy.compile())
            .unwrap_err()
            .to_string()
    }

    fn policy(rules: &str) -> String {
        format!(r#"{{"name":"n","purpose":"p","rules":[{rules}]}}"#)
    }

    #[test]
    fn shipped_files_compile() {
        for text in [WASM_WORKER, WASM_WORKER_SEALED, UNPACK, READER, JAIL] {
            let compiled = Policy::parse(text).unwrap().compile().unwrap();
            // The kernel takes 4,096 instructions.
            assert!(compiled.program.len() < 2_000, "{}", compiled.name);
            assert!(compiled.rules > 10);
        }
    }

    #[test]
    fn a_rule_cannot_both_answer_and_kill() {
        let text = policy(r#"{"syscall":"read","reason":"r","errno":"EPERM","kill":true}"#);
        assert_eq!(
            refused(&text),
            "seccomp policy contradicts itself about read"
        );
        let masked = policy(
            r#"{"syscall":"prctl","reason":"r","when":[{"arg":0,"size":"u32","mask":1,"not":true,"equals":1}]}"#,
        );
        assert!(refused(&masked).contains("masked"));
    }

    #[test]
    fn a_file_without_a_reason_is_refused() {
        let text = policy(r#"{"syscall":"read","reason":" "}"#);
        assert_eq!(refused(&text), "seccomp policy gives no reason for read");
    }

    #[test]
    fn unknown_words_are_refused() {
        let call = policy(r#"{"syscall":"raed","reason":"r"}"#);
        assert_eq!(
            refused(&call),
            "seccomp policy names an unknown system call: raed"
        );
        let key = policy(r#"{"syscall":"read","reason":"r","alow":1}"#);
        assert!(refused(&key).contains("unknown field"));
        let constant = policy(
            r#"{"syscall":"prctl","reason":"r","when":[{"arg":0,"size":"u32","equals":"PR_X"}]}"#,
        );
        assert_eq!(
            refused(&constant),
            "seccomp policy names an unknown constant: PR_X"
        );
        let errno = policy(r#"{"syscall":"read","reason":"r","errno":"EFOO"}"#);
        assert_eq!(
            refused(&errno),
            "seccomp policy names an unknown error: EFOO"
        );
    }

    #[test]
    fn both_with_and_without_conditions_is_a_contradiction() {
        let free = r#"{"syscall":"prctl","reason":"r"}"#;
        let bound =
            r#"{"syscall":"prctl","reason":"r","when":[{"arg":0,"size":"u32","equals":1}]}"#;
        for rules in [format!("{free},{bound}"), format!("{bound},{free}")] {
            assert_eq!(
                refused(&policy(&rules)),
                "seccomp policy contradicts itself about prctl"
            );
        }
    }

    #[test]
    fn values_resolve_to_the_headers_numbers() {
        let names = Value::Names(vec!["PROT_READ".into(), "PROT_EXEC".into()]);
        assert_eq!(names.resolve().unwrap(), 5);
        let others = Value::Name("!PROT_READ|PROT_EXEC".into());
        assert_eq!(others.resolve().unwrap(), 0xffff_fffa);
        let me = Value::Name("SELF_PID".into());
        assert_eq!(me.resolve().unwrap(), u64::from(std::process::id()));
    }
}
