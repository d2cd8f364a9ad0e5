//! Functions of the standard library that only compute, on values that are known.

use std::rc::Rc;

use crate::codec;
use crate::eval::{formatted, join_path, shown};
use crate::resolve::{HIDDEN, Resolver};
use crate::value::{Args, MAX_ITEMS, Value, Values, single};

/// Whether [`function`] may know the result of a call.
pub(crate) fn known(name: &str) -> bool {
    let Some((module, function)) = name.rsplit_once('.') else {
        return false;
    };
    if crate::library::known(name) {
        return true;
    }
    match module {
        "builtins" => crate::names::is_plain(function),
        "builtins.str" | "builtins.bytes" | "builtins.bytearray" | "builtins.int"
        | "builtins.list" | "builtins.dict" => true,
        "os.path" => matches!(
            function,
            "join"
                | "expanduser"
                | "abspath"
                | "realpath"
                | "normpath"
                | "expandvars"
                | "dirname"
                | "basename"
        ),
        "base64" | "binascii" | "codecs" | "zlib" | "gzip" | "bz2" | "lzma" | "quopri"
        | "urllib.parse" | "html" => true,
        "operator" => matches!(function, "add" | "concat" | "xor" | "getitem"),
        "pathlib" | "pathlib.Path" => true,
        _ => matches!(
            name,
            "os.fspath"
                | "sys.intern"
                | "itertools.chain"
                | "itertools.chain.from_iterable"
                | "json.loads"
                | "textwrap.dedent"
                | "copy.copy"
                | "copy.deepcopy"
                | "array.array"
                | "io.StringIO"
                | "io.BytesIO"
                | "inspect.cleandoc"
                | "shlex.quote"
                | "shlex.split"
                | "types.MethodType"
                | "ast.literal_eval"
        ),
    }
}

/// What such a function gives; nothing when that is not known.
pub(crate) fn function<'a>(resolver: &mut Resolver<'a>, name: &str, args: &Args<'a>) -> Values<'a> {
    if let Some(unpacked) = unpacked(resolver, name, args) {
        return unpacked;
    }
    if let Some(known) = crate::library::function(resolver, name, args) {
        return known;
    }
    if let Some(rest) = name.strip_prefix("builtins.")
        && let Some((kind, method)) = rest.split_once('.')
        && matches!(kind, "str" | "bytes" | "bytearray" | "list" | "dict")
    {
        // `str.join(sep, parts)`: the receiver is the first argument.
        if !matches!(method, "fromhex" | "maketrans" | "fromkeys") && !method.contains(['(', '[']) {
            let mut values = Values::new();
            for receiver in args.at(0) {
                let at = crate::value::Cx::at(0);
                values.extend(resolver.method(receiver, method, &args.skip(1), &at, 0));
            }
            return values;
        }
    }
    if name == "os.path.join" || name.starts_with("pathlib.") {
        return path(name, args);
    }
    if let Some(method) = name.strip_prefix("operator.") {
        use ruff_python_ast::Operator;
        let (left, right) = (args.at(0), args.at(1));
        return match method {
            "add" | "concat" => resolver.operate(Operator::Add, left, right),
            "xor" => resolver.operate(Operator::BitXor, left, right),
            _ => left
                .iter()
                .flat_map(|base| resolver.item(base, right, &crate::value::Cx::at(0), 0))
                .collect(),
        };
    }
    if matches!(name, "builtins.dict" | "collections.OrderedDict") && !args.named.is_empty() {
        return named_entries(args);
    }
    let first = args.get(0, &["object"]);
    if first.is_empty() && args.positional.is_empty() {
        return empty(name);
    }
    if matches!(
        name,
        "builtins.str"
            | "os.fspath"
            | "sys.intern"
            | "os.path.expanduser"
            | "os.path.abspath"
            | "os.path.realpath"
            | "os.path.normpath"
            | "os.path.expandvars"
            | "copy.copy"
            | "copy.deepcopy"
            | "builtins.iter"
            | "io.StringIO"
            | "io.BytesIO"
            | "types.MethodType"
    ) {
        return same_or_shown(name, first);
    }
    let one = single(first);
    one.and_then(|value| of_one(name, value, args))
        .into_iter()
        .collect()
}

/// `dict(a=1)`, after the entries of a first argument.
fn named_entries<'a>(args: &Args<'a>) -> Values<'a> {
    let mut entries = match single(args.at(0)) {
        Some(Value::Dict(first)) => first.to_vec(),
        _ => Vec::new(),
    };
    let named = args.named.iter();
    entries.extend(
        named.map(|(name, values)| (Value::Text(Rc::clone(name)), Value::item(values.clone()))),
    );
    Values::One(Value::Dict(Rc::new(entries)))
}

