//! Programs that attack the analysis itself: one megabyte of every kind of nesting. Each must be
//! answered within seconds, without an abort; what nests is refused.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that reports"
)]

use std::time::{Duration, Instant};

use casemate_model::job::Language;
use casemate_model::screening::Screening;
use casemate_screen::{ScreenConfig, Source, screen};

const MIB: usize = 1024 * 1024;

fn look(source: &[u8]) -> (Screening, Duration) {
    let started = Instant::now();
    let source = Source {
        bytes: source,
        language: Language::Python,
        name: "a.py",
    };
    (screen(&source, &ScreenConfig::default()), started.elapsed())
}

fn filled(head: &str, unit: &str, tail: &str) -> String {
    let count = (MIB - head.len() - tail.len()) / unit.len();
    format!("{head}{}{tail}", unit.repeat(count))
}

fn staircase(unit: &str) -> String {
    let mut source = String::new();
    let mut depth = 0;
    while source.len() + depth + unit.len() + 2 < MIB {
        source.push_str(&" ".repeat(depth));
        source.push_str(unit);
        source.push('\n');
        depth += 1;
    }
    source
}

/// Everything that nests, at one megabyte.
fn nesting() -> Vec<(&'static str, String)> {
    let mut cases: Vec<(&'static str, String)> = [
        ("(", "x = ", "(", ""),
        ("[", "x = ", "[", ""),
        ("{", "x = ", "{", ""),
        ("(]", "x = ", "(]", ""),
        ("unary -", "x = ", "-", "1"),
        ("unary - +", "x = ", "-+", "1"),
        ("~", "x = ", "~", "1"),
        ("not", "x = ", "not ", "1"),
        ("await", "async def f():\n  ", "await ", "x"),
        ("yield", "def f():\n  ", "yield ", "x"),
        ("yield,", "def f():\n  ", "yield a,", "x"),
        ("attribute", "x = a", ".a", ""),
        ("call", "x = f", "()", ""),
        ("subscript", "x = f", "[0]", ""),
        ("nested subscript", "x = ", "a[", ""),
        ("nested call", "x = ", "f(", ""),
        ("+", "x = 1", "+1", ""),
        ("string +", "x = ''", "+'a'", ""),
        ("**", "x = 1", "**1", ""),
        ("@", "x = a", "@a", ""),
        ("lambda", "x = ", "lambda:", "1"),
        ("lambda with parameters", "x = ", "lambda a,b:", "1"),
        ("lambda in defaults", "x = ", "lambda a=", "1"),
        ("lambda, unfinished", "x = ", "lambda a,", "1"),
        ("conditional", "x = ", "1 if a else ", "1"),
        ("comparison", "x = 1", "<1", ""),
        ("or", "x = a", " or a", ""),
        ("and not", "x = a", " and not a", ""),
        ("is not", "x = a", " is not a", ""),
        (":=", "x = (a", ":=a", ")"),
        ("*", "x = ", "*", "a"),
        ("f-string", "x = ", "f'{", ""),
        ("f-string, both quotes", "x = ", "f\"{f'{", ""),
        ("format specification", "x = f'", "{a:", ""),
        ("t-string", "x = ", "t'{", ""),
        ("list in list", "x = ", "[a for b in ", ""),
        ("pattern", "match x:\n  case ", "[", ""),
        ("class pattern", "match x:\n  case ", "A(", ""),
        ("if on one line", "", "if a:", "b"),
        ("if a, on one line", "", "if a,:", "b"),
        ("while else", "", "while a:b\nelse:", "b"),
        ("class on one line", "", "class A:", "b"),
        ("for on one line", "", "for a in b:", "b"),
        ("with on one line", "", "with a:", "b"),
        ("try on one line", "", "try:", "b"),
        ("async", "", "async ", "def f(): pass"),
        ("elif", "if a:\n b\n", "elif a:\n b\n", ""),
        ("match", "", "match ", "a"),
        ("type parameters", "def f", "[T: ", ""),
        ("decorator call", "@a", "()", "\ndef f(): pass"),
        ("return", "def f():\n  ", "return ", "a"),
        ("unclosed with blocks", "x = (\n", "if a:\n", ""),
    ]
    .into_iter()
    .map(|(name, head, unit, tail)| (name, filled(head, unit, tail)))
    .collect();
    for (name, unit) in [
        ("if blocks", "if a:"),
        ("def blocks", "def f():"),
        ("class blocks", "class A:"),
        ("for blocks", "for a in b:"),
        ("with blocks", "with a:"),
        ("try blocks", "try:"),
        ("else blocks", "else:"),
    ] {
        cases.push((name, staircase(unit)));
        cases.push((name, format!("x = (\n{}", staircase(unit))));
    }
    cases
}

