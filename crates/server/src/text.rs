//! Text of a guest's on its way to people: no control sequence survives.

/// Replaces everything a terminal would act on. Newlines and tabs stay; every other control character,
/// with the escape sequence it begins, goes; so do the characters that reorder text.
pub fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => out.push(c),
            // A line that is drawn again (a progress bar) is shown as a line of its own.
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' => out.push('\n'),
            '\u{1b}' => skip_escape(&mut chars),
            '\u{9b}' => skip_csi(&mut chars),
            c if c.is_control() || reorders(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// One line of it, at most `max` characters.
pub fn line(text: &str, max: usize) -> String {
    let flat: String = plain(text.as_bytes())
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    if flat.chars().count() <= max {
        return flat;
    }
    flat.chars()
        .take(max.saturating_sub(1))
        .chain(['…'])
        .collect()
}

fn reorders(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => skip_csi(chars),
        // Strings up to BEL or ST: titles, links, device control.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}'
                    || c == '\u{9c}'
                    || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some())
                {
                    break;
                }
            }
        }
        Some(' '..='/') => drop(chars.next()),
        _ => {}
    }
}

fn skip_csi(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    for c in chars.by_ref() {
        if ('@'..='~').contains(&c) {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sequence_reaches_a_terminal() {
        let table: [(&[u8], &str); 9] = [
            (b"plain\n\ttext", "plain\n\ttext"),
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"\x1b]0;title\x07shown", "shown"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            (b"\x1bPq...\x1b\\after", "after"),
            (b"a\x08\x07\x00b", "ab"),
            (b"50%\r100%\r\n", "50%\n100%\n"),
            (b"\xc2\x9b31mx", "x"),
            ("safe\u{202e}txt".as_bytes(), "safetxt"),
        ];
        for (bytes, expected) in table {
            assert_eq!(plain(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn an_unfinished_sequence_takes_nothing_with_it_but_itself() {
        assert_eq!(plain(b"x\x1b"), "x");
        assert_eq!(plain(b"x\x1b["), "x");
        assert!(!plain(b"\x1b]no end").contains('\u{1b}'));
        assert_eq!(plain(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn lines_are_flat_and_bounded() {
        assert_eq!(line("a\nb\tc", 10), "a b c");
        assert_eq!(line("abcdef", 4), "abc…");
    }
}
