//! More of the standard library that only computes: what texts are taken apart and put together with.

use std::rc::Rc;

use crate::eval::{at, shown};
use crate::resolve::Resolver;
use crate::value::{Args, Cx, MAX_ITEMS, MAX_TEXT, Value, Values, single};

/// The largest pattern that is compiled, in bytes of the compiled form.
const MAX_PATTERN: usize = 256 * 1024;
/// How often something that repeats for ever is repeated.
const CYCLES: usize = 2048;

/// Whether [`function`] may know the result of a call.
pub(crate) fn known(name: &str) -> bool {
    matches!(
        name,
        "html.unescape"
            | "string.Template"
            | "struct.pack"
            | "re.sub"
            | "re.findall"
            | "re.split"
            | "unicodedata.normalize"
            | "builtins.bytes.maketrans"
            | "builtins.memoryview"
            | "builtins.staticmethod"
            | "builtins.classmethod"
            | "itertools.islice"
            | "itertools.compress"
            | "itertools.cycle"
            | "itertools.repeat"
            | "collections.deque"
            | "collections.OrderedDict"
            | "collections.ChainMap"
            | "operator.mod"
            | "operator.mul"
            | "builtins.max"
            | "builtins.min"
            | "builtins.type"
            | "textwrap.dedent"
            | "inspect.cleandoc"
            | "ast.literal_eval"
            | "builtins.repr"
            | "builtins.ascii"
    )
}

/// What such a function gives; `None` when the name is none of them or the result is not known.
pub(crate) fn function<'a>(
    resolver: &mut Resolver<'a>,
    name: &str,
    args: &Args<'a>,
) -> Option<Values<'a>> {
    if !known(name) {
        return None;
    }
    let first = single(args.get(0, &["string", "s", "object"]));
    let one = match (name, first?) {
        ("html.unescape", Value::Text(text)) => Value::text(unescaped(text)),
        ("string.Template" | "builtins.memoryview", value) => Some(value.clone()),
        ("builtins.staticmethod" | "builtins.classmethod", value) => Some(value.clone()),
        ("struct.pack", Value::Text(form)) => packed(form, args).and_then(Value::bytes),
        ("re.sub" | "re.findall" | "re.split", Value::Text(pattern)) => {
            searched(name, pattern, args)
        }
        ("unicodedata.normalize", _) => match single(args.at(1)) {
            Some(Value::Text(text)) => Value::text(text.chars().map(plain).collect::<String>()),
            _ => None,
        },
        ("builtins.bytes.maketrans", Value::Bytes(from)) => match single(args.at(1)) {
            Some(Value::Bytes(to)) => Value::bytes(table(from, to)),
            _ => None,
        },
        ("textwrap.dedent" | "inspect.cleandoc", Value::Text(text)) => Value::text(dedented(text)),
        ("builtins.repr" | "builtins.ascii", Value::Text(text)) => {
            let plain = !text.contains(['\'', '\\', '\n']) && text.is_ascii();
            plain.then(|| Value::text(format!("'{text}'")))?
        }
        ("ast.literal_eval", Value::Text(text)) => {
            let found = resolver.evaluated(text, &Cx::at(0), 0);
            return (!found.is_empty()).then_some(found);
        }
        ("operator.mod" | "operator.mul", _) => {
            let op = match name {
                "operator.mod" => ruff_python_ast::Operator::Mod,
                _ => ruff_python_ast::Operator::Mult,
            };
            return Some(resolver.operate(op, args.at(0), args.at(1)));
        }
        ("builtins.type", value) => return made_type(value, args),
        ("collections.OrderedDict", Value::Dict(_)) => first.cloned(),
        ("collections.ChainMap", Value::Dict(_)) => {
            let maps = args
                .positional
                .iter()
                .filter_map(|values| match single(values) {
                    Some(Value::Dict(entries)) => Some(entries.to_vec()),
                    _ => None,
                });
            Some(Value::Dict(Rc::new(maps.flatten().collect())))
        }
        (_, value) => of_items(name, value, args),
    };
    one.map(Values::from)
}

