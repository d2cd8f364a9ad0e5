//! Words of the shell, taken apart: what is quoted, what stands there, and what is put in.
//!
//! Everything here steps through bytes with a stack of its own, so that no nesting reaches the real one.

/// The most words that braces make of one.
const MAX_BRACES: usize = 64;
/// Pairs of braces that are opened for one word.
const MAX_ROUNDS: usize = 1024;

/// One part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Text that stands there.
    Text {
        /// The text, without its quotes.
        text: String,
        /// Whether it is quoted.
        quoted: bool,
    },
    /// A parameter: what stands in `${...}`, or a name.
    Parameter {
        /// Without the `$` and the braces.
        inner: String,
        /// Whether it stands in double quotes.
        quoted: bool,
    },
    /// A command whose output is put in.
    Command {
        /// The command.
        text: String,
        /// Where it starts in the word; nothing when it is not a slice of it.
        start: Option<usize>,
        /// Whether it stands in double quotes.
        quoted: bool,
    },
    /// A sum.
    Arithmetic {
        /// What stands in the parentheses.
        text: String,
    },
    /// A command that stands for a file: `<(...)`, `>(...)`.
    Process {
        /// The command.
        text: String,
        /// Where it starts in the word.
        start: usize,
        /// Whether the file is written to.
        written: bool,
    },
}

/// What surrounds a text that is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Around {
    /// Nothing: a word.
    Word,
    /// A here-document whose delimiter is not quoted.
    Document,
}

/// Takes a word apart.
pub(super) fn parts(raw: &str, around: Around) -> Vec<Part> {
    let mut lexer = Lexer {
        raw,
        at: 0,
        parts: Vec::new(),
        quoted: around == Around::Document,
    };
    lexer.run(around);
    lexer.parts
}

struct Lexer<'a> {
    raw: &'a str,
    at: usize,
    parts: Vec<Part>,
    /// Whether double quotes, or a here-document, are around.
    quoted: bool,
}

