//! Calls that were followed already: what a function of the program's gives for the same arguments.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::rc::Rc;

use foldhash::fast::RandomState;

use crate::allowance::Cost;
use crate::bindings::node;
use crate::value::{Args, Positional, Value, Values};

/// The most calls that are remembered in one program.
const MAX_CALLS: usize = 8_192;
/// How many parts of values are looked at before they are taken to be unlike, or not to be remembered.
const MAX_PARTS: usize = 4_096;
/// How many parts of the values of a call, and how many bytes of each, go into its hash.
const HASHED: usize = 64;

/// One call and what came of it.
#[derive(Debug)]
struct Followed<'a, W, T> {
    callee: Value<'a>,
    positional: Positional<'a>,
    named: Vec<(Rc<str>, Values<'a>)>,
    stood: W,
    outcome: T,
    cost: Cost,
}

impl<'a, W, T> Followed<'a, W, T> {
    fn is(&self, callee: &Value<'a>, args: &Args<'a>) -> bool {
        let mut positional = self.positional.iter().zip(&args.positional);
        let mut named = self.named.iter().zip(&args.named);
        identical(&self.callee, callee)
            && self.positional.len() == args.positional.len()
            && self.named.len() == args.named.len()
            && positional.all(|(a, b)| all_identical(a, b))
            && named.all(|(a, b)| a.0 == b.0 && all_identical(&a.1, &b.1))
    }
}

/// Calls that were followed while the bindings stayed as they are, each with where it stood and what came
/// of it.
#[derive(Debug)]
pub(crate) struct Memory<'a, W, T> {
    calls: HashMap<u64, Vec<Followed<'a, W, T>>, RandomState>,
    hashes: RandomState,
    count: usize,
    version: u64,
}

impl<W, T> Default for Memory<'_, W, T> {
    fn default() -> Self {
        Self {
            calls: HashMap::default(),
            hashes: RandomState::default(),
            count: 0,
            version: 0,
        }
    }
}

impl<'a, W, T> Memory<'a, W, T> {
    /// The hash of a call.
    pub(crate) fn key(&self, callee: &Value<'a>, args: &Args<'a>) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        let mut parts = HASHED;
        hash(callee, &mut hasher, &mut parts);
        for values in &args.positional {
            hash_all(values, &mut hasher, &mut parts);
        }
        for (name, values) in &args.named {
            name.hash(&mut hasher);
            hash_all(values, &mut hasher, &mut parts);
        }
        hasher.finish()
    }

    /// What came of a call and its cost, when it was followed with this version of the bindings from a
    /// place that fits.
    pub(crate) fn known(
        &mut self,
        key: u64,
        version: u64,
        (callee, args): (&Value<'a>, &Args<'a>),
        fits: impl Fn(&W) -> bool,
    ) -> Option<(&T, Cost)> {
        if self.version != version {
            self.forget();
            self.version = version;
        }
        let mut followed = self.calls.get(&key)?.iter();
        let found = followed.find(|call| fits(&call.stood) && call.is(callee, args))?;
        Some((&found.outcome, found.cost))
    }

    /// Remembers a call, unless it shares variables with a function: those change.
    pub(crate) fn remember(
        &mut self,
        key: u64,
        (callee, args): (&Value<'a>, &Args<'a>),
        stood: W,
        outcome: T,
        cost: Cost,
    ) {
        if self.count >= MAX_CALLS {
            return;
        }
        let named = args.named.iter().map(|(_, values)| values);
        let given = args.positional.iter().chain(named).flatten();
        if !settled(given.chain([callee])) {
            return;
        }
        self.count += 1;
        self.calls.entry(key).or_default().push(Followed {
            callee: callee.clone(),
            positional: args.positional.clone(),
            named: args.named.clone(),
            stood,
            outcome,
            cost,
        });
    }

    /// Forgets all of them.
    pub(crate) fn forget(&mut self) {
        self.calls.clear();
        self.count = 0;
    }
}

/// Whether values stay what they are: functions that share variables with others do not.
pub(crate) fn settled<'v, 'a: 'v>(values: impl IntoIterator<Item = &'v Value<'a>>) -> bool {
    let mut parts = MAX_PARTS;
    values.into_iter().all(|value| stays(value, &mut parts))
}

