//! Results: what a program displayed and the files it left.

use base64::Engine as _;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

/// Where a displayed result came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The value of the last expression.
    Expression,
    /// A call of `display()`.
    Display,
    /// A figure shown, or open at the end.
    Figure,
}

/// One form of a displayed result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Representation {
    /// The media type, such as `image/png`.
    pub mime: String,
    /// The content as the guest sent it: hostile bytes.
    pub content: Vec<u8>,
}

impl Representation {
    /// The content as text where the media type is a text and the bytes are UTF-8.
    pub fn text(&self) -> Option<&str> {
        let textual = self.mime.starts_with("text/")
            || self.mime.ends_with("json")
            || self.mime == "image/svg+xml"
            || self.mime == "application/javascript";
        if textual {
            std::str::from_utf8(&self.content).ok()
        } else {
            None
        }
    }
}

impl Serialize for Representation {
    /// JSON media types become JSON, texts a `text`, everything else `base64`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Representation", 3)?;
        out.serialize_field("mime", &self.mime)?;
        out.serialize_field("size_bytes", &self.content.len())?;
        let json = self
            .mime
            .ends_with("json")
            .then(|| serde_json::from_slice::<serde_json::Value>(&self.content));
        match (json, self.text()) {
            (Some(Ok(value)), _) => out.serialize_field("json", &value)?,
            (_, Some(text)) => out.serialize_field("text", text)?,
            _ => out.serialize_field("base64", &base64(&self.content))?,
        }
        out.end()
    }
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// One displayed result, in each form the guest made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Displayed {
    /// Where it came from.
    pub origin: Origin,
    /// Its forms, the plainest first.
    pub representations: Vec<Representation>,
}

impl Displayed {
    /// The form with this media type.
    pub fn form(&self, mime: &str) -> Option<&Representation> {
        self.representations.iter().find(|form| form.mime == mime)
    }
}

/// The error that ended a program, as the guest told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramError {
    /// The exception's class.
    pub name: String,
    /// Its text.
    pub value: String,
    /// The traceback, the program's own frames only.
    pub traceback: String,
    /// The line in the program, counted from 1.
    pub line: Option<u32>,
}

/// A file the program left, with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The path in the guest, such as `/tmp/chart.png`.
    pub path: String,
    /// The content.
    pub bytes: Vec<u8>,
}