#[test]
fn a_megabyte_of_anything_that_nests_is_refused_in_time() {
    for (name, source) in nesting() {
        let source = source.get(..source.len().min(MIB)).unwrap();
        let (screening, took) = look(source.as_bytes());
        let rules: Vec<_> = screening
            .findings
            .iter()
            .map(|finding| finding.rule.as_str())
            .take(3)
            .collect();
        println!(
            "{name:<26} {:<8} {took:>10.1?} {rules:?}",
            screening.verdict.word()
        );
        assert!(took < Duration::from_secs(4), "{name} took {took:?}");
        let unreadable = screening
            .findings
            .iter()
            .any(|finding| finding.rule == "syntax-error");
        assert!(
            screening.verdict.word() == "refuse" || unreadable,
            "{name}: {rules:?}"
        );
    }
}

/// What is long and does not nest. It may take its time up to the deadline, and honest data passes.
#[test]
fn a_megabyte_of_anything_flat_is_answered_in_time() {
    for (name, head, unit, tail, passes) in [
        ("list of numbers", "x = [", "12.5, ", "]\n", true),
        ("list of lists", "x = [", "[1, 2, 'abc'],\n", "]\n", true),
        ("dictionary", "x = {", "'some key': -1.5,\n", "}\n", true),
        ("one string", "x = '", "abcdefgh", "'\n", true),
        ("joined strings", "x = (", "'abcdefgh'\n", ")\n", true),
        ("assignments", "", "value = compute(1, 2)\n", "", true),
        (
            "functions",
            "",
            "def f(a, b):\n    return a + b\n\n\n",
            "",
            true,
        ),
        ("comments", "", "# a comment about nothing\n", "", true),
        ("empty lines", "", "\n", "", true),
        ("f-string fields", "x = f'", "{a}", "'\n", true),
        ("decorators", "", "@a\n", "def f(): pass\n", true),
        ("backslashes", "x = 1", " + \\\n 1", "\n", false),
        ("semicolons", "", "a;", "\n", true),
        (
            "distinct calls",
            "import os\n",
            "os.getcwd().a.b.c\n",
            "",
            true,
        ),
    ] {
        let (screening, took) = look(filled(head, unit, tail).as_bytes());
        let rules: Vec<_> = screening
            .findings
            .iter()
            .map(|finding| finding.rule.as_str())
            .take(3)
            .collect();
        println!(
            "{name:<26} {:<8} {took:>10.1?} {rules:?}",
            screening.verdict.word()
        );
        assert!(took < Duration::from_secs(4), "{name} took {took:?}");
        assert_eq!(
            screening.verdict.word() == "pass",
            passes,
            "{name}: {rules:?}"
        );
    }
}

