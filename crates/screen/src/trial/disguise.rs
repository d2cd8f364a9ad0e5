//! Twelve ways to write a program differently that does the same.

use std::io::Write as _;

use base64::Engine as _;

use super::Dice;
use super::edits::{Sites, quoted, replace};

/// A way to rewrite a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Aliases,
    SplitStrings,
    Getattr,
    Encodings,
    Wrappers,
    Lambdas,
    Decorators,
    ClassAttributes,
    StarImports,
    ExecLayers,
    UnicodeNames,
    DeadCode,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Aliases,
        Self::SplitStrings,
        Self::Getattr,
        Self::Encodings,
        Self::Wrappers,
        Self::Lambdas,
        Self::Decorators,
        Self::ClassAttributes,
        Self::StarImports,
        Self::ExecLayers,
        Self::UnicodeNames,
        Self::DeadCode,
    ];

    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aliases => "aliases",
            Self::SplitStrings => "split strings",
            Self::Getattr => "getattr",
            Self::Encodings => "encodings",
            Self::Wrappers => "wrappers",
            Self::Lambdas => "lambdas",
            Self::Decorators => "decorators",
            Self::ClassAttributes => "class attributes",
            Self::StarImports => "star imports",
            Self::ExecLayers => "exec layers",
            Self::UnicodeNames => "unicode names",
            Self::DeadCode => "dead code",
        }
    }
}

type Edit = (usize, usize, String);

/// A program rewritten so that it does the same; nothing when there is nothing to rewrite in this way.
/// The same seed gives the same text.
pub fn disguise(source: &str, kind: Kind, seed: u64) -> Option<String> {
    let sites = Sites::of(source)?;
    let mut dice = Dice::new(seed);
    let maker = Maker {
        source,
        sites,
        dice: &mut dice,
    };
    let out = match kind {
        Kind::Aliases => maker.aliases(),
        Kind::SplitStrings => maker.split_strings(),
        Kind::Getattr => maker.getattr(),
        Kind::Encodings => maker.encodings(),
        Kind::Wrappers => maker.wrappers(),
        Kind::Lambdas => maker.lambdas(),
        Kind::Decorators => maker.decorators(),
        Kind::ClassAttributes => maker.class_attributes(),
        Kind::StarImports => maker.star_imports(),
        Kind::ExecLayers => Some(maker.exec_layers()),
        Kind::UnicodeNames => maker.unicode_names(),
        Kind::DeadCode => Some(maker.dead_code()),
    }?;
    (out != source).then_some(out)
}

struct Maker<'s, 'd> {
    source: &'s str,
    sites: Sites,
    dice: &'d mut Dice,
}

fn edit(range: ruff_text_size::TextRange, text: String) -> Edit {
    (range.start().to_usize(), range.end().to_usize(), text)
}

