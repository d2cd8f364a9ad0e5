//! Bandit's rules, as ruff has them, over the parse that the facts came from.
//!
//! This is the only module that knows `ruff_linter`, which promises no stable API. Comments that
//! switch rules off are not obeyed: whoever wrote the program also wrote those.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use casemate_model::finding::{Action, Confidence, Finding, Layer, Severity};
use ruff_linter::linter::{ParseSource, lint_only};
use ruff_linter::registry::Linter;
use ruff_linter::settings::{LinterSettings, flags::Noqa};
use ruff_linter::source_kind::SourceKind;
use ruff_python_ast::{ModModule, PySourceType};
use ruff_python_parser::Parsed;
use serde::Deserialize;

use crate::Analysis;
use crate::place::Lines;

const TABLE: &str = include_str!("../../../policies/screen/bandit.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    severity: Severity,
    confidence: Confidence,
    better_way: String,
}

struct Bandit {
    settings: LinterSettings,
    table: BTreeMap<String, Entry>,
}

fn bandit() -> &'static Bandit {
    static BANDIT: OnceLock<Bandit> = OnceLock::new();
    BANDIT.get_or_init(|| {
        let table = match toml::from_str(TABLE) {
            Ok(table) => table,
            // The analysis thread turns this into a refusal; a test keeps it from shipping.
            Err(error) => panic!("the table of Bandit's severities: {error}"),
        };
        Bandit {
            settings: LinterSettings::for_rules(Linter::Flake8Bandit.all_rules()),
            table,
        }
    })
}

/// Adds Bandit's findings. Takes the parse, and frees it here, on the thread with the large stack.
pub(crate) fn apply(
    parsed: Parsed<ModModule>,
    kind: PySourceType,
    source: &str,
    lines: &Lines<'_>,
    analysis: &mut Analysis,
) {
    let bandit = bandit();
    let code = SourceKind::Python {
        code: source.to_owned(),
        is_stub: false,
    };
    // The path is not opened. Its name must not look like a test's, for which rules are relaxed.
    let path = Path::new("program.py");
    let parsed = ParseSource::Precomputed(parsed);
    let result = lint_only(
        path,
        None,
        &bandit.settings,
        Noqa::Disabled,
        &code,
        kind,
        parsed,
    );
    for diagnostic in &result.diagnostics {
        let Some(code) = diagnostic.secondary_code() else {
            continue;
        };
        let Some(entry) = bandit.table.get(code.as_str()) else {
            continue;
        };
        // Bandit says so too: a shell that gets a constant is of low severity.
        let message = diagnostic.headline_message();
        let severity = match message.contains("seems safe") {
            true => Severity::Low,
            false => entry.severity,
        };
        let place = diagnostic.range().map(|range| lines.place_of(range));
        analysis.findings.push(Finding {
            rule: code.as_str().to_owned(),
            layer: Layer::Analysis,
            severity,
            confidence: entry.confidence,
            message: casemate_model::finding::excerpt(message),
            reason: format!(
                "{}, {} in Bandit's list",
                bandit_id(code.as_str()),
                diagnostic.name()
            ),
            better_way: entry.better_way.clone(),
            place,
            excerpt: place.map(|place| lines.excerpt(place)),
            action: Action::Pass,
            chain: Vec::new(),
        });
    }
}

/// Bandit's own id: ruff keeps its number under another letter.
fn bandit_id(code: &str) -> String {
    code.replacen('S', "B", 1)
}

#[cfg(test)]
mod tests {
    use ruff_python_parser::Mode;

    use super::*;
    use crate::analyse::parse_in;

    fn codes(source: &str) -> Vec<String> {
        let mut analysis = Analysis::default();
        let parsed = parse_in(source, Mode::Module).unwrap();
        apply(
            parsed,
            PySourceType::Python,
            source,
            &Lines::new(source),
            &mut analysis,
        );
        analysis
            .findings
            .into_iter()
            .map(|finding| finding.rule)
            .collect()
    }

    #[test]
    fn every_rule_has_its_severity() {
        let rules: Vec<String> = Linter::Flake8Bandit
            .all_rules()
            .map(|rule| rule.noqa_code().to_string())
            .collect();
        assert_eq!(rules.len(), 73);
        for code in &rules {
            assert!(bandit().table.contains_key(code), "{code} has no severity");
        }
        assert_eq!(bandit().table.len(), rules.len());
    }

    #[test]
    fn findings_come_with_their_codes() {
        assert_eq!(
            codes("import pickle\npickle.loads(b'x')\n"),
            ["S403", "S301"]
        );
        assert_eq!(codes("x = 1\n"), [] as [&str; 0]);
    }

    #[test]
    fn comments_that_switch_rules_off_are_not_obeyed() {
        for comment in ["# noqa", "# noqa: S307", "# nosec", "# ruff: noqa"] {
            assert_eq!(
                codes(&format!("eval(x)  {comment}\n")),
                ["S307"],
                "{comment}"
            );
        }
        assert_eq!(codes("# ruff: noqa\n# flake8: noqa\neval(x)\n"), ["S307"]);
        assert_eq!(codes("# ruff: disable[S307]\neval(x)\n"), ["S307"]);
    }
}