/// `str()` and its like give an empty value.
fn empty<'a>(name: &str) -> Values<'a> {
    let value = match name {
        "builtins.list" | "builtins.tuple" | "builtins.set" => Value::list(Vec::new()),
        "builtins.str" => Value::text(""),
        "builtins.bytes" | "builtins.bytearray" => Value::bytes(Vec::new()),
        "builtins.dict" => Some(Value::Dict(Rc::new(Vec::new()))),
        _ => None,
    };
    value.into_iter().collect()
}

/// Functions that give their argument back, or its text.
fn same_or_shown<'a>(name: &str, values: &[Value<'a>]) -> Values<'a> {
    let kept = values.iter().filter_map(|value| match (name, value) {
        ("builtins.str", Value::Bytes(bytes)) => str::from_utf8(bytes).ok().and_then(Value::text),
        ("builtins.str", Value::Int(_)) => shown(value).and_then(Value::text),
        (_, value) => Some(value.clone()),
    });
    kept.collect()
}

fn of_one<'a>(name: &str, value: &Value<'a>, args: &Args<'a>) -> Option<Value<'a>> {
    let second = single(args.at(1));
    match (name, value) {
        ("builtins.chr", Value::Int(code)) => {
            Value::text(char::from_u32(u32::try_from(*code).ok()?)?.to_string())
        }
        ("builtins.ord", Value::Text(text)) => {
            let mut chars = text.chars();
            let (first, rest) = (chars.next()?, chars.next());
            rest.is_none()
                .then(|| Value::Int(i64::from(u32::from(first))))
        }
        ("builtins.ord", Value::Bytes(bytes)) => match **bytes {
            [byte] => Some(Value::Int(i64::from(byte))),
            _ => None,
        },
        ("builtins.int", Value::Int(_)) => Some(value.clone()),
        ("builtins.int", Value::Text(text)) => {
            let radix = match second {
                Some(Value::Int(radix)) => u32::try_from(*radix)
                    .ok()
                    .filter(|radix| (2..=36).contains(radix))?,
                _ => 10,
            };
            let text = text.trim().replace('_', "");
            let digits = text
                .trim_start_matches("0x")
                .trim_start_matches("0b")
                .trim_start_matches("0o");
            match i64::from_str_radix(digits, radix) {
                Ok(int) => Some(Value::Int(int)),
                Err(_) => crate::eval::big(digits, radix).map(|bytes| Value::Big(bytes.into())),
            }
        }
        ("builtins.hex", Value::Int(int)) => Value::text(format!("{int:#x}")),
        ("builtins.oct", Value::Int(int)) => Value::text(format!("{int:#o}")),
        ("builtins.bin", Value::Int(int)) => Value::text(format!("{int:#b}")),
        ("builtins.abs", Value::Int(int)) => int.checked_abs().map(Value::Int),
        ("builtins.len", value) => {
            let len = match value {
                Value::Text(text) => text.chars().count(),
                Value::Bytes(bytes) => bytes.len(),
                Value::List(items) => items.len(),
                Value::Dict(items) => items.len(),
                _ => return None,
            };
            i64::try_from(len).ok().map(Value::Int)
        }
        ("builtins.bool", value) => value.truth().map(|truth| Value::Int(i64::from(truth))),
        ("builtins.range", Value::Int(_)) => range(args),
        ("builtins.bytes" | "builtins.bytearray", value) => to_bytes(value, second),
        ("builtins.repr" | "builtins.ascii", Value::Int(_)) => shown(value).and_then(Value::text),
        ("builtins.format", value) => {
            let spec = second.and_then(Value::as_text).unwrap_or_default();
            formatted(value, &spec).and_then(Value::text)
        }
        ("builtins.dict", Value::Dict(_)) => Some(value.clone()),
        ("builtins.dict", Value::List(pairs)) => {
            let entries = pairs.iter().map(|pair| match pair {
                Value::List(pair) => Some((pair.first()?.clone(), pair.get(1)?.clone())),
                _ => None,
            });
            Some(Value::Dict(Rc::new(entries.collect::<Option<_>>()?)))
        }
        ("builtins.str.maketrans", Value::Dict(_)) => Some(value.clone()),
        ("builtins.str.maketrans", Value::Text(from)) => {
            let to = second?.as_text()?;
            let code = |c: char| Value::Int(i64::from(u32::from(c)));
            let gone = single(args.at(2)).and_then(Value::as_text);
            let gone: Vec<char> = gone.iter().flat_map(|gone| gone.chars()).collect();
            let gone = gone.into_iter().map(|c| (code(c), Value::Nothing));
            let pairs = from
                .chars()
                .zip(to.chars())
                .map(|(from, to)| (code(from), code(to)))
                .chain(gone);
            Some(Value::Dict(Rc::new(pairs.collect())))
        }
        ("builtins.next", Value::List(items)) => items.first().cloned(),
        ("array.array", _) => second.cloned(),
        ("builtins.sum", Value::List(items)) if second.is_some() => {
            let Some(Value::List(start)) = second else {
                return None;
            };
            let lists = items
                .iter()
                .map(Value::rounds)
                .collect::<Option<Vec<_>>>()?;
            Value::list(
                start
                    .iter()
                    .cloned()
                    .chain(lists.into_iter().flatten())
                    .collect(),
            )
        }
        ("builtins.sum", Value::List(items)) => {
            let total = items.iter().try_fold(0_i64, |sum, item| match item {
                Value::Int(int) => sum.checked_add(*int),
                _ => None,
            });
            total.map(Value::Int)
        }
        ("shlex.quote", Value::Text(_)) => Some(value.clone()),
        ("json.loads", Value::Text(text)) => from_json(&serde_json::from_str(text).ok()?, 0),
        ("os.path.dirname", Value::Text(text)) => {
            Value::text(text.rsplit_once('/').map_or("", |(parent, _)| parent))
        }
        ("os.path.basename", Value::Text(text)) => {
            Value::text(text.rsplit('/').next().unwrap_or(""))
        }
        _ => of_items(name, value, args),
    }
}

