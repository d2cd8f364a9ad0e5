//! Values: what the resolver takes an expression to be.

use std::cell::RefCell;
use std::rc::Rc;

use ruff_python_ast::{Expr, ExprCall, ExprLambda, StmtClassDef, StmtFunctionDef};
use smallvec::SmallVec;

use crate::bindings::{ByNode, ScopeId};
pub(crate) use crate::values::Values;
use crate::vars::Vars;

/// The most values one expression is taken to have.
pub(crate) const MAX_VALUES: usize = 8;
/// The longest text or run of bytes that is worked out, in bytes.
pub(crate) const MAX_TEXT: usize = 256 * 1024;
/// The longest list that is worked out.
pub(crate) const MAX_ITEMS: usize = 32 * 1024;
/// How many parts of a value are gone through. Lists that hold one another twice, a hundred times over, have more than
/// anybody could.
const MAX_PARTS: usize = 2 * MAX_ITEMS;

/// One value.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    /// Something outside the program by its qualified name, such as `os.system` or `builtins.open()`.
    Name(Rc<str>),
    /// A text; paths count as their text.
    Text(Rc<str>),
    /// Bytes.
    Bytes(Rc<[u8]>),
    /// An integer or a truth value.
    Int(i64),
    /// An integer over 64 bits, as its bytes with the highest first.
    Big(Rc<[u8]>),
    /// `None`.
    Nothing,
    /// A list, tuple, set or anything that gives its items one by one.
    List(Rc<Vec<Value<'a>>>),
    /// A dictionary.
    Dict(Rc<Vec<(Value<'a>, Value<'a>)>>),
    /// One of several values, or an unknown one, as an item.
    Any(Rc<Values<'a>>),
    /// A function of the program's.
    Function(&'a StmtFunctionDef, ScopeId, Env<'a>),
    /// A lambda.
    Lambda(&'a ExprLambda, ScopeId, Env<'a>),
    /// A class of the program's.
    Class(&'a StmtClassDef, ScopeId),
    /// An object of such a class.
    Instance(&'a StmtClassDef, ScopeId),
    /// A function that is called with its first argument given: a method of an object.
    Method(Rc<(Value<'a>, Value<'a>)>),
    /// A method of a value in sight: `''.join`.
    Bound(Rc<(Value<'a>, Rc<str>)>),
    /// What `functools.partial`, `operator.attrgetter` and their like made.
    Made(Rc<Made<'a>>),
}

/// A maker of functions and what it was given.
#[derive(Debug)]
pub(crate) struct Made<'a> {
    /// `functools.partial`, `operator.attrgetter`, `operator.itemgetter` or `operator.methodcaller`.
    pub(crate) maker: Rc<str>,
    pub(crate) args: Args<'a>,
}

/// Arguments by position: hardly any call has more than there is room for without the heap.
pub(crate) type Positional<'a> = SmallVec<[Values<'a>; 2]>;

/// The arguments of a call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Args<'a> {
    pub(crate) positional: Positional<'a>,
    pub(crate) named: Vec<(Rc<str>, Values<'a>)>,
    /// The calls that they are written in.
    pub(crate) written: Written<'a>,
}

/// A call that arguments are written in, without the first so many of them, and where it stands.
pub(crate) type Call<'a> = (&'a ExprCall, usize, Cx<'a>);

/// The calls that arguments are written in: one, and what partial calls were given before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written<'a> {
    pub(crate) call: Option<Call<'a>>,
    pub(crate) before: Vec<Call<'a>>,
}

impl<'a> Args<'a> {
    /// The expressions, in the order of the text, and where they stand: for what they carry along.
    pub(crate) fn exprs(&self) -> impl Iterator<Item = (&'a Expr, &Cx<'a>)> {
        let calls = self.written.call.iter().chain(&self.written.before);
        calls.flat_map(|(call, skip, cx)| {
            let named = call.arguments.keywords.iter();
            let all = call.arguments.args.iter();
            let all = all.chain(named.map(|keyword| &keyword.value));
            all.skip(*skip).map(move |expr| (expr, cx))
        })
    }

    /// Arguments by position only.
    pub(crate) fn of(positional: Vec<Values<'a>>) -> Self {
        Self {
            positional: positional.into(),
            ..Self::default()
        }
    }

    /// The values at a position.
    pub(crate) fn at(&self, position: usize) -> &[Value<'a>] {
        self.positional.get(position).map_or(&[], Values::as_slice)
    }

    /// The values at a position or under one of these names.
    pub(crate) fn get(&self, position: usize, names: &[&str]) -> &[Value<'a>] {
        if let Some(values) = self.positional.get(position) {
            return values;
        }
        let named = self.named.iter().find(|(name, _)| names.contains(&&**name));
        named.map_or(&[], |(_, values)| values.as_slice())
    }

    /// Whether something is given at a position or under one of these names.
    pub(crate) fn has(&self, position: usize, names: &[&str]) -> bool {
        self.positional.len() > position
            || self.named.iter().any(|(name, _)| names.contains(&&**name))
    }

    /// These arguments without the first `count` positional ones.
    pub(crate) fn skip(&self, count: usize) -> Self {
        Self {
            positional: self.positional.iter().skip(count).cloned().collect(),
            named: self.named.clone(),
            written: self.written.clone(),
        }
    }

    /// These arguments after others.
    pub(crate) fn after(&self, first: &[Values<'a>], named: &[(Rc<str>, Values<'a>)]) -> Self {
        let mut positional = Positional::from(first);
        positional.extend(self.positional.iter().cloned());
        let mut all = named.to_vec();
        all.extend(self.named.iter().cloned());
        Self {
            positional,
            named: all,
            written: self.written.clone(),
        }
    }
}

/// Variables of one call or loop: they hide what the text binds to their names.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) scope: ScopeId,
    pub(crate) vars: RefCell<Vars<'a>>,
    /// Values of expressions that were worked out with these variables, whether they are tentative, and the
    /// first frame that went into them.
    pub(crate) memo: RefCell<ByNode<(Values<'a>, bool, u64)>>,
    pub(crate) parent: Env<'a>,
    /// Its place among all frames that were ever made: those around it have lower ones.
    pub(crate) serial: u64,
    /// Whether what is set in it or below stays there: a loop that is run for the sake of one name changes
    /// nothing around it.
    pub(crate) closed: bool,
    /// How many frames stand below it.
    pub(crate) depth: usize,
}

/// The serial of no frame: what depends on none.
pub(crate) const OUTSIDE: u64 = u64::MAX;

/// The frames around an expression.
pub(crate) type Env<'a> = Option<Rc<Frame<'a>>>;

/// Where an expression stands.
#[derive(Debug, Clone)]
pub(crate) struct Cx<'a> {
    pub(crate) scope: ScopeId,
    pub(crate) env: Env<'a>,
}

impl<'a> Cx<'a> {
    /// A place in the text, outside any call that is followed.
    pub(crate) fn at(scope: ScopeId) -> Self {
        Self { scope, env: None }
    }

    /// The same place with a frame of variables of `scope` around it.
    pub(crate) fn with(&self, scope: ScopeId, vars: Vars<'a>, serial: u64) -> Self {
        self.inside(scope, vars, serial, false)
    }

    /// The same place with a frame that keeps what is set to itself.
    pub(crate) fn closed(&self, scope: ScopeId, vars: Vars<'a>, serial: u64) -> Self {
        self.inside(scope, vars, serial, true)
    }

    fn inside(&self, scope: ScopeId, vars: Vars<'a>, serial: u64, closed: bool) -> Self {
        let depth = self.env.as_ref().map_or(0, |frame| frame.depth + 1);
        let frame = Frame {
            scope,
            vars: RefCell::new(vars),
            memo: RefCell::default(),
            parent: self.env.clone(),
            serial,
            closed,
            depth,
        };
        Self {
            scope: self.scope,
            env: Some(Rc::new(frame)),
        }
    }

    /// How many frames there are.
    pub(crate) fn depth(&self) -> usize {
        self.env.as_ref().map_or(0, |frame| frame.depth + 1)
    }

    /// The variable of this name in the frames of a scope, and the last of them that was looked into.
    pub(crate) fn var(&self, scope: ScopeId, name: &str) -> (Option<Values<'a>>, u64) {
        let (mut at, mut last) = (self.env.as_ref(), OUTSIDE);
        while let Some(frame) = at {
            if frame.scope == scope {
                last = frame.serial;
                if let Some(values) = frame.vars.borrow().get(name) {
                    return (Some(values.clone()), last);
                }
            }
            at = frame.parent.as_ref();
        }
        (None, last)
    }

    /// Sets a variable in the innermost frame that has it, or else in the innermost frame. The last frame that was
    /// looked into.
    pub(crate) fn set(&self, name: &'a str, values: Values<'a>) -> u64 {
        let (mut at, mut last) = (self.env.as_ref(), OUTSIDE);
        while let Some(frame) = at {
            last = frame.serial;
            frame.memo.borrow_mut().clear();
            if let Some(place) = frame.vars.borrow_mut().place(name) {
                *place = values;
                return last;
            }
            at = frame.parent.as_ref().filter(|_| !frame.closed);
        }
        if let Some(frame) = &self.env {
            frame.vars.borrow_mut().insert(name, values);
        }
        last
    }

    /// The outermost frame.
    pub(crate) fn outermost(&self) -> u64 {
        let frames = std::iter::successors(self.env.as_ref(), |frame| frame.parent.as_ref());
        frames.last().map_or(OUTSIDE, |frame| frame.serial)
    }
}

impl<'a> Value<'a> {
    /// A name.
    pub(crate) fn name(name: impl Into<Rc<str>>) -> Self {
        Self::Name(name.into())
    }

    /// A text, unless it is too long.
    pub(crate) fn text(text: impl Into<Rc<str>>) -> Option<Self> {
        let text = text.into();
        (text.len() <= MAX_TEXT).then_some(Self::Text(text))
    }

    /// Bytes, unless there are too many.
    pub(crate) fn bytes(bytes: impl Into<Rc<[u8]>>) -> Option<Self> {
        let bytes = bytes.into();
        (bytes.len() <= MAX_TEXT).then_some(Self::Bytes(bytes))
    }

    /// A list, unless it is too long.
    pub(crate) fn list(items: Vec<Value<'a>>) -> Option<Self> {
        (items.len() <= MAX_ITEMS).then(|| Self::List(Rc::new(items)))
    }

    /// What an item may be.
    pub(crate) fn item(values: Values<'a>) -> Self {
        match values {
            Values::One(one) => one,
            values => Self::Any(Rc::new(values)),
        }
    }

    /// A method of a value in sight: `''.join`.
    pub(crate) fn method(&self, name: &str) -> Values<'a> {
        match self {
            Self::Text(_)
            | Self::Bytes(_)
            | Self::Int(_)
            | Self::Big(_)
            | Self::List(_)
            | Self::Dict(_) => Values::One(Self::Bound(Rc::new((self.clone(), name.into())))),
            _ => Values::new(),
        }
    }

    /// What an item may be, one by one.
    pub(crate) fn spread(&self) -> Values<'a> {
        match self {
            Self::Any(values) => Values::clone(values),
            other => other.clone().into(),
        }
    }

    /// The text that it is, bytes that are UTF-8 included.
    pub(crate) fn as_text(&self) -> Option<Rc<str>> {
        match self {
            Self::Text(text) => Some(Rc::clone(text)),
            Self::Bytes(bytes) => str::from_utf8(bytes).ok().map(Rc::from),
            _ => None,
        }
    }

    /// Whether everything about it is known. Of what has more parts than are gone through it is not.
    pub(crate) fn concrete(&self) -> bool {
        self.concrete_within(&mut { MAX_PARTS })
    }

    fn concrete_within(&self, parts: &mut usize) -> bool {
        let Some(left) = parts.checked_sub(1) else {
            return false;
        };
        *parts = left;
        match self {
            Self::Text(_)
            | Self::Bytes(_)
            | Self::Int(_)
            | Self::Big(_)
            | Self::Nothing
            | Self::Function(..)
            | Self::Lambda(..) => true,
            Self::List(items) => items.iter().all(|item| item.concrete_within(parts)),
            Self::Dict(items) => items
                .iter()
                .all(|(key, value)| key.concrete_within(parts) && value.concrete_within(parts)),
            _ => false,
        }
    }

    /// Whether it counts as true, when that is known.
    pub(crate) fn truth(&self) -> Option<bool> {
        match self {
            Self::Int(int) => Some(*int != 0),
            Self::Text(text) => Some(!text.is_empty()),
            Self::Bytes(bytes) => Some(!bytes.is_empty()),
            Self::List(items) => Some(!items.is_empty()),
            Self::Dict(items) => Some(!items.is_empty()),
            Self::Nothing => Some(false),
            Self::Big(_) | Self::Function(..) | Self::Lambda(..) | Self::Class(..) => Some(true),
            _ => None,
        }
    }

    /// Whether two values that are known are the same; an unlike kind is not the same, nor are those that have more
    /// parts than are gone through.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.same_within(other, &mut { MAX_PARTS })
    }

    fn same_within(&self, other: &Self, parts: &mut usize) -> bool {
        let Some(left) = parts.checked_sub(1) else {
            return false;
        };
        *parts = left;
        match (self, other) {
            (Self::Name(a), Self::Name(b)) | (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) | (Self::Big(a), Self::Big(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Nothing, Self::Nothing) => true,
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.same_within(b, parts))
            }
            (Self::Function(a, ..), Self::Function(b, ..)) => std::ptr::eq(*a, *b),
            (Self::Class(a, _), Self::Class(b, _))
            | (Self::Instance(a, _), Self::Instance(b, _)) => std::ptr::eq(*a, *b),
            _ => false,
        }
    }
}

