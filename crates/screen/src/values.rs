//! A list of values that needs no heap for none or one: hardly any expression has more.

use std::ops::Deref;
use std::rc::Rc;
use std::slice;

use smallvec::SmallVec;

use crate::value::{MAX_VALUES, Value};

/// Every value that an expression may have; none when nothing is known.
#[derive(Debug, Clone, Default)]
pub(crate) enum Values<'a> {
    #[default]
    None,
    One(Value<'a>),
    /// At least two, shared: what is remembered is handed out again and again.
    Many(Rc<List<'a>>),
}

/// With room for as many as are kept of an expression, so that the list does not grow step by step.
type List<'a> = SmallVec<[Value<'a>; MAX_VALUES]>;

impl<'a> Values<'a> {
    pub(crate) const fn new() -> Self {
        Self::None
    }

    pub(crate) fn push(&mut self, value: Value<'a>) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(value),
            Self::One(first) => Self::Many(Rc::new([first, value].into_iter().collect())),
            Self::Many(mut values) => {
                Rc::make_mut(&mut values).push(value);
                Self::Many(values)
            }
        };
    }

    pub(crate) fn as_slice(&self) -> &[Value<'a>] {
        match self {
            Self::None => &[],
            Self::One(value) => slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

impl<'a> Deref for Values<'a> {
    type Target = [Value<'a>];

    fn deref(&self) -> &Self::Target {
        self.as_slice()
    }
}

impl<'a> From<Value<'a>> for Values<'a> {
    fn from(value: Value<'a>) -> Self {
        Self::One(value)
    }
}

impl<'a> From<Vec<Value<'a>>> for Values<'a> {
    fn from(values: Vec<Value<'a>>) -> Self {
        match <[Value<'a>; 1]>::try_from(values) {
            Ok([one]) => Self::One(one),
            Err(values) if values.is_empty() => Self::None,
            Err(values) => Self::Many(Rc::new(values.into())),
        }
    }
}

impl<'a> From<&[Value<'a>]> for Values<'a> {
    fn from(values: &[Value<'a>]) -> Self {
        match values {
            [] => Self::None,
            [one] => Self::One(one.clone()),
            many => Self::Many(Rc::new(many.into())),
        }
    }
}

impl<'a> Extend<Value<'a>> for Values<'a> {
    fn extend<I: IntoIterator<Item = Value<'a>>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.push(value));
    }
}

impl<'a> FromIterator<Value<'a>> for Values<'a> {
    fn from_iter<I: IntoIterator<Item = Value<'a>>>(values: I) -> Self {
        let mut all = Self::new();
        all.extend(values);
        all
    }
}

impl<'a> IntoIterator for Values<'a> {
    type Item = Value<'a>;
    type IntoIter = Each<'a>;

    fn into_iter(self) -> Self::IntoIter {
        Each {
            values: self,
            next: 0,
        }
    }
}

/// Values one by one. Those of a list are shared with it, which takes no list of its own.
#[derive(Debug)]
pub(crate) struct Each<'a> {
    values: Values<'a>,
    next: usize,
}

impl<'a> Iterator for Each<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if let Values::Many(values) = &self.values {
            let value = values.get(self.next)?.clone();
            self.next += 1;
            return Some(value);
        }
        match std::mem::take(&mut self.values) {
            Values::One(value) => Some(value),
            _ => None,
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.values.len().saturating_sub(self.next);
        (left, Some(left))
    }
}

impl<'v, 'a> IntoIterator for &'v Values<'a> {
    type Item = &'v Value<'a>;
    type IntoIter = slice::Iter<'v, Value<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_is_for_two_and_more() {
        let mut values: Values<'_> = [Value::Int(1)].into_iter().collect();
        assert!(matches!(values, Values::One(_)));
        values.push(Value::Int(2));
        values.push(Value::Int(3));
        assert_eq!(values.len(), 3);
        let each: Vec<_> = values.into_iter().collect();
        assert!(matches!(
            each.as_slice(),
            [Value::Int(1), Value::Int(2), Value::Int(3)]
        ));
        assert!(matches!(Values::from(Vec::new()), Values::None));
        assert!(matches!(Values::from(vec![Value::Nothing]), Values::One(_)));
        // The tag of a value has room for the other two cases.
        assert_eq!(size_of::<Values<'_>>(), size_of::<Value<'_>>());
    }
}
