//! Bytes as text, as they come: a character may be cut in two.

/// Holds the bytes of a character that is not whole yet.
#[derive(Debug, Default)]
pub struct Utf8 {
    cut: Vec<u8>,
}

impl Utf8 {
    /// The text of these bytes and those that were held back. What is no UTF-8 is shown as such.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.cut.extend_from_slice(bytes);
        let whole = self.cut.len() - cut_at_the_end(&self.cut);
        let rest = self.cut.split_off(whole);
        let text = String::from_utf8_lossy(&self.cut).into_owned();
        self.cut = rest;
        text
    }

    /// What was held back, at the end.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.cut).into_owned();
        self.cut.clear();
        text
    }
}

/// How many bytes at the end begin a character that may still come.
fn cut_at_the_end(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes.get(bytes.len() - back).copied().unwrap_or_default();
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            // The middle of a character: its beginning is further back.
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if length > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_whole_wherever_the_bytes_were_cut() {
        let text = "aé€😀z";
        for step in 1..=text.len() {
            let mut utf8 = Utf8::default();
            let mut all = String::new();
            for part in text.as_bytes().chunks(step) {
                all.push_str(&utf8.push(part));
            }
            all.push_str(&utf8.finish());
            assert_eq!(all, text);
        }
    }

    #[test]
    fn what_is_no_text_is_shown_and_not_held_back() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push(b"a\xff\xffb"), "a\u{fffd}\u{fffd}b");
        assert_eq!(utf8.push(b"\x80\x80\x80\x80"), "\u{fffd}".repeat(4));
        assert_eq!(utf8.push(b"x\xf0\x9f"), "x");
        assert_eq!(utf8.finish(), "\u{fffd}");
        assert_eq!(utf8.finish(), "");
    }
}
