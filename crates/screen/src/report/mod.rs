//! Reports for people and programs. Pure functions: screenings in, text out.

mod jsonl;
mod sarif;
mod text;

use casemate_model::screening::Screening;

pub use jsonl::{SCHEMA, jsonl, jsonl_line};
pub use sarif::sarif;
pub use text::{Style, text};

/// The screening of one file, and what to call the file.
#[derive(Debug, Clone)]
pub struct Scanned<'a> {
    /// The path as the user gave it.
    pub path: &'a str,
    /// What screening said.
    pub screening: &'a Screening,
}

#[cfg(test)]
mod tests {
    use casemate_model::job::Language;

    use super::*;
    use crate::{ScreenConfig, Source, screen};

    pub(crate) const PROGRAMS: &[(&str, &str)] = &[
        (
            "clean.py",
            "import pandas as pd\nprint(pd.read_csv('/data/sales.csv').describe())\n",
        ),
        (
            "net.py",
            "import requests as r\nprint(r.get('https://api.example/v1', timeout=5).json())  # noqa\n",
        ),
        (
            "bad.py",
            "from os import system as run\n\n\ndef go(p='/etc/shadow'):\n    run('rm -rf /')\n    open(p)\n",
        ),
    ];

    fn reported(report: impl Fn(&[Scanned<'_>]) -> String) -> String {
        let screenings: Vec<(&str, Screening)> = PROGRAMS
            .iter()
            .map(|(name, source)| {
                let source = Source {
                    bytes: source.as_bytes(),
                    language: Language::Python,
                    name,
                };
                (
                    *name,
                    Screening {
                        took_us: 0,
                        ..screen(&source, &ScreenConfig::default())
                    },
                )
            })
            .collect();
        let scanned: Vec<_> = screenings
            .iter()
            .map(|(path, screening)| Scanned { path, screening })
            .collect();
        report(&scanned)
    }

    #[test]
    fn the_form_of_jsonl_is_pinned() {
        insta::assert_snapshot!(reported(jsonl));
    }

    #[test]
    fn the_form_of_sarif_is_pinned() {
        insta::assert_snapshot!(reported(sarif));
    }

    #[test]
    fn the_form_of_text_is_pinned() {
        insta::assert_snapshot!(reported(|scanned| text(scanned, Style::Plain)));
    }

    #[test]
    fn names_and_messages_cannot_steer_a_terminal() {
        let source = Source {
            bytes: b"open('/etc/shadow\x1b[2J')",
            language: Language::Python,
            name: "a",
        };
        let screening = screen(&source, &ScreenConfig::default());
        let scanned = [Scanned {
            path: "a\u{1b}[31m.py\n",
            screening: &screening,
        }];
        assert!(!text(&scanned, Style::Plain).contains('\u{1b}'));
        assert_eq!(jsonl(&scanned).matches('\n').count(), 1);
    }
}
