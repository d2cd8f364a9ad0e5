//! Calls: what functions give back, the program's own and those that only compute.

use std::rc::Rc;

use ruff_python_ast::{Expr, ExprCall, Parameters};

use crate::bindings::{Binding, ScopeId};
use crate::interp::Flow;
use crate::memory::settled;
use crate::names::{canonical, cut, join, member};
use crate::pure;
use crate::resolve::{MAX_DEPTH, MAX_FRAMES, Resolver, texts_of};
use crate::value::{Args, Cx, MAX_VALUES, Made, Positional, Value, Values, absorb, merge, single};
use crate::vars::Vars;

impl<'a> Resolver<'a> {
    /// The value of a call.
    pub(crate) fn call(&mut self, call: &'a ExprCall, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        let callees = self.eval(&call.func, cx, depth);
        let mut values = Values::new();
        let mut args: Option<Args<'a>> = None;
        for callee in &callees {
            let plain = matches!(callee, Value::Name(name) if !follows(name));
            if plain {
                let Value::Name(name) = callee else { continue };
                let result = self.result(name);
                merge(&mut values, result);
                continue;
            }
            if args.is_none() {
                args = Some(self.args(call, cx, depth));
            }
            if let Some(args) = &args {
                let found = self.invoke(callee, args, cx, depth);
                absorb(&mut values, found);
            }
        }
        values
    }

