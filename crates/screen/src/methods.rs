//! Methods of texts, bytes, lists and dictionaries that are known.

use std::rc::Rc;

use crate::codec::{self, Out};
use crate::eval::{formatted, join_path, shown};
use crate::resolve::{Resolver, names_of, texts_of};
use crate::value::{Args, Cx, MAX_TEXT, Value, Values, merge, single};

impl<'a> Resolver<'a> {
    /// What a method of a known value gives.
    pub(crate) fn method(
        &mut self,
        receiver: &Value<'a>,
        name: &str,
        args: &Args<'a>,
        cx: &Cx<'a>,
        depth: usize,
    ) -> Values<'a> {
        match receiver {
            Value::Text(text) => self.text_method(text, name, args),
            Value::Bytes(bytes) => self.bytes_method(bytes, name, args),
            Value::Int(int) => int_bytes(&int.to_be_bytes(), name, args)
                .into_iter()
                .collect(),
            Value::Big(bytes) => int_bytes(bytes, name, args).into_iter().collect(),
            Value::List(items) => match name {
                "pop" => self.item(receiver, args.at(0), cx, depth),
                "__getitem__" => self.item(receiver, args.at(0), cx, depth),
                "copy" | "tolist" => vec![receiver.clone()],
                "tobytes" => crate::pure::to_bytes(receiver, None).into_iter().collect(),
                "index" | "count" => Vec::new(),
                "append" | "extend" => vec![Value::Nothing],
                _ => items.iter().take(0).cloned().collect(),
            },
            Value::Dict(entries) => match name {
                "get" | "pop" | "__getitem__" | "setdefault" => {
                    let mut values = self.item(receiver, args.at(0), cx, depth);
                    if values.is_empty() {
                        merge(&mut values, args.at(1).to_vec());
                    }
                    values
                }
                "values" => Value::list(entries.iter().map(|(_, value)| value.clone()).collect())
                    .into_iter()
                    .collect(),
                "keys" => Value::list(entries.iter().map(|(key, _)| key.clone()).collect())
                    .into_iter()
                    .collect(),
                "items" => {
                    let pairs = entries
                        .iter()
                        .map(|(key, value)| Value::List(Rc::new(vec![key.clone(), value.clone()])));
                    Value::list(pairs.collect()).into_iter().collect()
                }
                "copy" => vec![receiver.clone()],
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn text_method(&mut self, text: &Rc<str>, name: &str, args: &Args<'a>) -> Values<'a> {
        if !self.allowance.take(text.len() / 64) {
            return vec![Value::name(crate::resolve::HIDDEN)];
        }
        if name == "join" {
            return self.join(text, args);
        }
        if name == "substitute" || name == "safe_substitute" {
            let text = crate::library::substituted(text, args);
            return text.and_then(Value::text).into_iter().collect();
        }
        if name == "format" || name == "format_map" {
            return match format(text, args) {
                Some(text) => Value::text(text).into_iter().collect(),
                None => args
                    .positional
                    .iter()
                    .flat_map(|values| names_of(values))
                    .map(Value::Name)
                    .collect(),
            };
        }
        let value = match name {
            "encode" => encoded(text, args),
            "split" | "rsplit" | "splitlines" | "partition" => split(text, name, args),
            "translate" => translated(text, args).and_then(Value::text),
            "startswith" | "endswith" => texts_of(args.at(0)).first().map(|part| {
                let holds = if name == "startswith" {
                    text.starts_with(&**part)
                } else {
                    text.ends_with(&**part)
                };
                Value::Int(i64::from(holds))
            }),
            "find" | "index" | "rfind" => texts_of(args.at(0)).first().and_then(|part| {
                let found = text
                    .find(&**part)
                    .map(|at| text.get(..at).map_or(0, |before| before.chars().count()));
                i64::try_from(found?).ok().map(Value::Int)
            }),
            "isalpha" => Some(Value::Int(i64::from(
                !text.is_empty() && text.chars().all(char::is_alphabetic),
            ))),
            "isdigit" | "isnumeric" => Some(Value::Int(i64::from(
                !text.is_empty() && text.chars().all(char::is_numeric),
            ))),
            "isupper" => Some(Value::Int(i64::from(
                text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
            ))),
            "islower" => Some(Value::Int(i64::from(
                text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
            ))),
            "__add__" => args.at(0).iter().find_map(|other| {
                crate::eval::operated(
                    ruff_python_ast::Operator::Add,
                    &Value::Text(Rc::clone(text)),
                    other,
                )
            }),
            "__getitem__" => None,
            "getvalue" | "read" => Value::text(Rc::clone(text)),
            _ => plain_text(text, name, args).and_then(Value::text),
        };
        if name == "__getitem__" {
            return self.item(&Value::Text(Rc::clone(text)), args.at(0), &Cx::at(0), 0);
        }
        value.into_iter().collect()
    }

    fn join(&mut self, separator: &str, args: &Args<'a>) -> Values<'a> {
        let mut values = Values::new();
        for list in args.at(0) {
            let Some(items) = list.rounds() else {
                merge(
                    &mut values,
                    names_of(std::slice::from_ref(list))
                        .into_iter()
                        .map(Value::Name),
                );
                continue;
            };
            let mut text = String::new();
            let mut whole = true;
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push_str(separator);
                }
                match item.as_text() {
                    Some(part) => text.push_str(&part),
                    None => whole = false,
                }
                if text.len() > MAX_TEXT {
                    return vec![Value::name(crate::resolve::HIDDEN)];
                }
            }
            if whole && self.allowance.take(text.len()) {
                merge(&mut values, Value::text(text));
            } else {
                merge(&mut values, names_of(&items).into_iter().map(Value::Name));
            }
        }
        values
    }

    fn bytes_method(&mut self, bytes: &Rc<[u8]>, name: &str, args: &Args<'a>) -> Values<'a> {
        if !self.allowance.take(bytes.len() / 64) {
            return vec![Value::name(crate::resolve::HIDDEN)];
        }
        if name == "join" {
            let Some(items) = single(args.at(0)).and_then(Value::rounds) else {
                return Vec::new();
            };
            let parts: Option<Vec<Rc<[u8]>>> = items
                .iter()
                .map(|item| match item {
                    Value::Bytes(part) => Some(Rc::clone(part)),
                    _ => None,
                })
                .collect();
            let joined = parts.map(|parts| parts.join(&**bytes));
            return joined.and_then(Value::bytes).into_iter().collect();
        }
        let value = match name {
            "decode" => {
                let codec = args.get(0, &["encoding"]).first().and_then(Value::as_text);
                out_value(codec::named(
                    codec.as_deref().unwrap_or("utf-8"),
                    bytes,
                    false,
                ))
            }
            "hex" => Value::text(codec::to_hex(bytes)),
            "strip" => Value::bytes(bytes.trim_ascii()),
            "tobytes" | "copy" | "read" | "getvalue" => Some(Value::Bytes(Rc::clone(bytes))),
            "translate" => match args.at(0) {
                [Value::Bytes(table)] if table.len() == 256 => Value::bytes(
                    bytes
                        .iter()
                        .filter_map(|&byte| table.get(usize::from(byte)).copied())
                        .collect::<Vec<u8>>(),
                ),
                _ => None,
            },
            "replace" | "upper" | "lower" | "title" | "swapcase" => {
                let text = str::from_utf8(bytes).ok();
                text.and_then(|text| plain_text(text, name, args))
                    .and_then(|text| Value::bytes(text.into_bytes()))
            }
            _ => None,
        };
        value.into_iter().collect()
    }
}

fn out_value<'a>(out: Out) -> Option<Value<'a>> {
    match out {
        Out::Bytes(bytes) => Value::bytes(bytes),
        Out::Text(text) => Value::text(text),
        Out::TooLong => Some(Value::name(crate::resolve::HIDDEN)),
        Out::Bad => None,
    }
}

fn encoded<'a>(text: &str, args: &Args<'a>) -> Option<Value<'a>> {
    let codec = args.get(0, &["encoding"]).first().and_then(Value::as_text);
    let codec = codec.as_deref().unwrap_or("utf-8");
    out_value(codec::named(codec, text.as_bytes(), true))
}

fn int_bytes<'a>(bytes: &[u8], name: &str, args: &Args<'a>) -> Option<Value<'a>> {
    if name == "bit_length" {
        let first = bytes.iter().position(|&byte| byte != 0)?;
        let top = 8 - i64::from(bytes.get(first)?.leading_zeros());
        let rest = i64::try_from(bytes.len() - first - 1).ok()?;
        return Some(Value::Int(rest.checked_mul(8)?.checked_add(top)?));
    }
    if name != "to_bytes" {
        return None;
    }
    let Some(Value::Int(len)) = single(args.get(0, &["length"])) else {
        return None;
    };
    let len = usize::try_from(*len).ok().filter(|&len| len <= MAX_TEXT)?;
    let significant: Vec<u8> = bytes
        .iter()
        .copied()
        .skip_while(|&byte| byte == 0)
        .collect();
    let pad = len.checked_sub(significant.len())?;
    let mut out = vec![0; pad];
    out.extend(significant);
    let order = args.get(1, &["byteorder"]).first().and_then(Value::as_text);
    if order.as_deref() == Some("little") {
        out.reverse();
    }
    Value::bytes(out)
}

