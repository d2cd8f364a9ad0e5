//! Expressions: operators, displays, f-strings, subscripts and comprehensions.

use std::rc::Rc;

use ruff_python_ast::{
    CmpOp, Comprehension, ConversionFlag, Expr, ExprBinOp, ExprSubscript,
    InterpolatedStringElement, Number, Operator, UnaryOp,
};

use crate::names::join;
use crate::resolve::{HIDDEN, Resolver, names_of};
use crate::value::{Cx, MAX_ITEMS, MAX_TEXT, MAX_VALUES, Value, Values, absorb, merge, single};
use crate::vars::Vars;

impl<'a> Resolver<'a> {
    /// The value of an expression that is not remembered.
    pub(crate) fn eval_new(&mut self, expr: &'a Expr, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        let next = depth + 1;
        match expr {
            Expr::StringLiteral(literal) => self.literal(literal.value.to_str()),
            Expr::BytesLiteral(literal) => {
                let bytes: Vec<u8> = literal.value.bytes().collect();
                Value::bytes(bytes).into_iter().collect()
            }
            Expr::NumberLiteral(number) => number_value(&number.value),
            Expr::BooleanLiteral(literal) => Values::One(Value::Int(i64::from(literal.value))),
            Expr::NoneLiteral(_) => Values::One(Value::Nothing),
            Expr::Name(name) => self.name(name, cx, next),
            Expr::Attribute(attribute) => {
                let mut values = Values::new();
                let bases = self.eval(&attribute.value, cx, next);
                for base in &bases {
                    let found = self.attribute(base, attribute.attr.as_str(), cx, next);
                    absorb(&mut values, found);
                }
                if bases.is_empty() {
                    values = self.loose(attribute.attr.as_str(), cx, next);
                }
                values
            }
            Expr::Call(call) => self.call(call, cx, next),
            Expr::Subscript(subscript) => self.subscript(subscript, cx, next),
            Expr::BinOp(op) => self.binary(op, cx, next),
            Expr::UnaryOp(op) => {
                let values = self.eval(&op.operand, cx, next);
                values
                    .iter()
                    .filter_map(|value| unary(op.op, value))
                    .collect()
            }
            Expr::BoolOp(op) => self.alternatives(op.values.iter(), cx, next),
            Expr::Compare(compare) => match (&*compare.ops, &*compare.comparators) {
                ([op], [right]) => {
                    let left = self.eval(&compare.left, cx, next);
                    let right = self.eval(right, cx, next);
                    compared(*op, &left, &right).into_iter().collect()
                }
                _ => Values::new(),
            },
            Expr::If(branches) => self.conditional(branches, cx, next),
            Expr::FString(literal) => self.fstring(literal, cx, next),
            Expr::Named(named) => self.eval(&named.value, cx, next),
            Expr::Await(inner) => self.eval(&inner.value, cx, next),
            Expr::Starred(starred) => self.eval(&starred.value, cx, next),
            Expr::List(list) => self.display(&list.elts, cx, next),
            Expr::Tuple(tuple) => self.display(&tuple.elts, cx, next),
            Expr::Set(set) => self.display(&set.elts, cx, next),
            Expr::Dict(dict) => self.dictionary(dict, cx, next),
            Expr::Lambda(lambda) => match self.bindings.scope_of(lambda) {
                Some(scope) => {
                    self.takes(cx.outermost());
                    Values::One(Value::Lambda(lambda, scope, cx.env.clone()))
                }
                None => Values::new(),
            },
            Expr::ListComp(comp) => self.comprehension(&comp.elt, None, &comp.generators, cx, next),
            Expr::SetComp(comp) => self.comprehension(&comp.elt, None, &comp.generators, cx, next),
            Expr::Generator(comp) => {
                self.comprehension(&comp.elt, None, &comp.generators, cx, next)
            }
            Expr::DictComp(comp) => match &comp.key {
                Some(key) => self.comprehension(key, Some(&comp.value), &comp.generators, cx, next),
                None => Values::new(),
            },
            _ => Values::new(),
        }
    }

