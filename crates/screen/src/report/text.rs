//! Text for a terminal or a log.

use std::fmt::Write as _;

use casemate_model::finding::{Action, Finding, Place, Severity, visible};
use casemate_model::screening::{Screening, Verdict};

use super::Scanned;

/// How the text is dressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    /// No escape sequences.
    #[default]
    Plain,
    /// ANSI colours, for a terminal.
    Colour,
}

/// A report for people: what was seen, where, why it matters, and the better way.
pub fn text(scanned: &[Scanned<'_>], style: Style) -> String {
    let mut out = String::new();
    for one in scanned {
        // Writing to a string cannot fail; the result is passed on to keep that in one place.
        if file(&mut out, one, style).is_err() {
            return out;
        }
    }
    if scanned.len() > 1 {
        summary(&mut out, scanned);
    }
    out
}

fn file(out: &mut String, one: &Scanned<'_>, style: Style) -> std::fmt::Result {
    let path: String = one.path.chars().map(visible).collect();
    let screening = one.screening;
    let word = paint(
        screening.verdict.word(),
        verdict_colour(&screening.verdict),
        style,
    );
    write!(out, "{path}: {word}")?;
    if screening.skipped {
        write!(out, " (not screened)")?;
    }
    if let Verdict::Confine(guarantees) = &screening.verdict {
        write!(out, " (needs {guarantees})")?;
    }
    writeln!(out)?;
    for finding in &screening.findings {
        self::finding(out, &path, finding, style)?;
    }
    notes(out, screening)
}

fn notes(out: &mut String, screening: &Screening) -> std::fmt::Result {
    if screening.findings_omitted > 0 {
        writeln!(out, "  and {} more findings", screening.findings_omitted)?;
    }
    if screening.suppressions_ignored > 0 {
        let count = screening.suppressions_ignored;
        let comments = if count == 1 {
            "comment asks"
        } else {
            "comments ask"
        };
        writeln!(
            out,
            "  note: {count} {comments} scanners to look away; none was obeyed"
        )?;
    }
    Ok(())
}

fn finding(out: &mut String, path: &str, finding: &Finding, style: Style) -> std::fmt::Result {
    let severity = match finding.severity {
        Severity::High => paint("high", "31", style),
        Severity::Medium => paint("medium", "33", style),
        Severity::Low => paint("low", "36", style),
    };
    let mark = match finding.action {
        Action::Refuse => "refuse",
        Action::Confine => "confine",
        Action::Pass => "note",
    };
    let message: String = finding.message.chars().map(visible).collect();
    writeln!(out, "  {mark} {severity} [{}] {message}", finding.rule)?;
    if let Some(place) = finding.place {
        writeln!(out, "    --> {path}:{}:{}", place.line, place.column)?;
        if let Some(excerpt) = &finding.excerpt {
            source_line(out, place, excerpt)?;
        }
    }
    for step in &finding.chain {
        let what: String = step.what.chars().map(visible).collect();
        match step.place {
            Some(place) => writeln!(out, "    via: line {}: {what}", place.line)?,
            None => writeln!(out, "    via: {what}")?,
        }
    }
    writeln!(out, "    why: {}", finding.reason)?;
    writeln!(out, "    instead: {}", finding.better_way)
}

fn source_line(out: &mut String, place: Place, excerpt: &str) -> std::fmt::Result {
    let number = place.line.to_string();
    let gap = " ".repeat(number.len());
    writeln!(out, "    {number} | {excerpt}")?;
    let width = excerpt.chars().count();
    let start = place.column.saturating_sub(1) as usize;
    if start >= width {
        return Ok(());
    }
    let end = if place.end_line == place.line {
        place.end_column.saturating_sub(1) as usize
    } else {
        width
    };
    let carets = end.clamp(start + 1, width) - start;
    writeln!(
        out,
        "    {gap} | {}{}",
        " ".repeat(start),
        "^".repeat(carets)
    )
}

fn summary(out: &mut String, scanned: &[Scanned<'_>]) {
    let count = |word: &str| {
        scanned
            .iter()
            .filter(|one| one.screening.verdict.word() == word)
            .count()
    };
    let line = format!(
        "{} files: {} pass, {} confine, {} refuse\n",
        scanned.len(),
        count("pass"),
        count("confine"),
        count("refuse")
    );
    out.push_str(&line);
}

fn verdict_colour(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "32",
        Verdict::Confine(_) => "33",
        Verdict::Refuse => "31",
    }
}

fn paint(word: &str, colour: &str, style: Style) -> String {
    match style {
        Style::Plain => word.to_owned(),
        Style::Colour => format!("\u{1b}[{colour}m{word}\u{1b}[0m"),
    }
}
