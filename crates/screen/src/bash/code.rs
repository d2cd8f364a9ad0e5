//! Code that is made from data: shells, `eval`, `source`, and interpreters of other languages.

use casemate_model::manifest::Access;
use ruff_text_size::TextRange;

use super::command::{joined, taint_of};
use super::expand::is_decoded;
use super::shell::{MAX_PYTHON, Shell, Spot};
use super::value::{Field, NET, Value};
use crate::gaps::GAP;

const SHELLS: &[&str] = &[
    "sh", "bash", "dash", "zsh", "ksh", "ash", "rbash", "mksh", "fish",
];

/// Interpreters of other languages, and their options for code.
fn code_options(base: &str) -> Option<&'static [&'static str]> {
    Some(match base {
        "perl" => &["-e", "-E", "-ne", "-pe", "-lne", "-lane", "-nle", "-pie"],
        "ruby" | "lua" | "luajit" => &["-e"],
        "node" | "nodejs" | "deno" | "bun" => &["-e", "--eval", "-p", "--print", "eval"],
        "php" => &["-r"],
        "Rscript" | "julia" => &["-e"],
        "osascript" => &["-e"],
        "vi" | "vim" | "ex" | "nvim" | "ed" | "emacs" => &["-c", "--cmd", "--eval"],
        "expect" | "tclsh" | "pwsh" => &["-c"],
        "sqlite3" => &["-cmd"],
        _ => return None,
    })
}

fn is_python(base: &str) -> bool {
    let rest = base
        .strip_prefix("python")
        .or_else(|| base.strip_prefix("pypy"));
    rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
        || base == "ipython"
}

