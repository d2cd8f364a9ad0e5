//! Smells: constants that ask for more than a machine has, loops without an end, patterns that run
//! backwards for ever, and secrets that are written out.

use ruff_python_ast::visitor::{self, Visitor};
use ruff_python_ast::{Expr, ExprBinOp, Operator, Stmt, StmtFunctionDef};

use crate::value::{Value, single};
use crate::walk::Walker;

/// What one allocation may ask for without being a bomb, in bytes or items.
const BOMB: f64 = 8.0 * 1024.0 * 1024.0 * 1024.0;
/// The bits that a power may have without being a bomb.
const POWER_BITS: f64 = 30_000_000.0;

/// Says what an operator makes that is too large; `bomb ...` or nothing.
pub(crate) fn operator<'a>(walker: &mut Walker<'a, '_>, op: &'a ExprBinOp) -> Option<&'static str> {
    if !matches!(op.op, Operator::Mult | Operator::Pow | Operator::LShift) {
        return None;
    }
    let cx = walker.cx.clone();
    let left = walker.resolver.values(&op.left, &cx);
    let right = walker.resolver.values(&op.right, &cx);
    match (op.op, single(&left), single(&right)) {
        (Operator::Mult, Some(value), Some(Value::Int(times)))
        | (Operator::Mult, Some(Value::Int(times)), Some(value)) => {
            let unit = match value {
                Value::Text(text) => text.len(),
                Value::Bytes(bytes) => bytes.len(),
                Value::List(items) => items.len() * 8,
                _ => return None,
            };
            (unit as f64 * *times as f64 > BOMB).then_some("bomb: an allocation of many gigabytes")
        }
        (Operator::Pow, Some(Value::Int(base)), Some(Value::Int(power))) => {
            let bits = (base.unsigned_abs() as f64).log2() * *power as f64;
            (bits > POWER_BITS).then_some("bomb: a power with millions of digits")
        }
        // `9 ** 9 ** 9`: the power itself is too large to be known.
        (Operator::Pow, Some(Value::Int(2..)), None) => {
            let tower = matches!(&*op.right, Expr::BinOp(inner) if inner.op == Operator::Pow
                && inner.left.is_number_literal_expr() && inner.right.is_number_literal_expr());
            tower.then_some("bomb: a power with millions of digits")
        }
        (Operator::LShift, Some(Value::Int(1..)), Some(Value::Int(shift))) => {
            (*shift as f64 > POWER_BITS).then_some("bomb: a power with millions of digits")
        }
        _ => None,
    }
}

