//! The walk over the tree that collects facts.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use casemate_model::manifest::Certainty;
use ruff_python_ast::visitor::{self, Visitor};
use ruff_python_ast::{
    Expr, ExprCall, ExprContext, ModModule, Stmt, StmtClassDef, StmtFunctionDef,
};
use ruff_text_size::{Ranged, TextRange};

use crate::arena::Arena;
use crate::bindings::{ByNode, node};
use crate::effects;
use crate::facts::{Facts, Link, Seen, Use};
use crate::memory::Memory;
use crate::resolve::{Resolver, names_of};
use crate::value::{Args, Cx, Value};

/// Adds the facts of a module. Whether the resolver gave up.
pub(crate) fn walk(module: &ModModule, facts: &mut Facts) -> bool {
    let arena = Arena::new();
    let mut walker = Walker {
        resolver: Resolver::new(&module.body, &arena),
        facts,
        cx: Cx::at(0),
        loops: 0,
        relentless: false,
        function: None,
        words: None,
        carrying: 0,
        carried: ByNode::default(),
        at: None,
        inlined: 0,
        looked: Memory::default(),
        writes_python: false,
        depth: 0,
        read: HashSet::new(),
        trail: Vec::new(),
    };
    let uses = walker.resolver.bindings.expected();
    walker.facts.uses.reserve(uses);
    walker.visit_body(&module.body);
    walker.resolver.allowance.exhausted() || walker.resolver.unread
}

/// What the facts of a call depend on beside the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stood {
    depth: usize,
    loops: usize,
    relentless: bool,
    writes_python: bool,
    at: Option<TextRange>,
}

pub(crate) struct Walker<'a, 'f> {
    pub(crate) resolver: Resolver<'a>,
    pub(crate) facts: &'f mut Facts,
    pub(crate) cx: Cx<'a>,
    pub(crate) loops: usize,
    /// Whether a loop around this has no end and no pause.
    pub(crate) relentless: bool,
    /// The function of the module's own level around this.
    function: Option<&'a StmtFunctionDef>,
    /// How often each word stands in the code, once somebody asked.
    words: Option<HashMap<String, usize>>,
    /// The place of everything, when this is code inside a text.
    at: Option<TextRange>,
    pub(crate) inlined: usize,
    /// How many calls were looked at inside the program's own functions, by the call that led there.
    pub(crate) looked: Memory<'a, Stood, usize>,
    /// Whether the program writes a file of Python.
    pub(crate) writes_python: bool,
    pub(crate) depth: usize,
    /// Expressions that were looked at for what a call carries.
    pub(crate) carrying: usize,
    /// Expressions that were looked at for one argument, and from how deep.
    pub(crate) carried: ByNode<usize>,
    /// Code in texts that was walked already.
    read: HashSet<usize>,
    /// The calls and texts that led here.
    pub(crate) trail: Vec<Link>,
}

impl<'a> Visitor<'a> for Walker<'a, '_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        let (cx, loops) = (self.cx.clone(), self.loops);
        let (relentless, function) = (self.relentless, self.function);
        match stmt {
            Stmt::FunctionDef(function) => {
                self.decorators(function);
                self.cx.scope = self
                    .resolver
                    .bindings
                    .scope_of(function)
                    .unwrap_or(cx.scope);
                self.reduces(function);
                if cx.scope == 0 {
                    self.function = Some(function);
                }
                if crate::smells::recurses(function) {
                    self.resource("a recursion without an end", function.name.range);
                }
            }
            Stmt::ClassDef(class) => {
                for decorator in &class.decorator_list {
                    self.tied(&decorator.expression);
                }
                self.tied_members(class);
                self.cx.scope = self.resolver.bindings.scope_of(class).unwrap_or(cx.scope);
            }
            Stmt::For(_) | Stmt::While(_) => {
                self.loops += 1;
                if crate::smells::endless(stmt) {
                    self.relentless |= crate::smells::relentless(stmt);
                    self.resource("a loop without an end", stmt.range());
                }
            }
            Stmt::Assign(assign) => self.secrets(&assign.targets, &assign.value),
            Stmt::Import(_) | Stmt::ImportFrom(_) => self.import(stmt),
            Stmt::IpyEscapeCommand(command) => {
                self.escape(&command.value, command.range, command.kind)
            }
            Stmt::Expr(expr) if expr.value.is_string_literal_expr() => return,
            _ => {}
        }
        visitor::walk_stmt(self, stmt);
        (self.cx, self.loops) = (cx, loops);
        (self.relentless, self.function) = (relentless, function);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Call(call) => return self.call(call, expr),
            Expr::Attribute(_) | Expr::Name(_) | Expr::Subscript(_) => return self.reference(expr),
            Expr::StringLiteral(literal) => self.string(literal.value.to_str(), expr.range()),
            Expr::FString(_) => {
                if let Some(text) = self.partial(expr, 0) {
                    self.string(&text, expr.range());
                }
            }
            Expr::BinOp(_) => return self.binary(expr),
            Expr::BytesLiteral(literal) => {
                let bytes: Vec<u8> = literal.value.bytes().collect();
                self.string(&String::from_utf8_lossy(&bytes), expr.range());
            }
            Expr::Lambda(lambda) => {
                let outer = self.cx.clone();
                self.cx.scope = self
                    .resolver
                    .bindings
                    .scope_of(lambda)
                    .unwrap_or(outer.scope);
                visitor::walk_expr(self, expr);
                self.cx = outer;
                return;
            }
            Expr::IpyEscapeCommand(command) => {
                self.escape(&command.value, command.range, command.kind)
            }
            _ => {}
        }
        visitor::walk_expr(self, expr);
    }
}

