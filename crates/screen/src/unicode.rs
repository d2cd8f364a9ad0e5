//! Characters that make a program read differently from how it runs (Trojan Source).

/// Why a character is suspicious.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// It reorders the text around it on the screen.
    Bidirectional,
    /// It takes no room on the screen.
    Invisible,
    /// It is a control character that a terminal obeys.
    Control,
}

/// One suspicious character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HiddenAt {
    pub(crate) kind: Hidden,
    pub(crate) character: char,
    /// The byte offset.
    pub(crate) offset: usize,
}

/// The kind of a character, when it is suspicious at all.
pub(crate) fn hidden(c: char) -> Option<Hidden> {
    match c {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Some(Hidden::Bidirectional),
        '\u{200e}' | '\u{200f}' | '\u{61c}' => Some(Hidden::Invisible),
        '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' => {
            Some(Hidden::Invisible)
        }
        '\u{feff}' | '\u{ad}' | '\u{180e}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => {
            Some(Hidden::Invisible)
        }
        '\u{e0000}'..='\u{e007f}' | '\u{fff9}'..='\u{fffb}' => Some(Hidden::Invisible),
        '\t' | '\n' | '\r' | '\x0c' => None,
        c if c.is_control() => Some(Hidden::Control),
        _ => None,
    }
}

/// Every suspicious character, in order, at most `most` of them.
pub(crate) fn find(text: &str, most: usize) -> Vec<HiddenAt> {
    // Nearly every program is plain ASCII without a control character; one pass over bytes says so, many at a time
    // because it does not stop at the first.
    let plain = |byte: u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | 0x20..=0x7e);
    let mut parts = text.as_bytes().chunks(4096);
    if parts.all(|part| part.iter().fold(true, |all, &byte| all & plain(byte))) {
        return Vec::new();
    }
    text.char_indices()
        .filter_map(|(offset, character)| {
            hidden(character).map(|kind| HiddenAt {
                kind,
                character,
                offset,
            })
        })
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_in_any_script_is_not_suspicious() {
        for text in [
            "x = 1\n\tpass\r\n\x0c",
            "größe = 'naïve 日本語 עברית'",
            "'📈 sales'",
            "'e\u{301}'",
        ] {
            assert_eq!(find(text, 9), [], "{text}");
        }
    }

    #[test]
    fn every_kind_is_found_with_its_offset() {
        let cases = [
            ("a\u{202e}b", Hidden::Bidirectional),
            ("a\u{2066}b", Hidden::Bidirectional),
            ("a\u{200b}b", Hidden::Invisible),
            ("a\u{3164}b", Hidden::Invisible),
            ("a\u{e0041}b", Hidden::Invisible),
            ("a\u{1b}b", Hidden::Control),
            ("a\u{85}b", Hidden::Control),
        ];
        for (text, kind) in cases {
            let found = find(text, 9);
            assert_eq!(
                (found.len(), found[0].kind, found[0].offset),
                (1, kind, 1),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_list_is_bounded() {
        assert_eq!(find(&"\u{200b}".repeat(100), 7).len(), 7);
    }
}