    fn literal(&mut self, text: &str) -> Values<'a> {
        Value::text(text).into_iter().collect()
    }

    fn alternatives(
        &mut self,
        exprs: impl Iterator<Item = &'a Expr>,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        let mut values = Values::new();
        for expr in exprs.take(MAX_VALUES) {
            let found = self.eval(expr, cx, depth);
            absorb(&mut values, found);
        }
        values
    }

    fn conditional(
        &mut self,
        branches: &'a ruff_python_ast::ExprIf,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        let test = self.eval(&branches.test, cx, depth);
        match single(&test).and_then(Value::truth) {
            Some(true) => self.eval(&branches.body, cx, depth),
            Some(false) => self.eval(&branches.orelse, cx, depth),
            None => self.alternatives([&*branches.body, &*branches.orelse].into_iter(), cx, depth),
        }
    }

    fn display(&mut self, elements: &'a [Expr], cx: &Cx<'a>, depth: usize) -> Values<'a> {
        if elements.len() > MAX_ITEMS {
            return Values::new();
        }
        let mut items = Vec::with_capacity(elements.len());
        for element in elements {
            let values = self.eval(element, cx, depth);
            match (element, single(&values)) {
                (Expr::Starred(_), Some(Value::List(inner))) => items.extend(inner.iter().cloned()),
                _ => items.push(Value::item(values)),
            }
        }
        Value::list(items).into_iter().collect()
    }

    fn dictionary(
        &mut self,
        dict: &'a ruff_python_ast::ExprDict,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        let mut entries = Vec::new();
        for item in dict.items.iter().take(MAX_ITEMS) {
            let value = self.eval(&item.value, cx, depth);
            match &item.key {
                Some(key) => {
                    let key = self.eval(key, cx, depth);
                    entries.push((Value::item(key), Value::item(value)));
                }
                None => {
                    if let Some(Value::Dict(inner)) = single(&value) {
                        entries.extend(inner.iter().cloned());
                    }
                }
            }
        }
        Values::One(Value::Dict(Rc::new(entries)))
    }

    fn fstring(
        &mut self,
        literal: &'a ruff_python_ast::ExprFString,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        // One text for every way its holes may be filled, while those are few.
        let mut texts = vec![String::new()];
        let mut names = Values::new();
        for part in &literal.value {
            match part {
                ruff_python_ast::FStringPart::Literal(piece) => append(&mut texts, &piece.value),
                ruff_python_ast::FStringPart::FString(fstring) => {
                    for element in &fstring.elements {
                        match element {
                            InterpolatedStringElement::Literal(piece) => {
                                append(&mut texts, &piece.value)
                            }
                            InterpolatedStringElement::Interpolation(hole) => {
                                let mut values = self.eval(&hole.expression, cx, depth);
                                if let Some(object @ Value::Instance(..)) = single(&values) {
                                    let object = object.clone();
                                    values = self.shown_object(&object, depth);
                                }
                                merge(&mut names, names_of(&values).into_iter().map(Value::Name));
                                let plain = hole.conversion != ConversionFlag::Repr;
                                let shown = hole_texts(&values, hole.format_spec.as_deref());
                                texts = if plain {
                                    filled(texts, &shown)
                                } else {
                                    Vec::new()
                                };
                            }
                        }
                    }
                }
            }
            if texts.iter().any(|text| text.len() > MAX_TEXT) {
                return Values::One(Value::name(HIDDEN));
            }
        }
        if !texts.is_empty() && self.allowance.take(texts.iter().map(String::len).sum()) {
            return texts.into_iter().filter_map(Value::text).collect();
        }
        names
    }

    fn shown_object(&mut self, object: &Value<'a>, depth: usize) -> Values<'a> {
        let given = crate::value::Args::of(vec![Value::text("").into_iter().collect()]);
        let mut values = self.special(object, "__format__", &given, depth);
        if values.is_empty() {
            values = self.special(object, "__str__", &given, depth);
        }
        values
    }

    fn binary(&mut self, op: &'a ExprBinOp, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        // A long chain of operators leans to the left; its links are worked out from the bottom, so
        // that the depth of the chain is not the depth of the stack.
        let mut chain = vec![op];
        let mut left = &*op.left;
        while let Expr::BinOp(link) = left {
            chain.push(link);
            left = &link.left;
        }
        let mut values = self.eval(left, cx, depth);
        for link in chain.into_iter().rev() {
            let right = self.eval(&link.right, cx, depth);
            values = self.operate(link.op, &values, &right);
        }
        values
    }

    /// An operator on every pair of values; names on either side stay, so that what is done with a
    /// file's text is still known to come from the file.
    pub(crate) fn operate(
        &mut self,
        op: Operator,
        left: &[Value<'a>],
        right: &[Value<'a>],
    ) -> Values<'a> {
        let mut values = Values::new();
        for a in left {
            if let Value::Name(name) = a
                && (op != Operator::Div || name.starts_with("pathlib."))
            {
                merge(&mut values, [a.clone()]);
            }
            if matches!(a, Value::Instance(..)) {
                let name = match op {
                    Operator::Add => "__add__",
                    Operator::Div => "__truediv__",
                    Operator::Mod => "__mod__",
                    Operator::BitOr => "__or__",
                    Operator::RShift => "__rshift__",
                    _ => "__mul__",
                };
                let given = crate::value::Args::of(vec![right.into()]);
                absorb(&mut values, self.special(a, name, &given, 0));
            }
            for b in right {
                if values.len() >= MAX_VALUES {
                    return values;
                }
                let size = size_of(a).saturating_add(size_of(b));
                if size > 64 && !self.allowance.take(size) {
                    return Values::One(Value::name(HIDDEN));
                }
                let longest = match (op, a, b) {
                    (Operator::Add, Value::Text(_) | Value::Bytes(_), _) => size,
                    (Operator::Mult, Value::Text(_) | Value::Bytes(_), Value::Int(times)) => {
                        size_of(a).saturating_mul(usize::try_from(*times).unwrap_or(0))
                    }
                    _ => 0,
                };
                if longest > MAX_TEXT {
                    merge(&mut values, [Value::name(HIDDEN)]);
                } else {
                    merge(&mut values, operated(op, a, b));
                }
            }
        }
        if op != Operator::Div {
            merge(&mut values, names_of(right).into_iter().map(Value::Name));
        }
        values
    }

    fn subscript(&mut self, subscript: &'a ExprSubscript, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        let bases = self.eval(&subscript.value, cx, depth);
        let mut values = Values::new();
        if let Expr::Slice(slice) = &*subscript.slice {
            let bounds = [&slice.lower, &slice.upper, &slice.step].map(|bound| {
                bound
                    .as_deref()
                    .map(|bound| match single(&self.eval(bound, cx, depth)) {
                        Some(Value::Int(int)) => Ok(*int),
                        _ => Err(()),
                    })
            });
            for base in &bases {
                merge(&mut values, sliced(base, &bounds));
            }
            return values;
        }
        let keys = self.eval(&subscript.slice, cx, depth);
        for base in &bases {
            let found = self.item(base, &keys, cx, depth);
            absorb(&mut values, found);
        }
        values
    }

    /// `sys.modules["os"]`, `vars(os)["system"]`, `globals()["f"]`, `[os.system][0]`, `"abc"[1]`.
    pub(crate) fn item(
        &mut self,
        base: &Value<'a>,
        keys: &[Value<'a>],
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        match base {
            Value::Name(name) => {
                let texts: Vec<_> = keys.iter().filter_map(Value::as_text).collect();
                if texts.is_empty() {
                    return join(name, "[]").map(Value::Name).into_iter().collect();
                }
                let mut values = Values::new();
                for text in texts {
                    let found = self.named_item(name, &text, cx, depth);
                    absorb(&mut values, found);
                }
                values
            }
            Value::List(items) => match single(keys) {
                Some(Value::Int(index)) => at(items.len(), *index)
                    .and_then(|index| items.get(index))
                    .map(Value::spread)
                    .unwrap_or_default(),
                // An index that is not known may be any.
                _ => items
                    .iter()
                    .take(MAX_VALUES)
                    .flat_map(Value::spread)
                    .collect(),
            },
            Value::Dict(entries) => {
                let mut values = Values::new();
                for (key, value) in entries.iter() {
                    let fits = keys.is_empty() || keys.iter().any(|wanted| wanted.same(key));
                    if fits {
                        if !keys.is_empty() {
                            values = Values::new();
                        }
                        absorb(&mut values, value.spread());
                    }
                }
                values
            }
            Value::Text(text) => match single(keys) {
                Some(Value::Int(index)) => {
                    let found = if text.is_ascii() {
                        at(text.len(), *index)
                            .and_then(|index| text.get(index..=index).map(str::to_owned))
                    } else {
                        let count = text.chars().count();
                        at(count, *index)
                            .and_then(|index| text.chars().nth(index))
                            .map(String::from)
                    };
                    found.and_then(Value::text).into_iter().collect()
                }
                _ => Values::new(),
            },
            Value::Bytes(bytes) => match single(keys) {
                Some(Value::Int(index)) => at(bytes.len(), *index)
                    .and_then(|index| bytes.get(index))
                    .map(|byte| Value::Int(i64::from(*byte)))
                    .into_iter()
                    .collect(),
                _ => Values::new(),
            },
            Value::Instance(..) => self.special(
                base,
                "__getitem__",
                &crate::value::Args::of(vec![keys.into()]),
                depth,
            ),
            _ => Values::new(),
        }
    }

    fn named_item(&mut self, base: &str, text: &str, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        match base {
            "os.environ" if matches!(text, "HOME" | "USERPROFILE") => Value::text("~")
                .into_iter()
                .chain(Some(Value::name("os.environ[]")))
                .collect(),
            "sys.modules" => Values::One(Value::name(crate::names::canonical(text))),
            "builtins.globals()" | "builtins.locals()" | "builtins.vars()" => {
                self.by_text(text, cx, depth)
            }
            "builtins" => crate::names::member("builtins", text)
                .map(Value::Name)
                .into_iter()
                .collect(),
            base => {
                let found = match base.strip_suffix(".__dict__") {
                    Some(object) => crate::names::member(object, text),
                    None => join(base, "[]"),
                };
                found.map(Value::Name).into_iter().collect()
            }
        }
    }

    fn comprehension(
        &mut self,
        element: &'a Expr,
        value: Option<&'a Expr>,
        generators: &'a [Comprehension],
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        let mut items = Vec::new();
        let whole = self.generate(element, value, generators, cx, depth, &mut items);
        if !whole {
            // Not every round is known: what one round gives without its variables known is.
            let one = self.eval(element, cx, depth);
            let other = value.map(|value| self.eval(value, cx, depth));
            let names = names_of(&one)
                .into_iter()
                .chain(other.iter().flat_map(|values| names_of(values)));
            let mut known: Values<'a> = names.map(Value::Name).collect();
            for generator in generators.iter().take(2) {
                let iterated = self.eval(&generator.iter, cx, depth);
                merge(
                    &mut known,
                    names_of(&iterated)
                        .iter()
                        .filter_map(|name| join(name, "[]"))
                        .map(Value::Name),
                );
            }
            if one
                .iter()
                .any(|value| matches!(value, Value::Name(_) | Value::Function(..)))
            {
                items = vec![Value::item(one)];
                merge(&mut known, Value::list(items));
            }
            return known;
        }
        if value.is_some() {
            let entries = items.into_iter().filter_map(|item| match item {
                Value::List(pair) => Some((pair.first()?.clone(), pair.get(1)?.clone())),
                _ => None,
            });
            return Values::One(Value::Dict(Rc::new(entries.collect())));
        }
        Value::list(items).into_iter().collect()
    }

    /// Runs the rounds of a comprehension; whether all of them are known.
    fn generate(
        &mut self,
        element: &'a Expr,
        value: Option<&'a Expr>,
        generators: &'a [Comprehension],
        cx: &Cx<'a>,
        depth: usize,
        items: &mut Vec<Value<'a>>,
    ) -> bool {
        let Some((generator, inner)) = generators.split_first() else {
            let one = Value::item(self.eval(element, cx, depth));
            items.push(match value {
                Some(value) => {
                    let value = Value::item(self.eval(value, cx, depth));
                    Value::List(Rc::new(vec![one, value]))
                }
                None => one,
            });
            return items.len() < MAX_ITEMS;
        };
        let iterated = self.eval(&generator.iter, cx, depth);
        let Some(rounds) = single(&iterated).and_then(Value::rounds) else {
            return false;
        };
        for round in rounds {
            if !self.allowance.burn(1) {
                items.push(Value::name(HIDDEN));
                return true;
            }
            let mut vars = Vars::default();
            bind_pattern(&generator.target, round.spread(), &mut vars);
            let at = cx.with(cx.scope, vars, self.frame());
            let kept = generator.ifs.iter().all(|test| {
                let test = self.eval(test, &at, depth);
                single(&test).and_then(Value::truth).unwrap_or(true)
            });
            if kept && !self.generate(element, value, inner, &at, depth, items) {
                return false;
            }
        }
        true
    }
}

/// Binds the names of a target to the values of one round.
pub(crate) fn bind_pattern<'a>(target: &'a Expr, values: Values<'a>, vars: &mut Vars<'a>) {
    match target {
        Expr::Name(name) => {
            vars.insert(name.id.as_str(), values);
        }
        Expr::Tuple(tuple) => bind_patterns(&tuple.elts, &values, vars),
        Expr::List(list) => bind_patterns(&list.elts, &values, vars),
        _ => {}
    }
}

fn bind_patterns<'a>(targets: &'a [Expr], values: &[Value<'a>], vars: &mut Vars<'a>) {
    for (index, target) in targets.iter().enumerate() {
        bind_pattern(target, crate::resolve::part_of(values, index), vars);
    }
}

impl<'a> Value<'a> {
    /// What a loop over it goes through, when that is known.
    pub(crate) fn rounds(&self) -> Option<Vec<Value<'a>>> {
        match self {
            Self::List(items) => Some(items.to_vec()),
            Self::Text(text) => Some(
                text.chars()
                    .filter_map(|c| Value::text(c.to_string()))
                    .collect(),
            ),
            Self::Bytes(bytes) => Some(
                bytes
                    .iter()
                    .map(|&byte| Value::Int(i64::from(byte)))
                    .collect(),
            ),
            Self::Dict(entries) => Some(entries.iter().map(|(key, _)| key.clone()).collect()),
            _ => None,
        }
    }
}

