//! What a word or a variable can stand for: a few texts, and where they come from.

use crate::gaps::GAP;

/// The most texts that one value holds. What is more is not known.
pub(super) const MAX_TEXTS: usize = 8;
/// The longest text that is put together.
pub(super) const MAX_TEXT: usize = 64 * 1024;

/// Where a text comes from, as bits.
pub(super) type Taint = u8;
/// Another machine.
pub(super) const NET: Taint = 1;
/// Something that was packed or turned around.
pub(super) const DECODED: Taint = 2;
/// A file.
pub(super) const FILE: Taint = 4;
/// The environment.
pub(super) const ENV: Taint = 8;

/// A few texts, with [`GAP`] for what is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) texts: Vec<String>,
    pub(super) taint: Taint,
}

impl Value {
    pub(super) fn of(text: impl Into<String>) -> Self {
        Self {
            texts: vec![text.into()],
            taint: 0,
        }
    }

    pub(super) fn empty() -> Self {
        Self::of("")
    }

    pub(super) fn unknown(taint: Taint) -> Self {
        Self {
            texts: vec![GAP.to_owned()],
            taint,
        }
    }

    pub(super) fn tainted(mut self, taint: Taint) -> Self {
        self.taint |= taint;
        self
    }

    /// The texts of which everything is known.
    pub(super) fn known(&self) -> impl Iterator<Item = &String> {
        self.texts.iter().filter(|text| !text.contains(GAP))
    }

    pub(super) fn is_known(&self) -> bool {
        self.texts.iter().all(|text| !text.contains(GAP))
    }

    /// Adds the texts of another value.
    pub(super) fn or(&mut self, other: &Self) {
        self.taint |= other.taint;
        for text in &other.texts {
            if self.texts.contains(text) {
                continue;
            }
            if self.texts.len() < MAX_TEXTS {
                self.texts.push(text.clone());
            } else if !self.texts.iter().any(|text| text == GAP) {
                self.texts.push(GAP.to_owned());
            }
        }
    }

    /// Each text followed by each of another value's.
    pub(super) fn then(&self, other: &Self) -> Self {
        let mut texts: Vec<String> = Vec::new();
        let all = self
            .texts
            .iter()
            .flat_map(|a| other.texts.iter().map(move |b| (a, b)));
        for (first, second) in all.take(MAX_TEXTS) {
            let text = if first.len() + second.len() > MAX_TEXT {
                GAP.to_owned()
            } else {
                format!("{first}{second}")
            };
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        if self.texts.len().saturating_mul(other.texts.len()) > MAX_TEXTS {
            texts.push(GAP.to_owned());
        }
        Self {
            texts,
            taint: self.taint | other.taint,
        }
    }

    /// What a function makes of every text that is known; the others stay unknown.
    pub(super) fn map(&self, change: impl Fn(&str) -> Option<String>) -> Self {
        let mut value = Self {
            texts: Vec::new(),
            taint: self.taint,
        };
        for text in &self.texts {
            let made = if text.contains(GAP) {
                None
            } else {
                change(text)
            };
            let made = made.unwrap_or_else(|| GAP.to_owned());
            if !value.texts.contains(&made) {
                value.texts.push(made);
            }
        }
        value
    }
}

/// One word of a command after everything was put in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Field {
    pub(super) text: String,
    pub(super) taint: Taint,
    /// Whether a `*`, `?` or `[` in it is looked up among files.
    pub(super) glob: bool,
}

impl Field {
    pub(super) fn of(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    pub(super) fn is_known(&self) -> bool {
        !self.text.contains(GAP)
    }

    pub(super) fn value(&self) -> Value {
        Value::of(self.text.clone()).tainted(self.taint)
    }
}