    /// The arguments of a call.
    pub(crate) fn args(&mut self, call: &'a ExprCall, cx: &Cx<'a>, depth: usize) -> Args<'a> {
        let mut args = Args {
            positional: Positional::with_capacity(call.arguments.args.len()),
            ..Args::default()
        };
        args.written.call = Some((call, 0, cx.clone()));
        for expr in &call.arguments.args {
            let values = self.eval(expr, cx, depth + 1);
            match (expr, single(&values)) {
                (Expr::Starred(_), Some(known)) if known.rounds().is_some() => {
                    let rounds = known.rounds().unwrap_or_default();
                    args.positional
                        .extend(rounds.iter().take(256).map(Value::spread));
                }
                (Expr::Starred(_), _) => {
                    // Several lists: what may stand at each place.
                    let lists: Vec<_> = values.iter().filter_map(Value::rounds).collect();
                    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
                    for index in 0..longest.min(16) {
                        let mut here = Values::new();
                        lists
                            .iter()
                            .filter_map(|list| list.get(index))
                            .for_each(|item| absorb(&mut here, item.spread()));
                        args.positional.push(here);
                    }
                }
                _ => args.positional.push(values),
            }
        }
        for keyword in &call.arguments.keywords {
            let values = self.eval(&keyword.value, cx, depth + 1);
            match &keyword.arg {
                Some(name) => args.named.push((name.as_str().into(), values)),
                None => {
                    for value in &values {
                        let Value::Dict(entries) = value else {
                            continue;
                        };
                        for (key, value) in entries.iter().take(64) {
                            if let Some(key) = key.as_text() {
                                args.named.push((key, value.spread()));
                            }
                        }
                    }
                }
            }
        }
        args
    }

    /// What calling a value with these arguments gives.
    pub(crate) fn invoke(
        &mut self,
        callee: &Value<'a>,
        args: &Args<'a>,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        if self.stops(depth) {
            return Values::new();
        }
        let next = depth + 1;
        match callee {
            Value::Name(name) => self.invoke_name(name, args, cx, next),
            Value::Function(..) | Value::Lambda(..) | Value::Method(_) => {
                self.invoke_own(callee, args, next)
            }
            Value::Class(class, scope) => {
                let mut values = Values::One(Value::Instance(class, *scope));
                let parent = self
                    .bindings
                    .scope(*scope)
                    .and_then(|scope| scope.parent)
                    .unwrap_or(0);
                for base in class.bases().iter().take(4) {
                    for base in self.eval(base, &Cx::at(parent), next) {
                        if let Value::Name(name) = &base {
                            let result = self.result(name);
                            merge(&mut values, result);
                        }
                    }
                }
                values
            }
            Value::Instance(_, scope) => {
                let mut values = Values::new();
                for binding in self.bindings.member(*scope, "__call__").iter() {
                    if let &Binding::Function(function, home) = binding {
                        let function = Value::Function(function, home, None);
                        let method = Value::Method(Rc::new((function, callee.clone())));
                        let found = self.invoke_own(&method, args, next);
                        absorb(&mut values, found);
                    }
                }
                values
            }
            Value::Bound(bound) => {
                let (receiver, method) = &**bound;
                self.method(receiver, method, args, cx, next)
            }
            Value::Made(made) => self.invoke_made(made, args, cx, next),
            _ => Values::new(),
        }
    }

    fn invoke_made(
        &mut self,
        made: &Rc<Made<'a>>,
        args: &Args<'a>,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        match &*made.maker {
            "functools.partial" => {
                let (callee, merged) = partial_call(made, args);
                let mut values = Values::new();
                for callee in &callee {
                    let found = self.invoke(callee, &merged, cx, depth);
                    absorb(&mut values, found);
                }
                values
            }
            // An object of a class that `type` made.
            "types.SimpleNamespace" => Values::One(Value::Made(Rc::clone(made))),
            "operator.attrgetter" => {
                let mut values = Values::new();
                for name in texts_of(made.args.at(0)) {
                    for object in args.at(0) {
                        let found = self.attribute_path(object, &name, cx, depth);
                        absorb(&mut values, found);
                    }
                }
                values
            }
            "operator.itemgetter" => {
                let mut values = Values::new();
                for object in args.at(0) {
                    let found = self.item(object, made.args.at(0), cx, depth);
                    absorb(&mut values, found);
                }
                values
            }
            "operator.methodcaller" => {
                let mut values = Values::new();
                for name in texts_of(made.args.at(0)) {
                    for object in args.at(0) {
                        for callee in self.attribute_path(object, &name, cx, depth) {
                            let found = self.invoke(&callee, &made.args.skip(1), cx, depth);
                            absorb(&mut values, found);
                        }
                    }
                }
                values
            }
            _ => Values::new(),
        }
    }

    /// `a.b.c` by its text.
    pub(crate) fn attribute_path(
        &mut self,
        object: &Value<'a>,
        path: &str,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        let mut values = Values::One(object.clone());
        for name in path.split('.').take(8) {
            let mut next = Values::new();
            for value in &values {
                let found = self.attribute_by_text(value, name, cx, depth);
                absorb(&mut next, found);
            }
            values = next;
        }
        values
    }

    /// An attribute whose name is a text that was worked out.
    pub(crate) fn attribute_by_text(
        &mut self,
        value: &Value<'a>,
        name: &str,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        match value {
            Value::Name(base) if base.starts_with(':') => Values::new(),
            Value::Name(base) => member(base, name).map(Value::Name).into_iter().collect(),
            Value::Instance(_, scope) | Value::Class(_, scope) => {
                let mut values = Values::new();
                for binding in self.bindings.member(*scope, name).iter() {
                    let only = std::slice::from_ref(binding);
                    let found = self.bound("", *scope, only, &Cx::at(cx.scope), depth + 1);
                    absorb(&mut values, found);
                }
                let loose = self.loose(name, cx, depth);
                absorb(&mut values, loose);
                values
            }
            Value::Made(made) => made.args.get(usize::MAX, &[name]).into(),
            _ => value.method(name),
        }
    }

    /// The variables of a function of the program's for a call of it, and its scope.
    pub(crate) fn parameters(
        &mut self,
        callee: &Value<'a>,
        args: &Args<'a>,
        depth: usize,
    ) -> Option<(ScopeId, Vars<'a>)> {
        let (function, given) = match callee {
            Value::Method(method) => (&method.0, Some(method.1.clone())),
            other => (other, None),
        };
        let (scope, parameters, env): (ScopeId, Option<&'a Parameters>, _) = match function {
            Value::Function(function, scope, env) => {
                (*scope, Some(&function.parameters), env.clone())
            }
            Value::Lambda(lambda, scope, env) => {
                (*scope, lambda.parameters.as_deref(), env.clone())
            }
            _ => return None,
        };
        let Some(parameters) = parameters else {
            return Some((scope, Vars::default()));
        };
        let mut vars = Vars::with_room(parameters.len());
        let own = given.map(Values::from);
        let positional = || own.iter().chain(&args.positional);
        let names = parameters.posonlyargs.iter().chain(&parameters.args);
        let count = parameters.posonlyargs.len() + parameters.args.len();
        for (parameter, values) in names.zip(positional()) {
            vars.insert(parameter.name().as_str(), values.clone());
        }
        if let Some(rest) = &parameters.vararg {
            let items = positional().skip(count).cloned().map(Value::item).collect();
            vars.insert(rest.name.as_str(), Value::list(items).into_iter().collect());
        }
        let mut other = Vec::new();
        for (name, values) in &args.named {
            let known = parameters
                .iter_non_variadic_params()
                .find(|parameter| parameter.name().as_str() == &**name);
            match known {
                Some(parameter) => {
                    vars.insert(parameter.name().as_str(), values.clone());
                }
                None => other.push((Value::Text(Rc::clone(name)), Value::item(values.clone()))),
            }
        }
        if let Some(rest) = &parameters.kwarg {
            vars.insert(rest.name.as_str(), Values::One(Value::Dict(Rc::new(other))));
        }
        let parent = self
            .bindings
            .scope(scope)
            .and_then(|scope| scope.parent)
            .unwrap_or(0);
        let at = Cx { scope: parent, env };
        for parameter in parameters.iter_non_variadic_params() {
            let name = parameter.name().as_str();
            if let (false, Some(default)) = (vars.get(name).is_some(), parameter.default()) {
                let values = self.eval(default, &at, depth + 1);
                vars.insert(name, values);
            }
        }
        Some((scope, vars))
    }

    /// The place inside a function of the program's for a call of it.
    pub(crate) fn inside(
        &mut self,
        callee: &Value<'a>,
        args: &Args<'a>,
        depth: usize,
    ) -> Option<Cx<'a>> {
        let (scope, vars) = self.parameters(callee, args, depth)?;
        let function = match callee {
            Value::Method(method) => &method.0,
            other => other,
        };
        let env = match function {
            Value::Function(_, _, env) | Value::Lambda(_, _, env) => env.clone(),
            _ => return None,
        };
        let outer = Cx { scope, env };
        (outer.depth() < MAX_FRAMES).then(|| outer.with(scope, vars, self.frame()))
    }

    /// What a function of the program's returns for these arguments.
    fn invoke_own(&mut self, callee: &Value<'a>, args: &Args<'a>, depth: usize) -> Values<'a> {
        if depth > MAX_DEPTH / 2 {
            self.allowance.cut();
            return Values::new();
        }
        // A call costs as much as many statements.
        if !self.allowance.burn(10) {
            return Values::new();
        }
        let version = self.bindings.version();
        let key = self.memory.key(callee, args);
        // What stands deeper than the call that is remembered may meet a bound that that did not.
        let known = self
            .memory
            .known(key, version, (callee, args), |&deepest| depth <= deepest);
        if let Some(((values, tentative), cost)) = known
            && self.allowance.pay(cost)
        {
            let (values, tentative) = (values.clone(), *tentative);
            self.rest_on(tentative);
            return values;
        }
        let mark = self.mark();
        let values = self.follow(callee, args, depth);
        if let Some(cost) = self.allowance.again(&mark.0)
            && settled(&values)
        {
            let outcome = (values.clone(), self.tentative_since(&mark));
            let call = (callee, args);
            self.memory.remember(key, call, depth, outcome, cost);
        }
        values
    }

    fn follow(&mut self, callee: &Value<'a>, args: &Args<'a>, depth: usize) -> Values<'a> {
        let Some(at) = self.inside(callee, args, depth) else {
            return Values::new();
        };
        let function = match callee {
            Value::Method(method) => method.0.clone(),
            other => other.clone(),
        };
        let Some(scope) = self.bindings.scope(at.scope) else {
            return Values::new();
        };
        let (returns, yields) = (Rc::clone(&scope.returns), Rc::clone(&scope.yields));
        let next = depth + 8;
        if let Value::Function(function, ..) = &function
            && yields.is_empty()
        {
            let known = args
                .positional
                .iter()
                .chain(args.named.iter().map(|(_, values)| values));
            let known = known
                .into_iter()
                .all(|values| single(values).is_some_and(Value::concrete));
            // Run as it would be run, when everything that goes in is known.
            if known
                && !function.is_async
                && returns.len() < 16
                && let Flow::Return(values) = self.run(&function.body, &at, next)
            {
                return values;
            }
        }
        let mut values = Values::new();
        for expr in returns.iter().take(MAX_VALUES) {
            let found = self.eval(expr, &at, next);
            absorb(&mut values, found);
        }
        if !yields.is_empty() {
            let mut items = Vec::new();
            for expr in yields.iter().take(64) {
                match expr {
                    Expr::YieldFrom(inner) => {
                        let inner = self.eval(&inner.value, &at, next);
                        items.extend(inner.iter().filter_map(Value::rounds).flatten());
                    }
                    expr => items.push(Value::item(self.eval(expr, &at, next))),
                }
            }
            merge(&mut values, Value::list(items));
        }
        values
    }

    /// A special method of an object of the program's: what `str(x)`, `x[k]` and `x + y` give.
    pub(crate) fn special(
        &mut self,
        object: &Value<'a>,
        name: &str,
        args: &Args<'a>,
        depth: usize,
    ) -> Values<'a> {
        let Value::Instance(_, scope) = object else {
            return Values::new();
        };
        let mut values = Values::new();
        for binding in self.bindings.member(*scope, name).iter() {
            if let &Binding::Function(function, home) = binding {
                let function = Value::Function(function, home, None);
                let method = Value::Method(Rc::new((function, object.clone())));
                let found = self.invoke_own(&method, args, depth + 20);
                absorb(&mut values, found);
            }
        }
        values
    }

    fn invoke_name(
        &mut self,
        name: &Rc<str>,
        args: &Args<'a>,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        if let Some(values) = self.reflective(name, args, cx, depth) {
            return values;
        }
        if let Some(values) = self.higher(name, args, cx, depth) {
            return values;
        }
        let mut values = pure::function(self, name, args);
        if matches!(&**name, "builtins.str" | "builtins.format" | "os.fspath") {
            for object in args.at(0) {
                for way in ["__str__", "__format__", "__repr__", "__fspath__"] {
                    let given = Args::of(vec![Value::text("").into_iter().collect()]);
                    let found = self.special(object, way, &given, depth);
                    absorb(&mut values, found);
                }
            }
            let told = |value: &Value<'a>| !matches!(value, Value::Instance(..));
            values = values.into_iter().filter(told).collect();
        }
        let keeps_name = values.is_empty() || name.starts_with("pathlib.");
        if keeps_name {
            let result = self.result(name);
            merge(&mut values, result);
        }
        values
    }

    /// Functions that look things up by text.
    fn reflective(
        &mut self,
        name: &str,
        args: &Args<'a>,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Option<Values<'a>> {
        Some(match name {
            "builtins.__import__" => imported(args, true),
            "importlib.import_module"
            | "importlib.__import__"
            | "pkgutil.resolve_name"
            | "pydoc.locate" => imported(args, false),
            "builtins.getattr"
            | "inspect.getattr_static"
            | "builtins.object.__getattribute__"
            | "types.ModuleType.__getattribute__" => self.got_attribute(args, cx, depth),
            "builtins.vars" if args.has(0, &[]) => {
                let names = args.at(0).iter().filter_map(|value| match value {
                    Value::Name(name) => join(name, ".__dict__").map(Value::Name),
                    _ => None,
                });
                names.collect()
            }
            "builtins.eval" => {
                let mut values = Values::new();
                for text in texts_of(args.at(0)) {
                    let found = self.evaluated(&text, cx, depth);
                    absorb(&mut values, found);
                }
                if values.is_empty() {
                    values.push(Value::name("builtins.eval()"));
                }
                values
            }
            // The text itself stands for what it was compiled to.
            "builtins.compile" | "ast.parse" => {
                let mut values = Values::from(args.get(0, &["source"]));
                merge(&mut values, [Value::name(&*format!("{name}()"))]);
                values
            }
            "functools.partial"
            | "operator.attrgetter"
            | "operator.itemgetter"
            | "operator.methodcaller"
            | "types.SimpleNamespace" => {
                // It keeps where its arguments are written.
                self.takes(cx.outermost());
                let (maker, args) = (name.into(), args.clone());
                Values::One(Value::Made(Rc::new(Made { maker, args })))
            }
            "os.getenv" | "os.environ.get"
                if texts_of(args.at(0))
                    .iter()
                    .any(|name| matches!(&**name, "HOME" | "USERPROFILE")) =>
            {
                Value::text("~")
                    .into_iter()
                    .chain(Some(Value::name("os.getenv()")))
                    .collect()
            }
            "functools.wraps" | "functools.lru_cache" | "functools.cache" => Values::new(),
            _ => return self.reflective_method(name, args, cx, depth),
        })
    }

    fn got_attribute(&mut self, args: &Args<'a>, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        let names = texts_of(args.at(1));
        let mut values = Values::new();
        for object in args.at(0) {
            if names.is_empty() {
                if let Value::Name(base) = object {
                    merge(&mut values, join(base, ".?").map(Value::Name));
                }
                continue;
            }
            for name in &names {
                let found = self.attribute_by_text(object, name, cx, depth);
                absorb(&mut values, found);
            }
        }
        values
    }

    /// `sys.modules.get("os")`, `os.__dict__.get("system")`, `os.__getattribute__("system")`.
    fn reflective_method(
        &mut self,
        name: &str,
        args: &Args<'a>,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Option<Values<'a>> {
        for getter in [".get", ".__getitem__", ".pop", ".setdefault"] {
            if let Some(base) = name.strip_suffix(getter)
                && (base == "sys.modules"
                    || base == "builtins.globals()"
                    || base == "builtins"
                    || base.ends_with(".__dict__"))
            {
                return Some(self.item(&Value::name(base), args.at(0), cx, depth));
            }
        }
        for getter in [".__getattribute__", ".__getattr__"] {
            if let Some(base) = name.strip_suffix(getter) {
                let texts = texts_of(args.at(0));
                let found: Values<'a> = texts
                    .iter()
                    .filter_map(|text| member(base, text))
                    .map(Value::Name)
                    .collect();
                return (!found.is_empty()).then_some(found);
            }
        }
        None
    }

    /// Functions that call what they are given.
    fn higher(
        &mut self,
        name: &str,
        args: &Args<'a>,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Option<Values<'a>> {
        match name {
            "builtins.map" | "itertools.starmap" => {
                let items = single(args.at(1)).and_then(Value::rounds)?;
                if items.len() > 4096 {
                    return None;
                }
                let others: Vec<Vec<Value<'a>>> = args
                    .positional
                    .iter()
                    .skip(2)
                    .filter_map(|values| single(values)?.rounds())
                    .collect();
                let mut results = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    if !self.allowance.burn(1) {
                        return Some(Values::One(Value::name(crate::resolve::HIDDEN)));
                    }
                    let given = if name == "itertools.starmap" {
                        item.rounds()
                            .unwrap_or_default()
                            .iter()
                            .map(Value::spread)
                            .collect()
                    } else {
                        let rest = others
                            .iter()
                            .filter_map(|other| other.get(index))
                            .map(Value::spread);
                        std::iter::once(item.spread()).chain(rest).collect()
                    };
                    let given = Args::of(given);
                    let mut result = Values::new();
                    for callee in args.at(0) {
                        let found = self.invoke(callee, &given, cx, depth);
                        absorb(&mut result, found);
                    }
                    results.push(Value::item(result));
                }
                Some(Value::list(results).into_iter().collect())
            }
            "functools.reduce" => {
                let items = single(args.at(1)).and_then(Value::rounds)?;
                let mut items = items.into_iter();
                let mut sum = match args.positional.get(2) {
                    Some(values) => values.clone(),
                    None => items.next()?.spread(),
                };
                for item in items.take(4096) {
                    if !self.allowance.burn(1) {
                        return Some(Values::One(Value::name(crate::resolve::HIDDEN)));
                    }
                    let given = Args::of(vec![sum, item.spread()]);
                    let mut result = Values::new();
                    for callee in args.at(0) {
                        let found = self.invoke(callee, &given, cx, depth);
                        absorb(&mut result, found);
                    }
                    sum = result;
                }
                Some(sum)
            }
            "builtins.filter" => {
                let items = single(args.at(1)).and_then(Value::rounds)?;
                let callee = single(args.at(0))?.clone();
                let mut kept = Vec::new();
                for item in items.into_iter().take(4096) {
                    let given = Args::of(vec![item.spread()]);
                    let result = self.invoke(&callee, &given, cx, depth);
                    if single(&result).and_then(Value::truth).unwrap_or(true) {
                        kept.push(item);
                    }
                }
                Some(Value::list(kept).into_iter().collect())
            }
            _ => None,
        }
    }
}

/// The function that a partial call stands for, and all its arguments.
pub(crate) fn partial_call<'a>(made: &Made<'a>, args: &Args<'a>) -> (Values<'a>, Args<'a>) {
    let first = made.args.positional.get(1..).unwrap_or_default();
    let mut merged = args.after(first, &made.args.named);
    let written = &made.args.written;
    let calls = written.call.iter().chain(&written.before).cloned();
    // The first expression of them is the function.
    let before = calls.enumerate().map(|(index, (call, skip, cx))| {
        let function = usize::from(index == 0);
        (call, skip + function, cx)
    });
    merged.written.before.extend(before);
    (made.args.at(0).into(), merged)
}

