//! Programs that work on files and streams: what they read, write and remove, and what comes out of them.

use casemate_model::manifest::Access;
use ruff_text_size::TextRange;

use super::command::{joined, taint_of};
use super::shell::Shell;
use super::value::{DECODED, FILE, Field, Value};
use crate::codec::{Decoder, Out, decode};
use crate::gaps::GAP;

/// What a program does to the files that its words name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It reads all of them.
    Reads,
    /// The first word is a pattern or a program; the rest is read.
    Pattern,
    /// It writes or makes all of them.
    Writes,
    /// It removes all of them.
    Removes,
    /// It reads all but the last, and writes the last.
    Copies,
    /// It moves all but the last to the last.
    Moves,
    /// The first word says how; it changes the rest.
    Changes,
}

fn role(base: &str) -> Option<Role> {
    Some(match base {
        "cat" | "tac" | "head" | "tail" | "less" | "more" | "wc" | "sort" | "uniq" | "cut"
        | "paste" | "join" | "comm" | "diff" | "cmp" | "nl" | "od" | "xxd" | "hexdump" | "hd"
        | "strings" | "file" | "stat" | "md5sum" | "sha1sum" | "sha256sum" | "sha512sum"
        | "cksum" | "base64" | "base32" | "fold" | "fmt" | "column" | "rev" | "tsort"
        | "expand" | "unexpand" | "pr" | "ls" | "ll" | "dir" | "tree" | "du" | "df" | "find"
        | "zcat" | "bzcat" | "xzcat" | "zless" | "zgrep" | "gunzip" | "gzip" | "bzip2" | "xz"
        | "zstd" | "unxz" | "bunzip2" | "unzip" | "shuf" | "readlink" | "realpath" | "iconv"
        | "bat" | "numfmt" | "csvlook" | "csvstat" | "getfacl" | "lsattr" | "source" | "dd"
        | "tar" | "zip" | "7z" | "cpio" | "openssl" | "gpg" => Role::Reads,
        "grep" | "egrep" | "fgrep" | "rg" | "ag" | "sed" | "awk" | "gawk" | "mawk" | "nawk"
        | "jq" | "yq" | "csvcut" | "csvgrep" | "xmllint" | "look" => Role::Pattern,
        "tee" | "touch" | "mkdir" | "truncate" | "mkfifo" | "fallocate" | "sponge" | "split"
        | "csplit" | "mkswap" => Role::Writes,
        "mknod" | "debugfs" => Role::Writes,
        "rm" | "rmdir" | "unlink" | "shred" | "srm" | "wipe" => Role::Removes,
        "cp" | "ln" | "install" | "link" | "symlink" => Role::Copies,
        "mv" => Role::Moves,
        "chmod" | "chown" | "chgrp" | "chattr" | "setfacl" | "setfattr" => Role::Changes,
        _ => return None,
    })
}

/// Options of these programs that take a word of their own.
fn takes_word(base: &str, option: &str) -> bool {
    match base {
        "head" | "tail" | "split" => matches!(
            option,
            "-n" | "-c" | "-s" | "-l" | "-b" | "--lines" | "--bytes"
        ),
        "cut" => matches!(option, "-d" | "-f" | "-c" | "-b" | "--output-delimiter"),
        "sort" => matches!(option, "-k" | "-t" | "-S"),
        "uniq" | "comm" => matches!(option, "-f" | "-s" | "-w"),
        "grep" | "egrep" | "fgrep" | "rg" | "zgrep" => {
            matches!(
                option,
                "-e" | "-m" | "-A" | "-B" | "-C" | "--include" | "--exclude"
            )
        }
        "awk" | "gawk" | "mawk" | "nawk" => {
            matches!(option, "-F" | "-v" | "--field-separator" | "--assign")
        }
        "sed" => matches!(option, "-e" | "-l" | "--expression"),
        "jq" => matches!(option, "--indent" | "--tab"),
        "join" => matches!(
            option,
            "-t" | "-o" | "-1" | "-2" | "-e" | "-a" | "-v" | "-j"
        ),
        "paste" | "nl" | "column" | "fold" | "base64" | "od" | "xxd" => {
            matches!(
                option,
                "-d" | "-s" | "-w" | "-t" | "-A" | "-N" | "-j" | "-l" | "-c" | "-v" | "-b"
            ) && !matches!(
                (base, option),
                ("base64", "-d") | ("column", "-s") | ("od", "-v")
            )
        }
        "shuf" => matches!(option, "-n" | "-i"),
        "touch" => matches!(option, "-d" | "-t"),
        "truncate" | "fallocate" => matches!(option, "-s" | "-l" | "-o"),
        "mkdir" | "install" => matches!(option, "-m" | "-o" | "-g"),
        "iconv" => matches!(option, "-f" | "-t"),
        "stat" | "date" => matches!(option, "-c" | "-f" | "--format"),
        _ => false,
    }
}

