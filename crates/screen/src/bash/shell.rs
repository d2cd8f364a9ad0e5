//! The shell as far as it is followed: variables, functions, files that the script itself writes, and
//! what is left of the bounds.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use casemate_model::manifest::{Access, Certainty};
use ruff_text_size::{TextRange, TextSize};

use super::tree::{self, NoTree};
use super::value::{Field, Value};
use crate::facts::{Facts, Link, Seen, SeenFile};
use crate::gaps::GAP;

/// Commands and words that are looked at in one script.
const STEPS: u64 = 120_000;
/// How long they are looked at: well within the deadline of an analysis.
const LOOK_FOR: Duration = Duration::from_millis(1000);
/// Scripts in scripts: `bash -c`, `eval`, substitutions, functions.
const MAX_DEPTH: usize = 24;
/// Bytes of scripts in scripts that are parsed.
const MAX_INNER: usize = 2 * 1024 * 1024;
/// Python programs in a script that are analysed.
pub(super) const MAX_PYTHON: usize = 16;
/// Facts of one kind that are kept.
const MAX_FACTS: usize = 4096;

/// Where the text that is read stands in the script.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spot {
    /// It is a slice that starts here.
    Slice(usize),
    /// It was put together; this is what made it.
    Made(TextRange),
}

impl Spot {
    /// The place of a part of the text.
    pub(super) fn range(self, start: usize, end: usize) -> TextRange {
        match self {
            Self::Made(range) => range,
            Self::Slice(base) => {
                let size =
                    |n: usize| TextSize::try_from(base.saturating_add(n)).unwrap_or_default();
                TextRange::new(size(start), size(end.max(start)))
            }
        }
    }

    /// The spot of a part of the text that starts there.
    pub(super) fn inner(self, start: usize) -> Self {
        match self {
            Self::Made(range) => Self::Made(range),
            Self::Slice(base) => Self::Slice(base.saturating_add(start)),
        }
    }
}

/// A variable.
#[derive(Debug, Clone)]
pub(super) enum Var {
    One(Value),
    Many(Vec<Value>),
}

/// What one shell knows; a subshell gets a copy.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    pub(super) vars: HashMap<String, Var>,
    pub(super) functions: HashMap<String, (Rc<str>, Spot)>,
    pub(super) aliases: HashMap<String, String>,
    /// The folder, relative to where the script starts unless it starts with a slash; nothing when it is
    /// not known.
    pub(super) folder: Option<String>,
    /// `$1` and so on; nothing when they are not known.
    pub(super) args: Option<Vec<Field>>,
}

/// A function that is being followed.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) name: String,
    background: usize,
    piped: usize,
}

/// The state of the walk.
pub(super) struct Shell<'f> {
    pub(super) facts: &'f mut Facts,
    pub(super) scope: Rc<Scope>,
    /// Files that the script writes, by path.
    pub(super) files: HashMap<String, Value>,
    /// Python programs and where they stand.
    pub(super) python: Vec<(String, TextRange)>,
    /// Where a script inside the script is not bash.
    pub(super) errors: Vec<TextRange>,
    pub(super) until: Instant,
    steps: u64,
    inner: usize,
    depth: usize,
    /// How many branches and loops are around: what is assigned there may not be.
    pub(super) weak: usize,
    pub(super) background: usize,
    pub(super) piped: usize,
    pub(super) loops: usize,
    /// Whether a loop around has no end and no pause.
    pub(super) relentless: bool,
    pub(super) active: Vec<Active>,
    /// Functions that were called, by name.
    pub(super) called: Vec<String>,
    /// What led here.
    pub(super) trail: Vec<Link>,
    pub(super) exhausted: bool,
    /// What is written to each numbered descriptor that `exec` opened for another machine.
    pub(super) connected: bool,
}

impl<'f> Shell<'f> {
    pub(super) fn new(facts: &'f mut Facts) -> Self {
        Self {
            facts,
            scope: Rc::new(Scope {
                folder: Some(String::new()),
                ..Scope::default()
            }),
            files: HashMap::new(),
            python: Vec::new(),
            errors: Vec::new(),
            until: Instant::now() + LOOK_FOR,
            steps: STEPS,
            inner: 0,
            depth: 0,
            weak: 0,
            background: 0,
            piped: 0,
            loops: 0,
            relentless: false,
            active: Vec::new(),
            called: Vec::new(),
            trail: Vec::new(),
            exhausted: false,
            connected: false,
        }
    }

