//! Commands: the builtins, and programs that only start another one.

use casemate_model::manifest::Access;
use ruff_text_size::TextRange;

use super::paths;
use super::shell::{Shell, Spot, Var};
use super::value::{DECODED, ENV, FILE, Field, NET, Value};
use super::word::unescape;
use crate::gaps::GAP;

/// The texts of words, with spaces between them.
pub(super) fn joined(words: &[Field]) -> String {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    texts.join(" ")
}

/// Where the words come from, together.
pub(super) fn taint_of(words: &[Field]) -> u8 {
    words.iter().fold(0, |taint, word| taint | word.taint)
}

/// Programs that start the command behind their own options, and the options that take a word.
fn carrier(base: &str) -> Option<&'static [&'static str]> {
    Some(match base {
        "exec" => &["-a"],
        "env" => &["-u", "-C", "--unset", "--chdir"],
        "nice" => &["-n", "--adjustment"],
        "ionice" => &["-c", "-n", "-p"],
        "timeout" => &["-s", "-k", "--signal", "--kill-after"],
        "stdbuf" => &["-i", "-o", "-e"],
        "taskset" | "chrt" | "flock" => &["-w", "-E"],
        "time" => &["-f", "-o"],
        "sudo" => &[
            "-u", "-g", "-h", "-p", "-C", "-D", "-R", "-T", "-U", "-r", "-t",
        ],
        "doas" => &["-u", "-C"],
        "watch" => &["-n", "--interval"],
        "xargs" => &[
            "-I",
            "-i",
            "-n",
            "-P",
            "-L",
            "-d",
            "-E",
            "-s",
            "-a",
            "--max-args",
            "--max-procs",
            "--delimiter",
            "--arg-file",
        ],
        "parallel" => &["-j", "-N", "-a", "--jobs"],
        "command" | "builtin" | "nohup" | "setsid" | "busybox" | "toybox" | "chronic"
        | "unbuffer" | "coproc" | "proxychains" | "proxychains4" | "torsocks" | "torify"
        | "fakeroot" | "rlwrap" | "faketime" => &[],
        _ => return None,
    })
}

