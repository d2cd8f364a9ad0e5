//! What goes into a value.

use ruff_python_ast::Expr;

/// The parts of a value that may carry something along.
pub(crate) fn parts(value: &Expr) -> Vec<&Expr> {
    match value {
        Expr::Dict(dict) => dict.items.iter().map(|item| &item.value).collect(),
        Expr::List(list) => list.elts.iter().collect(),
        Expr::Tuple(tuple) => tuple.elts.iter().collect(),
        Expr::BinOp(op) => vec![&op.left, &op.right],
        Expr::Call(call) => {
            let mut parts: Vec<&Expr> = call.arguments.args.iter().collect();
            parts.extend(call.arguments.keywords.iter().map(|keyword| &keyword.value));
            if let Expr::Attribute(method) = &*call.func {
                parts.push(&method.value);
            }
            parts
        }
        Expr::Attribute(attribute) => vec![&attribute.value],
        Expr::Subscript(subscript) => vec![&subscript.value],
        Expr::FString(literal) => literal
            .value
            .elements()
            .filter_map(|element| Some(&*element.as_interpolation()?.expression))
            .collect(),
        Expr::ListComp(comprehension) => vec![&comprehension.elt],
        Expr::Generator(comprehension) => vec![&comprehension.elt],
        Expr::Starred(starred) => vec![&starred.value],
        Expr::Await(inner) => vec![&inner.value],
        _ => Vec::new(),
    }
}