    /// Takes one step; false when there is none left.
    pub(super) fn step(&mut self) -> bool {
        self.steps = self.steps.saturating_sub(1);
        if self.steps == 0 || self.steps.is_multiple_of(64) && Instant::now() >= self.until {
            self.steps = 0;
            self.exhausted = true;
        }
        !self.exhausted
    }

    pub(super) fn scope(&mut self) -> &mut Scope {
        Rc::make_mut(&mut self.scope)
    }

    /// Reads a script inside the script, in this shell. What it writes to its output.
    pub(super) fn script(&mut self, text: &str, spot: Spot, stdin: &Value) -> Value {
        if text.trim().is_empty() {
            return Value::empty();
        }
        self.inner = self.inner.saturating_add(text.len());
        if self.depth >= MAX_DEPTH || self.inner > MAX_INNER || !self.step() {
            self.exhausted = true;
            return Value::unknown(0);
        }
        let parsed = match tree::parse(text, self.until) {
            Ok(parsed) => parsed,
            Err(NoTree::Deep(_) | NoTree::Slow | NoTree::Broken) => {
                self.exhausted = true;
                return Value::unknown(0);
            }
        };
        if let Some((start, end)) = tree::first_error(&parsed) {
            self.errors.push(spot.range(start, end));
        }
        self.depth += 1;
        let out = self.sequence(parsed.root_node(), text, spot, stdin);
        self.depth -= 1;
        out
    }

