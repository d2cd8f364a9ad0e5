//! Layer 1: bytes, before anything understands them.

use std::ffi::CStr;

use casemate_model::finding::{Action, Confidence, Finding, Layer, Severity};

use crate::ScreenConfig;
use crate::place::Lines;
use crate::unicode::{self, Hidden, HiddenAt};

/// A source that is text: UTF-8 without NUL, no larger than allowed, its byte order mark removed.
#[derive(Debug)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
    /// What hides in it. Whether that matters depends on where: the tokens say.
    pub(crate) hidden: Vec<HiddenAt>,
}

/// The most hidden characters that are told one by one.
pub(crate) const MAX_HIDDEN: usize = 20;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Checks what can be checked on bytes.
///
/// # Errors
/// The findings that refuse the source.
pub(crate) fn validate<'a>(
    bytes: &'a [u8],
    config: &ScreenConfig,
) -> Result<Text<'a>, Vec<Finding>> {
    if bytes.len() > config.max_bytes {
        return Err(vec![too_large(bytes.len(), config.max_bytes)]);
    }
    if let Ok(before) = CStr::from_bytes_until_nul(bytes) {
        return Err(vec![nul(bytes, before.count_bytes())]);
    }
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(vec![not_utf8(bytes, error.valid_up_to())]),
    };
    if let Some(name) = foreign_cookie(bytes) {
        return Err(vec![foreign_encoding(&name, bytes.starts_with(BOM))]);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let hidden = unicode::find(text, MAX_HIDDEN);
    if hidden.is_empty() {
        return Ok(Text { text, hidden });
    }
    let lines = Lines::new(text);
    let refused: Vec<Finding> = hidden
        .iter()
        .filter(|at| at.kind == Hidden::Bidirectional)
        .map(|at| hidden_finding(at, &lines, true))
        .collect();
    if refused.is_empty() {
        Ok(Text { text, hidden })
    } else {
        Err(refused)
    }
}

/// A finding about a hidden character: refused in code and, when it reorders text, everywhere.
pub(crate) fn hidden_finding(at: &HiddenAt, lines: &Lines<'_>, refuse: bool) -> Finding {
    let place = lines.place(at.offset, at.offset + at.character.len_utf8());
    let code = format!("U+{:04X}", u32::from(at.character));
    let (rule, message) = match at.kind {
        Hidden::Bidirectional => (
            "bidirectional-text",
            format!("{code} reorders the text that a reader sees"),
        ),
        Hidden::Invisible if refuse => (
            "invisible-character",
            format!("{code} hides inside the code"),
        ),
        Hidden::Invisible => (
            "invisible-character",
            format!("{code} stands in a string or a comment"),
        ),
        Hidden::Control if refuse => ("control-character", format!("{code} stands in the code")),
        Hidden::Control => (
            "control-character",
            format!("{code} stands in a string or a comment"),
        ),
    };
    Finding {
        rule: rule.to_owned(),
        layer: Layer::Validation,
        severity: if refuse {
            Severity::High
        } else {
            Severity::Low
        },
        confidence: Confidence::High,
        message,
        reason: "a program that reads differently from how it runs cannot be reviewed".to_owned(),
        better_way: format!(
            "remove the character, or write it as an escape such as {}",
            escape(at.character)
        ),
        place: Some(place),
        excerpt: Some(lines.excerpt(place)),
        action: if refuse { Action::Refuse } else { Action::Pass },
        chain: Vec::new(),
    }
}

fn escape(c: char) -> String {
    let code = u32::from(c);
    match code {
        0..=0xff => format!("\\x{code:02x}"),
        0x100..=0xffff => format!("\\u{code:04x}"),
        _ => format!("\\U{code:08x}"),
    }
}

/// The coding cookie of PEP 263 when it names anything but UTF-8.
///
/// CPython looks in the first two lines, and in the second only when the first is blank or a
/// comment. Readers of lines differ on a lone `\r`, so both readings are tried.
fn foreign_cookie(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    let newline_only = bytes.split(|&byte| byte == b'\n');
    let universal = newline_only.clone().flat_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.split(|&byte| byte == b'\r')
    });
    let foreign = |name: &String| !is_utf8_name(name);
    cookie(newline_only)
        .filter(foreign)
        .or_else(|| cookie(universal).filter(foreign))
}

fn cookie<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    for line in lines.take(2) {
        if let Some(name) = cookie_in(line) {
            return Some(name);
        }
        let blank = line
            .iter()
            .find(|byte| !matches!(byte, b' ' | b'\t' | 0x0c | b'\r'));
        if blank.is_some_and(|&byte| byte != b'#') {
            return None;
        }
    }
    None
}

/// `[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)`, by hand: the line is bytes.
fn cookie_in(line: &[u8]) -> Option<String> {
    let start = line
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t' | 0x0c))?;
    let comment = line.get(start..)?.strip_prefix(b"#")?;
    let mut rest = comment;
    while let Some(index) = find(rest, b"coding") {
        rest = rest.get(index + b"coding".len()..)?;
        let Some(value) = rest.strip_prefix(b":").or_else(|| rest.strip_prefix(b"=")) else {
            continue;
        };
        let name: String = value
            .iter()
            .skip_while(|byte| matches!(byte, b' ' | b'\t'))
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
            .take(64)
            .map(|&byte| char::from(byte))
            .collect();
        if !name.is_empty() {
            return Some(name);
        }
    }
    None
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

fn is_utf8_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    matches!(name.as_str(), "utf-8" | "utf8" | "u8" | "utf" | "cp65001")
        || name.starts_with("utf-8-")
}

