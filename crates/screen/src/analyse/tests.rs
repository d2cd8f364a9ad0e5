use super::*;
use crate::bounds::{MAX_BRACKETS, MAX_CHAIN, MAX_ELIFS, MAX_INDENTS, MAX_LAMBDAS};
use crate::threads::{STACK_BYTES, Thread};

/// What the bounds must fit into. Two megabytes were enough when it was measured.
const SMALL_STACK: usize = STACK_BYTES / 16;

fn look(source: &str, stack: usize) -> Analysis {
    let text = Text {
        text: source,
        hidden: Vec::new(),
    };
    let work = work(text, Preset::default(), on_thread);
    let done = Thread::start(stack)
        .unwrap()
        .run(Duration::from_secs(20), work);
    done.unwrap().0
}

fn refused(source: &str) -> bool {
    look(source, SMALL_STACK)
        .findings
        .iter()
        .any(|finding| finding.rule == "too-complex")
}

fn blocks(count: usize, inner: &str) -> String {
    let mut source: String = (0..count)
        .map(|depth| format!("{}if a:\n", " ".repeat(depth)))
        .collect();
    source.push_str(&format!("{}{inner}\n", " ".repeat(count)));
    source
}

/// Head, unit, tail, what closes one unit, and how often the unit may stand.
const CHAINS: &[(&str, &str, &str, &str, usize)] = &[
    ("x = ", "(", "1", ")", MAX_BRACKETS),
    ("x = ", "f(a=[", "1", "])", MAX_BRACKETS / 2),
    ("x = ", "f'{", "1", "}'", MAX_BRACKETS / 2),
    ("x = ", "-", "1", "", MAX_CHAIN),
    ("x = ", "not ", "1", "", MAX_CHAIN),
    ("x = a", ".a", "", "", MAX_CHAIN),
    ("x = a", "()", "", "", MAX_CHAIN),
    ("x = a", "[0]", "", "", MAX_CHAIN),
    ("x = 1", "+1", "", "", MAX_CHAIN),
    ("x = 1", "**1", "", "", MAX_CHAIN),
    ("x = ''", "+'a'", "", "", MAX_CHAIN),
    ("x = 1", "<1", "", "", MAX_CHAIN),
    ("x = a", " and a", "", "", MAX_CHAIN),
    ("x = (", "1 if a else ", "1)", "", MAX_CHAIN / 2 - 1),
    ("x = ", "lambda:", "1", "", MAX_LAMBDAS),
    ("x = ", "lambda a,b=1:", "1", "", MAX_LAMBDAS),
    ("if a:\n b\n", "elif a:\n b\n", "", "", MAX_ELIFS),
    ("@a", ".a", "\ndef f(): pass", "", MAX_CHAIN - 2),
];

/// Closes what a chain opened, so that the parser sees a program without errors.
fn closed(head: &str, unit: &str, tail: &str, closer: &str, count: usize) -> String {
    format!(
        "{head}{}{tail}{}\n",
        unit.repeat(count),
        closer.repeat(count)
    )
}

#[test]
fn every_kind_of_nesting_is_fine_at_its_bound_on_a_sixteenth_of_the_stack() {
    for (head, unit, tail, closer, count) in CHAINS {
        let source = closed(head, unit, tail, closer, *count);
        let analysis = look(&source, SMALL_STACK);
        let rules: Vec<_> = analysis
            .findings
            .iter()
            .map(|finding| finding.rule.as_str())
            .collect();
        assert!(
            !rules.contains(&"too-complex") && !rules.contains(&"analysis-failed"),
            "{unit}: {rules:?}"
        );
        assert!(
            !rules.contains(&"syntax-error"),
            "{unit}: {:?}",
            analysis.findings
        );
    }
    assert!(!refused(&blocks(MAX_INDENTS, "a")));
}

#[test]
fn every_kind_of_nesting_is_refused_just_over_its_bound() {
    for (head, unit, tail, closer, count) in CHAINS {
        assert!(
            refused(&closed(head, unit, tail, closer, count + 12)),
            "{unit}"
        );
    }
    assert!(refused(&blocks(MAX_INDENTS + 1, "a")));
}

#[test]
fn all_bounds_at_once_fit_a_sixteenth_of_the_stack() {
    let deep = format!(
        "x = {}{}{}",
        "f(a=[".repeat(80),
        "lambda a=1:".repeat(100),
        "-".repeat(1400)
    );
    let closers = "])".repeat(80);
    for inner in [
        format!("{deep}1{closers}"),
        format!("{deep}1"),
        format!("{deep}a{}{closers}", ".a".repeat(90)),
    ] {
        assert!(
            !refused(&blocks(MAX_INDENTS, &inner)),
            "{} bytes",
            inner.len()
        );
    }
}

