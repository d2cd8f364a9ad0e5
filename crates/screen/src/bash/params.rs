//! Parameters: `${x:-y}`, `${x//a/b}`, `${x:1:2}`, `${!x}` and their like.

use ruff_text_size::TextRange;

use super::paths::glob;
use super::shell::{Shell, Spot, Var};
use super::value::Value;
use super::word::Around;

/// The name at the start of `${...}`, and what follows it.
fn split(inner: &str) -> (&str, &str) {
    let rest = inner
        .strip_prefix(['!', '#'])
        .filter(|rest| !rest.is_empty())
        .unwrap_or(inner);
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = rest.find(|c: char| !name(c)).unwrap_or(rest.len());
    let end = if end == 0 {
        rest.chars().next().map_or(0, char::len_utf8)
    } else {
        end
    };
    (rest.get(..end).unwrap_or(""), rest.get(end..).unwrap_or(""))
}

/// Whether it becomes a list of fields.
pub(super) fn is_list(inner: &str) -> bool {
    if inner.starts_with(['#', '!']) && inner.len() > 1 {
        return false;
    }
    let (name, rest) = split(inner);
    name == "@"
        || name == "*" && rest.is_empty()
        || rest.starts_with("[@]")
        || rest.starts_with("[*]")
}

/// Whether nothing is done to its items.
pub(super) fn is_plain_list(inner: &str) -> bool {
    matches!(split(inner).1, "" | "[@]" | "[*]")
}

/// The name of the list.
pub(super) fn list_name(inner: &str) -> &str {
    split(inner).0
}

impl Shell<'_> {
    /// The value of a parameter.
    pub(super) fn parameter(&mut self, inner: &str, range: TextRange) -> Value {
        let made = Spot::Made(range);
        let (name, mut rest) = split(inner);
        if inner.len() > 1 && inner.starts_with('#') {
            let value = self.variable(name, range);
            return value.map(|text| Some(text.chars().count().to_string()));
        }
        let value;
        if let (Some(index), Some(end)) = (rest.strip_prefix('['), rest.find(']')) {
            let index = index.get(..end - 1).unwrap_or("").to_owned();
            rest = rest.get(end + 1..).unwrap_or("");
            let index = self.text(&index, made, Around::Word);
            value = self.item(name, &index, range);
        } else if inner.len() > 1 && inner.starts_with('!') {
            if rest.starts_with(['*', '@']) {
                return Value::unknown(0);
            }
            let names = self.variable(name, range);
            value = self.indirect(&names, range);
        } else if self.scope.vars.contains_key(name) || !rest.starts_with([':', '-', '=', '+']) {
            value = self.variable(name, range);
        } else {
            value = self.variable(name, range);
            // What is not set may be anything, and the word that stands for it then is one of them.
            if let Some(word) = default_word(rest) {
                let word = self.text(word, made, Around::Word);
                if rest.starts_with(":=") || rest.starts_with('=') {
                    self.assign(name, word.clone(), false, range);
                }
                let mut either = word;
                either.or(&value);
                return either;
            }
        }
        self.changed(name, value, rest, made)
    }

    /// An item of an array.
    fn item(&mut self, name: &str, index: &Value, range: TextRange) -> Value {
        let number = match index.texts.as_slice() {
            [text] if text == "@" || text == "*" => None,
            [text] => self.sum(text),
            _ => None,
        };
        match self.scope.vars.get(name) {
            Some(Var::Many(items)) => {
                let known = number.and_then(|number| {
                    let from_end = usize::try_from(number.unsigned_abs()).ok()?;
                    let at = if number < 0 {
                        items.len().checked_sub(from_end)?
                    } else {
                        from_end
                    };
                    items.get(at).cloned()
                });
                known.unwrap_or_else(|| {
                    let mut any = Value::unknown(0);
                    if let Some((first, rest)) = items.split_first() {
                        any = first.clone();
                        rest.iter().for_each(|item| any.or(item));
                    }
                    any
                })
            }
            Some(Var::One(value)) => value.clone(),
            None => self.variable(name, range),
        }
    }

    fn indirect(&mut self, names: &Value, range: TextRange) -> Value {
        let mut value: Option<Value> = None;
        for name in names.texts.clone() {
            let name = list_name(&name).to_owned();
            let one = if name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
                self.variable(&name, range)
            } else {
                Value::unknown(0)
            };
            match &mut value {
                Some(value) => value.or(&one),
                None => value = Some(one),
            }
        }
        value.unwrap_or_else(|| Value::unknown(0))
    }

    /// What an operator makes of a value.
    fn changed(&mut self, name: &str, value: Value, rest: &str, spot: Spot) -> Value {
        if rest.is_empty() {
            return value;
        }
        let words = |shell: &mut Self, word: &str| shell.text(word, spot, Around::Word);
        if let Some(word) = default_word(rest) {
            let word = words(self, word);
            let mut either = value;
            if rest.trim_start_matches(':').starts_with('+') {
                return word;
            }
            if either.texts.iter().any(String::is_empty) || !either.is_known() {
                either.or(&word);
            }
            return either;
        }
        if let Some(slice) = rest.strip_prefix(':') {
            return self.slice(name, &value, slice, spot);
        }
        if let Some(pattern) = rest.strip_prefix("##").or_else(|| rest.strip_prefix('#')) {
            let pattern = words(self, pattern);
            return each(&value, &pattern, |text, pattern| {
                Some(without_start(text, pattern, rest.starts_with("##")))
            });
        }
        if let Some(pattern) = rest.strip_prefix("%%").or_else(|| rest.strip_prefix('%')) {
            let pattern = words(self, pattern);
            return each(&value, &pattern, |text, pattern| {
                Some(without_end(text, pattern, rest.starts_with("%%")))
            });
        }
        if let Some(change) = rest.strip_prefix('/') {
            let all = change.starts_with('/');
            let change = change.strip_prefix('/').unwrap_or(change);
            let (from, to) = split_change(change);
            let (from, to) = (words(self, from), words(self, to));
            let (Some(to), Some(from)) = (to.known().next(), from.known().next()) else {
                return value.map(|_| None);
            };
            return value.map(|text| replaced(text, from, to, all));
        }
        match rest {
            "^^" | "@U" => value.map(|text| Some(text.to_uppercase())),
            ",," | "@L" => value.map(|text| Some(text.to_lowercase())),
            "^" | "@u" => value.map(|text| Some(first_changed(text, |c| c.to_ascii_uppercase()))),
            "," => value.map(|text| Some(first_changed(text, |c| c.to_ascii_lowercase()))),
            "@Q" | "@E" | "@A" | "@a" | "@K" => value,
            _ => value.map(|_| None),
        }
    }

    fn slice(&mut self, name: &str, value: &Value, slice: &str, spot: Spot) -> Value {
        let slice = self.text(slice, spot, Around::Document);
        let Some(slice) = slice.known().next() else {
            return value.map(|_| None);
        };
        let (from, length) = slice
            .split_once(':')
            .map_or((slice.as_str(), None), |(a, b)| (a, Some(b)));
        let from = if from.trim().is_empty() {
            Some(0)
        } else {
            self.sum(from)
        };
        let length = length.map(|length| self.sum(length));
        let Some(from) = from else {
            return value.map(|_| None);
        };
        // These start with a slash wherever they are set, and cutting it out is how it is hidden.
        let rooted = matches!(name, "PATH" | "HOME" | "PWD" | "OLDPWD" | "SHELL" | "BASH");
        if rooted && from == 0 && length == Some(Some(1)) {
            return Value::of("/");
        }
        let cut = |text: &str| {
            let count = i64::try_from(text.chars().count()).ok()?;
            let start = if from < 0 { count + from } else { from };
            let end = match length {
                Some(Some(length)) if length < 0 => count + length,
                Some(Some(length)) => start.saturating_add(length),
                Some(None) => return None,
                None => count,
            };
            let start_at = usize::try_from(start).ok()?;
            let many = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
            Some(text.chars().skip(start_at).take(many).collect())
        };
        value.map(cut)
    }
}

