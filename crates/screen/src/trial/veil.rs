//! A second set of rewritings, built apart from `disguise`, so that what is seen through is the kind of
//! trick and not its spelling there.

use std::io::Write as _;

use super::Dice;
use super::edits::{Sites, quoted, replace};

/// What is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Veil {
    Texts,
    Attributes,
    Builtins,
    Everything,
    Wrapped,
    Executed,
}

impl Veil {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Texts,
        Self::Attributes,
        Self::Builtins,
        Self::Everything,
        Self::Wrapped,
        Self::Executed,
    ];

    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Texts => "veiled texts",
            Self::Attributes => "veiled attributes",
            Self::Builtins => "veiled builtins",
            Self::Everything => "veiled everything",
            Self::Wrapped => "wrapped whole",
            Self::Executed => "executed whole",
        }
    }
}

/// A program rewritten so that it does the same; nothing when there is nothing to rewrite in this way.
/// The same seed gives the same text.
pub fn veil(source: &str, what: Veil, seed: u64) -> Option<String> {
    let sites = Sites::of(source)?;
    let mut dice = Dice::new(seed.wrapping_add(77));
    let mut edits = Vec::new();
    if matches!(what, Veil::Texts | Veil::Everything) {
        for (range, text) in sites.strings.iter().filter(|(_, text)| text.len() >= 2) {
            let new = text_veiled(text, &mut dice);
            edits.push((range.start().to_usize(), range.end().to_usize(), new));
        }
    }
    if matches!(what, Veil::Attributes | Veil::Everything) {
        for (range, base, name) in &sites.attributes {
            let base = source.get(base.start().to_usize()..base.end().to_usize())?;
            let module = sites
                .imports
                .iter()
                .find(|import| import.names.is_none() && import.bound == base);
            if let Some(module) = module {
                let new = attribute_veiled(base, &module.module, name, &mut dice);
                edits.push((range.start().to_usize(), range.end().to_usize(), new));
            }
        }
    }
    if matches!(what, Veil::Builtins | Veil::Everything) {
        for (range, name) in &sites.names {
            let builtin = matches!(
                name.as_str(),
                "open" | "eval" | "exec" | "compile" | "__import__"
            );
            if builtin && !sites.bound.contains_key(name) {
                let new = builtin_veiled(name, &mut dice);
                edits.push((range.start().to_usize(), range.end().to_usize(), new));
            }
        }
    }
    match what {
        Veil::Wrapped => wrapped(source, &mut dice),
        Veil::Executed => Some(executed(source, &mut dice)),
        _ if edits.is_empty() => None,
        _ => Some(replace(source, edits)),
    }
}

/// A text as an expression that gives it.
fn text_veiled(text: &str, dice: &mut Dice) -> String {
    let chars: Vec<char> = text.chars().collect();
    let (left, right) = chars.split_at(1 + dice.roll(chars.len() - 1));
    let (left, right): (String, String) = (left.iter().collect(), right.iter().collect());
    let codes = |step: u32| {
        let codes: Vec<String> = chars
            .iter()
            .map(|&c| (u32::from(c) + step).to_string())
            .collect();
        codes.join(", ")
    };
    let bytes = text.as_bytes();
    let hex = crate::codec::to_hex(bytes);
    match dice.roll(26) {
        0 => format!(
            "__import__('base64').b85decode({}).decode()",
            quoted(&base85(bytes))
        ),
        1 => format!(
            "__import__('zlib').decompress(bytes.fromhex('{}')).decode('utf-8')",
            crate::codec::to_hex(&deflated(bytes))
        ),
        2 => format!("''.join(chr(_c) for _c in ({},))", codes(0)),
        3 => format!("''.join([chr(_c - 7) for _c in [{}]])", codes(7)),
        4 => format!(
            "''.join(reversed({}))",
            quoted(&chars.iter().rev().collect::<String>())
        ),
        5 => format!("('%s%s' % ({}, {}))", quoted(&left), quoted(&right)),
        6 => format!(
            "f\"{{{}}}{{{}}}\"",
            quoted_simple(&left),
            quoted_simple(&right)
        ),
        7 if !text.contains(['#', '~']) => format!(
            "{}.replace('#~', '')",
            quoted(
                &chars
                    .iter()
                    .map(char::to_string)
                    .collect::<Vec<_>>()
                    .join("#~")
            )
        ),
        8 => format!(
            "{}[1::2]",
            quoted(&chars.iter().flat_map(|&c| ['q', c]).collect::<String>())
        ),
        9 if !text.contains('|') => format!(
            "''.join({}.split('|'))",
            quoted(
                &chars
                    .iter()
                    .map(char::to_string)
                    .collect::<Vec<_>>()
                    .join("|")
            )
        ),
        10 => format!("{{'a': 'x', 'k': {}}}['k']", quoted(text)),
        11 => format!("'{{1}}{{0}}'.format({}, {})", quoted(&right), quoted(&left)),
        12 => format!(
            "'{{a}}{{b}}'.format(**{{'a': {}, 'b': {}}})",
            quoted(&left),
            quoted(&right)
        ),
        13 => format!(
            "__import__('functools').reduce(lambda _a, _b: _a + _b, [{}, {}])",
            quoted(&left),
            quoted(&right)
        ),
        14 => format!("str(bytes.fromhex('{hex}'), 'utf-8')"),
        15 => format!("__import__('binascii').unhexlify(b'{hex}').decode()"),
        16 => format!(
            "__import__('urllib.parse', fromlist=['x']).unquote('{}')",
            bytes
                .iter()
                .map(|byte| format!("%{byte:02x}"))
                .collect::<String>()
        ),
        17 => format!("next(iter([{}]))", quoted(text)),
        18 => format!("(lambda _a: (lambda: _a))({})()", quoted(text)),
        19 => format!("({}, 'x')[0]", quoted(text)),
        20 => format!(
            "__import__('json').loads({})",
            quoted(&format!(
                "\"{}\"",
                chars
                    .iter()
                    .map(|&c| format!("\\u{:04x}", u32::from(c).min(0xffff)))
                    .collect::<String>()
            ))
        ),
        21 if text.is_ascii() => format!(
            "{}.translate({{ord('^'): None}})",
            quoted(&format!("{left}^{right}"))
        ),
        22 => format!(
            "(bytearray({}) + bytearray({})).decode()",
            byte_list(left.as_bytes()),
            byte_list(right.as_bytes())
        ),
        23 => format!(
            "__import__('html').unescape('{}')",
            chars
                .iter()
                .map(|&c| format!("&#{};", u32::from(c)))
                .collect::<String>()
        ),
        24 => format!("(_t := {} + {})", quoted(&left), quoted(&right)),
        _ => format!(
            "bytes(map(lambda _c, _k=91: _c ^ _k, {})).decode()",
            byte_list(&bytes.iter().map(|byte| byte ^ 91).collect::<Vec<_>>())
        ),
    }
}

