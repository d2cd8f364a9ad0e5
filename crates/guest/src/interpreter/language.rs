//! The languages of contexts.

use std::path::{Path, PathBuf};

use crate::agent::PATH;
use crate::config::Config;

/// A language that contexts can have here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Language {
    Python,
    Bash,
    JavaScript,
    TypeScript,
}

impl Language {
    /// Those whose default context a list shows before anybody used it.
    pub(super) const FROM_THE_BEGINNING: [Self; 2] = [Self::Python, Self::JavaScript];

    /// The language with this name; Python where there is none.
    pub(super) fn of(name: Option<&str>) -> Result<Self, String> {
        let name = name.unwrap_or_default().trim().to_ascii_lowercase();
        match name.as_str() {
            "" | "python" => Ok(Self::Python),
            "bash" => Ok(Self::Bash),
            "javascript" | "js" => Ok(Self::JavaScript),
            "typescript" | "ts" => Ok(Self::TypeScript),
            other => Err(format!(
                "there is no context for the language {other:?} here; there is one for python, bash, javascript and typescript"
            )),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Bash => "bash",
            Self::JavaScript => "javascript",
            Self::TypeScript => "typescript",
        }
    }

    /// Whether its interpreter is there.
    pub(super) fn is_there(self, config: &Config) -> bool {
        match self {
            Self::Python => path_of(&config.python).is_some(),
            Self::Bash => path_of(Path::new("bash")).is_some(),
            Self::JavaScript | Self::TypeScript => path_of(&config.deno).is_some(),
        }
    }

    /// Whether its interpreter is a Jupyter kernel.
    pub(super) const fn has_kernel(self) -> bool {
        matches!(self, Self::JavaScript | Self::TypeScript)
    }
}

/// Where a program lies that is named by its path or found in `PATH`.
pub(super) fn path_of(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    PATH.split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_in_any_case() {
        assert_eq!(Language::of(None), Ok(Language::Python));
        assert_eq!(Language::of(Some("  ")), Ok(Language::Python));
        assert_eq!(Language::of(Some(" Bash ")), Ok(Language::Bash));
        assert_eq!(Language::of(Some("JS")), Ok(Language::JavaScript));
        assert_eq!(Language::of(Some("ts")), Ok(Language::TypeScript));
        assert!(Language::of(Some("cobol")).unwrap_err().contains("cobol"));
    }
}