/// The word of `:-`, `-`, `:=`, `=`, `:+`, `+`, `:?`, `?`.
fn default_word(rest: &str) -> Option<&str> {
    let rest = rest.strip_prefix(':').unwrap_or(rest);
    rest.strip_prefix(['-', '=', '+', '?'])
}

fn split_change(change: &str) -> (&str, &str) {
    let mut escaped = false;
    for (at, c) in change.char_indices().skip(1) {
        if c == '/' && !escaped {
            return (
                change.get(..at).unwrap_or(""),
                change.get(at + 1..).unwrap_or(""),
            );
        }
        escaped = c == '\\' && !escaped;
    }
    (change, "")
}

fn replaced(text: &str, from: &str, to: &str, all: bool) -> Option<String> {
    if from.is_empty() || text.len() > 4096 {
        return (from.is_empty()).then(|| text.to_owned());
    }
    if from.contains(['*', '?', '[']) {
        return None;
    }
    if let Some(start) = from.strip_prefix('#') {
        return Some(
            text.strip_prefix(start)
                .map_or_else(|| text.to_owned(), |rest| format!("{to}{rest}")),
        );
    }
    if let Some(end) = from.strip_prefix('%') {
        return Some(
            text.strip_suffix(end)
                .map_or_else(|| text.to_owned(), |rest| format!("{rest}{to}")),
        );
    }
    let made = if all {
        text.replace(from, to)
    } else {
        text.replacen(from, to, 1)
    };
    (made.len() <= super::value::MAX_TEXT).then_some(made)
}

