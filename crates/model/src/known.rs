//! The walls that a backend knows: what each is called, whether a run may start without it, and what
//! it guarantees. Every backend says its walls as such a table, so that the rule for what nobody
//! knows and for what nobody mentions stands here alone.

use crate::guarantee::{Guarantee, Guarantees};
use crate::receipt::{Need, Wall};

/// One wall as a backend knows it.
#[derive(Debug, Clone, Copy)]
pub struct KnownWall {
    /// Its fixed name.
    pub name: &'static str,
    /// Whether a run may start without it.
    pub need: Need,
    /// What it guarantees where it stands.
    pub guarantees: &'static [Guarantee],
}

impl KnownWall {
    /// A wall that no run goes without.
    pub const fn required(name: &'static str, guarantees: &'static [Guarantee]) -> Self {
        Self {
            name,
            need: Need::Required,
            guarantees,
        }
    }

    /// A second wall behind one that is required.
    pub const fn additional(name: &'static str, guarantees: &'static [Guarantee]) -> Self {
        Self {
            name,
            need: Need::Additional,
            guarantees,
        }
    }
}

/// Every wall of one kind of sandbox, in one or more tables.
#[derive(Debug, Clone, Copy)]
pub struct KnownWalls(pub &'static [&'static [KnownWall]]);

impl KnownWalls {
    /// Each of them, in order.
    pub fn iter(self) -> impl Iterator<Item = &'static KnownWall> {
        self.0.iter().copied().flatten()
    }

    /// What is guaranteed where all of them stand.
    pub fn offered(self) -> Guarantees {
        self.iter()
            .flat_map(|wall| wall.guarantees.iter().copied())
            .collect()
    }

    /// A wall as somebody says that it stands, or that it is missing and why. One that is not in the
    /// tables guarantees nothing and is required, so that a process of another version cannot slip
    /// one past.
    pub fn wall(self, name: &str, asked: &str, got: Result<&str, &str>) -> Wall {
        let known = self.iter().find(|wall| wall.name == name);
        let need = known.map_or(Need::Required, |wall| wall.need);
        let guarantees = known.map_or(&[] as &[Guarantee], |wall| wall.guarantees);
        let guarantees = guarantees.iter().copied().collect();
        match got {
            Ok(got) => Wall::standing(name, need, asked, got, guarantees),
            Err(missing) => Wall::absent(name, need, asked, missing, guarantees),
        }
    }

    /// The walls that no run goes without and that `walls` does not even mention: each is missing.
    pub fn unmentioned(self, walls: &[Wall]) -> Vec<Wall> {
        self.iter()
            .filter(|known| known.need == Need::Required)
            .filter(|known| walls.iter().all(|wall| wall.name != known.name))
            .map(|known| self.wall(known.name, "the wall", Err("nobody mentioned it")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALLS: KnownWalls = KnownWalls(&[
        &[KnownWall::required(
            "gate",
            &[Guarantee::NetworkAbsent, Guarantee::EnvironmentEmpty],
        )],
        &[KnownWall::additional("ditch", &[Guarantee::NetworkAbsent])],
    ]);

    #[test]
    fn a_wall_nobody_knows_guarantees_nothing_and_is_required() {
        let wall = WALLS.wall("moat", "deep", Ok("very"));
        assert!(wall.stands() && wall.guarantees.is_empty());
        assert_eq!(wall.need, Need::Required);
        let wall = WALLS.wall("moat", "deep", Err("dry"));
        assert!(!wall.stands() && wall.need == Need::Required);
    }

    #[test]
    fn a_known_wall_has_the_tables_word() {
        let wall = WALLS.wall("ditch", "a ditch", Ok("dug"));
        assert_eq!(wall.need, Need::Additional);
        assert!(wall.guarantees.contains(Guarantee::NetworkAbsent));
        assert!(!wall.guarantees.contains(Guarantee::EnvironmentEmpty));
    }

    #[test]
    fn a_required_wall_kept_silent_about_is_missing_and_an_additional_one_is_not() {
        let ditch = [WALLS.wall("ditch", "a ditch", Ok("dug"))];
        let missing = WALLS.unmentioned(&ditch);
        assert_eq!(missing.len(), 1);
        assert!(missing[0].name == "gate" && !missing[0].stands());
        let both = [WALLS.wall("gate", "shut", Err("open"))];
        assert!(WALLS.unmentioned(&both).is_empty(), "once is enough");
    }

    #[test]
    fn the_offer_is_what_all_of_them_guarantee() {
        let offered = WALLS.offered();
        assert!(offered.contains(Guarantee::NetworkAbsent));
        assert!(offered.contains(Guarantee::EnvironmentEmpty));
        assert!(!offered.contains(Guarantee::MemoryCapped));
    }
}
