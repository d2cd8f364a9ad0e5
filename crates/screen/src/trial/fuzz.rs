//! Generators of hostile input, judged by oracles of time, memory and sanity.

use std::time::{Duration, Instant};

use casemate_model::job::Language;

use super::{Dice, Kind, disguise};
use crate::{ScreenConfig, Source, screen};

/// The longest analysis that is not a fault.
const PATIENCE: Duration = Duration::from_secs(4);
/// The largest result that is not a fault, in bytes of JSON.
const LARGEST: usize = 4 * 1024 * 1024;

/// The slowest input.
#[derive(Debug, Clone, Default)]
pub struct Worst {
    /// How long it took.
    pub took: Duration,
    /// What it was made by, and its number.
    pub name: String,
    /// Its first bytes.
    pub head: String,
}

/// What a run of the fuzzer found.
#[derive(Debug, Clone, Default)]
pub struct FuzzReport {
    /// Inputs.
    pub inputs: usize,
    /// Inputs by verdict: pass, confine, refuse.
    pub verdicts: [usize; 3],
    /// The slowest.
    pub worst: Worst,
    /// What broke an oracle: the input's name, its seed, and what was wrong.
    pub faults: Vec<String>,
}

/// Screens `count` inputs made from a seed and from programs to change. `tell` is called with the
/// number of inputs so far.
///
/// An analysis that panics gives `analysis-failed`; a stack that overflows ends the process, so that
/// coming back at all is the oracle for the stack.
pub fn fuzz(
    count: usize,
    seed: u64,
    programs: &[String],
    mut tell: impl FnMut(usize),
) -> FuzzReport {
    let mut report = FuzzReport::default();
    let mut dice = Dice::new(seed);
    for index in 0..count {
        let (name, bytes) = make(index, &mut dice, programs);
        let name = format!("{name} {index}");
        look(&name, &bytes, &mut report);
        tell(index + 1);
    }
    report
}

fn make(index: usize, dice: &mut Dice, programs: &[String]) -> (&'static str, Vec<u8>) {
    match index % 5 {
        0 => ("bytes", random_bytes(dice)),
        1 => ("grammar", module(dice).into_bytes()),
        2 => ("pieces", pieces(dice).into_bytes()),
        3 => ("mutation", mutated(dice, programs)),
        _ => ("disguise", disguised(dice, programs)),
    }
}

fn look(name: &str, bytes: &[u8], report: &mut FuzzReport) {
    let source = Source {
        bytes,
        language: Language::Python,
        name: "fuzz.py",
    };
    let started = Instant::now();
    let screening = screen(&source, &ScreenConfig::default());
    let took = started.elapsed();
    report.inputs += 1;
    let slot = match screening.verdict.word() {
        "pass" => 0,
        "confine" => 1,
        _ => 2,
    };
    if let Some(count) = report.verdicts.get_mut(slot) {
        *count += 1;
    }
    let head: String = String::from_utf8_lossy(bytes).chars().take(60).collect();
    let failed = screening
        .findings
        .iter()
        .find(|finding| finding.rule == "analysis-failed");
    if let Some(failed) = failed {
        report
            .faults
            .push(format!("{name}: {} ({head:?})", failed.message));
    }
    if took > PATIENCE {
        report
            .faults
            .push(format!("{name}: {} ms ({head:?})", took.as_millis()));
    }
    let size = serde_json::to_vec(&screening).map_or(usize::MAX, |json| json.len());
    if size > LARGEST {
        report
            .faults
            .push(format!("{name}: a result of {size} bytes ({head:?})"));
    }
    let refused = screening.verdict.word() == "refuse";
    let named = screening.refusals().next().is_some() || screening.findings_omitted > 0;
    if refused && !named {
        report
            .faults
            .push(format!("{name}: refused without a reason ({head:?})"));
    }
    if took > report.worst.took {
        report.worst = Worst {
            took,
            name: name.to_owned(),
            head,
        };
    }
}

fn random_bytes(dice: &mut Dice) -> Vec<u8> {
    let alphabet: &[u8] = match dice.roll(3) {
        0 => b"()[]{}'\"\\\n\t :;=+-*/.,@%&|~<>!abcdefXYZ019_",
        1 => b"\x00\xff\xfe\xc3\x28\xe2\x80\xae\xef\xbb\xbfabc\n",
        _ => b"",
    };
    let len = dice.roll(400);
    (0..len)
        .map(|_| match dice.pick(alphabet) {
            Some(byte) => *byte,
            None => dice.draw().to_le_bytes()[0],
        })
        .collect()
}

