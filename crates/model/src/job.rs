//! Jobs: a program, its inputs, its policy. Built by a builder that validates.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::guarantee::Guarantees;
use crate::policy::{Attacked, Policy};

/// The name of one run: `run-` and 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// A run id from 64 bits that the caller drew at random.
    pub fn from_bits(bits: u64) -> Self {
        Self(format!("run-{bits:016x}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a run belongs to. Nothing that has held one tenant's data is given to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TenantId(String);

impl TenantId {
    /// The tenant of a command line without a server.
    pub fn local() -> Self {
        Self("local".to_owned())
    }

    /// A tenant by name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The language of a program.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Language {
    /// Python 3.
    #[default]
    Python,
    /// Bash.
    Bash,
    /// JavaScript, as node runs it.
    JavaScript,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Python, Self::Bash, Self::JavaScript];

    /// Its name on the command line and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Bash => "bash",
            Self::JavaScript => "javascript",
        }
    }

    /// The language that a file's name says it is in; none where it says nothing that is known here.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        match extension {
            "py" => Some(Self::Python),
            "sh" | "bash" => Some(Self::Bash),
            "js" | "mjs" | "cjs" => Some(Self::JavaScript),
            _ => None,
        }
    }

    /// The name of a program that came without one.
    #[must_use]
    pub const fn default_file(self) -> &'static str {
        match self {
            Self::Python => "main.py",
            Self::Bash => "main.sh",
            Self::JavaScript => "main.js",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Python => "Python",
            Self::Bash => "Bash",
            Self::JavaScript => "JavaScript",
        })
    }
}

/// What is to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The bytes as they were submitted; they are validated by screening, not here.
    pub source: Vec<u8>,
    /// The name shown in tracebacks, such as `analyze.py`.
    pub name: String,
    /// The language.
    pub language: Language,
}

/// An absolute path inside the guest, without `.` or `..`, under `/data`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct GuestPath(String);

impl GuestPath {
    /// Checks a path for an input.
    ///
    /// # Errors
    /// When it is not an absolute, plain path under `/data`, or is over 1,024 bytes.
    pub fn input(path: &str) -> Result<Self, JobError> {
        let bad = |reason| JobError::GuestPath {
            path: path.to_owned(),
            reason,
        };
        let rest = path
            .strip_prefix("/data/")
            .ok_or_else(|| bad("inputs live under /data/"))?;
        if path.len() > 1024 {
            return Err(bad("it is longer than 1,024 bytes"));
        }
        if path.chars().any(char::is_control) {
            return Err(bad("it holds a control character"));
        }
        if rest
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
        {
            return Err(bad("it holds an empty, `.` or `..` part"));
        }
        if rest.split('/').any(|part| part.len() > 255) {
            return Err(bad("one of its parts is longer than 255 bytes"));
        }
        Ok(Self(path.to_owned()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

/// A file handed to the program, read-only.
#[derive(Debug, Clone)]
pub struct Input {
    /// Where the program sees it.
    pub path: GuestPath,
    /// Its content, copied from the host's file when the job was built.
    pub bytes: Arc<[u8]>,
}

/// The system a program is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageChoice {
    /// An image by name; [`ImageChoice::HOST`] is the machine's own system.
    pub name: String,
    /// A virtual environment of the user's own, whose packages are shown beside the machine's own system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub venv: Option<PathBuf>,
}

impl ImageChoice {
    /// The name that stands for the machine's own system, read-only, with our packages.
    pub const HOST: &str = "host";

    /// An image by name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            venv: None,
        }
    }

    /// Whether it is the machine's own system.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.name == Self::HOST
    }

    /// Whether a guest that cannot be given another system will do.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.is_host() && self.venv.is_none()
    }
}

impl Default for ImageChoice {
    fn default() -> Self {
        Self::named(Self::HOST)
    }
}

/// What the caller asks for beyond its policy.
#[derive(Debug, Clone, Default)]
pub struct Demand {
    /// Walls to be added to those of the policy.
    pub guarantees: Guarantees,
    /// The backend by name, or any that fits.
    pub backend: Option<String>,
    /// What the last attack on a backend is worth; the stricter of this and the policy's counts.
    pub attacked: Attacked,
    /// The system the program is shown.
    pub image: ImageChoice,
}