/// The positional words of a program, and the words of its options.
fn sorted<'a>(base: &str, args: &'a [Field]) -> (Vec<&'a Field>, Vec<(&'a str, &'a Field)>) {
    let (mut words, mut options) = (Vec::new(), Vec::new());
    let (mut at, mut ended) = (0, false);
    while let Some(arg) = args.get(at) {
        let text = arg.text.as_str();
        if !ended && text == "--" {
            ended = true;
        } else if !ended && text.starts_with('-') && text.len() > 1 {
            if takes_word(base, text)
                && let Some(next) = args.get(at + 1)
            {
                options.push((text, next));
                at += 1;
            } else {
                options.push((text, arg));
            }
        } else {
            words.push(arg);
        }
        at += 1;
    }
    (words, options)
}

impl Shell<'_> {
    /// A program that is no shell, no interpreter and nothing of the network.
    pub(super) fn tool(
        &mut self,
        base: &str,
        words: &[Field],
        stdin: &Value,
        range: TextRange,
    ) -> Value {
        let args = words.get(1..).unwrap_or_default();
        let Some(role) = role(base) else {
            return self.other(base, words, stdin, range);
        };
        let (named, options) = sorted(base, args);
        self.shown(base, words, role, &named, range);
        for (option, word) in &options {
            if let Some((_, path)) = word.text.split_once('=')
                && path.starts_with(['/', '~'])
            {
                self.file(&Field::of(path), Access::Unknown, range);
            }
            let pattern_file =
                role == Role::Pattern && (option.starts_with("-f") || *option == "--file");
            if pattern_file && !word.text.starts_with('-') {
                self.file(&(*word).clone(), Access::Read, range);
            }
        }
        let mut taint = stdin.taint | taint_of(args);
        match role {
            Role::Reads | Role::Pattern => {
                let given = options.iter().any(|(option, _)| {
                    matches!(
                        *option,
                        "-e" | "--expression" | "--regexp" | "-f" | "--file"
                    )
                });
                let skip = usize::from(role == Role::Pattern && !given);
                let files = named.get(skip..).unwrap_or_default();
                let in_place = base == "sed"
                    && options
                        .iter()
                        .any(|(option, _)| option.starts_with("-i") || *option == "--in-place");
                for file in files {
                    self.file(file, Access::Read, range);
                    if in_place {
                        self.file(file, Access::Write, range);
                    }
                }
                if !files.is_empty() {
                    taint |= FILE;
                }
                self.scripts(base, &named, &options, range);
            }
            Role::Writes => named
                .iter()
                .for_each(|file| self.file(file, Access::Write, range)),
            Role::Removes => self.removed(base, words, &named, range),
            Role::Copies | Role::Moves => self.copied(base, role, args, &named, range),
            Role::Changes => {
                for file in named.get(1..).unwrap_or_default() {
                    self.file(file, Access::Write, range);
                }
            }
        }
        self.special(base, args, &named, range);
        self.output(base, args, &named, stdin, taint)
    }

    /// The command as rules see it: patterns and programs are data, and files of one's own are no harm.
    fn shown(
        &mut self,
        base: &str,
        words: &[Field],
        role: Role,
        named: &[&Field],
        range: TextRange,
    ) {
        let args = words.get(1..).unwrap_or_default();
        let hidden = |arg: &Field| {
            let own = role == Role::Removes
                && named.iter().any(|word| std::ptr::eq(*word, arg))
                && self.is_own(&arg.text);
            let pattern =
                role == Role::Pattern && !arg.text.starts_with('-') && !is_path(&arg.text);
            let first =
                role == Role::Pattern && named.first().is_some_and(|word| std::ptr::eq(*word, arg));
            own || pattern || first
        };
        let shown: Vec<&str> = args
            .iter()
            .map(|arg| if hidden(arg) { GAP } else { arg.text.as_str() })
            .collect();
        let command = format!("{base} {}", shown.join(" "));
        self.process(command.trim_end(), range);
    }

    /// Whether a path is below the working folder or a folder for what does not last.
    fn is_own(&self, path: &str) -> bool {
        let place = self.place_of(path);
        let below = |folder: &str| {
            place
                .strip_prefix(folder)
                .is_some_and(|rest| !rest.is_empty() && !rest.contains("..") && rest != "*")
        };
        if place.starts_with('/') {
            return below("/tmp/") || below("/work/") || below("/var/tmp/");
        }
        let plain = place.trim_start_matches("./");
        let unknown = plain.starts_with(GAP);
        // `$x/` without an `$x` is the root of everything.
        let rest = plain.trim_start_matches(GAP).trim_start_matches('/');
        let nothing_behind = unknown && plain.contains('/') && matches!(rest, "" | "*" | "*.*");
        !place.starts_with(['~', '$', '-'])
            && !place.contains("..")
            && !matches!(plain, "" | "." | "*" | ".*")
            && !nothing_behind
    }

    fn removed(&mut self, base: &str, words: &[Field], named: &[&Field], range: TextRange) {
        let deep = words
            .iter()
            .any(|word| word.text.starts_with('-') && word.text.contains(['r', 'R', 'f']));
        for file in named {
            self.file(file, Access::Delete, range);
            let rest = file.text.trim_start_matches(GAP);
            let rootless = rest.len() < file.text.len() && matches!(rest, "/" | "/*");
            if deep && rootless || base == "shred" && !self.is_own(&file.text) {
                self.act("destroys", &joined(words), range);
            }
        }
        if named.is_empty() && deep {
            self.act("runs-unknown", &joined(words), range);
        }
    }

    fn copied(
        &mut self,
        base: &str,
        role: Role,
        args: &[Field],
        named: &[&Field],
        range: TextRange,
    ) {
        let into = args
            .iter()
            .position(|arg| arg.text == "-t" || arg.text == "--target-directory");
        let into = into.and_then(|at| args.get(at + 1));
        let (from, to) = match (into, named.split_last()) {
            (Some(into), _) => (named, Some(into)),
            (None, Some((last, first))) => (first, Some(*last)),
            (None, None) => return,
        };
        let access = if base == "ln" {
            Access::Link
        } else {
            Access::Read
        };
        for file in from {
            self.file(file, access, range);
            if role == Role::Moves {
                self.file(file, Access::Delete, range);
            }
        }
        if let Some(to) = to {
            self.file(to, Access::Write, range);
            // A copy of what the script wrote is the same script.
            if let [file] = from {
                let (old, new) = (self.place_of(&file.text), self.place_of(&to.text));
                let content = self.files.get(&old).cloned();
                if let Some(content) = content {
                    self.files.insert(new, content);
                }
            }
        }
    }

    /// Programs inside words: those of `awk` and `sed`, the commands of `find` and `tar`.
    fn scripts(
        &mut self,
        base: &str,
        named: &[&Field],
        options: &[(&str, &Field)],
        range: TextRange,
    ) {
        let expressions = options
            .iter()
            .filter(|(option, _)| matches!(*option, "-e" | "--expression"));
        let first = named.first().copied();
        let mut texts: Vec<Field> = expressions.map(|(_, word)| (*word).clone()).collect();
        if texts.is_empty() {
            texts.extend(first.cloned());
        }
        match base {
            "awk" | "gawk" | "mawk" | "nawk" => {
                if let Some(program) = first {
                    self.awk(&program.clone(), range);
                }
            }
            "sed" => texts.iter().for_each(|text| self.sed(text, range)),
            _ => {}
        }
    }

    fn awk(&mut self, program: &Field, range: TextRange) {
        let text = program.text.as_str();
        if text.contains("/inet/") {
            self.host("?", None, range);
        }
        if !program.is_known() && (text.contains("system") || program.text == GAP) {
            self.act("runs-unknown", "awk", range);
        }
        let runs = text.contains("system") || text.contains('|');
        let mut rest = text;
        let mut before = String::new();
        for _ in 0..64 {
            let Some((head, tail)) = rest.split_once('"') else {
                break;
            };
            before.push_str(head);
            let end = super::word::end_of(tail.as_bytes(), 0, b'"');
            let literal = super::word::unescape(tail.get(..end).unwrap_or(""));
            let after = tail.get(end + 1..).unwrap_or("");
            let lead = before.trim_end();
            let starts = lead.ends_with("system(") || lead.ends_with('|') && !lead.ends_with("||");
            let read = after.trim_start().starts_with("| getline")
                || after.trim_start().starts_with("|getline");
            if runs && (starts || read) {
                self.run_value(&Value::of(literal), "awk", range);
            } else if lead.ends_with('>') && is_path(&literal) {
                self.file(&Field::of(literal), Access::Write, range);
            } else if lead.ends_with('<') && is_path(&literal) {
                self.file(&Field::of(literal), Access::Read, range);
            } else {
                self.string(&literal, range);
            }
            before.push('"');
            rest = after;
        }
        // What is run and does not stand there as one text is not known.
        let computed = text.match_indices("system(").any(|(at, call)| {
            let argument = text.get(at + call.len()..).unwrap_or("").trim_start();
            !argument.starts_with('"')
                || argument.split(')').next().is_some_and(|inner| {
                    inner.matches('"').count() > 2 || !inner.trim_end().ends_with('"')
                })
        });
        if computed {
            self.act("runs-unknown", "awk", range);
        }
    }

    fn sed(&mut self, script: &Field, range: TextRange) {
        for command in script.text.split([';', '\n']) {
            let command = command.trim().trim_end_matches('}');
            let rest = command.trim_start_matches(|c: char| {
                c.is_ascii_digit() || matches!(c, '$' | ',' | '!' | ' ' | '{')
            });
            if let Some(run) = rest.strip_prefix("e ") {
                self.run_value(&Value::of(run), "sed", range);
            } else if rest == "e" {
                self.act("runs-unknown", "sed", range);
            } else if let Some(path) = rest.strip_prefix("w ").or_else(|| rest.strip_prefix("W ")) {
                self.file(&Field::of(path.trim()), Access::Write, range);
            } else if let Some(path) = rest.strip_prefix("r ").or_else(|| rest.strip_prefix("R ")) {
                self.file(&Field::of(path.trim()), Access::Read, range);
            } else if let Some(change) = rest.strip_prefix('s')
                && let Some(mark) = change.chars().next()
                && !mark.is_alphanumeric()
            {
                let flags = change.rsplit(mark).next().unwrap_or("");
                if change.matches(mark).count() >= 3 && flags.contains('e') && flags.len() < 6 {
                    self.act("runs-unknown", "sed", range);
                }
            }
        }
    }

    fn special(&mut self, base: &str, args: &[Field], named: &[&Field], range: TextRange) {
        match base {
            "dd" => {
                let mut counted = false;
                let mut endless = false;
                for arg in args {
                    if let Some(path) = arg.text.strip_prefix("if=") {
                        endless = matches!(path, "/dev/zero" | "/dev/urandom" | "/dev/random");
                        self.file(
                            &Field {
                                text: path.to_owned(),
                                ..arg.clone()
                            },
                            Access::Read,
                            range,
                        );
                    } else if let Some(path) = arg.text.strip_prefix("of=") {
                        self.file(
                            &Field {
                                text: path.to_owned(),
                                ..arg.clone()
                            },
                            Access::Write,
                            range,
                        );
                    }
                    counted |= arg.text.starts_with("count=");
                }
                if endless && !counted && args.iter().any(|arg| arg.text.starts_with("of=")) {
                    self.bomb("bomb: a file without an end", range);
                }
            }
            "fallocate" | "truncate" => {
                let size = |arg: &Field| {
                    bytes_of(arg.text.trim_start_matches(|c: char| !c.is_ascii_digit()))
                };
                if args.iter().filter_map(size).any(|bytes| bytes > 8 << 30) {
                    self.bomb("bomb: a file of many gigabytes", range);
                }
            }
            "head" => {
                let size = |arg: &Field| {
                    bytes_of(arg.text.trim_start_matches(|c: char| !c.is_ascii_digit()))
                };
                let endless = named
                    .iter()
                    .any(|file| matches!(file.text.as_str(), "/dev/zero" | "/dev/urandom"));
                if endless && args.iter().filter_map(size).any(|bytes| bytes > 8 << 30) {
                    self.bomb("bomb: a stream of many gigabytes", range);
                }
            }
            "find" => self.find(args, range),
            "tar" | "cpio" => self.tar(args, range),
            "sort" | "split" => {
                for (index, arg) in args.iter().enumerate() {
                    let next = args.get(index + 1);
                    match (arg.text.as_str(), next) {
                        ("-o", Some(next)) => self.file(next, Access::Write, range),
                        ("--filter" | "--compress-program", Some(next)) => {
                            self.run_value(&next.value(), base, range);
                        }
                        (text, _) => {
                            let code = text
                                .strip_prefix("--compress-program=")
                                .or_else(|| text.strip_prefix("--filter="));
                            if let Some(code) = code {
                                self.run_value(&Value::of(code), base, range);
                            }
                        }
                    }
                }
            }
            "mknod" => self.act("escapes", &format!("mknod {}", joined(args)), range),
            "chmod" if args.iter().any(|arg| sets_user(&arg.text)) => {
                self.act("gains", &format!("chmod {}", joined(args)), range);
            }
            _ => {}
        }
    }

    fn bomb(&mut self, what: &str, range: TextRange) {
        let seen = self.seen(what, range);
        self.facts.resources.push(seen);
    }

    fn find(&mut self, args: &[Field], range: TextRange) {
        let roots: Vec<Field> = args
            .iter()
            .take_while(|arg| !arg.text.starts_with(['-', '(', '!']))
            .cloned()
            .collect();
        for (index, arg) in args.iter().enumerate() {
            match arg.text.as_str() {
                "-delete" => {
                    for root in &roots {
                        self.file(root, Access::Delete, range);
                    }
                }
                "-exec" | "-execdir" | "-ok" | "-okdir" => {
                    let rest = args.get(index + 1..).unwrap_or_default();
                    let end = rest
                        .iter()
                        .position(|arg| matches!(arg.text.as_str(), ";" | "+"));
                    let command = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
                    let first = roots.first().map_or(".", |root| root.text.as_str());
                    let found = if first == "/" {
                        "/…".to_owned()
                    } else {
                        format!("{first}/{GAP}")
                    };
                    let put = |word: &Field| Field {
                        text: word.text.replace("{}", &found),
                        taint: word.taint | FILE,
                        glob: false,
                    };
                    let command: Vec<Field> = command.iter().map(put).collect();
                    self.run(&command, &Value::unknown(0), range);
                }
                "-fprintf" | "-fprint" | "-fls" => {
                    if let Some(path) = args.get(index + 1) {
                        self.file(&path.clone(), Access::Write, range);
                    }
                }
                _ => {}
            }
        }
    }

    fn tar(&mut self, args: &[Field], range: TextRange) {
        for (index, arg) in args.iter().enumerate() {
            let text = arg.text.as_str();
            let action = text
                .strip_prefix("--checkpoint-action=")
                .and_then(|action| action.strip_prefix("exec="));
            let command = action
                .or_else(|| text.strip_prefix("--to-command="))
                .or_else(|| text.strip_prefix("--use-compress-program="))
                .map(|command| Value::of(command).tainted(arg.taint));
            let next = matches!(text, "--to-command" | "-I" | "--use-compress-program");
            let command =
                command.or_else(|| args.get(index + 1).filter(|_| next).map(Field::value));
            if let Some(command) = command {
                self.run_value(&command, "tar", range);
            }
            if text == "-C"
                && let Some(folder) = args.get(index + 1)
            {
                self.file(&folder.clone(), Access::Write, range);
            }
        }
    }

    /// A program that no table knows.
    fn other(&mut self, base: &str, words: &[Field], stdin: &Value, range: TextRange) -> Value {
        let args = words.get(1..).unwrap_or_default();
        let name = words.first().map_or("", |word| word.text.as_str());
        let path = self.place_of(name);
        if name.contains('/')
            && let Some(content) = self.files.get(&path).cloned()
        {
            self.process(&joined(words), range);
            let args = args.to_vec();
            return self.apart(|shell| {
                shell.scope().args = Some(args);
                shell.led("a file that the script wrote", range, |shell| {
                    shell.written_program(&content, range)
                })
            });
        }
        let text = joined(words);
        match base {
            "gdb" | "strace" | "ltrace" | "ptrace" | "perf" | "bpftrace" | "gcore" => {
                self.act("traces", &text, range)
            }
            "at" | "batch" => self.act("persists", &text, range),
            _ => {}
        }
        if ENTERS.contains(&base) {
            self.act("escapes", &text, range);
        }
        let shown = if DATA_ONLY.contains(&base) {
            format!("{base} {GAP}")
        } else {
            text.clone()
        };
        self.process(shown.trim_end(), range);
        if !DATA_ONLY.contains(&base) {
            self.paths_among(args, range);
        }
        if name.contains('/')
            && !["/bin/", "/usr/", "/sbin/"]
                .iter()
                .any(|folder| name.starts_with(folder))
        {
            self.act("runs-outside", name, range);
        }
        if base.starts_with("ld-linux") || base.starts_with("ld.so") || base.starts_with("ld-musl")
        {
            self.run(args, stdin, range);
        }
        self.output(base, args, &[], stdin, stdin.taint | taint_of(args))
    }

    /// A file that the script wrote and now starts: a script of the language on its first line.
    fn written_program(&mut self, content: &Value, range: TextRange) -> Value {
        let python = |text: &String| {
            text.lines()
                .next()
                .is_some_and(|line| line.starts_with("#!") && line.contains("python"))
        };
        if content.texts.iter().any(python) {
            for text in &content.texts {
                if self.python.len() < super::shell::MAX_PYTHON {
                    self.python.push((text.replace(GAP, "None"), range));
                }
            }
            return Value::unknown(0);
        }
        self.run_value_with(
            content,
            "a file that the script wrote",
            &Value::unknown(0),
            range,
        )
    }

    /// What comes out of a program, where that can be worked out.
    fn output(
        &mut self,
        base: &str,
        args: &[Field],
        named: &[&Field],
        stdin: &Value,
        taint: u8,
    ) -> Value {
        let flag = |short: char, long: &str| {
            args.iter().any(|arg| {
                arg.text == long
                    || arg.text.starts_with('-')
                        && !arg.text.starts_with("--")
                        && arg.text.contains(short)
            })
        };
        let mut input: Option<Value> = None;
        for file in named.iter().filter(|_| {
            matches!(
                base,
                "cat" | "base64" | "rev" | "head" | "tail" | "tac" | "xxd"
            )
        }) {
            let content = if file.text == "-" {
                stdin.clone()
            } else {
                self.contents(&file.value())
            };
            input = Some(match input {
                Some(before) => before.then(&content),
                None => content,
            });
        }
        let input = input.unwrap_or_else(|| stdin.clone());
        let unpacked = |decoder: Decoder| {
            input.map(
                |text| match decode(decoder, None, text.trim().as_bytes(), false) {
                    Out::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
                    Out::Text(text) => Some(text),
                    Out::TooLong | Out::Bad => None,
                },
            )
        };
        let taint = taint | input.taint;
        let value = match base {
            "cat" | "tee" => input,
            "base64" if flag('d', "--decode") || flag('D', "--decode") => {
                unpacked(Decoder::Base64).tainted(DECODED)
            }
            "base32" if flag('d', "--decode") => unpacked(Decoder::Base32).tainted(DECODED),
            "xxd" if flag('r', "-r") => unpacked(Decoder::Hex).tainted(DECODED),
            "rev" => input
                .map(|text| {
                    Some(
                        text.lines()
                            .map(|line| line.chars().rev().collect::<String>() + "\n")
                            .collect(),
                    )
                })
                .tainted(DECODED),
            "tac" => input
                .map(|text| Some(text.lines().rev().map(|line| format!("{line}\n")).collect()))
                .tainted(DECODED),
            "tr" => translated(&input, args).tainted(DECODED),
            "gunzip" | "zcat" | "bzcat" | "xzcat" | "bunzip2" | "unxz" | "zstdcat" | "openssl"
            | "gpg" | "uudecode" | "uncompress" => Value::unknown(DECODED),
            "gzip" | "bzip2" | "xz" | "zstd" | "lz4" if flag('d', "--decompress") => {
                Value::unknown(DECODED)
            }
            "head" | "tail" | "sort" | "uniq" | "grep" | "shuf" | "fold" => {
                let mut value = input;
                value.or(&Value::unknown(0));
                value
            }
            "sed" | "awk" | "gawk" | "cut" | "jq" => Value::unknown(DECODED),
            "pwd" => Value::of(self.scope.folder.clone().unwrap_or_else(|| GAP.to_owned())),
            "basename" => args.first().map_or_else(Value::empty, |first| {
                first
                    .value()
                    .map(|text| Some(super::paths::base(text.trim_end_matches('/')).to_owned()))
            }),
            "dirname" => args.first().map_or_else(Value::empty, |first| {
                first.value().map(|text| {
                    Some(
                        text.rsplit_once('/')
                            .map_or(".", |(folder, _)| folder)
                            .to_owned(),
                    )
                })
            }),
            "mktemp" => Value::of(format!("/tmp/{GAP}")),
            "seq" => Value::unknown(0),
            "ps" | "date" | "nproc" | "hostname" | "tty" | "getconf" => Value::unknown(0),
            _ => Value::unknown(0),
        };
        value.tainted(taint)
    }
}

