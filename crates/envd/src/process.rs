//! Messages of the service `process.Process`.
//!
//! What the protocol calls a `oneof` is here a message with optional fields: the bytes are the same, and a
//! sender that fills several, or none, is seen and refused by whoever reads them.

use std::collections::BTreeMap;

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::json::enumeration::Named;
use crate::json::{self, is_default};
use crate::shape::{Bounded, Shape};

/// The service's name in a path.
pub const SERVICE: &str = "process.Process";

/// What to start.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProcessConfig {
    /// A program, found as a shell finds it.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub cmd: String,
    /// Its arguments, without its own name.
    #[prost(string, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub args: Vec<String>,
    /// Environment variables beside those that every process has.
    #[prost(btree_map = "string, string", tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub envs: BTreeMap<String, String>,
    /// The working folder; the user's home where there is none.
    #[prost(string, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub cwd: Option<String>,
}

/// A running process.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProcessInfo {
    /// What was started.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub config: Option<ProcessConfig>,
    /// Its number in the sandbox.
    #[prost(uint32, tag = "2")]
    #[serde(with = "json::number", skip_serializing_if = "is_default")]
    pub pid: u32,
    /// The name it was given.
    #[prost(string, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub tag: Option<String>,
}

/// Request of `List`, and every other message without fields.
#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize, Deserialize)]
pub struct Empty {}

/// Response of `List`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListResponse {
    /// Those that run.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub processes: Vec<ProcessInfo>,
}

/// A terminal's size, in characters.
#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PtySize {
    /// Columns.
    #[prost(uint32, tag = "1")]
    #[serde(with = "json::number", skip_serializing_if = "is_default")]
    pub cols: u32,
    /// Rows.
    #[prost(uint32, tag = "2")]
    #[serde(with = "json::number", skip_serializing_if = "is_default")]
    pub rows: u32,
}

/// A terminal.
#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Pty {
    /// Its size.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub size: Option<PtySize>,
}

/// Request of `Start`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StartRequest {
    /// What to start.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub process: Option<ProcessConfig>,
    /// With a terminal.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub pty: Option<Pty>,
    /// A name to find it by.
    #[prost(string, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub tag: Option<String>,
    /// Whether it has a standard input. It has one where nothing is said.
    #[prost(bool, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub stdin: Option<bool>,
}

/// A process, by one of two names.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProcessSelector {
    /// Its number.
    #[prost(uint32, optional, tag = "1")]
    #[serde(with = "json::optional_number", skip_serializing_if = "is_default")]
    pub pid: Option<u32>,
    /// The name it was given.
    #[prost(string, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub tag: Option<String>,
}

impl ProcessSelector {
    /// The process with this number.
    #[must_use]
    pub const fn by_pid(pid: u32) -> Self {
        Self {
            pid: Some(pid),
            tag: None,
        }
    }

    /// The process with this name.
    #[must_use]
    pub fn by_tag(tag: impl Into<String>) -> Self {
        Self {
            pid: None,
            tag: Some(tag.into()),
        }
    }
}

/// Request of `Connect` and of `CloseStdin`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SelectRequest {
    /// Which process.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub process: Option<ProcessSelector>,
}

/// Request of `Update`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UpdateRequest {
    /// Which process.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub process: Option<ProcessSelector>,
    /// Its terminal's new size.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub pty: Option<Pty>,
}

/// Bytes for a process: one of the two.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProcessInput {
    /// For its standard input.
    #[prost(bytes = "vec", optional, tag = "1")]
    #[serde(with = "json::base64", skip_serializing_if = "is_default")]
    pub stdin: Option<Vec<u8>>,
    /// For its terminal.
    #[prost(bytes = "vec", optional, tag = "2")]
    #[serde(with = "json::base64", skip_serializing_if = "is_default")]
    pub pty: Option<Vec<u8>>,
}

/// Request of `SendInput`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SendInputRequest {
    /// Which process.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub process: Option<ProcessSelector>,
    /// What to send.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub input: Option<ProcessInput>,
}

/// One message of `StreamInput`: `start` first, then the others.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StreamInputRequest {
    /// Which process.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub start: Option<SelectRequest>,
    /// What to send.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub data: Option<StreamInputData>,
    /// Nothing, to show that the stream lives.
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub keepalive: Option<Empty>,
}

/// The data of `StreamInput`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StreamInputData {
    /// What to send.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub input: Option<ProcessInput>,
}

/// A signal that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Signal {
    /// None.
    Unspecified = 0,
    /// `SIGKILL`.
    Kill = 9,
    /// `SIGTERM`.
    Term = 15,
}

impl Named for Signal {
    fn name(&self) -> &'static str {
        match self {
            Self::Unspecified => "SIGNAL_UNSPECIFIED",
            Self::Kill => "SIGNAL_SIGKILL",
            Self::Term => "SIGNAL_SIGTERM",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::Unspecified, Self::Kill, Self::Term]
            .into_iter()
            .find(|signal| signal.name() == name)
    }
}

/// Request of `SendSignal`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SendSignalRequest {
    /// Which process.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub process: Option<ProcessSelector>,
    /// Which signal.
    #[prost(enumeration = "Signal", tag = "2")]
    #[serde(
        serialize_with = "json::enumeration::serialize::<_, Signal>",
        deserialize_with = "json::enumeration::deserialize::<_, Signal>",
        skip_serializing_if = "is_default"
    )]
    pub signal: i32,
}

/// One message of `Start` and of `Connect`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProcessResponse {
    /// What happened.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub event: Option<ProcessEvent>,
}

