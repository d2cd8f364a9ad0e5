//! Rules over facts. They are data (`policies/screen/python.toml`, and `bash.toml` for what only a script of
//! the shell does), each with programs that it must
//! match and programs that it must not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::rc::Rc;
use std::sync::OnceLock;

use casemate_model::finding::{Action, Confidence, Finding, Layer, Severity};
use casemate_model::guarantee::Guarantees;
use casemate_model::manifest::{Access, Certainty};
use foldhash::fast::RandomState;
use regex::Regex;
use ruff_python_parser::Mode;
use ruff_text_size::{TextRange, TextSize};
use serde::Deserialize;
use thiserror::Error;

use crate::Analysis;
use crate::analyse::parse_in;
use crate::commands::forms;
use crate::facts::{self, Facts, Link, Use, steps};
use crate::place::Lines;
use crate::preset::Preset;

const EMBEDDED: &str = include_str!("../../../policies/screen/python.toml");
const EMBEDDED_BASH: &str = include_str!("../../../policies/screen/bash.toml");

/// The most findings one rule adds; the first ones say it all.
const MAX_PER_RULE: usize = 10;

/// Why a file of rules cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuleError {
    /// It is not TOML of this form.
    #[error("the rules cannot be read: {0}")]
    Form(String),
    /// A rule contradicts itself.
    #[error("rule {rule}: {reason}")]
    Rule {
        /// Its name.
        rule: String,
        /// What is wrong.
        reason: String,
    },
    /// An example does not behave.
    #[error("rule {rule} {verb} this example: {example:?}")]
    Example {
        /// The rule's name.
        rule: String,
        /// `does not match` or `matches`.
        verb: &'static str,
        /// The example.
        example: String,
    },
}

