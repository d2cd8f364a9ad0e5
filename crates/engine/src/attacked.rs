//! What the last attack on a backend says of it, for `choose`. Pure: whoever makes an engine reads the results.

use std::collections::BTreeMap;

/// The last attack on one backend of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// There is none that counts.
    None {
        /// Why: never attacked, something has changed since, or the result is not to be trusted.
        why: String,
    },
    /// Every attack was stopped for which a wall is promised.
    Stood {
        /// When, as a date.
        on: String,
        /// How many were stopped.
        stopped: usize,
        /// For how many a stop is promised.
        promised: usize,
    },
    /// At least one got through.
    Fell {
        /// When, as a date.
        on: String,
        /// Which got through.
        attacks: Vec<String>,
    },
}

/// Records by the backends' names.
pub type Records = BTreeMap<String, Record>;

const NEVER: &str = "not attacked on this machine";

impl Record {
    /// That of a backend in `records`.
    pub fn of(records: &Records, backend: &str) -> Self {
        let known = records.get(backend).cloned();
        known.unwrap_or_else(|| Self::None {
            why: NEVER.to_owned(),
        })
    }

    /// Smaller is better.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Stood { .. } => 0,
            Self::None { .. } => 1,
            Self::Fell { .. } => 2,
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::None { why } => why.clone(),
            Self::Stood {
                on,
                stopped,
                promised,
            } => format!("attacked on this machine on {on}: {stopped} of {promised} stopped"),
            Self::Fell { on, attacks } => format!(
                "attacked on this machine on {on}: {} got through",
                attacks.join(", ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_attacked() {
        let record = Record::of(&Records::new(), "jail");
        assert_eq!(record.describe(), NEVER);
        assert_eq!(record.rank(), 1);
    }
}
