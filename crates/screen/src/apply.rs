//! What calls do: facts from a function and its arguments, through the program's own functions.

use std::rc::Rc;

use casemate_model::manifest::{Access, Certainty};
use ruff_python_ast::{Expr, ExprCall};
use ruff_text_size::{Ranged, TextRange};
use smallvec::smallvec;

use crate::arguments::parts;
use crate::bindings::{Binding, node};
use crate::call::partial_call;
use crate::effects;
use crate::eval::join_path;
use crate::facts::{Link, SeenFile, Use};
use crate::resolve::{HIDDEN, names_of, runs_code, text_of, texts_of};
use crate::value::{Args, Cx, Value, Values};
use crate::walk::Walker;

/// The deepest nesting of the program's own functions that is looked into.
const MAX_INSIDE: usize = 5;
/// Calls inside the program's own functions that are looked at with the arguments of a call.
const MAX_INLINED: usize = 1_000;
/// The most texts and the most names that one call is taken to carry.
const MAX_CARRIED: usize = 64;
/// The most expressions that are looked at for what one call carries.
const MAX_CARRYING: usize = 400;

impl<'a> Walker<'a, '_> {
    /// The facts of calling a value with these arguments.
    pub(crate) fn apply(
        &mut self,
        callee: &Value<'a>,
        args: &Args<'a>,
        range: TextRange,
        certainty: Certainty,
    ) {
        if self.depth > 2 * MAX_INSIDE {
            return;
        }
        self.depth += 1;
        match callee {
            Value::Name(name) => self.apply_name(name, args, range, certainty),
            Value::Function(..) | Value::Lambda(..) | Value::Method(_) => {
                self.inline(callee, args, range)
            }
            Value::Instance(_, scope) => self.apply_method(callee, *scope, "__call__", args, range),
            Value::Class(class, scope) => {
                let object = Value::Instance(class, *scope);
                let cx = Cx::at(
                    self.resolver
                        .bindings
                        .scope(*scope)
                        .and_then(|scope| scope.parent)
                        .unwrap_or(0),
                );
                for base in class.bases().iter().take(4) {
                    for base in self.resolver.values(base, &cx) {
                        if matches!(base, Value::Name(_)) {
                            self.apply(&base, args, range, Certainty::Likely);
                        }
                    }
                }
                self.apply_method(&object, *scope, "__init__", args, range);
            }
            Value::Made(made) => match &*made.maker {
                "functools.partial" => {
                    let (callees, merged) = partial_call(made, args);
                    for callee in &callees {
                        self.apply(callee, &merged, range, certainty);
                    }
                }
                "operator.methodcaller" => {
                    for name in texts_of(made.args.at(0)) {
                        for object in args.at(0) {
                            let cx = self.cx.clone();
                            for callee in self.resolver.attribute_path(object, &name, &cx, 0) {
                                self.apply(&callee, &made.args.skip(1), range, certainty);
                            }
                        }
                    }
                }
                _ => {}
            },
            _ => {}
        }
        self.depth -= 1;
    }

    fn apply_method(
        &mut self,
        object: &Value<'a>,
        scope: usize,
        name: &str,
        args: &Args<'a>,
        range: TextRange,
    ) {
        for binding in self.resolver.bindings.member(scope, name).iter() {
            if let &Binding::Function(function, home) = binding {
                let function = Value::Function(function, home, None);
                let method = Value::Method(Rc::new((function, object.clone())));
                self.inline(&method, args, range);
            }
        }
    }

    fn apply_name(
        &mut self,
        name: &Rc<str>,
        args: &Args<'a>,
        range: TextRange,
        certainty: Certainty,
    ) {
        let plain = name
            .strip_prefix("builtins.")
            .is_some_and(crate::names::is_plain);
        if name.ends_with("getattr") || name.ends_with("__getattribute__") {
            for base in names_of(args.at(0)) {
                for text in texts_of(args.at(1)) {
                    self.by_text(&base, &text, range);
                }
            }
            for text in texts_of(args.at(1)) {
                self.attribute(&text, range);
            }
        }
        if let Some(what) = crate::smells::allocation(name, args.at(0)) {
            self.resource(what, range);
        }
        self.floods(name, args, range);
        self.code_given(name, args, range);
        if name.starts_with("re.")
            && texts_of(args.at(0))
                .iter()
                .any(|pattern| crate::smells::backtracks(pattern))
        {
            self.resource("a pattern with a repetition inside a repetition", range);
        }
        if !plain || name.ends_with("getattr") {
            let used = self.describe(name, args, range, certainty);
            self.effects(&used, args, range);
            self.facts.uses.push(used);
        }
        self.callbacks(name, args, range);
    }

    /// A function that is passed to another one may be called there, with what stands after it.
    fn callbacks(&mut self, name: &str, args: &Args<'a>, range: TextRange) {
        let callable = |value: &Value<'a>| match value {
            Value::Name(name) => effects::matters(name),
            Value::Function(..) | Value::Lambda(..) | Value::Method(_) | Value::Made(_) => true,
            _ => false,
        };
        if matches!(
            name,
            "builtins.getattr" | "builtins.setattr" | "builtins.callable" | "builtins.print"
        ) {
            return;
        }
        let mut called: Vec<(Value<'a>, Args<'a>)> = Vec::new();
        let named = |name: &&str| Values::from(args.get(usize::MAX, &[name]));
        for (index, values) in args.positional.iter().enumerate().take(8) {
            for value in values
                .iter()
                .flat_map(Value::spread)
                .filter(|value| callable(value))
            {
                called.push((value, args.skip(index + 1)));
            }
        }
        let given = ["args", "initargs", "iterable"]
            .iter()
            .map(named)
            .find(|values| !values.is_empty());
        let takers: &[&str] = &[
            "target",
            "func",
            "function",
            "callback",
            "initializer",
            "fn",
            "key",
            "action",
        ];
        let takers = if args.named.is_empty() { &[] } else { takers };
        for value in takers.iter().flat_map(named) {
            if callable(&value) {
                let rest = given.clone().unwrap_or_else(|| args.at(0).into());
                called.push((value, Args::of(vec![rest])));
            }
        }
        for (callee, rest) in called {
            // `args=(a, b)`, `[a, b]` and what `map` goes through are given one by one.
            let spread: Vec<_> = match rest.positional.as_slice() {
                [one] => one
                    .iter()
                    .filter_map(|value| match value {
                        Value::List(items) => {
                            Some(items.iter().take(16).map(Value::spread).collect::<Vec<_>>())
                        }
                        _ => None,
                    })
                    .collect(),
                _ => Vec::new(),
            };
            for items in spread {
                for item in items.iter().take(8) {
                    self.apply(
                        &callee,
                        &Args {
                            positional: smallvec![item.clone()],
                            ..rest.clone()
                        },
                        range,
                        Certainty::Likely,
                    );
                }
                if items.len() > 1 {
                    self.apply(
                        &callee,
                        &Args {
                            positional: items.into(),
                            ..rest.clone()
                        },
                        range,
                        Certainty::Likely,
                    );
                }
            }
            self.apply(&callee, &rest, range, Certainty::Likely);
        }
    }

    /// Looks at the calls inside one of the program's functions with the arguments of this call.
    fn inline(&mut self, callee: &Value<'a>, args: &Args<'a>, range: TextRange) {
        let tells = args
            .positional
            .iter()
            .chain(args.named.iter().map(|(_, values)| values))
            .flatten();
        let mut tells = tells.filter(|value| !matches!(value, Value::Int(_) | Value::Nothing));
        let closed = matches!(
            callee,
            Value::Function(_, _, Some(_)) | Value::Lambda(_, _, Some(_))
        );
        // Without arguments there is nothing new to see inside, but for a loop around the call.
        let told = tells.next().is_some() || closed || self.loops > 0;
        let nothing = !told && !matches!(callee, Value::Method(_));
        if nothing || self.depth > MAX_INSIDE || self.inlined > MAX_INLINED {
            return;
        }
        let version = self.resolver.bindings.version();
        let (key, stood) = (self.looked.key(callee, args), self.stands());
        // The facts are there already, from the first call of this kind: only the way there is another.
        let known = self
            .looked
            .known(key, version, (callee, args), |&other| other == stood);
        if let Some((&inlined, cost)) = known
            && self.resolver.allowance.pay(cost)
        {
            self.inlined += inlined;
            return;
        }
        let (mark, before) = (self.resolver.allowance.mark(), self.inlined);
        self.look_inside(callee, args, range);
        if let Some(cost) = self.resolver.allowance.again(&mark)
            && self.inlined <= MAX_INLINED
            && self.resolver.bindings.version() == version
            && self.stands() == stood
        {
            let inlined = self.inlined - before;
            self.looked
                .remember(key, (callee, args), stood, inlined, cost);
        }
    }

    fn look_inside(&mut self, callee: &Value<'a>, args: &Args<'a>, range: TextRange) {
        let Some(at) = self.resolver.inside(callee, args, 0) else {
            return;
        };
        let calls = self
            .resolver
            .bindings
            .scope(at.scope)
            .map(|scope| Rc::clone(&scope.calls))
            .unwrap_or_default();
        let outer = std::mem::replace(&mut self.cx, at);
        self.trail.push(Link {
            what: format!("the call of `{}`", called_name(callee)).into(),
            range: self.range(range),
        });
        for &call in calls.iter() {
            self.inlined += 1;
            if self.inlined > MAX_INLINED {
                break;
            }
            let cx = self.cx.clone();
            let callees = self.resolver.values(&call.func, &cx);
            let interesting =
                |value: &&Value<'a>| !matches!(value, Value::Name(name) if effects::dull(name));
            let callees: Vec<_> = callees.iter().filter(interesting).cloned().collect();
            if callees.is_empty() {
                continue;
            }
            let args = self.resolver.args(call, &cx, 0);
            for callee in &callees {
                self.apply(callee, &args, call.range(), Certainty::Likely);
            }
        }
        self.trail.pop();
        self.cx = outer;
    }

    /// A call of something that is not in sight: it matters when it gets something hidden.
    pub(crate) fn unresolved(&mut self, call: &'a ExprCall, cx: &Cx<'a>) {
        if call.func.is_attribute_expr() {
            return;
        }
        for expr in call.arguments.args.iter().take(4) {
            let names = self.resolver.names(expr, cx);
            if names.iter().any(|name| &**name == HIDDEN) {
                let seen = self.seen(
                    "a call that cannot be resolved",
                    call.range(),
                    Certainty::Possible,
                );
                self.facts.hidden.push(seen);
            }
        }
    }

    fn describe(
        &mut self,
        name: &Rc<str>,
        args: &Args<'a>,
        range: TextRange,
        certainty: Certainty,
    ) -> Use {
        let (mut texts, mut carries) = (Vec::new(), Vec::new());
        let values = args
            .positional
            .iter()
            .chain(args.named.iter().map(|(_, values)| values));
        for values in values.take(32) {
            describe_values(values, &mut texts, &mut carries, 0);
        }
        if effects::carries(name) {
            self.carrying = 0;
            for (expr, cx) in args.exprs().take(16) {
                self.carried.clear();
                self.carry(expr, cx, &mut carries, 0);
            }
        }
        if effects::network(name)
            && texts.is_empty()
            && let Some((expr, cx)) = args.exprs().next()
        {
            let outer = std::mem::replace(&mut self.cx, cx.clone());
            texts.extend(self.partial(expr, 0).map(Rc::from));
            self.cx = outer;
        }
        Use {
            name: Rc::clone(name),
            called: true,
            texts,
            keywords: args
                .named
                .iter()
                .map(|(name, _)| name.to_string())
                .collect(),
            carries,
            loops: self.loops,
            relentless: self.relentless,
            dormant: effects::stops(name) && self.dormant(),
            constant: args
                .positional
                .first()
                .map(|first| text_of(first).is_some()),
            range: self.range(range),
            certainty,
            chain: self.trail.clone(),
        }
    }

    /// The names that go into an expression, through the names it is put together from.
    fn carry(&mut self, expr: &'a Expr, cx: &Cx<'a>, carries: &mut Vec<Rc<str>>, depth: usize) {
        self.carrying += 1;
        if depth > 12 || self.carrying > MAX_CARRYING || carries.len() >= MAX_CARRIED {
            return;
        }
        if matches!(expr, Expr::StringLiteral(_) | Expr::NumberLiteral(_)) {
            return;
        }
        // What was looked at from no deeper has shown all that it shows.
        let before = self.carried.insert(node(expr), depth);
        if before.is_some_and(|before| before <= depth) {
            return;
        }
        for name in self.resolver.names(expr, cx) {
            if !carries.contains(&name) {
                carries.push(name);
            }
        }
        match expr {
            Expr::Name(name) => {
                let bound = self.resolver.bindings.lookup(name.id.as_str(), cx.scope);
                let bound = bound.map(|(_, bound)| Rc::clone(bound)).unwrap_or_default();
                for binding in bound.iter().take(6) {
                    let (value, scope) = match binding {
                        Binding::Value(value, scope) | Binding::Item(value, scope) => {
                            (*value, *scope)
                        }
                        Binding::Changed(ruff_python_ast::Stmt::AugAssign(assign), scope) => {
                            (&*assign.value, *scope)
                        }
                        _ => continue,
                    };
                    let at = Cx {
                        scope,
                        env: cx.env.clone(),
                    };
                    self.carry(value, &at, carries, depth + 1);
                }
            }
            Expr::Call(call) => {
                for name in self.resolver.names(&call.func, cx) {
                    carries.extend(crate::names::join(&name, "()"));
                }
                self.carry_parts(expr, cx, carries, depth);
            }
            _ => self.carry_parts(expr, cx, carries, depth),
        }
    }

    fn carry_parts(
        &mut self,
        expr: &'a Expr,
        cx: &Cx<'a>,
        carries: &mut Vec<Rc<str>>,
        depth: usize,
    ) {
        for part in parts(expr).into_iter().take(16) {
            self.carry(part, cx, carries, depth + 1);
        }
    }

    fn effects(&mut self, used: &Use, args: &Args<'a>, range: TextRange) {
        let name = &*used.name;
        for &(position, access) in effects::paths(name) {
            self.path(args, position, access, range, used.certainty);
        }
        if effects::opens(name) {
            let mode = text_of(args.get(1, &["mode"]));
            self.path(
                args,
                0,
                effects::mode_access(mode.as_deref()),
                range,
                used.certainty,
            );
        }
        if effects::fetches(name) {
            let seen = self.seen("?", range, Certainty::Possible);
            self.facts.hosts.push(seen);
        } else if effects::network(name) {
            self.hosts(used, args, range);
        }
        if effects::process(name) {
            self.processes(used, args, range);
        }
        if effects::native(name) {
            let seen = self.seen(name, range, used.certainty);
            self.facts.native.push(seen);
        }
        if effects::dynamic(name) {
            let seen = self.seen(name, range, used.certainty);
            self.facts.dynamic.push(seen);
        }
        if effects::deserialises(name) {
            let seen = self.seen(name, range, used.certainty);
            self.facts.deserialisation.push(seen);
            self.pickles(args, range);
        }
        let known_runs = runs_code(name)
            || effects::process(name)
            || name == "builtins.__import__"
            || name == "importlib.import_module";
        if known_runs
            && used
                .carries
                .iter()
                .any(|carried| carried.starts_with(HIDDEN))
        {
            let seen = self.seen(name, range, Certainty::Possible);
            self.facts.hidden.push(seen);
        }
        self.reads_environment(used, range);
        self.lends_rights(used, args, range);
    }

    /// Lists that are too long, and loops without an end or a pause that fill the disk or the output.
    fn floods(&mut self, name: &str, args: &Args<'a>, range: TextRange) {
        if let ("builtins.list" | "builtins.sorted", Some((Expr::Call(made), cx))) =
            (name, args.exprs().next())
            && self
                .resolver
                .names(&made.func, cx)
                .iter()
                .any(|made| &**made == "builtins.range")
        {
            let made = self.resolver.args(made, cx, 0);
            let end = made.positional.get(1).or(made.positional.first());
            if let Some([Value::Int(end)]) = end.map(Values::as_slice)
                && crate::smells::too_many(*end)
            {
                self.resource("bomb: an allocation of many gigabytes", range);
            }
        }
        if self.relentless && name.ends_with("open().write") {
            self.resource("bomb: a loop without an end that fills the disk", range);
        }
        if self.relentless && matches!(name, "builtins.print" | "sys.stdout.write") {
            self.resource("a loop without an end that floods the output", range);
        }
    }

    /// Texts that are run where no call stands for it: through a table, by a pickle, by `map`; and
    /// those that are written to a file of Python to be run later.
    fn code_given(&mut self, name: &str, args: &Args<'a>, range: TextRange) {
        let writes = name.ends_with("open().write") || name.ends_with("open().writelines");
        let texts = if runs_code(name) {
            crate::resolve::code_texts(name, args)
        } else if writes && self.writes_python {
            texts_of(args.at(0))
        } else {
            return;
        };
        for text in texts {
            if let Some(body) = self.resolver.parse(&text) {
                self.resolver.bindings.add(body, self.cx.scope);
                self.inner_code(body, range);
            }
        }
    }

    /// `chmod` with the bits that let others run a program as its owner.
    fn lends_rights(&mut self, used: &Use, args: &Args<'a>, range: TextRange) {
        let position = match &*used.name {
            "os.chmod" | "os.fchmod" | "os.lchmod" => 1,
            "pathlib.Path().chmod" => 0,
            _ => return,
        };
        let lends = |value: &Value<'a>| matches!(value, Value::Int(mode) if mode & 0o6000 != 0);
        if args.get(position, &["mode"]).iter().any(lends) {
            self.mention("os.chmod with a setuid bit".into(), range, used.certainty);
        }
    }

    fn reads_environment(&mut self, used: &Use, range: TextRange) {
        let name = &*used.name;
        let value = match name {
            "os.getenv"
            | "os.getenvb"
            | "os.environ.get"
            | "os.environ.pop"
            | "os.environ.setdefault"
            | "os.environ.__getitem__" => used.texts.first().map_or("*", |text| text),
            "os.environ.update" => return,
            _ if name.starts_with("os.environ.") => "*",
            _ => return,
        };
        let seen = self.seen(value, range, used.certainty);
        self.facts.env.push(seen);
    }

    fn hosts(&mut self, used: &Use, args: &Args<'a>, range: TextRange) {
        let mut hosts: Vec<String> = used
            .texts
            .iter()
            .filter_map(|text| effects::url_host(text))
            .map(str::to_owned)
            .collect();
        let reaches = [
            ".connect",
            ".connect_ex",
            ".create_connection",
            ".sendto",
            ".bind",
        ];
        let reaches = reaches.iter().any(|method| used.name.ends_with(method));
        if hosts.is_empty() && reaches {
            let first = used
                .texts
                .first()
                .map(|text| text.split_whitespace().next().unwrap_or("?").to_owned());
            hosts.extend(first);
        }
        // What is done with a connection or an answer says nothing new about where it goes.
        if hosts.is_empty() && (reaches || !used.name.contains("()")) {
            hosts.push("?".to_owned());
        }
        for host in hosts {
            let seen = self.seen(&host, range, used.certainty);
            self.facts.hosts.push(seen);
        }
        let urls = used.texts.iter().filter_map(|text| effects::endpoint(text));
        let endpoints: Vec<String> = urls.chain(socket_endpoint(&used.name, args)).collect();
        for endpoint in endpoints {
            let seen = self.seen(&endpoint, range, used.certainty);
            self.facts.endpoints.push(seen);
        }
    }

    /// Pickles in sight are read as opcodes: what they import and call is what loading them does.
    fn pickles(&mut self, args: &Args<'a>, range: TextRange) {
        for value in args.positional.iter().flatten() {
            let Value::Bytes(bytes) = value else { continue };
            for (name, texts) in crate::pickles::calls(bytes) {
                let given = texts
                    .into_iter()
                    .filter_map(Value::text)
                    .map(Values::from)
                    .collect();
                let callee = Value::name(crate::names::canonical(&name));
                self.apply(&callee, &Args::of(given), range, Certainty::Likely);
            }
        }
    }

    /// Methods of objects that are not in sight: `df.to_csv("x")`, `p.read_text()`.
    pub(crate) fn methods(&mut self, call: &'a ExprCall) {
        let Expr::Attribute(attribute) = &*call.func else {
            return;
        };
        let method = attribute.attr.as_str();
        let cx = self.cx.clone();
        let saves = effects::saving_method(method);
        let on_path = method == "open" || effects::path_method(method).is_some();
        if !saves && !on_path {
            return;
        }
        if saves {
            let args = self.resolver.args(call, &cx, 0);
            self.path(&args, 0, Access::Write, call.range(), Certainty::Likely);
        }
        let receiver = self.resolver.values(&attribute.value, &cx);
        if !names_of(&receiver)
            .iter()
            .any(|name| name.starts_with("pathlib."))
        {
            return;
        }
        let access = if method == "open" {
            let args = self.resolver.args(call, &cx, 0);
            effects::mode_access(text_of(args.get(0, &["mode"])).as_deref())
        } else {
            effects::path_method(method).unwrap_or(Access::Unknown)
        };
        let below = match method {
            "glob" | "rglob" => texts_of(self.resolver.args(call, &cx, 0).at(0)),
            _ => Vec::new(),
        };
        for path in texts_of(&receiver) {
            let found = below.iter().map(|pattern| join_path(&path, pattern));
            for path in found.chain([path.to_string()]) {
                self.file(&path, access, attribute.value.range(), Certainty::Certain);
            }
        }
    }

    fn path(
        &mut self,
        args: &Args<'a>,
        position: usize,
        access: Access,
        range: TextRange,
        certainty: Certainty,
    ) {
        let names: &[&str] = match position {
            0 => &[
                "file",
                "filepath_or_buffer",
                "path",
                "io",
                "fname",
                "filename",
                "path_or_buf",
                "src",
                "name",
                "top",
                "files",
                "arcname",
                "pathname",
                "database",
                "filenames",
            ],
            _ => &["dst", "dest", "target", "filename", "out", "root_dir"],
        };
        let values = args.get(position, names).to_vec();
        let mut paths = texts_of(&values);
        for value in &values {
            if let Value::List(items) = value {
                paths.extend(items.iter().take(16).filter_map(Value::as_text));
            }
        }
        if paths.is_empty()
            && let Some((expr, cx)) = args.exprs().nth(position)
        {
            let outer = std::mem::replace(&mut self.cx, cx.clone());
            paths.extend(self.partial(expr, 0).map(Rc::from));
            self.cx = outer;
        }
        for path in paths {
            self.file(&path, access, range, certainty);
        }
    }

    fn file(&mut self, path: &str, access: Access, range: TextRange, certainty: Certainty) {
        if let Some(host) = effects::url_host(path) {
            let seen = self.seen(host, range, certainty);
            self.facts.hosts.push(seen);
            if let Some(endpoint) = effects::endpoint(path) {
                let seen = self.seen(&endpoint, range, certainty);
                self.facts.endpoints.push(seen);
            }
        } else if !path.is_empty() && !path.contains('\n') {
            let file = SeenFile {
                path: path.to_owned(),
                access,
                range: self.range(range),
                certainty,
                chain: self.trail.clone(),
            };
            self.writes_python |= access == Access::Write && path.ends_with(".py");
            self.facts.files.push(file);
        }
    }

    /// The steps from what stands in a call to what it calls, when that is not its plain name.
    pub(crate) fn steps_to(&mut self, func: &'a Expr, cx: &Cx<'a>) -> Vec<Link> {
        let mut steps = Vec::new();
        let (mut at, mut cx) = (func, cx.clone());
        for _ in 0..6 {
            match at {
                Expr::Attribute(attribute) => at = &attribute.value,
                Expr::Subscript(subscript) => {
                    steps.push(self.step("an item of a table is called".to_owned(), at.range()));
                    at = &subscript.value;
                }
                Expr::Call(call) => {
                    let names = self.resolver.names(&call.func, &cx);
                    let maker = names
                        .first()
                        .map_or("a function of the program", |name| name);
                    let what = match names_of(&self.resolver.values(at, &cx)).first() {
                        Some(made) => format!("`{maker}` gives `{made}`"),
                        None => format!("what `{maker}` gives is called"),
                    };
                    steps.push(self.step(what, at.range()));
                    at = &call.func;
                }
                Expr::Name(name) => {
                    let bound = self.resolver.bindings.lookup(name.id.as_str(), cx.scope);
                    let Some(Binding::Value(value, scope)) =
                        bound.and_then(|(_, bound)| bound.last()).cloned()
                    else {
                        break;
                    };
                    let stands = names_of(&self.resolver.values(value, &Cx::at(scope)));
                    let what = match stands.first() {
                        Some(stands) => format!("`{}` stands for `{stands}`", name.id),
                        None => format!("`{}` is bound here", name.id),
                    };
                    steps.push(self.step(what, value.range()));
                    (at, cx) = (value, Cx::at(scope));
                }
                _ => break,
            }
        }
        steps
    }

    fn step(&self, what: String, range: TextRange) -> Link {
        Link {
            what: what.into(),
            range: self.range(range),
        }
    }
}

