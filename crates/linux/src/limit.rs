//! A limit that cannot be left out by accident.

use serde::{Deserialize, Serialize};

/// A number, or the word that there is none. There is deliberately no `Default`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No more than this; the unit is that of the field it stands in.
    At(u64),
    /// As much as there is.
    Unlimited,
}

impl Limit {
    /// The number, when there is one.
    #[must_use]
    pub const fn value(self) -> Option<u64> {
        match self {
            Self::At(value) => Some(value),
            Self::Unlimited => None,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(value) => write!(f, "{value}"),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}
