//! The code interpreter: `/execute`, whose answer is lines of JSON, and `/contexts`.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

/// Request of `POST /execute`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecuteRequest {
    /// The code.
    pub code: String,
    /// Where it runs; the default context of the language where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_id: Option<String>,
    /// The language, where no context is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Environment variables for this execution only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
}

/// Request of `POST /contexts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextRequest {
    /// The language: `python` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The working folder: the user's home where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// A context: a long-lived interpreter with a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Its name.
    pub id: String,
    /// Its language.
    pub language: String,
    /// Where it began.
    pub cwd: String,
}

/// One displayed result. A form that is not there is absent on the wire.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Shown {
    /// Whether it is the value of the last expression.
    pub is_main_result: bool,
    /// `text/plain`, without the quotes around a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// `text/html`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// `text/markdown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub markdown: Option<String>,
    /// `image/svg+xml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svg: Option<String>,
    /// `image/png`, as base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub png: Option<String>,
    /// `image/jpeg`, as base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jpeg: Option<String>,
    /// `application/pdf`, as base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pdf: Option<String>,
    /// `text/latex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latex: Option<String>,
    /// `application/json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Box<RawValue>>,
    /// `application/javascript`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub javascript: Option<String>,
    /// A data frame: its columns and their values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// A chart as data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chart: Option<Box<RawValue>>,
    /// Other media types and their contents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Box<RawValue>>,
}

/// One line of an execution.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// How many executions the context has had, this one included. The first line.
    NumberOfExecutions {
        /// Counted from 1.
        execution_count: u64,
    },
    /// The code wrote to standard output.
    Stdout {
        /// What.
        text: String,
        /// When, as an RFC 3339 time.
        timestamp: String,
    },
    /// The code wrote to standard error.
    Stderr {
        /// What.
        text: String,
        /// When, as an RFC 3339 time.
        timestamp: String,
    },
    /// The code showed something.
    Result(Shown),
    /// The code ended on an error.
    Error {
        /// The error's class.
        name: String,
        /// Its text.
        value: String,
        /// Where it came from.
        traceback: String,
    },
    /// Nothing; it still runs.
    Keepalive,
    /// The last line.
    EndOfExecution,
    /// Something that this version has no word for.
    Unknown,
}

#[derive(Deserialize)]
struct Kind {
    r#type: String,
}

#[derive(Deserialize)]
struct Count {
    execution_count: u64,
}

#[derive(Deserialize)]
struct Written {
    text: String,
    #[serde(default)]
    timestamp: String,
}

#[derive(Deserialize)]
struct Failed {
    name: String,
    value: String,
    traceback: String,
}

/// What is wrong with the lines of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadLine {
    /// A line longer than lines may be.
    #[error("a line of more than {0} bytes")]
    TooLong(usize),
    /// Not a line of this protocol.
    #[error("not a line of an execution: {0}")]
    Malformed(String),
}

