//! Layer 2 for bash: one parse, what the shell would make of the words, the same rules.
//!
//! The parser gives the structure (`tree`); words are taken apart here (`word`) and what they stand for is
//! worked out (`value`, `expand`, `params`), statement by statement (`walk`), with what commands do
//! (`command`, `code`, `tools`, `network`, `paths`). What cannot be known is said to be unknown; it is
//! never passed over.

mod code;
mod command;
mod expand;
mod network;
mod params;
mod paths;
mod shell;
mod tools;
mod tree;
mod value;
mod walk;
mod word;

use std::time::{Duration, Instant};

use casemate_model::finding::{Action, Confidence, Finding, Layer, Severity};
use casemate_model::manifest::{Fact, FileFact, Manifest};
use ruff_text_size::TextRange;

use crate::analyse::{failed, on_thread, unread_guarantees};
use crate::facts::Facts;
use crate::place::Lines;
use crate::preset::Preset;
use crate::rules::Rules;
use crate::unicode::{Hidden, HiddenAt};
use crate::validate::hidden_finding;
use crate::{Analysis, apart};
use shell::{Shell, Spot};
use tree::NoTree;
use value::Value;

/// The longest script. What is longer carries something else.
pub(crate) const MAX_BYTES: usize = 256 * 1024;
/// How long the parser may take.
const PARSE_FOR: Duration = Duration::from_millis(800);

/// What a script does.
struct Read {
    facts: Facts,
    python: Vec<(String, TextRange)>,
    error: Option<TextRange>,
}

/// Analyses a script, in a process of its own where there is one to be had.
pub(crate) fn analyse(source: String, hidden: &[HiddenAt], preset: Preset) -> Analysis {
    apart::ask(&source, preset).unwrap_or_else(|| here(source, hidden, preset))
}

/// Analyses a script on this thread.
pub(crate) fn here(source: String, hidden: &[HiddenAt], preset: Preset) -> Analysis {
    let lines = Lines::new(&source);
    let mut analysis = Analysis::default();
    for at in hidden {
        analysis
            .findings
            .push(hidden_finding(at, &lines, hides(&source, at)));
    }
    let read = match read(&source) {
        Ok(read) => read,
        Err(finding) => {
            analysis.findings.push(*finding);
            return analysis;
        }
    };
    if let Some(range) = read.error {
        analysis.findings.push(syntax_error(range, &lines));
        analysis.guarantees = unread_guarantees();
    }
    Rules::embedded().apply(&read.facts, &lines, preset, &mut analysis);
    Rules::bash().apply(&read.facts, &lines, preset, &mut analysis);
    for (code, range) in read.python {
        let inner = on_thread(code, &[], preset);
        merge(&mut analysis, inner, range, &lines);
    }
    let manifest = std::mem::take(&mut analysis.manifest);
    analysis.manifest = read.facts.into_manifest(&lines);
    add(&mut analysis.manifest, manifest);
    Rules::bash().reword(&mut analysis.findings);
    distinct(&mut analysis.findings);
    analysis
}

/// The facts of a script.
pub(crate) fn facts(source: &str) -> Option<Facts> {
    read(source).ok().map(|read| read.facts)
}

fn read(source: &str) -> Result<Read, Box<Finding>> {
    let parsed = tree::parse(source, Instant::now() + PARSE_FOR)
        .map_err(|error| Box::new(unreadable(error, source)))?;
    let mut facts = Facts::default();
    let mut shell = Shell::new(&mut facts);
    shell.sequence(
        parsed.root_node(),
        source,
        Spot::Slice(0),
        &Value::unknown(0),
    );
    shell.uncalled();
    let whole = tree::first_error(&parsed).map(|(start, end)| Spot::Slice(0).range(start, end));
    let error = whole.or(shell.errors.first().copied());
    let (python, exhausted) = (std::mem::take(&mut shell.python), shell.exhausted);
    facts.exhausted = exhausted;
    Ok(Read {
        facts,
        python,
        error,
    })
}

/// Whether a hidden character stands outside comments and quotes. A quote that runs over lines is not
/// followed: its characters count as hidden in the code.
fn hides(source: &str, at: &HiddenAt) -> bool {
    let line = source
        .get(..at.offset)
        .and_then(|before| before.rsplit('\n').next())
        .unwrap_or("");
    let open = |quote: char| line.matches(quote).count() % 2 == 1;
    let comment = line.trim_start().starts_with('#') || line.contains(" #");
    at.kind == Hidden::Bidirectional || !(open('"') || open('\'') || comment)
}