/// A text for the inside of an f-string of older Pythons: no backslashes and no double quotes.
fn quoted_simple(text: &str) -> String {
    let plain = !text.contains(['"', '\'', '\\', '\n', '{', '}']);
    if plain {
        format!("'{text}'")
    } else {
        format!("chr(0)[:0] + {}", chr_sum(text))
    }
}

fn chr_sum(text: &str) -> String {
    let parts: Vec<String> = text
        .chars()
        .map(|c| format!("chr({})", u32::from(c)))
        .collect();
    parts.join(" + ")
}

fn byte_list(bytes: &[u8]) -> String {
    let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", list.join(", "))
}

/// `module.name` as another expression that gives it.
fn attribute_veiled(base: &str, module: &str, name: &str, dice: &mut Dice) -> String {
    let key = text_veiled(name, dice);
    match dice.roll(18) {
        0 => format!("getattr({base}, {key})"),
        1 => format!("{base}.__dict__[{key}]"),
        2 => format!("vars({base}).get({key})"),
        3 => format!("{base}.__getattribute__({key})"),
        4 => format!("__import__('operator').attrgetter({key})({base})"),
        5 => format!("__import__('sys').modules['{module}'].{name}"),
        6 => format!("__import__('importlib').import_module('{module}').{name}"),
        7 => format!("__import__('functools').partial({base}.{name})"),
        8 => format!("{{'k': {base}.{name}}}['k']"),
        9 => format!("(lambda _g={base}.{name}: _g)()"),
        10 => format!("globals()['{base}'].{name}"),
        11 => format!("next(iter([{base}.{name}]))"),
        12 => format!("type('_T', (), {{'f': staticmethod({base}.{name})}}).f"),
        13 => format!("eval('{base}.{name}')"),
        14 => format!("object.__getattribute__({base}, {key})"),
        15 => format!("({base}.{name} if 1 < 2 else None)"),
        16 => format!("[_f for _f in ({base}.{name},)][0]"),
        _ => format!("getattr(*[{base}, {key}])"),
    }
}

fn builtin_veiled(name: &str, dice: &mut Dice) -> String {
    let key = text_veiled(name, dice);
    match dice.roll(8) {
        0 => format!("getattr(__import__('builtins'), {key})"),
        1 => format!("vars(__import__('builtins'))[{key}]"),
        2 => format!("__import__('builtins').__dict__.get({key})"),
        3 => format!("(lambda *_a, **_k: {name}(*_a, **_k))"),
        4 => format!("{{0: {name}}}[0]"),
        5 => format!("__import__('functools').partial({name})"),
        6 => format!("getattr(globals()['__builtins__'], {key})"),
        _ => format!("(print, {name})[1]"),
    }
}