impl<'a> Walker<'a, '_> {
    /// What the facts of a call depend on here beside the call.
    pub(crate) fn stands(&self) -> Stood {
        Stood {
            depth: self.depth,
            loops: self.loops,
            relentless: self.relentless,
            writes_python: self.writes_python,
            at: self.at,
        }
    }

    pub(crate) fn range(&self, range: TextRange) -> TextRange {
        self.at.unwrap_or(range)
    }

    pub(crate) fn seen(&self, value: &str, range: TextRange, certainty: Certainty) -> Seen {
        Seen {
            value: value.into(),
            range: self.range(range),
            certainty,
            chain: self.trail.clone(),
        }
    }

    pub(crate) fn string(&mut self, text: &str, range: TextRange) {
        if !text.is_empty() {
            let seen = self.seen(text, range, Certainty::Possible);
            self.facts.strings.push(seen);
        }
    }

    pub(crate) fn resource(&mut self, what: &str, range: TextRange) {
        let seen = self.seen(what, range, Certainty::Likely);
        self.facts.resources.push(seen);
    }

    /// The names of variables that hold a secret, never the secret.
    fn secrets(&mut self, targets: &'a [Expr], value: &'a Expr) {
        let Expr::StringLiteral(literal) = value else {
            return;
        };
        for target in targets {
            let name = match target {
                Expr::Name(name) => name.id.as_str(),
                Expr::Attribute(attribute) => attribute.attr.as_str(),
                _ => continue,
            };
            if crate::smells::secret(name, literal.value.to_str()) {
                let seen = self.seen(name, target.range(), Certainty::Likely);
                self.facts.secrets.push(seen);
            }
        }
    }

    fn escape(&mut self, value: &str, range: TextRange, kind: ruff_python_ast::IpyEscapeKind) {
        use ruff_python_ast::IpyEscapeKind as Kind;
        let shell_magic = ["sh", "bash", "sx", "system", "script", "pip", "conda"]
            .iter()
            .any(|magic| value.split_whitespace().next() == Some(magic));
        if matches!(kind, Kind::Shell | Kind::ShCap)
            || matches!(kind, Kind::Magic | Kind::Magic2) && shell_magic
        {
            let seen = self.seen(value, range, Certainty::Certain);
            self.facts.processes.push(seen);
        }
    }

    fn import(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Import(import) => {
                for alias in &import.names {
                    self.module(alias.name.as_str(), alias.range, Certainty::Certain);
                }
            }
            Stmt::ImportFrom(import) if import.level == 0 => {
                let module = import.module.as_ref().map_or("", |module| module.as_str());
                self.module(module, import.range, Certainty::Certain);
                for alias in &import.names {
                    // A name taken out of a module is a use of it, called or not.
                    let name = [module, ".", alias.name.as_str()].concat();
                    self.mention(
                        crate::names::canonical(&name).into(),
                        alias.range,
                        Certainty::Likely,
                    );
                }
            }
            _ => {}
        }
    }

    pub(crate) fn module(&mut self, name: &str, range: TextRange, certainty: Certainty) {
        let seen = self.seen(&crate::names::canonical(name), range, certainty);
        if effects::native(&seen.value) {
            self.facts.native.push(seen.clone());
        }
        self.facts.modules.push(seen);
    }

    /// A chain of operators is folded once, at its top: every link again would be quadratic.
    fn binary(&mut self, expr: &'a Expr) {
        if let Some(text) = self.resolver.text(expr, &self.cx) {
            self.string(&text, expr.range());
        } else if let Some(text) = self.partial(expr, 0) {
            self.string(&text, expr.range());
        }
        let mut link = expr;
        while let Expr::BinOp(op) = link {
            if let Some(what) = crate::smells::operator(self, op) {
                self.resource(what, expr.range());
            }
            self.visit_expr(&op.right);
            link = &op.left;
        }
        self.visit_expr(link);
    }

    /// A name, attribute or item that is not called here.
    fn reference(&mut self, expr: &'a Expr) {
        let names = self.resolver.names(expr, &self.cx);
        for name in &names {
            self.mention(Rc::clone(name), expr.range(), Certainty::Likely);
            self.environment(name, expr);
        }
        if expr.is_subscript_expr()
            && let Some(text) = self.resolver.text(expr, &self.cx)
        {
            self.string(&text, expr.range());
        }
        self.walk_chain(expr, &names);
    }

    /// Goes down a chain of attributes and items without resolving every link of it again.
    fn walk_chain(&mut self, expr: &'a Expr, names: &[Rc<str>]) {
        let reaches = names
            .iter()
            .any(|name| effects::process(name) || effects::dynamic(name));
        let mut link = expr;
        loop {
            match link {
                Expr::Attribute(attribute) => {
                    if !self.own_family(attribute) {
                        self.attribute(attribute.attr.as_str(), attribute.range);
                    }
                    self.module_in_passing(attribute, reaches);
                    link = &attribute.value;
                }
                Expr::Subscript(subscript) => {
                    self.passing_by_text(&subscript.value, &subscript.slice);
                    self.visit_expr(&subscript.slice);
                    link = &subscript.value;
                }
                Expr::Name(name) => {
                    self.attribute(name.id.as_str(), name.range);
                    return;
                }
                other => return self.visit_expr(other),
            }
        }
    }

    /// The bases and the subclasses of a class of the program's own tell nothing of the interpreter.
    fn own_family(&mut self, attribute: &'a ruff_python_ast::ExprAttribute) -> bool {
        if !matches!(
            attribute.attr.as_str(),
            "__mro__" | "__bases__" | "__subclasses__"
        ) {
            return false;
        }
        let values = self.resolver.values(&attribute.value, &self.cx.clone());
        !values.is_empty() && values.iter().all(|value| matches!(value, Value::Class(..)))
    }

    /// `vars(random)["_os"]`.
    fn passing_by_text(&mut self, table: &'a Expr, key: &'a Expr) {
        let cx = self.cx.clone();
        let names = self.resolver.names(table, &cx);
        let Some(module) = names.iter().find_map(|name| name.strip_suffix(".__dict__")) else {
            return;
        };
        if let Some(text) = self.resolver.text(key, &cx) {
            self.by_text(module, &text, key.range());
        }
    }

    /// An attribute of something from outside that is reached by a text.
    pub(crate) fn by_text(&mut self, base: &str, name: &str, range: TextRange) {
        self.attribute(name, range);
        let module = matches!(
            name.trim_start_matches('_'),
            "os" | "sys" | "subprocess" | "builtins" | "posix" | "socket" | "io"
        );
        if module
            && base != name
            && !matches!(base, "sys.modules" | "builtins" | "concurrent" | "asyncio")
        {
            self.passing(name, true, range);
        }
    }

    pub(crate) fn attribute(&mut self, name: &str, range: TextRange) {
        if name.starts_with("__") || effects::frame_attribute(name) {
            let seen = self.seen(name, range, Certainty::Likely);
            self.facts.attributes.push(seen);
        }
    }

    /// `queue.threading._os`: a module's own import, used as a way to that module.
    fn module_in_passing(&mut self, attribute: &'a ruff_python_ast::ExprAttribute, reaches: bool) {
        let name = attribute.attr.as_str();
        let own = matches!(
            name,
            "_os" | "_sys" | "_subprocess" | "_builtins" | "_socket" | "_io"
        );
        let plain = matches!(name, "os" | "sys" | "subprocess" | "builtins" | "posix");
        if !own && !plain {
            return;
        }
        let bases = self.resolver.names(&attribute.value, &self.cx);
        // `asyncio.subprocess` is a public module of its own that only shares the name.
        let passes = |base: &Rc<str>| !base.contains(['(', '[']) && &**base != "asyncio";
        if bases.iter().any(passes) {
            self.passing(name, reaches, attribute.range);
        }
    }

    /// A module that is reached through another one; on the way to a process, or by a text, it counts
    /// as one that is meant for the other module alone.
    pub(crate) fn passing(&mut self, name: &str, reaches: bool, range: TextRange) {
        let mark = if reaches && !name.starts_with('_') {
            "_"
        } else {
            ""
        };
        let seen = self.seen(&format!("module {mark}{name}"), range, Certainty::Likely);
        self.facts.attributes.push(seen);
    }

    pub(crate) fn mention(&mut self, name: Rc<str>, range: TextRange, certainty: Certainty) {
        let used = Use {
            name,
            called: false,
            texts: Vec::new(),
            keywords: Vec::new(),
            carries: Vec::new(),
            loops: self.loops,
            relentless: self.relentless,
            dormant: false,
            constant: None,
            range: self.range(range),
            certainty,
            chain: self.trail.clone(),
        };
        self.facts.uses.push(used);
    }

    /// `os.environ["X"]`, and `os.environ` as a whole. Setting a variable is not reading one.
    fn environment(&mut self, name: &str, expr: &'a Expr) {
        let value = match (name, expr) {
            ("os.environ[]" | "os.environb[]", Expr::Subscript(subscript)) => {
                if subscript.ctx != ExprContext::Load {
                    return;
                }
                self.resolver.text(&subscript.slice, &self.cx)
            }
            ("os.environ" | "os.environb", _) => None,
            _ => return,
        };
        let seen = self.seen(
            value.as_deref().unwrap_or("*"),
            expr.range(),
            Certainty::Certain,
        );
        self.facts.env.push(seen);
    }

    fn call(&mut self, call: &'a ExprCall, expr: &'a Expr) {
        let cx = self.cx.clone();
        let callees = self.resolver.values(&call.func, &cx);
        let certainty = if callees.len() > 1 {
            Certainty::Likely
        } else {
            Certainty::Certain
        };
        // Printing shows nothing, unless it never stops.
        let relentless = self.relentless;
        let dull = |value: &Value<'a>| {
            matches!(value, Value::Name(name)
                if effects::dull(name) && !(relentless && &**name == "builtins.print"))
        };
        if callees.iter().any(|callee| !dull(callee)) {
            let args = self.resolver.args(call, &cx, 0);
            let steps = self.steps_to(&call.func, &cx);
            let before = self.trail.len();
            self.trail.extend(steps);
            for callee in callees.iter().filter(|callee| !dull(callee)) {
                self.apply(callee, &args, call.range(), certainty);
            }
            self.trail.truncate(before);
        } else if callees.is_empty() {
            self.unresolved(call, &cx);
        }
        self.methods(call);
        self.results(call, expr, &callees);
        for body in self.resolver.code_of(call) {
            self.inner_code(body, call.range());
        }
        match &*call.func {
            Expr::Attribute(_) | Expr::Subscript(_) | Expr::Name(_) => {
                self.walk_chain(&call.func, &names_of(&callees));
            }
            other => self.visit_expr(other),
        }
        self.visit_arguments(&call.arguments);
    }

    /// What is behind a call is seen through the resolver: `__import__("os")`, a decoded text.
    fn results(&mut self, call: &'a ExprCall, expr: &'a Expr, callees: &[Value<'a>]) {
        // What a function of the program computes is looked at where it is used.
        let computes = |value: &Value<'a>| {
            matches!(value, Value::Function(function, ..)
            if function.body.iter().any(|stmt| matches!(stmt, Stmt::For(_) | Stmt::While(_))))
        };
        if callees.iter().any(computes) {
            return;
        }
        for value in self.resolver.values(expr, &self.cx.clone()) {
            match value {
                Value::Name(name) if !name.ends_with("()") => {
                    if !name.contains('.') && &*name != "builtins" {
                        self.module(&name, expr.range(), Certainty::Certain);
                    } else {
                        self.mention(name, expr.range(), Certainty::Likely);
                    }
                }
                Value::Text(_) | Value::Bytes(_) => {
                    let known = call
                        .arguments
                        .args
                        .first()
                        .is_some_and(Expr::is_string_literal_expr);
                    if let (Some(text), false) =
                        (value.as_text(), known && call.func.is_name_expr())
                    {
                        self.string(&text, expr.range());
                    }
                }
                _ => {}
            }
        }
    }

    /// Code in a text, walked once at the place where it is run.
    pub(crate) fn inner_code(&mut self, body: &'a [Stmt], range: TextRange) {
        let Some(first) = body.first() else { return };
        if !self.read.insert(node(first)) {
            return;
        }
        let outer = (self.at, self.trail.len());
        self.at = Some(self.range(range));
        self.trail.push(Link {
            what: "code in a text is run".into(),
            range: self.range(range),
        });
        self.visit_body(body);
        self.trail.truncate(outer.1);
        self.at = outer.0;
    }

    /// A decorator is called with the function under it.
    fn decorators(&mut self, function: &'a StmtFunctionDef) {
        let Some(scope) = self.resolver.bindings.scope_of(function) else {
            return;
        };
        for decorator in &function.decorator_list {
            self.tied(&decorator.expression);
            let cx = self.cx.clone();
            for value in self.resolver.values(&decorator.expression, &cx) {
                if let Value::Function(..) | Value::Lambda(..) | Value::Method(_) | Value::Made(_) =
                    value
                {
                    let args = Args::of(vec![Value::Function(function, scope, None).into()]);
                    self.apply(&value, &args, decorator.range, Certainty::Likely);
                }
            }
        }
    }

    /// `@exec` over a function or a class runs something in passing, as `__getitem__ = os.system` does.
    fn tied(&mut self, expr: &'a Expr) {
        let runs = |name: &Rc<str>| {
            effects::process(name)
                || matches!(
                    &**name,
                    "builtins.exec" | "builtins.eval" | "builtins.__import__"
                )
        };
        for name in self.resolver.names(expr, &self.cx.clone()) {
            if runs(&name) {
                let seen = self.seen(&format!("tied {name}"), expr.range(), Certainty::Likely);
                self.facts.attributes.push(seen);
            }
        }
    }

    fn tied_members(&mut self, class: &'a StmtClassDef) {
        for stmt in &class.body {
            let Stmt::Assign(assign) = stmt else { continue };
            let special =
                |target: &Expr| matches!(target, Expr::Name(name) if name.id.starts_with("__"));
            if assign.targets.iter().any(special) {
                self.tied(&assign.value);
            }
        }
    }

    /// Whether this stands in a function that nothing in the program names again, so that it is only
    /// offered to whoever imports it. What looks names up by text may reach everything.
    pub(crate) fn dormant(&mut self) -> bool {
        let Some(function) = self.function else {
            return false;
        };
        let plain = self.at.is_none()
            && self.trail.is_empty()
            && function.decorator_list.is_empty()
            && self.facts.code.is_ascii();
        if !plain {
            return false;
        }
        let code = &self.facts.code;
        let words = self.words.get_or_insert_with(|| word_counts(code));
        let lookups = [
            "globals", "locals", "vars", "exec", "eval", "getattr", "__dict__", "__main__",
        ];
        words.get(function.name.as_str()) == Some(&1)
            && !lookups.iter().any(|word| words.contains_key(*word))
    }

    /// What `__reduce__` returns is called when the object is unpickled.
    fn reduces(&mut self, function: &'a StmtFunctionDef) {
        if !matches!(function.name.as_str(), "__reduce__" | "__reduce_ex__") {
            return;
        }
        let returns = self
            .resolver
            .bindings
            .scope(self.cx.scope)
            .map(|scope| scope.returns.clone());
        for &expr in returns.unwrap_or_default().iter() {
            for value in self.resolver.values(expr, &self.cx.clone()) {
                let Value::List(items) = value else { continue };
                let Some(first) = items.first() else { continue };
                let given = items.get(1).and_then(Value::rounds).unwrap_or_default();
                let args = Args::of(given.iter().map(Value::spread).collect());
                for callee in first.spread() {
                    self.apply(&callee, &args, expr.range(), Certainty::Likely);
                }
            }
        }
    }
}

/// How often each word stands in code, in texts too.
fn word_counts(code: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for word in code.split(|c: char| !c.is_alphanumeric() && c != '_') {
        if !word.is_empty() {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    counts
}