/// Functions over the items of something.
fn of_items<'a>(name: &str, value: &Value<'a>, args: &Args<'a>) -> Option<Value<'a>> {
    let items = value.rounds()?;
    let items = match name {
        "builtins.list" | "builtins.tuple" | "builtins.set" | "builtins.frozenset" => items,
        "builtins.reversed" => items.into_iter().rev().collect(),
        "builtins.sorted" => sorted(items, args)?,
        "builtins.enumerate" => {
            let numbered = items.into_iter().enumerate().filter_map(|(index, item)| {
                let index = i64::try_from(index).ok()?;
                Some(Value::List(Rc::new(vec![Value::Int(index), item])))
            });
            numbered.collect()
        }
        "builtins.zip" => {
            let lists: Vec<_> = args
                .positional
                .iter()
                .map(|values| single(values).and_then(Value::rounds))
                .collect::<Option<_>>()?;
            let shortest = lists.iter().map(Vec::len).min()?;
            let row = |index: usize| {
                lists
                    .iter()
                    .filter_map(|list| list.get(index).cloned())
                    .collect()
            };
            (0..shortest.min(MAX_ITEMS))
                .map(|index| Value::List(Rc::new(row(index))))
                .collect()
        }
        "itertools.chain" => {
            let lists: Vec<_> = args
                .positional
                .iter()
                .map(|values| single(values).and_then(Value::rounds))
                .collect::<Option<_>>()?;
            lists.into_iter().flatten().collect()
        }
        "itertools.chain.from_iterable" => items
            .iter()
            .map(Value::rounds)
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect(),
        "shlex.split" => {
            let text = value.as_text()?;
            text.split_whitespace()
                .filter_map(|word| Value::text(word.trim_matches(['"', '\''])))
                .collect()
        }
        _ => return None,
    };
    Value::list(items)
}

fn sorted<'a>(items: Vec<Value<'a>>, args: &Args<'a>) -> Option<Vec<Value<'a>>> {
    if !args.named.is_empty() {
        // A key decides: each place may hold any of them.
        let any = Value::item(items.clone().into());
        return (items.len() <= 8).then(|| vec![any; items.len()]);
    }
    let mut keyed = Vec::new();
    for item in items {
        let key = match &item {
            Value::Int(int) => (*int, String::new()),
            Value::Text(text) => (0, text.to_string()),
            _ => return None,
        };
        keyed.push((key, item));
    }
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    Some(keyed.into_iter().map(|(_, item)| item).collect())
}