const NAMES: &[&str] = &[
    "os",
    "sys",
    "a",
    "b",
    "c",
    "f",
    "g",
    "x",
    "eval",
    "exec",
    "open",
    "getattr",
    "base64",
    "self",
    "map",
    "subprocess",
];

fn expression(dice: &mut Dice, depth: usize) -> String {
    let leaf = depth == 0;
    match dice.roll(if leaf { 4 } else { 22 }) {
        0 => (*dice.pick(NAMES).unwrap_or(&"x")).to_owned(),
        1 => format!(
            "'{}'",
            dice.pick(&[
                "os",
                "system",
                "rm -rf /",
                "",
                "aW1wb3J0",
                "{}",
                "%s",
                "exec('x')",
                "…",
                "a.b"
            ])
            .unwrap_or(&"")
        ),
        2 => dice.roll(300).to_string(),
        3 => format!(
            "b'{}'",
            dice.pick(&["abc", "\\x00\\xff", "cos\\nsystem\\n.", "eJw="])
                .unwrap_or(&"")
        ),
        4..=6 => format!(
            "{}({}, {})",
            expression(dice, depth - 1),
            expression(dice, depth - 1),
            expression(dice, depth - 1)
        ),
        7 | 8 => format!(
            "{}.{}",
            expression(dice, depth - 1),
            dice.pick(&[
                "system",
                "join",
                "format",
                "decode",
                "__class__",
                "get",
                "x",
                "replace",
                "to_bytes",
                "append"
            ])
            .unwrap_or(&"x")
        ),
        9 => format!(
            "{}[{}]",
            expression(dice, depth - 1),
            expression(dice, depth - 1)
        ),
        10 => format!(
            "({} {} {})",
            expression(dice, depth - 1),
            dice.pick(&["+", "*", "%", "/", "**", "<<", "^", "-", "|"])
                .unwrap_or(&"+"),
            expression(dice, depth - 1)
        ),
        11 => format!(
            "[{} for {} in {}]",
            expression(dice, depth - 1),
            dice.pick(NAMES).unwrap_or(&"x"),
            expression(dice, depth - 1)
        ),
        12 => format!("(lambda *a, **k: {})", expression(dice, depth - 1)),
        13 => format!("f'{{{}}}'", dice.pick(NAMES).unwrap_or(&"x")),
        14 => format!(
            "[{}, {}]",
            expression(dice, depth - 1),
            expression(dice, depth - 1)
        ),
        15 => format!(
            "{{{}: {}}}",
            expression(dice, depth - 1),
            expression(dice, depth - 1)
        ),
        16 => format!(
            "({} if {} else {})",
            expression(dice, depth - 1),
            expression(dice, depth - 1),
            expression(dice, depth - 1)
        ),
        17 => format!(
            "({} := {})",
            dice.pick(NAMES).unwrap_or(&"x"),
            expression(dice, depth - 1)
        ),
        18 => format!("exec({})", expression(dice, depth - 1)),
        19 => format!(
            "{}[::{}]",
            expression(dice, depth - 1),
            dice.pick(&["-1", "2", "0", "x"]).unwrap_or(&"1")
        ),
        20 => format!("''.join(map(chr, {}))", expression(dice, depth - 1)),
        _ => format!(
            "getattr({}, {})",
            expression(dice, depth - 1),
            expression(dice, depth - 1)
        ),
    }
}