fn number_value<'a>(number: &Number) -> Values<'a> {
    let Number::Int(int) = number else {
        return Values::new();
    };
    match int.as_i64() {
        Some(int) => Values::One(Value::Int(int)),
        None => written(&int.to_string())
            .map(|bytes| Value::Big(bytes.into()))
            .into_iter()
            .collect(),
    }
}

/// The bytes of an integer that is written out, the highest first.
fn written(text: &str) -> Option<Vec<u8>> {
    let text = text.replace('_', "").to_ascii_lowercase();
    match text.get(..2) {
        Some("0x") => big(text.get(2..)?, 16),
        Some("0o") => big(text.get(2..)?, 8),
        Some("0b") => big(text.get(2..)?, 2),
        _ => big(&text, 10),
    }
}

/// The bytes of an integer by its digits, the highest first.
pub(crate) fn big(digits: &str, radix: u32) -> Option<Vec<u8>> {
    // The cost grows with the square of the length.
    if digits.len() > 8_000 {
        return None;
    }
    let mut bytes: Vec<u8> = Vec::new();
    for digit in digits.chars() {
        let mut carry = digit.to_digit(radix)?;
        for byte in bytes.iter_mut() {
            let value = u32::from(*byte) * radix + carry;
            *byte = value.to_le_bytes()[0];
            carry = value >> 8;
        }
        if carry > 0 {
            bytes.push(carry.to_le_bytes()[0]);
        }
    }
    bytes.reverse();
    Some(bytes)
}

