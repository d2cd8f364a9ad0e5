//! What was asked of the kernel, and what it gave.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One step of putting up a wall. A list of them is the evidence for a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The wall's fixed name, such as `seccomp` or `cgroup_memory`.
    pub wall: Cow<'static, str>,
    /// What was asked, in a few words.
    pub asked: String,
    /// How the wall stands, or what is missing and why.
    pub got: Result<String, String>,
    /// How long it took. Not part of the serialised form, so that evidence is reproducible.
    #[serde(skip)]
    pub took: Duration,
}

impl Step {
    /// Runs one step and records its answer and its time.
    pub fn run(
        wall: &'static str,
        asked: impl Into<String>,
        action: impl FnOnce() -> Result<String, String>,
    ) -> Self {
        let begun = Instant::now();
        let got = action();
        Self {
            wall: Cow::Borrowed(wall),
            asked: asked.into(),
            got,
            took: begun.elapsed(),
        }
    }

    /// A step that could not even be tried.
    pub fn missing(wall: &'static str, asked: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            wall: Cow::Borrowed(wall),
            asked: asked.into(),
            got: Err(why.into()),
            took: Duration::ZERO,
        }
    }

    /// Whether the wall stands.
    #[must_use]
    pub const fn stands(&self) -> bool {
        self.got.is_ok()
    }
}

/// Turns a failed system call into the sentence a step carries.
pub(crate) fn failed(call: &str, error: impl Into<std::io::Error>) -> String {
    format!("{call}: {}", plain(&error.into()))
}

/// The system's words for an error, without the number in parentheses and without a capital.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}