    /// The same in a shell of its own: what it assigns is gone afterwards.
    pub(super) fn apart<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let outer = Rc::clone(&self.scope);
        let made = work(self);
        self.scope = outer;
        made
    }

    /// The same in the branches of a statement: it may not happen.
    pub(super) fn perhaps<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        self.weak += 1;
        let made = work(self);
        self.weak -= 1;
        made
    }

    /// Reads a script with a step that says what it is.
    pub(super) fn led<T>(
        &mut self,
        what: &str,
        range: TextRange,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.trail.push(Link {
            what: what.into(),
            range,
        });
        let made = work(self);
        self.trail.pop();
        made
    }

    pub(super) fn seen(&self, value: &str, range: TextRange) -> Seen {
        let certainty = if value.contains(GAP) {
            Certainty::Likely
        } else {
            Certainty::Certain
        };
        Seen {
            value: value.chars().take(2000).collect::<String>().into(),
            range,
            certainty,
            chain: self.trail.clone(),
        }
    }

    /// Whether there is room for one more fact of a kind that so many are kept of. One that is left out is said
    /// to be.
    fn room(&mut self, kept: usize) -> bool {
        self.exhausted |= kept >= MAX_FACTS;
        kept < MAX_FACTS
    }

    /// Says that the script does something that only the shell's own rules have a word for.
    pub(super) fn act(&mut self, name: &'static str, what: &str, range: TextRange) {
        if self.room(self.facts.acts.len()) {
            let seen = self.seen(what, range);
            self.facts.acts.push((name, seen));
        }
    }

    pub(super) fn process(&mut self, command: &str, range: TextRange) {
        if self.room(self.facts.processes.len()) {
            let seen = self.seen(command, range);
            self.facts.processes.push(seen);
        }
    }

    pub(super) fn string(&mut self, text: &str, range: TextRange) {
        if text.len() > 2 && self.room(self.facts.strings.len()) {
            let mut seen = self.seen("", range);
            seen.value = text.into();
            self.facts.strings.push(seen);
        }
    }

    pub(super) fn host(&mut self, host: &str, endpoint: Option<String>, range: TextRange) {
        if self.room(self.facts.hosts.len()) {
            let host = if host.is_empty() || host == GAP {
                "?"
            } else {
                host
            };
            let seen = self.seen(host, range);
            self.facts.hosts.push(seen);
            if let Some(endpoint) = endpoint {
                let seen = self.seen(&endpoint, range);
                self.facts.endpoints.push(seen);
            }
        }
    }

    pub(super) fn variable_read(&mut self, name: &str, range: TextRange) {
        let known = self.facts.env.iter().any(|seen| &*seen.value == name);
        if !known && self.room(self.facts.env.len()) {
            let seen = self.seen(name, range);
            self.facts.env.push(seen);
        }
    }

    /// Says that a file is used; its path below the folder that the script is in by then.
    pub(super) fn file(&mut self, field: &Field, access: Access, range: TextRange) {
        let written = field.text.as_str();
        if written.is_empty()
            || written.contains('\n')
            || written.chars().all(|c| c == '…')
            || written.starts_with("/dev/fd/")
            || matches!(
                written,
                "-" | "/dev/null" | "/dev/stdin" | "/dev/stdout" | "/dev/stderr" | "/dev/tty"
            )
        {
            return;
        }
        if !self.room(self.facts.files.len()) {
            return;
        }
        let path = self.place_of(written);
        let mut paths = vec![path.clone()];
        if field.glob {
            paths.extend(super::paths::fitting(&path).map(str::to_owned));
        }
        for path in paths {
            let certainty = if path.contains(GAP) {
                Certainty::Likely
            } else {
                Certainty::Certain
            };
            self.facts.files.push(SeenFile {
                path,
                access,
                range,
                certainty,
                chain: self.trail.clone(),
            });
        }
    }

    /// A path below the folder that the script is in.
    pub(super) fn place_of(&self, path: &str) -> String {
        match &self.scope.folder {
            Some(folder) if !folder.is_empty() && !path.starts_with(['/', '~', '…', '$']) => {
                format!("{folder}/{path}")
            }
            _ => path
                .strip_prefix("./")
                .filter(|rest| !rest.is_empty())
                .unwrap_or(path)
                .to_owned(),
        }
    }

    /// Follows a function; its output. A function that starts itself in the background or in a
    /// pipeline is a bomb.
    pub(super) fn function(
        &mut self,
        name: &str,
        args: &[Field],
        stdin: &Value,
        range: TextRange,
    ) -> Option<Value> {
        let (body, spot) = self.scope.functions.get(name).cloned()?;
        if !self.called.iter().any(|called| called == name) {
            self.called.push(name.to_owned());
        }
        if let Some(active) = self.active.iter().find(|active| active.name == name) {
            if self.background > active.background || self.piped > active.piped {
                self.act("forks", name, range);
            }
            return Some(Value::unknown(0));
        }
        self.active.push(Active {
            name: name.to_owned(),
            background: self.background,
            piped: self.piped,
        });
        let outer = self.scope().args.replace(args.to_vec());
        let out = self.script(&body, spot, stdin);
        self.scope().args = outer;
        self.active.pop();
        Some(out)
    }

    /// Follows the functions that nothing called: whoever sources the script may.
    pub(super) fn uncalled(&mut self) {
        let mut names: Vec<String> = self.scope.functions.keys().cloned().collect();
        names.sort();
        for name in names {
            if !self.called.contains(&name)
                && let Some((body, spot)) = self.scope.functions.get(&name).cloned()
            {
                self.called.push(name.clone());
                self.scope().args = None;
                self.active.push(Active {
                    name,
                    background: self.background,
                    piped: self.piped,
                });
                self.apart(|shell| shell.script(&body, spot, &Value::unknown(0)));
                self.active.pop();
            }
        }
    }

    pub(super) fn assign(&mut self, name: &str, value: Value, append: bool, range: TextRange) {
        for text in value.known() {
            if crate::smells::secret(name, text) {
                let seen = self.seen(name, range);
                self.facts.secrets.push(seen);
                break;
            }
        }
        if value.taint & super::value::DECODED == 0 {
            for text in value.texts.clone() {
                self.string(&text, range);
            }
        }
        self.hooks(name, &value, range);
        let weak = self.weak > 0;
        let old = self.scope.vars.get(name).cloned();
        let mut new = match (&old, append) {
            (Some(Var::One(old)), true) => old.then(&value),
            _ => value,
        };
        if let (true, Some(Var::One(old))) = (weak, &old) {
            let newest = new;
            new = old.clone();
            new.or(&newest);
        }
        self.scope().vars.insert(name.to_owned(), Var::One(new));
    }

    /// Variables that the shell, the loader or a program runs or loads.
    fn hooks(&mut self, name: &str, value: &Value, range: TextRange) {
        match name {
            "LD_PRELOAD" | "LD_LIBRARY_PATH" | "LD_AUDIT" => {
                let seen = self.seen(name, range);
                self.facts.native.push(seen);
            }
            "PROMPT_COMMAND" | "PS0" | "PS1" | "PS4" | "GIT_SSH_COMMAND" | "PAGER" | "EDITOR"
            | "LESSOPEN" => self.run_value(value, name, range),
            "BASH_ENV" | "ENV" => self.act("runs-unknown", name, range),
            _ => {}
        }
    }
}
