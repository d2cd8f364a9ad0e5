//! Attributes: of what is outside the program, of its own classes and objects, and of values in sight.

use std::rc::Rc;

use ruff_python_ast::Expr;

use super::{MAX_DEPTH, MAX_KEPT, Resolver};
use crate::bindings::{Binding, ScopeId};
use crate::names::{join, member};
use crate::value::{Args, Cx, Value, Values, absorb};

impl<'a> Resolver<'a> {
    /// The attribute of a value.
    pub(crate) fn attribute(
        &mut self,
        value: &Value<'a>,
        name: &'a str,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        match value {
            Value::Name(base) => self.outer_attribute(base, name),
            Value::Instance(class, scope) => {
                self.class_attribute(class, *scope, name, Some(value), cx, depth)
            }
            Value::Class(class, scope) => {
                self.class_attribute(class, *scope, name, None, cx, depth)
            }
            Value::Text(text) if name == "parent" => {
                let parent = text.rsplit_once('/').map(|(parent, _)| parent);
                parent.and_then(Value::text).into_iter().collect()
            }
            Value::Text(text) if name == "parents" => {
                let above = std::iter::successors(Some(&**text), |path| {
                    path.rsplit_once('/').map(|(parent, _)| parent)
                });
                let above = above.skip(1).take(64);
                let above = above.map(|path| if path.is_empty() { "/" } else { path });
                Value::list(above.filter_map(Value::text).collect())
                    .into_iter()
                    .collect()
            }
            // A member of an enumeration.
            Value::Text(_) | Value::Bytes(_) if name == "value" => Values::One(value.clone()),
            Value::Text(_) if name == "__class__" => Values::One(Value::name("builtins.str")),
            Value::Bytes(_) if name == "__class__" => Values::One(Value::name("builtins.bytes")),
            Value::Text(text) if name == "name" => {
                let last = text.rsplit('/').next().unwrap_or("");
                Value::text(last).into_iter().collect()
            }
            Value::Made(made) if &*made.maker == "types.SimpleNamespace" => {
                made.args.get(usize::MAX, &[name]).into()
            }
            Value::Function(function, ..) => match name {
                "__name__" => Value::text(function.name.as_str()).into_iter().collect(),
                "__wrapped__" | "__call__" => Values::One(value.clone()),
                _ => self.loose(name, cx, depth),
            },
            Value::Lambda(..) if name == "__call__" => Values::One(value.clone()),
            _ => value.method(name),
        }
    }

    fn outer_attribute(&mut self, base: &Rc<str>, name: &'a str) -> Values<'a> {
        let key = (Rc::clone(base), name);
        if let Some(known) = self.outer.get(&key) {
            return known.clone();
        }
        let values = outside(base, name);
        if self.outer.len() < MAX_KEPT {
            self.outer.insert(key, values.clone());
        }
        values
    }

    /// What a call of something outside the program gives.
    pub(crate) fn result(&mut self, name: &Rc<str>) -> Option<Value<'a>> {
        if let Some(known) = self.results.get(name) {
            return known.clone().map(Value::Name);
        }
        let result = join(name, "()");
        if self.results.len() < MAX_KEPT {
            self.results.insert(Rc::clone(name), result.clone());
        }
        result.map(Value::Name)
    }

    /// Attributes that are set on some object of the program's, by their names alone.
    pub(crate) fn loose(&mut self, name: &str, cx: &Cx<'a>, depth: usize) -> Values<'a> {
        let mut values = Values::new();
        let Some(bound) = self.bindings.loose.get(name).map(Rc::clone) else {
            return values;
        };
        for binding in bound.iter() {
            absorb(&mut values, self.binding(binding, cx, depth + 1));
        }
        values
    }

    fn class_attribute(
        &mut self,
        class: &'a ruff_python_ast::StmtClassDef,
        scope: ScopeId,
        name: &'a str,
        object: Option<&Value<'a>>,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        if depth > MAX_DEPTH {
            self.allowance.cut();
            return Values::new();
        }
        let mut values = Values::new();
        let stripped = self.without_foreign(cx, scope);
        let cx = &stripped;
        for binding in self.bindings.member(scope, name).iter() {
            for value in self.binding(binding, cx, depth + 1) {
                let bind_self = matches!(binding, Binding::Function(function, _) if !has_decorator(function, "staticmethod"));
                let value = match (object, &value) {
                    (Some(object), Value::Function(function, ..)) if is_property(function) => {
                        let method = Value::Method(Rc::new((value.clone(), object.clone())));
                        let found = self.invoke(&method, &Args::default(), cx, depth + 20);
                        absorb(&mut values, found);
                        method
                    }
                    (Some(object), Value::Function(..)) if bind_self => {
                        Value::Method(Rc::new((value, object.clone())))
                    }
                    _ => value,
                };
                absorb(&mut values, Values::One(value));
            }
        }
        if values.is_empty() {
            let bases = class.bases();
            let parent = self.bindings.scope(scope).and_then(|scope| scope.parent);
            let at = Cx::at(parent.unwrap_or(0));
            for base in bases.iter().take(4) {
                for base in self.eval(base, &at, depth + 1) {
                    let found = match (&base, object) {
                        (Value::Class(class, scope), _)
                            if !std::ptr::eq(*class, base_of(&base)) =>
                        {
                            self.class_attribute(class, *scope, name, object, cx, depth + 20)
                        }
                        (Value::Class(inner, scope), _) => {
                            self.class_attribute(inner, *scope, name, object, cx, depth + 20)
                        }
                        (Value::Name(outer), Some(_)) => join(outer, "()")
                            .and_then(|object| member(&object, name))
                            .map(Value::Name)
                            .into_iter()
                            .collect(),
                        (Value::Name(outer), None) => {
                            member(outer, name).map(Value::Name).into_iter().collect()
                        }
                        _ => Values::new(),
                    };
                    absorb(&mut values, found);
                }
            }
            let getter = self.bindings.member(scope, "__getattr__");
            if let (true, [Binding::Function(function, home), ..]) =
                (values.is_empty(), getter.as_slice())
            {
                let callee = Value::Function(function, *home, None);
                let args = Args::of(vec![
                    object.cloned().into_iter().collect(),
                    Value::text(name).into_iter().collect(),
                ]);
                absorb(&mut values, self.invoke(&callee, &args, cx, depth + 20));
            }
        }
        absorb(&mut values, self.loose(name, cx, depth));
        values
    }
}

