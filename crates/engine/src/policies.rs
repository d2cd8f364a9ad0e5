//! Policies by name or from a file.

use std::sync::OnceLock;

use casemate_model::guarantee::Guarantees;
use casemate_model::policy::Policy;
use thiserror::Error;

const PRESETS: [(&str, &str); 6] = [
    (
        "strict",
        include_str!("../../../policies/presets/strict.toml"),
    ),
    (
        "data-analysis",
        include_str!("../../../policies/presets/data-analysis.toml"),
    ),
    (
        "agent",
        include_str!("../../../policies/presets/agent.toml"),
    ),
    (
        "trusted",
        include_str!("../../../policies/presets/trusted.toml"),
    ),
    (
        "native",
        include_str!("../../../policies/presets/native.toml"),
    ),
    (
        "session",
        include_str!("../../../policies/presets/session.toml"),
    ),
];

/// A policy that cannot be used.
#[derive(Debug, Clone, Error)]
#[error("{name}: {reason}")]
pub struct PolicyError {
    name: String,
    reason: String,
}

/// The presets' names.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// The presets as they are written.
pub fn texts() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(_, text)| *text)
}

/// A preset by name; none when there is no such preset.
///
/// # Errors
/// [`PolicyError`], which a test rules out for the presets that come with the program.
pub fn preset(name: &str) -> Result<Option<Policy>, PolicyError> {
    // Asked for with every run.
    static PARSED: OnceLock<Vec<Result<Policy, PolicyError>>> = OnceLock::new();
    let parsed = PARSED.get_or_init(|| {
        PRESETS
            .iter()
            .map(|(name, text)| parse(name, text))
            .collect()
    });
    let at = PRESETS.iter().position(|(known, _)| *known == name);
    at.and_then(|at| parsed.get(at)).cloned().transpose()
}

/// The first preset whose walls are all among those offered, for a hint.
pub fn fitting(offered: &Guarantees) -> Option<&'static str> {
    names().find(|name| {
        preset(name)
            .ok()
            .flatten()
            .is_some_and(|policy| policy.require.missing_from(offered).is_empty())
    })
}

/// A policy from TOML. A key that is not known is an error; one that is absent has its strict default.
///
/// # Errors
/// [`PolicyError`] with the line and what is wrong there.
pub fn parse(name: &str, text: &str) -> Result<Policy, PolicyError> {
    toml::from_str(text).map_err(|error| PolicyError {
        name: name.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use casemate_model::guarantee::Guarantee;
    use casemate_model::policy::base_guarantees;

    use super::*;

    #[test]
    fn every_preset_loads_and_has_every_base_wall() {
        for name in names() {
            let policy = preset(name).unwrap().unwrap();
            assert_eq!(policy.name, name);
            assert!(!policy.description.is_empty());
            // A native program reads the processor's clock, which nothing can keep it from.
            let without: Guarantees = match name {
                "native" | "session" => [Guarantee::ClockCoarse].into_iter().collect(),
                _ => Guarantees::none(),
            };
            let expected = base_guarantees().missing_from(&without);
            assert_eq!(policy.require, expected, "{name}");
        }
        assert!(preset("lenient").unwrap().is_none());
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        for text in [
            "netwrok = 'open'",
            "[limits]\nmemry = '1g'",
            "[limits]\nmemory = '1q'",
        ] {
            let error = parse("p.toml", text).unwrap_err().to_string();
            assert!(error.contains("line"), "{error}");
        }
    }
}