impl<'s> Maker<'s, '_> {
    fn slice(&self, range: ruff_text_size::TextRange) -> &'s str {
        self.source
            .get(range.start().to_usize()..range.end().to_usize())
            .unwrap_or("")
    }

    fn finish(&self, preface: &str, mut edits: Vec<Edit>) -> Option<String> {
        if edits.is_empty() {
            return None;
        }
        if !preface.is_empty() {
            let start = self.sites.body_start;
            edits.push((start, start, preface.to_owned()));
        }
        Some(replace(self.source, edits))
    }

    fn aliases(self) -> Option<String> {
        let (mut edits, mut preface) = (Vec::new(), String::new());
        let mut renamed: Vec<(String, String)> = Vec::new();
        for (index, import) in self.sites.imports.iter().enumerate() {
            match &import.names {
                None if self.sites.only_imported(&import.bound) => {
                    let alias = format!("_m{index}");
                    edits.push(edit(
                        import.range,
                        format!("import {} as {alias}", import.module),
                    ));
                    renamed.push((import.bound.clone(), alias));
                }
                Some(names)
                    if names.iter().all(|(name, alias)| {
                        name != "*" && self.sites.only_imported(alias.as_ref().unwrap_or(name))
                    }) =>
                {
                    let mut parts = Vec::new();
                    for (at, (name, alias)) in names.iter().enumerate() {
                        let new = format!("_n{index}_{at}");
                        parts.push(format!("{name} as {new}"));
                        renamed.push((alias.clone().unwrap_or_else(|| name.clone()), new));
                    }
                    edits.push(edit(
                        import.range,
                        format!("from {} import {}", import.module, parts.join(", ")),
                    ));
                }
                _ => {}
            }
        }
        for (index, builtin) in ["open", "eval", "exec", "compile", "__import__"]
            .into_iter()
            .enumerate()
        {
            let used = self.sites.names.iter().any(|(_, name)| name == builtin);
            if used && !self.sites.bound.contains_key(builtin) {
                preface.push_str(&format!("_b{index} = {builtin}\n_c{index} = _b{index}\n"));
                renamed.push((builtin.to_owned(), format!("_c{index}")));
            }
        }
        for (range, name) in &self.sites.names {
            if let Some((_, new)) = renamed.iter().find(|(old, _)| old == name) {
                edits.push(edit(*range, new.clone()));
            }
        }
        self.finish(&preface, edits)
    }

    fn split_strings(self) -> Option<String> {
        let mut edits = Vec::new();
        for (range, text) in &self.sites.strings {
            if text.chars().count() >= 2 {
                edits.push(edit(*range, split(text, self.dice)));
            }
        }
        self.finish("", edits)
    }

    fn getattr(self) -> Option<String> {
        let mut edits = Vec::new();
        for (range, base, name) in &self.sites.attributes {
            let base = self.slice(*base);
            let way = self.dice.roll(3);
            let name = split(name, self.dice);
            edits.push(edit(
                *range,
                match way {
                    0 => format!("getattr({base}, {name})"),
                    1 => format!("vars({base})[{name}]"),
                    _ => format!("{base}.__dict__[{name}]"),
                },
            ));
        }
        let preface = "";
        // `vars` shows what the object itself holds; that is all of a module, and not of a class.
        let modules: Vec<&str> = self
            .sites
            .imports
            .iter()
            .filter(|import| import.names.is_none())
            .map(|import| import.bound.as_str())
            .collect();
        for (at, (range, base, name)) in self.sites.attributes.iter().enumerate() {
            let base = self.slice(*base);
            if !modules.contains(&base)
                && let Some(slot) = edits.get_mut(at)
            {
                *slot = edit(*range, format!("getattr({base}, {})", quoted(name)));
            }
        }
        self.finish(preface, edits)
    }

    fn encodings(self) -> Option<String> {
        let mut edits = Vec::new();
        for (range, text) in &self.sites.strings {
            if text.len() >= 2 {
                edits.push(edit(*range, encoded(text, self.dice)));
            }
        }
        self.finish("import base64 as _e64, codecs as _ec, zlib as _ez\n", edits)
    }

    fn wrappers(self) -> Option<String> {
        let mut edits = Vec::new();
        let mut preface = String::from(
            "def _call(_f, *_a, **_k):\n    return _f(*_a, **_k)\ndef _same(_v):\n    _w = _v\n    return _w\n",
        );
        for (index, call) in self.sites.calls.iter().enumerate() {
            let callee = self.slice(call.callee);
            if self.dice.roll(2) == 0 {
                let comma = if call.empty { "" } else { ", " };
                edits.push((
                    call.callee.start().to_usize(),
                    call.inside,
                    format!("_call({callee}{comma}"),
                ));
            } else {
                preface.push_str(&format!(
                    "def _w{index}(*_a, **_k):\n    return {callee}(*_a, **_k)\n"
                ));
                edits.push(edit(call.callee, format!("_w{index}")));
            }
        }
        for (range, text) in &self.sites.strings {
            edits.push(edit(*range, format!("_same({})", quoted(text))));
        }
        self.finish(&preface, edits)
    }

    fn lambdas(self) -> Option<String> {
        let mut edits = Vec::new();
        for call in &self.sites.calls {
            let callee = self.slice(call.callee);
            edits.push(edit(
                call.callee,
                format!("(lambda *_a, **_k: {callee}(*_a, **_k))"),
            ));
        }
        for (range, text) in &self.sites.strings {
            edits.push(edit(*range, format!("(lambda: {})()", quoted(text))));
        }
        self.finish("", edits)
    }

    fn decorators(self) -> Option<String> {
        let mut edits = Vec::new();
        let mut preface = String::from(
            "def _deco(_g):\n    def _inner(*_a, **_k):\n        return _g(*_a, **_k)\n    return _inner\n",
        );
        for (index, call) in self.sites.calls.iter().enumerate() {
            let callee = self.slice(call.callee);
            preface.push_str(&format!(
                "@_deco\ndef _d{index}(*_a, **_k):\n    return {callee}(*_a, **_k)\n"
            ));
            edits.push(edit(call.callee, format!("_d{index}")));
        }
        self.finish(&preface, edits)
    }

    fn class_attributes(self) -> Option<String> {
        let mut edits = Vec::new();
        let mut preface = String::from("class _K:\n    pass\n");
        let mut object =
            String::from("class _S:\n    def __init__(self):\n        self.none = None\n");
        for (index, (range, text)) in self.sites.strings.iter().enumerate() {
            if self.dice.roll(2) == 0 {
                preface.push_str(&format!("_K.s{index} = {}\n", quoted(text)));
                edits.push(edit(*range, format!("_K.s{index}")));
            } else {
                object.push_str(&format!("        self.s{index} = {}\n", quoted(text)));
                edits.push(edit(*range, format!("_s.s{index}")));
            }
        }
        object.push_str("_s = _S()\n");
        preface.push_str(&object);
        for (index, import) in self.sites.imports.iter().enumerate() {
            let alone = self
                .sites
                .statements
                .contains(&import.range.start().to_usize());
            if import.names.is_some() || !self.sites.only_imported(&import.bound) || !alone {
                continue;
            }
            let mut class = format!(
                "{}\nclass _C{index}:\n    module = {}\n",
                self.slice(import.range),
                import.bound
            );
            let mut used = false;
            for (range, base, name) in &self.sites.attributes {
                if self.slice(*base) == import.bound {
                    class.push_str(&format!("    x_{name} = {}.{name}\n", import.bound));
                    edits.push(edit(*range, format!("_C{index}.x_{name}")));
                    used = true;
                }
            }
            if used && self.ends_line(import.range.end().to_usize()) {
                edits.push(edit(import.range, class.trim_end().to_owned()));
            } else if used {
                edits.retain(|(_, _, text)| !text.starts_with(&format!("_C{index}.")));
            }
        }
        self.finish(&preface, edits)
    }

    fn ends_line(&self, at: usize) -> bool {
        let rest = self.source.get(at..).unwrap_or("");
        rest.split('\n')
            .next()
            .is_some_and(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    }

    fn star_imports(self) -> Option<String> {
        const OPEN: &[&str] = &[
            "os",
            "subprocess",
            "shutil",
            "socket",
            "sys",
            "base64",
            "psutil",
            "ctypes",
            "glob",
            "requests",
        ];
        let mut edits = Vec::new();
        let mut starred = false;
        for import in &self.sites.imports {
            match &import.names {
                Some(names)
                    if names.iter().all(|(name, alias)| {
                        alias.is_none() && name != "*" && !name.starts_with('_')
                    }) && import.module == "pathlib" =>
                {
                    edits.push(edit(
                        import.range,
                        format!("from {} import *", import.module),
                    ));
                }
                None if !starred
                    && import.bound == import.module
                    && OPEN.contains(&import.module.as_str())
                    && self.sites.only_imported(&import.bound)
                    && self.ends_line(import.range.end().to_usize()) =>
                {
                    let uses: Vec<_> = self
                        .sites
                        .attributes
                        .iter()
                        .filter(|(_, base, _)| self.slice(*base) == import.bound)
                        .collect();
                    let plain = |name: &str| {
                        !name.starts_with('_')
                            && name != "open"
                            && !self.sites.bound.contains_key(name)
                            && !crate::names::is_builtin(name)
                    };
                    if uses.is_empty()
                        || !uses.iter().all(|(_, _, name)| plain(name))
                        || !self
                            .sites
                            .statements
                            .contains(&import.range.start().to_usize())
                    {
                        continue;
                    }
                    let kept = self
                        .sites
                        .names
                        .iter()
                        .filter(|(_, name)| *name == import.bound)
                        .count()
                        > uses.len();
                    let keep = if kept {
                        format!("\nimport {}", import.module)
                    } else {
                        String::new()
                    };
                    edits.push(edit(
                        import.range,
                        format!(
                            "from {} import *\nfrom builtins import *{keep}",
                            import.module
                        ),
                    ));
                    edits.extend(
                        uses.iter()
                            .map(|(range, _, name)| edit(*range, name.clone())),
                    );
                    starred = true;
                }
                _ => {}
            }
        }
        self.finish("", edits)
    }

    fn exec_layers(self) -> String {
        let mut source = self.source.to_owned();
        for _ in 0..=self.dice.roll(3) {
            source = match self.dice.roll(4) {
                0 => format!("exec({})\n", quoted(&source)),
                1 => format!(
                    "import base64 as _x\nexec(_x.b64decode({}))\n",
                    quoted(&base64_of(source.as_bytes()))
                ),
                2 => format!(
                    "exec(compile(__import__('zlib').decompress(__import__('base64').b64decode({})), '<s>', 'exec'))\n",
                    quoted(&base64_of(&deflated(source.as_bytes())))
                ),
                _ => format!(
                    "_p = bytes.fromhex({})\n_q = _p.decode()\nexec(_q)\n",
                    quoted(&crate::codec::to_hex(source.as_bytes()))
                ),
            };
        }
        source
    }

    fn unicode_names(self) -> Option<String> {
        let mut edits = Vec::new();
        for (range, name) in &self.sites.identifiers {
            edits.push(edit(
                *range,
                name.chars()
                    .map(|c| {
                        if self.dice.roll(2) == 0 {
                            mathematical(c)
                        } else {
                            c
                        }
                    })
                    .collect(),
            ));
        }
        self.finish("", edits)
    }

    fn dead_code(self) -> String {
        let mut edits: Vec<Edit> = Vec::new();
        let modules: Vec<String> = self
            .sites
            .imports
            .iter()
            .filter(|import| import.names.is_none())
            .map(|import| import.bound.clone())
            .collect();
        let mut preface = String::from(
            "if 0:\n    def eval(*_a):\n        return _a\n    def open(*_a):\n        return None\n    exec = compile = __import__ = print\ndef _unused(os, open, eval):\n    os = open = eval = None\n    return [os, open, eval]\n",
        );
        for module in &modules {
            preface.push_str(&format!("while False:\n    {module} = None\n"));
        }
        edits.push((self.sites.body_start, self.sites.body_start, preface));
        for &at in self.sites.statements.iter().skip(1) {
            if self.dice.roll(3) == 0 {
                let module = self
                    .dice
                    .pick(&modules)
                    .cloned()
                    .unwrap_or_else(|| "_z".to_owned());
                edits.push((at, at, format!("if not 1:\n    {module} = 'nothing'\n")));
            }
        }
        replace(self.source, edits)
    }
}