fn unary<'a>(op: UnaryOp, value: &Value<'a>) -> Option<Value<'a>> {
    match (op, value) {
        (UnaryOp::USub, Value::Int(int)) => int.checked_neg().map(Value::Int),
        (UnaryOp::UAdd, Value::Int(int)) => Some(Value::Int(*int)),
        (UnaryOp::Invert, Value::Int(int)) => Some(Value::Int(!int)),
        (UnaryOp::Not, value) => value.truth().map(|truth| Value::Int(i64::from(!truth))),
        _ => None,
    }
}

fn compared<'a>(op: CmpOp, left: &[Value<'a>], right: &[Value<'a>]) -> Option<Value<'a>> {
    let (left, right) = (single(left)?, single(right)?);
    if !left.concrete() || !right.concrete() {
        return None;
    }
    let order = match (left, right) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => None,
    };
    let truth = match op {
        CmpOp::Eq | CmpOp::Is => left.same(right),
        CmpOp::NotEq | CmpOp::IsNot => !left.same(right),
        CmpOp::Lt => order?.is_lt(),
        CmpOp::LtE => order?.is_le(),
        CmpOp::Gt => order?.is_gt(),
        CmpOp::GtE => order?.is_ge(),
        CmpOp::In | CmpOp::NotIn => {
            let inside = match (left, right) {
                (Value::Text(a), Value::Text(b)) => b.contains(&**a),
                (value, Value::List(items)) => items.iter().any(|item| item.same(value)),
                (value, Value::Dict(items)) => items.iter().any(|(key, _)| key.same(value)),
                _ => return None,
            };
            inside == (op == CmpOp::In)
        }
    };
    Some(Value::Int(i64::from(truth)))
}

