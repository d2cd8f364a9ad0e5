//! Programs with the verdict they should get.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// What a program is in a corpus for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Malicious: it must be refused.
    ShouldFlag,
    /// Honest: it must not be refused.
    MustNotFlag,
    /// Honest, and it works on files.
    FileHandling,
    /// Honest, and it needs a network or processes: it should be confined.
    CapabilityOnly,
}

impl Class {
    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShouldFlag => "should flag",
            Self::MustNotFlag => "must not flag",
            Self::FileHandling => "file handling",
            Self::CapabilityOnly => "capability only",
        }
    }
}

/// One program.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name in its set.
    pub id: String,
    /// The set: the name of the file without its ending.
    pub set: String,
    /// Its text.
    pub code: String,
    /// What it is for.
    pub class: Class,
}

/// A corpus that cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// The folder or a file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not a JSON object of this form.
    #[error("{path}, line {line}: {source}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// There is no program in it.
    #[error(
        "no program with a `screen` of should_flag, must_not_flag or capability_only is in {0}; name a folder of .jsonl files"
    )]
    Empty(PathBuf),
}

#[derive(Deserialize)]
struct Line {
    id: String,
    #[serde(default)]
    code: String,
    language: Option<String>,
    screen: Option<String>,
    #[serde(default)]
    category: String,
}

/// Reads the `.jsonl` files of a folder, in the order of their names.
///
/// # Errors
/// [`CorpusError`] for what cannot be read, and for a folder without programs.
pub fn read(folder: &Path) -> Result<Vec<Row>, CorpusError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| CorpusError::Io { path, source }
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        let path = entry.map_err(io(folder))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            files.push(path);
        }
    }
    files.sort();
    let mut rows = Vec::new();
    for path in &files {
        let text = std::fs::read_to_string(path).map_err(io(path))?;
        let set = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        for (index, line) in text.lines().enumerate() {
            let line: Line = serde_json::from_str(line).map_err(|source| CorpusError::Line {
                path: path.clone(),
                line: index + 1,
                source,
            })?;
            rows.extend(row(line, &set));
        }
    }
    if rows.is_empty() {
        return Err(CorpusError::Empty(folder.to_owned()));
    }
    Ok(rows)
}

fn row(line: Line, set: &str) -> Option<Row> {
    if line.language.as_deref() != Some("python") {
        return None;
    }
    let class = match line.screen.as_deref()? {
        "should_flag" => Class::ShouldFlag,
        "must_not_flag" if line.category == "filesystem" => Class::FileHandling,
        "must_not_flag" => Class::MustNotFlag,
        "capability_only" => Class::CapabilityOnly,
        _ => return None,
    };
    Some(Row {
        id: line.id,
        set: set.to_owned(),
        code: line.code,
        class,
    })
}