/// What happened to a process: one of the four.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProcessEvent {
    /// It runs.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub start: Option<StartEvent>,
    /// It wrote something.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub data: Option<DataEvent>,
    /// It has ended.
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub end: Option<EndEvent>,
    /// Nothing; it still runs.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub keepalive: Option<Empty>,
}

/// A process runs.
#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StartEvent {
    /// Its number.
    #[prost(uint32, tag = "1")]
    #[serde(with = "json::number", skip_serializing_if = "is_default")]
    pub pid: u32,
}

/// A process wrote something: one of the three.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DataEvent {
    /// To standard output.
    #[prost(bytes = "vec", optional, tag = "1")]
    #[serde(with = "json::base64", skip_serializing_if = "is_default")]
    pub stdout: Option<Vec<u8>>,
    /// To standard error.
    #[prost(bytes = "vec", optional, tag = "2")]
    #[serde(with = "json::base64", skip_serializing_if = "is_default")]
    pub stderr: Option<Vec<u8>>,
    /// To its terminal.
    #[prost(bytes = "vec", optional, tag = "3")]
    #[serde(with = "json::base64", skip_serializing_if = "is_default")]
    pub pty: Option<Vec<u8>>,
}

/// A process has ended.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndEvent {
    /// Its exit code; -1 where it has none.
    #[prost(sint32, tag = "1")]
    #[serde(
        with = "json::number",
        alias = "exit_code",
        skip_serializing_if = "is_default"
    )]
    pub exit_code: i32,
    /// Whether it ended by itself.
    #[prost(bool, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub exited: bool,
    /// How, in words: `exit status 0`, `signal: killed`.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub status: String,
    /// The same, where it was not a success.
    #[prost(string, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub error: Option<String>,
}

const CONFIG: Shape = Shape::new(&[(2, None), (3, None)]);
const INFO: Shape = Shape::new(&[(1, Some(&CONFIG))]);

impl Bounded for ListResponse {
    const SHAPE: Shape = Shape::new(&[(1, Some(&INFO))]);
}

impl Bounded for Empty {
    const SHAPE: Shape = Shape::new(&[]);
}

/// Its fields come once each, whatever they hold.
impl Bounded for ProcessResponse {
    const SHAPE: Shape = Shape::new(&[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;

    #[test]
    fn json_is_written_as_sdks_read_it() {
        let event = |event| ProcessResponse { event: Some(event) };
        let written = |message: &ProcessResponse| serde_json::to_string(message).unwrap();
        let start = event(ProcessEvent {
            start: Some(StartEvent { pid: 7 }),
            ..Default::default()
        });
        assert_eq!(written(&start), r#"{"event":{"start":{"pid":7}}}"#);
        let data = event(ProcessEvent {
            data: Some(DataEvent {
                stdout: Some(b"hi\xff".to_vec()),
                ..Default::default()
            }),
            ..Default::default()
        });
        assert_eq!(
            written(&data),
            r#"{"event":{"data":{"stdout":"aGn/"}}}"#,
            "bytes need not be a text"
        );
        let end = event(ProcessEvent {
            end: Some(EndEvent {
                exit_code: -1,
                status: "signal: killed".into(),
                error: Some("signal: killed".into()),
                ..Default::default()
            }),
            ..Default::default()
        });
        assert_eq!(
            written(&end),
            r#"{"event":{"end":{"exitCode":-1,"status":"signal: killed","error":"signal: killed"}}}"#
        );
        let alive = event(ProcessEvent {
            keepalive: Some(Empty {}),
            ..Default::default()
        });
        assert_eq!(written(&alive), r#"{"event":{"keepalive":{}}}"#);
    }

    #[test]
    fn json_is_read_as_sdks_write_it() {
        let text = r#"{"process":{"cmd":"/bin/bash","args":["-l","-c","ls"],"envs":{"A":"b"},"cwd":null},
            "pty":{"size":{"cols":"80","rows":24}},"stdin":false,"tag":null,"other":[1]}"#;
        let request: StartRequest = Codec::Json.decode_ours(text.as_bytes()).unwrap();
        let process = request.process.unwrap();
        assert_eq!((process.cwd, process.envs["A"].as_str()), (None, "b"));
        let size = request.pty.unwrap().size.unwrap();
        assert_eq!((size.cols, size.rows), (80, 24));
        assert_eq!((request.stdin, request.tag), (Some(false), None));
        for (signal, number) in [(r#""SIGNAL_SIGTERM""#, 15), ("9", 9)] {
            let text = format!(r#"{{"process":{{"pid":1}},"signal":{signal}}}"#);
            let request: SendSignalRequest = Codec::Json.decode_ours(text.as_bytes()).unwrap();
            assert_eq!(request.signal, number);
        }
        for wrong in [
            r#"{"process":{"pid":-1}}"#,
            r#"{"process":{"pid":4294967296}}"#,
            r#"{"process":7}"#,
            r#"{"signal":"SIGHUP"}"#,
            "[]",
            "",
        ] {
            assert!(
                Codec::Json
                    .decode_ours::<SendSignalRequest>(wrong.as_bytes())
                    .is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn bytes_come_in_every_form_of_base64() {
        for text in ["-_8=", "-_8", "+/8=", "+/8"] {
            let text = format!(r#"{{"stdin":"{text}"}}"#);
            let input: Result<ProcessInput, _> = Codec::Json.decode_ours(text.as_bytes());
            let padded_or_standard = !text.contains("-_8\"");
            assert_eq!(input.is_ok(), padded_or_standard, "{text}");
        }
    }
}