fn size_of(value: &Value<'_>) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(items) => items.len(),
        _ => 0,
    }
}

/// One operator on two known values.
pub(crate) fn operated<'a>(op: Operator, left: &Value<'a>, right: &Value<'a>) -> Option<Value<'a>> {
    match (op, left, right) {
        (Operator::Add, Value::Text(a), Value::Text(b)) => Value::text([&**a, &**b].concat()),
        (Operator::Add, Value::Bytes(a), Value::Bytes(b)) => Value::bytes([&**a, &**b].concat()),
        (Operator::Add, Value::List(a), Value::List(b)) => {
            Value::list(a.iter().chain(b.iter()).cloned().collect())
        }
        // `Path("a") / "b"`; on plain strings Python raises, so no other meaning is lost.
        (Operator::Div, Value::Text(a), Value::Text(b)) => Value::text(join_path(a, b)),
        (Operator::Mult, value, Value::Int(times)) | (Operator::Mult, Value::Int(times), value)
            if !matches!(value, Value::Int(_)) =>
        {
            repeated(value, usize::try_from(*times).unwrap_or(0))
        }
        (Operator::Mod, Value::Text(form), value) => percent(form, value).and_then(Value::text),
        (Operator::BitOr, Value::Dict(a), Value::Dict(b)) => Some(Value::Dict(Rc::new(
            a.iter().chain(b.iter()).cloned().collect(),
        ))),
        (op, Value::Int(a), Value::Int(b)) => calculated(op, *a, *b).map(Value::Int),
        _ => None,
    }
}

