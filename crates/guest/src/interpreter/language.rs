//! The languages of contexts.

use std::path::Path;

use crate::agent::PATH;
use crate::config::Config;

/// A language that contexts can have here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Language {
    Python,
    Bash,
}

impl Language {
    /// Those whose default context a list shows before anybody used it.
    pub(super) const FROM_THE_BEGINNING: [Self; 1] = [Self::Python];

    /// The language with this name; Python where there is none.
    pub(super) fn of(name: Option<&str>) -> Result<Self, String> {
        let name = name.unwrap_or_default().trim().to_ascii_lowercase();
        match name.as_str() {
            "" | "python" => Ok(Self::Python),
            "bash" => Ok(Self::Bash),
            other => Err(format!(
                "there is no context for the language {other:?} here; there is one for python and for bash"
            )),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Bash => "bash",
        }
    }

    /// Whether its interpreter is there.
    pub(super) fn is_there(self, config: &Config) -> bool {
        match self {
            Self::Python => found(&config.python),
            Self::Bash => found(Path::new("bash")),
        }
    }
}

fn found(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    PATH.split(':')
        .any(|folder| Path::new(folder).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_in_any_case() {
        assert_eq!(Language::of(None), Ok(Language::Python));
        assert_eq!(Language::of(Some("  ")), Ok(Language::Python));
        assert_eq!(Language::of(Some(" Bash ")), Ok(Language::Bash));
        assert!(Language::of(Some("cobol")).unwrap_err().contains("cobol"));
    }
}