/// Names and texts that build on each other would take forever to follow.
#[test]
fn names_that_build_on_each_other_end_in_time() {
    let mut doubling = "a0 = 'x'\n".to_owned();
    let mut aliases = "import os\na0 = os\n".to_owned();
    let mut branches = "import os\na0 = os\n".to_owned();
    for index in 1..3000 {
        let before = index - 1;
        doubling.push_str(&format!(
            "a{index} = a{before} + a{before}\nopen(a{index})\n"
        ));
        aliases.push_str(&format!("a{index} = a{before}\n"));
        branches.push_str(&format!(
            "a{index} = a{before} if x else (a{before} or a{before})\na{index}.f()\n"
        ));
    }
    let circle = "a = b\nb = c\nc = a\na()\n".repeat(1000);
    for (name, source) in [
        ("doubling", doubling),
        ("aliases", aliases),
        ("branches", branches),
        ("circle", circle),
    ] {
        let (_, took) = look(source.as_bytes());
        println!("{name:<26} {took:>10.1?}");
        assert!(took < Duration::from_secs(3), "{name} took {took:?}");
    }
}

/// A small generator: the tests must not depend on a crate for random numbers, nor on luck.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

/// Bytes and tokens thrown together: an answer every time, and never one that says the analysis broke.
#[test]
fn garbage_is_answered_without_a_panic() {
    const PIECES: &[&str] = &[
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "f'",
        "'",
        "\"\"\"",
        "{x!r:>{w}}",
        "\n",
        "\n    ",
        "\t",
        "lambda ",
        "if ",
        "else ",
        ":",
        ",",
        ".",
        "a",
        "os",
        "import ",
        "from ",
        "*",
        "**",
        "=",
        ":=",
        "yield ",
        "await ",
        "async ",
        "def f",
        "class A",
        "match ",
        "case ",
        "_",
        "0x",
        "1e",
        "\\",
        "\r",
        "é",
        "\u{200d}",
        "# noqa",
        "@",
        "->",
        "%",
        "!ls",
        "?",
        "type X",
        "__import__('os')",
        ".system('ls')",
        "eval(",
        "exec('exec(\"1\")')",
        "open('/etc/shadow')",
        "try:",
        "except* ",
        "with ",
        "rf'''",
        "t'{",
        "b'\\xff'",
        "global a",
        "del ",
        "del a",
        "return ",
        "in ",
        "not ",
        "is ",
        "for x in ",
        "\x0c",
        "é(",
    ];
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..4000 {
        let mut bytes = Vec::new();
        for _ in 0..dice.roll(60) {
            if round % 3 == 0 {
                bytes.push(u8::try_from(dice.roll(256)).unwrap());
            } else {
                bytes.extend_from_slice(PIECES[dice.roll(PIECES.len())].as_bytes());
            }
        }
        let (screening, _) = look(&bytes);
        let broke = screening
            .findings
            .iter()
            .any(|finding| finding.rule == "analysis-failed");
        assert!(
            !broke,
            "round {round}: {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

/// Every fold with a text that grows: what unpacks, repeats, joins, pads or nests.
fn folds() -> Vec<(&'static str, String)> {
    use std::io::Write as _;
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    // 64 MiB of zeros, and that packed once more.
    let zeros = vec![0_u8; 64 * MIB];
    let pack = |bytes: &[u8]| {
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    };
    let gzip = {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(&zeros).unwrap();
        packer.finish().unwrap()
    };
    let bomb = pack(&zeros);
    let twice = pack(&bomb);
    let mut nested = "x = 1".to_owned();
    for _ in 0..12 {
        nested = format!("exec({nested:?})");
    }
    let many = |line: &str| format!("{line}\n").repeat(2_000);
    vec![
        ("zlib", format!("import zlib\nexec(zlib.decompress(bytes.fromhex('{}')))", hex(&bomb))),
        ("zlib, again and again", format!("import zlib\nb = bytes.fromhex('{}')\n{}", hex(&bomb), many("exec(zlib.decompress(b))"))),
        ("zlib in zlib", format!("import zlib\nexec(zlib.decompress(zlib.decompress(bytes.fromhex('{}'))))", hex(&twice))),
        ("gzip", format!("import gzip\nexec(gzip.decompress(bytes.fromhex('{}')))", hex(&gzip))),
        ("bz2, broken", format!("import bz2\nexec(bz2.decompress(b'BZh9' + b'\\x31' * {}))", 200_000)),
        ("lzma, broken", format!("import lzma\nexec(lzma.decompress(b'\\xfd7zXZ\\x00' + b'\\x5d' * {}))", 200_000)),
        ("lzma, a large dictionary", "import lzma\nexec(lzma.decompress(b'\\x5d\\xff\\xff\\xff\\xff' + b'\\xff' * 8 + b'\\x00' * 9999))".to_owned()),
        ("base64", format!("import base64\nexec(base64.b64decode('{}'))", "QUFB".repeat(200_000))),
        ("base85", format!("import base64\nexec(base64.b85decode('{}'))", "00000".repeat(150_000))),
        ("percent", format!("import urllib.parse as u\nexec(u.unquote('{}'))", "%41".repeat(250_000))),
        ("entities", format!("import html\nexec(html.unescape('{}'))", "&#65;".repeat(180_000))),
        ("ampersands", format!("import html\nexec(html.unescape('{}'))", "&".repeat(900_000))),
        ("rot13", format!("import codecs\nexec(codecs.decode('{}', 'rot13'))", "a".repeat(900_000))),
        ("repeat", "exec('a' * 10**12)".to_owned()),
        ("repeat a list", "exec(''.join(['a'] * 10**12))".to_owned()),
        ("repeat repeats", "a = 'a' * 1000\nb = a * 1000\nc = b * 1000\nexec(c)".to_owned()),
        ("join", "a = ','.join(['x' * 1000] * 1000)\nb = a.join([a] * 1000)\nexec(b)".to_owned()),
        ("replace", "a = 'a' * 60000\nb = a.replace('a', a)\nc = b.replace('', a)\nexec(c)".to_owned()),
        ("translate", "a = ('a' * 60000).translate({97: 'a' * 60000})\nexec(a)".to_owned()),
        ("format width", "exec('{:>999999999}'.format('x'))".to_owned()),
        ("format width in an f-string", "exec(f\"{'x':>999999999}\")".to_owned()),
        ("percent width", "exec('%999999999s' % 'x')".to_owned()),
        ("template", "import string\na = '$a' * 60000\nexec(string.Template(a).substitute(a=a))".to_owned()),
        ("centre", "exec('x'.center(10**9))".to_owned()),
        ("zfill", "exec('1'.zfill(10**9))".to_owned()),
        ("to_bytes", "exec((1).to_bytes(10**9, 'big'))".to_owned()),
        ("bytes", "exec(bytes(10**9))".to_owned()),
        ("a long integer", format!("exec(({}).to_bytes(400000, 'big'))", "9".repeat(900_000))),
        ("a long integer in a text", format!("exec(int('{}', 16).to_bytes(9, 'big'))", "f".repeat(900_000))),
        ("a power", "exec(str(7 ** 10**9))".to_owned()),
        ("a pattern", format!("import re\nexec(re.sub('(a|a)*$', 'b', '{}'))", "a".repeat(200_000))),
        ("a large pattern", format!("import re\nexec(re.sub('(a{{1000}}){{1000}}', 'b', '{}'))", "a".repeat(200_000))),
        ("a product of texts", "a = ['x', 'y'] * 8\nfor p in a:\n    for q in a:\n        for r in a:\n            for s in a:\n                exec(f'{p}{q}{r}{s}' * 999)".to_owned()),
        ("cycles", "import itertools\nexec(''.join(a + b for a, b in zip(itertools.cycle('ab'), itertools.cycle('cd'))))".to_owned()),
        ("nested exec", nested),
        ("many exec", (0..5_000).map(|at| format!("exec('x{at} = 1')\n")).collect()),
        ("exec of itself", "s = 'exec(s)'\nexec(s)".to_owned()),
        ("exec that doubles", "s = 's = s + s; exec(s)'\nexec(s)".to_owned()),
        ("xor", format!("exec(bytes(c ^ 7 for c in {:?}))", vec![1_u8; 100_000])),
        ("ranges at the ends of numbers", "for r in (range(-9223372036854775807, 9223372036854775807, 4611686018427387904), range(9223372036854775806, 9223372036854775807, 9223372036854775807), range(5, 9223372036854775807, -1)):\n    exec(''.join(map(str, r)))".to_owned()),
        ("a loop of appends", "s = []\nfor i in range(10**6):\n    s.append(chr(i % 90))\nexec(''.join(s))".to_owned()),
        ("loops in loops", "s = ''\nfor i in range(999):\n    for j in range(999):\n        for k in range(999):\n            s += 'a'\nexec(s)".to_owned()),
        ("reduce", "import functools\nexec(functools.reduce(lambda a, b: a + a, ['x'] * 4000))".to_owned()),
        ("recursion", "def f(n):\n    return f(n - 1) + f(n - 2) if n > 1 else 'a'\nexec(f(90))".to_owned()),
        ("a property of itself", "class A:\n    @property\n    def p(self):\n        return self.p + self.p\nexec(A().p)".to_owned()),
        ("an item of itself", "class A:\n    def __getitem__(self, k):\n        return self[k] + self[k]\nexec(A()[0])".to_owned()),
        ("a sum of itself", "class A:\n    def __add__(self, o):\n        return self + o\nexec(A() + A())".to_owned()),
        ("json", format!("import json\nexec(json.loads('{}'))", "[".repeat(500_000))),
        ("a literal", format!("import ast\nexec(ast.literal_eval('{}'))", "[".repeat(500_000))),
        ("a pickle", format!("import pickle\npickle.loads(b'{}')", "(".repeat(900_000))),
        ("carried", format!("import os\nx = 'a'\n{}os.system(x)", "x = x + str(x) + f(x, x, x)\n".repeat(3_000))),
    ]
}

#[test]
fn every_fold_ends_in_time() {
    for (name, source) in folds() {
        let (screening, took) = look(source.as_bytes());
        println!("{name:<30} {:<8} {took:.1?}", screening.verdict.word());
        // The analysis has a deadline of 2 s, after which the answer is a refusal.
        assert!(took < Duration::from_millis(2_500), "{name} took {took:?}");
        let broken = screening
            .findings
            .iter()
            .any(|finding| finding.rule == "analysis-failed");
        assert!(!broken, "{name}: {:?}", screening.findings);
    }
}

#[test]
fn ten_megabytes_are_refused_at_once() {
    for unit in ["x = 1\n", "(", "'", "\u{202e}"] {
        let source = unit.repeat(10 * MIB / unit.len());
        let (screening, took) = look(source.as_bytes());
        assert_eq!(screening.verdict.word(), "refuse");
        assert!(took < Duration::from_millis(50), "{unit:?} took {took:?}");
    }
}

/// Two to the power of a hundred parts, in a few lines: values hold one another, so that nobody has to write them down.
#[test]
fn lists_that_hold_one_another_are_not_gone_through() {
    let deep = "def deep(times):\n    data = 0\n    for _ in range(times):\n        data = [data, data]\n    return data\n";
    for then in [
        "def f(data, n):\n    return pickle.dumps(data)\nf(deep(100), 3)\n",
        "x = 1 if deep(100) == deep(100) else 2\n",
        "a = deep(100)\nif input():\n    a = deep(100)\nprint(a in [deep(100)])\n",
        "d = {}\nfor _ in range(100):\n    d = {0: d, 1: d}\ndef g(d):\n    return d\ng(d)\n",
    ] {
        let (_, took) = look(format!("import pickle\n{deep}{then}").as_bytes());
        assert!(took < Duration::from_secs(1), "{took:?}: {then}");
    }
}