impl Lexer<'_> {
    fn run(&mut self, around: Around) {
        while let Some(c) = self.raw.get(self.at..).and_then(|rest| rest.chars().next()) {
            match c {
                '\\' => self.escape(around),
                '"' if around == Around::Word => {
                    self.quoted = !self.quoted;
                    self.text("", true);
                    self.at += 1;
                }
                '\'' if !self.quoted => {
                    let end = self.find(self.at + 1, b'\'');
                    self.slice(self.at + 1, end);
                    self.at = end + 1;
                }
                '$' => self.dollar(),
                '`' => self.backticks(),
                '<' | '>' if !self.quoted && self.byte(self.at + 1) == Some(b'(') => {
                    let end = end_of(self.raw.as_bytes(), self.at + 2, b')');
                    self.parts.push(Part::Process {
                        text: self.raw.get(self.at + 2..end).unwrap_or("").to_owned(),
                        start: self.at + 2,
                        written: c == '>',
                    });
                    self.at = end + 1;
                }
                c => {
                    let quoted = self.quoted;
                    let mut buffer = [0; 4];
                    self.text(c.encode_utf8(&mut buffer), quoted);
                    self.at += c.len_utf8();
                }
            }
        }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.raw.as_bytes().get(at).copied()
    }

    fn find(&self, from: usize, wanted: u8) -> usize {
        let bytes = self.raw.as_bytes();
        let rest = bytes.get(from..).unwrap_or_default();
        let found = rest.iter().position(|&byte| byte == wanted);
        found.map_or(bytes.len(), |index| from + index)
    }

    fn slice(&mut self, start: usize, end: usize) {
        let text = self.raw.get(start..end).unwrap_or("").to_owned();
        self.text(&text, true);
    }

    fn text(&mut self, more: &str, more_quoted: bool) {
        if let Some(Part::Text { text, quoted }) = self.parts.last_mut()
            && *quoted == more_quoted
        {
            text.push_str(more);
        } else {
            self.parts.push(Part::Text {
                text: more.to_owned(),
                quoted: more_quoted,
            });
        }
    }

    fn escape(&mut self, around: Around) {
        let next = self
            .raw
            .get(self.at + 1..)
            .and_then(|rest| rest.chars().next());
        let Some(next) = next else {
            self.text("\\", true);
            self.at += 1;
            return;
        };
        self.at += 1 + next.len_utf8();
        if next == '\n' {
            return;
        }
        let special = matches!(next, '$' | '`' | '\\') || next == '"' && around == Around::Word;
        let mut text = String::new();
        if self.quoted && !special {
            text.push('\\');
        }
        text.push(next);
        self.text(&text, true);
    }

    fn dollar(&mut self) {
        let quoted = self.quoted;
        match self.byte(self.at + 1) {
            Some(b'\'') if !quoted => {
                let mut end = self.at + 2;
                while let Some(byte) = self.byte(end) {
                    match byte {
                        b'\'' => break,
                        b'\\' => end += 2,
                        _ => end += 1,
                    }
                }
                let end = end.min(self.raw.len());
                let text = unescape(self.raw.get(self.at + 2..end).unwrap_or(""));
                self.text(&text, true);
                self.at = end + 1;
            }
            // `$"..."` is a text to translate; without a translation it is itself.
            Some(b'"') if !quoted => self.at += 1,
            Some(b'(') if self.byte(self.at + 2) == Some(b'(') => {
                let end = end_of(self.raw.as_bytes(), self.at + 2, b')');
                let inner = self.raw.get(self.at + 2..end).unwrap_or("");
                // `$((a); (b))` is a command that starts with a subshell.
                if let Some(sum) = inner.strip_prefix('(').and_then(|s| s.strip_suffix(')')) {
                    self.parts.push(Part::Arithmetic {
                        text: sum.to_owned(),
                    });
                    self.at = end + 1;
                } else {
                    self.command(end);
                }
            }
            Some(b'(') => {
                let end = end_of(self.raw.as_bytes(), self.at + 2, b')');
                self.command(end);
            }
            Some(b'[') => {
                let end = self.find(self.at + 2, b']');
                let text = self.raw.get(self.at + 2..end).unwrap_or("").to_owned();
                self.parts.push(Part::Arithmetic { text });
                self.at = end + 1;
            }
            Some(b'{') => {
                let end = end_of(self.raw.as_bytes(), self.at + 2, b'}');
                let inner = self.raw.get(self.at + 2..end).unwrap_or("").to_owned();
                self.parts.push(Part::Parameter { inner, quoted });
                self.at = end + 1;
            }
            Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => {
                let rest = self.raw.get(self.at + 1..).unwrap_or("");
                let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let inner: String = rest.chars().take_while(|&c| name(c)).collect();
                self.at += 1 + inner.len();
                self.parts.push(Part::Parameter { inner, quoted });
            }
            Some(byte) if byte.is_ascii_digit() || b"@*#?$!-".contains(&byte) => {
                self.parts.push(Part::Parameter {
                    inner: char::from(byte).to_string(),
                    quoted,
                });
                self.at += 2;
            }
            _ => {
                self.text("$", quoted);
                self.at += 1;
            }
        }
    }

    fn command(&mut self, end: usize) {
        self.parts.push(Part::Command {
            text: self.raw.get(self.at + 2..end).unwrap_or("").to_owned(),
            start: Some(self.at + 2),
            quoted: self.quoted,
        });
        self.at = end + 1;
    }

    fn backticks(&mut self) {
        let end = end_of(self.raw.as_bytes(), self.at + 1, b'`');
        let inner = self.raw.get(self.at + 1..end).unwrap_or("");
        let mut text = String::with_capacity(inner.len());
        let mut chars = inner.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\\'
                && let Some(&next) = chars.peek()
                && (matches!(next, '$' | '`' | '\\') || next == '"' && self.quoted)
            {
                text.push(next);
                chars.next();
            } else {
                text.push(c);
            }
        }
        let start = (!inner.contains('\\')).then_some(self.at + 1);
        self.parts.push(Part::Command {
            text,
            start,
            quoted: self.quoted,
        });
        self.at = end + 1;
    }
}