/// One run to be. Made by [`JobBuilder`].
#[derive(Debug, Clone)]
pub struct Job {
    /// The run's name.
    pub id: RunId,
    /// Whom it belongs to.
    pub tenant: TenantId,
    /// What is to run.
    pub program: Program,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// Environment variables the caller set.
    pub env: BTreeMap<String, String>,
    /// Files handed in.
    pub inputs: Vec<Input>,
    /// Standard input.
    pub stdin: Arc<[u8]>,
    /// The policy.
    pub policy: Policy,
    /// What the caller asks for beyond it.
    pub demand: Demand,
}

/// Why a job cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JobError {
    /// A path for an input is not one.
    #[error("{path:?} cannot be the place of an input: {reason}")]
    GuestPath {
        /// The path.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// Two inputs want one place, or one wants to be inside another.
    #[error("two inputs want the place {path}; give one of them another with FILE:/data/NAME")]
    InputTwice {
        /// The place.
        path: String,
    },
    /// An environment variable's name or value cannot be one.
    #[error("{name:?} cannot be an environment variable: {reason}")]
    Environment {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A program's name cannot be shown.
    #[error("{name:?} cannot be the name of a program: {reason}")]
    ProgramName {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// An argument cannot be passed.
    #[error("argument {index} holds a NUL byte")]
    Argument {
        /// Counted from 1.
        index: usize,
    },
    /// A limit makes no sense.
    #[error("{what}: {reason}")]
    Limit {
        /// Which.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

/// Builds a [`Job`] and validates it.
#[derive(Debug)]
pub struct JobBuilder {
    job: Job,
}

impl JobBuilder {
    /// Starts from a program and a policy.
    pub fn new(id: RunId, program: Program, policy: Policy) -> Self {
        Self {
            job: Job {
                id,
                tenant: TenantId::local(),
                program,
                args: Vec::new(),
                env: BTreeMap::new(),
                inputs: Vec::new(),
                stdin: Arc::from([]),
                policy,
                demand: Demand::default(),
            },
        }
    }

    /// Whom the run belongs to; the command line's own tenant unless set.
    #[must_use]
    pub fn tenant(mut self, tenant: TenantId) -> Self {
        self.job.tenant = tenant;
        self
    }

    /// Arguments after the program's name.
    #[must_use]
    pub fn args(mut self, args: Vec<String>) -> Self {
        self.job.args = args;
        self
    }

    /// Environment variables.
    #[must_use]
    pub fn env(mut self, env: BTreeMap<String, String>) -> Self {
        self.job.env = env;
        self
    }

    /// Files handed in.
    #[must_use]
    pub fn inputs(mut self, inputs: Vec<Input>) -> Self {
        self.job.inputs = inputs;
        self
    }

    /// Standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.job.stdin = bytes.into();
        self
    }

    /// What the caller asks for beyond the policy.
    #[must_use]
    pub fn demand(mut self, demand: Demand) -> Self {
        self.job.demand = demand;
        self
    }

    /// The job, when everything in it can be.
    ///
    /// # Errors
    /// [`JobError`] names the first thing that cannot.
    pub fn build(self) -> Result<Job, JobError> {
        check_program_name(&self.job.program.name)?;
        check_inputs(&self.job.inputs)?;
        for (name, value) in &self.job.env {
            check_env(name, value)?;
        }
        if let Some(index) = self.job.args.iter().position(|arg| arg.contains('\0')) {
            return Err(JobError::Argument { index: index + 1 });
        }
        check_limits(&self.job.policy)?;
        Ok(self.job)
    }
}

fn check_program_name(name: &str) -> Result<(), JobError> {
    let bad = |reason| {
        Err(JobError::ProgramName {
            name: name.to_owned(),
            reason,
        })
    };
    if name.is_empty() || name.len() > 255 {
        return bad("it needs 1 to 255 bytes");
    }
    if name.contains('/') || name.chars().any(char::is_control) {
        return bad("it holds a slash or a control character");
    }
    Ok(())
}

fn check_inputs(inputs: &[Input]) -> Result<(), JobError> {
    let mut seen = BTreeSet::new();
    for input in inputs {
        if !seen.insert(input.path.as_str()) {
            return Err(JobError::InputTwice {
                path: input.path.as_str().to_owned(),
            });
        }
    }
    for path in &seen {
        let inside = format!("{path}/");
        if seen.iter().any(|other| other.starts_with(&inside)) {
            return Err(JobError::InputTwice {
                path: (*path).to_owned(),
            });
        }
    }
    Ok(())
}

fn check_env(name: &str, value: &str) -> Result<(), JobError> {
    let bad = |reason| {
        Err(JobError::Environment {
            name: name.to_owned(),
            reason,
        })
    };
    let mut chars = name.chars();
    let starts_well = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return bad("a name is letters, digits and underscores, and does not start with a digit");
    }
    if value.contains('\0') {
        return bad("its value holds a NUL byte");
    }
    if name.len() + value.len() > 32 * 1024 {
        return bad("it is larger than 32 KiB");
    }
    Ok(())
}

fn check_limits(policy: &Policy) -> Result<(), JobError> {
    use crate::limit::{Limit, Millis};
    use std::time::Duration;
    let limits = &policy.limits;
    let zero = |what| {
        Err(JobError::Limit {
            what,
            reason: "0 leaves nothing to run with; give a larger value".into(),
        })
    };
    if limits.cpu_millis == 0 {
        return zero("--cpus");
    }
    if limits.wall_time == Limit::At(Millis(Duration::ZERO)) {
        return zero("--timeout");
    }
    if limits.cpu_time == Limit::At(Millis(Duration::ZERO)) {
        return zero("--cpu-time");
    }
    if policy.clock_granularity.0 > Duration::from_secs(60) {
        return Err(JobError::Limit {
            what: "clock_granularity",
            reason: "it is over 60 s".into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str) -> Program {
        Program {
            source: b"print(1)".to_vec(),
            name: name.to_owned(),
            language: Language::Python,
        }
    }

    fn input(path: &str) -> Input {
        Input {
            path: GuestPath::input(path).unwrap(),
            bytes: Arc::from(*b"x"),
        }
    }

    fn builder() -> JobBuilder {
        JobBuilder::new(RunId::from_bits(7), program("a.py"), Policy::default())
    }

    #[test]
    fn a_plain_job_is_built() {
        let job = builder()
            .inputs(vec![input("/data/a.csv")])
            .build()
            .unwrap();
        assert_eq!(job.id.as_str(), "run-0000000000000007");
    }

    #[test]
    fn input_paths_stay_under_data() {
        for path in [
            "/etc/x",
            "data/x",
            "/data/",
            "/data/../x",
            "/data/a//b",
            "/data/./a",
            "/data/a\n",
        ] {
            assert!(GuestPath::input(path).is_err(), "{path}");
        }
        assert_eq!(
            GuestPath::input("/data/a b/ü.csv").unwrap().file_name(),
            "ü.csv"
        );
    }

    #[test]
    fn two_inputs_cannot_share_a_place() {
        for pair in [["/data/a", "/data/a"], ["/data/a", "/data/a/b"]] {
            let inputs = pair.iter().map(|path| input(path)).collect();
            assert!(
                matches!(
                    builder().inputs(inputs).build(),
                    Err(JobError::InputTwice { .. })
                ),
                "{pair:?}"
            );
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in ["", "1A", "A-B", "A=B"] {
            let env = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
            assert!(builder().env(env).build().is_err(), "{name}");
        }
        for name in ["", "a/b.py", "a\u{1b}[31m.py"] {
            assert!(
                JobBuilder::new(RunId::from_bits(1), program(name), Policy::default())
                    .build()
                    .is_err()
            );
        }
        assert!(
            builder()
                .args(vec!["ok".into(), "a\0b".into()])
                .build()
                .is_err()
        );
    }

    #[test]
    fn a_language_is_told_from_a_name_and_is_written_as_on_the_command_line() {
        for language in Language::ALL {
            assert_eq!(Language::of_file(language.default_file()), Some(language));
            let json = serde_json::to_value(language).unwrap();
            assert_eq!(json, language.name());
        }
        assert_eq!(Language::of_file("a.tar.mjs"), Some(Language::JavaScript));
        for name in ["a", "a.txt", "py", ""] {
            assert_eq!(Language::of_file(name), None, "{name}");
        }
    }

    #[test]
    fn limits_of_zero_are_refused() {
        let mut policy = Policy::default();
        policy.limits.cpu_millis = 0;
        let error = JobBuilder::new(RunId::from_bits(1), program("a.py"), policy)
            .build()
            .unwrap_err();
        assert!(error.to_string().contains("--cpus"), "{error}");
    }
}