fn repeated<'a>(value: &Value<'a>, times: usize) -> Option<Value<'a>> {
    let fits = size_of(value).checked_mul(times)? <= MAX_TEXT;
    match value {
        Value::Text(text) if fits => Value::text(text.repeat(times)),
        Value::Bytes(bytes) if fits => Value::bytes(bytes.repeat(times)),
        Value::List(items) if items.len().checked_mul(times)? <= MAX_ITEMS => {
            let all = std::iter::repeat_n(items.iter(), times).flatten();
            Value::list(all.cloned().collect())
        }
        _ => None,
    }
}

fn calculated(op: Operator, a: i64, b: i64) -> Option<i64> {
    match op {
        Operator::Add => a.checked_add(b),
        Operator::Sub => a.checked_sub(b),
        Operator::Mult => a.checked_mul(b),
        Operator::Mod if b > 0 => Some(a.rem_euclid(b)),
        Operator::FloorDiv if b > 0 => Some(a.div_euclid(b)),
        Operator::BitXor => Some(a ^ b),
        Operator::BitAnd => Some(a & b),
        Operator::BitOr => Some(a | b),
        Operator::LShift => {
            let shift = u32::try_from(b).ok().filter(|&shift| shift < 62)?;
            a.checked_mul(1_i64.checked_shl(shift)?)
        }
        Operator::RShift => Some(a >> u32::try_from(b).ok()?.min(63)),
        Operator::Pow => a.checked_pow(u32::try_from(b).ok()?),
        _ => None,
    }
}