fn split<'a>(text: &str, name: &str, args: &Args<'a>) -> Option<Value<'a>> {
    let separator = args.get(0, &["sep"]).first().and_then(Value::as_text);
    let parts: Vec<&str> = match (name, separator.as_deref()) {
        ("splitlines", _) => text.lines().collect(),
        ("partition", Some(separator)) => {
            let (before, after) = text.split_once(separator)?;
            vec![before, separator, after]
        }
        (_, Some("")) => return None,
        (_, Some(separator)) => text.split(separator).collect(),
        (_, None) => text.split_whitespace().collect(),
    };
    Value::list(parts.into_iter().filter_map(Value::text).collect())
}

/// `text.translate({97: "b"})`, and what `str.maketrans("ab", "cd")` would map is left out.
fn translated(text: &str, args: &Args<'_>) -> Option<String> {
    let [Value::Dict(table)] = args.at(0) else {
        return None;
    };
    let mut out = String::new();
    for c in text.chars() {
        let code = i64::from(u32::from(c));
        let found = table.iter().find(|(key, _)| match key {
            Value::Int(key) => *key == code,
            Value::Text(key) => key.chars().eq([c]),
            _ => false,
        });
        match found {
            Some((_, Value::Int(to))) => out.push(char::from_u32(u32::try_from(*to).ok()?)?),
            Some((_, Value::Nothing)) => {}
            Some((_, value)) => out.push_str(&value.as_text()?),
            None => out.push(c),
        }
        if out.len() > MAX_TEXT {
            return None;
        }
    }
    Some(out)
}

