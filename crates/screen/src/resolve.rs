//! The resolver: what expressions stand for, through aliases, wrappers, tables and packed texts.
//!
//! It does not follow the order of a program: a name stands for everything that is ever bound to it in
//! its scope, which errs on the side of seeing too much. Calls of the program's own functions are
//! followed with the arguments they are given, and loops over constants are run. Everything is
//! bounded; what exceeds a bound becomes the name [`HIDDEN`], which the rules know.

mod attributes;
mod frames;
mod settle;

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::rc::Rc;

use foldhash::fast::RandomState;
use ruff_python_ast::{Expr, ExprCall, ExprName, Stmt};
use ruff_python_parser::Mode;
use smallvec::SmallVec;

use crate::allowance::{Allowance, Mark};
use crate::analyse::parse_in;
use crate::arena::{Arena, only_expression};
use crate::bindings::{AddressHasher, Binding, Bindings, ByName, ByNode, ScopeId, node};
use crate::memory::Memory;
use crate::names::{canonical, is_builtin, join};
use crate::value::{Args, Cx, MAX_VALUES, OUTSIDE, Value, Values, absorb, merge};

/// The deepest nesting of expressions, aliases and calls that is followed.
pub(crate) const MAX_DEPTH: usize = 200;
/// The deepest nesting of calls of the program's own functions that is followed.
pub(crate) const MAX_FRAMES: usize = 8;
/// How often what calls bind is looked at again: a wrapper in a wrapper takes one each.
const ROUNDS: usize = 4;
/// How many names outside the program are kept with what was made of them: calls that are followed make
/// new ones all the time.
const MAX_KEPT: usize = 16_384;
/// How many expressions to make room for when the first one of a call is remembered.
const USUAL_IN_A_CALL: usize = 14;
/// The name of what was too long or too deep to work out.
pub(crate) const HIDDEN: &str = "casemate.hidden";