fn split(text: &str, dice: &mut Dice) -> String {
    let chars: Vec<char> = text.chars().collect();
    let middle = 1 + dice.roll(chars.len().saturating_sub(1));
    let (left, right) = chars.split_at(middle.min(chars.len()));
    let (left, right) = (
        left.iter().collect::<String>(),
        right.iter().collect::<String>(),
    );
    match dice.roll(6) {
        0 => format!("({} + {})", quoted(&left), quoted(&right)),
        1 => format!("''.join([{}, {}])", quoted(&left), quoted(&right)),
        2 => format!("{}[::-1]", quoted(&chars.iter().rev().collect::<String>())),
        3 => format!("('%s%s' % ({}, {}))", quoted(&left), quoted(&right)),
        4 => format!("'{{}}{{}}'.format({}, {})", quoted(&left), quoted(&right)),
        _ => format!(
            "(lambda _p, _q: f'{{_p}}{{_q}}')({}, {})",
            quoted(&left),
            quoted(&right)
        ),
    }
}

fn encoded(text: &str, dice: &mut Dice) -> String {
    let bytes = text.as_bytes();
    match dice.roll(8) {
        0 => format!("_e64.b64decode({}).decode()", quoted(&base64_of(bytes))),
        1 => format!(
            "bytes.fromhex({}).decode()",
            quoted(&crate::codec::to_hex(bytes))
        ),
        2 if text.is_ascii() => format!(
            "_ec.decode({}, 'rot13')",
            quoted(&crate::codec::rot13(bytes))
        ),
        3 => {
            let codes: Vec<String> = text.chars().map(|c| u32::from(c).to_string()).collect();
            format!("''.join(map(chr, [{}]))", codes.join(", "))
        }
        4 => {
            let key = 1 + dice.roll(100);
            let codes: Vec<String> = bytes
                .iter()
                .map(|&byte| (usize::from(byte) ^ key).to_string())
                .collect();
            format!(
                "bytes([_c ^ {key} for _c in [{}]]).decode()",
                codes.join(", ")
            )
        }
        5 => format!(
            "_ez.decompress(_e64.b64decode({})).decode()",
            quoted(&base64_of(&deflated(bytes)))
        ),
        6 if !bytes.is_empty() => format!(
            "(0x{}).to_bytes({}, 'big').decode()",
            crate::codec::to_hex(bytes),
            bytes.len()
        ),
        _ => {
            let codes: Vec<String> = bytes.iter().map(u8::to_string).collect();
            format!("bytes([{}]).decode()", codes.join(", "))
        }
    }
}

fn base64_of(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    // Writing to memory cannot fail; an empty result would show in the rates.
    // Writing to memory cannot fail.
    packer
        .write_all(bytes)
        .and_then(|()| packer.finish())
        .unwrap_or_default()
}

/// A letter that Python reads as this one.
fn mathematical(c: char) -> char {
    let (first, start) = match c {
        'a'..='z' => (u32::from('a'), 0x1d5ba),
        'A'..='Z' => (u32::from('A'), 0x1d5a0),
        _ => return c,
    };
    char::from_u32(start + u32::from(c) - first).unwrap_or(c)
}