/// Calls that allocate what their first argument says.
pub(crate) fn allocation(name: &str, first: &[Value<'_>]) -> Option<&'static str> {
    let allocates = matches!(
        name,
        "builtins.bytearray"
            | "builtins.bytes"
            | "numpy.zeros"
            | "numpy.ones"
            | "numpy.empty"
            | "numpy.full"
            | "numpy.arange"
            | "numpy.random.rand"
            | "os.urandom"
            | "mmap.mmap"
    );
    if let ("math.factorial", Some(Value::Int(count))) = (name, single(first)) {
        return (*count as f64 > POWER_BITS / 8.0)
            .then_some("bomb: a power with millions of digits");
    }
    if !allocates {
        return None;
    }
    let count = match single(first)? {
        Value::Int(count) => *count as f64,
        Value::List(items) => items.iter().try_fold(1.0, |product, item| match item {
            Value::Int(count) => Some(product * *count as f64),
            _ => None,
        })?,
        _ => return None,
    };
    (count > BOMB).then_some("bomb: an allocation of many gigabytes")
}

/// A loop that nothing inside it ends.
pub(crate) fn endless(stmt: &Stmt) -> bool {
    let Stmt::While(inner) = stmt else {
        return false;
    };
    if crate::bindings::constant_truth(&inner.test) != Some(true) {
        return false;
    }
    struct Ends(bool);
    impl<'a> Visitor<'a> for Ends {
        fn visit_stmt(&mut self, stmt: &'a Stmt) {
            match stmt {
                Stmt::Break(_) | Stmt::Return(_) | Stmt::Raise(_) => self.0 = true,
                Stmt::FunctionDef(_) | Stmt::ClassDef(_) => {}
                stmt => visitor::walk_stmt(self, stmt),
            }
        }
        fn visit_expr(&mut self, expr: &'a Expr) {
            if matches!(expr, Expr::Yield(_) | Expr::YieldFrom(_) | Expr::Await(_)) {
                self.0 = true;
            } else {
                visitor::walk_expr(self, expr);
            }
        }
    }
    let mut ends = Ends(false);
    ends.visit_body(&inner.body);
    !ends.0
}

/// Whether this many items are more than any machine holds.
pub(crate) fn too_many(count: i64) -> bool {
    count as f64 * 8.0 > BOMB
}

/// Whether an endless loop never waits either: for a child, a clock, a queue, a line or a peer.
pub(crate) fn relentless(stmt: &Stmt) -> bool {
    const WAITS: &[&str] = &[
        "wait",
        "waitpid",
        "join",
        "sleep",
        "communicate",
        "run",
        "call",
        "check_call",
        "check_output",
        "accept",
        "recv",
        "recvfrom",
        "get",
        "input",
        "read",
        "readline",
        "select",
        "poll",
        "acquire",
        "result",
        "urlopen",
        "next",
        "exit",
        "_exit",
    ];
    struct Waits(bool);
    impl<'a> Visitor<'a> for Waits {
        fn visit_expr(&mut self, expr: &'a Expr) {
            if let Expr::Call(call) = expr {
                let name = match &*call.func {
                    Expr::Name(name) => name.id.as_str(),
                    Expr::Attribute(attribute) => attribute.attr.as_str(),
                    _ => "",
                };
                self.0 |= WAITS.contains(&name);
            }
            visitor::walk_expr(self, expr);
        }
    }
    let mut waits = Waits(false);
    if let Stmt::While(inner) = stmt {
        waits.visit_body(&inner.body);
    }
    !waits.0
}

/// A function that calls itself whatever happens: no condition stands before the call.
pub(crate) fn recurses(function: &StmtFunctionDef) -> bool {
    for stmt in &function.body {
        let value = match stmt {
            Stmt::Expr(expr) => &*expr.value,
            Stmt::Assign(assign) => &*assign.value,
            Stmt::Return(inner) => match &inner.value {
                Some(value) => value,
                None => return false,
            },
            Stmt::Pass(_) | Stmt::Global(_) | Stmt::Import(_) | Stmt::AugAssign(_) => continue,
            _ => return false,
        };
        if let Expr::Call(call) = value
            && let Expr::Name(name) = &*call.func
            && name.id == function.name.id
        {
            return true;
        }
        if stmt.is_return_stmt() {
            return false;
        }
    }
    false
}

/// A pattern with a repetition inside a repetition, such as `(a+)+`.
pub(crate) fn backtracks(pattern: &str) -> bool {
    let mut open: Vec<bool> = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '(' => open.push(false),
            '*' | '+' => {
                if let Some(inside) = open.last_mut() {
                    *inside = true;
                }
            }
            ')' => {
                let repeats = open.pop().unwrap_or(false);
                if repeats && matches!(chars.peek(), Some('*' | '+' | '{')) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

/// Whether a variable of this name with this text holds a secret.
pub(crate) fn secret(name: &str, text: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let named = [
        "password",
        "passwd",
        "secret",
        "api_key",
        "apikey",
        "access_key",
        "auth_token",
        "private_key",
    ]
    .iter()
    .any(|word| name.contains(word));
    let known = ["AKIA", "ghp_", "sk-", "xoxb-", "-----BEGIN "]
        .iter()
        .any(|start| text.starts_with(start))
        && text.len() >= 16;
    let plain = text.contains([' ', '<', '{']) && !text.starts_with("-----BEGIN ");
    known || named && text.len() >= 6 && !plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_backtrack() {
        for pattern in ["(a+)+$", "(x*)*", "((ab)+){2}c"] {
            assert!(backtracks(pattern), "{pattern}");
        }
        for pattern in ["a+b*", r"\(a+\)+", "(ab)+", "[a-z]+@(b)+"] {
            assert!(!backtracks(pattern), "{pattern}");
        }
    }

    #[test]
    fn secrets_are_told_by_name_or_form() {
        assert!(secret("db_password", "hunter22") && secret("x", "AKIAIOSFODNN7EXAMPLE"));
        assert!(
            !secret("password", "")
                && !secret("prompt", "hunter22")
                && !secret("password", "enter your password")
        );
    }
}
