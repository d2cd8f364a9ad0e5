//! Bindings: everything a program binds to a name, by scope.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use foldhash::fast::RandomState;
use ruff_python_ast::visitor::{self, Visitor};
use ruff_python_ast::{
    ExceptHandler, Expr, ExprCall, Parameters, Pattern, Stmt, StmtClassDef, StmtFunctionDef,
};
use smallvec::SmallVec;

use crate::names::canonical;
use crate::value::Values;

/// The index of a scope.
pub(crate) type ScopeId = usize;

/// The most bindings of one name that are kept. Past this many it could be anything.
const MAX_BINDINGS: usize = 24;

/// What a name is bound to.
#[derive(Debug, Clone)]
pub(crate) enum Binding<'a> {
    /// An import.
    Qualified(Rc<str>),
    /// The value of an expression in a scope.
    Value(&'a Expr, ScopeId),
    /// One of the items of an expression.
    Item(&'a Expr, ScopeId),
    /// The item of this index of an expression.
    Part(&'a Expr, usize, ScopeId),
    /// The item of this index of each item of an expression.
    ItemPart(&'a Expr, usize, ScopeId),
    /// All positional arguments from an index on.
    Rest(&'a ExprCall, usize, ScopeId),
    /// Values that a call was seen to give.
    Given(Values<'a>),
    /// A function of the program's.
    Function(&'a StmtFunctionDef, ScopeId),
    /// A class of the program's.
    Class(&'a StmtClassDef, ScopeId),
    /// An object of a class: `self`.
    Instance(&'a StmtClassDef, ScopeId),
    /// A parameter.
    Parameter,
    /// A statement that changes the value: `x += 1`, `x.append(1)`, or the loop around it.
    Changed(&'a Stmt, ScopeId),
    /// Something else.
    Unknown,
}

/// Everything that a name is bound to: most names are bound once.
pub(crate) type Bound<'a> = Rc<SmallVec<[Binding<'a>; 1]>>;

/// What a scope belongs to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Owner<'a> {
    #[default]
    Module,
    Function(&'a StmtFunctionDef),
    Lambda,
    Class(&'a StmtClassDef),
}

#[derive(Debug, Default)]
pub(crate) struct Scope<'a> {
    pub(crate) parent: Option<ScopeId>,
    pub(crate) owner: Owner<'a>,
    names: ByName<'a, Bound<'a>>,
    /// Names that `global` or `nonlocal` moves to the module.
    outer: Vec<&'a str>,
    /// Names of the program's own that certainly hide a builtin of the same name, and since where.
    firm: ByName<'a, u32>,
    /// `self.x = ...` in the methods of this class.
    attributes: ByName<'a, Bound<'a>>,
    /// What the function returns or yields.
    pub(crate) returns: Rc<Vec<&'a Expr>>,
    pub(crate) yields: Rc<Vec<&'a Expr>>,
    /// The calls in the function's own body.
    pub(crate) calls: Rc<Vec<&'a ExprCall>>,
}

/// All scopes of a program and what is bound in them.
#[derive(Debug)]
pub(crate) struct Bindings<'a> {
    scopes: Vec<Scope<'a>>,
    by_node: ByNode<ScopeId>,
    /// Modules of `from m import *`.
    stars: Vec<Rc<str>>,
    current: ScopeId,
    functions: ByName<'a, Vec<(ScopeId, &'a StmtFunctionDef)>>,
    pub(crate) calls: Vec<(&'a ExprCall, ScopeId)>,
    /// `x.a = v` where `x` is not `self`, by the attribute alone.
    pub(crate) loose: ByName<'a, Bound<'a>>,
    /// The outermost loop around the statement, in its scope.
    outermost: Option<(&'a Stmt, ScopeId)>,
    /// How many conditions, loops and handlers stand around the statement.
    conditions: usize,
    /// Nodes that were bound already, so that code in texts is bound once.
    seen: HashSet<usize, BuildHasherDefault<AddressHasher>>,
    /// How often something was bound after the first reading.
    version: u64,
    nothing: Bound<'a>,
}

/// The identity of a node: trees do not move while they are analysed.
pub(crate) fn node<T>(node: &T) -> usize {
    std::ptr::from_ref(node).addr()
}

/// A table by node. Addresses are not chosen by the program, so they need no hash that resists it.
pub(crate) type ByNode<T> = HashMap<usize, T, BuildHasherDefault<AddressHasher>>;

/// A table by name. Programs choose their names, so the hash is seeded, and nothing depends on its
/// order.
pub(crate) type ByName<'a, T> = HashMap<&'a str, T, RandomState>;

/// Spreads an address over all bits.
#[derive(Debug, Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_usize(usize::from(byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        let mixed =
            (self.0 ^ u64::try_from(address).unwrap_or(0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

impl<'a> Bindings<'a> {
    /// Reads every binding of a module.
    pub(crate) fn of(body: &'a [Stmt]) -> Self {
        let mut bindings = Self {
            scopes: vec![Scope::default()],
            by_node: ByNode::default(),
            stars: Vec::new(),
            current: 0,
            functions: ByName::default(),
            calls: Vec::new(),
            loose: ByName::default(),
            outermost: None,
            conditions: 0,
            seen: HashSet::default(),
            version: 0,
            nothing: Rc::default(),
        };
        bindings.visit_body(body);
        bindings.bind_arguments(0);
        bindings
    }

    /// Adds the bindings of code that runs in a scope. Whether it is new.
    pub(crate) fn add(&mut self, body: &'a [Stmt], scope: ScopeId) -> bool {
        let Some(first) = body.first() else {
            return false;
        };
        if !self.seen.insert(node(first)) {
            return false;
        }
        self.version += 1;
        let from = self.calls.len();
        self.current = scope;
        self.conditions = 1;
        self.visit_body(body);
        self.conditions = 0;
        self.current = 0;
        self.bind_arguments(from);
        true
    }

    /// Binds the parameters of functions and methods that are called by their names.
    fn bind_arguments(&mut self, from: usize) {
        let calls: Vec<_> = self.calls.iter().skip(from).copied().collect();
        for (call, scope) in calls {
            let (name, method) = match &*call.func {
                Expr::Name(name) => (name.id.as_str(), false),
                Expr::Attribute(attribute) => (attribute.attr.as_str(), true),
                _ => continue,
            };
            for (home, function) in self.callees(name, method) {
                self.bind_call(call, scope, home, function);
            }
            self.bind_fields(call, scope, name);
        }
    }

    fn callees(&self, name: &str, method: bool) -> Vec<(ScopeId, &'a StmtFunctionDef)> {
        if method {
            let named = self.functions.get(name).into_iter().flatten();
            let inside = named.filter(|(home, _)| self.class_of(*home).is_some());
            return inside.copied().take(4).collect();
        }
        if let Some(found) = self.functions.get(name) {
            return found.iter().copied().take(4).collect();
        }
        // A class is called: its `__init__` gets the arguments.
        let Some((_, bound)) = self.lookup(name, 0) else {
            return Vec::new();
        };
        let classes: Vec<ScopeId> = bound
            .iter()
            .filter_map(|binding| match binding {
                Binding::Class(_, scope) => Some(*scope),
                _ => None,
            })
            .collect();
        let makers = self.functions.get("__init__").into_iter().flatten();
        makers
            .filter(|(home, _)| {
                self.class_of(*home)
                    .is_some_and(|class| classes.contains(&class))
            })
            .copied()
            .collect()
    }

    /// The class whose body a function stands in.
    pub(crate) fn class_of(&self, function: ScopeId) -> Option<ScopeId> {
        let parent = self.scopes.get(function)?.parent?;
        matches!(self.scopes.get(parent)?.owner, Owner::Class(_)).then_some(parent)
    }

    /// A class that only lists its fields, as data classes and named tuples do, keeps what it is given.
    fn bind_fields(&mut self, call: &'a ExprCall, scope: ScopeId, name: &str) {
        let Some((_, bound)) = self.lookup(name, scope) else {
            return;
        };
        let class = bound.iter().find_map(|binding| match binding {
            Binding::Class(class, scope) => Some((*class, *scope)),
            _ => None,
        });
        let Some((class, home)) = class else { return };
        let plain = class.decorator_list.is_empty() && class.bases().is_empty();
        if plain || !self.member(home, "__init__").is_empty() {
            return;
        }
        let fields = class.body.iter().filter_map(|stmt| match stmt {
            Stmt::AnnAssign(field) => self::plain(&field.target),
            _ => None,
        });
        let fields: Vec<&'a str> = fields.collect();
        let given = fields.iter().copied().zip(&call.arguments.args);
        let named = call.arguments.keywords.iter().filter_map(|keyword| {
            let name = keyword.arg.as_ref()?.as_str();
            Some((
                *fields.iter().find(|field| **field == name)?,
                &keyword.value,
            ))
        });
        let all: Vec<_> = given.chain(named).collect();
        if let Some(class) = self.scopes.get_mut(home) {
            for (field, value) in all {
                let attribute = class.attributes.entry(field).or_default();
                push(Rc::make_mut(attribute), Binding::Value(value, scope));
            }
        }
    }

    fn bind_call(
        &mut self,
        call: &'a ExprCall,
        scope: ScopeId,
        home: ScopeId,
        function: &'a StmtFunctionDef,
    ) {
        let parameters = &*function.parameters;
        let shift = usize::from(self.class_of(home).is_some() && !is_static(function));
        let outer = std::mem::replace(&mut self.current, home);
        let positional = parameters.posonlyargs.iter().chain(&parameters.args);
        let starred = call.arguments.args.iter().any(Expr::is_starred_expr);
        for (parameter, argument) in positional.skip(shift).zip(&call.arguments.args) {
            if argument.is_starred_expr() {
                break;
            }
            self.bind(parameter.name().as_str(), Binding::Value(argument, scope));
        }
        if let Some(rest) = &parameters.vararg {
            let taken =
                (parameters.posonlyargs.len() + parameters.args.len()).saturating_sub(shift);
            let from = if starred { 0 } else { taken };
            self.bind(rest.name.as_str(), Binding::Rest(call, from, scope));
        }
        for keyword in &call.arguments.keywords {
            let Some(name) = &keyword.arg else { continue };
            let known = parameters
                .iter_non_variadic_params()
                .find(|parameter| parameter.name() == name.as_str());
            if let Some(parameter) = known {
                let name = parameter.name().as_str();
                self.bind(name, Binding::Value(&keyword.value, scope));
            }
        }
        self.current = outer;
    }

    /// Gives a parameter of a function values that a call was seen to pass. Whether that is new.
    pub(crate) fn give(&mut self, home: ScopeId, name: &'a str, values: Values<'a>) -> bool {
        let known = self
            .scopes
            .get(home)
            .and_then(|scope| scope.names.get(name))
            .is_some_and(|bound| {
                bound.len() >= MAX_BINDINGS
                    || bound.iter().any(|binding| {
                        matches!(binding, Binding::Given(given)
                            if given.len() == values.len()
                                && given.iter().zip(&values).all(|(a, b)| a.same(b)))
                    })
            });
        if known || values.is_empty() {
            return false;
        }
        self.version += 1;
        let outer = std::mem::replace(&mut self.current, home);
        self.bind(name, Binding::Given(values));
        self.current = outer;
        true
    }

    /// How many names and expressions to make room for: about four stand around each call. A program that is nothing
    /// but calls gets no more of it than a long one does.
    pub(crate) fn expected(&self) -> usize {
        4 * self.calls.len().min(4_096)
    }

    /// A number that changes with every binding that is added: what was worked out from bindings holds
    /// while it stays.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// A scope.
    pub(crate) fn scope(&self, id: ScopeId) -> Option<&Scope<'a>> {
        self.scopes.get(id)
    }

    /// The scope that a function, class or lambda opens.
    pub(crate) fn scope_of<T>(&self, of: &T) -> Option<ScopeId> {
        self.by_node.get(&node(of)).copied()
    }

    /// The modules whose names are all imported.
    pub(crate) fn stars(&self) -> &[Rc<str>] {
        &self.stars
    }

    /// What a name is bound to in the nearest scope that binds it, and that scope. Functions do not
    /// see the names of the classes around them.
    pub(crate) fn lookup(&self, name: &str, scope: ScopeId) -> Option<(ScopeId, &Bound<'a>)> {
        let mut at = Some(scope);
        while let Some(id) = at {
            let here = self.scopes.get(id)?;
            let visible = id == scope || !matches!(here.owner, Owner::Class(_));
            if visible && let Some(bound) = here.names.get(name) {
                return Some((id, bound));
            }
            at = here.parent;
        }
        None
    }

    /// Whether the program's own binding of a name in a scope hides a builtin used at an offset.
    pub(crate) fn hides(&self, name: &str, home: ScopeId, used: ScopeId, offset: u32) -> bool {
        let since = self
            .scopes
            .get(home)
            .and_then(|scope| scope.firm.get(name).copied());
        since.is_some_and(|since| home != used || since <= offset)
    }

    /// What a class binds: names of its body and attributes its methods set.
    pub(crate) fn member(&self, class: ScopeId, name: &str) -> Bound<'a> {
        let scope = self.scopes.get(class);
        let named = scope.and_then(|scope| scope.names.get(name));
        let set = scope.and_then(|scope| scope.attributes.get(name));
        match (named, set) {
            (Some(named), Some(set)) => Rc::new([named.as_slice(), set.as_slice()].concat().into()),
            (Some(bound), None) | (None, Some(bound)) => Rc::clone(bound),
            (None, None) => Rc::clone(&self.nothing),
        }
    }

    /// Binds a name from outside the walk. Whether there was room.
    pub(crate) fn bind_in(&mut self, scope: ScopeId, name: &'a str, binding: Binding<'a>) {
        self.version += 1;
        let outer = std::mem::replace(&mut self.current, scope);
        self.bind(name, binding);
        self.current = outer;
    }

    fn bind(&mut self, name: &'a str, binding: Binding<'a>) {
        let moved = self
            .scopes
            .get(self.current)
            .is_some_and(|scope| scope.outer.contains(&name));
        let home = if moved { 0 } else { self.current };
        if let Some(scope) = self.scopes.get_mut(home) {
            push(Rc::make_mut(scope.names.entry(name).or_default()), binding);
        }
    }

    fn firm(&mut self, name: &'a str, offset: u32) {
        let conditional = self.conditions > 0;
        if let Some(scope) = self.scopes.get_mut(self.current)
            && !conditional
        {
            scope.firm.entry(name).or_insert(offset);
        }
    }

    fn bind_target(&mut self, target: &'a Expr, value: Option<&'a Expr>) {
        let scope = self.current;
        match target {
            Expr::Name(name) => {
                let bound = value.map_or(Binding::Unknown, |value| Binding::Value(value, scope));
                self.bind(name.id.as_str(), bound);
            }
            Expr::Tuple(tuple) => self.bind_each(&tuple.elts, value),
            Expr::List(list) => self.bind_each(&list.elts, value),
            Expr::Starred(starred) => self.bind_target(&starred.value, None),
            Expr::Attribute(attribute) => {
                let bound = value.map_or(Binding::Unknown, |value| Binding::Value(value, scope));
                self.bind_attribute(&attribute.value, attribute.attr.as_str(), bound);
            }
            Expr::Subscript(subscript) => self.bind_entry(subscript, value),
            _ => {}
        }
    }

    /// Binds an attribute of an object that is not known.
    fn bind_loose(&mut self, attribute: &'a str, bound: Binding<'a>) {
        push(
            Rc::make_mut(self.loose.entry(attribute).or_default()),
            bound,
        );
    }

    /// `self.x = v` belongs to the class; any other `o.x = v` is remembered by `x`.
    fn bind_attribute(&mut self, object: &'a Expr, attribute: &'a str, bound: Binding<'a>) {
        let class = self.class_of(self.current);
        let own = matches!(object, Expr::Name(name) if self.is_self(name.id.as_str()));
        match class.and_then(|class| self.scopes.get_mut(class)) {
            Some(class) if own => {
                let attribute = class.attributes.entry(attribute).or_default();
                push(Rc::make_mut(attribute), bound);
            }
            _ => self.bind_loose(attribute, bound),
        }
    }

    fn is_self(&self, name: &str) -> bool {
        let scope = self.scopes.get(self.current);
        matches!(scope.map(|scope| scope.owner), Some(Owner::Function(function))
            if function.parameters.posonlyargs.iter().chain(&function.parameters.args).next()
                .is_some_and(|first| first.name().as_str() == name))
    }

    /// `globals()["x"] = v` binds a name; `d["x"] = v` changes `d`.
    fn bind_entry(
        &mut self,
        subscript: &'a ruff_python_ast::ExprSubscript,
        value: Option<&'a Expr>,
    ) {
        let table = matches!(&*subscript.value, Expr::Call(call)
            if matches!(&*call.func, Expr::Name(name) if matches!(name.id.as_str(), "globals" | "locals" | "vars")));
        if table && let (Expr::StringLiteral(key), Some(value)) = (&*subscript.slice, value) {
            let scope = self.current;
            let name = key.as_single_part_string();
            if let Some(name) = name {
                self.bind_in(0, &name.value, Binding::Value(value, scope));
            }
        }
    }

    fn bind_each(&mut self, targets: &'a [Expr], value: Option<&'a Expr>) {
        let values: &'a [Expr] = match value {
            Some(Expr::Tuple(tuple)) => &tuple.elts,
            Some(Expr::List(list)) => &list.elts,
            _ => &[],
        };
        let scope = self.current;
        let fits = values.len() == targets.len();
        for (index, target) in targets.iter().enumerate() {
            match (fits, target, value) {
                (false, Expr::Name(name), Some(value)) if values.is_empty() => {
                    self.bind(name.id.as_str(), Binding::Part(value, index, scope));
                }
                _ => self.bind_target(target, if fits { values.get(index) } else { None }),
            }
        }
    }

    fn bind_loop(&mut self, target: &'a Expr, iter: &'a Expr) {
        let scope = self.current;
        let elements = match target {
            Expr::Name(name) => {
                return self.bind(name.id.as_str(), Binding::Item(iter, scope));
            }
            Expr::Tuple(tuple) => &tuple.elts,
            Expr::List(list) => &list.elts,
            other => return self.bind_target(other, None),
        };
        for (index, element) in elements.iter().enumerate() {
            match element {
                Expr::Name(name) => {
                    self.bind(name.id.as_str(), Binding::ItemPart(iter, index, scope));
                }
                other => self.bind_target(other, None),
            }
        }
    }

    /// A statement that changes the value of a name, or the loop that does so again and again.
    fn changed(&mut self, name: &'a str, stmt: &'a Stmt) {
        let statement = match self.outermost {
            Some((outer, scope)) if scope == self.current => outer,
            _ => stmt,
        };
        let scope = self.current;
        let known = self.lookup(name, scope).is_some_and(|(_, bound)| {
            bound.iter().any(
                |binding| matches!(binding, Binding::Changed(known, _) if std::ptr::eq(*known, statement)),
            )
        });
        if !known {
            // It changes the name where it lives, which is not always this scope: lists are shared.
            let home = self.lookup(name, scope).map_or(scope, |(home, _)| home);
            self.bind_in(home, name, Binding::Changed(statement, scope));
        }
    }

    fn enter<T>(&mut self, of: &T, owner: Owner<'a>) -> ScopeId {
        let id = self.scopes.len();
        self.scopes.push(Scope {
            parent: Some(self.current),
            owner,
            ..Scope::default()
        });
        self.by_node.insert(node(of), id);
        std::mem::replace(&mut self.current, id)
    }

    fn bind_parameters(&mut self, parameters: &'a Parameters) {
        for parameter in parameters {
            let name = parameter.name().as_str();
            self.bind(name, Binding::Parameter);
            self.firm(name, 0);
            if let Some(default) = parameter.default() {
                let outer = self
                    .scopes
                    .get(self.current)
                    .and_then(|scope| scope.parent)
                    .unwrap_or(0);
                self.bind(name, Binding::Value(default, outer));
            }
        }
    }

    fn import(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Import(import) => {
                for alias in &import.names {
                    let full = alias.name.as_str();
                    let (name, target) = match &alias.asname {
                        Some(asname) => (asname.as_str(), full),
                        None => {
                            let root = full.split('.').next().unwrap_or(full);
                            (root, root)
                        }
                    };
                    self.bind(name, Binding::Qualified(canonical(target).into()));
                    self.firm(name, alias.range.start().into());
                }
            }
            Stmt::ImportFrom(import) => {
                let module = import.module.as_ref().map_or("", |module| module.as_str());
                let prefix = if import.level == 0 { "" } else { "." };
                for alias in &import.names {
                    if alias.name.as_str() == "*" {
                        self.stars.push(canonical(module).into());
                        continue;
                    }
                    let name = alias.asname.as_ref().unwrap_or(&alias.name).as_str();
                    let full = [prefix, module, ".", alias.name.as_str()].concat();
                    self.bind(name, Binding::Qualified(canonical(&full).into()));
                    self.firm(name, alias.range.start().into());
                }
            }
            _ => {}
        }
    }

    fn visit_function(&mut self, function: &'a StmtFunctionDef) {
        let name = function.name.as_str();
        let id = self.scopes.len();
        // A decorator gives the name what it makes of the function.
        self.bind(name, Binding::Function(function, id));
        self.firm(name, function.range.start().into());
        let class = match self.scopes.get(self.current).map(|scope| scope.owner) {
            Some(Owner::Class(class)) => Some((class, self.current)),
            _ => None,
        };
        for decorator in &function.decorator_list {
            self.visit_expr(&decorator.expression);
        }
        let outer = self.enter(function, Owner::Function(function));
        let conditions = std::mem::take(&mut self.conditions);
        let outermost = self.outermost.take();
        self.functions
            .entry(name)
            .or_default()
            .push((self.current, function));
        self.bind_parameters(&function.parameters);
        if let Some((class, scope)) = class
            && !is_static(function)
            && let Some(first) = function
                .parameters
                .posonlyargs
                .iter()
                .chain(&function.parameters.args)
                .next()
        {
            self.bind(first.name().as_str(), Binding::Instance(class, scope));
        }
        for parameter in function.parameters.iter_non_variadic_params() {
            if let Some(default) = parameter.default() {
                self.visit_expr(default);
            }
        }
        self.visit_body(&function.body);
        self.conditions = conditions;
        self.outermost = outermost;
        self.current = outer;
    }

    fn visit_class(&mut self, class: &'a StmtClassDef, stmt: &'a Stmt) {
        let name = class.name.as_str();
        let id = self.scopes.len();
        self.bind(name, Binding::Class(class, id));
        self.firm(name, class.range.start().into());
        let outer = self.enter(class, Owner::Class(class));
        visitor::walk_stmt(self, stmt);
        self.current = outer;
    }

    fn conditional(&mut self, stmt: &'a Stmt) {
        self.conditions += 1;
        if let Stmt::If(branches) = stmt {
            let dead = constant_truth(&branches.test) == Some(false);
            self.visit_expr(&branches.test);
            if !dead {
                self.visit_body(&branches.body);
            }
            for clause in &branches.elif_else_clauses {
                self.visit_elif_else_clause(clause);
            }
        } else {
            visitor::walk_stmt(self, stmt);
        }
        self.conditions -= 1;
    }

    fn looped(&mut self, stmt: &'a Stmt) {
        if matches!(stmt, Stmt::While(inner) if constant_truth(&inner.test) == Some(false)) {
            return;
        }
        let outer = self.outermost;
        if !matches!(outer, Some((_, scope)) if scope == self.current) {
            self.outermost = Some((stmt, self.current));
        }
        if let Stmt::For(stmt) = stmt {
            self.bind_loop(&stmt.target, &stmt.iter);
        }
        self.conditional(stmt);
        self.outermost = outer;
    }
}

fn push<'a>(bound: &mut SmallVec<[Binding<'a>; 1]>, binding: Binding<'a>) {
    if bound.len() < MAX_BINDINGS {
        bound.push(binding);
    }
}

fn is_static(function: &StmtFunctionDef) -> bool {
    function.decorator_list.iter().any(
        |decorator| matches!(&decorator.expression, Expr::Name(name) if name.id.as_str() == "staticmethod"),
    )
}

/// Whether a test is a constant that is always true or false.
pub(crate) fn constant_truth(test: &Expr) -> Option<bool> {
    match test {
        Expr::BooleanLiteral(literal) => Some(literal.value),
        Expr::NumberLiteral(number) => match &number.value {
            ruff_python_ast::Number::Int(int) => Some(int.as_u64() != Some(0)),
            _ => None,
        },
        Expr::NoneLiteral(_) => Some(false),
        Expr::StringLiteral(literal) => Some(!literal.value.is_empty()),
        Expr::UnaryOp(op) if op.op == ruff_python_ast::UnaryOp::Not => {
            constant_truth(&op.operand).map(|truth| !truth)
        }
        _ => None,
    }
}

/// The name that a statement changes in place.
fn mutated(stmt: &Stmt) -> Option<&str> {
    match stmt {
        Stmt::AugAssign(assign) => plain(&assign.target),
        Stmt::Assign(assign) => match assign.targets.as_slice() {
            [Expr::Subscript(subscript)] => plain(&subscript.value),
            [Expr::Name(target)] => match &*assign.value {
                Expr::BinOp(op) if mentions(op, target.id.as_str()) => Some(target.id.as_str()),
                _ => None,
            },
            _ => None,
        },
        Stmt::Expr(expr) => match &*expr.value {
            Expr::Call(call) => match &*call.func {
                Expr::Attribute(method)
                    if matches!(
                        method.attr.as_str(),
                        "append"
                            | "extend"
                            | "insert"
                            | "reverse"
                            | "update"
                            | "add"
                            | "setdefault"
                    ) =>
                {
                    plain(&method.value)
                }
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn plain(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Name(name) => Some(name.id.as_str()),
        _ => None,
    }
}

/// `x = x + y`, `x = y + x`.
fn mentions(op: &ruff_python_ast::ExprBinOp, name: &str) -> bool {
    plain(&op.left) == Some(name) || plain(&op.right) == Some(name)
}

impl<'a> Visitor<'a> for Bindings<'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        if let Some(name) = mutated(stmt) {
            self.changed(name, stmt);
            visitor::walk_stmt(self, stmt);
            return;
        }
        match stmt {
            Stmt::FunctionDef(function) => return self.visit_function(function),
            Stmt::ClassDef(class) => return self.visit_class(class, stmt),
            Stmt::If(_) | Stmt::Try(_) | Stmt::Match(_) => return self.conditional(stmt),
            Stmt::For(_) | Stmt::While(_) => return self.looped(stmt),
            Stmt::Import(_) | Stmt::ImportFrom(_) => self.import(stmt),
            Stmt::Assign(assign) => {
                for target in &assign.targets {
                    self.bind_target(target, Some(&assign.value));
                }
            }
            Stmt::AnnAssign(assign) => self.bind_target(&assign.target, assign.value.as_deref()),
            Stmt::With(with) => {
                for item in &with.items {
                    if let Some(target) = &item.optional_vars {
                        self.bind_target(target, Some(&item.context_expr));
                    }
                }
            }
            Stmt::Delete(delete) => self.delete(&delete.targets),
            Stmt::Return(inner) => {
                let value = inner.value.as_deref();
                if let Some(scope) = self.scopes.get_mut(self.current) {
                    Rc::make_mut(&mut scope.returns).extend(value);
                }
            }
            Stmt::Global(global) => self.move_out(&global.names),
            Stmt::Nonlocal(nonlocal) => self.move_out(&nonlocal.names),
            _ => {}
        }
        visitor::walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Lambda(lambda) => {
                let outer = self.enter(lambda, Owner::Lambda);
                let conditions = std::mem::take(&mut self.conditions);
                if let Some(parameters) = &lambda.parameters {
                    self.bind_parameters(parameters);
                }
                if let Some(scope) = self.scopes.get_mut(self.current) {
                    Rc::make_mut(&mut scope.returns).push(&lambda.body);
                }
                visitor::walk_expr(self, expr);
                self.conditions = conditions;
                self.current = outer;
                return;
            }
            Expr::Named(named) => self.bind_target(&named.target, Some(&named.value)),
            Expr::Call(call) => {
                self.calls.push((call, self.current));
                if let Some(scope) = self.scopes.get_mut(self.current) {
                    Rc::make_mut(&mut scope.calls).push(call);
                }
            }
            Expr::YieldFrom(_) => {
                if let Some(scope) = self.scopes.get_mut(self.current) {
                    Rc::make_mut(&mut scope.yields).push(expr);
                }
            }
            Expr::Yield(inner) => {
                let value = inner.value.as_deref();
                if let Some(scope) = self.scopes.get_mut(self.current) {
                    Rc::make_mut(&mut scope.yields).extend(value);
                }
            }
            _ => {}
        }
        visitor::walk_expr(self, expr);
    }

    fn visit_comprehension(&mut self, comprehension: &'a ruff_python_ast::Comprehension) {
        self.bind_loop(&comprehension.target, &comprehension.iter);
        visitor::walk_comprehension(self, comprehension);
    }

    fn visit_except_handler(&mut self, handler: &'a ExceptHandler) {
        let ExceptHandler::ExceptHandler(inner) = handler;
        if let Some(name) = &inner.name {
            self.bind(name.as_str(), Binding::Unknown);
        }
        visitor::walk_except_handler(self, handler);
    }

    fn visit_pattern(&mut self, pattern: &'a Pattern) {
        if let Pattern::MatchAs(capture) = pattern
            && let Some(name) = &capture.name
        {
            self.bind(name.as_str(), Binding::Unknown);
        }
        visitor::walk_pattern(self, pattern);
    }
}

impl<'a> Bindings<'a> {
    fn move_out(&mut self, names: &'a [ruff_python_ast::Identifier]) {
        if let Some(scope) = self.scopes.get_mut(self.current) {
            scope.outer.extend(names.iter().map(|name| name.as_str()));
        }
    }

    /// What is deleted hides nothing any longer.
    fn delete(&mut self, targets: &'a [Expr]) {
        for name in targets.iter().filter_map(plain) {
            if let Some(scope) = self.scopes.get_mut(self.current) {
                scope.firm.insert(name, u32::MAX);
            }
        }
    }
}
