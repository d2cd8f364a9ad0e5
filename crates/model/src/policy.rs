//! Policies: what a run may use, which walls it must have, and how strictly it is screened.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guarantee::{Guarantee, Guarantees};
use crate::limit::{Limits, Millis};
use crate::unit::ByteSize;

/// What screening may do with its verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScreenMode {
    /// A refusal stops the job.
    #[default]
    Enforce,
    /// A refusal is reported and the job runs.
    Warn,
    /// Screening is skipped and the Outcome says so.
    Off,
}

/// What the last attack on a backend is worth when one is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attacked {
    /// A backend that stopped every attack on this machine, as it is now, goes before one that has not
    /// been attacked.
    #[default]
    Preferred,
    /// No other is taken.
    Required,
}

/// A policy. `Default` is the strictest reading of every field that can be strict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The policy's name.
    pub name: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// What screening may do with its verdict.
    pub screen: ScreenMode,
    /// The largest program, in bytes.
    #[serde(rename = "source_bytes", alias = "source")]
    pub source: ByteSize,
    /// Ceilings.
    pub limits: Limits,
    /// How fine the guest's clocks are.
    #[serde(rename = "clock_granularity_ms", alias = "clock_granularity")]
    pub clock_granularity: Millis,
    /// The walls every run under this policy must have.
    pub require: Guarantees,
    /// Whether a backend must have stopped every attack on this machine.
    pub attacked: Attacked,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            description: "no network, no host files, finite everything".to_owned(),
            screen: ScreenMode::Enforce,
            source: ByteSize::mib(1),
            limits: Limits::default(),
            clock_granularity: Millis(Duration::from_millis(1)),
            require: base_guarantees(),
            attacked: Attacked::default(),
        }
    }
}

impl Policy {
    /// This policy with what another is stricter in: what may be asked by somebody who is bound to this one.
    /// Which rules screen a program stays this policy's, for rules have no order.
    #[must_use]
    pub fn narrowed(&self, by: &Self) -> Self {
        Self {
            name: self.name.clone(),
            description: self.description.clone(),
            // Enforcing comes first.
            screen: self.screen.min(by.screen),
            source: self.source.min(by.source),
            limits: self.limits.narrowed(&by.limits),
            clock_granularity: self.clock_granularity.max(by.clock_granularity),
            require: self.require.union(&by.require),
            attacked: self.attacked.max(by.attacked),
        }
    }
}

/// The walls that stand around every run unless a policy file says otherwise.
pub fn base_guarantees() -> Guarantees {
    [
        Guarantee::HostFilesHidden,
        Guarantee::InputsReadOnly,
        Guarantee::NetworkAbsent,
        Guarantee::SyscallsFiltered,
        Guarantee::MemoryCapped,
        Guarantee::CpuCapped,
        Guarantee::WallCapped,
        Guarantee::TasksCapped,
        Guarantee::DiskCapped,
        Guarantee::OutputCapped,
        Guarantee::OpenFilesCapped,
        Guarantee::EnvironmentEmpty,
        Guarantee::ClockCoarse,
    ]
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_enforces_and_asks_for_every_base_wall() {
        let policy: Policy = serde_json::from_str("{}").unwrap();
        assert_eq!(policy, Policy::default());
        assert_eq!(policy.screen, ScreenMode::Enforce);
        assert!(policy.require.contains(Guarantee::NetworkAbsent));
    }

    #[test]
    fn narrowing_keeps_what_is_stricter_of_either() {
        let bound = Policy::default();
        let loose = Policy {
            name: "loose".to_owned(),
            screen: ScreenMode::Off,
            source: ByteSize::mib(8),
            require: Guarantees::none(),
            clock_granularity: Millis(Duration::ZERO),
            ..Policy::default()
        };
        assert_eq!(bound.narrowed(&loose), bound);
        let back = loose.narrowed(&bound);
        assert_eq!((back.screen, back.source), (bound.screen, bound.source));
        assert_eq!(back.require, bound.require);
        assert_eq!(back.clock_granularity, bound.clock_granularity);
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(serde_json::from_str::<Policy>(r#"{"netwrok":"open"}"#).is_err());
    }
}
