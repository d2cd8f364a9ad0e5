//! Presets: which action each rule takes. The rules say what they do for `data-analysis`; the other
//! presets say where they differ (`policies/screen/presets.toml`).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use casemate_model::finding::Action;
use serde::Deserialize;

const EMBEDDED: &str = include_str!("../../../policies/screen/presets.toml");

/// Which actions the rules take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Preset {
    /// Untrusted code from strangers: what could be confined is refused.
    Strict,
    /// A model's analysis of a user's files.
    #[default]
    DataAnalysis,
    /// An agent's steps: looking at the machine it is given is not refused.
    Agent,
    /// Code of one's own: only what nobody wants is refused.
    Trusted,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    /// What the preset does with each action that has no line of its own.
    #[serde(default)]
    default: BTreeMap<String, Action>,
    /// Rules by name.
    #[serde(default)]
    rules: BTreeMap<String, Action>,
}

fn forms() -> &'static BTreeMap<String, Form> {
    static FORMS: OnceLock<BTreeMap<String, Form>> = OnceLock::new();
    FORMS.get_or_init(|| match toml::from_str(EMBEDDED) {
        Ok(forms) => forms,
        // The analysis thread turns this into a refusal; a test keeps it from shipping.
        Err(error) => panic!("the screening presets: {error}"),
    })
}

impl Preset {
    /// All of them, the strictest first.
    pub const ALL: [Self; 4] = [Self::Strict, Self::DataAnalysis, Self::Agent, Self::Trusted];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::DataAnalysis => "data-analysis",
            Self::Agent => "agent",
            Self::Trusted => "trusted",
        }
    }

    /// The preset of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// What a rule does under this preset, which does `action` under `data-analysis`.
    pub fn action(self, rule: &str, action: Action) -> Action {
        let Some(form) = forms().get(self.name()) else {
            return action;
        };
        let word = match action {
            Action::Pass => "pass",
            Action::Confine => "confine",
            Action::Refuse => "refuse",
        };
        let own = form.rules.get(rule).or_else(|| form.default.get(word));
        own.copied().unwrap_or(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_load_and_are_ordered() {
        assert!(forms().keys().all(|name| Preset::named(name).is_some()));
        let rules = [
            ("network", Action::Confine),
            ("dynamic-code", Action::Confine),
            ("kill-process", Action::Refuse),
            ("destructive-command", Action::Refuse),
            ("resource-use", Action::Pass),
        ];
        for (rule, action) in rules {
            let actions: Vec<Action> = Preset::ALL
                .iter()
                .map(|preset| preset.action(rule, action))
                .collect();
            assert!(actions.is_sorted_by(|a, b| a >= b), "{rule}: {actions:?}");
        }
        assert_eq!(
            Preset::Strict.action("network", Action::Confine),
            Action::Refuse
        );
        assert_eq!(
            Preset::Agent.action("system-file-read", Action::Refuse),
            Action::Confine
        );
        assert_eq!(
            Preset::Trusted.action("destructive-command", Action::Refuse),
            Action::Refuse
        );
    }
}