impl Shell<'_> {
    /// Runs one command of words that are put in; what it writes to its output.
    pub(super) fn run(&mut self, words: &[Field], stdin: &Value, range: TextRange) -> Value {
        let Some((program, args)) = words.split_first() else {
            return Value::empty();
        };
        if !self.step() || words.len() > 1 && self.trail.len() > 48 {
            return Value::unknown(stdin.taint);
        }
        if program.taint & NET != 0 {
            self.act("runs-fetched", &joined(words), range);
        }
        if program.taint & DECODED != 0 {
            self.act("runs-decoded", &joined(words), range);
        }
        if program.glob {
            return self.found(program, args, stdin, range);
        }
        let name = program.text.as_str();
        let base = paths::base(name);
        if base.contains(GAP) || base.is_empty() && !name.is_empty() {
            return self.unknown(words, stdin, range);
        }
        if name.is_empty() {
            return Value::empty();
        }
        if name == "$0" {
            self.itself(range);
            return Value::unknown(0);
        }
        if let Some(alias) = self.scope.aliases.get(name).cloned()
            && self
                .trail
                .iter()
                .filter(|link| &*link.what == "an alias")
                .count()
                < 4
        {
            let command = format!("{alias} {}", joined(args));
            return self.led("an alias", range, |shell| {
                shell.script(&command, Spot::Made(range), stdin)
            });
        }
        if let Some(out) = self.function(name, args, stdin, range) {
            return out;
        }
        self.dispatch(base, words, stdin, range)
    }

    /// A program behind a pattern of file names: any that fits.
    fn found(&mut self, program: &Field, args: &[Field], stdin: &Value, range: TextRange) -> Value {
        let candidates = paths::programs(&program.text);
        self.act("runs-unknown", &program.text, range);
        self.process(&format!("{} {}", program.text, joined(args)), range);
        for candidate in candidates.into_iter().take(12) {
            let mut words = vec![Field::of(candidate)];
            words.extend_from_slice(args);
            self.perhaps(|shell| shell.run(&words, stdin, range));
        }
        Value::unknown(stdin.taint)
    }

    fn unknown(&mut self, words: &[Field], stdin: &Value, range: TextRange) -> Value {
        let Some((program, args)) = words.split_first() else {
            return Value::empty();
        };
        self.act("runs-unknown", &joined(words), range);
        let shown = if program.text == GAP && args.is_empty() {
            "?".to_owned()
        } else {
            joined(words)
        };
        self.process(&shown, range);
        self.paths_among(args, range);
        let forced = args
            .iter()
            .any(|arg| arg.text.starts_with('-') && arg.text.contains(['r', 'R', 'f']));
        let everything = args
            .iter()
            .any(|arg| matches!(arg.text.as_str(), "/" | "/*" | "~" | "~/" | "~/*"));
        if forced && everything {
            self.act("destroys", &joined(words), range);
        }
        Value::unknown(stdin.taint | taint_of(words))
    }

    /// The script starts itself.
    pub(super) fn itself(&mut self, range: TextRange) {
        if self.background > 0 || self.piped > 0 || self.loops > 0 {
            self.act("forks", "$0", range);
        } else {
            self.act("runs-unknown", "$0", range);
        }
    }

    fn dispatch(&mut self, base: &str, words: &[Field], stdin: &Value, range: TextRange) -> Value {
        let args = words.get(1..).unwrap_or_default();
        match base {
            ":" | "true" | "false" | "test" | "[" | "return" | "break" | "continue" | "wait"
            | "jobs" | "fg" | "bg" | "disown" | "umask" | "ulimit" | "times" | "hash" | "shopt"
            | "getopts" | "exit" | "logout" | "caller" | "suspend" | "help" | "dirs" => {
                Value::empty()
            }
            "echo" | "printf" | "print" => self.told(base, args, range),
            "cd" | "pushd" | "chdir" | "popd" => self.enter(base, args, range),
            "eval" => self.eval(args, range),
            "source" | "." => self.sourced(args, stdin, range),
            "alias" => self.alias(args),
            "unalias" | "type" | "which" => Value::unknown(0),
            "trap" => {
                if let Some(first) = args.iter().find(|arg| !arg.text.starts_with("--")) {
                    self.run_value(&first.value(), "trap", range);
                }
                Value::empty()
            }
            "read" | "mapfile" | "readarray" => self.read(base, args, stdin, range),
            "set" => self.set(args, range),
            "shift" => {
                let count = args.first().and_then(|arg| arg.text.parse::<usize>().ok());
                if let Some(list) = &mut self.scope().args {
                    let count = count.unwrap_or(1).min(list.len());
                    list.drain(..count);
                }
                Value::empty()
            }
            "kill" | "pkill" | "killall" | "xkill" | "skill" => self.kill(base, words, range),
            "export" | "declare" | "local" | "typeset" | "readonly" | "let" => {
                self.declared(base, args, range)
            }
            "unset" => {
                if self.weak == 0 {
                    for arg in args {
                        self.scope().vars.remove(&arg.text);
                    }
                }
                Value::empty()
            }
            "enable" => {
                if args.iter().any(|arg| arg.text.starts_with("-f")) {
                    let seen = self.seen(&joined(words), range);
                    self.facts.native.push(seen);
                }
                Value::empty()
            }
            "complete" | "bind" => {
                for arg in args.iter().filter(|arg| arg.text.contains(' ')) {
                    self.run_value(&arg.value(), base, range);
                }
                Value::empty()
            }
            "compgen" => {
                if args
                    .iter()
                    .any(|arg| matches!(arg.text.as_str(), "-v" | "-e" | "variable" | "export"))
                {
                    self.dump(base, range);
                }
                Value::unknown(ENV)
            }
            "history" | "fc" => {
                self.process(&joined(words), range);
                Value::unknown(FILE)
            }
            _ => self.external(base, words, stdin, range),
        }
    }

    fn external(&mut self, base: &str, words: &[Field], stdin: &Value, range: TextRange) -> Value {
        if let Some(options) = carrier(base) {
            return self.carried(base, words, options, stdin, range);
        }
        if self.interprets(base) {
            return self.interpreter(base, words, stdin, range);
        }
        if let Some(out) = self.network(base, words, stdin, range) {
            return out;
        }
        self.tool(base, words, stdin, range)
    }

    /// A program that starts another command.
    fn carried(
        &mut self,
        base: &str,
        words: &[Field],
        options: &[&str],
        stdin: &Value,
        range: TextRange,
    ) -> Value {
        let args = words.get(1..).unwrap_or_default();
        let mut at = 0;
        let mut named = false;
        let mut split: Option<String> = None;
        while let Some(arg) = args.get(at) {
            let text = arg.text.as_str();
            if base == "env"
                && (text == "-S" || text.starts_with("--split-string") || text.starts_with("-S"))
            {
                let own = text
                    .trim_start_matches("--split-string")
                    .trim_start_matches("-S")
                    .trim_start_matches('=');
                let next = args.get(at + 1).map_or("", |next| next.text.as_str());
                split = Some(if own.is_empty() {
                    next.to_owned()
                } else {
                    own.to_owned()
                });
                at = args.len();
                break;
            }
            if matches!(base, "command") && matches!(text, "-v" | "-V") {
                return Value::unknown(0);
            }
            let assigns =
                matches!(base, "env" | "sudo") && !text.starts_with('-') && text.contains('=');
            if assigns {
                if let Some((name, value)) = text.split_once('=') {
                    let value = Value::of(value).tainted(arg.taint);
                    self.apart(|shell| shell.assign(name, value, false, range));
                }
                at += 1;
            } else if options.contains(&text) {
                at += 2;
            } else if text.starts_with('-') && text.len() > 1 {
                at += 1;
            } else if matches!(base, "timeout" | "taskset" | "chrt" | "flock" | "faketime")
                && !named
            {
                named = true;
                at += 1;
            } else {
                break;
            }
        }
        let inner = args.get(at..).unwrap_or_default();
        match base {
            "sudo" | "doas" => self.process(&joined(words), range),
            "env" if inner.is_empty() && split.is_none() => {
                self.process("env", range);
                self.dump("env", range);
                return Value::unknown(ENV);
            }
            "xargs" | "parallel" => return self.fed(base, inner, stdin, range),
            "command" | "builtin" | "exec" | "coproc" | "time" => {}
            _ => {
                let shown = if inner.is_empty() {
                    joined(words)
                } else {
                    format!("{base} {GAP}")
                };
                self.process(&shown, range);
            }
        }
        if let Some(split) = split {
            return self.script(&split, Spot::Made(range), stdin);
        }
        if matches!(base, "watch" | "flock") {
            let code = Value::of(joined(inner)).tainted(taint_of(inner));
            return self.run_value_with(&code, base, stdin, range);
        }
        if inner.is_empty() {
            return Value::empty();
        }
        if base == "coproc" {
            self.background += 1;
            self.run(inner, stdin, range);
            self.background -= 1;
            return Value::unknown(0);
        }
        self.run(inner, stdin, range)
    }

    /// A command whose last words come from its input: `xargs`, `parallel`.
    fn fed(&mut self, base: &str, inner: &[Field], stdin: &Value, range: TextRange) -> Value {
        self.process(&format!("{base} {GAP}"), range);
        let mut out = Value::unknown(stdin.taint);
        for text in stdin.texts.clone() {
            let fed: Vec<Field> = if text.contains(GAP) {
                vec![Field {
                    text: GAP.to_owned(),
                    taint: stdin.taint,
                    glob: false,
                }]
            } else {
                let own = |text: &str| Field {
                    text: text.to_owned(),
                    taint: stdin.taint,
                    glob: false,
                };
                self.exhausted |= text.split_whitespace().nth(64).is_some();
                text.split_whitespace()
                    .take(64)
                    .map(|word| own(word.trim_matches(['\'', '"'])))
                    .collect()
            };
            let mut words: Vec<Field> = inner.to_vec();
            let marks: &[&str] = &["{}", "%", "@"];
            let marked = inner
                .iter()
                .any(|word| marks.iter().any(|mark| word.text.contains(mark)));
            if marked {
                let first = fed.first().cloned().unwrap_or_else(|| Field::of(GAP));
                for word in &mut words {
                    if word.text.contains("{}") || marks.contains(&word.text.as_str()) {
                        word.text = word.text.replace("{}", &first.text);
                        if marks.contains(&word.text.as_str()) {
                            word.text.clone_from(&first.text);
                        }
                        word.taint |= first.taint;
                    }
                }
            }
            words.extend(fed);
            out = self.run(&words, &Value::unknown(0), range);
        }
        out
    }

    fn told(&mut self, base: &str, args: &[Field], range: TextRange) -> Value {
        for arg in args {
            self.string(&arg.text, range);
        }
        let taint = taint_of(args);
        if base != "printf" {
            let flags = args.iter().take_while(|arg| {
                arg.text.strip_prefix('-').is_some_and(|flags| {
                    !flags.is_empty() && flags.chars().all(|c| matches!(c, 'n' | 'e' | 'E'))
                })
            });
            let flags: String = flags.map(|arg| arg.text.as_str()).collect();
            let count = args
                .iter()
                .take_while(|arg| flags.contains(&*arg.text) && arg.text.starts_with('-'))
                .count();
            let mut text = joined(args.get(count..).unwrap_or_default());
            if flags.contains('e') {
                text = unescape(&text);
            }
            if !flags.contains('n') {
                text.push('\n');
            }
            return Value::of(text).tainted(taint);
        }
        let mut args = args;
        let mut target = None;
        if let [first, name, rest @ ..] = args
            && first.text == "-v"
        {
            target = Some(name.text.clone());
            args = rest;
        }
        if let [first, rest @ ..] = args
            && first.text == "--"
        {
            args = rest;
        }
        let Some((form, items)) = args.split_first() else {
            return Value::empty();
        };
        let value = Value::of(formatted(&form.text, items)).tainted(taint);
        if let Some(target) = target {
            self.assign(&target, value, false, range);
            return Value::empty();
        }
        value
    }

    fn enter(&mut self, base: &str, args: &[Field], range: TextRange) -> Value {
        let target = args
            .iter()
            .find(|arg| !arg.text.starts_with('-') || arg.text == "-");
        let folder = match (base, target) {
            ("popd", _) => None,
            (_, None) => Some("~".to_owned()),
            (_, Some(to)) if to.is_known() && to.text != "-" && !to.glob => {
                self.scope.folder.clone().map_or_else(
                    || to.text.starts_with('/').then(|| to.text.clone()),
                    |folder| {
                        let (folder, out) = paths::entered(&folder, &to.text);
                        if out {
                            self.act("climbs", &to.text, range);
                        }
                        Some(folder)
                    },
                )
            }
            _ => None,
        };
        if let Some(to) = target {
            let system = ["/etc", "/root", "/proc", "/boot", "/sys"];
            let path = self.place_of(&to.text);
            if path == "/" || system.iter().any(|folder| path.starts_with(folder)) {
                self.act("climbs", &to.text, range);
            }
        }
        let weak = self.weak > 0 && folder != self.scope.folder;
        // In a branch the folder may be either; the one that was entered says more.
        let known = folder.filter(|folder| !weak || folder.starts_with(['/', '~']));
        self.scope().folder = known;
        Value::empty()
    }

    fn alias(&mut self, args: &[Field]) -> Value {
        for arg in args {
            if let Some((name, command)) = arg.text.split_once('=') {
                self.scope()
                    .aliases
                    .insert(name.to_owned(), command.to_owned());
            }
        }
        Value::empty()
    }

    fn read(&mut self, base: &str, args: &[Field], stdin: &Value, range: TextRange) -> Value {
        let mut names: Vec<String> = Vec::new();
        let mut at = 0;
        let mut array = base != "read";
        while let Some(arg) = args.get(at) {
            let text = arg.text.as_str();
            if let Some(flags) = text.strip_prefix('-') {
                array |= flags.contains('a');
                let takes = flags
                    .ends_with(['d', 'i', 'n', 'N', 'p', 't', 'u', 'O', 's', 'C', 'c'])
                    && !(base == "read" && flags.ends_with('s'));
                at += usize::from(takes);
            } else {
                names.push(text.to_owned());
            }
            at += 1;
        }
        if names.is_empty() {
            names.push(if array { "MAPFILE" } else { "REPLY" }.to_owned());
        }
        let taint = stdin.taint | if self.connected { NET } else { 0 };
        let mut value = Value {
            texts: Vec::new(),
            taint,
        };
        for text in &stdin.texts {
            for line in text.lines().take(16) {
                value.or(&Value::of(line));
            }
            if text.lines().nth(16).is_some() {
                value.or(&Value::unknown(taint));
            }
        }
        if value.texts.is_empty() {
            value = Value::unknown(taint);
        }
        let several = names.len() > 1;
        for (index, name) in names.iter().enumerate() {
            let one = if several {
                let word = |text: &str| text.split_whitespace().nth(index).map(str::to_owned);
                value.map(|text| Some(word(text).unwrap_or_default()))
            } else {
                value.clone()
            };
            if array {
                let items = one.texts.iter().flat_map(|text| {
                    let words: Vec<&str> = if base == "read" {
                        text.split_whitespace().collect()
                    } else {
                        vec![text.as_str()]
                    };
                    let more = words.len() > 64;
                    words
                        .into_iter()
                        .take(64)
                        .map(|word| Value::of(word).tainted(taint))
                        .chain(more.then(|| Value::unknown(taint)))
                        .collect::<Vec<_>>()
                });
                let items = items.take(256).collect();
                self.scope().vars.insert(name.clone(), Var::Many(items));
            } else {
                self.assign(name, one, false, range);
            }
        }
        Value::empty()
    }

    fn set(&mut self, args: &[Field], range: TextRange) -> Value {
        match args.first().map(|arg| arg.text.as_str()) {
            None => {
                self.dump("set", range);
                return Value::unknown(ENV);
            }
            Some("--") => self.scope().args = Some(args.get(1..).unwrap_or_default().to_vec()),
            Some(first) if !first.starts_with(['-', '+']) => {
                self.scope().args = Some(args.to_vec())
            }
            _ => {}
        }
        Value::empty()
    }

    fn kill(&mut self, base: &str, words: &[Field], range: TextRange) -> Value {
        let args = words.get(1..).unwrap_or_default();
        if base != "kill" {
            self.process(&joined(words), range);
            return Value::empty();
        }
        if args
            .iter()
            .any(|arg| matches!(arg.text.as_str(), "-l" | "-L" | "-0"))
        {
            return Value::unknown(0);
        }
        let mut at = 0;
        while let Some(arg) = args.get(at) {
            match arg.text.as_str() {
                "-s" | "-n" => at += 2,
                "--" => {
                    at += 1;
                    break;
                }
                text if text.starts_with('-') && at == 0 => at += 1,
                _ => break,
            }
        }
        for target in args.get(at..).unwrap_or_default() {
            let text = target.text.as_str();
            let own = matches!(text, "$!" | "$$") || text.starts_with('%');
            if own {
                continue;
            }
            let name = if target.is_known() {
                "kills"
            } else {
                "kills-unknown"
            };
            self.act(name, &joined(words), range);
        }
        Value::empty()
    }

    fn declared(&mut self, base: &str, args: &[Field], range: TextRange) -> Value {
        if args.is_empty() && base != "let" || args.iter().any(|arg| arg.text.starts_with("-p")) {
            self.dump(base, range);
            return Value::unknown(ENV);
        }
        for arg in args {
            if let Some((name, value)) = arg.text.split_once('=') {
                self.assign(name, Value::of(value).tainted(arg.taint), false, range);
            }
        }
        Value::empty()
    }

    /// The files among words whose use is not known.
    pub(super) fn paths_among(&mut self, args: &[Field], range: TextRange) {
        for arg in args {
            let text = arg.text.as_str();
            let path = text.split_once('=').map_or(text, |(_, path)| path);
            let path = path.trim_start_matches('@');
            if path.starts_with(['/', '~']) || path.contains("../") {
                let field = Field {
                    text: path.to_owned(),
                    ..arg.clone()
                };
                self.file(&field, Access::Unknown, range);
            }
            self.string(text, range);
        }
    }
}