/// The whole program inside something that runs it.
fn wrapped(source: &str, dice: &mut Dice) -> Option<String> {
    let movable = !source.contains("global ")
        && !source.contains("import *")
        && !source.contains("__future__")
        && !source.contains("\"\"\"")
        && !source.contains("'''")
        && !source.contains("\\\n");
    if !movable || source.trim().is_empty() {
        return None;
    }
    let inside = |deep: usize| {
        let pad = " ".repeat(4 * deep);
        let lines: Vec<String> = source
            .lines()
            .map(|line| {
                if line.trim().is_empty() {
                    String::new()
                } else {
                    format!("{pad}{line}")
                }
            })
            .collect();
        lines.join("\n")
    };
    let (one, two) = (inside(1), inside(2));
    Some(match dice.roll(12) {
        0 => {
            format!("class _A:\n    def __init_subclass__(cls):\n{two}\nclass _B(_A):\n    pass\n")
        }
        1 => format!(
            "class _A:\n    def __enter__(self):\n{two}\n    def __exit__(self, *_e):\n        pass\nwith _A():\n    pass\n"
        ),
        2 => format!("def _g():\n{one}\n    yield 1\nfor _ in _g():\n    pass\n"),
        3 => format!("@lambda _f: _f()\ndef _run():\n{one}\n"),
        4 => format!(
            "class _D:\n    def __get__(self, _o, _t):\n{two}\nclass _E:\n    d = _D()\n_E.d\n"
        ),
        5 => format!("class _A:\n    def __call__(self):\n{two}\n_A()()\n"),
        6 => {
            format!("import threading as _t\ndef _run():\n{one}\n_t.Thread(target=_run).start()\n")
        }
        7 => format!("def _run():\n{one}\nlist(map(lambda _f: _f(), [_run]))\n"),
        8 => format!("def _outer():\n    def _run():\n{two}\n    return _run\n_outer()()\n"),
        9 => format!("import atexit as _x\ndef _run():\n{one}\n_x.register(_run)\n"),
        10 => format!("class _A:\n    @property\n    def p(self):\n{two}\n_A().p\n"),
        _ => format!("def _run():\n{one}\n[_v() for _v in {{'a': _run}}.values()]\n"),
    })
}

/// The whole program as a text that is run.
fn executed(source: &str, dice: &mut Dice) -> String {
    let bytes = source.as_bytes();
    match dice.roll(10) {
        0 => format!(
            "exec(__import__('base64').b85decode({}))\n",
            quoted(&base85(bytes))
        ),
        1 => format!(
            "import types\ntypes.FunctionType(compile({}, 'x', 'exec'), globals())()\n",
            quoted(source)
        ),
        2 => format!("eval(compile({}, '<x>', 'exec'))\n", quoted(source)),
        3 => format!(
            "getattr(__import__('builtins'), 'ex' + 'ec')({}[::-1])\n",
            quoted(&source.chars().rev().collect::<String>())
        ),
        4 => {
            let chars: Vec<char> = source.chars().collect();
            let parts: Vec<String> = chars
                .chunks(17)
                .map(|part| quoted(&part.iter().collect::<String>()))
                .collect();
            format!(
                "_p = []\nfor _x in [{}]:\n    _p.append(_x)\nexec(''.join(_p))\n",
                parts.join(", ")
            )
        }
        5 => format!(
            "_s = ''\nfor _c in {}:\n    _s += chr(_c ^ 42)\nexec(_s)\n",
            byte_list(
                &source
                    .chars()
                    .map(|c| u8::try_from(u32::from(c)).unwrap_or(b' ') ^ 42)
                    .collect::<Vec<_>>()
            )
        ),
        6 => format!(
            "import timeit\ntimeit.timeit({}, number=1)\n",
            quoted(source)
        ),
        7 => format!(
            "_k = lambda _b: exec(__import__('zlib').decompress(_b))\n_k(bytes.fromhex('{}'))\n",
            crate::codec::to_hex(&deflated(bytes))
        ),
        8 => format!("(lambda _e, _s: _e(_s))(exec, {})\n", quoted(source)),
        _ => format!(
            "class _L:\n    code = {}\n    def go(self):\n        exec(self.code, {{}})\n_L().go()\n",
            quoted(source)
        ),
    }
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    // Writing to memory cannot fail.
    packer
        .write_all(bytes)
        .and_then(|()| packer.finish())
        .unwrap_or_default()
}

/// Python's `base64.b85encode`.
fn base85(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 85] =
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    let mut out = String::new();
    for chunk in bytes.chunks(4) {
        let mut four = [0; 4];
        for (to, from) in four.iter_mut().zip(chunk) {
            *to = *from;
        }
        let mut value = u32::from_be_bytes(four);
        let mut digits = [0_u8; 5];
        for digit in digits.iter_mut().rev() {
            let index = usize::try_from(value % 85).unwrap_or(0);
            *digit = DIGITS.get(index).copied().unwrap_or(b'0');
            value /= 85;
        }
        let kept = digits.get(..chunk.len() + 1).unwrap_or_default();
        out.extend(kept.iter().map(|&digit| char::from(digit)));
    }
    out
}