/// `type("T", (), {"f": g})`: the attributes it is given. `type("")` is `str`.
fn made_type<'a>(value: &Value<'a>, args: &Args<'a>) -> Option<Values<'a>> {
    if let Some([Value::Dict(entries)]) = args.positional.get(2).map(Values::as_slice) {
        let named = entries
            .iter()
            .filter_map(|(key, value)| Some((key.as_text()?, value.spread())));
        let args = Args {
            named: named.collect(),
            ..Args::default()
        };
        let made = crate::value::Made {
            maker: "types.SimpleNamespace".into(),
            args,
        };
        return Some(Values::One(Value::Made(Rc::new(made))));
    }
    let kind = match value {
        Value::Text(_) => "builtins.str",
        Value::Bytes(_) => "builtins.bytes",
        Value::Int(_) => "builtins.int",
        Value::Class(..) | Value::Instance(..) | Value::List(_) | Value::Dict(_) => return None,
        _ => return None,
    };
    Some(Values::One(Value::name(kind)))
}

/// Functions over the items of something.
fn of_items<'a>(name: &str, value: &Value<'a>, args: &Args<'a>) -> Option<Value<'a>> {
    if name == "itertools.repeat" {
        let times = match single(args.at(1)) {
            Some(Value::Int(times)) => usize::try_from(*times).ok()?.min(MAX_ITEMS),
            _ => CYCLES,
        };
        return Value::list(vec![value.clone(); times]);
    }
    let items = match (name, value.rounds()) {
        ("builtins.max" | "builtins.min", _) if args.positional.len() > 1 => args
            .positional
            .iter()
            .map(|values| Value::item(values.clone()))
            .collect(),
        (_, items) => items?,
    };
    match name {
        "builtins.max" | "builtins.min" => best(items, name == "builtins.max", args),
        "collections.deque" => Value::list(items),
        "itertools.cycle" => {
            let count = items.len();
            Value::list(items.into_iter().cycle().take(CYCLES.max(count)).collect())
        }
        "itertools.islice" => {
            let bound = |position| match single(args.at(position)) {
                Some(Value::Int(bound)) => usize::try_from(*bound).ok(),
                _ => None,
            };
            let (from, to, step) = match args.positional.len() {
                2 => (0, bound(1)?, 1),
                _ => (
                    bound(1)?,
                    bound(2).unwrap_or(MAX_ITEMS),
                    bound(3).unwrap_or(1),
                ),
            };
            let taken = items.into_iter().take(to).skip(from).step_by(step.max(1));
            Value::list(taken.collect())
        }
        "itertools.compress" => {
            let marks = single(args.at(1))?.rounds()?;
            let kept = items.into_iter().zip(marks);
            Value::list(
                kept.filter(|(_, mark)| mark.truth() == Some(true))
                    .map(|(item, _)| item)
                    .collect(),
            )
        }
        _ => None,
    }
}

/// The largest or smallest item; any of them when a key decides.
fn best<'a>(items: Vec<Value<'a>>, largest: bool, args: &Args<'a>) -> Option<Value<'a>> {
    if !args.named.is_empty() || items.len() == 1 {
        return (items.len() <= crate::value::MAX_VALUES).then(|| Value::item(items.into()));
    }
    let key = |item: &Value<'a>| match item {
        Value::Int(int) => Some((*int, String::new())),
        Value::Text(text) => Some((0, text.to_string())),
        _ => None,
    };
    let mut keyed = items
        .into_iter()
        .map(|item| Some((key(&item)?, item)))
        .collect::<Option<Vec<_>>>()?;
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    let place = at(keyed.len(), if largest { -1 } else { 0 })?;
    keyed.get(place).map(|(_, item)| item.clone())
}

/// `&#47;`, `&#x2f;` and the few names that everybody knows.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let (entity, tail) = after.split_once(';').unwrap_or(("", after));
        let found = match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            "sol" => Some('/'),
            "period" => Some('.'),
            "lowbar" => Some('_'),
            _ => entity.strip_prefix('#').and_then(|code| {
                let code = match code.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => code.parse(),
                };
                char::from_u32(code.ok()?)
            }),
        };
        match found {
            Some(c) => {
                out.push(c);
                rest = tail;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out + rest
}

/// `$name` and `${name}` from keyword arguments or a dictionary.
pub(crate) fn substituted(text: &str, args: &Args<'_>) -> Option<String> {
    let value_of = |name: &str| {
        let named = args.get(usize::MAX, &[name]);
        if let Some(value) = named.first() {
            return shown(value);
        }
        let Some(Value::Dict(entries)) = single(args.at(0)) else {
            return None;
        };
        let mut entries = entries.iter();
        let found = entries.find(|(key, _)| key.as_text().is_some_and(|key| &*key == name));
        shown(&found?.1)
    };
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, tail) = match after.strip_prefix('{') {
            Some(inner) => inner.split_once('}')?,
            None => after.split_at(after.find(|c| !word(c)).unwrap_or(after.len())),
        };
        out.push_str(&value_of(name)?);
        rest = tail;
        if out.len() > MAX_TEXT {
            return None;
        }
    }
    Some(out + rest)
}

