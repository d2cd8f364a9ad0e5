//! What words stand for.

use ruff_text_size::TextRange;

use super::params;
use super::shell::{Shell, Spot, Var};
use super::value::{DECODED, ENV, FILE, Field, MAX_TEXT, MAX_TEXTS, Taint, Value};
use super::word::{Around, Part, braces, parts};
use crate::gaps::GAP;

/// The most words of one command.
const MAX_FIELDS: usize = 256;

/// Variables that a shell sets itself; reading them reads no environment.
const OWN: &[&str] = &[
    "PWD",
    "OLDPWD",
    "IFS",
    "RANDOM",
    "SRANDOM",
    "SECONDS",
    "LINENO",
    "UID",
    "EUID",
    "PPID",
    "HOSTNAME",
    "HOSTTYPE",
    "MACHTYPE",
    "OSTYPE",
    "OPTARG",
    "OPTIND",
    "OPTERR",
    "REPLY",
    "FUNCNAME",
    "PIPESTATUS",
    "EPOCHSECONDS",
    "EPOCHREALTIME",
    "SHLVL",
    "GROUPS",
    "DIRSTACK",
    "COLUMNS",
    "LINES",
    "MAPFILE",
    "_",
    "PS3",
    "COPROC",
    "TIMEFORMAT",
];

/// A possible reading of a word: the fields it becomes.
type Alternative = Vec<Field>;

