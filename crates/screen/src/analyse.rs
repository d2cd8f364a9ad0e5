//! Layer 2 on a thread of its own: one parse, the facts, the rules, Bandit, within a deadline.

use std::panic;
use std::time::Duration;

use casemate_model::finding::{Action, Confidence, Finding, Layer, Severity};
use casemate_model::guarantee::{Guarantee, Guarantees};
use ruff_python_ast::token::{TokenKind, Tokens};
use ruff_python_ast::{ModModule, PySourceType};
use ruff_python_parser::{Mode, ParseOptions, Parsed, parse_unchecked};
use ruff_text_size::TextSize;

use crate::bounds::{self, Excess};
use crate::place::Lines;
use crate::preset::Preset;
use crate::rules::Rules;
use crate::threads::{self, Failed};
use crate::unicode::{Hidden, HiddenAt};
use crate::validate::{Text, hidden_finding};
use crate::{Analysis, bandit, facts};

/// The analysis of one language, as it runs on the thread.
pub(crate) type Work = fn(String, &[HiddenAt], Preset) -> Analysis;

/// A finding for a program that was not understood. It refuses: nothing is clean by failing.
pub(crate) fn failed(message: &str) -> Finding {
    Finding {
        rule: "analysis-failed".to_owned(),
        layer: Layer::Analysis,
        severity: Severity::High,
        confidence: Confidence::Low,
        message: message.to_owned(),
        reason: "a program that could not be analysed is not known to be harmless".to_owned(),
        better_way: "please report the program; --screen warn runs it behind the walls alone"
            .to_owned(),
        place: None,
        excerpt: None,
        action: Action::Refuse,
        chain: Vec::new(),
    }
}

/// Analyses a text on a thread of its own. A panic there, or no answer in time, is a refusal.
pub(crate) fn analyse(
    text: Text<'_>,
    deadline: Duration,
    preset: Preset,
    language: Work,
) -> Analysis {
    threads::run(deadline, work(text, preset, language))
        .unwrap_or_else(|why| alone(unanswered(&why, deadline)))
}

fn work(text: Text<'_>, preset: Preset, language: Work) -> impl FnOnce() -> Analysis + use<> {
    let (source, hidden) = (text.text.to_owned(), text.hidden);
    move || language(source, &hidden, preset)
}

fn unanswered(why: &Failed, deadline: Duration) -> Finding {
    match why {
        Failed::NoThread => failed("no thread could be started for the analysis"),
        Failed::BrokeOff => failed("the analysis broke off"),
        Failed::Late => too_slow(deadline),
    }
}

fn alone(finding: Finding) -> Analysis {
    Analysis {
        findings: vec![finding],
        ..Analysis::default()
    }
}

/// The analysis of Python.
pub(crate) fn on_thread(source: String, hidden: &[HiddenAt], preset: Preset) -> Analysis {
    let (parsed, kind) = match parse(&source) {
        Ok(parsed) => parsed,
        Err(excess) => return alone(too_complex(&excess, &source)),
    };
    let lines = Lines::new(&source);
    let mut analysis = Analysis::default();
    hidden_characters(hidden, parsed.tokens(), &lines, &mut analysis);
    if let Some(error) = parsed.errors().first() {
        analysis.findings.push(syntax_error(
            &error.error.to_string(),
            lines.place_of(error.location),
            &lines,
        ));
        analysis.guarantees = unread_guarantees();
    }
    let facts = facts::collect(parsed.syntax(), parsed.tokens(), &source);
    Rules::embedded().apply(&facts, &lines, preset, &mut analysis);
    analysis.manifest = facts.into_manifest(&lines);
    analysis.suppressions = suppressions(parsed.tokens(), &source);
    bandit::apply(parsed, kind, &source, &lines, &mut analysis);
    analysis
}

/// Parses as Python, and as IPython when that alone makes sense of it: `%matplotlib inline` and
/// `!ls` are not Python, and notebook code is full of them.
fn parse(source: &str) -> Result<(Parsed<ModModule>, PySourceType), Excess> {
    let parsed = parse_in(source, Mode::Module)?;
    if parsed.errors().is_empty() {
        return Ok((parsed, PySourceType::Python));
    }
    if !source.lines().any(speaks_ipython) {
        return Ok((parsed, PySourceType::Python));
    }
    // In this mode the parser is known to panic on some programs that are wrong in both; those are
    // read as the Python they are not.
    match panic::catch_unwind(|| parse_in(source, Mode::Ipython)) {
        Ok(Ok(notebook)) if notebook.errors().is_empty() => Ok((notebook, PySourceType::Ipynb)),
        Ok(Err(excess)) => Err(excess),
        Ok(Ok(_)) | Err(_) => Ok((parsed, PySourceType::Python)),
    }
}

