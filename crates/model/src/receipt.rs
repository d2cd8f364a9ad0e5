//! Receipts: which walls were asked for, which stand, which are missing.

use serde::Serialize;
use thiserror::Error;

use crate::guarantee::Guarantees;

/// Whether a run may start without a wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// No run without it.
    Required,
    /// A second wall behind one that is required; its absence is shown.
    Additional,
}

/// One wall of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wall {
    /// Its name, such as `seccomp`.
    pub name: String,
    /// Whether a run may start without it.
    pub need: Need,
    /// What was asked of it.
    pub asked: String,
    /// How it stands, where it does.
    pub got: Option<String>,
    /// What is missing and why, where it does not.
    pub missing: Option<String>,
    /// What it guarantees where it stands.
    pub guarantees: Guarantees,
}

impl Wall {
    /// A wall that stands.
    pub fn standing(
        name: impl Into<String>,
        need: Need,
        asked: impl Into<String>,
        got: impl Into<String>,
        guarantees: Guarantees,
    ) -> Self {
        Self {
            name: name.into(),
            need,
            asked: asked.into(),
            got: Some(got.into()),
            missing: None,
            guarantees,
        }
    }

    /// A wall that does not stand.
    pub fn absent(
        name: impl Into<String>,
        need: Need,
        asked: impl Into<String>,
        missing: impl Into<String>,
        guarantees: Guarantees,
    ) -> Self {
        Self {
            name: name.into(),
            need,
            asked: asked.into(),
            got: None,
            missing: Some(missing.into()),
            guarantees,
        }
    }

    /// Whether it stands.
    pub fn stands(&self) -> bool {
        self.got.is_some() && self.missing.is_none()
    }
}

/// What a backend says of the sandbox it made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The backend's name.
    pub backend: String,
    /// The guest and engine, by version.
    pub guest: String,
    /// Every wall, in the order they were built.
    pub walls: Vec<Wall>,
}

/// Why a receipt does not satisfy what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize)]
#[error("{}", describe_gap(missing, walls))]
pub struct Gap {
    /// Guarantees that no standing wall gives.
    pub missing: Guarantees,
    /// Required walls that do not stand, each with why.
    pub walls: Vec<String>,
}

fn describe_gap(missing: &Guarantees, walls: &[String]) -> String {
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("no wall gives: {missing}"));
    }
    if !walls.is_empty() {
        parts.push(format!("missing walls: {}", walls.join("; ")));
    }
    parts.join("; ")
}

impl Receipt {
    /// Everything the standing walls guarantee.
    pub fn granted(&self) -> Guarantees {
        self.walls
            .iter()
            .filter(|wall| wall.stands())
            .fold(Guarantees::none(), |all, wall| all.union(&wall.guarantees))
    }

    /// Whether every asked guarantee is given and every required wall stands.
    ///
    /// # Errors
    /// [`Gap`] with what is missing.
    pub fn satisfies(&self, asked: &Guarantees) -> Result<(), Gap> {
        let missing = asked.missing_from(&self.granted());
        let walls: Vec<String> = self
            .walls
            .iter()
            .filter(|wall| wall.need == Need::Required && !wall.stands())
            .map(|wall| {
                format!(
                    "{} ({})",
                    wall.name,
                    wall.missing.as_deref().unwrap_or("not reported")
                )
            })
            .collect();
        if missing.is_empty() && walls.is_empty() {
            Ok(())
        } else {
            Err(Gap { missing, walls })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guarantee::Guarantee;

    fn set(guarantees: &[Guarantee]) -> Guarantees {
        guarantees.iter().copied().collect()
    }

    fn receipt(walls: Vec<Wall>) -> Receipt {
        Receipt {
            backend: "test".into(),
            guest: "none".into(),
            walls,
        }
    }

    #[test]
    fn an_absent_wall_grants_nothing() {
        let guarantees = set(&[Guarantee::NetworkAbsent]);
        let receipt = receipt(vec![Wall::absent(
            "netns",
            Need::Additional,
            "a",
            "no right",
            guarantees.clone(),
        )]);
        assert!(receipt.granted().is_empty());
        let gap = receipt.satisfies(&guarantees).unwrap_err();
        assert!(gap.to_string().contains("no network"), "{gap}");
    }

    #[test]
    fn a_second_wall_may_stand_in() {
        let guarantees = set(&[Guarantee::NetworkAbsent]);
        let receipt = receipt(vec![
            Wall::absent(
                "netns",
                Need::Additional,
                "a",
                "no right",
                guarantees.clone(),
            ),
            Wall::standing("seccomp", Need::Required, "a", "b", guarantees.clone()),
        ]);
        assert_eq!(receipt.satisfies(&guarantees), Ok(()));
    }

    #[test]
    fn a_required_wall_is_a_gap_even_when_its_guarantee_is_covered() {
        let guarantees = set(&[Guarantee::NetworkAbsent]);
        let receipt = receipt(vec![
            Wall::standing("wasi", Need::Required, "a", "b", guarantees.clone()),
            Wall::absent("seccomp", Need::Required, "a", "EINVAL", guarantees.clone()),
        ]);
        let gap = receipt.satisfies(&guarantees).unwrap_err();
        assert!(gap.to_string().contains("seccomp (EINVAL)"), "{gap}");
    }

    #[test]
    fn an_empty_receipt_satisfies_only_an_empty_demand() {
        assert!(receipt(vec![]).satisfies(&Guarantees::none()).is_ok());
        assert!(
            receipt(vec![])
                .satisfies(&set(&[Guarantee::CpuCapped]))
                .is_err()
        );
    }
}