/// `"%s/%s" % (a, b)`, with plain fields only.
fn percent(form: &str, value: &Value<'_>) -> Option<String> {
    let values: Vec<&Value<'_>> = match value {
        Value::List(items) => items.iter().collect(),
        one => vec![one],
    };
    let mut values = values.into_iter();
    let mut text = String::new();
    let mut rest = form.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut next = rest.next()?;
        let mut named = None;
        if next == '(' {
            let name: String = rest.by_ref().take_while(|&c| c != ')').collect();
            let Value::Dict(entries) = value else {
                return None;
            };
            let mut entries = entries.iter();
            named = entries.find(|(key, _)| key.as_text().is_some_and(|key| *key == *name));
            next = rest.next()?;
        }
        let mut values = named
            .map(|(_, value)| value)
            .into_iter()
            .chain(values.by_ref());
        match next {
            '%' => text.push('%'),
            's' | 'd' | 'i' => text.push_str(&shown(values.next()?)?),
            'c' => match values.next()? {
                Value::Int(code) => text.push(char::from_u32(u32::try_from(*code).ok()?)?),
                other => text.push_str(&shown(other)?),
            },
            'x' => match values.next()? {
                Value::Int(int) => text.push_str(&format!("{int:x}")),
                _ => return None,
            },
            _ => return None,
        }
        if text.len() > MAX_TEXT {
            return None;
        }
    }
    Some(text)
}

/// What `str` makes of a value.
pub(crate) fn shown(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.to_string()),
        Value::Int(int) => Some(int.to_string()),
        Value::Nothing => Some("None".to_owned()),
        _ => None,
    }
}

fn append(texts: &mut [String], piece: &str) {
    texts.iter_mut().for_each(|text| text.push_str(piece));
}

/// Every text with every filling; nothing when those are too many.
fn filled(mut texts: Vec<String>, fillings: &[String]) -> Vec<String> {
    // In place: a text with many holes would be copied for each.
    if let [only] = fillings {
        append(&mut texts, only);
        return texts;
    }
    if texts.len() * fillings.len() > MAX_VALUES {
        return Vec::new();
    }
    let each = texts.iter().flat_map(|text| {
        fillings
            .iter()
            .map(move |filling| [text.as_str(), filling].concat())
    });
    each.collect()
}