/// Methods from text to text.
fn plain_text(text: &str, name: &str, args: &Args<'_>) -> Option<String> {
    let strip: Vec<char> = args
        .at(0)
        .iter()
        .filter_map(Value::as_text)
        .flat_map(|set| set.chars().collect::<Vec<_>>())
        .collect();
    let white = strip.is_empty();
    let cut = |c: char| {
        if white {
            c.is_whitespace()
        } else {
            strip.contains(&c)
        }
    };
    Some(match name {
        "lower" | "casefold" => text.to_lowercase(),
        "upper" => text.to_uppercase(),
        "swapcase" => text
            .chars()
            .map(|c| {
                if c.is_lowercase() {
                    c.to_ascii_uppercase()
                } else {
                    c.to_ascii_lowercase()
                }
            })
            .collect(),
        "title" | "capitalize" => {
            let mut chars = text.chars();
            let first: String = chars
                .next()
                .map(|c| c.to_uppercase().collect())
                .unwrap_or_default();
            first + &chars.as_str().to_lowercase()
        }
        "strip" => text.trim_matches(cut).to_owned(),
        "lstrip" => text.trim_start_matches(cut).to_owned(),
        "rstrip" => text.trim_end_matches(cut).to_owned(),
        "removeprefix" => text
            .strip_prefix(&*args.at(0).first()?.as_text()?)
            .unwrap_or(text)
            .to_owned(),
        "removesuffix" => text
            .strip_suffix(&*args.at(0).first()?.as_text()?)
            .unwrap_or(text)
            .to_owned(),
        "replace" => {
            let from = args.at(0).first()?.as_text()?;
            let to = args.at(1).first()?.as_text()?;
            let grown = text.len().saturating_mul(to.len().max(1));
            if grown > MAX_TEXT {
                return None;
            }
            text.replace(&*from, &to)
        }
        "joinpath" => {
            let mut path = text.to_owned();
            for part in args
                .positional
                .iter()
                .flat_map(|values| values.first()?.as_text())
            {
                path = join_path(&path, &part);
            }
            path
        }
        "with_name" => {
            let name = args.at(0).first()?.as_text()?;
            join_path(
                text.rsplit_once('/').map_or("", |(parent, _)| parent),
                &name,
            )
        }
        "with_suffix" => {
            let suffix = args.at(0).first()?.as_text()?;
            format!(
                "{}{suffix}",
                text.rsplit_once('.').map_or(text, |(stem, _)| stem)
            )
        }
        "resolve" | "expanduser" | "absolute" | "as_posix" | "__str__" | "__fspath__" | "zfill"
        | "expandtabs" => text.to_owned(),
        _ => return None,
    })
}