impl Line {
    /// Reads one line, without its end.
    ///
    /// # Errors
    /// When it is not such a line.
    pub fn read(bytes: &[u8]) -> Result<Self, BadLine> {
        // Twice over the bytes, so that nothing is held twice and the JSON of a guest stays text.
        let kind: Kind = parse(bytes)?;
        Ok(match kind.r#type.as_str() {
            "number_of_executions" => {
                let Count { execution_count } = parse(bytes)?;
                Self::NumberOfExecutions { execution_count }
            }
            "stdout" => {
                let Written { text, timestamp } = parse(bytes)?;
                Self::Stdout { text, timestamp }
            }
            "stderr" => {
                let Written { text, timestamp } = parse(bytes)?;
                Self::Stderr { text, timestamp }
            }
            "result" => Self::Result(parse(bytes)?),
            "error" => {
                let Failed {
                    name,
                    value,
                    traceback,
                } = parse(bytes)?;
                Self::Error {
                    name,
                    value,
                    traceback,
                }
            }
            "keepalive" => Self::Keepalive,
            "end_of_execution" => Self::EndOfExecution,
            _ => Self::Unknown,
        })
    }

    /// The line with its end, for the wire. JSON has no line ends in it.
    #[must_use]
    pub fn write(&self) -> Bytes {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes.into()
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BadLine> {
    serde_json::from_slice(bytes).map_err(|error| BadLine::Malformed(error.to_string()))
}

/// Cuts bytes into lines as they come. Holds at most one line beyond what was pushed last.
#[derive(Debug)]
pub struct Lines {
    buffer: BytesMut,
    /// Bytes at the beginning of the buffer that are known to have no line end.
    searched: usize,
    max: usize,
}

impl Lines {
    /// Of lines that have at most so many bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            max,
        }
    }

    /// Takes bytes. Call [`next`](Self::next) until it has nothing more before pushing again.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its end. Empty ones are left out.
    ///
    /// # Errors
    /// When it is too long; then there is no next one.
    #[allow(
        clippy::should_implement_trait,
        reason = "it is not an iterator: nothing now can be followed by more later"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, BadLine> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(found) = rest.iter().position(|&byte| byte == b'\n') else {
                self.searched = self.buffer.len();
                let fits = self.buffer.len() <= self.max;
                return fits.then_some(None).ok_or(BadLine::TooLong(self.max));
            };
            let end = self.searched + found;
            if end > self.max {
                return Err(BadLine::TooLong(self.max));
            }
            let line = self.buffer.split_to(end).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(line: &Line) -> String {
        String::from_utf8(line.write().to_vec()).unwrap()
    }

    #[test]
    fn lines_are_written_as_sdks_read_them() {
        let line = Line::NumberOfExecutions { execution_count: 1 };
        assert_eq!(
            written(&line),
            "{\"type\":\"number_of_executions\",\"execution_count\":1}\n"
        );
        assert_eq!(written(&Line::Keepalive), "{\"type\":\"keepalive\"}\n");
        let shown = Shown {
            is_main_result: true,
            text: Some("a\nb".into()),
            json: Some(RawValue::from_string("[1]".into()).unwrap()),
            ..Shown::default()
        };
        assert_eq!(
            written(&Line::Result(shown)),
            "{\"type\":\"result\",\"is_main_result\":true,\"text\":\"a\\nb\",\"json\":[1]}\n"
        );
    }

    #[test]
    fn lines_are_read_whatever_is_in_them() {
        let text = r#"{"type":"result","is_main_result":false,"png":"aGk=","chart":{"type":"line","n":[1,2]},"new":[]}"#;
        let Line::Result(shown) = Line::read(text.as_bytes()).unwrap() else {
            panic!()
        };
        assert_eq!(shown.chart.unwrap().get(), r#"{"type":"line","n":[1,2]}"#);
        assert_eq!(shown.png.as_deref(), Some("aGk="));
        let told = Line::read(br#"{"type":"tomorrow","text":[[]]}"#).unwrap();
        assert!(matches!(told, Line::Unknown));
        for wrong in [
            r#"{"type":"stdout","text":7}"#,
            r#"{"type":"result","png":7}"#,
            r#"{"type":7}"#,
            r#"{"text":"x"}"#,
            "[]",
            "null",
        ] {
            assert!(Line::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_are_cut_wherever_the_bytes_were() {
        let bytes = b"one\n\n  \ntwo\nthree";
        for step in 1..=bytes.len() {
            let mut lines = Lines::new(8);
            let mut seen = Vec::new();
            for part in bytes.chunks(step) {
                lines.push(part);
                while let Some(line) = lines.next().unwrap() {
                    seen.push(line);
                }
            }
            assert_eq!(seen, [&b"one"[..], b"two"]);
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let mut lines = Lines::new(8);
        lines.push(b"123456789");
        assert_eq!(lines.next(), Err(BadLine::TooLong(8)));
        let mut lines = Lines::new(8);
        lines.push(b"123456789\n");
        assert_eq!(lines.next(), Err(BadLine::TooLong(8)));
    }
}
