//! What calls give to parameters, and what the texts that they run define: gathered before anything is asked.

use std::rc::Rc;

use ruff_python_ast::{Expr, ExprCall};

use super::{Memo, ROUNDS, Resolver, code_texts, runs_code};
use crate::bindings::{Binding, ScopeId, node};
use crate::value::{Args, Cx, Value};

impl<'a> Resolver<'a> {
    /// Calls bind what they pass, and texts that are run bind what they define; both may show new
    /// calls, so this goes round until nothing is new.
    pub(super) fn settle(&mut self) {
        self.assigned_by_calls();
        for _ in 0..ROUNDS {
            let calls: Vec<_> = self.bindings.calls.clone();
            let (mut given, mut added) = (false, false);
            for (call, scope) in calls {
                if self.settled.contains(&node(call)) {
                    continue;
                }
                let mark = self.mark();
                let (gives, adds) = self.settle_call(call, scope);
                given |= gives;
                added |= adds;
                if !self.tentative_since(&mark) {
                    self.settled.insert(node(call));
                }
            }
            if added {
                self.forget_all();
            } else if given {
                self.forget_tentative();
            } else {
                return;
            }
        }
    }

    fn forget_all(&mut self) {
        self.known.clear();
        self.memo.clear();
        self.steady_names.clear();
        self.steady.clear();
        self.settled.clear();
        self.forget_tentative();
    }

    fn forget_tentative(&mut self) {
        self.known.retain(|_, (_, tentative)| !*tentative);
        self.memo
            .retain(|_, memo| matches!(memo, Memo::Known(_, false)));
        self.steady_names.retain(|_, (_, tentative)| !*tentative);
        self.steady.retain(|_, (_, tentative)| !*tentative);
        self.found.clear();
        self.memory.forget();
    }

    /// Whether a call gives parameters something new, and whether it runs code that binds something new.
    fn settle_call(&mut self, call: &'a ExprCall, scope: ScopeId) -> (bool, bool) {
        let cx = Cx::at(scope);
        let callees = self.eval(&call.func, &cx, 0);
        let plain = matches!(&*call.func, Expr::Name(_));
        let (mut new, mut added) = (false, false);
        for callee in &callees {
            new |= match callee {
                Value::Name(name) if runs_code(name) => {
                    added |= self.read_code(call, &cx, name);
                    false
                }
                Value::Function(..) if plain && callees.len() == 1 => {
                    // Bound by its name already, unless the name is an alias.
                    self.aliased(call, callee, &cx)
                }
                Value::Function(..) | Value::Lambda(..) | Value::Method(_) => {
                    let args = self.args(call, &cx, 0);
                    self.give(callee, &args)
                }
                _ => false,
            };
        }
        (new, added)
    }

    fn aliased(&mut self, call: &'a ExprCall, callee: &Value<'a>, cx: &Cx<'a>) -> bool {
        let (Expr::Name(name), Value::Function(function, ..)) = (&*call.func, callee) else {
            return false;
        };
        if name.id == function.name.id {
            return false;
        }
        let args = self.args(call, cx, 0);
        self.give(callee, &args)
    }

    /// Tells the parameters of a function what a call gives them. Whether that is new.
    pub(crate) fn give(&mut self, callee: &Value<'a>, args: &Args<'a>) -> bool {
        let Some((scope, vars)) = self.parameters(callee, args, 0) else {
            return false;
        };
        let mut new = false;
        for (name, values) in vars {
            new |= self.bindings.give(scope, name, values);
        }
        new
    }

    /// `globals().update(x=v)`, `vars(o).update({"x": v})`: names of the module, or attributes.
    fn updated(&mut self, call: &'a ExprCall, scope: ScopeId) {
        let Expr::Attribute(method) = &*call.func else {
            return;
        };
        let table = match &*method.value {
            Expr::Call(table) => matches!(&*table.func, Expr::Name(name)
                if matches!(name.id.as_str(), "globals" | "vars" | "locals")),
            Expr::Attribute(table) => table.attr.as_str() == "__dict__",
            _ => false,
        };
        if method.attr.as_str() != "update" || !table {
            return;
        }
        let named = call.arguments.keywords.iter();
        let mut pairs: Vec<(&'a str, &'a Expr)> = named
            .filter_map(|keyword| Some((keyword.arg.as_ref()?.as_str(), &keyword.value)))
            .collect();
        if let Some(Expr::Dict(dict)) = call.arguments.args.first() {
            for item in &dict.items {
                if let Some(Expr::StringLiteral(key)) = &item.key
                    && let Some(key) = key.as_single_part_string()
                {
                    pairs.push((&key.value, &item.value));
                }
            }
        }
        for (name, value) in pairs.into_iter().take(32) {
            self.bindings.bind_in(0, name, Binding::Value(value, scope));
            let bound = Binding::Value(value, scope);
            Rc::make_mut(self.bindings.loose.entry(name).or_default()).push(bound);
        }
    }

    /// `setattr(o, "x", v)` and `globals().update(x=v)` bind as assignments do.
    fn assigned_by_calls(&mut self) {
        let calls: Vec<_> = self.bindings.calls.clone();
        for (call, scope) in calls {
            let named = |wanted: &str| matches!(&*call.func, Expr::Name(name) if name.id.as_str() == wanted);
            self.updated(call, scope);
            if named("setattr") {
                let args = &call.arguments.args;
                let (Some(name), Some(value)) = (args.get(1), args.get(2)) else {
                    continue;
                };
                if let Expr::StringLiteral(literal) = name
                    && let Some(single) = literal.as_single_part_string()
                {
                    let bound = Binding::Value(value, scope);
                    let loose = self.bindings.loose.entry(&single.value).or_default();
                    Rc::make_mut(loose).push(bound);
                }
            }
        }
    }

    /// Parses the texts that a call runs. Whether there is something new.
    fn read_code(&mut self, call: &'a ExprCall, cx: &Cx<'a>, name: &str) -> bool {
        let args = self.args(call, cx, 0);
        let texts = code_texts(name, &args);
        let mut new = false;
        for text in texts {
            let Some(body) = self.parse(&text) else {
                continue;
            };
            let known = self.code.entry(node(call)).or_default();
            if !known.iter().any(|known| std::ptr::eq(*known, body)) {
                known.push(body);
            }
            // Code that is run in the namespace around it defines names there.
            new |= self.bindings.add(body, cx.scope);
        }
        new
    }
}
