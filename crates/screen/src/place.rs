//! From byte offsets to lines and columns.

use casemate_model::finding::{Place, excerpt};
use memchr::memchr_iter;
use ruff_text_size::TextRange;

/// The lines of one source.
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Indexes a source. `\n`, `\r\n` and a lone `\r` end a line, as they do for Python.
    pub(crate) fn new(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let mut starts = vec![0];
        let ends = |byte: u8| memchr_iter(byte, bytes).map(|index| index + 1);
        starts.extend(ends(b'\n'));
        let lines = starts.len();
        starts.extend(ends(b'\r').filter(|&next| bytes.get(next) != Some(&b'\n')));
        if starts.len() > lines {
            starts.sort_unstable();
        }
        Self { text, starts }
    }

    /// The place of a range of bytes. What lies outside the source is moved to its end.
    pub(crate) fn place(&self, start: usize, end: usize) -> Place {
        let (line, column) = self.position(start);
        let (end_line, end_column) = self.position(end.max(start));
        Place {
            line,
            column,
            end_line,
            end_column,
        }
    }

    /// The place of a range of the parser's.
    pub(crate) fn place_of(&self, range: TextRange) -> Place {
        self.place(range.start().to_usize(), range.end().to_usize())
    }

    /// The line at `place`, fit to show.
    pub(crate) fn excerpt(&self, place: Place) -> String {
        excerpt(self.line(place.line))
    }

    fn line(&self, line: u32) -> &'a str {
        let index = line.saturating_sub(1) as usize;
        let Some(&start) = self.starts.get(index) else {
            return "";
        };
        let end = self
            .starts
            .get(index + 1)
            .copied()
            .unwrap_or(self.text.len());
        self.text.get(start..end).unwrap_or("")
    }

    fn position(&self, offset: usize) -> (u32, u32) {
        let offset = floor_char(self.text, offset);
        let line = self.starts.partition_point(|&start| start <= offset).max(1) - 1;
        let start = self.starts.get(line).copied().unwrap_or(0);
        let column = self
            .text
            .get(start..offset)
            .map_or(0, |before| before.chars().count());
        (to_u32(line + 1), to_u32(column + 1))
    }
}

fn floor_char(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        let lines = Lines::new("aé\r\nb\rc\nd");
        assert_eq!(
            lines.place(0, 3),
            Place {
                line: 1,
                column: 1,
                end_line: 1,
                end_column: 3
            }
        );
        assert_eq!(lines.place(5, 6).line, 2);
        assert_eq!(lines.place(7, 8).line, 3);
        assert_eq!(
            lines.place(9, 10),
            Place {
                line: 4,
                column: 1,
                end_line: 4,
                end_column: 2
            }
        );
        assert_eq!(lines.line(1), "aé\r\n");
        assert_eq!(lines.line(99), "");
    }

    #[test]
    fn what_lies_outside_or_inside_a_character_is_moved() {
        let lines = Lines::new("é");
        assert_eq!(
            lines.place(1, 99),
            Place {
                line: 1,
                column: 1,
                end_line: 1,
                end_column: 2
            }
        );
        assert_eq!(Lines::new("").place(4, 2).line, 1);
    }
}