fn each(value: &Value, pattern: &Value, change: impl Fn(&str, &str) -> Option<String>) -> Value {
    match pattern.known().next() {
        Some(pattern) => value.map(|text| change(text, pattern)),
        None => value.map(|_| None),
    }
}

/// The places where a text of bounded length can be cut.
fn cuts(text: &str) -> Vec<usize> {
    let ends = text.char_indices().map(|(at, _)| at);
    ends.chain([text.len()]).take(512).collect()
}

fn without_start(text: &str, pattern: &str, longest: bool) -> String {
    let mut cuts = cuts(text);
    if longest {
        cuts.reverse();
    }
    let fits = |cut: &&usize| text.get(..**cut).is_some_and(|start| glob(pattern, start));
    let cut = cuts.iter().find(fits).copied().unwrap_or(0);
    text.get(cut..).unwrap_or("").to_owned()
}

fn without_end(text: &str, pattern: &str, longest: bool) -> String {
    let mut cuts = cuts(text);
    if !longest {
        cuts.reverse();
    }
    let fits = |cut: &&usize| text.get(**cut..).is_some_and(|end| glob(pattern, end));
    let cut = cuts.iter().find(fits).copied().unwrap_or(text.len());
    text.get(..cut).unwrap_or("").to_owned()
}

fn first_changed(text: &str, change: impl Fn(char) -> char) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => std::iter::once(change(first)).chain(chars).collect(),
        None => String::new(),
    }
}

/// The value of a sum: numbers, variables, `+ - * / %` and parentheses.
pub(super) fn sum(text: &str, variable: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
    if text.len() > 256 {
        return None;
    }
    let mut numbers: Vec<i64> = Vec::new();
    let mut operators: Vec<u8> = Vec::new();
    let bytes = text.as_bytes();
    let (mut at, mut wants_number) = (0, true);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\n' => at += 1,
            b'(' => {
                operators.push(b'(');
                at += 1;
            }
            b')' => {
                while operators.last().is_some_and(|&top| top != b'(') {
                    apply(&mut numbers, operators.pop()?)?;
                }
                operators.pop()?;
                at += 1;
            }
            b'-' | b'+' if wants_number => {
                numbers.push(0);
                operators.push(byte);
                wants_number = false;
                at += 1;
                wants_number = !wants_number;
            }
            b'+' | b'-' | b'*' | b'/' | b'%' if !wants_number => {
                let rank = |operator: u8| match operator {
                    b'(' => 0,
                    b'+' | b'-' => 1,
                    _ => 2,
                };
                while operators.last().is_some_and(|&top| rank(top) >= rank(byte)) {
                    apply(&mut numbers, operators.pop()?)?;
                }
                operators.push(byte);
                wants_number = true;
                at += 1;
            }
            _ if wants_number => {
                let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
                let length = bytes
                    .get(at..)?
                    .iter()
                    .take_while(|byte| word(byte))
                    .count();
                let word = text.get(at..at + length).filter(|word| !word.is_empty())?;
                let number = match word.strip_prefix("0x") {
                    Some(hex) => i64::from_str_radix(hex, 16).ok(),
                    None if word.starts_with('0') && word.len() > 1 => {
                        i64::from_str_radix(word, 8).ok()
                    }
                    None => word.parse().ok(),
                };
                numbers.push(number.or_else(|| variable(word))?);
                wants_number = false;
                at += length;
            }
            _ => return None,
        }
    }
    while let Some(operator) = operators.pop() {
        apply(&mut numbers, operator)?;
    }
    match numbers.as_slice() {
        [number] => Some(*number),
        _ => None,
    }
}

fn apply(numbers: &mut Vec<i64>, operator: u8) -> Option<()> {
    let (right, left) = (numbers.pop()?, numbers.pop()?);
    numbers.push(match operator {
        b'+' => left.checked_add(right)?,
        b'-' => left.checked_sub(right)?,
        b'*' => left.checked_mul(right)?,
        b'/' => left.checked_div(right)?,
        b'%' => left.checked_rem(right)?,
        _ => return None,
    });
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let none = |_: &str| None;
        assert_eq!(sum("1 + 2 * (3 - 1)", &none), Some(5));
        assert_eq!(sum("-4", &none), Some(-4));
        assert_eq!(sum("0x10/ 3", &none), Some(5));
        for bad in ["1/0", "(", ")", "1 1", "a", "9223372036854775807+1", ""] {
            assert_eq!(sum(bad, &none), None, "{bad}");
        }
    }

    #[test]
    fn patterns_cut_texts() {
        assert_eq!(without_start("a/b/c", "*/", false), "b/c");
        assert_eq!(without_start("a/b/c", "*/", true), "c");
        assert_eq!(without_end("x.tar.gz", ".*", false), "x.tar");
        assert_eq!(without_end("x.tar.gz", ".*", true), "x");
        assert_eq!(replaced("rXm", "X", "", false).as_deref(), Some("rm"));
    }
}