impl Shell<'_> {
    /// What one word stands for, without being split: the value of an assignment, the text of a
    /// here-document, the file of a redirection.
    pub(super) fn text(&mut self, raw: &str, spot: Spot, around: Around) -> Value {
        let mut value = Value::empty();
        for part in parts(raw, around) {
            let more = match part {
                Part::Text { text, quoted } => {
                    let first =
                        value.texts.len() == 1 && value.texts.first().is_some_and(String::is_empty);
                    let home = !quoted && first && around == Around::Word;
                    Value::of(if home { tilde(&text) } else { text })
                }
                part => self.part(&part, spot, raw.len()),
            };
            value = value.then(&more);
        }
        value
    }

    /// The alternatives of a whole command: each word put in, split and joined.
    pub(super) fn words(&mut self, raws: &[(&str, Spot)]) -> Vec<Alternative> {
        let mut all: Vec<Alternative> = vec![Vec::new()];
        for &(raw, spot) in raws {
            let (words, cut) = braces(raw);
            self.exhausted |= cut;
            for word in words {
                if !self.step() {
                    return all;
                }
                let choices = self.word(&word, spot);
                let mut next = Vec::new();
                for before in &all {
                    for choice in &choices {
                        if next.len() < MAX_TEXTS {
                            let mut fields = before.clone();
                            fields.extend(choice.iter().cloned());
                            self.exhausted |= fields.len() > MAX_FIELDS;
                            fields.truncate(MAX_FIELDS);
                            next.push(fields);
                        }
                    }
                }
                // Readings that found no room keep their words, so that none is lost.
                if all.len() * choices.len() > MAX_TEXTS
                    && let Some(last) = next.last_mut()
                {
                    for choice in choices.iter().skip(1) {
                        last.extend(choice.iter().cloned());
                        last.truncate(MAX_FIELDS);
                    }
                }
                all = next;
            }
        }
        all
    }

    fn word(&mut self, raw: &str, spot: Spot) -> Vec<Alternative> {
        let mut builder = Builder::new(self.separators());
        for part in parts(raw, Around::Word) {
            match part {
                Part::Text { text, quoted: true } => builder.add(&Value::of(text), true, false),
                Part::Text { text, .. } => {
                    let text = if builder.is_new() { tilde(&text) } else { text };
                    builder.literal(&text);
                }
                Part::Parameter { inner, quoted } if params::is_list(&inner) => {
                    let items = self.list(&inner, spot.range(0, raw.len()));
                    builder.items(&items, quoted);
                }
                part => {
                    let quoted = matches!(
                        part,
                        Part::Parameter { quoted: true, .. } | Part::Command { quoted: true, .. }
                    );
                    let splits = !quoted && !matches!(part, Part::Process { .. });
                    let value = self.part(&part, spot, raw.len());
                    builder.add(&value, quoted || !splits, splits);
                }
            }
        }
        self.exhausted |= builder.cut;
        builder.finish()
    }

    /// What separates fields: the texts of `IFS`, or white space.
    fn separators(&self) -> String {
        match self.scope.vars.get("IFS") {
            Some(Var::One(value)) => {
                let mut all: String = value.known().map(String::as_str).collect();
                if !value.is_known() {
                    all.push_str(" \t\n");
                }
                all
            }
            _ => " \t\n".to_owned(),
        }
    }

    /// The value of a part that is put in.
    fn part(&mut self, part: &Part, spot: Spot, length: usize) -> Value {
        let range = spot.range(0, length);
        match part {
            Part::Text { text, .. } => Value::of(text.clone()),
            Part::Parameter { inner, .. } => self.parameter(inner, range),
            Part::Arithmetic { text } => {
                // A sum runs what stands in its indices: `a[$(id)]`.
                let text = self.text(text, Spot::Made(range), Around::Document);
                let mut value = text.map(|text| self.sum(text).map(|n| n.to_string()));
                value.taint = 0;
                value
            }
            Part::Command { text, start, .. } => {
                let inner = start.map_or(Spot::Made(range), |start| spot.inner(start));
                self.substitution(text, inner)
            }
            Part::Process {
                text,
                start,
                written,
            } => {
                let inner = spot.inner(*start);
                let out = self.apart(|shell| shell.script(text, inner, &Value::unknown(0)));
                if *written {
                    return Value::of("/dev/fd/63");
                }
                // A file of its own, so that whoever runs or reads it gets what the command writes.
                let name = format!("/dev/fd/casemate-{}", self.files.len());
                let taint = out.taint;
                self.files.insert(name.clone(), out);
                Value::of(name).tainted(taint)
            }
        }
    }

    /// The output of a command, without the newlines at its end.
    fn substitution(&mut self, text: &str, spot: Spot) -> Value {
        // `$(<file)` reads a file.
        if let Some(name) = text.trim().strip_prefix('<')
            && !name.starts_with(['<', '('])
        {
            let path = self.text(name.trim(), spot, Around::Word);
            let range = spot.range(0, text.len());
            for text in path.texts.clone() {
                self.file(
                    &Field::of(text),
                    casemate_model::manifest::Access::Read,
                    range,
                );
            }
            return self.contents(&path);
        }
        let out = self.apart(|shell| {
            shell.piped += 1;
            let out = shell.script(text, spot, &Value::unknown(0));
            shell.piped -= 1;
            out
        });
        let mut out = out;
        for text in &mut out.texts {
            text.truncate(text.trim_end_matches('\n').len());
        }
        out
    }

    /// What is in a file, as far as the script itself wrote it.
    pub(super) fn contents(&self, path: &Value) -> Value {
        let mut value: Option<Value> = None;
        for text in &path.texts {
            let written = self.files.get(&self.place_of(text));
            let one = written.cloned().unwrap_or_else(|| Value::unknown(FILE));
            match &mut value {
                Some(value) => value.or(&one),
                None => value = Some(one),
            }
        }
        let value = value.unwrap_or_else(|| Value::unknown(FILE));
        value.tainted(path.taint)
    }

    /// The items of `$@`, `${a[@]}` and their like.
    fn list(&mut self, inner: &str, range: TextRange) -> Vec<Value> {
        let name = params::list_name(inner);
        if matches!(name, "@" | "*") {
            return match &self.scope.args {
                Some(args) => args.iter().map(Field::value).collect(),
                None => vec![Value::unknown(0)],
            };
        }
        match self.scope.vars.get(name) {
            Some(Var::Many(items)) if params::is_plain_list(inner) => items.clone(),
            Some(Var::Many(items)) => {
                let mut all = Value::unknown(0);
                items.iter().for_each(|item| all.or(item));
                vec![all]
            }
            Some(Var::One(value)) => vec![value.clone()],
            None => {
                self.variable_read(name, range);
                vec![Value::unknown(0)]
            }
        }
    }

    /// The value of a variable by its name.
    pub(super) fn variable(&mut self, name: &str, range: TextRange) -> Value {
        if let Some(var) = self.scope.vars.get(name) {
            return match var {
                Var::One(value) => value.clone(),
                Var::Many(items) => items.first().cloned().unwrap_or_else(Value::empty),
            };
        }
        if let Ok(number) = name.parse::<usize>() {
            return match (&self.scope.args, number) {
                (_, 0) => Value::of("$0"),
                (Some(args), number) => {
                    args.get(number - 1).map_or_else(Value::empty, Field::value)
                }
                (None, _) => Value::unknown(0),
            };
        }
        match name {
            "@" | "*" => match &self.scope.args {
                Some(args) => {
                    let texts: Vec<&str> = args.iter().map(|field| field.text.as_str()).collect();
                    let taint = args.iter().fold(0, |taint, field| taint | field.taint);
                    Value::of(texts.join(" ")).tainted(taint)
                }
                None => Value::unknown(0),
            },
            "IFS" => Value::of(" \t\n"),
            "BASH" | "SHELL" => Value::of("/bin/bash"),
            "BASH_SOURCE" => Value::of("$0"),
            "BASHPID" | "$" => Value::of("$$"),
            "!" => Value::of("$!"),
            "HOME" => {
                self.variable_read(name, range);
                Value::of("~")
            }
            "PWD" => match &self.scope.folder {
                Some(folder) if folder.starts_with(['/', '~']) => Value::of(folder.clone()),
                Some(folder) => Value::of(format!("./{folder}").trim_end_matches('/').to_owned()),
                None => Value::unknown(0),
            },
            _ if OWN.contains(&name)
                || !name.starts_with(|c: char| c.is_alphabetic() || c == '_') =>
            {
                Value::unknown(0)
            }
            _ if name.starts_with("BASH") => Value::unknown(0),
            _ => {
                self.variable_read(name, range);
                Value::unknown(ENV)
            }
        }
    }

    /// A sum of numbers and of variables that hold numbers.
    pub(super) fn sum(&self, text: &str) -> Option<i64> {
        params::sum(text, &|name| match self.scope.vars.get(name) {
            Some(Var::One(value)) => match value.texts.as_slice() {
                [text] => text.trim().parse().ok(),
                _ => None,
            },
            _ => None,
        })
    }
}

