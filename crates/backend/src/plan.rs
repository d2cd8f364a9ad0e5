//! The plan: everything a backend needs to know, as data that can be printed and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use casemate_model::guarantee::Guarantees;
use casemate_model::job::{ImageChoice, Language, TenantId};
use casemate_model::limit::Limits;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// A file that will be in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its path in the guest.
    pub path: String,
    /// Its content.
    pub bytes: Arc<[u8]>,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

impl Serialize for PlannedFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("PlannedFile", 3)?;
        out.serialize_field("path", &self.path)?;
        out.serialize_field("size_bytes", &self.bytes.len())?;
        out.serialize_field("sha256", &self.sha256)?;
        out.end()
    }
}

/// What runs the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Our driver in the guest's Python, which shows results and reports what the program does.
    #[default]
    Driver,
    /// The language's interpreter, given the program's file.
    Plain,
}

/// In what a program is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// Its language.
    pub language: Language,
    /// What runs it.
    pub start: Start,
    /// The system it is shown.
    pub image: ImageChoice,
}

impl Guest {
    /// A program of a language on a system: Python by our driver, the others by their interpreter.
    #[must_use]
    pub fn new(language: Language, image: ImageChoice) -> Self {
        let start = match language {
            Language::Python => Start::Driver,
            _ => Start::Plain,
        };
        Self {
            language,
            start,
            image,
        }
    }

    /// Whether a guest that has our driver in a Python of its own, and nothing else, will do.
    ///
    /// # Errors
    /// What it cannot do, in words.
    pub fn only_python(&self) -> Result<(), String> {
        if self.language != Language::Python || self.start != Start::Driver {
            return Err(format!(
                "its guest runs Python and nothing else, not {}",
                self.language
            ));
        }
        if !self.image.is_any() {
            return Err(
                "its guest is its own; it takes no image and no virtual environment".to_owned(),
            );
        }
        Ok(())
    }
}

/// What a backend is to build and run. Made by the engine; pure data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The run.
    pub run: String,
    /// Whom the run belongs to.
    pub tenant: TenantId,
    /// The program, at `/work/NAME`; its source is UTF-8 because screening has seen it.
    pub program: PlannedFile,
    /// In what it is run.
    pub guest: Guest,
    /// The modules at the top that the program's text shows it loads; none where it may load others. What is read from
    /// a program may be wrong: it may decide what is ready for it, and nothing else.
    pub loads: Option<BTreeSet<String>>,
    /// `sys.argv`, the program's name first.
    pub argv: Vec<String>,
    /// Environment variables beyond those the interpreter needs.
    pub env: BTreeMap<String, String>,
    /// Inputs, read-only.
    pub inputs: Vec<PlannedFile>,
    /// Standard input.
    #[serde(serialize_with = "length_only", rename = "stdin_bytes")]
    pub stdin: Arc<[u8]>,
    /// Ceilings.
    pub limits: Limits,
    /// How fine the guest's clocks are.
    #[serde(with = "casemate_model::unit::millis", rename = "clock_granularity_ms")]
    pub clock_granularity: Duration,
    /// The walls that must stand.
    pub asked: Guarantees,
}

fn length_only<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(bytes.len() as u64)
}