/// Where a plain connection goes: `connect((host, port))`, `open_connection(host, port)`, `SMTP(host)`.
fn socket_endpoint(name: &str, args: &Args<'_>) -> Option<String> {
    let (protocol, usual) = effects::connects(name)?;
    let first = args.get(0, &["address", "host"]);
    let (host, port) = match crate::value::single(first)? {
        Value::List(pair) => (pair.first()?.as_text()?, pair.get(1).cloned()),
        host => {
            let port = args.get(1, &["port"]).first().cloned();
            (host.as_text()?, port)
        }
    };
    let port = match port {
        Some(Value::Int(port)) => Some(port),
        _ => usual,
    };
    let plain = !host.is_empty() && !host.contains(['/', ' ']);
    plain.then(|| match port {
        Some(port) => format!("{protocol}://{host}:{port}"),
        None => format!("{protocol}://{host}"),
    })
}

fn called_name(callee: &Value<'_>) -> String {
    match callee {
        Value::Function(function, ..) => function.name.to_string(),
        Value::Method(method) => called_name(&method.0),
        _ => "a lambda".to_owned(),
    }
}

/// The texts and names among values; a list of words is a command too.
fn describe_values(
    values: &[Value<'_>],
    texts: &mut Vec<Rc<str>>,
    carries: &mut Vec<Rc<str>>,
    depth: usize,
) {
    for value in values {
        if texts.len() + carries.len() >= MAX_CARRIED || depth > 4 {
            return;
        }
        match value {
            Value::Text(text) => texts.push(Rc::clone(text)),
            Value::Bytes(bytes) => texts.push(String::from_utf8_lossy(bytes).into()),
            Value::Name(name) => carries.push(Rc::clone(name)),
            Value::Any(inner) => describe_values(inner, texts, carries, depth + 1),
            Value::List(items) => {
                let before = texts.len();
                for item in items.iter().take(16) {
                    describe_values(std::slice::from_ref(item), texts, carries, depth + 1);
                }
                // `["rm", "-rf", "/"]` is the command `rm -rf /`.
                if depth == 0 && texts.len() > before + 1 {
                    let joined = texts.get(before..).unwrap_or_default().join(" ");
                    texts.insert(before, joined.into());
                }
            }
            Value::Dict(entries) => {
                for (_, item) in entries.iter().take(16) {
                    describe_values(std::slice::from_ref(item), texts, carries, depth + 1);
                }
            }
            _ => {}
        }
    }
}
