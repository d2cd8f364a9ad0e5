//! Texts of which only a part is known: `/data/….csv`.

use std::rc::Rc;

use ruff_python_ast::{
    Expr, ExprBinOp, ExprCall, ExprFString, InterpolatedStringElement, Operator,
};

use crate::bindings::Binding;
use crate::eval::join_path;
use crate::resolve::text_of;
use crate::value::{Cx, Value, single};
use crate::walk::Walker;

/// What stands for the part of a text that is not known.
pub(crate) const GAP: &str = "…";

/// The deepest expression that is looked at for the parts of a text.
const MAX_DEPTH: usize = 40;

impl<'a> Walker<'a, '_> {
    /// The text of an expression with [`GAP`] for what is not known; nothing when all of it is not.
    pub(crate) fn partial(&mut self, expr: &'a Expr, depth: usize) -> Option<String> {
        let cx = self.cx.clone();
        let values = self.resolver.values(expr, &cx);
        if let Some(text) = text_of(&values) {
            return Some(text.to_string());
        }
        // A list is no text, however many parts of it are added up.
        let is_other = matches!(single(&values), Some(Value::List(_) | Value::Dict(_)));
        if is_other || depth > MAX_DEPTH {
            return None;
        }
        let text = match expr {
            Expr::FString(literal) => self.filled(literal, depth),
            Expr::BinOp(op) => self.operated(op, depth)?,
            Expr::Name(name) => {
                let (_, bound) = self.resolver.bindings.lookup(name.id.as_str(), cx.scope)?;
                let [Binding::Value(value, scope)] = bound.as_slice() else {
                    return None;
                };
                let (value, scope) = (*value, *scope);
                let outer = std::mem::replace(&mut self.cx, Cx { scope, env: cx.env });
                let text = self.partial(value, depth + 1);
                self.cx = outer;
                return text;
            }
            Expr::Call(call) if self.joins_paths(call, &cx) => {
                let mut text = String::new();
                for part in &call.arguments.args {
                    let part = self.partial(part, depth + 1);
                    text = join_path(&text, part.as_deref().unwrap_or(GAP));
                }
                text
            }
            Expr::Call(call) => match &*call.func {
                Expr::Attribute(method) if method.attr.as_str() == "format" => {
                    without_fields(&self.partial(&method.value, depth + 1)?)
                }
                _ => return None,
            },
            _ => return None,
        };
        (text.len() <= crate::value::MAX_TEXT && text.replace(GAP, "").len() > 1).then_some(text)
    }

    fn filled(&mut self, literal: &'a ExprFString, depth: usize) -> String {
        let mut text = String::new();
        for element in literal.value.elements() {
            match element {
                InterpolatedStringElement::Literal(piece) => text.push_str(&piece.value),
                InterpolatedStringElement::Interpolation(hole) => {
                    let part = self.partial(&hole.expression, depth + 1);
                    text.push_str(part.as_deref().unwrap_or(GAP));
                }
            }
        }
        text
    }

    fn operated(&mut self, op: &'a ExprBinOp, depth: usize) -> Option<String> {
        let left = self.partial(&op.left, depth + 1);
        match op.op {
            Operator::Add => {
                let right = self.partial(&op.right, depth + 1);
                if left.is_none() && right.is_none() {
                    return None;
                }
                Some(left.unwrap_or_else(|| GAP.to_owned()) + right.as_deref().unwrap_or(GAP))
            }
            Operator::Mod => Some(left?.replace("%s", GAP).replace("%d", GAP)),
            Operator::Div => {
                let right = self.partial(&op.right, depth + 1)?;
                Some(join_path(left.as_deref().unwrap_or(GAP), &right))
            }
            _ => None,
        }
    }

    fn joins_paths(&mut self, call: &'a ExprCall, cx: &Cx<'a>) -> bool {
        let names = self.resolver.names(&call.func, cx);
        let joins = |name: &Rc<str>| matches!(&**name, "os.path.join" | "pathlib.Path");
        names.iter().any(joins)
    }
}

/// A format text with [`GAP`] for its fields.
fn without_fields(form: &str) -> String {
    let mut text = String::new();
    let mut rest = form;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        text.push_str(GAP);
        rest = after.split_once('}').map_or("", |(_, rest)| rest);
    }
    text + rest
}