/// Findings and facts of a Python program inside the script, at the place where it stands.
fn merge(analysis: &mut Analysis, inner: Analysis, range: TextRange, lines: &Lines<'_>) {
    let place = lines.place_of(range);
    let moved = inner.findings.into_iter().map(|mut finding| {
        finding.place = Some(place);
        finding.excerpt = Some(lines.excerpt(place));
        finding
            .chain
            .iter_mut()
            .for_each(|step| step.place = Some(place));
        finding
    });
    analysis.findings.extend(moved);
    analysis.guarantees = analysis.guarantees.union(&inner.guarantees);
    analysis.suppressions += inner.suppressions;
    let mut manifest = inner.manifest;
    for list in lists(&mut manifest) {
        list.iter_mut().for_each(|fact| fact.place = Some(place));
    }
    manifest
        .files
        .iter_mut()
        .for_each(|file| file.place = Some(place));
    add(&mut analysis.manifest, manifest);
}

fn lists(manifest: &mut Manifest) -> [&mut Vec<Fact>; 13] {
    [
        &mut manifest.modules,
        &mut manifest.calls,
        &mut manifest.env,
        &mut manifest.hosts,
        &mut manifest.endpoints,
        &mut manifest.processes,
        &mut manifest.dynamic_code,
        &mut manifest.native_code,
        &mut manifest.deserialisation,
        &mut manifest.introspection,
        &mut manifest.resources,
        &mut manifest.secrets,
        &mut manifest.hidden,
    ]
}

fn add(manifest: &mut Manifest, mut more: Manifest) {
    let mut truncated = manifest.truncated | more.truncated;
    for (list, more) in lists(manifest).into_iter().zip(lists(&mut more)) {
        for fact in std::mem::take(more) {
            Manifest::add(list, &mut truncated, fact);
        }
    }
    for file in std::mem::take(&mut more.files) {
        let file: FileFact = file;
        manifest.add_file(file);
    }
    manifest.truncated |= truncated;
}

/// The same thing at the same place is said once: two sets of rules may see it.
fn distinct(findings: &mut Vec<Finding>) {
    let mut seen = std::collections::HashSet::new();
    findings.retain(|finding| seen.insert((finding.rule.clone(), finding.place)));
}

fn syntax_error(range: TextRange, lines: &Lines<'_>) -> Finding {
    let place = lines.place_of(range);
    Finding {
        rule: "syntax-error".to_owned(),
        layer: Layer::Analysis,
        severity: Severity::Low,
        confidence: Confidence::Medium,
        message: format!("line {} is not bash that can be read", place.line),
        reason: "what cannot be parsed was not analysed in full, so it runs behind every base wall".to_owned(),
        better_way: "correct the syntax at this place (`bash -n FILE` says more), or write it in a plainer form".to_owned(),
        place: Some(place),
        excerpt: Some(lines.excerpt(place)),
        action: Action::Confine,
        chain: Vec::new(),
    }
}

fn unreadable(error: NoTree, source: &str) -> Finding {
    let (line, message) = match error {
        NoTree::Deep(line) => (
            Some(line),
            format!(
                "line {line} is nested deeper than {} levels",
                tree::MAX_DEPTH
            ),
        ),
        NoTree::Slow => (
            None,
            format!("the parser did not end within {} ms", PARSE_FOR.as_millis()),
        ),
        NoTree::Broken => return failed("the parser of bash cannot be used"),
    };
    let lines = Lines::new(source);
    let place =
        line.and_then(|line| u32::try_from(line).ok())
            .map(|line| casemate_model::finding::Place {
                line,
                column: 1,
                end_line: line,
                end_column: 1,
            });
    Finding {
        rule: "too-complex".to_owned(),
        layer: Layer::Validation,
        severity: Severity::High,
        confidence: Confidence::High,
        message,
        reason: "a script that cannot be read in time is not known to be harmless".to_owned(),
        better_way: "split it into functions or smaller scripts; put data into a file and hand it in with --data".to_owned(),
        place,
        excerpt: place.map(|place| lines.excerpt(place)),
        action: Action::Refuse,
        chain: Vec::new(),
    }
}