/// What `printf` makes of a form and its items.
fn formatted(form: &str, items: &[Field]) -> String {
    let mut text = String::new();
    let mut items = items.iter();
    let mut first = true;
    // The form is used again as long as there are items.
    while first || items.len() > 0 {
        first = false;
        let before = items.len();
        let mut chars = form.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\\' {
                text.push(c);
                text.extend(chars.next());
                continue;
            }
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut flags = String::new();
            while let Some(&c) = chars.peek() {
                if c.is_ascii_digit() || matches!(c, '-' | '+' | ' ' | '#' | '.' | '\'' | '*') {
                    flags.push(c);
                    chars.next();
                } else {
                    break;
                }
            }
            match chars.next() {
                Some('%') => text.push('%'),
                Some('b') => text.push_str(items.next().map_or("", |item| item.text.as_str())),
                Some('s' | 'q' | 'd' | 'i' | 'u') => {
                    let item = items.next().map_or("", |item| item.text.as_str());
                    let most = flags
                        .split_once('.')
                        .and_then(|(_, most)| most.parse::<usize>().ok());
                    let item: String = item.chars().take(most.unwrap_or(usize::MAX)).collect();
                    // What comes out is put through the escapes below, where the items stay as they are.
                    text.push_str(&item.replace('\\', "\\\\"));
                }
                Some(_) => {
                    items.next();
                    text.push_str(GAP);
                }
                None => {}
            }
        }
        if items.len() == before || text.len() > super::value::MAX_TEXT {
            break;
        }
    }
    unescape(&text)
}