/// Programs that lead out of what surrounds the script.
const ENTERS: &[&str] = &[
    "mount",
    "umount",
    "nsenter",
    "unshare",
    "chroot",
    "pivot_root",
    "switch_root",
    "insmod",
    "modprobe",
    "rmmod",
    "kexec",
    "capsh",
    "setcap",
    "bwrap",
    "runc",
    "crun",
    "ctr",
    "machinectl",
    "systemd-nspawn",
    "systemd-run",
    "losetup",
    "debugfs",
    "swapon",
    "swapoff",
    "dmsetup",
    "cryptsetup",
    "setpriv",
    "pkexec",
    "newgrp",
    "ptrace",
];

/// Programs whose words are only data.
const DATA_ONLY: &[&str] = &[
    "date", "sleep", "seq", "expr", "bc", "basename", "dirname", "tr", "yes", "factor", "cal",
    "tput", "clear", "nproc", "true", "false", "mktemp", "tty", "arch", "numfmt", "figlet",
    "cowsay",
];

fn is_path(text: &str) -> bool {
    text.starts_with(['/', '~']) || text.starts_with("./") || text.starts_with("../")
}

/// Whether a mode gives a program the rights of its owner.
fn sets_user(mode: &str) -> bool {
    let symbolic = mode.contains("+s") || mode.contains("=s") || mode.contains("xs");
    let octal = mode.len() == 4
        && mode.starts_with(['2', '4', '6', '7'])
        && mode.chars().all(|c| c.is_digit(8));
    symbolic && mode.starts_with(['u', 'g', 'a', 'o', '+']) || octal
}

