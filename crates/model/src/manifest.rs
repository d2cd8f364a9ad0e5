//! The capability manifest: what a program needs, as far as its text shows.
//!
//! It is read from the program, not promised by it. It may lower privileges and choose a backend; it
//! is never a reason to take a wall away.

use serde::{Deserialize, Serialize};

use crate::finding::{Place, Step};

/// How sure a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// The text allows it.
    Possible,
    /// The text says it, through a variable or an alias that could also be something else.
    Likely,
    /// The text says it.
    Certain,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What: a module, a qualified name, a variable, a host, a command. At most 256 characters.
    pub value: String,
    /// Where it was first seen.
    pub place: Option<Place>,
    /// How sure it is.
    pub certainty: Certainty,
    /// The steps that led to it when it does not stand there openly, at most
    /// [`MAX_STEPS`](crate::finding::MAX_STEPS).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Step>,
}

/// What a program does to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It reads it.
    Read,
    /// It creates or changes it.
    Write,
    /// It removes it.
    Delete,
    /// It makes another name for it: a symbolic or a hard link.
    Link,
    /// The text names it and does not show what for.
    Unknown,
}

/// One file that the program names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFact {
    /// The path as written, at most 256 characters.
    pub value: String,
    /// What the program does to it.
    pub access: Access,
    /// Where it was first seen.
    pub place: Option<Place>,
    /// How sure it is.
    pub certainty: Certainty,
    /// The steps that led to it when it does not stand there openly, at most
    /// [`MAX_STEPS`](crate::finding::MAX_STEPS).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Step>,
}

/// The most facts a list of a [`Manifest`] holds.
pub const MAX_FACTS: usize = 256;

/// The longest value of a fact, in characters.
pub const MAX_VALUE_CHARS: usize = 256;

/// What a program needs. Every list holds each value once, at most [`MAX_FACTS`] of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Modules it imports.
    pub modules: Vec<Fact>,
    /// Functions it calls by a name that could be resolved, such as `pandas.read_csv`.
    pub calls: Vec<Fact>,
    /// Files it names.
    pub files: Vec<FileFact>,
    /// Environment variables it reads or sets; `*` is all of them.
    pub env: Vec<Fact>,
    /// Hosts it names; `?` is one that the text does not show.
    pub hosts: Vec<Fact>,
    /// Protocol, host and port together, as far as the text says them: `https://api.example:443`,
    /// `tcp://203.0.113.9:4444`.
    #[serde(default)]
    pub endpoints: Vec<Fact>,
    /// Commands it starts; `?` is one that the text does not show.
    pub processes: Vec<Fact>,
    /// Where it makes code at run time.
    pub dynamic_code: Vec<Fact>,
    /// Where it loads or calls native code.
    pub native_code: Vec<Fact>,
    /// Where it turns bytes into objects.
    #[serde(default)]
    pub deserialisation: Vec<Fact>,
    /// Where it reaches into the interpreter.
    #[serde(default)]
    pub introspection: Vec<Fact>,
    /// What may use more than it should: long loops, large allocations, powers, recursion.
    #[serde(default)]
    pub resources: Vec<Fact>,
    /// Names of secrets that are written into it; never the secrets.
    #[serde(default)]
    pub secrets: Vec<Fact>,
    /// What it packs or computes beyond what was worked out.
    #[serde(default)]
    pub hidden: Vec<Fact>,
    /// Whether a list was cut at its bound.
    pub truncated: bool,
}

impl Manifest {
    /// Adds a fact to one list unless its value is there; keeps the surer of the two.
    pub fn add(list: &mut Vec<Fact>, truncated: &mut bool, mut fact: Fact) {
        cut(&mut fact.value);
        if let Some(seen) = list.iter_mut().find(|seen| seen.value == fact.value) {
            seen.certainty = seen.certainty.max(fact.certainty);
        } else if list.len() < MAX_FACTS {
            list.push(fact);
        } else {
            *truncated = true;
        }
    }

    /// Adds a file unless the same path with the same access is there; keeps the surer of the two.
    pub fn add_file(&mut self, mut fact: FileFact) {
        cut(&mut fact.value);
        let same = |seen: &&mut FileFact| seen.value == fact.value && seen.access == fact.access;
        if let Some(seen) = self.files.iter_mut().find(same) {
            seen.certainty = seen.certainty.max(fact.certainty);
        } else if self.files.len() < MAX_FACTS {
            self.files.push(fact);
        } else {
            self.truncated = true;
        }
    }

    /// Whether the program imports `module` or something inside it.
    pub fn imports(&self, module: &str) -> bool {
        self.modules.iter().any(|fact| {
            fact.value
                .strip_prefix(module)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

fn cut(value: &mut String) {
    if let Some((index, _)) = value.char_indices().nth(MAX_VALUE_CHARS) {
        value.truncate(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(value: &str, certainty: Certainty) -> Fact {
        Fact {
            value: value.to_owned(),
            place: None,
            certainty,
            chain: Vec::new(),
        }
    }

    #[test]
    fn a_value_is_kept_once_with_the_surer_certainty() {
        let (mut list, mut truncated) = (Vec::new(), false);
        Manifest::add(&mut list, &mut truncated, fact("os", Certainty::Possible));
        Manifest::add(&mut list, &mut truncated, fact("os", Certainty::Certain));
        assert_eq!(list, [fact("os", Certainty::Certain)]);
        assert!(!truncated);
    }

    #[test]
    fn lists_and_values_are_bounded_and_say_so() {
        let (mut list, mut truncated) = (Vec::new(), false);
        for index in 0..=MAX_FACTS {
            Manifest::add(
                &mut list,
                &mut truncated,
                fact(&format!("m{index}"), Certainty::Certain),
            );
        }
        assert_eq!(list.len(), MAX_FACTS);
        assert!(truncated);
        let mut manifest = Manifest::default();
        manifest.add_file(FileFact {
            value: "ü".repeat(1000),
            access: Access::Read,
            place: None,
            certainty: Certainty::Certain,
            chain: Vec::new(),
        });
        assert_eq!(manifest.files[0].value.chars().count(), MAX_VALUE_CHARS);
    }

    #[test]
    fn importing_a_submodule_is_importing_its_parent() {
        let manifest = Manifest {
            modules: vec![fact("numpy.linalg", Certainty::Certain)],
            ..Manifest::default()
        };
        assert!(manifest.imports("numpy") && manifest.imports("numpy.linalg"));
        assert!(!manifest.imports("num"));
    }
}