/// The one value, when there is exactly one.
pub(crate) fn single<'v, 'a>(values: &'v [Value<'a>]) -> Option<&'v Value<'a>> {
    match values {
        [one] => Some(one),
        _ => None,
    }
}

/// [`merge`] for a whole list. Most expressions have their values from one binding: such a list is taken as
/// it is, without copying it.
pub(crate) fn absorb<'a>(into: &mut Values<'a>, from: Values<'a>) {
    if into.is_empty() && from.len() <= MAX_VALUES && distinct(&from) {
        *into = from;
    } else {
        for value in &from {
            if into.len() >= MAX_VALUES {
                return;
            }
            if !into.iter().any(|known| known.same(value)) {
                into.push(value.clone());
            }
        }
    }
}

/// Whether no value of a list is there twice.
fn distinct(values: &[Value<'_>]) -> bool {
    let mut values = values.iter();
    while let Some(value) = values.next() {
        if values.as_slice().iter().any(|other| value.same(other)) {
            return false;
        }
    }
    true
}

/// Adds values that are not there yet, up to the bound.
pub(crate) fn merge<'a>(into: &mut Values<'a>, from: impl IntoIterator<Item = Value<'a>>) {
    for value in from {
        if into.len() >= MAX_VALUES {
            return;
        }
        if !into.iter().any(|known| known.same(&value)) {
            into.push(value);
        }
    }
}