/// Answers what expressions stand for.
pub(crate) struct Resolver<'a> {
    pub(crate) bindings: Bindings<'a>,
    arena: &'a Arena,
    known: HashMap<(ScopeId, &'a str), (Values<'a>, bool), RandomState>,
    /// Values of expressions outside calls that are followed.
    memo: ByNode<Memo<'a>>,
    /// What the program's own functions gave, whether that is tentative, and how deep their calls stood.
    pub(crate) memory: Memory<'a, usize, (Values<'a>, bool)>,
    /// How often an answer was met that calls may still add to: that of a parameter. Answers that such a one went
    /// into are tentative, and forgotten when calls have added to parameters.
    tentative: u64,
    /// Calls that give their callees nothing new any more, whatever is added to parameters.
    settled: HashSet<usize, BuildHasherDefault<AddressHasher>>,
    /// Code that a call of `exec` and its like runs.
    code: ByNode<Vec<&'a [Stmt]>>,
    parsed: HashMap<Rc<str>, Option<&'a [Stmt]>, RandomState>,
    /// Loops that are being run, and their places among what is being worked out.
    pub(crate) running: Vec<(&'a Stmt, usize)>,
    pub(crate) allowance: Allowance,
    /// Whether code in a text could not be read for its nesting or its number.
    pub(crate) unread: bool,
    /// Names that are being worked out, the innermost last, and their places among what is. They are few: no more than
    /// depths are followed.
    open: Vec<(ScopeId, &'a str, usize)>,
    /// The builtins that were met, by the names that the program does not bind.
    builtins: ByName<'a, Option<Rc<str>>>,
    /// What uses of names stand for outside calls that are followed.
    found: ByNode<Found<'a>>,
    /// Attributes of what is outside the program: the same ones are asked for again and again.
    outer: HashMap<(Rc<str>, &'a str), Values<'a>, RandomState>,
    /// What calls of what is outside the program give, by what is called.
    results: HashMap<Rc<str>, Option<Rc<str>>, RandomState>,
    /// What names and expressions inside calls and loops stand for where no variable of those went into it, and
    /// whether that is tentative: every call and round finds the same.
    steady_names: HashMap<(ScopeId, &'a str), (Values<'a>, bool), RandomState>,
    steady: ByNode<(Values<'a>, bool)>,
    /// How many frames were made.
    frames: u64,
    /// The first frame that went into what is being worked out.
    first: u64,
}

/// What one use of a name stands for, with what it was looked up by: it holds while nothing is bound.
struct Found<'a> {
    version: u64,
    scope: ScopeId,
    home: ScopeId,
    values: Values<'a>,
    tentative: bool,
}

/// What is known of an expression.
enum Memo<'a> {
    /// It is being worked out, at this place among what is.
    Open(usize),
    /// Its values, and whether they are tentative.
    Known(Values<'a>, bool),
}

impl<'a> Resolver<'a> {
    /// A resolver for a module, with the code in its texts.
    pub(crate) fn new(body: &'a [Stmt], arena: &'a Arena) -> Self {
        let bindings = Bindings::of(body);
        let around = bindings.expected();
        let mut resolver = Self {
            bindings,
            arena,
            known: HashMap::default(),
            memo: ByNode::with_capacity_and_hasher(around, BuildHasherDefault::default()),
            memory: Memory::default(),
            tentative: 0,
            settled: HashSet::default(),
            code: ByNode::default(),
            parsed: HashMap::default(),
            running: Vec::new(),
            allowance: Allowance::new(),
            unread: false,
            open: Vec::new(),
            builtins: ByName::default(),
            found: ByNode::with_capacity_and_hasher(around, BuildHasherDefault::default()),
            outer: HashMap::default(),
            results: HashMap::default(),
            steady_names: HashMap::default(),
            steady: ByNode::default(),
            frames: 0,
            first: OUTSIDE,
        };
        resolver.settle();
        resolver
    }

    /// This moment, to know later whether what was worked out since is tentative.
    pub(crate) fn mark(&self) -> (Mark, u64) {
        (self.allowance.mark(), self.tentative)
    }

    /// Whether what was worked out since a moment may be another answer when calls have added to parameters, or in
    /// another order.
    pub(crate) fn tentative_since(&self, (mark, tentative): &(Mark, u64)) -> bool {
        self.tentative != *tentative || self.allowance.again(mark).is_none()
    }

    /// Says that an answer that is tentative, if it is, goes into whatever is being worked out.
    pub(crate) fn rest_on(&mut self, tentative: bool) {
        self.tentative += u64::from(tentative);
    }

    /// Whether something that stands this deep is not worked out any more.
    pub(crate) fn stops(&mut self, depth: usize) -> bool {
        if depth > MAX_DEPTH {
            self.allowance.cut();
            return true;
        }
        !self.allowance.spend()
    }

    /// The code that a call runs.
    pub(crate) fn code_of(&self, call: &ExprCall) -> Vec<&'a [Stmt]> {
        self.code.get(&node(call)).cloned().unwrap_or_default()
    }

    /// Reads a text as code, once.
    pub(crate) fn parse(&mut self, text: &Rc<str>) -> Option<&'a [Stmt]> {
        if let Some(known) = self.parsed.get(text) {
            return *known;
        }
        let body = match parse_in(text.trim_start(), Mode::Module) {
            Ok(parsed) if parsed.errors().is_empty() || text.len() > 20 => {
                let body = self.arena.keep(parsed);
                self.unread |= body.is_none();
                body
            }
            Ok(_) => None,
            Err(_) => {
                self.unread = true;
                None
            }
        };
        self.parsed.insert(Rc::clone(text), body);
        body
    }

    /// What an expression stands for.
    pub(crate) fn values(&mut self, expr: &'a Expr, cx: &Cx<'a>) -> Values<'a> {
        self.eval(expr, cx, 0)
    }

    /// The qualified names that an expression stands for.
    pub(crate) fn names(&mut self, expr: &'a Expr, cx: &Cx<'a>) -> Names {
        names_of(&self.eval(expr, cx, 0))
    }

    /// The text that an expression is, when it is one.
    pub(crate) fn text(&mut self, expr: &'a Expr, cx: &Cx<'a>) -> Option<Rc<str>> {
        text_of(&self.eval(expr, cx, 0))
    }

    /// The value of an expression, remembered where it does not depend on a call that is followed.
    pub(crate) fn eval(&mut self, expr: &'a Expr, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        if self.stops(depth) {
            return Values::One(Value::name(HIDDEN));
        }
        let costly = matches!(
            expr,
            Expr::Call(_)
                | Expr::Attribute(_)
                | Expr::Subscript(_)
                | Expr::BinOp(_)
                | Expr::List(_)
                | Expr::Tuple(_)
                | Expr::Dict(_)
                | Expr::FString(_)
                | Expr::ListComp(_)
                | Expr::Generator(_)
        );
        if !costly {
            return self.eval_new(expr, cx, depth);
        }
        let key = node(expr);
        if let Some(frame) = &cx.env {
            if let Some((known, tentative)) = self.steady.get(&key) {
                let (known, tentative) = (known.clone(), *tentative);
                self.rest_on(tentative);
                return known;
            }
            let known = frame.memo.borrow().get(&key).cloned();
            if let Some((known, tentative, first)) = known {
                self.takes(first);
                self.rest_on(tentative);
                return known;
            }
            let (mark, began) = (self.mark(), self.begins());
            let values = self.eval_new(expr, cx, depth);
            let tentative = self.tentative != mark.1;
            let first = self.took(began);
            if first == OUTSIDE && self.allowance.again(&mark.0).is_some() {
                self.steady.insert(key, (values.clone(), tentative));
                self.allowance.remembered(&mark.0);
                return values;
            }
            let mut memo = frame.memo.borrow_mut();
            if memo.capacity() == 0 {
                memo.reserve(USUAL_IN_A_CALL);
            }
            memo.insert(key, (values.clone(), tentative, first));
            return values;
        }
        match self.memo.get(&key) {
            Some(Memo::Known(known, tentative)) => {
                let (known, tentative) = (known.clone(), *tentative);
                self.rest_on(tentative);
                return known;
            }
            Some(&Memo::Open(place)) => {
                self.allowance.circle(place);
                return Values::new();
            }
            None => {}
        }
        // Until it is known it stands for nothing, which also ends circles.
        let place = self.allowance.enter();
        self.memo.insert(key, Memo::Open(place));
        let mark = self.mark();
        let values = self.eval_new(expr, cx, depth);
        let tentative = self.tentative_since(&mark);
        self.memo
            .insert(key, Memo::Known(values.clone(), tentative));
        self.allowance.leave();
        self.allowance.remembered(&mark.0);
        values
    }

    pub(crate) fn name(&mut self, name: &'a ExprName, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        let id = name.id.as_str();
        if let Some(found) = self.found.get(&node(name))
            && found.scope == cx.scope
            && found.version == self.bindings.version()
        {
            let (values, frame) = cx.var(found.home, id);
            if let Some(values) = values {
                self.takes(frame);
                return values;
            }
            if !self.inside_of(cx, found.home) {
                let (values, tentative) = (found.values.clone(), found.tentative);
                self.rest_on(tentative);
                return values;
            }
        }
        let Some((home, bound)) = self.bindings.lookup(id, cx.scope) else {
            return self.builtin(id);
        };
        let (values, frame) = cx.var(home, id);
        self.first = self.first.min(frame);
        if let Some(values) = values {
            return values;
        }
        let stripped = self.without_foreign(cx, home);
        let cx = &stripped;
        let framed = cx.env.is_some();
        if !framed && let Some((known, tentative)) = self.known.get(&(home, id)) {
            let (values, tentative) = (known.clone(), *tentative);
            let found = Found {
                version: self.bindings.version(),
                scope: cx.scope,
                home,
                values: values.clone(),
                tentative,
            };
            self.found.insert(node(name), found);
            self.rest_on(tentative);
            return values;
        }
        if framed && let Some((known, tentative)) = self.steady_names.get(&(home, id)) {
            let (values, tentative) = (known.clone(), *tentative);
            self.rest_on(tentative);
            return values;
        }
        let bound = Rc::clone(bound);
        let mut open = self.open.iter();
        if let Some(&(.., place)) = open.find(|open| (open.0, open.1) == (home, id)) {
            self.allowance.circle(place);
            // `class A: os = os`: what the name stood for outside.
            let outer = self.bindings.scope(home).and_then(|scope| scope.parent);
            return match outer {
                Some(outer) => self.name(
                    name,
                    &Cx {
                        scope: outer,
                        env: cx.env.clone(),
                    },
                    depth + 1,
                ),
                None => Values::new(),
            };
        }
        let place = self.allowance.enter();
        self.open.push((home, id, place));
        let (mark, began) = (self.mark(), self.begins());
        self.rest_on(grows(&bound));
        let mut values = self.bound(id, home, &bound, cx, depth);
        let offset = name.range.start().into();
        let hidden = self.bindings.hides(id, home, cx.scope, offset);
        if is_builtin(id) && !hidden {
            absorb(&mut values, self.free(id));
        }
        self.open.pop();
        self.allowance.leave();
        let first = self.took(began);
        let own_builtin = is_builtin(id) && home == cx.scope;
        if framed && !own_builtin && first == OUTSIDE && self.allowance.again(&mark.0).is_some() {
            let tentative = self.tentative != mark.1;
            let known = (values.clone(), tentative);
            self.steady_names.insert((home, id), known);
            self.allowance.remembered(&mark.0);
        } else if !framed && !own_builtin {
            let tentative = self.tentative_since(&mark);
            self.known.insert((home, id), (values.clone(), tentative));
            self.allowance.remembered(&mark.0);
        }
        values
    }

    /// The values of a list of bindings.
    pub(crate) fn bound(
        &mut self,
        name: &'a str,
        home: ScopeId,
        bound: &[Binding<'a>],
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        let mut values = Values::new();
        for binding in bound {
            if let Binding::Changed(stmt, scope) = binding {
                let at = Cx {
                    scope: *scope,
                    env: cx.env.clone(),
                };
                values = self.changed(name, home, values, stmt, &at, depth);
                continue;
            }
            let found = self.binding(binding, cx, depth);
            absorb(&mut values, found);
            if values.len() >= MAX_VALUES {
                break;
            }
        }
        values
    }

    fn binding(&mut self, binding: &Binding<'a>, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        let next = depth + 1;
        let at = |scope: &ScopeId| self.place(*scope, cx);
        match binding {
            Binding::Qualified(name) => Values::One(Value::Name(Rc::clone(name))),
            Binding::Value(expr, scope) => {
                let at = at(scope);
                self.eval(expr, &at, next)
            }
            Binding::Item(expr, scope) => {
                let at = at(scope);
                items_of(&self.eval(expr, &at, next))
            }
            Binding::Part(expr, index, scope) => {
                let at = at(scope);
                part_of(&self.eval(expr, &at, next), *index)
            }
            Binding::ItemPart(expr, index, scope) => {
                let at = at(scope);
                part_of(&items_of(&self.eval(expr, &at, next)), *index)
            }
            Binding::Rest(call, from, scope) => {
                let at = at(scope);
                let args = self.args(call, &at, next);
                let rest = args.positional.into_iter().skip(*from).map(Value::item);
                Value::list(rest.collect()).into_iter().collect()
            }
            Binding::Given(values) => values.clone(),
            Binding::Function(function, scope) => {
                self.takes(cx.outermost());
                let plain = Value::Function(function, *scope, cx.env.clone());
                self.decorated(function, plain, cx, next)
            }
            Binding::Class(class, scope) => Values::One(Value::Class(class, *scope)),
            Binding::Instance(class, scope) => Values::One(Value::Instance(class, *scope)),
            Binding::Changed(..) | Binding::Parameter | Binding::Unknown => Values::new(),
        }
    }

    /// What the decorators of a function make of it.
    fn decorated(
        &mut self,
        function: &'a ruff_python_ast::StmtFunctionDef,
        plain: Value<'a>,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        let mut values = Values::One(plain);
        for decorator in function.decorator_list.iter().rev() {
            let outer = self.bindings.scope_of(function);
            let parent = outer.and_then(|scope| self.bindings.scope(scope)?.parent);
            let at = Cx {
                scope: parent.unwrap_or(cx.scope),
                env: cx.env.clone(),
            };
            let makers = self.eval(&decorator.expression, &at, depth);
            let mut made = Values::new();
            for maker in &makers {
                if let Value::Name(_) = maker {
                    // `staticmethod`, `functools.wraps(f)` and their like give the function back.
                    continue;
                }
                let args = Args::of(vec![values.clone()]);
                absorb(&mut made, self.invoke(maker, &args, &at, depth));
            }
            if !made.is_empty() {
                values = made;
            }
        }
        values
    }

    /// What a name of the text stands for that the program does not bind.
    fn builtin(&mut self, name: &'a str) -> Values<'a> {
        if !self.bindings.stars().is_empty() {
            return self.free(name);
        }
        let known = self.builtins.entry(name).or_insert_with(|| full_name(name));
        known.clone().map(Value::Name).into_iter().collect()
    }

    /// What a name stands for that the program does not bind.
    pub(crate) fn free(&self, name: &str) -> Values<'a> {
        let builtin = full_name(name).map(Value::Name).into_iter();
        let stars = self.bindings.stars().iter().rev().take(MAX_VALUES - 1);
        let starred = stars
            .filter(|module| {
                !is_builtin(name) || !matches!(&***module, "os" | "codecs" | "io" | "gzip")
            })
            .map(|module| Value::name(canonical(&[module, ".", name].concat())));
        builtin.chain(starred).collect()
    }

    /// `globals()["x"]`: what a text names.
    pub(crate) fn by_text(&mut self, text: &str, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        if text == "__builtins__" {
            return Values::One(Value::name("builtins"));
        }
        let Some((home, bound)) = self.bindings.lookup(text, cx.scope) else {
            return self.free(text);
        };
        let bound = Rc::clone(bound);
        if depth > MAX_DEPTH {
            self.allowance.cut();
            return Values::new();
        }
        self.rest_on(grows(&bound));
        let mut values = Values::new();
        for binding in bound.iter() {
            absorb(&mut values, self.binding(binding, &Cx::at(home), depth + 1));
        }
        values
    }

    /// The value of an expression in a text: what `eval` gives.
    pub(crate) fn evaluated(&mut self, text: &Rc<str>, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        if depth > MAX_DEPTH / 2 {
            self.allowance.cut();
            return Values::new();
        }
        match self.parse(text).and_then(only_expression) {
            Some(expr) => self.eval(expr, cx, depth + 20),
            None => Values::new(),
        }
    }
}