fn imported<'a>(args: &Args<'a>, root_only: bool) -> Values<'a> {
    let texts = texts_of(args.get(0, &["name"]));
    let from_list = args.has(3, &["fromlist"]);
    let names = texts.iter().map(|text| match text.split_once('.') {
        Some((root, _)) if root_only && !from_list => root,
        _ => text,
    });
    names
        .map(|name| Value::name(canonical(&cut(name))))
        .collect()
}

/// Whether a call of this name needs its arguments worked out.
fn follows(name: &str) -> bool {
    pure::known(name)
        || matches!(
            name,
            "builtins.__import__"
                | "importlib.import_module"
                | "importlib.__import__"
                | "pkgutil.resolve_name"
                | "pydoc.locate"
                | "builtins.getattr"
                | "inspect.getattr_static"
                | "builtins.object.__getattribute__"
                | "types.ModuleType.__getattribute__"
                | "builtins.vars"
                | "builtins.eval"
                | "builtins.compile"
                | "ast.parse"
                | "functools.partial"
                | "functools.reduce"
                | "operator.attrgetter"
                | "operator.itemgetter"
                | "operator.methodcaller"
                | "types.SimpleNamespace"
                | "os.getenv"
                | "functools.wraps"
                | "functools.lru_cache"
                | "functools.cache"
                | "builtins.map"
                | "builtins.filter"
                | "itertools.starmap"
        )
        || name.rsplit_once('.').is_some_and(|(_, method)| {
            matches!(
                method,
                "get" | "__getitem__" | "pop" | "setdefault" | "__getattribute__" | "__getattr__"
            )
        })
}