/// `"{} {0} {name}".format(...)` with plain fields.
fn format(text: &str, args: &Args<'_>) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.peek() == Some(&'{') => {
                chars.next();
                out.push('{');
            }
            '}' if chars.peek() == Some(&'}') => {
                chars.next();
                out.push('}');
            }
            '{' => {
                let field: String = chars.by_ref().take_while(|&c| c != '}').collect();
                let (name, spec) = field.split_once(':').unwrap_or((&field, ""));
                let (name, key) = match name.split_once('[') {
                    Some((name, key)) => (name, key.strip_suffix(']')),
                    None => (name, None),
                };
                let values = match name.parse::<usize>() {
                    Ok(index) => args.at(index),
                    Err(_) if name.is_empty() => {
                        next += 1;
                        args.at(next - 1)
                    }
                    Err(_) => args.get(usize::MAX, &[name]),
                };
                let value = values
                    .iter()
                    .find(|value| !matches!(value, Value::Name(_)))?;
                let value = match key {
                    Some(key) => keyed(value, key)?,
                    None => value,
                };
                out.push_str(&formatted(value, spec).or_else(|| shown(value))?);
            }
            c => out.push(c),
        }
        if out.len() > MAX_TEXT {
            return None;
        }
    }
    Some(out)
}

/// `{0[key]}`: an entry of a dictionary or an item of a list.
fn keyed<'v, 'a>(value: &'v Value<'a>, key: &str) -> Option<&'v Value<'a>> {
    match value {
        Value::List(items) => items.get(key.parse::<usize>().ok()?),
        Value::Dict(entries) => {
            let mut entries = entries.iter();
            let found =
                entries.find(|(known, _)| known.as_text().is_some_and(|known| *known == *key));
            found.map(|(_, value)| value)
        }
        _ => None,
    }
}