fn hash_all(values: &[Value<'_>], hasher: &mut impl Hasher, parts: &mut usize) {
    values.len().hash(hasher);
    values
        .iter()
        .take(HASHED)
        .for_each(|value| hash(value, hasher, parts));
}

fn hash(value: &Value<'_>, hasher: &mut impl Hasher, parts: &mut usize) {
    let Some(left) = parts.checked_sub(1) else {
        return;
    };
    *parts = left;
    std::mem::discriminant(value).hash(hasher);
    match value {
        Value::Name(text) | Value::Text(text) => hash_bytes(text.as_bytes(), hasher),
        Value::Bytes(bytes) | Value::Big(bytes) => hash_bytes(bytes, hasher),
        Value::Int(int) => int.hash(hasher),
        Value::Nothing => {}
        Value::List(items) => hash_all(items, hasher, parts),
        Value::Any(values) => hash_all(values, hasher, parts),
        Value::Dict(entries) => {
            entries.len().hash(hasher);
            for (key, value) in entries.iter().take(HASHED) {
                hash(key, hasher, parts);
                hash(value, hasher, parts);
            }
        }
        Value::Function(function, ..) => node(*function).hash(hasher),
        Value::Lambda(lambda, ..) => node(*lambda).hash(hasher),
        Value::Class(_, scope) | Value::Instance(_, scope) => scope.hash(hasher),
        Value::Method(method) => {
            hash(&method.0, hasher, parts);
            hash(&method.1, hasher, parts);
        }
        Value::Bound(bound) => {
            hash(&bound.0, hasher, parts);
            bound.1.hash(hasher);
        }
        Value::Made(made) => Rc::as_ptr(made).addr().hash(hasher),
    }
}

fn hash_bytes(bytes: &[u8], hasher: &mut impl Hasher) {
    bytes.len().hash(hasher);
    bytes.get(..bytes.len().min(HASHED)).hash(hasher);
}

fn all_identical<'a>(a: &[Value<'a>], b: &[Value<'a>]) -> bool {
    let mut parts = MAX_PARTS;
    all_alike(a, b, &mut parts)
}

fn all_alike<'a>(a: &[Value<'a>], b: &[Value<'a>], parts: &mut usize) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b, parts))
}

fn identical<'a>(a: &Value<'a>, b: &Value<'a>) -> bool {
    let mut parts = MAX_PARTS;
    alike(a, b, &mut parts)
}

/// Whether nothing can tell two values apart. Unlike [`Value::same`] it says no where it does not know.
fn alike<'a>(a: &Value<'a>, b: &Value<'a>, parts: &mut usize) -> bool {
    let Some(left) = parts.checked_sub(1) else {
        return false;
    };
    *parts = left;
    match (a, b) {
        (Value::Name(a), Value::Name(b)) | (Value::Text(a), Value::Text(b)) => a == b,
        (Value::Bytes(a), Value::Bytes(b)) | (Value::Big(a), Value::Big(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Nothing, Value::Nothing) => true,
        (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b) || all_alike(a, b, parts),
        (Value::Any(a), Value::Any(b)) => Rc::ptr_eq(a, b) || all_alike(a, b, parts),
        (Value::Dict(a), Value::Dict(b)) => {
            Rc::ptr_eq(a, b)
                || a.len() == b.len()
                    && a.iter()
                        .zip(b.iter())
                        .all(|(a, b)| alike(&a.0, &b.0, parts) && alike(&a.1, &b.1, parts))
        }
        (Value::Function(a, _, None), Value::Function(b, _, None)) => std::ptr::eq(*a, *b),
        (Value::Lambda(a, _, None), Value::Lambda(b, _, None)) => std::ptr::eq(*a, *b),
        (Value::Class(_, a), Value::Class(_, b))
        | (Value::Instance(_, a), Value::Instance(_, b)) => a == b,
        (Value::Method(a), Value::Method(b)) => {
            Rc::ptr_eq(a, b) || alike(&a.0, &b.0, parts) && alike(&a.1, &b.1, parts)
        }
        (Value::Bound(a), Value::Bound(b)) => {
            Rc::ptr_eq(a, b) || a.1 == b.1 && alike(&a.0, &b.0, parts)
        }
        _ => false,
    }
}

fn stays(value: &Value<'_>, parts: &mut usize) -> bool {
    let Some(left) = parts.checked_sub(1) else {
        return false;
    };
    *parts = left;
    match value {
        Value::Name(_)
        | Value::Text(_)
        | Value::Bytes(_)
        | Value::Int(_)
        | Value::Big(_)
        | Value::Nothing
        | Value::Class(..)
        | Value::Instance(..) => true,
        Value::List(items) => items.iter().all(|item| stays(item, parts)),
        Value::Any(values) => values.iter().all(|value| stays(value, parts)),
        Value::Dict(entries) => entries
            .iter()
            .all(|(key, value)| stays(key, parts) && stays(value, parts)),
        Value::Function(_, _, env) | Value::Lambda(_, _, env) => env.is_none(),
        Value::Method(method) => stays(&method.0, parts) && stays(&method.1, parts),
        Value::Bound(bound) => stays(&bound.0, parts),
        Value::Made(_) => false,
    }
}