/// What stands in a hole: one value of any kind, or one of several texts. Several numbers are those of
/// a loop, which says less than that a number stands there.
fn hole_texts(
    values: &[Value<'_>],
    spec: Option<&ruff_python_ast::InterpolatedStringFormatSpec>,
) -> Vec<String> {
    let spec = match spec.map(|spec| spec.elements.iter().collect::<Vec<_>>()) {
        None => String::new(),
        Some(elements) => match elements.as_slice() {
            [] => String::new(),
            [InterpolatedStringElement::Literal(piece)] => piece.value.to_string(),
            _ => return Vec::new(),
        },
    };
    let named = |value: &&Value<'_>| matches!(value, Value::Name(_));
    let known: Vec<_> = values.iter().filter(|value| !named(value)).collect();
    let texts = known.iter().all(|value| matches!(value, Value::Text(_)));
    if known.len() > 1 && !texts {
        return Vec::new();
    }
    let shown = known.iter().map(|value| formatted(value, &spec));
    shown.collect::<Option<_>>().unwrap_or_default()
}

/// What `format` makes of a value with the plainest of specifications.
pub(crate) fn formatted(value: &Value<'_>, spec: &str) -> Option<String> {
    match (value, spec) {
        (value, "" | "s" | "d") => shown(value),
        (Value::Int(code), "c") => char::from_u32(u32::try_from(*code).ok()?).map(String::from),
        (Value::Int(int), "x") => Some(format!("{int:x}")),
        (Value::Int(int), "02x") => Some(format!("{int:02x}")),
        _ => None,
    }
}

/// A path and what is below it.
pub(crate) fn join_path(base: &str, rest: &str) -> String {
    if rest.starts_with('/') || base.is_empty() {
        return rest.to_owned();
    }
    format!("{}/{rest}", base.trim_end_matches('/'))
}

/// The place of an index that may count from the end.
pub(crate) fn at(len: usize, index: i64) -> Option<usize> {
    match usize::try_from(index) {
        Ok(index) => (index < len).then_some(index),
        Err(_) => len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
    }
}

type Bound = Option<Result<i64, ()>>;

fn sliced<'a>(base: &Value<'a>, bounds: &[Bound; 3]) -> Option<Value<'a>> {
    if let Value::Name(name) = base {
        return Some(Value::Name(std::rc::Rc::clone(name)));
    }
    let known = |bound: &Bound| match bound {
        None => Some(None),
        Some(Ok(int)) => Some(Some(*int)),
        Some(Err(())) => None,
    };
    let (lower, upper, step) = (
        known(&bounds[0])?,
        known(&bounds[1])?,
        known(&bounds[2])?.unwrap_or(1),
    );
    match base {
        Value::Text(text) => {
            let chars: Vec<char> = text.chars().collect();
            let picked = picks(chars.len(), lower, upper, step)?;
            Value::text(
                picked
                    .into_iter()
                    .filter_map(|index| chars.get(index))
                    .collect::<String>(),
            )
        }
        Value::Bytes(bytes) => {
            let picked = picks(bytes.len(), lower, upper, step)?;
            Value::bytes(
                picked
                    .into_iter()
                    .filter_map(|index| bytes.get(index).copied())
                    .collect::<Vec<u8>>(),
            )
        }
        Value::List(items) => {
            let picked = picks(items.len(), lower, upper, step)?;
            Value::list(
                picked
                    .into_iter()
                    .filter_map(|index| items.get(index).cloned())
                    .collect(),
            )
        }
        _ => None,
    }
}

/// The indices of a slice, as Python's `slice.indices` gives them.
fn picks(len: usize, lower: Option<i64>, upper: Option<i64>, step: i64) -> Option<Vec<usize>> {
    let len = i64::try_from(len).ok()?;
    let place = |bound: i64, low: i64, high: i64| {
        let bound = if bound < 0 {
            bound.saturating_add(len)
        } else {
            bound
        };
        bound.clamp(low, high)
    };
    let mut picked = Vec::new();
    let mut push = |index: i64| {
        if let Ok(index) = usize::try_from(index) {
            picked.push(index);
        }
    };
    if step > 0 {
        let mut index = lower.map_or(0, |bound| place(bound, 0, len));
        let end = upper.map_or(len, |bound| place(bound, 0, len));
        while index < end {
            push(index);
            index = index.saturating_add(step);
        }
    } else if step < 0 {
        let mut index = lower.map_or(len - 1, |bound| place(bound, -1, len - 1));
        let end = upper.map_or(-1, |bound| place(bound, -1, len - 1));
        while index > end {
            push(index);
            index = index.saturating_add(step);
        }
    } else {
        return None;
    }
    Some(picked)
}