/// Checks a text of rules and every example in it; the number of rules.
///
/// # Errors
/// The first rule that is malformed or whose examples do not behave.
pub fn check_rules(text: &str) -> Result<usize, RuleError> {
    let rules = Rules::parse(text)?;
    for rule in &rules.rules {
        rule.check_patterns()?;
        rule.check_examples(rules.language)?;
    }
    Ok(rules.rules.len())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    /// The language of the examples.
    #[serde(default)]
    language: Examples,
    /// Better ways in this language for rules of another file, by their names.
    #[serde(default)]
    better_way: BTreeMap<String, String>,
    rule: Vec<RuleForm>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Examples {
    #[default]
    Python,
    Bash,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleForm {
    id: String,
    severity: Severity,
    #[serde(default = "high")]
    confidence: Confidence,
    action: Action,
    #[serde(default)]
    guarantees: Guarantees,
    message: String,
    reason: String,
    better_way: String,
    #[serde(rename = "match")]
    patterns: PatternForm,
    matching: Vec<String>,
    non_matching: Vec<String>,
}

fn high() -> Confidence {
    Confidence::High
}

/// What a rule looks for. The keys of one rule are alternatives, except those that narrow another:
/// `argument`, `keyword`, `carries`, `in_loop`, `relentless`, `awake` and `constant` narrow `call`, and `access` narrows `path`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PatternForm {
    /// Qualified names that are called or passed on.
    call: Vec<String>,
    /// Only calls, not names that are passed on.
    called_only: bool,
    argument: Option<String>,
    keyword: Vec<String>,
    carries: Vec<String>,
    in_loop: bool,
    /// Only in a loop without an end and without a pause.
    relentless: bool,
    /// Not in a function that nothing in the program calls.
    awake: bool,
    constant: Option<bool>,
    import: Vec<String>,
    path: Vec<String>,
    access: Vec<Access>,
    env: Vec<String>,
    process: Option<String>,
    any_process: bool,
    /// Names of acts of the shell.
    act: Vec<String>,
    any_host: bool,
    host: Vec<String>,
    native: bool,
    attribute: Vec<String>,
    /// The whole environment at once.
    whole_environment: bool,
    /// Some text of the program fits this too.
    and_string: Option<String>,
    resource: Vec<String>,
    deserialisation: bool,
    secret: bool,
    hidden: bool,
    string: Option<String>,
    text: Option<String>,
    /// Groups of qualified names; the program uses one of each.
    together: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Rule {
    form: RuleForm,
    argument: Option<Pattern>,
    process: Option<Pattern>,
    string: Option<Pattern>,
    text: Option<Pattern>,
    and_string: Option<Pattern>,
}

/// A regular expression, compiled when a program has something to hold against it: all of them take longer than most
/// programs take to be looked at.
#[derive(Debug)]
struct Pattern {
    source: String,
    compiled: OnceLock<Regex>,
}

/// All rules of a file.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    language: Examples,
    better_way: BTreeMap<String, String>,
}

/// One match: where, how sure, and what was seen.
struct Hit {
    range: TextRange,
    certainty: Certainty,
    seen: String,
    chain: Vec<Link>,
}

impl Rules {
    /// The rules in this binary. Their examples are checked by the tests, over the same bytes.
    pub(crate) fn embedded() -> &'static Self {
        static RULES: OnceLock<Rules> = OnceLock::new();
        RULES.get_or_init(|| match Self::parse(EMBEDDED) {
            Ok(rules) => rules,
            // The analysis thread turns this into a refusal; a test keeps it from shipping.
            Err(error) => panic!("the embedded rules: {error}"),
        })
    }

    /// The rules for what only a script of the shell does.
    pub(crate) fn bash() -> &'static Self {
        static RULES: OnceLock<Rules> = OnceLock::new();
        RULES.get_or_init(|| match Self::parse(EMBEDDED_BASH) {
            Ok(rules) => rules,
            // As above.
            Err(error) => panic!("the embedded rules for bash: {error}"),
        })
    }

    /// Says what to do instead in this language.
    pub(crate) fn reword(&self, findings: &mut [Finding]) {
        for finding in findings {
            if let Some(way) = self.better_way.get(&finding.rule) {
                finding.better_way.clone_from(way);
            }
        }
    }

    fn parse(text: &str) -> Result<Self, RuleError> {
        let file: RuleFile =
            toml::from_str(text).map_err(|error| RuleError::Form(error.to_string()))?;
        let mut seen = std::collections::HashSet::new();
        let mut rules = Vec::new();
        for form in file.rule {
            if !seen.insert(form.id.clone()) {
                return Err(RuleError::Rule {
                    rule: form.id,
                    reason: "the name is taken twice".to_owned(),
                });
            }
            rules.push(Rule::compile(form)?);
        }
        Ok(Self {
            rules,
            language: file.language,
            better_way: file.better_way,
        })
    }

    /// Adds what the rules find to an analysis.
    pub(crate) fn apply(
        &self,
        facts: &Facts,
        lines: &Lines<'_>,
        preset: Preset,
        analysis: &mut Analysis,
    ) {
        if facts.exhausted {
            analysis.findings.push(incomplete());
        }
        let uses = Uses::of(facts);
        for rule in &self.rules {
            let hits = rule.hits(facts, &uses);
            if hits.is_empty() {
                continue;
            }
            let action = preset.action(&rule.form.id, rule.form.action);
            if action == Action::Confine {
                let walls = match rule.form.action {
                    Action::Confine => rule.form.guarantees.clone(),
                    _ => crate::analyse::unread_guarantees(),
                };
                analysis.guarantees = analysis.guarantees.union(&walls);
            }
            let findings = hits.iter().take(MAX_PER_RULE).map(|hit| Finding {
                action,
                ..rule.finding(hit, lines)
            });
            analysis.findings.extend(findings);
        }
    }
}

fn incomplete() -> Finding {
    Finding {
        rule: "too-complex".to_owned(),
        message: "names and texts in this program build on each other too deeply to follow"
            .to_owned(),
        reason: "a program that could not be followed is not known to be harmless".to_owned(),
        better_way: "write values where they are used".to_owned(),
        ..crate::analyse::failed("")
    }
}

/// The uses of each name: a name is matched once, however often it is used. In order, so that the same
/// program gets the same words every time.
struct Uses<'f> {
    by_name: BTreeMap<Rc<str>, Vec<&'f Use>>,
    /// How the names begin, up to their first dot: most patterns begin otherwise.
    roots: HashSet<Rc<str>, RandomState>,
}

impl<'f> Uses<'f> {
    fn of(facts: &'f Facts) -> Self {
        let mut uses: HashMap<&Rc<str>, Vec<&Use>, RandomState> = HashMap::default();
        for used in &facts.uses {
            uses.entry(&used.name).or_default().push(used);
        }
        let uses = uses.into_iter();
        let by_name: BTreeMap<_, _> = uses.map(|(name, uses)| (Rc::clone(name), uses)).collect();
        let roots = by_name.keys().filter_map(|name| name.split_once('.'));
        let roots = roots.map(|(root, _)| root.into()).collect();
        Self { by_name, roots }
    }
}