/// `~` at the start of a word stays: rules know it as the home of the user.
fn tilde(text: &str) -> String {
    match text {
        "~+" => ".".to_owned(),
        text => text.to_owned(),
    }
}

/// Puts the fields of one word together.
struct Builder {
    alternatives: Vec<Alternative>,
    /// Whether the next piece starts a field, for each alternative.
    open: Vec<bool>,
    separators: String,
    started: bool,
    /// Whether fields found no room.
    cut: bool,
    /// The taint of readings that found no room.
    more: Option<Taint>,
}

impl Builder {
    fn new(separators: String) -> Self {
        Self {
            alternatives: vec![Vec::new()],
            open: vec![false],
            separators,
            started: false,
            cut: false,
            more: None,
        }
    }

    fn is_new(&self) -> bool {
        !self.started
    }

    fn literal(&mut self, text: &str) {
        let glob = text.contains(['*', '?', '[']);
        self.add(&Value::of(text), true, glob);
    }

    /// Adds a value: as it is, or split into fields.
    fn add(&mut self, value: &Value, whole: bool, glob: bool) {
        self.started = true;
        let mut alternatives = Vec::new();
        let mut open = Vec::new();
        for (before, &was_open) in self.alternatives.iter().zip(&self.open) {
            for text in &value.texts {
                if alternatives.len() >= MAX_TEXTS {
                    let taint = before.iter().map(|field| field.taint);
                    let taint = taint.fold(value.taint, |all, one| all | one);
                    self.more = Some(self.more.unwrap_or_default() | taint);
                    break;
                }
                let mut fields = before.clone();
                let mut is_open = was_open;
                let field_of = |text: &str| Field {
                    text: text.to_owned(),
                    taint: value.taint,
                    glob: glob && text.contains(['*', '?', '[']),
                };
                if whole {
                    append(&mut fields, &mut is_open, field_of(text));
                } else {
                    let starts_apart = text.starts_with(|c| self.separators.contains(c));
                    let ends_apart = text.ends_with(|c| self.separators.contains(c));
                    is_open &= !starts_apart;
                    let pieces = text.split(|c| self.separators.contains(c));
                    for (index, piece) in pieces.filter(|piece| !piece.is_empty()).enumerate() {
                        if index >= MAX_FIELDS {
                            self.cut = true;
                            break;
                        }
                        append(&mut fields, &mut is_open, field_of(piece));
                        is_open = false;
                    }
                    is_open = !fields.is_empty() && !ends_apart && (!text.is_empty() || was_open);
                }
                alternatives.push(fields);
                open.push(is_open);
            }
        }
        self.alternatives = alternatives;
        self.open = open;
    }

    /// Adds the items of a list: each a field of its own when quoted.
    fn items(&mut self, items: &[Value], quoted: bool) {
        self.cut |= items.len() > MAX_FIELDS;
        for (index, item) in items.iter().take(MAX_FIELDS).enumerate() {
            if index > 0 {
                self.open.iter_mut().for_each(|open| *open = false);
            }
            self.add(item, quoted, !quoted);
        }
        self.started = true;
    }

    /// Its readings; where some found no room, one of which nothing is known stands for them.
    fn finish(self) -> Vec<Alternative> {
        let mut all = self.alternatives;
        if let Some(taint) = self.more {
            let unknown = Field {
                taint,
                ..Field::of(GAP)
            };
            all.push(vec![unknown]);
        }
        all
    }
}

fn append(fields: &mut Vec<Field>, open: &mut bool, more: Field) {
    if let (true, Some(last)) = (*open, fields.last_mut()) {
        if last.text.len() + more.text.len() > MAX_TEXT {
            GAP.clone_into(&mut last.text);
        } else {
            last.text.push_str(&more.text);
        }
        last.taint |= more.taint;
        last.glob |= more.glob;
    } else {
        fields.push(more);
    }
    *open = true;
}

/// Whether code of this origin was packed or turned around.
pub(super) fn is_decoded(taint: u8) -> bool {
    taint & DECODED != 0
}
