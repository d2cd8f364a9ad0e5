//! Alert rules: data over events, each with examples that are checked when the rules are loaded.

use casemate_model::event::{Alert, Event, What};
use casemate_model::limit::LimitKind;
use serde::Deserialize;
use thiserror::Error;

const EMBEDDED: &str = include_str!("../../../policies/alerts/default.toml");

/// Rules that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The text is not a list of rules.
    #[error("alert rules: {0}")]
    Syntax(#[from] toml::de::Error),
    /// An example does not behave as it says.
    #[error("alert rule {rule}: its example {example} {problem}")]
    Example {
        /// The rule.
        rule: String,
        /// The example.
        example: String,
        /// What is wrong.
        problem: &'static str,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    alert: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    id: String,
    severity: String,
    message: String,
    events: Vec<String>,
    limits: Option<Vec<LimitKind>>,
    outside: Option<Vec<String>>,
    #[serde(default)]
    except: Vec<String>,
    matching: Vec<String>,
    non_matching: Vec<String>,
}

/// Checked alert rules.
#[derive(Debug)]
pub struct AlertRules(Vec<Rule>);

impl AlertRules {
    /// The rules that come with the program.
    ///
    /// # Errors
    /// [`RuleError`], which a test rules out.
    pub fn embedded() -> Result<Self, RuleError> {
        Self::parse(EMBEDDED)
    }

    /// Rules from a text.
    ///
    /// # Errors
    /// [`RuleError`] when it is not a list of rules, or an example does not behave as it says.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let file: File = toml::from_str(text)?;
        file.alert.iter().try_for_each(Rule::check)?;
        Ok(Self(file.alert))
    }

    /// The alerts that events raise, one a rule.
    pub fn over(&self, events: &[Event]) -> Vec<Alert> {
        self.0.iter().filter_map(|rule| rule.over(events)).collect()
    }
}

impl Rule {
    fn check(&self) -> Result<(), RuleError> {
        let problem = |example: &str, problem| {
            let (rule, example) = (self.id.clone(), example.to_owned());
            Err(RuleError::Example {
                rule,
                example,
                problem,
            })
        };
        if self.matching.is_empty() || self.non_matching.is_empty() {
            return problem(
                "list",
                "is empty: every rule has matching and non-matching examples",
            );
        }
        for (examples, expected) in [(&self.matching, true), (&self.non_matching, false)] {
            for example in examples {
                match serde_json::from_str::<What>(example) {
                    Err(_) => return problem(example, "is not an event"),
                    Ok(what) if self.matches(&what) != expected => {
                        return problem(example, "does not behave as it says");
                    }
                    Ok(_) => {}
                }
            }
        }
        Ok(())
    }

    fn over(&self, events: &[Event]) -> Option<Alert> {
        let matching: Vec<&Event> = events
            .iter()
            .filter(|event| self.matches(&event.what))
            .collect();
        let first = matching.first()?;
        Some(Alert {
            rule: self.id.clone(),
            severity: self.severity.clone(),
            message: detail(&first.what).map_or(self.message.clone(), |detail| {
                format!("{}: {detail}", self.message)
            }),
            at_us: first.at_us,
            count: matching.len() as u64,
        })
    }

    fn matches(&self, what: &What) -> bool {
        if !self.events.iter().any(|name| name == what.name()) {
            return false;
        }
        if let Some(limits) = &self.limits {
            let What::LimitReached { limit, .. } = what else {
                return false;
            };
            if !limits.contains(limit) {
                return false;
            }
        }
        if let Some(outside) = &self.outside {
            let Some(path) = what.path() else {
                return false;
            };
            let inside = |folder: &String| {
                path.strip_prefix(folder.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            return !outside.iter().any(inside) && !self.except.iter().any(|known| known == path);
        }
        true
    }
}

fn detail(what: &What) -> Option<String> {
    match what {
        What::Network { detail } => Some(detail.clone()),
        What::LimitReached {
            limit,
            allowed,
            seen,
        } => Some(format!(
            "{} of {} allowed",
            limit.show(*seen),
            limit.show(*allowed)
        )),
        other => other.path().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_rules_load_and_are_five() {
        assert_eq!(AlertRules::embedded().unwrap().0.len(), 5);
    }

    #[test]
    fn a_rule_whose_example_misbehaves_is_not_loaded() {
        let rule = |matching: &str, other: &str| {
            format!(
                "[[alert]]\nid='x'\nseverity='low'\nmessage='m'\nevents=['network']\nmatching=['{matching}']\n\
                 non_matching=['{other}']\n"
            )
        };
        let network = r#"{"event":"network","detail":"x"}"#;
        let read = r#"{"event":"env_read","name":"x"}"#;
        assert!(AlertRules::parse(&rule(network, read)).is_ok());
        assert!(matches!(
            AlertRules::parse(&rule(read, network)),
            Err(RuleError::Example { .. })
        ));
        assert!(matches!(
            AlertRules::parse(&rule("nonsense", read)),
            Err(RuleError::Example { .. })
        ));
        assert!(matches!(
            AlertRules::parse("[[alert]]\nidd='x'"),
            Err(RuleError::Syntax(_))
        ));
    }
}
