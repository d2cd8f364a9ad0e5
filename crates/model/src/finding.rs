//! Findings: what screening saw in a program, said to people and to models.

use serde::{Deserialize, Serialize};

/// How bad a finding is, when it is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// A weakness, or a use that needs a wall.
    Medium,
    /// An attack, or what only attacks need.
    High,
}

/// How sure screening is that a finding is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// A guess from a shape.
    Low,
    /// Likely.
    Medium,
    /// Read from the program itself.
    High,
}

/// Which of the two screening layers speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Layer 1: bytes and tokens, before any parsing.
    Validation,
    /// Layer 2: the syntax tree and what was read from it.
    Analysis,
}

/// What a finding does to the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing: it is information.
    Pass,
    /// The program runs behind the walls the rule names.
    Confine,
    /// The program does not run.
    Refuse,
}

/// A range in the source. Lines and columns count from 1; columns count characters, not bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The first line.
    pub line: u32,
    /// The first column.
    pub column: u32,
    /// The last line.
    pub end_line: u32,
    /// One past the last column.
    pub end_column: u32,
}

/// One step on the way to what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What happens there, in a few words: at most 160 characters.
    pub what: String,
    /// Where, when it has a place.
    pub place: Option<Place>,
}

/// The most steps of a chain.
pub const MAX_STEPS: usize = 12;

/// One thing that screening saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule's name, such as `shell-command` or `S602`.
    pub rule: String,
    /// The layer that speaks.
    pub layer: Layer,
    /// How bad it is.
    pub severity: Severity,
    /// How sure it is.
    pub confidence: Confidence,
    /// What was seen, in one line.
    pub message: String,
    /// Why it matters.
    pub reason: String,
    /// What to do instead.
    pub better_way: String,
    /// Where, when it has a place.
    pub place: Option<Place>,
    /// The source line at the place: at most 160 characters, without control characters.
    pub excerpt: Option<String>,
    /// What the finding does to the verdict.
    pub action: Action,
    /// The steps that led to it when it does not stand there openly, at most [`MAX_STEPS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Step>,
}

/// The longest excerpt, in characters.
pub const EXCERPT_CHARS: usize = 160;

/// Makes a source line fit to show: control, bidirectional and invisible characters become
/// U+FFFD, and what is over [`EXCERPT_CHARS`] characters is cut.
pub fn excerpt(line: &str) -> String {
    let line = line.trim_end_matches(['\r', '\n']);
    let mut shown: String = line.chars().take(EXCERPT_CHARS).map(visible).collect();
    if line.chars().nth(EXCERPT_CHARS).is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

/// The character itself, or a stand-in that takes one column and cannot steer a terminal.
pub fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{61c}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_and_actions_are_ordered() {
        assert!(Severity::High > Severity::Medium && Severity::Medium > Severity::Low);
        assert!(Action::Refuse > Action::Confine && Action::Confine > Action::Pass);
    }

    #[test]
    fn an_excerpt_cannot_steer_a_terminal() {
        let shown = excerpt("a\u{1b}[31m\u{202e}b\tc\r\n");
        assert_eq!(shown, "a\u{fffd}[31m\u{fffd}b c");
    }

    #[test]
    fn an_excerpt_is_bounded() {
        assert_eq!(
            excerpt(&"x".repeat(EXCERPT_CHARS)).chars().count(),
            EXCERPT_CHARS
        );
        let cut = excerpt(&"ü".repeat(5000));
        assert_eq!(cut.chars().count(), EXCERPT_CHARS);
        assert!(cut.ends_with('…'));
    }
}
