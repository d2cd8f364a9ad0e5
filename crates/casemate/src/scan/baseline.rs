//! A baseline: the findings of an earlier scan, which are left out.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use casemate_model::finding::Finding;
use serde_json::Value;

use crate::run::NotFound;

/// How often each finding is known: by path, rule and source line, so that moved code stays known.
#[derive(Debug, Default)]
pub(crate) struct Baseline(HashMap<(String, String, String), usize>);

impl Baseline {
    /// Reads what `scan --format jsonl` printed.
    ///
    /// # Errors
    /// A file that is absent or of another form.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            NotFound::new(format!("the baseline {shown} cannot be read: {error}"))
        })?;
        let mut baseline = Self::default();
        for (index, line) in text.lines().enumerate() {
            let advice = || {
                format!(
                    "{shown}, line {}: a baseline is what `scan --format jsonl` prints",
                    index + 1
                )
            };
            let line: Value = serde_json::from_str(line).with_context(advice)?;
            let path = line["path"].as_str().with_context(advice)?;
            for finding in line["findings"].as_array().with_context(advice)? {
                let text = |key: &str| finding[key].as_str().unwrap_or("").to_owned();
                *baseline
                    .0
                    .entry((
                        path.to_owned(),
                        text("rule"),
                        text("excerpt").trim().to_owned(),
                    ))
                    .or_default() += 1;
            }
        }
        Ok(baseline)
    }

    /// Whether a finding is known; each known one is used up.
    pub(crate) fn knows(&mut self, path: &str, finding: &Finding) -> bool {
        let line = finding.excerpt.as_deref().unwrap_or("").trim().to_owned();
        let known = self
            .0
            .get_mut(&(path.to_owned(), finding.rule.clone(), line));
        match known {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }
}