fn range<'a>(args: &Args<'a>) -> Option<Value<'a>> {
    let mut bounds = Vec::new();
    for values in &args.positional {
        let Some(Value::Int(int)) = single(values) else {
            return None;
        };
        bounds.push(*int);
    }
    let (start, stop, step) = match *bounds.as_slice() {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] if step != 0 => (start, stop, step),
        _ => return None,
    };
    let (low, high) = if step > 0 {
        (start, stop)
    } else {
        (stop, start)
    };
    let span = if low < high { low.abs_diff(high) } else { 0 };
    let count = usize::try_from(span.div_ceil(step.unsigned_abs())).ok()?;
    if count > MAX_ITEMS {
        return None;
    }
    let items = std::iter::successors(Some(start), |at| at.checked_add(step));
    Value::list(items.take(count).map(Value::Int).collect())
}

/// `bytes([104, 105])`, `bytes("x", "utf-8")`, `bytes(3)`.
pub(crate) fn to_bytes<'a>(value: &Value<'a>, encoding: Option<&Value<'a>>) -> Option<Value<'a>> {
    match value {
        Value::Bytes(_) => Some(value.clone()),
        Value::Text(text) if encoding.is_some() => Value::bytes(text.as_bytes()),
        Value::List(items) => {
            let bytes = items.iter().map(|item| match item {
                Value::Int(byte) => u8::try_from(*byte).ok(),
                _ => None,
            });
            Value::bytes(bytes.collect::<Option<Vec<u8>>>()?)
        }
        Value::Int(len) if (0..=4096).contains(len) => {
            Value::bytes(vec![0; usize::try_from(*len).ok()?])
        }
        _ => None,
    }
}

fn from_json<'a>(json: &serde_json::Value, depth: usize) -> Option<Value<'a>> {
    if depth > 32 {
        return None;
    }
    match json {
        serde_json::Value::String(text) => Value::text(text.as_str()),
        serde_json::Value::Number(number) => number.as_i64().map(Value::Int),
        serde_json::Value::Bool(truth) => Some(Value::Int(i64::from(*truth))),
        serde_json::Value::Null => Some(Value::Nothing),
        serde_json::Value::Array(items) => {
            let items = items
                .iter()
                .map(|item| from_json(item, depth + 1))
                .collect::<Option<_>>()?;
            Value::list(items)
        }
        serde_json::Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| {
                Some((Value::text(key.as_str())?, from_json(value, depth + 1)?))
            });
            Some(Value::Dict(Rc::new(entries.collect::<Option<_>>()?)))
        }
    }
}

fn path<'a>(name: &str, args: &Args<'a>) -> Values<'a> {
    match name {
        "pathlib.Path.home" => return Value::text("~").into_iter().collect(),
        "pathlib.Path" | "pathlib.PurePath" | "pathlib.PosixPath" | "os.path.join" => {}
        _ => return Values::new(),
    }
    let mut path = String::new();
    for values in &args.positional {
        match crate::resolve::text_of(values) {
            Some(text) => path = join_path(&path, &text),
            // The part of a path that is known may say enough.
            None => {
                path = join_path(&path, "…");
            }
        }
    }
    if path.is_empty() || path.starts_with('…') {
        return Values::new();
    }
    Value::text(path).into_iter().collect()
}

/// Functions that unpack; `None` when the name is none of them.
fn unpacked<'a>(resolver: &mut Resolver<'a>, name: &str, args: &Args<'a>) -> Option<Values<'a>> {
    let decoder = codec::decoder(name)?;
    let Some(value) = single(args.get(0, &["s", "data", "obj", "string"])) else {
        return Some(Values::new());
    };
    let codec_name = args.get(1, &["encoding"]).first().and_then(Value::as_text);
    let bytes: Rc<[u8]> = match value {
        Value::Text(text) => text.as_bytes().into(),
        Value::Bytes(bytes) => Rc::clone(bytes),
        _ => return Some(Values::new()),
    };
    let text_in = matches!(value, Value::Text(_));
    let out = codec::decode(decoder, codec_name.as_deref(), &bytes, text_in);
    let values = match out {
        codec::Out::Bytes(bytes) if resolver.allowance.take(bytes.len()) => {
            Value::bytes(bytes).into_iter().collect()
        }
        codec::Out::Text(text) if resolver.allowance.take(text.len()) => {
            Value::text(text).into_iter().collect()
        }
        codec::Out::TooLong | codec::Out::Bytes(_) | codec::Out::Text(_) => {
            Values::One(Value::name(HIDDEN))
        }
        codec::Out::Bad => Values::new(),
    };
    Some(values)
}