impl Rule {
    fn compile(form: RuleForm) -> Result<Self, RuleError> {
        let bad = |reason: &str| RuleError::Rule {
            rule: form.id.clone(),
            reason: reason.to_owned(),
        };
        if form.matching.is_empty() || form.non_matching.is_empty() {
            return Err(bad("it needs matching and non-matching examples"));
        }
        if (form.action == Action::Confine) == form.guarantees.is_empty() {
            return Err(bad("`confine` needs guarantees, and nothing else has them"));
        }
        if form.reason.is_empty() || form.better_way.is_empty() || form.message.is_empty() {
            return Err(bad("it needs a message, a reason and a better way"));
        }
        let patterns = &form.patterns;
        let pattern = |source: &Option<String>| source.clone().map(Pattern::new);
        let (argument, process) = (pattern(&patterns.argument), pattern(&patterns.process));
        let (string, text) = (pattern(&patterns.string), pattern(&patterns.text));
        let and_string = pattern(&patterns.and_string);
        Ok(Self {
            form,
            argument,
            process,
            string,
            text,
            and_string,
        })
    }

    fn check_patterns(&self) -> Result<(), RuleError> {
        let all = [
            &self.argument,
            &self.process,
            &self.string,
            &self.text,
            &self.and_string,
        ];
        for pattern in all.into_iter().flatten() {
            pattern.compile().map_err(|error| RuleError::Rule {
                rule: self.form.id.clone(),
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }

    fn check_examples(&self, language: Examples) -> Result<(), RuleError> {
        let error = |verb, example: &String| RuleError::Example {
            rule: self.form.id.clone(),
            verb,
            example: example.clone(),
        };
        if let Some(example) = self
            .form
            .matching
            .iter()
            .find(|example| !self.matches(example, language))
        {
            return Err(error("does not match", example));
        }
        match self
            .form
            .non_matching
            .iter()
            .find(|example| self.matches(example, language))
        {
            Some(example) => Err(error("matches", example)),
            None => Ok(()),
        }
    }

    fn matches(&self, source: &str, language: Examples) -> bool {
        if let Examples::Bash = language {
            let facts = crate::bash::facts(source);
            return facts.is_some_and(|facts| !self.hits(&facts, &Uses::of(&facts)).is_empty());
        }
        let parsed = parse_in(source, Mode::Ipython);
        parsed.is_ok_and(|parsed| {
            let facts = facts::collect(parsed.syntax(), parsed.tokens(), source);
            !self.hits(&facts, &Uses::of(&facts)).is_empty()
        })
    }

    fn hits(&self, facts: &Facts, uses: &Uses<'_>) -> Vec<Hit> {
        let patterns = &self.form.patterns;
        let mut hits = Vec::new();
        self.calls(uses, &mut hits);
        self.together(uses, &mut hits);
        seen(&facts.modules, &mut hits, |value| {
            is_inside(value, &patterns.import)
        });
        seen(&facts.env, &mut hits, |value| {
            any(&patterns.env, value) || patterns.whole_environment && value == "*"
        });
        seen(&facts.resources, &mut hits, |value| {
            any(&patterns.resource, value)
        });
        seen(&facts.deserialisation, &mut hits, |_| {
            patterns.deserialisation
        });
        seen(&facts.secrets, &mut hits, |_| patterns.secret);
        seen(&facts.hidden, &mut hits, |_| patterns.hidden);
        let hosts = facts.hosts.iter();
        let hosts = hosts.filter(|host| host.certainty > Certainty::Possible);
        seen(hosts, &mut hits, |value| {
            patterns.any_host || any(&patterns.host, value)
        });
        seen(&facts.native, &mut hits, |_| patterns.native);
        seen(&facts.attributes, &mut hits, |value| {
            any(&patterns.attribute, value)
        });
        let started = |value: &str| {
            self.process.as_ref().is_some_and(|regex| {
                let mut forms = forms(value).into_iter();
                forms.any(|form| regex.get().is_match(&form))
            })
        };
        let acts = facts
            .acts
            .iter()
            .filter(|(name, _)| any(&patterns.act, name));
        seen(acts.map(|(_, seen)| seen), &mut hits, |_| true);
        seen(&facts.processes, &mut hits, |value| {
            patterns.any_process || started(value)
        });
        if let Some(regex) = &self.string {
            seen(&facts.strings, &mut hits, |value| {
                regex.get().is_match(value) && !prose(value)
            });
        }
        self.files(facts, &mut hits);
        self.texts(facts, &mut hits);
        if let Some(regex) = &self.and_string
            && !hits.is_empty()
            && !facts
                .strings
                .iter()
                .any(|seen| regex.get().is_match(&seen.value))
        {
            hits.clear();
        }
        hits.sort_by_key(|hit| (hit.range.start(), hit.range.end()));
        hits.dedup_by_key(|hit| hit.range);
        hits
    }

    fn calls(&self, uses: &Uses<'_>, hits: &mut Vec<Hit>) {
        let patterns = &self.form.patterns;
        if patterns.call.is_empty() {
            return;
        }
        let mut fitting: BTreeMap<&Rc<str>, &Vec<&Use>> = BTreeMap::new();
        for pattern in &patterns.call {
            let head = pattern.split(['*', '?']).next().unwrap_or("");
            if let Some((root, _)) = head.split_once('.')
                && !uses.roots.contains(root)
            {
                continue;
            }
            // The names are in order: those that begin as the pattern does stand together.
            let from = (Bound::Included(head), Bound::Unbounded);
            let near = uses.by_name.range::<str, _>(from);
            let near = near.take_while(|(name, _)| name.starts_with(head));
            // What is done with the result of a call is matched where a pattern speaks of it; a
            // mention of such a result is not another use of the function.
            let of_result = pattern.contains('(') || pattern.contains(".*.");
            let fits = |name: &str| {
                (of_result || !name.contains('(')) && glob(pattern.as_bytes(), name.as_bytes())
            };
            fitting.extend(near.filter(|(name, _)| fits(name)));
        }
        for used in fitting.values() {
            let narrowed = used.iter().filter(|used| self.narrowed(used));
            hits.extend(narrowed.map(|used| hit(used)));
        }
    }

    fn narrowed(&self, used: &Use) -> bool {
        let patterns = &self.form.patterns;
        let needs_call = patterns.called_only
            || patterns.argument.is_some()
            || !patterns.keyword.is_empty()
            || !patterns.carries.is_empty();
        (used.called || !needs_call)
            && self
                .argument
                .as_ref()
                .is_none_or(|regex| used.texts.iter().any(|text| regex.get().is_match(text)))
            && (patterns.keyword.is_empty()
                || used
                    .keywords
                    .iter()
                    .any(|keyword| any(&patterns.keyword, keyword)))
            && (patterns.carries.is_empty()
                || used
                    .carries
                    .iter()
                    .any(|carried| any(&patterns.carries, carried)))
            && (!patterns.in_loop || used.loops > 0)
            && (!patterns.relentless || used.relentless)
            && (!patterns.awake || !used.dormant)
            && patterns
                .constant
                .is_none_or(|wanted| used.constant == Some(wanted))
    }

    /// A program that uses one name of every group; the place is that of the last group's.
    fn together(&self, uses: &Uses<'_>, hits: &mut Vec<Hit>) {
        let groups = &self.form.patterns.together;
        if groups.is_empty() {
            return;
        }
        let first_of = |group: &Vec<String>| {
            let fitting = uses
                .by_name
                .iter()
                .filter(|(name, _)| any(group, name))
                .flat_map(|(_, used)| used.iter());
            fitting.min_by_key(|used| used.range.start())
        };
        let found: Option<Vec<_>> = groups.iter().map(first_of).collect();
        if let Some(last) = found.as_ref().and_then(|found| found.last()) {
            hits.push(hit(last));
        }
    }

    fn files(&self, facts: &Facts, hits: &mut Vec<Hit>) {
        let patterns = &self.form.patterns;
        if patterns.path.is_empty() {
            return;
        }
        for file in &facts.files {
            let asked = patterns.access.is_empty() || patterns.access.contains(&file.access);
            if asked && any(&patterns.path, &plain_path(&file.path)) {
                hits.push(Hit {
                    range: file.range,
                    certainty: file.certainty,
                    seen: file.path.clone(),
                    chain: file.chain.clone(),
                });
            }
        }
    }

    fn texts(&self, facts: &Facts, hits: &mut Vec<Hit>) {
        let Some(regex) = &self.text else { return };
        for found in regex.get().find_iter(&facts.code).take(MAX_PER_RULE) {
            let start = TextSize::try_from(found.start()).unwrap_or_default();
            let end = TextSize::try_from(found.end()).unwrap_or_default();
            let range = TextRange::new(start, end.max(start));
            hits.push(Hit {
                range,
                certainty: Certainty::Possible,
                seen: found.as_str().to_owned(),
                chain: Vec::new(),
            });
        }
    }

    fn finding(&self, hit: &Hit, lines: &Lines<'_>) -> Finding {
        let form = &self.form;
        let place = lines.place_of(hit.range);
        let sure = match hit.certainty {
            Certainty::Certain => Confidence::High,
            Certainty::Likely => Confidence::Medium,
            Certainty::Possible => Confidence::Low,
        };
        let seen: String = hit
            .seen
            .chars()
            .take(80)
            .map(casemate_model::finding::visible)
            .collect();
        Finding {
            rule: form.id.clone(),
            layer: Layer::Analysis,
            severity: form.severity,
            confidence: form.confidence.min(sure),
            message: form.message.replace("{seen}", &seen),
            reason: form.reason.clone(),
            better_way: form.better_way.clone(),
            place: Some(place),
            excerpt: Some(lines.excerpt(place)),
            action: form.action,
            chain: steps(&hit.chain, lines),
        }
    }
}

impl Pattern {
    const fn new(source: String) -> Self {
        Self {
            source,
            compiled: OnceLock::new(),
        }
    }

    /// Word boundaries are those of ASCII: the fast engine of the crate cannot do the others, and what the
    /// rules look for is ASCII.
    fn compile(&self) -> Result<Regex, regex::Error> {
        Regex::new(&self.source.replace(r"\b", r"(?-u:\b)"))
    }

    fn get(&self) -> &Regex {
        self.compiled.get_or_init(|| match self.compile() {
            Ok(regex) => regex,
            // As with rules that cannot be read: a refusal, and a test keeps it from shipping.
            Err(error) => panic!("the embedded rules: {error}"),
        })
    }
}

fn hit(used: &Use) -> Hit {
    Hit {
        range: used.range,
        certainty: used.certainty,
        seen: used.name.to_string(),
        chain: used.chain.clone(),
    }
}

fn seen<'f>(
    list: impl IntoIterator<Item = &'f facts::Seen>,
    hits: &mut Vec<Hit>,
    wanted: impl Fn(&str) -> bool,
) {
    let fitting = list.into_iter().filter(|seen| wanted(&seen.value));
    hits.extend(fitting.map(|seen| Hit {
        range: seen.range,
        certainty: seen.certainty,
        seen: seen.value.to_string(),
        chain: seen.chain.clone(),
    }));
}

fn any(patterns: &[String], value: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| glob(pattern.as_bytes(), value.as_bytes()))
}

/// Whether a text speaks to people: mostly plain words, in sentences. Commands and code are full of
/// other things, so a long text that warns of an attack is not one.
fn prose(text: &str) -> bool {
    let plain = |word: &&str| {
        let word = word.trim_end_matches(['.', ',', ':', ';', '!', '?']);
        word.chars()
            .all(|c| c.is_alphabetic() || matches!(c, '\'' | '-' | '’'))
    };
    let words = text.split_whitespace().count();
    words >= 10
        && text.split_whitespace().filter(plain).count() * 10 >= words * 6
        && text.trim_end().ends_with(['.', '!', '?'])
}

/// Whether a module is one of these or inside one of them.
fn is_inside(module: &str, roots: &[String]) -> bool {
    roots.iter().any(|root| {
        module
            .strip_prefix(root.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// `*` stands for any text, `?` for one byte. Linear in both but for the last `*`, where it steps back.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Nearly every pattern is a name that starts with another letter than the text.
    if let (Some(wanted), Some(byte)) = (pattern.first(), text.first())
        && wanted != byte
        && !matches!(wanted, b'*' | b'?')
    {
        return false;
    }
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&wanted) if wanted == byte || wanted == b'?' => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .unwrap_or_default()
        .iter()
        .all(|&byte| byte == b'*')
}

/// A path without `.` parts, doubled slashes and `..` that can be taken back. Hidden files in the home
/// of any user are below `~`.
fn plain_path(path: &str) -> String {
    let path = path.strip_prefix("file://").unwrap_or(path);
    let mut parts: Vec<&str> = Vec::new();
    for part in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        if part == ".." && parts.last().is_some_and(|last| *last != "..") {
            parts.pop();
        } else if part != ".." || !path.starts_with('/') {
            parts.push(part);
        }
    }
    let hidden = |rest: &[&str]| rest.first().is_some_and(|first| first.starts_with('.'));
    let home = match (path.starts_with('/'), parts.as_slice()) {
        (true, ["home" | "Users", _, rest @ ..] | ["root", rest @ ..]) if hidden(rest) => {
            Some(rest)
        }
        (false, ["$HOME" | "${HOME}", rest @ ..]) => Some(rest),
        (false, [first, rest @ ..]) if first.starts_with('~') => Some(rest),
        _ => None,
    };
    match home {
        Some(rest) => format!("~/{}", rest.join("/")),
        None if path.starts_with('/') => format!("/{}", parts.join("/")),
        None => parts.join("/"),
    }
}

#[cfg(test)]
mod tests;
