//! Layers 1 and 2: what can be said about a program without running it.
//!
//! Screening routes, explains and refuses early. It may only lower privileges: people will evade it,
//! and the walls must hold when it sees nothing at all.
//!
//! The stages, in order:
//!
//! 1. bytes: size, NUL, UTF-8, coding lines, hidden characters (`validate`, `unicode`);
//! 2. tokens: bounds on nesting, before anything recurses (`bounds`);
//! 3. one parse, on a thread with a stack sized for those bounds and a deadline (`analyse`, `threads`);
//! 4. facts: a walk over the tree (`walk`, `apply`, `commands`, `gaps`, `facts`, with the tables of `effects`) with a
//!    resolver of what expressions stand for (`bindings`, `resolve`, `eval`, `call`, `interp`,
//!    with the functions it knows in `pure`, `library`, `methods`, `codec` and `pickles`, within
//!    the bounds of `allowance` and with the `memory` of calls that were followed);
//!    A script of bash has stages 3 and 4 of its own (`bash`), which give the same facts, in a process of its own where
//!    there is one (`apart`);
//! 5. rules over facts, which are data with examples (`rules`), and Bandit's rules over the same
//!    parse (`bandit`);
//! 6. the verdict: the strictest action of any finding.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod allowance;
mod analyse;
pub mod apart;
mod apply;
mod arena;
mod arguments;
mod bandit;
mod bash;
mod bindings;
mod bounds;
mod call;
mod cleared;
mod codec;
mod commands;
mod effects;
mod eval;
mod facts;
mod gaps;
mod interp;
mod library;
mod memory;
mod methods;
mod names;
mod pickles;
mod place;
mod preset;
mod pure;
pub mod report;
mod resolve;
mod rules;
mod smells;
mod threads;
pub mod trial;
mod unicode;
mod validate;
mod value;
mod values;
mod vars;
mod walk;

use std::time::{Duration, Instant};

use casemate_model::finding::{Action, Confidence, Finding, Layer, Severity};
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::job::Language;
use casemate_model::manifest::Manifest;
use casemate_model::screening::{Screening, Verdict};
use serde::{Deserialize, Serialize};

pub use casemate_model::policy::ScreenMode as Mode;
pub use cleared::{Cleared, clear, clear_with};
pub use preset::Preset;
pub use rules::{RuleError, check_rules};

/// A program to screen: bytes as they were submitted.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// The language they claim to be.
    pub language: Language,
    /// The name to show, such as `analyze.py`.
    pub name: &'a str,
}

/// How screening is bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScreenConfig {
    /// The largest program, in bytes.
    pub max_bytes: usize,
    /// The longest analysis. What takes longer is refused as too complex.
    pub deadline: Duration,
    /// The most findings in a [`Screening`].
    pub max_findings: usize,
    /// Which actions the rules take.
    pub preset: Preset,
}

impl Default for ScreenConfig {
    /// 1 MiB, 2 s, 200 findings, the actions of `data-analysis`.
    fn default() -> Self {
        Self {
            max_bytes: 1024 * 1024,
            deadline: Duration::from_secs(2),
            max_findings: 200,
            preset: Preset::default(),
        }
    }
}

/// What layer 2 found, before it is a verdict.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Analysis {
    pub(crate) findings: Vec<Finding>,
    /// Findings that were left out; the strictest were kept.
    pub(crate) omitted: u64,
    pub(crate) guarantees: Guarantees,
    pub(crate) manifest: Manifest,
    pub(crate) suppressions: u64,
}

impl Analysis {
    /// Keeps so many findings, the strictest first.
    pub(crate) fn keep(&mut self, most: usize) {
        self.findings.sort_by(|a, b| {
            (b.action, b.severity)
                .cmp(&(a.action, a.severity))
                .then_with(|| (a.place, &a.rule).cmp(&(b.place, &b.rule)))
        });
        self.omitted += self.findings.len().saturating_sub(most) as u64;
        self.findings.truncate(most);
    }
}

/// Screens one program. Never panics, never overflows a stack, and never calls a program clean
/// because it could not be read.
///
/// ```
/// use casemate_screen::{ScreenConfig, Source, screen};
/// use casemate_model::job::Language;
///
/// let source = Source { bytes: b"open('/etc/shadow').read()", language: Language::Python, name: "a.py" };
/// let screening = screen(&source, &ScreenConfig::default());
/// assert_eq!(screening.verdict.word(), "refuse");
/// ```
pub fn screen(source: &Source<'_>, config: &ScreenConfig) -> Screening {
    let started = Instant::now();
    let analysis = match source.language {
        Language::Python => look(source.bytes, config, analyse::on_thread),
        Language::Bash => {
            let max_bytes = config.max_bytes.min(bash::MAX_BYTES);
            let config = ScreenConfig {
                max_bytes,
                ..config.clone()
            };
            look(source.bytes, &config, bash::analyse)
        }
        Language::JavaScript => look_at_bytes(source.bytes, source.language, config),
        // The model may learn languages before this crate does; those are not "clean".
        _ => Analysis {
            findings: vec![analyse::failed("this language cannot be screened")],
            ..Analysis::default()
        },
    };
    settle(analysis, config, started)
}

fn look(bytes: &[u8], config: &ScreenConfig, language: analyse::Work) -> Analysis {
    match validate::validate(bytes, config) {
        Ok(text) => analyse::analyse(text, config.deadline, config.preset, language),
        Err(findings) => Analysis {
            findings,
            ..Analysis::default()
        },
    }
}

/// A language that layer 2 does not read: its bytes are looked at, and nothing is said of what it does.
/// Whatever its policy asks for, it gets the walls that matter most where nothing is known.
fn look_at_bytes(bytes: &[u8], language: Language, config: &ScreenConfig) -> Analysis {
    match validate::validate(bytes, config) {
        Ok(_) => Analysis {
            findings: vec![not_analysed(language)],
            guarantees: [
                Guarantee::HostFilesHidden,
                Guarantee::NetworkAbsent,
                Guarantee::SyscallsFiltered,
            ]
            .into_iter()
            .collect(),
            ..Analysis::default()
        },
        Err(findings) => Analysis {
            findings,
            ..Analysis::default()
        },
    }
}

fn not_analysed(language: Language) -> Finding {
    Finding {
        rule: "not-analysed".to_owned(),
        layer: Layer::Analysis,
        severity: Severity::Low,
        confidence: Confidence::High,
        message: format!("{language} is not analysed: nothing is known of what this program does"),
        reason: "what was not read is not known to be harmless; the walls hold without it"
            .to_owned(),
        better_way:
            "review it as you would without this tool, or write it in Python or bash, which are analysed"
                .to_owned(),
        place: None,
        excerpt: None,
        action: Action::Confine,
        chain: Vec::new(),
    }
}

/// The verdict: the strictest action of any finding. The strictest findings are kept.
fn settle(mut analysis: Analysis, config: &ScreenConfig, started: Instant) -> Screening {
    analysis.keep(config.max_findings);
    let verdict = match analysis.findings.iter().map(|finding| finding.action).max() {
        None | Some(Action::Pass) => Verdict::Pass,
        Some(Action::Confine) => Verdict::Confine(analysis.guarantees),
        Some(Action::Refuse) => Verdict::Refuse,
    };
    Screening {
        verdict,
        findings: analysis.findings,
        findings_omitted: analysis.omitted,
        manifest: analysis.manifest,
        suppressions_ignored: analysis.suppressions,
        skipped: false,
        took_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
}