/// An attribute of something outside the program.
fn outside<'a>(base: &str, name: &str) -> Values<'a> {
    if let Some(text) = known_constant(base, name) {
        return Value::text(text).into_iter().collect();
    }
    if name == "__call__" {
        return Values::One(Value::name(base));
    }
    member(base, name).map(Value::Name).into_iter().collect()
}

/// Whether a method is read like an attribute.
fn is_property(function: &ruff_python_ast::StmtFunctionDef) -> bool {
    function
        .decorator_list
        .iter()
        .any(|decorator| match &decorator.expression {
            Expr::Name(name) => matches!(name.id.as_str(), "property" | "cached_property"),
            Expr::Attribute(attribute) => attribute.attr.as_str() == "cached_property",
            _ => false,
        })
}

fn base_of<'a>(value: &Value<'a>) -> *const ruff_python_ast::StmtClassDef {
    match value {
        Value::Class(class, _) => *class,
        _ => std::ptr::null(),
    }
}

fn has_decorator(function: &ruff_python_ast::StmtFunctionDef, name: &str) -> bool {
    function.decorator_list.iter().any(
        |decorator| matches!(&decorator.expression, Expr::Name(found) if found.id.as_str() == name),
    )
}

/// Texts that the standard library has ready.
fn known_constant(base: &str, name: &str) -> Option<&'static str> {
    Some(match (base, name) {
        ("string", "ascii_lowercase") => "abcdefghijklmnopqrstuvwxyz",
        ("string", "ascii_uppercase") => "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        ("string", "ascii_letters") => "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
        ("string", "digits") => "0123456789",
        ("string", "hexdigits") => "0123456789abcdefABCDEF",
        ("string", "punctuation") => "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
        ("string", "printable") => {
            "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ \t\n\r\u{b}\u{c}"
        }
        ("os" | "os.path", "sep") => "/",
        ("os", "linesep") => "\n",
        ("os", "name") => "posix",
        ("sys", "executable") => "python3",
        _ => return None,
    })
}
