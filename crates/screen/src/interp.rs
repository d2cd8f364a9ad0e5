//! Statements: functions and loops over constants are run, as far as everything in them is known.

use std::rc::Rc;

use ruff_python_ast::{Expr, Stmt};

use crate::bindings::ScopeId;
use crate::eval::bind_pattern;
use crate::resolve::{HIDDEN, MAX_DEPTH, Resolver, names_of};
use crate::value::{Cx, MAX_ITEMS, Value, Values, absorb, merge, single};
use crate::vars::Vars;

/// How a statement ended.
pub(crate) enum Flow<'a> {
    Next,
    Break,
    Continue,
    Return(Values<'a>),
    /// Something in it is not known, or a bound was met.
    Lost,
}

impl<'a> Resolver<'a> {
    /// The value of a name after a statement that changes it, or after the loop around that.
    pub(crate) fn changed(
        &mut self,
        name: &'a str,
        home: ScopeId,
        before: Values<'a>,
        stmt: &'a Stmt,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        if depth > MAX_DEPTH / 2 {
            self.allowance.cut();
            return before;
        }
        let mut running = self.running.iter();
        if let Some(&(_, place)) = running.find(|(running, _)| std::ptr::eq(*running, stmt)) {
            self.allowance.circle(place);
            return before;
        }
        // Bindings of the loop itself are in the list too; the last known value before it counts.
        let start: Values<'a> = before
            .iter()
            .rev()
            .find(|value| value.concrete())
            .cloned()
            .into_iter()
            .collect();
        let at = cx.closed(home, Vars::one(name, start), self.frame());
        let place = self.allowance.enter();
        self.running.push((stmt, place));
        let flow = self.run_stmt(stmt, &at, depth + 1);
        self.running.pop();
        self.allowance.leave();
        let mut after = Values::new();
        if !matches!(flow, Flow::Lost) {
            after = at.var(home, name).0.unwrap_or_default();
        }
        if after.iter().any(Value::concrete) {
            return after;
        }
        let mut values = before;
        // A loop that was too long to run has made something that nobody knows.
        let lost = at.var(home, name).0.unwrap_or_default();
        let hidden = |value: &Value<'a>| matches!(value, Value::Name(name) if &**name == HIDDEN);
        merge(&mut values, lost.into_iter().filter(hidden));
        absorb(&mut values, after);
        let added = self.added(stmt, cx, depth);
        absorb(&mut values, added);
        values
    }

    /// What a statement adds to a name, when the sum is not known.
    fn added(&mut self, stmt: &'a Stmt, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        let values = match stmt {
            Stmt::AugAssign(assign) => self.eval(&assign.value, cx, depth + 1),
            Stmt::Assign(assign) => {
                let values = self.eval(&assign.value, cx, depth + 1);
                let callable = values
                    .iter()
                    .any(|value| matches!(value, Value::Function(..) | Value::Lambda(..)));
                if assign.targets.first().is_some_and(Expr::is_subscript_expr) && callable {
                    return Values::One(Value::List(Rc::new(values.to_vec())));
                }
                values
            }
            Stmt::Expr(expr) => match &*expr.value {
                Expr::Call(call) => {
                    let args = self.args(call, cx, depth + 1);
                    let items: Vec<Value<'a>> =
                        args.positional.into_iter().map(Value::item).collect();
                    let names: Vec<Value<'a>> = items
                        .iter()
                        .flat_map(|item| names_of(std::slice::from_ref(item)))
                        .map(Value::Name)
                        .collect();
                    let mut values = Values::from(names);
                    values.extend(Value::list(items));
                    return values;
                }
                _ => Values::new(),
            },
            Stmt::For(inner) => {
                let mut values = Values::new();
                for stmt in &inner.body {
                    let found = self.added(stmt, cx, depth + 1);
                    absorb(&mut values, found);
                }
                return values;
            }
            _ => Values::new(),
        };
        names_of(&values).into_iter().map(Value::Name).collect()
    }

    /// Runs statements.
    pub(crate) fn run(&mut self, body: &'a [Stmt], cx: &Cx<'a>, depth: usize) -> Flow<'a> {
        for stmt in body {
            match self.run_stmt(stmt, cx, depth) {
                Flow::Next => {}
                other => return other,
            }
        }
        Flow::Next
    }

    fn run_stmt(&mut self, stmt: &'a Stmt, cx: &Cx<'a>, depth: usize) -> Flow<'a> {
        if self.stops(depth) {
            return Flow::Lost;
        }
        if !self.allowance.burn(1) {
            return self.out_of_fuel(cx);
        }
        let next = depth + 1;
        match stmt {
            Stmt::Pass(_)
            | Stmt::Import(_)
            | Stmt::ImportFrom(_)
            | Stmt::Global(_)
            | Stmt::Nonlocal(_) => Flow::Next,
            Stmt::FunctionDef(_) | Stmt::ClassDef(_) => Flow::Next,
            Stmt::Break(_) => Flow::Break,
            Stmt::Continue(_) => Flow::Continue,
            Stmt::Return(inner) => match &inner.value {
                Some(value) => {
                    let values = self.eval(value, cx, next);
                    if values.is_empty() {
                        Flow::Lost
                    } else {
                        Flow::Return(values)
                    }
                }
                None => Flow::Return(Values::One(Value::Nothing)),
            },
            Stmt::Assign(assign) => {
                let values = self.eval(&assign.value, cx, next);
                for target in &assign.targets {
                    if !self.assign(target, values.clone(), cx, next) {
                        return Flow::Lost;
                    }
                }
                Flow::Next
            }
            Stmt::AnnAssign(assign) => match &assign.value {
                Some(value) => {
                    let values = self.eval(value, cx, next);
                    if self.assign(&assign.target, values, cx, next) {
                        Flow::Next
                    } else {
                        Flow::Lost
                    }
                }
                None => Flow::Next,
            },
            Stmt::AugAssign(assign) => {
                let left = self.eval(&assign.target, cx, next);
                let right = self.eval(&assign.value, cx, next);
                let values = match (single(&left), single(&right)) {
                    // `list += "text"` adds the items.
                    (Some(Value::List(items)), Some(other)) if !matches!(other, Value::List(_)) => {
                        let mut all = items.to_vec();
                        all.extend(other.rounds().unwrap_or_default());
                        Value::list(all).into_iter().collect()
                    }
                    _ => self.operate(assign.op, &left, &right),
                };
                if values.is_empty() || !self.assign(&assign.target, values, cx, next) {
                    return Flow::Lost;
                }
                Flow::Next
            }
            Stmt::Expr(expr) => self.run_expr(&expr.value, cx, next),
            Stmt::If(branches) => self.run_if(branches, cx, next),
            Stmt::For(inner) => self.run_for(inner, cx, next),
            Stmt::While(inner) => self.run_while(inner, cx, next),
            Stmt::Try(inner) => self.run(&inner.body, cx, next),
            Stmt::With(inner) => self.run(&inner.body, cx, next),
            Stmt::Assert(_) | Stmt::Delete(_) | Stmt::TypeAlias(_) => Flow::Next,
            _ => Flow::Lost,
        }
    }

    fn run_if(
        &mut self,
        branches: &'a ruff_python_ast::StmtIf,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Flow<'a> {
        let test = self.eval(&branches.test, cx, depth);
        match single(&test).and_then(Value::truth) {
            Some(true) => return self.run(&branches.body, cx, depth),
            Some(false) => {}
            None => return Flow::Lost,
        }
        for clause in &branches.elif_else_clauses {
            let holds = match &clause.test {
                Some(test) => {
                    let test = self.eval(test, cx, depth);
                    single(&test).and_then(Value::truth)
                }
                None => Some(true),
            };
            match holds {
                Some(true) => return self.run(&clause.body, cx, depth),
                Some(false) => {}
                None => return Flow::Lost,
            }
        }
        Flow::Next
    }

    fn run_for(
        &mut self,
        stmt: &'a ruff_python_ast::StmtFor,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Flow<'a> {
        let iterated = self.eval(&stmt.iter, cx, depth);
        let Some(rounds) = single(&iterated).and_then(Value::rounds) else {
            return Flow::Lost;
        };
        for round in rounds {
            if !self.allowance.burn(1) {
                return self.out_of_fuel(cx);
            }
            let mut vars = Vars::default();
            bind_pattern(&stmt.target, round.spread(), &mut vars);
            for (name, values) in vars {
                self.set(name, values, cx);
            }
            match self.run(&stmt.body, cx, depth) {
                Flow::Next | Flow::Continue => {}
                Flow::Break => return Flow::Next,
                other => return other,
            }
        }
        self.run(&stmt.orelse, cx, depth)
    }

    fn run_while(
        &mut self,
        stmt: &'a ruff_python_ast::StmtWhile,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Flow<'a> {
        loop {
            let test = self.eval(&stmt.test, cx, depth);
            match single(&test).and_then(Value::truth) {
                Some(true) => {}
                Some(false) => return self.run(&stmt.orelse, cx, depth),
                None => return Flow::Lost,
            }
            if !self.allowance.burn(1) {
                return self.out_of_fuel(cx);
            }
            match self.run(&stmt.body, cx, depth) {
                Flow::Next | Flow::Continue => {}
                Flow::Break => return Flow::Next,
                other => return other,
            }
        }
    }

    /// What a loop that is too long makes is hidden, not unknown.
    fn out_of_fuel(&mut self, cx: &Cx<'a>) -> Flow<'a> {
        if let Some(frame) = &cx.env {
            for values in frame.vars.borrow_mut().all() {
                *values = Values::One(Value::name(HIDDEN));
            }
        }
        Flow::Lost
    }

    /// A method that changes a list in place; any other call leaves the variables as they are.
    fn run_expr(&mut self, expr: &'a Expr, cx: &Cx<'a>, depth: usize) -> Flow<'a> {
        let Expr::Call(call) = expr else {
            return Flow::Next;
        };
        let Expr::Attribute(method) = &*call.func else {
            return Flow::Next;
        };
        let Expr::Name(name) = &*method.value else {
            return Flow::Next;
        };
        let how = method.attr.as_str();
        if !matches!(
            how,
            "append" | "extend" | "insert" | "reverse" | "add" | "update" | "setdefault"
        ) {
            return Flow::Next;
        }
        let before = self.eval(&method.value, cx, depth);
        let args = self.args(call, cx, depth);
        if let Some(Value::List(items)) = single(&before)
            && !self.allowance.take(items.len() * 16)
        {
            return self.out_of_fuel(cx);
        }
        let before = match before {
            Values::One(Value::List(items))
                if matches!(how, "append" | "add") && items.len() < MAX_ITEMS =>
            {
                let item = Value::item(args.at(0).into());
                self.change(name.id.as_str(), items, Value::List, cx, |items| {
                    items.push(item)
                });
                return Flow::Next;
            }
            before => before,
        };
        let after = match single(&before) {
            Some(Value::List(items)) => grown(items, how, &args).and_then(Value::list),
            Some(Value::Bytes(bytes)) => grown_bytes(bytes, how, &args).and_then(Value::bytes),
            Some(Value::Dict(entries)) => {
                grown_dict(entries, how, &args).map(|entries| Value::Dict(Rc::new(entries)))
            }
            _ => None,
        };
        match after {
            Some(after) => {
                self.set(name.id.as_str(), Values::One(after), cx);
                Flow::Next
            }
            None => Flow::Lost,
        }
    }

    /// Sets a variable.
    fn set(&mut self, name: &'a str, values: Values<'a>, cx: &Cx<'a>) {
        let frame = cx.set(name, values);
        self.takes(frame);
    }

    /// Changes a list or a dictionary that a variable stands for. The variable lets go of it before, so that it need
    /// not be copied when nothing else holds it.
    fn change<T: Clone>(
        &mut self,
        name: &'a str,
        mut items: Rc<Vec<T>>,
        whole: fn(Rc<Vec<T>>) -> Value<'a>,
        cx: &Cx<'a>,
        change: impl FnOnce(&mut Vec<T>),
    ) {
        self.set(name, Values::new(), cx);
        change(Rc::make_mut(&mut items));
        self.set(name, Values::One(whole(items)), cx);
    }

    fn assign(&mut self, target: &'a Expr, values: Values<'a>, cx: &Cx<'a>, depth: usize) -> bool {
        match target {
            Expr::Name(name) => {
                self.set(name.id.as_str(), values, cx);
                true
            }
            Expr::Tuple(_) | Expr::List(_) => {
                let mut vars = Vars::default();
                bind_pattern(target, values, &mut vars);
                vars.into_iter()
                    .for_each(|(name, values)| self.set(name, values, cx));
                true
            }
            Expr::Subscript(subscript) => {
                let Expr::Name(name) = &*subscript.value else {
                    return true;
                };
                let before = self.eval(&subscript.value, cx, depth);
                let keys = self.eval(&subscript.slice, cx, depth);
                let size = match single(&before) {
                    Some(Value::List(items)) => items.len(),
                    Some(Value::Dict(items)) => items.len(),
                    _ => 0,
                };
                if !self.allowance.take(size * 32) {
                    return false;
                }
                match (before, single(&keys)) {
                    (Values::One(Value::List(items)), Some(Value::Int(index))) => {
                        let Some(index) = crate::eval::at(items.len(), *index) else {
                            return false;
                        };
                        self.change(name.id.as_str(), items, Value::List, cx, |items| {
                            if let Some(slot) = items.get_mut(index) {
                                *slot = Value::item(values);
                            }
                        });
                        true
                    }
                    (Values::One(Value::Dict(entries)), Some(key)) => {
                        self.change(name.id.as_str(), entries, Value::Dict, cx, |entries| {
                            entries.retain(|(known, _)| !known.same(key));
                            entries.push((key.clone(), Value::item(values)));
                        });
                        true
                    }
                    _ => false,
                }
            }
            _ => true,
        }
    }
}

fn grown<'a>(
    items: &[Value<'a>],
    how: &str,
    args: &crate::value::Args<'a>,
) -> Option<Vec<Value<'a>>> {
    let mut items = items.to_vec();
    match how {
        "append" | "add" => items.push(Value::item(args.at(0).into())),
        "extend" | "update" => items.extend(single(args.at(0))?.rounds()?),
        "insert" => {
            let Some(Value::Int(index)) = single(args.at(0)) else {
                return None;
            };
            let index = usize::try_from(*index).ok()?.min(items.len());
            items.insert(index, Value::item(args.at(1).into()));
        }
        "reverse" => items.reverse(),
        _ => return None,
    }
    Some(items)
}

type Entries<'a> = Vec<(Value<'a>, Value<'a>)>;

fn grown_dict<'a>(
    entries: &[(Value<'a>, Value<'a>)],
    how: &str,
    args: &crate::value::Args<'a>,
) -> Option<Entries<'a>> {
    let mut entries = entries.to_vec();
    match (how, args.at(0)) {
        ("setdefault", [key]) => {
            if !entries.iter().any(|(known, _)| known.same(key)) {
                entries.push((key.clone(), Value::item(args.at(1).into())));
            }
        }
        ("update", [Value::Dict(more)]) => entries.extend(more.iter().cloned()),
        ("update", []) if !args.named.is_empty() => {}
        _ => return None,
    }
    let named = args.named.iter();
    entries.extend(
        named.map(|(name, values)| (Value::Text(Rc::clone(name)), Value::item(values.clone()))),
    );
    Some(entries)
}

fn grown_bytes(bytes: &[u8], how: &str, args: &crate::value::Args<'_>) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    match (how, single(args.at(0))) {
        ("append", Some(Value::Int(byte))) => bytes.push(u8::try_from(*byte).ok()?),
        ("extend", Some(Value::Bytes(more))) => bytes.extend_from_slice(more),
        ("extend", Some(Value::List(items))) => {
            for item in items.iter() {
                let Value::Int(byte) = item else { return None };
                bytes.push(u8::try_from(*byte).ok()?);
            }
        }
        ("reverse", _) => bytes.reverse(),
        _ => return None,
    }
    Some(bytes)
}
