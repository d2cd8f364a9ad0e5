//! Variables of a call or a round of a loop: a handful, which need no table.

use smallvec::SmallVec;

use crate::bindings::ByName;
use crate::value::Values;

/// How many are looked through one by one.
const FEW: usize = 8;

/// Variables by name. Each stands in it once.
#[derive(Debug, Default)]
pub(crate) struct Vars<'a> {
    few: SmallVec<[(&'a str, Values<'a>); 2]>,
    /// Those after the first few.
    more: ByName<'a, Values<'a>>,
}

impl<'a> Vars<'a> {
    /// No variables, with room for so many.
    pub(crate) fn with_room(count: usize) -> Self {
        Self {
            few: SmallVec::with_capacity(count.min(FEW)),
            more: ByName::default(),
        }
    }

    /// One variable.
    pub(crate) fn one(name: &'a str, values: Values<'a>) -> Self {
        let mut vars = Self::default();
        vars.insert(name, values);
        vars
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Values<'a>> {
        let found = self.few.iter().find(|(known, _)| *known == name);
        match found {
            Some((_, values)) => Some(values),
            None if self.more.is_empty() => None,
            None => self.more.get(name),
        }
    }

    /// The place of a variable that is there.
    pub(crate) fn place(&mut self, name: &str) -> Option<&mut Values<'a>> {
        let found = self.few.iter_mut().find(|(known, _)| *known == name);
        match found {
            Some((_, values)) => Some(values),
            None if self.more.is_empty() => None,
            None => self.more.get_mut(name),
        }
    }

    pub(crate) fn insert(&mut self, name: &'a str, values: Values<'a>) {
        if let Some(place) = self.place(name) {
            *place = values;
        } else if self.few.len() < FEW {
            self.few.push((name, values));
        } else {
            self.more.insert(name, values);
        }
    }

    /// The values of all of them.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut Values<'a>> {
        let few = self.few.iter_mut().map(|(_, values)| values);
        few.chain(self.more.values_mut())
    }
}

impl<'a> IntoIterator for Vars<'a> {
    type Item = (&'a str, Values<'a>);
    type IntoIter = std::iter::Chain<
        smallvec::IntoIter<[(&'a str, Values<'a>); 2]>,
        std::collections::hash_map::IntoIter<&'a str, Values<'a>>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.few.into_iter().chain(self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    #[test]
    fn a_variable_is_there_once_however_many_there_are() {
        let names: Vec<String> = (0..40).map(|index| format!("v{index}")).collect();
        let mut vars = Vars::with_room(names.len());
        for round in [1, 2] {
            for name in &names {
                vars.insert(name, Value::Int(round).into());
            }
        }
        for name in &names {
            assert!(matches!(
                vars.get(name).map(Values::as_slice),
                Some([Value::Int(2)])
            ));
        }
        assert!(vars.get("v40").is_none() && vars.place("v40").is_none());
        vars.all().for_each(|values| *values = Values::new());
        let left: Vec<_> = vars.into_iter().collect();
        assert_eq!(left.len(), names.len());
        assert!(left.iter().all(|(_, values)| values.is_empty()));
    }
}