impl Shell<'_> {
    /// Whether a program reads code.
    pub(super) fn interprets(&self, base: &str) -> bool {
        SHELLS.contains(&base)
            || is_python(base)
            || code_options(base).is_some()
            || base == "su"
            || base == "script"
    }

    /// A program that reads code, with its words.
    pub(super) fn interpreter(
        &mut self,
        base: &str,
        words: &[Field],
        stdin: &Value,
        range: TextRange,
    ) -> Value {
        let args = words.get(1..).unwrap_or_default();
        if SHELLS.contains(&base) {
            return self.shell(base, args, stdin, range);
        }
        if matches!(base, "su" | "script") {
            self.process(&joined(words), range);
            let at = args
                .iter()
                .position(|arg| arg.text.starts_with("-c") || arg.text == "--command");
            let code = at.and_then(|at| args.get(at + 1));
            if let Some(code) = code {
                self.run_value(&code.value(), base, range);
            } else if base == "su" {
                self.run_stdin(stdin, base, range);
            }
            return Value::unknown(0);
        }
        if is_python(base) {
            return self.python(base, args, stdin, range);
        }
        self.process(&joined(words), range);
        let options = code_options(base).unwrap_or_default();
        let mut given = false;
        for (index, arg) in args.iter().enumerate() {
            if options.contains(&arg.text.as_str())
                && let Some(code) = args.get(index + 1)
            {
                given = true;
                self.string(&code.text, range);
                self.origin(&code.value(), base, range);
            }
        }
        let file = args.iter().find(|arg| !arg.text.starts_with('-'));
        match file {
            Some(file) if !given => {
                let content = self.contents(&file.value());
                self.origin(&content, base, range);
            }
            None if !given => self.origin(stdin, base, range),
            _ => {}
        }
        self.act("runs-other", &format!("{base} {GAP}"), range);
        self.paths_among(args, range);
        Value::unknown(stdin.taint | taint_of(args))
    }

    /// Says where code comes from, when that alone matters.
    fn origin(&mut self, value: &Value, what: &str, range: TextRange) {
        if value.taint & NET != 0 {
            self.act("runs-fetched", what, range);
        }
        if is_decoded(value.taint) {
            self.act("runs-decoded", what, range);
        }
    }

    fn shell(&mut self, base: &str, args: &[Field], stdin: &Value, range: TextRange) -> Value {
        let mut at = 0;
        let mut command = false;
        let mut from_stdin = false;
        while let Some(arg) = args.get(at) {
            let text = arg.text.as_str();
            if matches!(text, "--rcfile" | "--init-file" | "-O" | "+O" | "-o" | "+o") {
                if text.ends_with("file") {
                    let path = args.get(at + 1).cloned().unwrap_or_default();
                    self.run_file(&path, range);
                }
                at += 2;
                continue;
            }
            if text == "--" || text == "-" {
                at += 1;
                break;
            }
            let Some(flags) = text.strip_prefix(['-', '+']) else {
                break;
            };
            if !flags.starts_with('-') {
                command |= flags.contains('c');
                from_stdin |= flags.contains('s');
                if flags.contains('i') && (self.connected || stdin.taint & NET != 0) {
                    self.act("gives-shell", &format!("{base} -i"), range);
                }
            }
            at += 1;
        }
        let rest = args.get(at..).unwrap_or_default();
        let first = rest.first();
        let interactive = args.iter().any(|arg| {
            arg.text.starts_with('-') && !arg.text.starts_with("--") && arg.text.contains('i')
        });
        let shown = if interactive {
            format!("{base} -i")
        } else {
            format!("{base} {GAP}")
        };
        self.process(&shown, range);
        match first {
            Some(code) if command => {
                let after = rest.iter().skip(2).cloned().collect::<Vec<_>>();
                let value = code.value();
                self.apart(|shell| {
                    shell.scope().args = Some(after);
                    shell.run_value_with(&value, base, stdin, range)
                })
            }
            Some(file) if !from_stdin => {
                let args = rest.get(1..).unwrap_or_default().to_vec();
                if file.text == "$0" {
                    self.itself(range);
                    return Value::unknown(0);
                }
                let file = file.clone();
                self.apart(|shell| {
                    shell.scope().args = Some(args);
                    shell.run_file(&file, range)
                })
            }
            _ => {
                if command {
                    self.act("runs-unknown", base, range);
                }
                self.run_stdin(stdin, base, range)
            }
        }
    }

    /// A shell that reads what it runs from its input.
    fn run_stdin(&mut self, stdin: &Value, what: &str, range: TextRange) -> Value {
        let stdin = stdin.clone();
        self.apart(|shell| shell.run_value_with(&stdin, what, &Value::unknown(0), range))
    }

    /// Runs a text as a script.
    pub(super) fn run_value(&mut self, value: &Value, what: &str, range: TextRange) {
        self.run_value_with(value, what, &Value::unknown(0), range);
    }

    /// Runs a text as a script with an input; what it writes.
    pub(super) fn run_value_with(
        &mut self,
        value: &Value,
        what: &str,
        stdin: &Value,
        range: TextRange,
    ) -> Value {
        self.origin(value, what, range);
        let mut out: Option<Value> = None;
        if !value.is_known() {
            self.act("runs-unknown", what, range);
        }
        for text in value.texts.clone() {
            if text == GAP {
                continue;
            }
            self.string(&text, range);
            let step = format!("{what} runs a text");
            let one = self.led(&step, range, |shell| {
                shell.script(&text, Spot::Made(range), stdin)
            });
            match &mut out {
                Some(out) => out.or(&one),
                None => out = Some(one),
            }
        }
        out.unwrap_or_else(|| Value::unknown(value.taint))
    }

    pub(super) fn eval(&mut self, args: &[Field], range: TextRange) -> Value {
        let args = match args.split_first() {
            Some((first, rest)) if first.text == "--" => rest,
            _ => args,
        };
        let code = Value::of(joined(args)).tainted(taint_of(args));
        self.run_value_with(&code, "eval", &Value::unknown(0), range)
    }

    pub(super) fn sourced(&mut self, args: &[Field], stdin: &Value, range: TextRange) -> Value {
        let Some(file) = args.first() else {
            return Value::empty();
        };
        if matches!(file.text.as_str(), "/dev/stdin" | "/proc/self/fd/0") {
            return self.run_value_with(&stdin.clone(), "source", &Value::unknown(0), range);
        }
        self.run_file(&file.clone(), range)
    }

    /// Runs a file: what the script wrote into it, or something from outside.
    pub(super) fn run_file(&mut self, file: &Field, range: TextRange) -> Value {
        self.file(file, Access::Read, range);
        if matches!(
            file.text.as_str(),
            "/dev/stdin" | "/dev/fd/0" | "/proc/self/fd/0"
        ) {
            self.act("runs-unknown", &file.text, range);
            return Value::unknown(0);
        }
        let path = self.place_of(&file.text);
        let written = self.files.get(&path).cloned();
        match written {
            Some(content) => self.run_value_with(&content, &file.text, &Value::unknown(0), range),
            None => {
                self.origin(&file.value(), &file.text, range);
                self.act("runs-outside", &file.text, range);
                Value::unknown(file.taint)
            }
        }
    }

    fn python(&mut self, base: &str, args: &[Field], stdin: &Value, range: TextRange) -> Value {
        let mut at = 0;
        let mut code: Option<Value> = None;
        let mut module = false;
        while let Some(arg) = args.get(at) {
            let text = arg.text.as_str();
            let Some(flags) = text.strip_prefix('-') else {
                break;
            };
            if flags.is_empty() {
                break;
            }
            if matches!(text, "-W" | "-X" | "--check-hash-based-pycs") {
                at += 2;
                continue;
            }
            if !flags.starts_with('-')
                && let Some((_, inline)) = flags.split_once('c')
            {
                let next = args.get(at + 1).map(Field::value);
                let given = if inline.is_empty() {
                    next
                } else {
                    Some(Value::of(inline).tainted(arg.taint))
                };
                code = Some(given.unwrap_or_else(|| Value::unknown(0)));
                break;
            }
            if !flags.starts_with('-') && flags.contains('m') {
                module = true;
                break;
            }
            at += 1;
        }
        self.process(
            &format!(
                "{base} {}",
                if module { joined(args) } else { GAP.to_owned() }
            ),
            range,
        );
        if module {
            self.paths_among(args, range);
            return Value::unknown(stdin.taint);
        }
        let file = args.get(at).filter(|arg| arg.text != "-" && code.is_none());
        let known = file.map(|file| {
            (
                file.clone(),
                self.files.get(&self.place_of(&file.text)).cloned(),
            )
        });
        let code = match (code, known) {
            (Some(code), _) => code,
            (None, Some((_, Some(written)))) => written,
            (None, Some((file, None))) => {
                self.file(&file, Access::Read, range);
                self.origin(&file.value(), &file.text, range);
                self.act("runs-outside", &file.text, range);
                return Value::unknown(stdin.taint);
            }
            (None, None) => stdin.clone(),
        };
        self.origin(&code, base, range);
        if !code.is_known() {
            self.act("runs-unknown", base, range);
        }
        for text in code.texts.iter().filter(|text| *text != GAP) {
            if self.python.len() < MAX_PYTHON {
                self.python.push((text.replace(GAP, "None"), range));
            } else {
                self.exhausted = true;
            }
        }
        Value::unknown(stdin.taint | taint_of(args))
    }
}