/// `struct.pack`, for whole numbers and bytes.
fn packed(form: &str, args: &Args<'_>) -> Option<Vec<u8>> {
    let big = form.starts_with(['>', '!']);
    let mut out = Vec::new();
    let mut values = args.positional.iter().skip(1);
    let mut count = String::new();
    for c in form.trim_start_matches(['>', '<', '!', '=', '@']).chars() {
        if c.is_ascii_digit() {
            count.push(c);
            continue;
        }
        let times: usize = std::mem::take(&mut count).parse().unwrap_or(1);
        if c == 's' {
            let Some(Value::Bytes(bytes)) = values.next().and_then(|values| single(values)) else {
                return None;
            };
            out.extend(bytes.iter().copied().take(times));
            continue;
        }
        let width = match c {
            'b' | 'B' => 1,
            'h' | 'H' => 2,
            'i' | 'I' | 'l' | 'L' => 4,
            'q' | 'Q' => 8,
            _ => return None,
        };
        for _ in 0..times {
            let Some(Value::Int(int)) = values.next().and_then(|values| single(values)) else {
                return None;
            };
            let bytes = int.to_be_bytes();
            let mut bytes = bytes.get(8 - width..)?.to_vec();
            if !big {
                bytes.reverse();
            }
            out.extend(bytes);
        }
    }
    Some(out)
}

/// `re.sub`, `re.findall` and `re.split` with patterns that this crate's engine knows, which takes time
/// in proportion to the text.
fn searched<'a>(name: &str, pattern: &str, args: &Args<'a>) -> Option<Value<'a>> {
    let regex = regex::RegexBuilder::new(pattern)
        .size_limit(MAX_PATTERN)
        .build()
        .ok()?;
    let position = if name == "re.sub" { 2 } else { 1 };
    let Some(Value::Text(text)) = single(args.get(position, &["string"])) else {
        return None;
    };
    if name == "re.sub" {
        let Some(Value::Text(to)) = single(args.get(1, &["repl"])) else {
            return None;
        };
        let fits = text.len().saturating_mul(to.len().max(1)) <= MAX_TEXT;
        let plain = !to.contains('\\');
        return (fits && plain)
            .then(|| regex.replace_all(text, regex::NoExpand(to)))
            .and_then(|text| Value::text(&*text));
    }
    let found: Vec<Value<'a>> = if name == "re.split" {
        regex.split(text).filter_map(Value::text).collect()
    } else if regex.captures_len() == 1 {
        let found = regex.find_iter(text);
        found
            .filter_map(|found| Value::text(found.as_str()))
            .collect()
    } else {
        return None;
    };
    Value::list(found)
}

fn table(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut table: Vec<u8> = (0..=255).collect();
    for (&from, &to) in from.iter().zip(to) {
        if let Some(slot) = table.get_mut(usize::from(from)) {
            *slot = to;
        }
    }
    table
}

/// The letter that wide and mathematical letters stand for.
fn plain(c: char) -> char {
    let code = u32::from(c);
    let to = match code {
        0xff01..=0xff5e => code - 0xfee0,
        0x1d400..=0x1d6a3 => match (code - 0x1d400) % 52 {
            upper @ 0..=25 => u32::from('A') + upper,
            lower => u32::from('a') + lower - 26,
        },
        _ => code,
    };
    char::from_u32(to).unwrap_or(c)
}

/// Without the white space that all lines begin with.
fn dedented(text: &str) -> String {
    let depth = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let filled = text.lines().filter(|line| !line.trim().is_empty());
    let cut = filled.map(depth).min().unwrap_or(0);
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        out.push_str(line.get(cut.min(depth(line))..).unwrap_or(line));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_put_together_as_python_does() {
        assert_eq!(unescaped("&#47;etc&#x2F;a&amp;b &c"), "/etc/a&b &c");
        assert_eq!(dedented("  a\n    b\n\n  c"), "a\n  b\n\nc");
        assert_eq!(plain('ａ'), 'a');
        assert_eq!(plain('𝗮'), 'a');
        assert_eq!(table(b"a", b"b").get(97), Some(&98));
        let named = Args {
            named: vec![("a".into(), Value::text("x").into_iter().collect())],
            ..Args::default()
        };
        assert_eq!(substituted("$a-${a}$$", &named).as_deref(), Some("x-x$"));
        assert_eq!(substituted("$b", &named), None);
    }
}