/// Honest code that is long in one direction.
#[test]
fn honest_programs_stay_within_the_bounds() {
    let programs = [
        format!("x = [{}]", "{'a': 1, 'b': f(1, -2)},\n".repeat(10_000)),
        format!("x = {{{}}}", "'key': 'value' + y,\n".repeat(10_000)),
        format!("x = (a{})", "\n + 'text'".repeat(500)),
        format!("if a:\n b\n{}", "elif a == 1:\n b\n".repeat(500)),
        format!("df{}", ".assign(a=lambda d: d.x + 1)".repeat(100)),
        format!("t = {{{}}}", "'k': lambda a, b: a + b,\n".repeat(1000)),
        format!("x = a == 0{}", " or a == 1".repeat(300)),
        format!("print(f'{}')", "{a:>10} {b!r} ".repeat(500)),
        "x = 1\n".repeat(20_000),
    ];
    for program in &programs {
        assert!(
            !refused(program),
            "{}",
            program.chars().take(60).collect::<String>()
        );
    }
}

/// The place of an excess is the first line that is too deep.
#[test]
fn an_excess_has_its_line() {
    let source = format!(
        "a = 1\nb = \"\"\"\n\n\"\"\"\nc = {}1\n",
        "-".repeat(MAX_CHAIN + 1)
    );
    let excess = bounds::check(&source, Mode::Module).unwrap_err();
    assert_eq!((excess.line, excess.what), (5, "chained operations"));
}

/// Many statements, each at a bound: the sum must end near the deadline too, because a thread cannot
/// be stopped.
#[test]
fn a_megabyte_of_statements_at_their_bounds_ends_soon() {
    for (head, unit, tail, closer, count) in CHAINS {
        let one = closed(head, unit, tail, closer, *count);
        let source = one.repeat((1024 * 1024 / one.len()).max(1));
        let started = std::time::Instant::now();
        let analysis = look(&source, SMALL_STACK);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "{unit}: {took:?}");
        let failed = analysis
            .findings
            .iter()
            .any(|finding| finding.rule == "analysis-failed");
        assert!(!failed, "{unit}");
    }
}

#[test]
fn a_deadline_that_passes_is_a_refusal() {
    let source = "x = f(1, 2, 3)\n".repeat(60_000);
    let text = Text {
        text: &source,
        hidden: Vec::new(),
    };
    let deadline = Duration::from_micros(50);
    let analysis = analyse(text, deadline, Preset::default(), on_thread);
    assert_eq!(analysis.findings[0].rule, "too-complex");
    assert_eq!(analysis.findings[0].action, Action::Refuse);
}

#[test]
fn characters_that_hide_in_code_are_refused_and_in_texts_are_told() {
    let actions = |source: &str| -> Vec<Action> {
        let text =
            crate::validate::validate(source.as_bytes(), &crate::ScreenConfig::default()).unwrap();
        let found = analyse(text, Duration::from_secs(5), Preset::default(), on_thread).findings;
        found
            .into_iter()
            .filter(|finding| finding.rule.ends_with("-character"))
            .map(|f| f.action)
            .collect()
    };
    assert_eq!(
        actions("x = '👨\u{200d}👩'  # a\u{200b}b\n"),
        [Action::Pass, Action::Pass]
    );
    assert_eq!(actions("x = f'a\u{200b}b'\n"), [Action::Pass]);
    assert_eq!(actions("a\u{200b}b = 1\n"), [Action::Refuse]);
    assert_eq!(actions("\u{3164} = 1\n"), [Action::Refuse]);
    assert_eq!(actions("x = 1\u{7f}\n"), [Action::Refuse]);
}

#[test]
fn requests_to_look_away_are_counted() {
    let source = "eval(x)  # nosec\ny = 1  # noqa: S101\nz = '# nosec'\n";
    assert_eq!(look(source, STACK_BYTES).suppressions, 2);
}

/// Pieces put together at random and repeated, to find a way of nesting that the bounds do not see:
/// that would overflow the small stack and abort the tests.
#[test]
fn no_repeated_pattern_nests_unseen() {
    const PIECES: &[&str] = &[
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "f'{",
        "}'",
        "f\"\"\"{",
        "'",
        ":",
        ",",
        ";",
        "\n",
        "\n ",
        "=",
        ":=",
        "->",
        ".a",
        "a",
        "1",
        " if ",
        " else ",
        "elif a:",
        " for a in ",
        " lambda ",
        " lambda:",
        " yield ",
        " await ",
        " async ",
        " not ",
        "-",
        "+",
        "**",
        "*",
        "@a",
        " def f(",
        " class A:",
        " match a:",
        " case ",
        " with ",
        " try:",
        " except ",
        " finally:",
        " while a:",
        " import ",
        " from a ",
        " return ",
        " raise ",
        " assert ",
        " del ",
        " global a",
        " type X = ",
        "{a:",
        "!r",
        "\\\n",
        "...",
        " in ",
        " is ",
        " or ",
        "#",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut roll = move |sides: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % sides as u64).unwrap()
    };
    // Twenty thousand rounds and other seeds were run when the bounds were written.
    for _ in 0..600 {
        let mut piece = |most: usize| {
            (0..=roll(most))
                .map(|_| PIECES[roll(PIECES.len())])
                .collect::<String>()
        };
        let (head, unit, tail) = (piece(3), piece(4), piece(3));
        let source = format!("{head}{}{tail}", unit.repeat(40_000 / unit.len()));
        let analysis = look(&source, SMALL_STACK);
        let broke = analysis
            .findings
            .iter()
            .any(|finding| finding.rule == "analysis-failed");
        assert!(!broke, "{head:?} {unit:?} {tail:?}");
    }
}