/// A number with a unit, in bytes.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let unit = match text.get(digits..)?.chars().next() {
        Some('K' | 'k') => 10,
        Some('M' | 'm') => 20,
        Some('G' | 'g') => 30,
        Some('T' | 't') => 40,
        Some('P' | 'p' | 'E') => 50,
        _ => 0,
    };
    number.checked_mul(1 << unit).or(Some(u64::MAX))
}

/// `tr`: its sets are ranges and single characters.
fn translated(input: &Value, args: &[Field]) -> Value {
    let sets: Vec<Vec<char>> = args
        .iter()
        .filter(|arg| !arg.text.starts_with('-'))
        .map(|arg| set_of(&arg.text))
        .collect();
    let deletes = args
        .iter()
        .any(|arg| arg.text.starts_with('-') && arg.text.contains('d'));
    let known = args
        .iter()
        .all(|arg| arg.is_known() && !arg.text.contains("[:") && !arg.text.starts_with("-c"));
    input.map(|text| match sets.as_slice() {
        [from] if known && deletes => Some(text.chars().filter(|c| !from.contains(c)).collect()),
        [from, to] if known && !deletes => {
            let change = |c: char| {
                let at = from.iter().position(|&other| other == c)?;
                to.get(at).or(to.last()).copied()
            };
            Some(text.chars().map(|c| change(c).unwrap_or(c)).collect())
        }
        _ => None,
    })
}

fn set_of(text: &str) -> Vec<char> {
    let text: Vec<char> = super::word::unescape(text).chars().take(1024).collect();
    let mut set = Vec::new();
    let mut at = 0;
    while let Some(&c) = text.get(at) {
        if let (Some('-'), Some(&last)) = (text.get(at + 1), text.get(at + 2)) {
            set.extend((c..=last).take(512));
            at += 3;
        } else {
            set.push(c);
            at += 1;
        }
    }
    set
}