fn speaks_ipython(line: &str) -> bool {
    let line = line.trim();
    line.starts_with(['%', '!', '?'])
        || line.ends_with('?')
        || line.contains("= !")
        || line.contains("= %")
        || line.contains("=!")
        || line.contains("=%")
}

/// The only way to the parser: bounds first.
pub(crate) fn parse_in(source: &str, mode: Mode) -> Result<Parsed<ModModule>, Excess> {
    bounds::check(source, mode)?;
    let parsed = parse_unchecked(source, ParseOptions::from(mode)).try_into_module();
    // Both modes used here give modules; a parser that no longer did would read as a refusal.
    parsed.ok_or(Excess {
        what: "surprises from the parser",
        allowed: 0,
        line: 1,
    })
}

/// In code a hidden character is refused; in a string or a comment it is worth knowing, because
/// emoji and right-to-left scripts are full of them.
fn hidden_characters(
    hidden: &[HiddenAt],
    tokens: &Tokens,
    lines: &Lines<'_>,
    analysis: &mut Analysis,
) {
    for at in hidden {
        let offset = TextSize::try_from(at.offset).unwrap_or_default();
        let holder = tokens.iter().find(|token| {
            let range = ruff_text_size::Ranged::range(*token);
            range.start() <= offset && offset < range.end()
        });
        let told = holder.is_some_and(|token| {
            matches!(
                token.kind(),
                TokenKind::String
                    | TokenKind::Comment
                    | TokenKind::FStringMiddle
                    | TokenKind::TStringMiddle
            )
        });
        let refuse = at.kind == Hidden::Bidirectional || !told;
        analysis.findings.push(hidden_finding(at, lines, refuse));
    }
}

/// Comments that ask a scanner to look away.
fn suppressions(tokens: &Tokens, source: &str) -> u64 {
    let asks = |comment: &str| {
        let comment = comment.to_ascii_lowercase();
        [
            "nosec",
            "noqa",
            "nosemgrep",
            "ruff: ignore",
            "ruff: disable",
        ]
        .iter()
        .any(|word| comment.contains(word))
    };
    let comments = tokens
        .iter()
        .filter(|token| token.kind() == TokenKind::Comment);
    let asking = comments.filter(|token| {
        let range = ruff_text_size::Ranged::range(*token);
        source
            .get(range.start().to_usize()..range.end().to_usize())
            .is_some_and(asks)
    });
    asking.count() as u64
}

/// The walls for a program whose syntax this parser does not know: Python may know it, so it may run,
/// and nothing that was read from it is the whole of it.
pub(crate) fn unread_guarantees() -> Guarantees {
    [
        Guarantee::HostFilesHidden,
        Guarantee::NetworkAbsent,
        Guarantee::SyscallsFiltered,
        Guarantee::EnvironmentEmpty,
        Guarantee::TasksCapped,
        Guarantee::DiskCapped,
    ]
    .into_iter()
    .collect()
}

fn syntax_error(
    message: &str,
    place: casemate_model::finding::Place,
    lines: &Lines<'_>,
) -> Finding {
    Finding {
        rule: "syntax-error".to_owned(),
        layer: Layer::Analysis,
        severity: Severity::Low,
        confidence: Confidence::High,
        message: format!(
            "this is not valid Python: {}",
            casemate_model::finding::excerpt(message)
        ),
        reason: "what cannot be parsed was not analysed in full, so it runs behind every base wall"
            .to_owned(),
        better_way: "correct the syntax at this place".to_owned(),
        place: Some(place),
        excerpt: Some(lines.excerpt(place)),
        action: Action::Confine,
        chain: Vec::new(),
    }
}

fn too_complex(excess: &Excess, source: &str) -> Finding {
    let line = u32::try_from(excess.line).unwrap_or(u32::MAX);
    let place = casemate_model::finding::Place {
        line,
        column: 1,
        end_line: line,
        end_column: 1,
    };
    let lines = Lines::new(source);
    Finding {
        rule: "too-complex".to_owned(),
        layer: Layer::Validation,
        severity: Severity::High,
        confidence: Confidence::High,
        message: format!("line {line} has more than {} {}", excess.allowed, excess.what),
        reason: "Python's own compiler gives up near such depths, and only attacks on parsers reach them".to_owned(),
        better_way: "use a loop, a list or a helper function instead of nesting".to_owned(),
        place: Some(place),
        excerpt: Some(lines.excerpt(place)),
        action: Action::Refuse,
        chain: Vec::new(),
    }
}

fn too_slow(deadline: Duration) -> Finding {
    Finding {
        rule: "too-complex".to_owned(),
        message: format!(
            "the analysis did not end within {} ms",
            deadline.as_millis()
        ),
        reason: "a program that cannot be analysed in time is not known to be harmless".to_owned(),
        better_way: "make the program smaller; put data into a file and hand it in with --data"
            .to_owned(),
        confidence: Confidence::Medium,
        ..failed("")
    }
}

#[cfg(test)]
mod tests;
