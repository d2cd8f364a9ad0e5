//! The lines that a unified diff adds or changes.

use std::collections::{HashMap, HashSet};

use casemate_model::finding::Finding;

/// Changed lines by path, as the diff names the new files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes(HashMap<String, HashSet<u32>>);

impl Changes {
    /// Reads a unified diff. Text around it is left out.
    pub(crate) fn of(diff: &str) -> Self {
        let mut changes = Self::default();
        let mut path: Option<String> = None;
        // Lines of the hunk that are still to come, old and new, and the number of the next new line.
        let (mut old, mut new, mut line) = (0_u32, 0_u32, 0_u32);
        for text in diff.lines() {
            if old == 0 && new == 0 {
                if let Some(name) = text.strip_prefix("+++ ") {
                    let name = name.split('\t').next().unwrap_or(name).trim();
                    path = (name != "/dev/null")
                        .then(|| name.strip_prefix("b/").unwrap_or(name).to_owned());
                } else if let Some(hunk) = text.strip_prefix("@@ ") {
                    (old, new, line) = hunk_of(hunk).unwrap_or_default();
                }
                continue;
            }
            match text.as_bytes().first() {
                Some(b'+') => {
                    if let Some(path) = &path {
                        changes.0.entry(path.clone()).or_default().insert(line);
                    }
                    (new, line) = (new.saturating_sub(1), line.saturating_add(1));
                }
                Some(b'-') => old = old.saturating_sub(1),
                Some(b'\\') => {}
                _ => {
                    (old, new) = (old.saturating_sub(1), new.saturating_sub(1));
                    line = line.saturating_add(1);
                }
            }
        }
        changes
    }

    /// The changed lines of a file: by its path, or by the end of it.
    pub(crate) fn lines(&self, path: &str) -> Option<&HashSet<u32>> {
        let path = path.strip_prefix("./").unwrap_or(path);
        self.0.get(path).or_else(|| {
            let ends = |name: &str| {
                path.strip_suffix(name)
                    .is_some_and(|head| head.ends_with('/'))
            };
            self.0
                .iter()
                .find(|(name, _)| ends(name))
                .map(|(_, lines)| lines)
        })
    }

    /// Whether a finding stands on a changed line; one without a place is about the whole file.
    pub(crate) fn touch(&self, path: &str, finding: &Finding) -> bool {
        let Some(lines) = self.lines(path) else {
            return false;
        };
        finding.place.is_none_or(|place| {
            lines
                .iter()
                .any(|line| (place.line..=place.end_line).contains(line))
        })
    }

    /// Whether nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `-1,2 +3,4 @@`: how many old and new lines, and the first new one.
fn hunk_of(hunk: &str) -> Option<(u32, u32, u32)> {
    let mut parts = hunk.split(' ');
    let range = |part: &str, sign: char| {
        let part = part.strip_prefix(sign)?;
        let (start, count) = part.split_once(',').unwrap_or((part, "1"));
        Some((start.parse::<u32>().ok()?, count.parse::<u32>().ok()?))
    };
    let (_, old) = range(parts.next()?, '-')?;
    let (start, new) = range(parts.next()?, '+')?;
    Some((old, new, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,4 @@\n a\n-b\n+B\n+C\n d\n@@ -9 +10 @@ def f\n-old\n+++ new\n\\ No newline at end of file\n--- a/gone.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n";

    #[test]
    fn added_lines_are_counted_in_the_new_file() {
        let changes = Changes::of(DIFF);
        let mut lines: Vec<u32> = changes.lines("./x.py").unwrap().iter().copied().collect();
        lines.sort_unstable();
        assert_eq!(lines, [2, 3, 10]);
        assert!(changes.lines("/home/ann/project/x.py").is_some());
        assert!(changes.lines("gone.py").is_none() && changes.lines("ax.py").is_none());
    }

    #[test]
    fn what_is_no_diff_changes_nothing() {
        for text in [
            "",
            "hello",
            "@@ x",
            "+++ b/x.py\n@@ -1,2 +99999999999,1 @@\n+x",
        ] {
            assert!(Changes::of(text).is_empty(), "{text:?}");
        }
    }
}