fn refusal(rule: &str, message: String, reason: &str, better_way: &str) -> Finding {
    Finding {
        rule: rule.to_owned(),
        layer: Layer::Validation,
        severity: Severity::High,
        confidence: Confidence::High,
        message,
        reason: reason.to_owned(),
        better_way: better_way.to_owned(),
        place: None,
        excerpt: None,
        action: Action::Refuse,
        chain: Vec::new(),
    }
}

fn too_large(seen: usize, allowed: usize) -> Finding {
    refusal(
        "source-too-large",
        format!("the program is {seen} bytes; {allowed} are allowed"),
        "a program of this size is data in disguise, and nobody reviews it",
        "put the data into a file and hand it in with --data",
    )
}

fn nul(bytes: &[u8], offset: usize) -> Finding {
    let line = bytes
        .iter()
        .take(offset)
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1;
    refusal(
        "nul-byte",
        format!("line {line} holds a NUL byte"),
        "readers of the program disagree on where it ends",
        "remove the byte, or write it as the escape \\x00 in a string",
    )
}

fn not_utf8(bytes: &[u8], offset: usize) -> Finding {
    let line = bytes
        .iter()
        .take(offset)
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1;
    let byte = bytes.get(offset).copied().unwrap_or(0);
    refusal(
        "invalid-utf8",
        format!("line {line} is not UTF-8: byte 0x{byte:02x} at offset {offset}"),
        "text in another encoding reads differently from how it runs",
        "save the file as UTF-8",
    )
}

fn foreign_encoding(name: &str, bom: bool) -> Finding {
    let message = if bom {
        format!("the file starts with a UTF-8 mark and says its encoding is {name}")
    } else {
        format!("the file says its encoding is {name}")
    };
    refusal(
        "foreign-encoding",
        message,
        "a coding line changes what every following byte means, and some codecs run code or hide it",
        "save the file as UTF-8 and remove the coding line",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(bytes: &[u8]) -> Option<String> {
        validate(bytes, &ScreenConfig::default())
            .err()
            .map(|findings| findings[0].rule.clone())
    }

    #[test]
    fn the_size_is_bounded_on_both_sides() {
        let config = ScreenConfig {
            max_bytes: 10,
            ..ScreenConfig::default()
        };
        assert!(validate(b"0123456789", &config).is_ok());
        assert_eq!(
            validate(b"0123456789a", &config).unwrap_err()[0].rule,
            "source-too-large"
        );
    }

    #[test]
    fn bytes_that_are_not_text_are_refused_with_their_line() {
        let finding = &validate(b"x\ny\0", &ScreenConfig::default()).unwrap_err()[0];
        assert_eq!(
            (finding.rule.as_str(), finding.message.contains("line 2")),
            ("nul-byte", true)
        );
        let finding = &validate(b"x\n\n'\xe9'", &ScreenConfig::default()).unwrap_err()[0];
        assert!(finding.message.contains("line 3") && finding.message.contains("0xe9"));
    }

    #[test]
    fn a_byte_order_mark_alone_is_fine() {
        let text = validate(b"\xef\xbb\xbfx = 1", &ScreenConfig::default()).unwrap();
        assert_eq!((text.text, text.hidden.len()), ("x = 1", 0));
    }

    #[test]
    fn cookies_follow_pep_263() {
        let fine: &[&[u8]] = &[
            b"# -*- coding: utf-8 -*-\nx",
            b"#!/usr/bin/python\n# vim: set fileencoding=UTF8 :\n",
            b"# coding=utf_8_sig",
            b"x = 1\n# coding: latin-1",
            b"\n\n# coding: latin-1",
            b"# encoding the coding of things",
            b"x = '# coding: utf-7'",
            b"\xef\xbb\xbf# coding: utf-8",
            b"# my recoding-table: x",
        ];
        for bytes in fine {
            assert_eq!(rule(bytes), None, "{:?}", bytes.escape_ascii().to_string());
        }
        let foreign: &[&[u8]] = &[
            b"# coding: utf-7\n",
            b"#coding=latin-1",
            b" \t\x0c# -*- coding: rot13 -*-",
            b"\n# coding: utf-16",
            b"#!/usr/bin/python\r\n# coding: cp1252\r\n",
            b"# a\r# coding: utf-7\rx",
            b"# coding is coding: raw_unicode_escape",
            b"\xef\xbb\xbf# coding: latin-1",
        ];
        for bytes in foreign {
            assert_eq!(
                rule(bytes).as_deref(),
                Some("foreign-encoding"),
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn text_that_reorders_is_refused_even_in_a_comment() {
        let source = "access = 'user'\nif access != 'none\u{202e}\u{2066}': # x\n    pass\n";
        let findings = validate(source.as_bytes(), &ScreenConfig::default()).unwrap_err();
        assert_eq!(findings.len(), 2);
        assert!(
            findings[0].message.contains("U+202E"),
            "{}",
            findings[0].message
        );
        assert_eq!(
            findings[0].place.map(|place| (place.line, place.column)),
            Some((2, 19))
        );
        assert!(
            findings[0].better_way.contains("\\u202e"),
            "{}",
            findings[0].better_way
        );
    }
}