/// Whether calls may add to what a name is bound to.
fn grows(bound: &[Binding<'_>]) -> bool {
    bound
        .iter()
        .any(|binding| matches!(binding, Binding::Parameter | Binding::Given(_)))
}

/// The qualified name of a builtin.
fn full_name(name: &str) -> Option<Rc<str>> {
    is_builtin(name).then(|| canonical(&["builtins.", name].concat()).into())
}

/// Qualified names: of most expressions there is one or none, which needs no heap.
pub(crate) type Names = SmallVec<[Rc<str>; 1]>;

/// The qualified names among values.
pub(crate) fn names_of(values: &[Value<'_>]) -> Names {
    let mut names = Names::with_capacity(values.len());
    for value in values {
        match value {
            Value::Name(name) if !names.contains(name) => names.push(Rc::clone(name)),
            Value::Any(inner) => names.extend(names_of(inner)),
            _ => {}
        }
    }
    names
}

/// The one text among values; names beside it do not matter: a path has both.
pub(crate) fn text_of(values: &[Value<'_>]) -> Option<Rc<str>> {
    let mut texts = values.iter().filter_map(Value::as_text);
    let first = texts.next()?;
    texts.next().is_none().then_some(first)
}

/// Every text among values and the items of lists.
pub(crate) fn texts_of(values: &[Value<'_>]) -> Vec<Rc<str>> {
    values
        .iter()
        .flat_map(Value::spread)
        .filter_map(|value| value.as_text())
        .collect()
}

/// What the items of values may be.
pub(crate) fn items_of<'a>(values: &[Value<'a>]) -> Values<'a> {
    let mut items = Values::new();
    for value in values {
        match value {
            Value::List(list) => {
                for item in list.iter().take(64) {
                    if items.len() >= MAX_VALUES * 2 {
                        break;
                    }
                    items.extend(item.spread());
                }
            }
            Value::Dict(entries) => {
                items.extend(entries.iter().take(MAX_VALUES).map(|(key, _)| key.clone()));
            }
            Value::Name(name) => items.extend(join(name, "[]").map(Value::Name)),
            _ => {}
        }
    }
    items
}

/// What the items at an index of values may be.
pub(crate) fn part_of<'a>(values: &[Value<'a>], index: usize) -> Values<'a> {
    let mut parts = Values::new();
    for value in values {
        match value {
            Value::List(list) => {
                let item = list.get(index).map(Value::spread).unwrap_or_default();
                absorb(&mut parts, item);
            }
            Value::Text(text) => merge(
                &mut parts,
                text.chars()
                    .nth(index)
                    .and_then(|c| Value::text(c.to_string())),
            ),
            Value::Name(name) => merge(&mut parts, join(name, "[]").map(Value::Name)),
            _ => {}
        }
    }
    parts
}

/// Whether a call of this name runs a text as code.
pub(crate) fn runs_code(name: &str) -> bool {
    matches!(
        name,
        "builtins.eval"
            | "builtins.exec"
            | "builtins.compile"
            | "timeit.timeit"
            | "timeit.repeat"
            | "timeit.Timer"
            | "cProfile.run"
            | "profile.run"
            | "trace.Trace().run"
            | "doctest.run_docstring_examples"
            | "code.InteractiveInterpreter().runsource"
            | "code.InteractiveInterpreter().runcode"
            | "code.InteractiveConsole().push"
            | "code.InteractiveConsole().runsource"
            | "ast.parse"
            | "builtins.get_ipython().run_cell"
            | "pandas.eval"
    )
}

/// The texts that such a call runs.
pub(crate) fn code_texts(name: &str, args: &Args<'_>) -> Vec<Rc<str>> {
    let names: &[&str] = &["source", "stmt", "object", "expression", "cmd", "statement"];
    let mut texts = texts_of(args.get(0, names));
    if name.starts_with("timeit.") {
        texts.extend(texts_of(args.get(1, &["setup"])));
    }
    texts.truncate(16);
    texts
}