/// Where what was opened before `from` is closed by `closer`: the place of that byte, or the end.
pub(super) fn end_of(bytes: &[u8], from: usize, closer: u8) -> usize {
    let mut stack = vec![closer];
    let mut at = from;
    while let Some(&byte) = bytes.get(at) {
        let top = stack.last().copied().unwrap_or(closer);
        let in_quotes = top == b'"';
        match byte {
            b'\\' => at += 1,
            byte if byte == top => {
                stack.pop();
                if stack.is_empty() {
                    return at;
                }
            }
            _ if top == b'`' => {}
            b'"' => stack.push(b'"'),
            b'`' => stack.push(b'`'),
            b'$' if bytes.get(at + 1) == Some(&b'(') => {
                stack.push(b')');
                at += 1;
            }
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                stack.push(b'}');
                at += 1;
            }
            b'\'' if !in_quotes => {
                let escapes = at > 0 && bytes.get(at - 1) == Some(&b'$');
                at += 1;
                while let Some(&byte) = bytes.get(at) {
                    match byte {
                        b'\'' => break,
                        b'\\' if escapes => at += 2,
                        _ => at += 1,
                    }
                }
            }
            b'(' if !in_quotes && top == b')' => stack.push(b')'),
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The escapes of `$'...'`, `echo -e` and `printf`.
pub(super) fn unescape(text: &str) -> String {
    let mut bytes: Vec<u8> = Vec::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let mut buffer = [0; 4];
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        let Some(kind) = chars.next() else {
            bytes.push(b'\\');
            break;
        };
        let mut number = |radix: u32, most: usize, first: u32| {
            let mut value = first;
            for _ in 0..most {
                let Some(digit) = chars.peek().and_then(|c| c.to_digit(radix)) else {
                    break;
                };
                value = value.wrapping_mul(radix).wrapping_add(digit);
                chars.next();
            }
            value
        };
        match kind {
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            'r' => bytes.push(b'\r'),
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'e' | 'E' => bytes.push(27),
            'f' => bytes.push(12),
            'v' => bytes.push(11),
            'x' => bytes.push(number(16, 2, 0) as u8),
            '0'..='7' => {
                let most = if kind == '0' { 3 } else { 2 };
                bytes.push(number(8, most, kind.to_digit(8).unwrap_or(0)) as u8);
            }
            'u' | 'U' => {
                let value = number(16, if kind == 'u' { 4 } else { 8 }, 0);
                let c = char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER);
                bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            }
            '\\' | '\'' | '"' | '?' => bytes.push(kind as u8),
            other => {
                bytes.push(b'\\');
                bytes.extend_from_slice(other.encode_utf8(&mut buffer).as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The words that braces make of one, `a{b,c}`, `{1..3}`, and whether there are more than are followed. What is quoted or
/// put in stays whole. Of a long range the first are followed: the rest differ by a number or a letter.
pub(super) fn braces(raw: &str) -> (Vec<String>, bool) {
    let mut words = vec![raw.to_owned()];
    let mut cut = false;
    if !raw.contains('{') {
        return (words, cut);
    }
    let mut at = 0;
    // Each word is opened until it has no pair left; one that finds no room keeps the first choice of each.
    let mut rounds = 0;
    while let Some(word) = words.get(at) {
        rounds += 1;
        if rounds > MAX_ROUNDS {
            return (words, true);
        }
        let Some(Choices {
            words: mut inner,
            is_range,
        }) = opened(word)
        else {
            at += 1;
            continue;
        };
        let room = MAX_BRACES.saturating_sub(words.len()) + 1;
        if inner.len() > room {
            cut |= !is_range;
            inner.truncate(room);
        }
        words.splice(at..=at, inner);
    }
    (words, cut)
}

/// What a pair of braces stands for.
struct Choices {
    words: Vec<String>,
    /// Whether it is one of numbers or letters.
    is_range: bool,
}

/// The words that the first pair of braces in a word stands for.
fn opened(word: &str) -> Option<Choices> {
    let bytes = word.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'\'' => at = skip(bytes, at + 1, b'\''),
            b'"' => at = end_of(bytes, at + 1, b'"') + 1,
            b'`' => at = end_of(bytes, at + 1, b'`') + 1,
            b'$' | b'<' | b'>' if bytes.get(at + 1) == Some(&b'(') => {
                at = end_of(bytes, at + 2, b')') + 1;
            }
            b'$' if bytes.get(at + 1) == Some(&b'{') => at = end_of(bytes, at + 2, b'}') + 1,
            b'{' => {
                if let Some(words) = choices(word, at) {
                    return Some(words);
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
    None
}

fn skip(bytes: &[u8], from: usize, wanted: u8) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let found = rest.iter().position(|&byte| byte == wanted);
    found.map_or(bytes.len(), |index| from + index + 1)
}

fn choices(word: &str, open: usize) -> Option<Choices> {
    let bytes = word.as_bytes();
    let (mut depth, mut at, mut from) = (0usize, open + 1, open + 1);
    let mut inner: Vec<&str> = Vec::new();
    let close = loop {
        match bytes.get(at)? {
            b'\\' => at += 1,
            b'\'' => at = skip(bytes, at + 1, b'\'') - 1,
            b'"' => at = end_of(bytes, at + 1, b'"'),
            b'$' if bytes.get(at + 1) == Some(&b'{') => at = end_of(bytes, at + 2, b'}'),
            b'$' if bytes.get(at + 1) == Some(&b'(') => at = end_of(bytes, at + 2, b')'),
            b'{' => depth += 1,
            b'}' if depth == 0 => break at,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                inner.push(word.get(from..at)?);
                from = at + 1;
            }
            _ => {}
        }
        at += 1;
    };
    let last = word.get(from..close)?;
    let (before, after) = (word.get(..open)?, word.get(close + 1..)?);
    let is_range = inner.is_empty();
    let inner: Vec<String> = if is_range {
        range(last)?
    } else {
        inner.push(last);
        inner.into_iter().map(str::to_owned).collect()
    };
    let put = |choice: String| format!("{before}{choice}{after}");
    Some(Choices {
        words: inner.into_iter().map(put).collect(),
        is_range,
    })
}

/// `1..3`, `a..c`.
fn range(text: &str) -> Option<Vec<String>> {
    let (first, rest) = text.split_once("..")?;
    let last = rest.split("..").next()?;
    if let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) {
        let most = MAX_BRACES as i64 - 1;
        let numbers: Vec<i64> = if first <= last {
            (first..=last.min(first.saturating_add(most))).collect()
        } else {
            (last.max(first.saturating_sub(most))..=first)
                .rev()
                .collect()
        };
        return Some(numbers.iter().map(i64::to_string).collect());
    }
    let one = |text: &str| {
        let mut chars = text.chars();
        chars.next().filter(|_| chars.next().is_none())
    };
    let (first, last) = (one(first)?, one(last)?);
    let (low, high) = (first.min(last), first.max(last));
    let mut letters: Vec<String> = (low..=high).take(MAX_BRACES).map(String::from).collect();
    if first > last {
        letters.reverse();
    }
    Some(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(raw: &str) -> String {
        let mut text = String::new();
        for part in parts(raw, Around::Word) {
            match part {
                Part::Text { text: more, .. } => text.push_str(&more),
                other => text.push_str(&format!("[{other:?}]")),
            }
        }
        text
    }

    #[test]
    fn quotes_and_escapes_are_taken_away() {
        for (raw, text) in [
            ("r''m", "rm"),
            ("\\r\\m", "rm"),
            ("r\"m\"", "rm"),
            ("$'\\x72\\155'", "rm"),
            ("\"a\\nb\\$\"", "a\\nb$"),
            ("'a\\'", "a\\"),
            ("$\"x\"", "x"),
            ("$'unfinished", "unfinished"),
            ("é'ü'", "éü"),
        ] {
            assert_eq!(plain(raw), text, "{raw}");
        }
    }

    #[test]
    fn what_is_put_in_is_found_with_its_place() {
        let found = parts("a\"$(echo \")\" (b))\"c", Around::Word);
        assert!(found.contains(&Part::Command {
            text: "echo \")\" (b)".to_owned(),
            start: Some(4),
            quoted: true
        }));
        let found = parts("${x:-`id`}$((1+2))<(ls)", Around::Word);
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn braces_make_words_and_are_bounded() {
        let all = |raw: &str| {
            let (words, cut) = braces(raw);
            assert!(!cut && words.len() <= MAX_BRACES, "{raw}");
            words
        };
        assert_eq!(all("a{b,c}d"), ["abd", "acd"]);
        assert_eq!(all("{a,b}{1..2}"), ["a1", "a2", "b1", "b2"]);
        assert_eq!(all("{a,{b,c}}"), ["a", "b", "c"]);
        assert_eq!(all("${x}{}"), ["${x}{}"]);
        assert_eq!(all("'{a,b}'"), ["'{a,b}'"]);
        assert_eq!(all("{1..999999999}").len(), MAX_BRACES);
        assert!(
            all("{1..12}/{1..31}")
                .iter()
                .all(|word| !word.contains('{'))
        );
        for many in ["{a,b}".repeat(60), format!("{{{}z}}", "a,".repeat(70))] {
            let (words, cut) = braces(&many);
            assert!(cut && words.len() <= MAX_BRACES, "{many}");
        }
    }
}