fn statement(dice: &mut Dice, depth: usize, indent: usize) -> String {
    let pad = "    ".repeat(indent);
    let name = *dice.pick(NAMES).unwrap_or(&"x");
    let value = expression(dice, 3);
    let block = |dice: &mut Dice| {
        let count = 1 + dice.roll(3);
        (0..count)
            .map(|_| statement(dice, depth.saturating_sub(1), indent + 1))
            .collect::<String>()
    };
    match dice.roll(if depth == 0 { 8 } else { 15 }) {
        0 | 1 => format!("{pad}{name} = {value}\n"),
        2 => format!("{pad}{name} += {value}\n"),
        3 => format!("{pad}{value}\n"),
        4 => format!(
            "{pad}import {name} as {}\n",
            dice.pick(NAMES).unwrap_or(&"x")
        ),
        5 => format!("{pad}from {name} import *\n"),
        6 => format!("{pad}return {value}\n"),
        7 => format!("{pad}self.{name} = {value}\n"),
        8 => format!("{pad}def {name}(self, a=1, *b, **c):\n{}", block(dice)),
        9 => format!(
            "{pad}class {name}({}):\n{}",
            expression(dice, 1),
            block(dice)
        ),
        10 => format!("{pad}for {name} in {value}:\n{}", block(dice)),
        11 => format!("{pad}while {value}:\n{}", block(dice)),
        12 => format!("{pad}if {value}:\n{}", block(dice)),
        13 => format!(
            "{pad}@{name}\n{pad}def {}(*a):\n{}",
            dice.pick(NAMES).unwrap_or(&"x"),
            block(dice)
        ),
        _ => format!(
            "{pad}try:\n{}{pad}except {name}:\n{}",
            block(dice),
            block(dice)
        ),
    }
}

fn module(dice: &mut Dice) -> String {
    let count = 1 + dice.roll(12);
    (0..count).map(|_| statement(dice, 3, 0)).collect()
}

/// One piece again and again: nesting and chains.
fn pieces(dice: &mut Dice) -> String {
    const PIECES: &[&str] = &[
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "f'{",
        "}'",
        "'",
        ":",
        ",",
        ";",
        "\n",
        "\n ",
        "=",
        ":=",
        ".a",
        "a",
        "1",
        " if ",
        " else ",
        " for a in ",
        " lambda ",
        " lambda:",
        " yield ",
        " await ",
        " not ",
        "-",
        "+",
        "**",
        "*",
        "@a",
        " def f(",
        " class A:",
        " while a:",
        "\\\n",
        " in ",
        " or ",
        "#",
        "a = a + a\n",
        "a = f(a)\n",
        "def a(b): return a(b)\n",
        "x.append(x)\n",
        "x = [x, x]\n",
        "exec('exec(1)')\n",
    ];
    let mut some = |most: usize| {
        (0..=dice.roll(most))
            .filter_map(|_| dice.pick(PIECES).copied())
            .collect::<String>()
    };
    let (head, unit, tail) = (some(3), some(4), some(3));
    let times = 1 + dice.roll(3_000 / unit.len().max(1));
    format!("{head}{}{tail}", unit.repeat(times))
}

fn mutated(dice: &mut Dice, programs: &[String]) -> Vec<u8> {
    let mut bytes = dice
        .pick(programs)
        .map(|program| program.clone().into_bytes())
        .unwrap_or_default();
    for _ in 0..=dice.roll(12) {
        if bytes.is_empty() {
            break;
        }
        let (from, to) = (dice.roll(bytes.len()), dice.roll(bytes.len()));
        let (from, to) = (from.min(to), from.max(to));
        match dice.roll(5) {
            0 => {
                bytes.drain(from..to.min(from + 40));
            }
            1 => {
                let copy: Vec<u8> = bytes
                    .get(from..to.min(from + 200))
                    .unwrap_or_default()
                    .to_vec();
                let at = dice.roll(bytes.len());
                bytes.splice(at..at, copy);
            }
            2 => {
                if let Some(byte) = bytes.get_mut(from) {
                    *byte = dice.draw().to_le_bytes()[0];
                }
            }
            3 => {
                let other = dice
                    .pick(programs)
                    .map(|other| other.as_bytes())
                    .unwrap_or_default();
                let cut = dice.roll(other.len());
                bytes.splice(
                    from..from,
                    other
                        .get(cut..(cut + 120).min(other.len()))
                        .unwrap_or_default()
                        .to_vec(),
                );
            }
            _ => {
                let piece = expression(dice, 2);
                bytes.splice(from..from, piece.into_bytes());
            }
        }
    }
    bytes
}

fn disguised(dice: &mut Dice, programs: &[String]) -> Vec<u8> {
    let mut source = dice.pick(programs).cloned().unwrap_or_default();
    for _ in 0..=dice.roll(4) {
        let kind = dice.pick(&Kind::ALL).copied().unwrap_or(Kind::Aliases);
        let seed = dice.draw();
        if let Some(next) = disguise(&source, kind, seed)
            && next.len() < 200_000
        {
            source = next;
        }
    }
    source.into_bytes()
}
