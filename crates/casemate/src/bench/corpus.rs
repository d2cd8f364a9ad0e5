//! Rows of public program collections, and the program each makes.
//!
//! The collections are not part of this project: their licences are their own. A row carries `code` and,
//! by its set, `test`, `solution` or `harness`; how they become one program is that set's own custom.

use std::fmt;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// A collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    HumanEval,
    Mbpp,
    ClassEval,
    BigCodeBench,
    Ds1000,
}

pub(crate) const SETS: [Set; 5] = [
    Set::HumanEval,
    Set::Mbpp,
    Set::ClassEval,
    Set::BigCodeBench,
    Set::Ds1000,
];

/// A row as it lies in the file; other fields are of no interest here.
#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    code: String,
    #[serde(default)]
    test: String,
    #[serde(default)]
    solution: String,
    #[serde(default)]
    harness: String,
    #[serde(default)]
    category: String,
}

/// A program that ends well when its tests pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    /// The row's own name.
    pub(crate) id: String,
    pub(crate) group: Group,
    pub(crate) source: String,
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Group {
    /// The set, and for sets of many kinds the kind.
    pub(crate) name: String,
    /// Whether the promise covers it. Rows that need the network, processes or a real file system are
    /// run and shown, and promise nothing.
    pub(crate) promised: bool,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HumanEval => "humaneval",
            Self::Mbpp => "mbpp",
            Self::ClassEval => "classeval",
            Self::BigCodeBench => "bigcodebench",
            Self::Ds1000 => "ds1000",
        })
    }
}

impl Set {
    /// Its rows as programs; none when its file is not in the folder.
    ///
    /// # Errors
    /// A file that cannot be read, and the first line that is not a row, by its number.
    pub(crate) fn cases(self, dir: &Path) -> anyhow::Result<Option<Vec<Case>>> {
        let path = dir.join(format!("{self}.jsonl"));
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("reading {}", path.display()))?,
        };
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(index, line)| {
                let row = serde_json::from_str(line).with_context(|| {
                    format!("{}, line {}: not a row", path.display(), index + 1)
                })?;
                Ok(self.case(row))
            })
            .collect::<anyhow::Result<_>>()
            .map(Some)
    }

    fn case(self, row: Row) -> Case {
        let source = match self {
            Self::HumanEval | Self::Mbpp | Self::ClassEval | Self::BigCodeBench => {
                with_test(&row.code, &row.test)
            }
            Self::Ds1000 => with_harness(&row.harness, &row.solution),
        };
        Case {
            id: row.id,
            group: self.group(&row.category),
            source,
        }
    }

    fn group(self, category: &str) -> Group {
        match self {
            Self::BigCodeBench => Group {
                name: format!("{self} ({category})"),
                promised: matches!(category, "stdlib" | "data"),
            },
            _ => Group {
                name: self.to_string(),
                promised: true,
            },
        }
    }
}

/// The code, its test after it, and what runs a `unittest` where the test does not do that itself.
fn with_test(code: &str, test: &str) -> String {
    let mut source = format!("{code}\n{test}\n");
    if test.contains("unittest") && !test.contains("unittest.main") {
        source.push_str("\nimport unittest\nif __name__ == \"__main__\":\n    unittest.main()\n");
    }
    source
}

/// The harness, then its entry points over the solution's text. A JSON string is a Python literal.
fn with_harness(harness: &str, solution: &str) -> String {
    let literal = serde_json::Value::from(solution);
    let mut source = format!("{harness}\n_solution = {literal}\ntest_execution(_solution)\n");
    if harness.contains("def test_string") {
        source.push_str("test_string(_solution)\n");
    }
    source
}

/// `count` of the cases, evenly spread; all of them when there are no more.
pub(crate) fn spread(cases: Vec<Case>, count: usize) -> Vec<Case> {
    let all = cases.len();
    let chosen = |index: usize| super::stats::due(index, count, all);
    cases
        .into_iter()
        .enumerate()
        .filter(|(index, _)| chosen(*index))
        .map(|(_, case)| case)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(set: Set, lines: &str) -> anyhow::Result<Option<Vec<Case>>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(format!("{set}.jsonl")), lines).unwrap();
        set.cases(dir.path())
    }

    fn one(set: Set, line: &str) -> Case {
        cases(set, line).unwrap().unwrap().remove(0)
    }

    #[test]
    fn a_test_follows_its_code() {
        let case = one(
            Set::Mbpp,
            r#"{"id":"m1","code":"def f(): return 1","test":"assert f() == 1","extra":[1]}"#,
        );
        assert_eq!(case.source, "def f(): return 1\nassert f() == 1\n");
        assert_eq!(
            (
                case.id.as_str(),
                case.group.name.as_str(),
                case.group.promised
            ),
            ("m1", "mbpp", true)
        );
    }

    #[test]
    fn a_unittest_is_run_once() {
        let tested = |test: &str| with_test("x = 1", test);
        assert!(
            tested("import unittest\nclass T(unittest.TestCase): pass")
                .ends_with("    unittest.main()\n")
        );
        assert_eq!(
            tested("import unittest\nunittest.main()")
                .matches("unittest.main()")
                .count(),
            1
        );
        assert!(!tested("assert x").contains("unittest"));
    }

    #[test]
    fn a_harness_gets_the_solution_as_text() {
        let line = r#"{"id":"d","code":"","solution":"r = \"é\\n\"\n","harness":"def test_execution(s): pass\ndef test_string(s): pass"}"#;
        let source = one(Set::Ds1000, line).source;
        assert!(
            source.contains("\n_solution = \"r = \\\"é\\\\n\\\"\\n\"\n"),
            "{source}"
        );
        assert!(source.ends_with("test_execution(_solution)\ntest_string(_solution)\n"));
    }

    #[test]
    fn kinds_that_need_the_outside_promise_nothing() {
        let promised = |kind: &str| Set::BigCodeBench.group(kind).promised;
        assert_eq!(
            ["stdlib", "data", "filesystem", "net", "process", ""].map(promised),
            [true, true, false, false, false, false]
        );
    }

    #[test]
    fn what_is_absent_or_broken_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Set::HumanEval.cases(dir.path()).unwrap(), None);
        let error =
            cases(Set::HumanEval, "{\"id\":\"a\",\"code\":\"\"}\n\n{\"id\":1}").unwrap_err();
        assert!(error.to_string().contains("line 3"), "{error:#}");
    }

    #[test]
    fn a_sample_is_spread() {
        let case = |id: usize| Case {
            id: id.to_string(),
            group: Set::Mbpp.group(""),
            source: String::new(),
        };
        let ids = |count| {
            spread((0..10).map(case).collect(), count)
                .into_iter()
                .map(|case| case.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(2), ["4", "9"]);
        assert_eq!(ids(99).len(), 10);
        assert!(ids(0).is_empty());
    }
}
